"""What is added to a pretrained encoder's layers so that little is trained, as frozen dataclasses: LoRA and bottleneck adapters."""

import dataclasses
from typing import Any, ClassVar

PLACES = ("attention", "mlp")


@dataclasses.dataclass(frozen=True)
class LoraSpec:
    """Low-rank changes of matrices W of every layer, W + alpha / rank A B (Hu et al. 2021, arXiv 2106.09685, section 4.1).

    targets: names of matrices within a layer, whole or in part: query, attention.output, mlp (`adapters.matrices` lists them)."""

    kind: ClassVar[str] = "lora"
    rank: int
    alpha: float
    targets: tuple[str, ...]

    def __post_init__(self):
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"adapt.rank is {self.rank!r}; it must be a positive integer (Hu et al. 2021: 8)")
        if type(self.alpha) not in (int, float) or not self.alpha > 0:
            raise ValueError(f"adapt.alpha is {self.alpha!r}; it must be above 0; changes are multiplied by alpha / rank (Hu et al. 2021: 8)")
        if not self.targets or not all(isinstance(name, str) and name for name in self.targets):
            raise ValueError(f"adapt.targets is {self.targets!r}; name matrices of a layer, such as query,value")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class BottleneckSpec:
    """Two small layers with an activation between them, added to what a part of every layer gives, before it is added to the part's input
    (Houlsby et al. 2019, arXiv 1902.00751, section 2.1).

    size: between the two layers. places: parts of a layer that have one, of PLACES: both in Houlsby et al., the MLP in Pfeiffer et al. 2020 (arXiv 2005.00247)."""

    kind: ClassVar[str] = "bottleneck"
    size: int
    places: tuple[str, ...]

    def __post_init__(self):
        if type(self.size) is not int or self.size < 1:
            raise ValueError(f"adapt.size is {self.size!r}; it must be a positive integer (Houlsby et al. 2019: 64)")
        if not self.places or len(set(self.places)) < len(self.places) or not set(self.places) <= set(PLACES):
            raise ValueError(f"adapt.places is {self.places!r}; known: {', '.join(PLACES)}, each once")


AdapterSpec = LoraSpec | BottleneckSpec
KINDS: dict[str, type] = {spec.kind: spec for spec in (LoraSpec, BottleneckSpec)}


def adapter_of(settings: dict[str, Any]) -> AdapterSpec | None:
    """Of {"kind": "lora", ...}; of settings for several kinds those of the kind are taken. None for the kind "". ValueError names what does not fit."""
    kind = settings.get("kind")
    if kind == "":
        return None
    if kind not in KINDS:
        raise ValueError(f"adapt.kind is {kind!r}; known: {', '.join(KINDS)}, or empty: the pretrained parameters themselves are trained")
    given = {field.name: settings.get(field.name) for field in dataclasses.fields(KINDS[kind])}
    return KINDS[kind](**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def settings_of(adapter: AdapterSpec) -> dict[str, Any]:
    """As `adapter_of` takes them, and JSON."""
    return {"kind": adapter.kind} | dataclasses.asdict(adapter)
