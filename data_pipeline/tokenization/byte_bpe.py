"""Byte-level BPE as in GPT-2 and RoBERTa (Radford et al. 2019, section 2.2; Liu et al. 2019, section 4.4).

Enters: a directory with tokenizer.json, or vocab.json and merges.txt. Leaves: `Parts`. Every byte has a token, so nothing is unknown.
"""

import itertools
import json
import re
from pathlib import Path

import tokenizers as hf_tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from data_pipeline.tokenization.tokenizer_parts import (
    Parts,
    TokenizerError,
    check_added_tokens,
    check_special,
    config_files,
    finish_library,
    read_json,
    read_library,
    special_tokens,
    vocabulary_in_order,
)  # fmt: skip
from data_pipeline.tokenization.word_cache import Cache, WordEncoder
from data_pipeline.tokenization.word_starts import continues_word

SPECIAL_TOKENS = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
# Classes of transformers whose vocab.json and merges.txt are cut by GPT-2's rule.
_CLASSES = ("", "Roberta", "GPT2", "Deberta", "Longformer", "Bart", "PreTrained", "TokenizersBackend")

# GPT-2 writes each byte as a character: printable Latin-1 as itself, the others from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_CHARACTER_OF_BYTE = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(0x100 + number) for number, byte in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))
}
_BYTE_OF_CHARACTER = {ord(character): byte for byte, character in _CHARACTER_OF_BYTE.items()}
_SPACE = _CHARACTER_OF_BYTE[0x20]

# Words of printable ASCII and what GPT-2's rule makes of them; other words take the library's whole, slow way.
_PLAIN_WORD = re.compile(" ?[!-~]+")
_PIECES = re.compile("'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^ 0-9A-Za-z]+")


def build(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], special: dict[str, str] = SPECIAL_TOKENS, add_prefix_space: bool = False
) -> hf_tokenizers.Tokenizer:
    hf = hf_tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    hf.decoder = decoders.ByteLevel()
    hf.post_processor = processors.RobertaProcessing(
        (special["sep"], vocabulary[special["sep"]]), (special["cls"], vocabulary[special["cls"]]), add_prefix_space=add_prefix_space
    )
    hf.add_special_tokens([AddedToken(token, lstrip=role == "mask", normalized=False) for role, token in special.items()])
    return hf


def load_json(path: Path, content: dict, config: dict) -> Parts:
    """content: of tokenizer.json, with a BPE model and a ByteLevel pre-tokenizer."""
    pre_tokenizer = content["pre_tokenizer"]
    model = content["model"]
    for what, found, wanted in (
        ("normalizer", (content.get("normalizer") or {}).get("type"), None),
        ("pre-tokenizer's use_regex", pre_tokenizer.get("use_regex", True), True),
        ("continuing_subword_prefix", model.get("continuing_subword_prefix") or None, None),
        ("end_of_word_suffix", model.get("end_of_word_suffix") or None, None),
        ("dropout", model.get("dropout"), None),
    ):
        if found != wanted:
            raise TokenizerError(f"{path}: its {what} is {found}; byte-level BPE as in GPT-2 and RoBERTa has {wanted}")
    special = special_tokens(config, SPECIAL_TOKENS)
    check_special(path, special, set(model["vocab"]), "byte-level BPE")
    check_added_tokens(path, content, {token["content"] for token in content["added_tokens"] if token.get("special")})
    return parts(read_library(path), special)


def load_files(directory: Path, config: dict) -> Parts:
    if not config["tokenizer_class"].startswith(_CLASSES[1:]) and config["tokenizer_class"]:
        raise TokenizerError(f"{directory}: {config['tokenizer_class']} does not cut words as RoBERTa does; put its tokenizer.json there")
    vocabulary = read_json(directory / "vocab.json")
    path = directory / "merges.txt"
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8 (byte {error.start})") from None
    merges = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#version") and number == 1 or not line:
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise TokenizerError(f"{path}, line {number}: {line!r} is not two tokens of vocab.json whose union is one")
        merges.append((pair[0], pair[1]))
    special = special_tokens(config, SPECIAL_TOKENS)
    check_special(directory / "vocab.json", special, set(vocabulary), "byte-level BPE")
    return parts(build(vocabulary, merges, special, bool(config.get("add_prefix_space"))), special)


