"""Which fields each named schedule and optimizer takes. Data without JAX, so that a config is checked before anything is loaded.

A settings dataclass holds None where its name takes no such field; `check_given` refuses a field that is missing and one that would be
ignored.
"""

import dataclasses
from typing import Any

SCHEDULES: dict[str, tuple[str, ...]] = {
    "constant": ("peak", "warmup_steps"),
    "linear": ("peak", "warmup_steps", "total_steps", "end", "decay_from"),
    "polynomial": ("peak", "warmup_steps", "total_steps", "end", "decay_from", "power"),
    "cosine": ("peak", "warmup_steps", "total_steps", "end"),
    "inverse_sqrt": ("peak", "warmup_steps", "end"),
    "wsd": ("peak", "warmup_steps", "total_steps", "end", "decay_steps"),
    "triangle": ("peak", "warmup_steps", "total_steps", "end", "start"),
}
_ADAM = ("b1", "b2", "eps")
_ALL = ("weight_decay", "clip_norm", "exclude", "layer_decay")
OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "adamw": (*_ADAM, *_ALL),
    "adamw_bert": (*_ADAM, *_ALL),
    "lamb_v1": (*_ADAM, *_ALL),
    "lamb_nvidia": (*_ADAM, *_ALL),
    "stable_adamw": (*_ADAM, *_ALL),
    "adafactor": ("decay_exponent", *_ALL),
    "muon": ("momentum", *_ADAM, *_ALL),
}


def check_given(section: str, settings: Any, names: dict[str, tuple[str, ...]]) -> None:
    """ValueError unless the dataclass `settings` has a known `name` and holds just the fields that the name takes."""
    if settings.name not in names:
        raise ValueError(f"{section}.name is {settings.name!r}; known: {', '.join(names)}")
    takes = names[settings.name]
    for field in (field.name for field in dataclasses.fields(settings) if field.name != "name"):
        value = getattr(settings, field)
        if value is None and field in takes:
            raise ValueError(f"{section}.{field} is missing; {section}.name={settings.name} takes {', '.join(takes)}")
        if value is not None and field not in takes:
            reason = f"which {section}.name={settings.name} does not use; it takes {', '.join(takes)}"
            raise ValueError(f"{section}.{field} is {value}, {reason}")
