"""Reference curves: loss bands of shipped configs on a text that anyone can make, to see whether a run learns as it should.

Enters: a run's config and log. Leaves: the band that belongs to the config, and in words whether the run lies in it. The bands are in
reference_curves.json, which `benchmarks/reference_curves.py` makes from runs of several seeds on the embedded corpus (docs/training.md).
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from launch import config as configs
from launch.report.run_log import Log, series

REGISTRY = Path(__file__).with_name("reference_curves.json")
SPLITS = {"train": "training", "eval": "held-out"}
FEW = 0.1  # of the points may lie outside by chance
# Fields that do not shape the curve, or (the seed) shape it within the band.
SHAPELESS = ("seed", "accumulate", "compute.remat", "compute.unroll", "data.path", "eval.", "downstream.", "checkpoint.", "bad_steps.", "mesh.")


@dataclasses.dataclass(frozen=True)
class Band:
    """Of the loss at `steps` int64 [N]: float64 [N] each, `low` and `high` with the tolerance."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Reference:
    """config: the name of a shipped one, of which `overrides` make the run that the bands are of. tolerance: share by which the bands are wider
    than the seeds' least and greatest values, because the text differs a little from one environment to another."""

    config: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    tolerance: float
    bands: dict[str, Band]  # of "train" and "eval"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """within: whether the run lies in the bands; None if it has no step in common with them yet. verdict, words: what the page says."""

    reference: Reference
    within: bool | None
    verdict: str
    words: str


def compare(config: dict[str, Any], log: Log) -> Comparison | None:
    """None if no reference belongs to the config and its text."""
    reference = find(config)
    return None if reference is None else judge(reference, log)


def find(config: dict[str, Any]) -> Reference | None:
    """The reference of a run's config: every field that shapes a curve is equal, and so is the text."""
    try:
        vocabulary = vocabulary_of_embedded_store(config["data"]["path"])
        entries = json.loads(REGISTRY.read_text(encoding="utf-8"))
        return next((read(entry) for entry in entries if entry["vocab_size"] == vocabulary and belongs(entry, config)), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a config of another make, a store that is gone
        return None


def vocabulary_of_embedded_store(path: str) -> int | None:
    """The size of the vocabulary of a store of the embedded corpus and nothing else; None of another. OSError if there is no store."""
    manifest = json.loads((Path(path) / "manifest.json").read_text(encoding="utf-8"))
    if [source["name"] for source in manifest["sources"]] != ["embedded"]:
        return None
    return manifest["tokenizer"]["vocab_size"] if manifest["tokenizer"]["kind"] == "wordpiece" else None


def belongs(entry: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether the entry is of this config. An entry whose shipped config has been changed since is of none."""
    shipped = configs.load(entry["config"], entry["overrides"])
    shipped["model"]["vocab_size"] = entry["vocab_size"]
    known = [line for line in shaping_differences(entry["settings"], shipped) if ": None -> " not in line]  # but for fields that are newer
    return not known and not shaping_differences(shipped, config)


def shaping_differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Fields that shape a curve and differ, as "field: one -> other"."""
    found = [line for line in configs.differences(one, other) if not line.startswith(SHAPELESS)]
    return found + [f"log_every: {one['log_every']} -> {other['log_every']}"] * (
        one["log_every"] != other["log_every"]
    )  # over which losses are means


def read(entry: dict[str, Any]) -> Reference:
    bands = {}
    for split in SPLITS:
        columns = {name: np.asarray(values, np.float64) for name, values in entry[split].items()}
        wider = entry["tolerance"] * columns["mean"]
        bands[split] = Band(columns["step"].astype(np.int64), columns["mean"], columns["min"] - wider, columns["max"] + wider)
    return Reference(entry["config"], tuple(entry["overrides"]), tuple(entry["seeds"]), entry["tolerance"], bands)


def judge(reference: Reference, log: Log) -> Comparison:
    overrides = "".join(f" --{override}" for override in reference.overrides)
    about = (
        f"The band spans the training loss of {len(reference.seeds)} seeds of {reference.config}{overrides} on the English that comes with "
        f"Python, and is {reference.tolerance:.0%} wider on each side, because that text differs a little with the packages installed."
    )
    outside, points = [], 0
    for split, band in reference.bands.items():
        steps, values = series(getattr(log, split), "loss")
        places = np.searchsorted(band.steps, steps)
        known = (places < len(band.steps)) & (band.steps[np.minimum(places, len(band.steps) - 1)] == steps)
        steps, values, places = steps[known], values[known], places[known]
        above, below = values > band.high[places], values < band.low[places]
        points += len(steps)
        strays = np.flatnonzero(above | below)
        if len(strays) > FEW * len(steps):
            last = strays[-1]
            where = f"{'above' if above[last] else 'below'} the band at {len(strays)} of {len(steps)} steps"
            there = f"the band is {band.low[places[last]]:.2f} to {band.high[places[last]]:.2f}"
            outside.append(f"its {SPLITS[split]} loss is {where}, {values[last]:.2f} at step {steps[last]:,} where {there}")
    if not points:
        return Comparison(reference, None, "A reference is drawn behind the loss.", f"{about} The run has no step in common with it yet.")
    if outside:
        return Comparison(reference, False, "This run lies outside its reference:", f"{'; '.join(outside)}. {about}")
    held_out = ", held out and in training" if len(log.eval) else ""
    return Comparison(reference, True, f"This run lies within its reference{held_out}.", about)
