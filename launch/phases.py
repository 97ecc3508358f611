"""Phases: one config holds a whole run as ordered stretches of steps, each of which changes some of the config's fields.

BERT's two lengths are two phases, and so is any change of batch size, masking rate or mixture. A config without phases is one phase.
"""

import copy
import dataclasses
from typing import Any

from launch.config import ConfigError, drop_unused

OPT_STATES = ("keep", "restart", "reset")


@dataclasses.dataclass(frozen=True)
class Phase:
    """Steps `start` to `stop` of the run. config: complete, with the phase's fields in place and `steps` = stop - start.

    opt_state, at the beginning of the phase: "keep" goes on with the optimizer's state, "restart" keeps its moments and sets its step count (Adam's bias
    correction) to 0, "reset" begins with an empty one. The learning rate follows the phase's own schedule, from its step 0, in each case.
    """

    number: int
    name: str
    start: int
    stop: int
    opt_state: str
    config: dict[str, Any]

    def __str__(self) -> str:
        return f"phase {self.number + 1} ({self.name})" if self.name else "the run"


def phases_of(config: dict[str, Any]) -> list[Phase]:
    """The phases of a resolved config, in order. ConfigError naming the field if they do not fit together."""
    base = {name: value for name, value in config.items() if name != "phases"}
    if not config["phases"]:
        return [Phase(0, "", 0, config["steps"], "keep", base)]
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
        if merged["steps"] < 1:
            raise ConfigError(f"phases.{number}.steps is {merged['steps']}; every phase needs steps of its own, 1 or more")
        phases.append(Phase(number, name, start, start + merged["steps"], opt_state, merged))
        start = phases[-1].stop
    names = [phase.name for phase in phases]
    if len(set(names)) < len(names):
        raise ConfigError(f"two phases are called {max(names, key=names.count)!r}; give each a name of its own")
    return phases


def phase_at(phases: list[Phase], step: int) -> Phase:
    """The phase that a checkpoint of this step belongs to: the one that made it."""
    return next((phase for phase in phases if step <= phase.stop), phases[-1])


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the fields of `changes` in place, section by section; neither is touched."""
    merged = copy.deepcopy(base)
    for name, value in changes.items():
        merged[name] = merge(base[name], value) if isinstance(value, dict) else value
    return merged
