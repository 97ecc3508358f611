"""Examples -> token ids with labels. Enters: `Examples` and a tokenizer. Leaves: `Features`, ragged rows that batches.py pads.

Ids are those of transformers' tokenizer(text, pair, truncation="longest_first", max_length=...); of questions with their passages, those of
truncation="only_second" with stride and overflowing tokens; of words, those of is_split_into_words=True. But text is text: a literal
"[MASK]" is split like any word.
"""

import dataclasses

import numpy as np

from data_pipeline.tasks.examples import Answer, Examples
from data_pipeline.tasks.task_data import TaskData, TaskDataError
from data_pipeline.tasks.token_rows import Layout, Texts, TokenRows, assemble, joined, layout_of, truncate_longest_first, within

IGNORED = -100  # the label of a token that has none
_EXAMPLES_AT_A_TIME = 8192


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """R examples (windows of passages for "span") as token ids.

    towers: by the prefix of their fields: "" for all kinds; "pair_" and "negative_" too for "embedding". Each has R rows, but "choice"
      `choices` rows for an example, one after the other.
    labels: int32 [R] classes, or the right choice; float32 [R] numbers; float32 [R, classes]; for "tokens" int32 [T] beside the ids of the
      only tower, IGNORED everywhere but at the first sub-word of each word. None without labels, and for "span".
    first_words: for "tokens" int32 [T]: the word's number at its first sub-word, else -1.
    examples: int64 [R]: the example's number. offsets: for "span" int32 [T, 2]: the passage's characters that a token stands for, -1
      outside of the passage.
    start_positions, end_positions: for "span" int32 [R]: the columns of the answer's first and last token; 0 ([CLS]) where it is not in the
      window.
    truncated: how many examples (of "span": none) lost tokens to the length.
    """

    kind: str
    towers: dict[str, TokenRows]
    pad: int
    examples: np.ndarray
    labels: np.ndarray | None = None
    first_words: np.ndarray | None = None
    offsets: np.ndarray | None = None
    start_positions: np.ndarray | None = None
    end_positions: np.ndarray | None = None
    choices: int = 1
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.examples)

    def lengths(self) -> np.ndarray:
        """int64 [R]: of the longest of a feature's rows, over choices and towers."""
        return np.max([rows.lengths.reshape(-1, self.choices).max(1) for rows in self.towers.values()], 0)


def encode(examples: Examples, tokenizer, task: TaskData, max_length: int, *, doc_stride: int = 128) -> Features:
    """Token ids of all examples, with the special tokens, each row `max_length` long at most.

    tokenizer: a `data_pipeline.tokenization.tokenizers.Tokenizer`.
    doc_stride: the tokens that two windows of a passage share, as transformers counts; google-research/bert's doc_stride is how far a
      window lies behind the one before.

    Raises TaskDataError where the length leaves no room."""
    layout = layout_of(tokenizer)
    if max_length < layout.added(is_pair=True) + 2:
        raise TaskDataError(f"max_length={max_length} leaves no room for a pair of texts and {layout.added(is_pair=True)} special tokens")
    if examples.kind != task.kind:
        raise TaskDataError(f"examples of kind {examples.kind!r} do not fit the task's {task.kind!r}")
    common = {"kind": task.kind, "pad": layout.pad}
    if task.kind == "span":
        return Features(**common, **_spans(examples, tokenizer, layout, max_length, doc_stride))
    numbers = np.arange(len(examples))
    if task.kind == "tokens":
        return Features(**common, examples=numbers, **_words(examples, tokenizer, layout, max_length))
    if task.kind == "embedding":
        sides = {"": examples.texts, "pair_": examples.pairs, "negative_": examples.negatives}
        found = {prefix: _rows(tokenizer, layout, texts, None, max_length) for prefix, texts in sides.items() if texts is not None}
        towers, cut = {prefix: rows for prefix, (rows, _) in found.items()}, np.any([is_cut for _, is_cut in found.values()], 0)
    elif task.kind == "choice":
        count = len(examples.choices[0])
        texts = [text for text in examples.texts for _ in range(count)]
        rows, cut = _rows(tokenizer, layout, texts, [choice for choices in examples.choices for choice in choices], max_length)
        towers, cut = {"": rows}, cut.reshape(-1, count).any(1)
        common["choices"] = count
    else:
        rows, cut = _rows(tokenizer, layout, examples.texts, examples.pairs, max_length)
        towers = {"": rows}
    return Features(**common, towers=towers, examples=numbers, labels=examples.labels, truncated=int(cut.sum()))


def _texts(tokenizer, texts: list[str]) -> Texts:
    ids, ends, _ = tokenizer.encode_sentences(texts)
    return Texts(ids, ends)


def _rows(tokenizer, layout: Layout, texts: list[str], pairs: list[str] | None, max_length: int) -> tuple[TokenRows, np.ndarray]:
    """The rows, and bool [R]: something of it was cut off."""
    room = max_length - layout.added(pairs is not None)
    parts, cut = [], []
    for start in range(0, len(texts), _EXAMPLES_AT_A_TIME):
        stop = start + _EXAMPLES_AT_A_TIME
        first = _texts(tokenizer, texts[start:stop])
        if pairs is None:
            kept = np.minimum(first.lengths, room)
            parts.append(assemble(layout, (first.ids, first.starts, kept)))
            cut.append(kept < first.lengths)
        else:
            second = _texts(tokenizer, pairs[start:stop])
            kept, kept_second = truncate_longest_first(first.lengths, second.lengths, room)
            parts.append(assemble(layout, (first.ids, first.starts, kept), (second.ids, second.starts, kept_second)))
            cut.append((kept < first.lengths) | (kept_second < second.lengths))
    return joined(parts), np.concatenate(cut)


