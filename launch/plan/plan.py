"""`bert-jax plan`: what a config needs and takes on a slice that is not here, phase by phase, as plain values. `page.py` writes the page.

For each phase the update that `pretrain` makes is compiled for the slice. Where a phase does not fit, more micro-batches are tried until it does. On request models of few
layers are compiled too, without loops, to tell what the loops cost.
"""

import copy
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bert_jax.model.families import build_spec
from bert_jax.plan import interconnect
from bert_jax.plan.chips import GIB
from bert_jax.plan.compiled import Measured, OutOfMemory
from bert_jax.plan.estimate import Step, Unrolled, estimate, unroll
from bert_jax.plan.topology import GpuCluster, Slice, parse_topology
from launch.config import ConfigError
from launch.phases import Phase, phases_of
from launch.plan.programs import Programs, Shapes

REMATS = ("full", "dots", "elementwise", "none")  # from the one that keeps least
ENOUGH = 2  # settings of one remat that fit: smaller micro-batches than those only get slower


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bert_jax" / "plans"


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind over the same mesh axes. bytes: of one device's arrays in a step; seconds: on idle links."""

    kind: str
    axes: str
    count: int
    bytes: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A setting that was tried. memory: bytes of a device, None if unknown; seconds: of a step, None if it does not fit."""

    accumulate: int
    remat: str
    memory: float | None
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """number: of the phase in the config. config: of the phase, with the accumulate and remat that the figures are of. asked: those of the config; fits: whether they fit; needed: bytes of a
    device, if not. tried: everything that was compiled."""

    number: int
    name: str
    steps: int
    sequences: int
    config: dict[str, Any]
    asked: tuple[int, str]
    fits: bool
    needed: float | None
    shapes: Shapes
    measured: Measured
    step: Step
    traffic: tuple[Traffic, ...]
    tried: tuple[Candidate, ...]

    @property
    def rows(self) -> int:
        """Sequences of a device in one micro-batch."""
        return self.config["batch_size"] // (self.config["accumulate"] * self.shapes.mesh["data"] * self.shapes.mesh["fsdp"])

    @property
    def rate(self) -> float:
        """Sequences per second of the whole slice."""
        return self.config["batch_size"] / self.step.seconds

    @property
    def seconds(self) -> float:
        """Of the phase's updates; smaller batches of a ramp by their share."""
        return self.sequences / self.rate


@dataclasses.dataclass(frozen=True)
class Plan:
    config: dict[str, Any]
    topology: Slice
    phases: tuple[PhasePlan, ...]
    price: float | None

    @property
    def fits(self) -> bool:
        return all(phase.fits for phase in self.phases)

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    @property
    def chip_hours(self) -> float:
        return self.seconds / 3600 * self.topology.chips


def make_plan(
    config: dict[str, Any], topology_name: str, *, price: float | None = None, search: bool = False, unrolled: bool = False, chip_batch: int | None = None,
    only: int | None = None, cache: Path | None = None, keep_text: Path | None = None, say: Callable[[str], None] = lambda _: None,
) -> Plan:
    """config: as `launch.config.load` gives it; with data.path, vocabulary and lengths in epochs come from the data. price: of a chip for an hour.

    search: of each phase, the fastest of many micro-batches and remat settings. unrolled: tells `Step.unrolled` too. chip_batch: sequences of a chip in a step of one micro-batch, instead of
    the config's batch. only: one phase, counted from 0. keep_text: a directory for the compiled programs' text. say: takes a line on what is being
    done. ConfigError where the config cannot be planned, ImportError without libtpu."""
    topology = parse_topology(topology_name)
    if isinstance(topology, GpuCluster):
        raise ConfigError(f"{topology.name} is planned by arithmetic: use launch.plan.gpu")
    if chip_batch is not None:
        config = with_chip_batch(config, chip_batch * topology.chips)
    phases, mask_id = open_phases(config)
    if only is not None and not 0 <= only < len(phases):
        raise ConfigError(f"--phase={only}: the config has {len(phases)} phase(s), counted from 0")
    phases = phases if only is None else [phases[only]]
    with Programs(topology, cache, keep_text) as programs:
        plans = tuple(plan_phase(phase, topology, programs, mask_id, search, unrolled, say) for phase in phases)
    return Plan(config, topology, plans, price)


