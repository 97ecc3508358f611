"""Sentence splitting. Enters: the text of a document. Leaves: its sentences, which joined together hold every non-newline character.

A line end always ends a sentence, as in google-research/bert's input format (one sentence, or here one paragraph, per line); within a
line, sentencex (Wikimedia; rules and abbreviation lists for about 300 languages) decides. It was chosen among eight libraries on English
Wikipedia paragraphs, one core of a busy machine: sentencex 40 MB/s, icu4py 28, blingfire 8, nupunkt-rs 6, nupunkt 4, sentence-splitter
0.7, syntok 0.5, pysbd 0.13. The fast rivals were worse: ICU splits after "Dr." and "e.g.", blingfire detaches `he asked.` from its
quotation, nupunkt rewrites white space.
"""

import re

import sentencex

# sentencex takes quadratic time in unclosed quotation marks, and panics on white space of more than one byte: both are kept from it.
MAX_LINE = 10_000
_WIDE_SPACE = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")


def version() -> str:
    """Name and version of the splitter: part of a store's settings, since another version may split elsewhere."""
    import importlib.metadata

    return f"sentencex {importlib.metadata.version('sentencex')}"


def split(text: str, language: str = "en") -> list[str]:
    """The sentences of `text` in order, trailing spaces included. `language` is an ISO 639 code; an unknown one gets common rules."""
    sentences: list[str] = []
    for line in text.split("\n"):
        if not line:
            continue
        if len(line) > MAX_LINE:
            for piece in cut(line, MAX_LINE):
                sentences += _split_line(piece, language)
        else:
            sentences += _split_line(line, language)
    return sentences


def cut(text: str, limit: int) -> list[str]:
    """Cuts `text` into pieces of at most `limit` characters, after white space where the piece has any. The pieces join to `text`."""
    pieces = []
    start = 0
    while len(text) - start > limit:
        end = start + limit
        after_space = max(text.rfind(" ", start, end), text.rfind("\n", start, end)) + 1
        if after_space > start:
            end = after_space
        pieces.append(text[start:end])
        start = end
    pieces.append(text[start:])
    return pieces


def _split_line(line: str, language: str) -> list[str]:
    if line.isascii() or not _WIDE_SPACE.search(line):
        return sentencex.segment(language, line)
    sentences = []
    start = 0
    for sentence in sentencex.segment(language, _WIDE_SPACE.sub(" ", line)):
        sentences.append(line[start : start + len(sentence)])
        start += len(sentence)
    return sentences
