"""Sentence splitting. Enters: the text of a document. Leaves: its sentences, which joined together hold every non-newline character.

White space between two sentences of a line stands at the front of the second, so that byte-level and SentencePiece tokenizers, whose tokens
begin with the space before a word, give the tokens of the whole line. A sentence that follows another one of its line without a space (as
in Chinese) is a `Continuation`, by which they know that it begins no word.

A line end always ends a sentence, as in google-research/bert's input format (one sentence, or here one paragraph, per line); within a
line, sentencex (Wikimedia; rules and abbreviation lists for about 300 languages) decides. It was chosen among eight libraries on English
Wikipedia paragraphs, one core of a busy machine: sentencex 40 MB/s, icu4py 28, blingfire 8, nupunkt-rs 6, nupunkt 4, sentence-splitter
0.7, syntok 0.5, pysbd 0.13. The fast rivals were worse: ICU splits after "Dr." and "e.g.", blingfire detaches `he asked.` from its
quotation, nupunkt rewrites white space.
"""

import functools
import re

import sentencex
from tokenizers.pre_tokenizers import BertPreTokenizer

# sentencex takes quadratic time in unclosed quotation marks, and panics on white space of more than one byte: both are kept from it.
MAX_LINE = 10_000
_PRE_TOKENIZER = BertPreTokenizer()
_SPACES = " \t\x0b\x0c\r\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_WIDE_SPACE = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")


class Continuation(str):
    """A sentence that follows the one before it in the same line, and does not begin with a space (U+0020)."""


def version() -> str:
    """Name and version of the splitter: part of a store's settings, since another version may split elsewhere."""
    import importlib.metadata

    return f"sentencex {importlib.metadata.version('sentencex')}"


def split(text: str, language: str = "en") -> list[str]:
    """The sentences of `text` in order, with the spaces before them. `language` is an ISO 639 code; an unknown one gets common rules."""
    sentences: list[str] = []
    for line in text.split("\n"):
        if not line:
            continue
        pieces = [line] if len(line) <= MAX_LINE else cut(line, MAX_LINE)
        found = [sentence for piece in pieces for sentence in _split_line(piece, language)]
        sentences += found if len(found) == 1 else _spaces_to_the_front(found)
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


def _spaces_to_the_front(pieces: list[str]) -> list[str]:
    """Sentences of one line from pieces with white space at their ends. At the end of the line it stays there.

    Without a space between them only punctuation parts sentences, and only what BERT's pre-tokenizer takes for it.
    """
    sentences: list[str] = []
    spaces = ""
    for piece in pieces:
        text = piece.rstrip(_SPACES)
        if not text:
            spaces += piece
            continue
        sentence = spaces + text
        if not sentences or sentence.startswith(" "):
            sentences.append(sentence)
        elif _stands_alone(sentences[-1][-1]):
            sentences.append(Continuation(sentence))
        else:
            sentences[-1] = type(sentences[-1])(sentences[-1] + sentence)
        spaces = piece[len(text) :]
    if not sentences:
        return [spaces]
    if spaces:
        sentences[-1] = type(sentences[-1])(sentences[-1] + spaces)
    return sentences


@functools.lru_cache(maxsize=10_000)
def _stands_alone(character: str) -> bool:
    return len(_PRE_TOKENIZER.pre_tokenize_str(f"a{character}")) == 2


def _split_line(line: str, language: str) -> list[str]:
    if line.isascii() or not _WIDE_SPACE.search(line):
        return sentencex.segment(language, line)
    sentences = []
    start = 0
    for sentence in sentencex.segment(language, _WIDE_SPACE.sub(" ", line)):
        sentences.append(line[start : start + len(sentence)])
        start += len(sentence)
    return sentences
