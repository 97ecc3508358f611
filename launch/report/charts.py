"""The curves of the report page: a run's log enters, charts as plain JSON values leave, of a size that does not grow with the run."""

from collections.abc import Sequence

import numpy as np

from launch.report.reference_curves import Band
from launch.report.run_log import Log, last, series

RAW_POINTS = 700  # per curve: about two per pixel of a chart, and a page of some 100 kB however long the run
LINE_POINTS = 350
COLOURS = 8  # roles s0, s1, ... of curves of one sort


def make_charts(log: Log, loss_band: Band | None = None) -> list[dict]:
    """The charts that have data, each with its curves and perhaps a level: a value to compare with, drawn as a horizontal dashed line.

    loss_band: of a reference, drawn behind the loss up to the run's last step."""
    both = [("train", "train", log.train), ("held-out", "eval", log.eval)]
    train = both[:1]
    unigram = last(log.eval, "unigram_accuracy")
    wanted = [
        ("Loss", "loss", "number", both, None, False),
        ("Masked-token accuracy", "mlm_accuracy", "percent", both, unigram and ("most frequent token", unigram), True),
        ("Next-sentence accuracy", "nsp_accuracy", "percent", both, ("commoner label", last(log.eval, "nsp_majority") or 0.5), False),
        ("Sentence-order accuracy", "sop_accuracy", "percent", both, ("commoner label", last(log.eval, "sop_majority") or 0.5), False),
        ("Learning rate", "learning_rate", "number", train, None, True),
        ("Gradient norm", "grad_norm", "number", train, None, True),
        ("Sequences per second", "sequences_per_second", "number", train, None, True),
    ]
    charts = []
    for title, name, form, sources, level, from_zero in wanted:
        logarithmic = name in ("loss", "grad_norm") and spreads(series([*log.train, *log.eval], name)[1])
        noisy = {"train": name != "learning_rate", "eval": False}
        curves = [make_curve(label, role, records, name, noisy=noisy[role], logarithmic=logarithmic) for label, role, records in sources]
        chart = make_chart(title, form, curves, level=level, zero=from_zero, logarithmic=logarithmic)
        if chart:
            chart["band"] = _band(loss_band, chart["curves"]) if name == "loss" and loss_band is not None else None
            charts.append(chart)
    return charts


def make_chart(
    title: str, form: str, curves: Sequence[dict | None], *, level: tuple[str, float] | None = None, zero: bool = False, logarithmic: bool = False
) -> dict | None:
    """As the page's script reads it; None without a curve. form: of its values, number or percent. level: label and value. zero: the axis goes down to 0."""
    found = [curve for curve in curves if curve]
    level = level and {"label": level[0], "value": level[1]}
    return {"title": title, "format": form, "curves": found, "level": level, "band": None, "zero": zero, "log": logarithmic} if found else None


def _band(band: Band, curves: list[dict]) -> dict[str, list] | None:
    """The part of a reference's band that lies under the curves, smoothed as they are; None if that is not even a line."""
    known = band.steps <= max(curve["line"]["x"][-1] for curve in curves)
    if known.sum() < 2:
        return None
    edges = {name: smooth(getattr(band, name)[known], range(known.sum())) for name in ("low", "high")}
    return {"x": band.steps[known].tolist()} | {name: [float(f"{value:.5g}") for value in values] for name, values in edges.items()}


def _points(steps: np.ndarray, values: np.ndarray) -> dict[str, list]:
    return {"x": steps.tolist(), "y": [float(f"{value:.5g}") for value in values]}


def make_curve(
    label: str, role: str, records: list[dict], name: str, *, noisy: bool = False, logarithmic: bool = False, mark: int | None = None
) -> dict | None:
    """One curve as the page's script reads it: a line, and for what is noisy the raw points behind its smoothed line; None without values.

    role: its colour, by the name of the style's class. mark: a step with a ring around its value."""
    steps, values = series(records, name)
    if not len(steps):
        return None
    raw = thin_keeping_extremes(values, RAW_POINTS) if noisy else np.arange(0)
    line = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), LINE_POINTS)).astype(int))
    if not noisy:
        heights = values[line]
    elif logarithmic:  # one huge value must not lift the line as long as the window holds it
        heights = np.exp(smooth(np.log(values), line))
    else:
        heights = smooth(values, line)
    thinned = noisy and len(raw) < len(values)
    return {
        "label": label,
        "role": role,
        "thinned": thinned,
        "dots": not noisy and role != "train",
        "mark": mark,
        "raw": _points(steps[raw], values[raw]),
        "line": _points(steps[line], heights),
    }


def spreads(values: np.ndarray) -> bool:
    """Whether an axis of these values has to be logarithmic."""
    return bool(len(values) and values.min() > 0 and values.max() > 20 * np.median(values))


def smooth(values: np.ndarray, at: Sequence[int]) -> np.ndarray:
    """The running mean under a triangle 4% of the points wide, at the indices `at` [M]. Returns float64 [M].

    The window closes towards the first point, so that the fall of an early loss is not drawn lower than it began; at the last point its
    earlier half remains.
    """
    half = max(1, len(values) // 50)
    triangle = np.concatenate([np.arange(1, half + 1), np.arange(half + 1, 0, -1)])

    def mean(index: int) -> float:
        window = values[index - min(half, index) : index + min(half, index) + 1]
        start = half - min(half, index)
        return float(np.average(window, weights=triangle[start : start + len(window)]))

    return np.array([mean(index) for index in at])


def thin_keeping_extremes(values: np.ndarray, limit: int) -> np.ndarray:
    """Indices (ascending, at most `limit`) that keep every stretch's least and greatest value, so that no spike is lost."""
    if len(values) <= limit:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), limit // 2 + 1).astype(int)
    kept = [start + pick(values[start:end]) for start, end in zip(edges, edges[1:]) for pick in (np.argmin, np.argmax)]
    return np.unique(kept)
