"""A masked batch as a person reads it. Enters: a batch of the contract and a tokenizer. Leaves: `DecodedRow`s, words without layout or
colour, from which the terminal (`show_batch.py`) and the page (`inspect_page.py`) are made. All text in them is `printable`.
"""

import dataclasses
import functools
import re

import numpy as np

from launch.inspect.batch_statistics import LABELS, original_ids

KINDS = {
    "masked": "the model sees the mask token",
    "replaced": "the model sees a random token",
    "kept": "chosen, but the model sees it as it is",
}  # of chosen pieces; the others are "plain" or "special"
PARTS = re.compile("((?:<(?:0x)?[89A-F][0-9A-F]>)+)")  # how a tokenizer shows a part of a character
SPACE = "␣"  # and a token that is nothing but white space
SPACE_MARKS = {"byte_bpe": "Ġ", "sentencepiece_unigram": "▁", "sentencepiece_bpe": "▁"}  # at the beginning of a token's name


@dataclasses.dataclass(frozen=True)
class Piece:
    """A word or a part of one: all neighbouring tokens of a word that were not chosen, or one chosen or special token."""

    text: str  # before masking
    kind: str  # see KINDS
    seen: str  # what the model reads instead; as `text` where it reads that
    joined: bool  # no space before it: it continues the piece before


@dataclasses.dataclass(frozen=True)
class DecodedRow:
    """A row up to its padding. parts: (label, pieces) of each segment or document."""

    example: int | None
    source: str | None
    real: int  # tokens that are no padding
    length: int
    predictions: int
    label: str | None  # of the pair of segments, in words
    parts: list[tuple[str, list[Piece]]]


def printable(text: str) -> str:
    """The text with everything that does not show, or that moves what does (escape codes, line ends, turned writing), written as a code."""
    return "".join(letter if letter.isprintable() or letter in "\u200c\u200d" else ascii(letter)[1:-1] for letter in text)


def decode_rows(batch: dict[str, np.ndarray], tokenizer, rows: int, source_names: tuple[str, ...] = ()) -> list[DecodedRow]:
    """The first `rows` rows of a batch. tokenizer: as `data_pipeline.tokenization.tokenizers.load` gives. source_names: what `source_ids` number."""
    show = functools.cache(lambda token: surface(tokenizer, token))
    rows = min(rows, len(batch["input_ids"]))
    batch = {name: array[:rows] for name, array in batch.items()}
    original = original_ids(batch)
    by_row = ({name: array[row] for name, array in batch.items()} for row in range(rows))
    return [_decode(row, ids, tokenizer, show, source_names) for row, ids in zip(by_row, original)]


def surface(tokenizer, token: int) -> tuple[str, bool]:
    """(what a reader should see of a token, whether there is no space before it in the text)."""
    text, continues_word = tokenizer.surface(token)
    mark = SPACE_MARKS.get(tokenizer.kind)
    return text, not tokenizer.hf.id_to_token(token).startswith(mark) if mark else continues_word


def _decode(row: dict[str, np.ndarray], original: np.ndarray, tokenizer, show, source_names: tuple[str, ...]) -> DecodedRow:
    real = int(np.count_nonzero(row["segment_ids"]))
    chosen = set(row["mlm_positions"][row["mlm_weights"] > 0].tolist())
    label = next((words[int(row[name])] for name, words in LABELS.items() if name in row), None)
    return DecodedRow(
        example=int(row["example_ids"]) if "example_ids" in row else None,
        source=source_names[int(row["source_ids"])] if "source_ids" in row and source_names else None,
        real=real,
        length=len(original),
        predictions=len(chosen),
        label=label,
        parts=[
            (name, _pieces(row["input_ids"], original, start, stop, chosen, tokenizer, show))
            for name, start, stop in _parts(row, original, tokenizer, real)
        ],
    )


def _parts(row: dict[str, np.ndarray], original: np.ndarray, tokenizer, real: int) -> list[tuple[str, int, int]]:
    """(label, start, stop): a part ends behind each [SEP] and where `segment_ids` change."""
    segments = row["segment_ids"][:real]
    ends = (original[: real - 1] == tokenizer.special["sep"]) | (np.diff(segments) != 0)
    edges = [0, *(np.flatnonzero(ends) + 1).tolist(), real]
    pair = row["token_type_ids"][:real].any() and len(edges) == 3
    labels = ["A", "B"] if pair else [""] if len(edges) == 2 else [str(number) for number in range(1, len(edges))]
    return list(zip(labels, edges, edges[1:]))


def _pieces(seen: np.ndarray, original: np.ndarray, start: int, stop: int, chosen: set[int], tokenizer, show) -> list[Piece]:
    pieces: list[Piece] = []
    word: list[int] = []  # tokens of the last piece, if it is plain
    unk, borders = tokenizer.special["unk"], {tokenizer.special[name] for name in ("pad", "cls", "sep", "mask")}
    for position in range(start, stop):
        target, token = int(original[position]), int(seen[position])
        text, joined = show(target)
        joined = joined and target not in borders and position > start and int(original[position - 1]) not in borders
        if position in chosen:
            kind = "masked" if token == tokenizer.special["mask"] else "kept" if token == target else "replaced"
            pieces.append(Piece(printable(text), kind, printable(show(token)[0]), joined))
        elif target == unk or target in borders:
            pieces.append(Piece(printable(text), "special", printable(text), joined))
        elif joined and pieces[-1].kind == "plain":
            word.append(target)
            text = _join(word, show)
            pieces[-1] = dataclasses.replace(pieces[-1], text=text, seen=text)
        else:
            word = [target]
            text = _join(word, show)
            pieces.append(Piece(text, "plain", text, joined))
    for number, (one, following) in enumerate(zip(pieces, pieces[1:])):
        if one.kind == "plain" and one.text == SPACE and following.joined:  # the white space before it
            pieces[number] = dataclasses.replace(one, text="", seen="")
    return pieces


def _join(word: list[int], show) -> str:
    """The text of a word's tokens; a character whose bytes are parted among them is put together again, if they are all here."""
    texts = [show(token)[0] for token in word]
    text = "".join(texts[texts[0] == SPACE and len(texts) > 1 :])
    return printable(PARTS.sub(lambda match: _characters(match[1]), text) if len(word) > 1 else text)


def _characters(text: str) -> str:
    """<C3><A4><E2> -> ä<E2>."""
    decoded = bytes.fromhex(re.sub("<(?:0x)?|>", "", text)).decode(errors="surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda match: f"<{ord(match[0]) - 0xDC00:02X}>", decoded)