def _words(examples: Examples, tokenizer, layout: Layout, max_length: int) -> dict:
    """Every word is encoded alone, as behind a space."""
    before = " " if tokenizer.kind == "byte_bpe" else ""
    room = max_length - layout.added(is_pair=False)
    parts, first_words, labels, truncated = [], [], [], 0
    for start in range(0, len(examples), _EXAMPLES_AT_A_TIME):
        sentences = examples.words[start : start + _EXAMPLES_AT_A_TIME]
        words = _texts(tokenizer, [before + word for sentence in sentences for word in sentence])
        counts = np.array([len(sentence) for sentence in sentences])
        stops = np.cumsum(counts)
        ends = words.ends[stops - 1]
        lengths = np.diff(ends, prepend=0)
        kept = np.minimum(lengths, room)
        rows = assemble(layout, (words.ids, ends - lengths, kept))
        # Of each token of the text: the number of the word in its sentence if it is its word's first, else -1.
        numbers = np.full(len(words.ids), -1, np.int32)
        has_tokens = words.lengths > 0
        numbers[words.starts[has_tokens]] = within(np.zeros_like(counts), counts)[has_tokens]
        of_rows = np.full(len(rows.ids), -1, np.int32)
        targets, sources = within(rows.bounds[:-1] + 1, kept), within(ends - lengths, kept)
        of_rows[targets] = numbers[sources]
        parts.append(rows)
        first_words.append(of_rows)
        truncated += int((kept < lengths).sum())
        if examples.labels is not None:
            of_words = np.concatenate(examples.labels[start : start + _EXAMPLES_AT_A_TIME])
            is_first = of_rows >= 0
            row_of_token = np.repeat(np.arange(len(rows)), rows.lengths)
            of_tokens = np.full(len(rows.ids), IGNORED, np.int32)
            of_tokens[is_first] = of_words[(stops - counts)[row_of_token[is_first]] + of_rows[is_first]]
            labels.append(of_tokens)
    return {
        "towers": {"": joined(parts)},
        "first_words": np.concatenate(first_words),
        "labels": np.concatenate(labels) if labels else None,
        "truncated": truncated,
    }


def _spans(examples: Examples, tokenizer, layout: Layout, max_length: int, doc_stride: int) -> dict:
    """Windows of passages, each behind the whole question."""
    parts, numbers, offsets, starts, ends = [], [], [], [], []
    for start in range(0, len(examples), _EXAMPLES_AT_A_TIME):
        chunk = range(start, min(start + _EXAMPLES_AT_A_TIME, len(examples)))
        questions = _texts(tokenizer, [examples.texts[number] for number in chunk])
        passages = _passages(tokenizer, [examples.pairs[number] for number in chunk])
        rooms = max_length - layout.added(is_pair=True) - questions.lengths
        if rooms.min() <= doc_stride:
            worst = int(np.argmin(rooms))
            raise TaskDataError(
                f"question {examples.ids[start + worst]} has {questions.lengths[worst]} tokens and leaves {max(0, rooms[worst])} of "
                f"max_length={max_length} for the passage; that must be more than doc_stride={doc_stride}: raise the one or lower the other"
            )
        lengths = np.array([len(ids) for ids, _ in passages])
        counts = 1 + np.maximum(0, -(-(lengths - rooms) // (rooms - doc_stride)))
        example = np.repeat(np.arange(len(chunk)), counts)
        begins = within(np.zeros_like(counts), counts) * (rooms - doc_stride)[example]
        kept = np.minimum(lengths[example] - begins, rooms[example])
        passage_starts = np.cumsum(lengths) - lengths
        passage_ids = np.concatenate([ids for ids, _ in passages]).astype(questions.ids.dtype)
        passage_offsets = np.concatenate([of_passage for _, of_passage in passages])
        sources = passage_starts[example] + begins
        rows = assemble(layout, (questions.ids, questions.starts[example], questions.lengths[example]), (passage_ids, sources, kept))
        first_columns = questions.lengths[example] + 1 + layout.separators
        of_rows = np.full((len(rows.ids), 2), -1, np.int32)
        of_rows[within(rows.bounds[:-1] + first_columns, kept)] = passage_offsets[within(sources, kept)]
        if examples.answers is not None:
            found = [_answer_tokens(passages[number][1], examples.answers[start + number]) for number in range(len(chunk))]
            first, last = np.array(found)[example].T
            is_inside = (first >= begins) & (last < begins + kept) & (first >= 0)
            starts.append(np.where(is_inside, first - begins + first_columns, 0))
            ends.append(np.where(is_inside, last - begins + first_columns, 0))
        parts.append(rows)
        numbers.append(example + start)
        offsets.append(of_rows)
    return {
        "towers": {"": joined(parts)},
        "examples": np.concatenate(numbers),
        "offsets": np.concatenate(offsets),
        "start_positions": np.concatenate(starts).astype(np.int32) if starts else None,
        "end_positions": np.concatenate(ends).astype(np.int32) if ends else None,
    }


def _passages(tokenizer, passages: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids and offsets. Questions about one passage share its arrays."""
    distinct = list(dict.fromkeys(passages))
    encoded = dict(zip(distinct, tokenizer.encode_with_offsets(distinct), strict=True))
    return [encoded[passage] for passage in passages]


def _answer_tokens(offsets: np.ndarray, answers: tuple[Answer, ...]) -> tuple[int, int]:
    """The first and the last token of the first answer in its passage; (-1, -1) without one."""
    if not answers:
        return -1, -1
    begin, text = answers[0]
    touched = np.flatnonzero((offsets[:, 1] > begin) & (offsets[:, 0] < begin + len(text)))
    return (int(touched[0]), int(touched[-1])) if len(touched) else (-1, -1)
