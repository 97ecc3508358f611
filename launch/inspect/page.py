"""The page of an inspection: `StoreFacts` and `BatchView`s enter, one HTML file leaves that loads nothing and runs no script."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.inspect.batch_statistics import BatchStatistics
from launch.inspect.batch_view import BatchView
from launch.inspect.decoded_rows import KINDS
from launch.inspect.distribution import Bin, Distribution
from launch.inspect.store_facts import UNITS, StoreFacts
from launch.inspect.text import describe_sources, describe_text, megabytes, percent, spread, summary, view_facts
from launch.pages import template_of

SOURCES_SHOWN = 20
SEQUENCES = {
    "segment_pairs": "Two segments, A and B; B follows A, or is from elsewhere. BERT.",
    "sentence_order": "Two segments that follow each other, half of the pairs swapped. ALBERT.",
    "full_sentences": "Whole sentences up to the length, on into the next document. RoBERTa.",
    "document_sentences": "Whole sentences up to the length, of one document. RoBERTa.",
    "packed_documents": "Several documents in a row; attention stays within each.",
}
CHOICES = {
    "tokens": "Every token by itself. BERT.",
    "whole_words": "All tokens of a word, or none.",
    "ngrams": "Runs of whole words, short ones more often. ALBERT, DeBERTa.",
    "spans": "Runs of whole words of geometric length, each masked, replaced or kept as one. SpanBERT.",
}

Views = Mapping[tuple[str, str], BatchView | str]


def write_page(
    path: Path, title: str, facts: Sequence[StoreFacts], views: Views, first: tuple[str, str], shares: Sequence[float] = ()
) -> None:
    """Writes the page, under a temporary name first. views: by (sequences, choice); a string says why there is none. first: what is shown
    first. shares: of the stores in the mixture, adding up to 1. Raises OSError if it cannot be written."""
    template = template_of(Path(__file__).parent, "inspect.html.j2")
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(template.render(page(title, facts, views, first, shares)), encoding="utf-8", errors="replace")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def page(title: str, facts: Sequence[StoreFacts], views: Views, first: tuple[str, str], shares: Sequence[float] = ()) -> dict:
    """What the template shows. Every chart, number and word is ready; the template only places them."""
    shown = {key: view for key, view in views.items() if not isinstance(view, str)}
    main = shown.get(first) or next(iter(shown.values()), None)
    sequences = list(dict.fromkeys(kind for kind, _ in views))
    choices = list(dict.fromkeys(choice for _, choice in views))
    return {
        "title": title,
        "mixture": [(name, percent(share)) for name, share in zip(main.source_names, shares)] if main else [],
        "cards": _cards(facts, main),
        "stores": [_store(one) for one in facts],
        "text_charts": _text_charts(facts),
        "kinds": [{"name": name, "meaning": SEQUENCES.get(name, ""), "id": f"s{number}"} for number, name in enumerate(sequences)],
        "choices": [
            {"name": name, "meaning": CHOICES.get(name.split(":")[0], ""), "id": f"c{number}"} for number, name in enumerate(choices)
        ],
        "first": (sequences.index(first[0]), choices.index(first[1])),
        "rows_table": [_rows_row(kind, views[kind, first[1]]) for kind in sequences],
        "masks_table": [_masks_row(choice, views[first[0], choice]) for choice in choices],
        "main": main,
        "panels": [_panel(views[key], f"s{sequences.index(key[0])} c{choices.index(key[1])}") for key in views],
        "legend": KINDS,
        "switches": [
            *(f"s{number}" for number in range(len(sequences)) if len(sequences) > 1),
            *(f"c{number}" for number in range(len(choices)) if len(choices) > 1),
            "vt",
            "vm",
        ],
    }


def _cards(facts: Sequence[StoreFacts], view: BatchView | None) -> list[dict[str, str]]:
    cards = []
    if facts:
        total = {unit: sum(counts[unit] for one in facts for counts in one.splits.values()) for unit in UNITS}
        held = sum(one.splits.get("eval", {}).get("documents", 0) for one in facts)
        words = sum(one.text.get("words", 0) for one in facts)
        unknown = sum(one.text.get("unknown", 0) for one in facts)
        cards = [
            ("Documents", f"{total['documents']:,}", f"{held:,} of them held out for evaluation" if held else "none held out"),
            ("Sentences", f"{total['sentences']:,}", f"{total['sentences'] / max(1, total['documents']):,.1f} in a document"),
            ("Tokens", f"{total['tokens']:,}", f"{total['tokens'] / max(1, total['sentences']):,.1f} in a sentence"),
            (
                "Tokens per word",
                f"{total['tokens'] / words:.2f}" if words else "–",
                f"{unknown:,} of {words:,} words unknown" if words else "",
            ),
        ]
    if view:
        measured = view.statistics
        epoch = "sampled" if view.num_sequences is None else f"of {view.num_sequences:,} in an epoch"
        cards += [
            ("Real tokens in a row", percent(measured.real_share), f"{view.sequences} of {measured.length}; the rest is padding"),
            ("Chosen to predict", percent(measured.chosen_share), f"of what may be chosen, by {view.choice}"),
            ("Predictions in a row", *_predictions(measured)),
            ("Rows looked at", f"{measured.rows:,}", epoch),
        ]
    return [{"label": label, "value": value, "note": note} for label, value, note in cards]


def _store(facts: StoreFacts) -> dict:
    most = max((size for _, size in facts.sources), default=1) or 1
    return {
        "name": facts.name,
        "facts": [
            ("tokenizer", f"{facts.tokenizer['kind']}, {facts.tokenizer['vocab_size']:,} entries"),
            ("tokenizer hash", facts.tokenizer["hash"][:16]),
            ("fingerprint", facts.fingerprint),
            *([("text", describe_text(facts))] if facts.text else []),
        ],
        "splits": [(split, *(f"{counts[unit]:,}" for unit in (*UNITS, "shards"))) for split, counts in facts.splits.items()],
        "sources": [
            {"name": name, "size": megabytes(size), "width": f"{100 * size / most:.2f}"} for name, size in facts.sources[:SOURCES_SHOWN]
        ],
        "sources_left": describe_sources(facts.sources[SOURCES_SHOWN:]) if len(facts.sources) > SOURCES_SHOWN else "",
        "changes": [(f"{number:,}", reason) for number, reason in facts.changes],
    }


def _text_charts(facts: Sequence[StoreFacts]) -> list[dict]:
    if not facts:
        return []
    documents, sentences = (
        Distribution.sum(getattr(one, name) for one in facts) for name in ("document_lengths", "sentence_lengths")
    )
    return [
        chart("Documents by length", "tokens", documents, documents.doubling_bins(), "documents"),
        chart("Sentences by length", "tokens", sentences, sentences.doubling_bins(), "sentences"),
    ]


def chart(title: str, unit: str, distribution: Distribution, bins: list[Bin], what: str) -> dict:
    """A bar chart in percent of its width and height."""
    total, most = max(1, distribution.total), max((one.count for one in bins), default=0) or 1
    slot = 100 / max(1, len(bins))
    bars = [
        {
            "x": f"{(number + 0.08) * slot:.3f}",
            "middle": f"{(number + 0.5) * slot:.3f}",
            "width": f"{0.84 * slot:.3f}",
            "top": f"{100 - 100 * one.count / most:.2f}",
            "height": f"{100 * one.count / most:.2f}",
            "share": f"{100 * one.count / total:.0f}%" if one.count / total >= 0.005 else "",
            "title": f"{one} {unit}: {one.count:,} {what}, {percent(one.count / total)}",
        }
        for number, one in enumerate(bins)
    ]
    note = summary(distribution) if distribution else "none"
    return {"title": title, "note": note, "bars": bars, "ticks": ticks(bins, slot) if bins else [], "unit": unit}


def ticks(bins: list[Bin], slot: float) -> list[dict[str, str]]:
    """Labels below the bars, `slot` percent of the width each: of single numbers below their bars, of ranges where they begin."""
    if all(one.last in (one.first, None) for one in bins):
        places = [((number + 0.5) * slot, f"{one.first:,}{'+' if one.last is None else ''}") for number, one in enumerate(bins)]
    else:
        places = [(number * slot, compact(edge)) for number, edge in enumerate([*(one.first for one in bins), bins[-1].last + 1])]
    return [{"x": f"{place:.3f}", "label": label} for place, label in places]


def _rows_row(kind: str, view: BatchView | str) -> dict:
    if isinstance(view, str):
        return {"name": kind, "problem": view}
    measured = view.statistics
    return {
        "name": kind,
        "problem": None,
        "number": "–" if view.num_sequences is None else f"{view.num_sequences:,}",
        "real": percent(measured.real_share),
        "width": f"{100 * measured.real_share:.2f}",
        "fill": chart("", "real tokens", measured.real, measured.real.equal_bins(measured.length, 16), "rows"),
        "pieces": spread(measured.pieces),
        "labels": ", ".join(f"{word} {percent(count / measured.rows)}" for word, count in measured.labels.items()) or "none",
    }


def _masks_row(choice: str, view: BatchView | str) -> dict:
    if isinstance(view, str):
        return {"name": choice, "problem": view}
    measured = view.statistics
    chosen = max(1, measured.chosen)
    return {
        "name": choice,
        "problem": None,
        "chosen": percent(measured.chosen_share),
        "predictions": _predictions(measured),
        "actions": [(kind, percent(count / chosen), f"{100 * count / chosen:.2f}") for kind, count in _actions(measured)],
        "whole": "–" if measured.long_whole_share is None else percent(measured.long_whole_share),
        "run": f"{measured.word_runs.mean:.2f}",
    }


def _actions(measured: BatchStatistics) -> list[tuple[str, int]]:
    return [("masked", measured.masked), ("replaced", measured.replaced), ("kept", measured.kept)]


def _predictions(measured: BatchStatistics) -> tuple[str, str]:
    """Per row: the mean, and the range."""
    predictions = measured.predictions
    return f"{predictions.mean:,.1f}", f"{predictions.least} to {predictions.greatest}, in {measured.slots} slots"


def _panel(view: BatchView | str, classes: str) -> dict:
    if isinstance(view, str):
        return {"classes": classes, "problem": view}
    measured = view.statistics
    runs = [
        chart("Runs of chosen words", "words", measured.word_runs, measured.word_runs.single_bins(10), "runs"),
        chart("Runs of chosen tokens", "tokens", measured.token_runs, measured.token_runs.single_bins(10), "runs"),
    ]
    rows = [{"row": row, "fill": f"{100 * row.real / row.length:.2f}"} for row in view.rows]
    return {"classes": classes, "problem": None, "facts": view_facts(view), "charts": runs, "rows": rows}


def compact(number: int) -> str:
    """At most four letters or so: 950, 1.5k, 16k, 2.1M; powers of two in powers of two: 4k is 4,096."""
    power_of_two = number >= 1024 and number & (number - 1) == 0
    for size, letter in ((2**30, "G"), (2**20, "M"), (2**10, "k")) if power_of_two else ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}".removesuffix(".0") + letter if number < 10 * size else f"{number / size:.0f}{letter}"
    return str(number)