def with_chip_batch(config: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """The config with this batch in one micro-batch, in all phases, and no ramp."""
    changed = {"batch_size": batch_size, "accumulate": 1, "batch_ramp": config["batch_ramp"] | {"start": 0}}
    phases = [{name: value for name, value in phase.items() if name not in changed} for phase in config["phases"]]
    return config | changed | {"phases": phases}


def open_phases(config: dict[str, Any]) -> tuple[list[Phase], int | None]:
    """The phases, and the id of [MASK] if the data tells it. Works from the config alone unless it leaves something to the data."""
    if not config["data"]["path"]:
        if config["model"]["vocab_size"] == 0:
            raise ConfigError("model.vocab_size is 0 (the tokenizer's) and there is no data: set --config.model.vocab_size=30522 or --config.data.path=STORE")
        return phases_of(config), None
    from launch.data import open_data, resolve_vocabulary, sequences_per_epoch

    data = open_data(config)
    return phases_of(resolve_vocabulary(config, data), sequences_per_epoch), data.special["mask"]


def plan_phase(
    phase: Phase, topology: Slice, programs: Programs, mask_id: int | None, search: bool, unrolled: bool, say: Callable[[str], None]
) -> PhasePlan:
    say(f"{phase.name or 'the run'}: shapes on {topology.name}")
    shapes = programs.shapes(phase.config)
    config, whole, tried = best_setting(phase, topology, programs, shapes, mask_id, search, say)
    without_loops = unrolled_of(config, whole, topology, programs, shapes, mask_id, say) if unrolled else None
    step = estimate(whole, topology, shapes.model_flops * config["batch_size"] / topology.devices, without_loops)
    asked = setting_of(phase.config)
    refused = next((one for one in tried if one.seconds is None and (one.accumulate, one.remat) == asked), None)
    return PhasePlan(
        number=phase.number, name=phase.name, steps=phase.stop - phase.start, sequences=sum(stage.batch_size * (stage.stop - stage.start) for stage in phase.batch_stages),
        config=config, asked=asked, fits=refused is None, needed=refused.memory if refused else None, shapes=shapes, measured=whole, step=step,
        traffic=traffic_of(whole, shapes.mesh, topology), tried=tuple(tried),
    )


def unrolled_of(
    config: dict[str, Any], whole: Measured, topology: Slice, programs: Programs, shapes: Shapes, mask_id: int | None, say: Callable[[str], None]
) -> Unrolled:
    encoder = build_spec(config["model"]).encoder
    first, period = encoder.first_layers, len(encoder.kinds)
    shallow = {}
    for depth in (first + period, first + 2 * period):
        say(f"compiling {depth} layer(s), unrolled")
        shallow[depth] = programs.measure(config, layers=depth, mask_id=mask_id)
    update_bytes = 2 * (shapes.weights + shapes.opt_state) + 2 * shapes.weights  # state read and written, gradients too
    return unroll(shallow, whole, topology, layers=encoder.num_layers, accumulate=config["accumulate"], update_bytes=update_bytes)


def best_setting(
    phase: Phase, topology: Slice, programs: Programs, shapes: Shapes, mask_id: int | None, search: bool, say: Callable[[str], None]
) -> tuple[dict[str, Any], Measured, list[Candidate]]:
    """The config with the first setting that fits, or for a search the fastest; its program; and all that was tried. ConfigError if none fits."""
    shards = shapes.mesh["data"] * shapes.mesh["fsdp"]
    tried: list[Candidate] = []
    best: tuple[float, dict[str, Any], Measured] | None = None
    for accumulate, remat in settings_to_try(phase.config, shards, search):
        if sum(one.seconds is not None and one.remat == remat for one in tried) == ENOUGH:
            continue
        if any(one.accumulate == accumulate and one.seconds is None for one in tried):
            continue  # with a remat that keeps less
        config = copy.deepcopy(phase.config)
        config["accumulate"], config["compute"]["remat"] = accumulate, remat
        rows = config["batch_size"] // (accumulate * shards)
        say(f"{phase.name or 'the run'}: compiling {rows} sequences a device, accumulate={accumulate}, remat={remat}")
        try:
            whole = programs.measure(config, mask_id=mask_id)
        except OutOfMemory as error:
            tried.append(Candidate(accumulate, remat, error.needed, None))
            continue
        seconds = estimate(whole, topology, model_flops=0.0).seconds
        tried.append(Candidate(accumulate, remat, whole.peak, seconds))
        if best is None or seconds < best[0]:
            best = (seconds, config, whole)
        if not search:
            break
    if best is None:
        smallest = min((one.memory for one in tried if one.memory), default=None)
        least = f"; the least of those tried needs {smallest / GIB:.1f} GiB of a device's {topology.chip.memory / GIB:.1f}" if smallest else ""
        raise ConfigError(
            f"{phase.name or 'the run'} does not fit {topology.name} with any of the micro-batches tried{least}. Shard more: --config.mesh.fsdp or "
            "mesh.tensor above 1; --config.compute.remat=full; or a slice of chips with more memory"
        )
    return best[1], best[2], tried


def setting_of(config: dict[str, Any]) -> tuple[int, str]:
    """accumulate and remat."""
    return config["accumulate"], config["compute"]["remat"]


def settings_to_try(config: dict[str, Any], shards: int, search: bool) -> Iterator[tuple[int, str]]:
    """(accumulate, remat): the config's own, then smaller micro-batches; for a search, all of them from the largest on, for every remat."""
    own, remat = setting_of(config)
    possible = [count for count in range(1, config["batch_size"] // shards + 1) if config["batch_size"] % (count * shards) == 0]
    if own not in possible:
        possible.insert(0, own)  # which the config's own check refuses in better words
    if not search:
        doubled = [count for count in possible if count > own and (count // own) & (count // own - 1) == 0 and count % own == 0]
        yield own, remat
        yield from ((count, remat) for count in doubled)
        return
    rows = {count: config["batch_size"] // (count * shards) for count in possible}
    for tried in REMATS:
        for count in possible:
            if rows[count] * config["length"] <= 65536 and (rows[count] & (rows[count] - 1) == 0 or count == own):
                yield count, tried


def traffic_of(measured: Measured, mesh: dict[str, int], topology: Slice) -> tuple[Traffic, ...]:
    """By kind and mesh axes, the slowest first."""
    sums: dict[tuple[str, str], list[float]] = {}
    for one in measured.collectives:
        total = sums.setdefault((one.kind, axes_of(one.devices, mesh)), [0, 0, 0.0])
        total[0] += one.count
        total[1] += one.count * one.bytes
        total[2] += interconnect.seconds(one, topology)
    found = [Traffic(kind, axes, int(count), int(size), seconds) for (kind, axes), (count, size, seconds) in sums.items()]
    return tuple(sorted(found, key=lambda one: -one.seconds))


def axes_of(devices: tuple[int, ...], mesh: dict[str, int]) -> str:
    """The mesh axes along which a group's devices lie, such as "data x fsdp"."""
    places = []
    for device in devices:
        place = {}
        for name, size in reversed(mesh.items()):
            place[name], device = device % size, device // size
        places.append(place)
    return " x ".join(name for name in mesh if len({place[name] for place in places}) > 1) or "none"
