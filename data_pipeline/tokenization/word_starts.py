"""Where words begin, for every kind of tokenizer. Enters: the tokens of a text as UTF-8. Leaves: one bit per token.

A word is what BERT's pre-tokenizer makes: a run of characters that are neither white space nor punctuation nor CJK ideographs (letters,
digits, marks, symbols), or one punctuation mark, or one ideograph. White space belongs to the word after it. A token begins a word if the
character that it begins with does, or is white space; a token that begins inside a character never does, and what it holds besides does
not matter. Hence `Ġ` and a lone `▁` begin a word and what follows them continues it; `'t` begins one, and so does the `(b` of `a (b`.
"""

import functools
import unicodedata
from collections.abc import Sequence

_SPACE, _ALONE, _RUN = range(3)
_INSIDE = 3  # added to a character's kind in all its bytes but the first
# The ideographs that BERT's normalizer sets apart in the `tokenizers` library, which leaves out 2B820 to 2B91F.
_IDEOGRAPHS = (
    range(0x4E00, 0xA000), range(0x3400, 0x4DC0), range(0x20000, 0x2A6E0), range(0x2A700, 0x2B740), range(0x2B740, 0x2B820),
    range(0x2B920, 0x2CEB0), range(0xF900, 0xFB00), range(0x2F800, 0x2FA20),
)  # fmt: skip


def word_starts(tokens: Sequence[bytes]) -> list[bool]:
    """For each token of a text whether it begins a word. tokens: joined they are valid UTF-8; one may hold a part of a character."""
    if len(tokens) == 1:
        return [True]
    text = b"".join(tokens)
    kinds = text.translate(_ASCII) if text.isascii() else b"".join(map(_kinds, text.decode()))
    starts = []
    offset = 0
    for token in tokens:
        starts.append(not offset or kinds[offset - 1 : offset + 1] in _BEGINS)
        offset += len(token)
    return starts


def continues_word(token: bytes) -> bool:
    """Whether the token continues the word before it, as far as it can be told without its neighbours."""
    return _kind((token.decode(errors="replace") or " ")[0]) == _RUN


@functools.lru_cache(maxsize=100_000)
def _kinds(character: str) -> bytes:
    """The kind of the character, for each byte of its UTF-8."""
    kind = _kind(character)
    return bytes([kind] + [_INSIDE + kind] * (len(character.encode()) - 1))


def _kind(character: str) -> int:
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f":  # Python's own additions to Unicode's white space
        return _SPACE
    if unicodedata.category(character).startswith("P") or (character.isascii() and "!" <= character <= "~" and not character.isalnum()):
        return _ALONE
    return _ALONE if any(ord(character) in ideographs for ideographs in _IDEOGRAPHS) else _RUN


_ASCII = bytes(_kind(chr(byte)) for byte in range(128)) + bytes(128)
# The kinds of two neighbouring bytes where the second begins a word.
_BEGINS = {
    bytes([before, kind])
    for before in range(2 * _INSIDE)
    for kind in range(_INSIDE)
    if kind == _SPACE or before % _INSIDE == _ALONE or (kind == _ALONE and before % _INSIDE == _RUN)
}
