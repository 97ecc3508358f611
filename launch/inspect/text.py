"""What inspecting prints. Enters: `StoreFacts`, `BatchView`. Leaves: tables and histograms on a rich console."""

import shutil

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.inspect.batch_view import BatchView
from launch.inspect.distribution import Bin, Distribution
from launch.inspect.show_batch import print_rows
from launch.inspect.store_facts import UNITS, StoreFacts
from launch.report.run_log import number

WIDEST = 120
WIDE = 100  # columns from which histograms stand side by side
SOURCES_SHOWN = 8
BLOCKS = " ▏▎▍▌▋▊▉█"


def make_console() -> Console:
    """Colour on a terminal only, and not with NO_COLOR."""
    return Console(width=min(shutil.get_terminal_size((WIDEST, 40)).columns, WIDEST), highlight=False, markup=False, emoji=False)


def print_facts(console: Console, facts: StoreFacts) -> None:
    tokenizer = facts.tokenizer
    console.print(Text(f"token store {facts.directory}", "bold"))
    rows = [
        ("tokenizer", f"{tokenizer['kind']}, {tokenizer['vocab_size']:,} entries, hash {tokenizer['hash'][:12]}"),
        ("fingerprint", facts.fingerprint),
    ]
    if facts.text:
        rows.append(("text", describe_text(facts)))
    rows.append(("sources", describe_sources(facts.sources)))
    rows += [("" if line else "documents", f"{number:,} {reason}") for line, (number, reason) in enumerate(facts.changes)]
    console.print(_pairs(rows))
    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("  split")
    for unit in (*UNITS, "shards"):
        table.add_column(unit, justify="right")
    for split, counts in facts.splits.items():
        table.add_row(Text(f"  {split}"), *(f"{counts[unit]:,}" for unit in (*UNITS, "shards")))
    console.print(table)
    console.print()
    read = "" if facts.shards_read == facts.splits["train"]["shards"] else f", of {facts.shards_read} shards"
    _side_by_side(
        console,
        [
            (f"tokens in a document{read}", facts.document_lengths, facts.document_lengths.doubling_bins()),
            (f"tokens in a sentence{read}", facts.sentence_lengths, facts.sentence_lengths.doubling_bins()),
        ],
    )


def print_view(console: Console, view: BatchView) -> None:
    console.print(Text(describe_view(view), "bold"))
    console.print(_pairs(view_facts(view)))
    console.print()
    _side_by_side(console, [(title, distribution, bins) for title, distribution, bins in view_histograms(view) if distribution])
    if view.rows:
        print_rows(console, view.rows)


# ---- words ----


def describe_view(view: BatchView) -> str:
    return f"{view.sequences} of {view.statistics.length} tokens, masked by {view.choice} at {percent(view.rate)}"


def describe_text(facts: StoreFacts) -> str:
    """Characters, and how the tokenizer fits them."""
    tokens, words = sum(counts["tokens"] for counts in facts.splits.values()), max(1, facts.text.get("words", 0))
    parts = [f"{facts.text['characters']:,} characters"] if "characters" in facts.text else []
    if "words" in facts.text:
        parts.append(f"{facts.text['words']:,} words of {tokens / words:.3f} tokens")
    if "unknown" in facts.text:
        parts.append(f"{facts.text['unknown'] / words:.4%} unknown")
    return ", ".join(parts)


def describe_sources(sources: list[tuple[str, int]]) -> str:
    shown = ", ".join(f"{name} ({megabytes(size)})" for name, size in sources[:SOURCES_SHOWN])
    if len(sources) <= SOURCES_SHOWN:
        return shown
    rest = sources[SOURCES_SHOWN:]
    return f"{shown}, and {len(rest):,} more ({megabytes(sum(size for _, size in rest))})"


def describe_record(record: dict) -> str:
    """A record of a run's log: the event, or the loss and the accuracy."""
    if record["split"] == "event":
        detail = f" ({record['detail']})" if record.get("detail") else ""
        return f"step {record['step']:,}, {record.get('event')}{detail}"
    facts = [f"step {record['step']:,}, {'training' if record['split'] == 'train' else 'held out'}"]
    loss, accuracy = number(record, "loss"), number(record, "mlm_accuracy")
    facts += [] if loss is None else [f"loss {loss:.4f}"]
    facts += [] if accuracy is None else [f"accuracy {percent(accuracy)}"]
    return ", ".join(facts)


