"""Mesh, logical-axis rules, and the shardings of parameters, optimizer state and batches.

Parameters and activations name their axes logically; `RULES` maps a name to mesh axes. A mesh always has the axes data, fsdp and tensor (of size 1
where unused), so that nothing asks which kind of run this is.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")
RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "length": None,
    "hidden": None,  # the hidden axis of activations and of small parameters
    "embed": "fsdp",  # the hidden axis of matrices
    "heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
    "positions": None,
    "token_types": None,
    "classes": None,
    "layers": None,
}


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices; one size may be -1 and is inferred. ValueError names the sizes and the device count if they do not fit."""
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    unknown = [name for name, size in sizes.items() if size == -1]
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    if len(unknown) > 1 or known < 1 or any(size == 0 or size < -1 for size in sizes.values()):
        raise ValueError(f"mesh {sizes} is not usable: sizes are positive, and at most one is -1 (inferred)")
    if unknown:
        sizes[unknown[0]] = max(len(devices) // known, 1)
    if int(np.prod(list(sizes.values()))) != len(devices):
        raise ValueError(f"mesh {sizes} needs {int(np.prod(list(sizes.values())))} devices, but there are {len(devices)}")
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def partition_spec(axes: tuple[str, ...]) -> PartitionSpec:
    try:
        return PartitionSpec(*(RULES[axis] for axis in axes))
    except KeyError as error:
        raise ValueError(f"logical axis {error} has no rule; known: {', '.join(RULES)}") from None


def constrain(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Pins an activation's sharding under `jax.set_mesh`; without a mesh, returns it as it is."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, partition_spec(("batch",)))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def process_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Row indices of the global batch that this process's devices hold, ascending. ValueError if the batch does not divide over the mesh."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % shards:
        raise ValueError(f"batch_size {batch_size} does not divide over data x fsdp = {shards} devices; use a multiple of {shards}")
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows -> global arrays sharded over data x fsdp."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
