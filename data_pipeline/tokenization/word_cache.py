"""Encoding by remembered words. Enters: sentences. Leaves: the library's ids, sentence ends and word starts, many times faster.

Where a tokenizer never looks across a space (U+0020) that follows a word, every distinct word, with the white space before it, is encoded
once and remembered; encoding text is then one regular expression, a dict look-up per word, and one join of bytes.
"""

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from data_pipeline.tokenization.sentences import Continuation
from data_pipeline.tokenization.word_starts import word_starts

# Distinct words kept, about 50 MB. A full cache is emptied: the frequent words come back within a megabyte of text.
CACHE_WORDS = 250_000
# Longer words are rare and would break the cache's memory bound.
CACHE_WORD_LENGTH = 64

_LINE_END = "\n"
# A word with the white space before it; it goes on after white space other than U+0020. The first pattern is the same where there is none.
_ODD = "\t\x0b\x0c\r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_ODD_SPACE = re.compile(f"[{_ODD}]")
_PLAIN_WORDS = re.compile(r"\n| *[^ \n]+| +")
_WORDS = re.compile(rf"\n|[ {_ODD}]*[^ \n{_ODD}]+(?:[{_ODD}][ {_ODD}]*[^ \n{_ODD}]*)*|[ {_ODD}]+")
_START = 1 << 31  # the bit beside an id that tells a word's first token
_MARK = (1 << 32) - 1  # ends a sentence


class Cache(dict):
    """Word -> bytes of its ids. A missing word is encoded and kept; `fixed` entries stay for ever."""

    def __init__(self, encode: Callable[[str], bytes], fixed: dict[str, bytes]):
        super().__init__(fixed)
        self._encode = encode
        self._fixed = fixed

    def __missing__(self, word: str) -> bytes:
        ids = self._encode(word)
        if len(word) <= CACHE_WORD_LENGTH:
            if len(self) >= CACHE_WORDS:
                self.clear()
                self.update(self._fixed)
            self[word] = ids
        return ids


def count_words(documents: Iterable[str]) -> Counter[str]:
    """How often each word occurs, with the white space before it."""
    words: Counter[str] = Counter()
    for document in documents:
        words.update(_WORDS.findall(document))
    del words[_LINE_END]
    return words


class WordEncoder:
    """Encodes sentences by words. A kind of tokenizer says how a text is encoded (`_encode`), and perhaps a faster way for words.

    Sentences that continue one another without white space (`Continuation`) are encoded together, and each token belongs to the sentence
    in which its first character lies. remembers: False where the tokenizer looks across spaces; every line then goes to the library.
    """

    def __init__(self, vocab_size: int, remembers: bool = True):
        self._dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        self._remembers = remembers
        self._words = Cache(self._packed_word, {_LINE_END: struct.pack("=I", _MARK)})

    def _encode(self, text: str) -> tuple[list[int], list[bytes], list[int]]:
        """Ids, the same tokens as UTF-8, white space included, and the offset in `text` at which each begins."""
        raise NotImplementedError

    def _encode_word(self, word: str) -> tuple[list[int], list[bytes]]:
        ids, tokens, _ = self._encode(word)
        return ids, tokens

    def encode_continuation(self, text: str) -> np.ndarray:
        return self.encode_sentences([text])[0]

    def encode_sentences(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As in `Encoder`."""
        if not sentences:
            return np.zeros(0, self._dtype), np.zeros(0, np.int64), np.zeros(0, bool)
        marked = np.concatenate(self._marked(sentences))
        is_mark = marked == _MARK
        packed = marked[~is_mark]
        ends = np.flatnonzero(is_mark) - np.arange(len(sentences))
        return (packed & (_START - 1)).astype(self._dtype), ends, packed >= _START

    def _marked(self, sentences: list[str]) -> list[np.ndarray]:
        """uint32 arrays that join to the packed tokens, with a mark after each sentence."""
        text = _LINE_END.join(sentences) + _LINE_END
        if self._remembers and Continuation not in set(map(type, sentences)) and text.count(_LINE_END) == len(sentences):
            return [self._marked_words(text)]
        arrays = []
        plain: list[str] = []
        for line in _lines(sentences):
            if self._remembers and len(line) == 1 and _LINE_END not in line[0]:
                plain.append(line[0] + _LINE_END)
            else:
                arrays += [self._marked_words("".join(plain)), self._marked_line(line)]
                plain = []
        return [*arrays, self._marked_words("".join(plain))]

    def _marked_words(self, text: str) -> np.ndarray:
        words = _WORDS if _ODD_SPACE.search(text) else _PLAIN_WORDS
        return np.frombuffer(b"".join(map(self._words.__getitem__, words.findall(text))), np.uint32)

    def _marked_line(self, line: list[str]) -> np.ndarray:
        ids, tokens, offsets = self._encode("".join(line))
        before = np.searchsorted(np.maximum.accumulate(np.array(offsets, np.int64)), np.cumsum([len(sentence) for sentence in line]))
        before[-1] = len(ids)
        return np.insert(np.frombuffer(_packed(ids, tokens), np.uint32), before, _MARK)

    def _packed_word(self, word: str) -> bytes:
        return _packed(*self._encode_word(word))


def _packed(ids: list[int], tokens: list[bytes]) -> bytes:
    packed = [number | _START if starts else number for number, starts in zip(ids, word_starts(tokens))]
    return struct.pack(f"={len(packed)}I", *packed)


def _lines(sentences: list[str]) -> list[list[str]]:
    lines: list[list[str]] = []
    for sentence in sentences:
        if lines and type(sentence) is Continuation:
            lines[-1].append(sentence)
        else:
            lines.append([sentence])
    return lines
