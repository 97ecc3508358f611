"""Mesh, logical-axis rules, and the shardings of parameters, optimizer state and batches.

Parameters and activations name their axes logically; `RULES` maps a name to mesh axes. A mesh always has the axes data, fsdp and tensor (of size 1
where unused), so that nothing asks which kind of run this is.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Tree = Any
MESH_AXES = ("data", "fsdp", "tensor")
RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "micro_batches": None,
    "length": None,
    "hidden": None,  # the hidden axis of activations and of small parameters
    "embed": "fsdp",  # the hidden axis of matrices
    "heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "gates": None,
    "taps": None,
    "narrow": None,  # the width of factorised embeddings
    "vocab": "tensor",
    "positions": None,
    "token_types": None,
    "classes": None,
    "layers": None,
    "rank": None,
    "adapter": None,
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
    # jax.make_mesh cuts a torus along whole physical axes only, so that data=32, tensor=2 would not fit a 4x4x4 slice.
    placed = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
    return Mesh(placed, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def partition_spec(axes: tuple[str, ...]) -> PartitionSpec:
    try:
        return PartitionSpec(*(RULES[axis] for axis in axes))
    except KeyError as error:
        raise ValueError(f"logical axis {error} has no rule; known: {', '.join(RULES)}") from None


def shard_over_data(sharding: NamedSharding, shape: tuple[int, ...]) -> NamedSharding:
    """ZeRO-1 (Rajbhandari et al. 2020, arXiv 1910.02054, section 5.1): what `data` replicates, cut over `data` too, for optimizer state and updates.

    The cut is along the first axis that no mesh axis cuts yet, or else the first that is cut already, if its pieces divide; an array with no such
    axis stays as it is. First, and not largest: a stack is cut between layers if it can be, so that what is computed per layer stays on one
    device, and the last axis, of which a TPU stores whole tiles of 128, comes last.
    """
    mesh, names = sharding.mesh, [*sharding.spec, *[None] * (len(shape) - len(sharding.spec))]
    cuts = [() if name is None else name if isinstance(name, tuple) else (name,) for name in names]
    pieces = [math.prod(mesh.shape[name] for name in cut) for cut in cuts]
    size = mesh.shape["data"]
    fitting = [axis for axis in range(len(shape)) if shape[axis] % (pieces[axis] * size) == 0]
    if size == 1 or not fitting:
        return sharding
    axis = min(fitting, key=lambda axis: (pieces[axis] > 1, axis))
    names[axis] = (*cuts[axis], "data") if cuts[axis] else "data"
    return NamedSharding(mesh, PartitionSpec(*names))


def constrain(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Pins an activation's sharding under `jax.set_mesh`; without a mesh, and where each device works by itself (`is_mapped`), returns it as it is."""
    if jax.sharding.get_abstract_mesh().empty or is_mapped():
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes))


def is_mapped() -> bool:
    """Whether this is traced for one device along `data` and its rows alone, by `over_data`."""
    return "data" in jax.sharding.get_abstract_mesh().manual_axes


def rows_before(rows: int) -> jax.Array | int:
    """The number in the whole batch of the first of these rows, of which every device has as many; 0 where the whole batch is at hand."""
    return jax.lax.axis_index("data") * rows if is_mapped() else 0


def all_rows(x: jax.Array) -> jax.Array:
    """[rows, ...] of one device -> those of all; x itself where the whole batch is at hand."""
    return jax.lax.all_gather(x, "data", tiled=True) if is_mapped() else x


def over_data(function: Callable, mesh: Mesh, sums: Tree) -> Callable:
    """function(batch, *whole) -> (gradients, numbers), of the rows of one device, as a function of all rows that returns the sums over all devices.

    The mesh has no other axis of more than one device: where some are mapped over and others are the compiler's to divide, its partitioner fails (jax 0.10, libtpu 0.0.51: an
    abort at gathers, and on CPUs at sums of bfloat16). sums: the shardings of the gradients, each whole or cut over `data` along one axis; of those no device adds up more than its piece.
    """

    def summed(x: jax.Array, sharding: NamedSharding) -> jax.Array:
        axis = _data_axis(sharding)
        return jax.lax.psum(x, "data") if axis is None else jax.lax.psum_scatter(x, "data", scatter_dimension=axis, tiled=True)

    def run(batch, *whole):
        gradients, numbers = function(batch, *whole)
        return jax.tree.map(summed, gradients, sums), jax.lax.psum(numbers, "data")

    def mapped(batch, *whole):
        specs = PartitionSpec("data"), *[PartitionSpec()] * len(whole)
        pieces = jax.tree.map(lambda sharding: sharding.spec, sums)
        return jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=(pieces, PartitionSpec()), check_vma=False)(batch, *whole)

    return mapped


def _data_axis(sharding: NamedSharding) -> int | None:
    """The axis that `data` cuts."""
    return next((axis for axis, names in enumerate(sharding.spec) if names == "data" or isinstance(names, tuple) and "data" in names), None)


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
