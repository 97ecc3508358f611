"""Decoded rows on a terminal: words, masks, targets, segments. Enters: `DecodedRow`s. Leaves: what a rich console prints."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launch.inspect.decoded_rows import KINDS, DecodedRow, Piece

STYLES = {"plain": "", "special": "dim", "masked": "bold magenta", "replaced": "bold red", "kept": "bold cyan"}


def print_rows(console: Console, rows: list[DecodedRow]) -> None:
    legend = [Text(_shown(Piece("word", kind, "drawn", False)), STYLES[kind]) + Text(f" {kind}", "dim") for kind in KINDS]
    console.print(Text("   ").join(legend))
    for row in rows:
        console.print()
        console.print(Text(f"── {describe(row)}", "dim"))
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True, justify="right", style="dim")
        grid.add_column(overflow="fold")
        for label, pieces in row.parts:
            grid.add_row(Text(f"{label}:" if label else ""), _line(pieces))
        console.print(grid)


def describe(row: DecodedRow) -> str:
    """The facts of a row in one line."""
    facts = [f"{row.real} of {row.length} tokens", f"{row.predictions} to predict", row.label, f"from {row.source}" if row.source else None]
    return f"{'row' if row.example is None else f'example {row.example}'}: {', '.join(fact for fact in facts if fact)}"


def _line(pieces: list[Piece]) -> Text:
    line = Text()
    for piece in pieces:
        if line and not piece.joined:
            line.append(" ")
        line.append(_shown(piece), STYLES[piece.kind])
    return line


def _shown(piece: Piece) -> str:
    forms = {"masked": "[{text}]", "replaced": "[{text}<-{seen}]", "kept": "[={text}]"}
    return forms.get(piece.kind, "{text}").format(text=piece.text, seen=piece.seen)
