"""Phases: one config holds a whole run as ordered stretches of steps, each of which changes some of the config's fields.

BERT's two lengths are two phases, and so is any change of masking, mixture or dropout. A config without phases is one phase. A phase whose batch
grows has stages.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from launch.config import ConfigError, drop_unused
from launch.fields import LENGTHS
from launch.lengths import BatchStage, batch_sizes_of, micro_batches, resolve, value_of

OPT_STATES = ("keep", "restart", "reset")


@dataclasses.dataclass(frozen=True)
class Phase:
    """Steps `start` to `stop` of the run. config: complete, with the phase's fields in place, `steps` = stop - start, and lengths as numbers of steps.

    opt_state, at the beginning of the phase: "keep" goes on with the optimizer's state, "restart" keeps its moments and sets its step count (Adam's bias
    correction) to 0, "reset" begins with an empty one. The learning rate follows the phase's own schedule, from its step 0, in each case.
    """

    number: int
    name: str
    start: int
    stop: int
    opt_state: str
    config: dict[str, Any]

    @property
    def batch_stages(self) -> list[BatchStage]:
        """The stretches of the phase in which batches have one size, in order: one without a ramp. Data, schedule and optimizer go on through all."""
        sizes = batch_sizes_of(self.config)
        stops = (*sizes.starts[1:], self.stop - self.start)
        return [
            BatchStage(self.start + start, self.start + stop, size, micro_batches(self.config, size))
            for start, stop, size in zip(sizes.starts, stops, sizes.sizes)
            if start < stop
        ]

    @property
    def sequences(self) -> int:
        """That the phase trains on."""
        return batch_sizes_of(self.config).before(self.stop - self.start)

    def __str__(self) -> str:
        return f"phase {self.number + 1} ({self.name})" if self.name else "the run"


def phases_of(config: dict[str, Any], sequences_per_epoch: Callable[[dict[str, Any]], int] | None = None) -> list[Phase]:
    """The phases of a config, in order. ConfigError naming the field if they do not fit together.

    sequences_per_epoch: of a phase's config, called where a length is said in epochs; without it such a length is a ConfigError. A workdir's
    config has none: its lengths are numbers."""
    epoch_of = lambda own: (lambda: sequences_per_epoch(own)) if sequences_per_epoch else None  # noqa: E731
    base = {name: value for name, value in config.items() if name != "phases"}
    if not config["phases"]:
        own = resolve(base, epoch_of(base))
        return [Phase(0, "", 0, own["steps"], "keep", own)]
    if config["steps"]:
        raise ConfigError(f"steps is {config['steps']}, but the config has phases, whose own steps count: set steps to 0")
    phases: list[Phase] = []
    start = 0
    for number, changes in enumerate(config["phases"]):
        changes = dict(changes)
        name, opt_state = changes.pop("name", f"{number + 1}"), changes.pop("opt_state", "keep")
        if opt_state not in OPT_STATES:
            raise ConfigError(f"phases.{number}.opt_state is {opt_state!r}; known: {', '.join(OPT_STATES)}")
        merged = merge(base, changes)
        if "name" in changes.get("schedule", {}):  # another schedule does not take all of the config's fields
            merged["schedule"] = drop_unused("schedule", merged["schedule"], changes["schedule"])
        try:
            merged = resolve(merged, epoch_of(merged))
        except ConfigError as error:
            raise ConfigError(f"phases.{number}: {error}") from None
        if merged["steps"] < 1:
            raise ConfigError(f"phases.{number}.steps is {merged['steps']}; every phase needs steps of its own, 1 or more")
        phases.append(Phase(number, name, start, start + merged["steps"], opt_state, merged))
        start = phases[-1].stop
    names = [phase.name for phase in phases]
    if len(set(names)) < len(names):
        raise ConfigError(f"two phases are called {max(names, key=names.count)!r}; give each a name of its own")
    return phases


def with_numbers(config: dict[str, Any], phases: list[Phase]) -> dict[str, Any]:
    """The config with its LENGTHS as they are in its phases: numbers, where a phase says or inherits them in other units."""
    if not config["phases"]:
        return config | {name: phases[0].config[name] for name in ("steps", "batch_ramp", "schedule")}
    changed = []
    for changes, phase in zip(config["phases"], phases):
        own = copy.deepcopy(changes)
        for field in LENGTHS:
            number = value_of(phase.config, field)
            if number is not None and isinstance(value_of(changes, field) or value_of(config, field), str):
                section, _, name = field.rpartition(".")
                (own.setdefault(section, {}) if section else own)[name] = number
        changed.append(own)
    return config | {"phases": changed}


def phase_at(phases: list[Phase], step: int) -> Phase:
    """The phase that a checkpoint of this step belongs to: the one that made it."""
    return next((phase for phase in phases if step <= phase.stop), phases[-1])


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the fields of `changes` in place, section by section; neither is touched."""
    merged = copy.deepcopy(base)
    for name, value in changes.items():
        merged[name] = merge(base[name], value) if isinstance(value, dict) else value
    return merged