def parts(hf: hf_tokenizers.Tokenizer, special: dict[str, str]) -> Parts:
    finish_library(hf)
    vocabulary = vocabulary_in_order(hf)
    lacking = [f"0x{byte:02x}" for byte, character in _CHARACTER_OF_BYTE.items() if hf.token_to_id(character) is None]
    if lacking:
        raise TokenizerError(f"the vocabulary lacks bytes ({', '.join(lacking[:5])}); text would be lost")
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in json.loads(hf.to_str())["model"]["merges"]]
    made = {*_CHARACTER_OF_BYTE.values(), *map("".join, merges), *special.values()}
    add_prefix_space = hf.pre_tokenizer.add_prefix_space
    ids = {token: number for number, token in enumerate(vocabulary)}
    return Parts(
        kind="byte_bpe",
        hf=hf,
        encoder=ByteBpeEncoder(hf, vocabulary),
        special=special,
        extra_special=[number for number, token in enumerate(vocabulary) if token not in made],
        definition=["byte_bpe", add_prefix_space, vocabulary, merges],
        surface=lambda token: _surface(vocabulary[token], vocabulary[token] in made and vocabulary[token] not in special.values()),
        files=config_files("RobertaTokenizer", special, add_prefix_space=add_prefix_space)
        | {
            "vocab.json": json.dumps(ids, ensure_ascii=False).encode() + b"\n",
            "merges.txt": "\n".join(["#version: 0.2", *(f"{left} {right}" for left, right in merges), ""]).encode(),
        },
    )


class ByteBpeEncoder(WordEncoder):
    """Encodes sentences with `hf`, a byte-level BPE tokenizer that encodes special tokens as text."""

    def __init__(self, hf: hf_tokenizers.Tokenizer, vocabulary: list[str]):
        super().__init__(len(vocabulary))
        self.library = hf
        self._model = hf.model
        self._prefix = " " if hf.pre_tokenizer.add_prefix_space else ""
        self._tokens = [_bytes(token) for token in vocabulary]
        self._pieces = Cache(self._encode_piece, {})

    def _encode(self, text: str) -> tuple[list[int], list[bytes], list[int]]:
        encoding = self.library.encode(text, add_special_tokens=False)
        return encoding.ids, [self._tokens[number] for number in encoding.ids], [start for start, _ in encoding.offsets]

    def _encode_word(self, word: str) -> tuple[list[int], list[bytes]]:
        if not _PLAIN_WORD.fullmatch(word):
            return super()._encode_word(word)
        if not word.startswith(" "):
            word = self._prefix + word
        if word.isalpha() or word[1:].isalpha() and word[0] == " ":
            ids = self._encode_piece(word)
        else:
            ids = list(itertools.chain.from_iterable(map(self._pieces.__getitem__, _PIECES.findall(word))))
        return ids, [self._tokens[number] for number in ids]

    def _encode_piece(self, piece: str) -> list[int]:
        return [token.id for token in self._model.tokenize(piece.replace(" ", _SPACE))]


def _bytes(token: str) -> bytes:
    """Empty for a special token in other characters, which no text becomes."""
    return token.translate(_BYTE_OF_CHARACTER).encode("latin-1", errors="ignore")


def _surface(token: str, is_text: bool) -> tuple[str, bool]:
    """Bytes that are no whole characters are shown as <E2><80>."""
    if not is_text:
        return token, False
    content = _bytes(token)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode(errors="surrogateescape")
        text = "".join(f"<{ord(character) - 0xDC00:02X}>" if 0xDC80 <= ord(character) <= 0xDCFF else character for character in text)
    return text.removeprefix(" ") or "␣", continues_word(content)
