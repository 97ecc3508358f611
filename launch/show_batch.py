"""A masked batch as a person would want to see it: the words, the masks, the targets, the segments."""

import shutil

import numpy as np

MASK, RANDOM, KEPT, DIM, RESET = "\033[1;35m", "\033[1;31m", "\033[1;36m", "\033[2m", "\033[0m"


def show_batch(batch: dict[str, np.ndarray], tokenizer, *, rows: int, color: bool) -> str:
    """The first `rows` rows of a batch as text. tokenizer: with `hf` and `special`, as `data_pipeline.tokenizers.load` gives."""
    paint = (lambda code, text: f"{code}{text}{RESET}") if color else (lambda code, text: text)
    width = min(shutil.get_terminal_size((120, 40)).columns, 140)
    legend = f"{paint(MASK, '[word]')} masked   {paint(RANDOM, '[word<-drawn]')} replaced at random   {paint(KEPT, '[=word]')} chosen but kept"
    blocks = [legend]
    for row in range(min(rows, len(batch["input_ids"]))):
        blocks.append(_row({name: array[row] for name, array in batch.items()}, tokenizer, paint, width))
    return "\n\n".join(blocks)


def _row(row: dict[str, np.ndarray], tokenizer, paint, width: int) -> str:
    real = int(np.count_nonzero(row["segment_ids"]))
    used = row["mlm_weights"] > 0
    targets = dict(zip(row["mlm_positions"][used].tolist(), row["mlm_targets"][used].tolist()))
    name = tokenizer.hf.id_to_token
    title = f"example {row['example_ids']}" if "example_ids" in row else "row"
    facts = [f"{real} of {len(row['input_ids'])} tokens", f"{len(targets)} to predict"]
    if "nsp_labels" in row:
        facts.append("B is random" if row["nsp_labels"] else "B follows A")
    lines = [paint(DIM, f"── {title}: {', '.join(facts)}")]
    for label, start, stop in _parts(row, real):
        words: list[tuple[str, str | None]] = []  # (text, colour)
        for position in range(start, stop):
            token = int(row["input_ids"][position])
            shown = name(token)
            if position in targets:
                target = name(targets[position])
                if token == tokenizer.special["mask"]:
                    words.append((f"[{target}]", MASK))
                elif shown == target:
                    words.append((f"[={target}]", KEPT))
                else:
                    words.append((f"[{target}<-{shown}]", RANDOM))
            elif shown.startswith("##") and words and words[-1][1] is None:
                words[-1] = (words[-1][0] + shown[2:], None)
            else:
                words.append((shown, None))
        lines += _wrap(label, words, paint, width)
    return "\n".join(lines)


def _wrap(label: str, words: list[tuple[str, str | None]], paint, width: int) -> list[str]:
    """Lines of at most `width` visible characters; colours have no width."""
    lines, used = [label], len(label)
    for text, colour in words:
        if used + len(text) + 1 > width:
            lines.append(" " * len(label))
            used = len(label)
        lines[-1] += (paint(colour, text) if colour else text) + " "
        used += len(text) + 1
    return lines


def _parts(row: dict[str, np.ndarray], real: int) -> list[tuple[str, int, int]]:
    """(label, start, stop) of what is printed on lines of its own: segments A and B, or the documents of a packed row."""
    types = row["token_type_ids"][:real]
    if types.any():
        first = int(np.argmax(types))
        return [("A: ", 0, first), ("B: ", first, real)]
    segments = row["segment_ids"][:real]
    edges = [0, *(np.flatnonzero(np.diff(segments)) + 1).tolist(), real]
    if len(edges) == 2:
        return [("   ", 0, real)]
    return [(f"{number}: ", start, stop) for number, (start, stop) in enumerate(zip(edges, edges[1:]), 1)]
