"""How long a collective should take on a slice's links, if nothing else uses them.

A chip has a link each way along each axis of the slice's torus. Bytes that a chip must send in the best known algorithm, over the bandwidth of the links that
its group can use (How to Scale Your Model, "Sharded matrices"): n devices gather an array of B bytes by sending B (n - 1) / n each, reduce and scatter it by
the same, all-reduce by twice that. An axis that closes to a ring is used both ways; one that does not moves half as much. A group that is the whole slice
uses all axes of more than one chip; a smaller one is counted with one axis, which is what it surely has. Plus a microsecond for each hop.
"""

import math

from bert_jax.plan.hlo import Collective
from bert_jax.plan.topology import GpuCluster, Slice

HOP_SECONDS = 1e-6
_TRIPS = {"all-reduce": 2.0, "all-gather": 1.0, "reduce-scatter": 1.0, "all-to-all": 0.25, "collective-broadcast": 1.0}


def seconds(collective: Collective, topology: Slice) -> float:
    """Of all executions of the collective in a step."""
    count, devices = len(collective.devices), topology.chip.devices
    chips = max(count // devices, 1)
    if count <= 1 or collective.bytes == 0:
        return 0.0
    if chips == 1:  # the cores of one chip, through its memory
        return collective.count * collective.bytes / topology.chip.hbm_bandwidth
    axes = [(size, ring) for size, ring in zip(topology.shape, topology.rings) if size > 1]
    if count < topology.devices:
        axes = [min(axes, key=lambda axis: axis[1])]
    bandwidth = topology.chip.link_bandwidth * sum(2 if ring else 1 for _, ring in axes)
    if collective.kind == "collective-permute":
        return collective.count * (collective.bytes / topology.chip.link_bandwidth + HOP_SECONDS)
    hops = sum(size / 2 if ring else size for size, ring in axes) * math.ceil(_TRIPS[collective.kind])
    return collective.count * (_TRIPS[collective.kind] * collective.bytes * (chips - 1) / chips / bandwidth + hops * HOP_SECONDS)


def gpu_all_reduce_seconds(size: float, cluster: GpuCluster) -> float:
    """Of `size` bytes over all GPUs: by NVLink within a machine, then by the network, in a ring each."""
    inside = min(cluster.count, cluster.gpu.host_gpus)
    time = 2 * size * (inside - 1) / inside / cluster.gpu.link
    if cluster.hosts > 1:  # each GPU carries its share of the array to the other machines
        time += 2 * size / inside * (cluster.hosts - 1) / cluster.hosts / cluster.gpu.network
    return time