def view_facts(view: BatchView) -> list[tuple[str, str]]:
    """(name, value) of what was counted, for people."""
    measured = view.statistics
    epoch = "" if view.num_sequences is None else f" of the {view.num_sequences:,} in an epoch"
    facts = [
        ("sample", f"{measured.rows:,} sequences{epoch}"),
        ("real tokens", f"{percent(measured.real_share)}; padding {percent(1 - measured.real_share)}"),
        ("pieces", f"in a row {spread(measured.pieces)}"),
    ]
    if measured.labels:
        facts.append(("labels", ", ".join(f"{word} {percent(count / measured.rows)}" for word, count in measured.labels.items())))
    if view.source_names:
        shares = [f"{name} {percent(int(count) / measured.rows)}" for name, count in zip(view.source_names, measured.sources)]
        facts.append(("sources", ", ".join(shares)))
    facts.append(("chosen", f"{percent(measured.chosen_share)} of the tokens that are not special"))
    facts.append(("predictions", f"in a row {spread(measured.predictions)}; {measured.slots} slots"))
    if measured.chosen:
        actions = [("masked", measured.masked), ("replaced", measured.replaced), ("kept", measured.kept)]
        facts.append(("of these", ", ".join(f"{name} {percent(count / measured.chosen)}" for name, count in actions)))
    if measured.whole_share is not None:
        several = "" if measured.long_whole_share is None else f"; of those of several tokens {percent(measured.long_whole_share)}"
        facts.append(("whole words", f"{percent(measured.whole_share)} of the words with a chosen token{several}"))
    return facts


def view_histograms(view: BatchView) -> list[tuple[str, Distribution, list[Bin]]]:
    """(title, what was counted, bins) of what is drawn."""
    measured = view.statistics
    return [
        ("real tokens in a row", measured.real, measured.real.equal_bins(measured.length, 8)),
        ("words in a run of chosen words", measured.word_runs, measured.word_runs.single_bins(8)),
    ]


def percent(share: float) -> str:
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def megabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def spread(distribution: Distribution) -> str:
    if distribution.least == distribution.greatest:
        return f"{distribution.least:,}"
    return f"{distribution.least:,} to {distribution.greatest:,}, {distribution.mean:,.2f} on average"


def summary(distribution: Distribution) -> str:
    return f"median {distribution.quantile(0.5):,}, 90% up to {distribution.quantile(0.9):,}, longest {distribution.greatest:,}"


# ---- layout ----


def _pairs(rows: list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(f"  {name}"), Text(value))
    return grid


def _side_by_side(console: Console, histograms: list[tuple[str, Distribution, list[Bin]]]) -> None:
    wide = console.width >= WIDE
    width = (console.width - 8) // 2 if wide else min(console.width - 2, 70)
    blocks = [_histogram(title, distribution, bins, width) for title, distribution, bins in histograms]
    if wide:
        grid = Table.grid(padding=(0, 4, 0, 0))
        grid.add_row(*blocks)
        console.print(grid)
        console.print()
        return
    for block in blocks:
        console.print(block)
        console.print()


def _histogram(title: str, distribution: Distribution, bins: list[Bin], width: int) -> RenderableType:
    labels = [str(one) for one in bins]
    total, most = max(1, distribution.total), max(one.count for one in bins)
    longest = max(map(len, labels))
    room = width - longest - 13
    lines = [Text(f"  {title}"), Text(f"  {summary(distribution)}", "dim")]
    for label, one in zip(labels, bins):
        share = percent(one.count / total) if one.count else "–"
        lines.append(Text.assemble(f"  {label:>{longest}}  ", (_bar(one.count / most * room).ljust(room), "blue"), (f" {share:>6}", "dim")))
    return Group(*lines)


def _bar(length: float) -> str:
    """`length` columns in eighths of a block; what is not nothing shows."""
    eighths = max(1, round(8 * length)) if length > 0 else 0
    return BLOCKS[8] * (eighths // 8) + (BLOCKS[eighths % 8] if eighths % 8 else "")
