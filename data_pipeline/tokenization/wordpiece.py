"""WordPiece as in BERT (Devlin et al. 2018, section 3). Enters: a directory with tokenizer.json or vocab.txt. Leaves: `Parts`.

The encoder gives the ids of the Hugging Face tokenizer at five to nine times its speed. BERT's tokenization never looks across a space, so
every distinct word (a run between spaces, U+0020) is encoded once, by the Hugging Face tokenizer's own parts, and kept as the bytes of its
ids; encoding text is then splitting at spaces, a dict look-up per word, and one join of bytes. White space other than U+0020, control
characters, accents and CJK stay inside a "word" and are the library's affair.
"""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import tokenizers as hf_tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from data_pipeline.tokenization.tokenizer_parts import (
    Parts,
    TokenizerError,
    check_added_tokens,
    check_special,
    config_files,
    finish_library,
    read_library,
    vocabulary_in_order,
)  # fmt: skip
from data_pipeline.tokenization.word_cache import Cache

# BERT's special tokens, in the order in which a trained vocabulary begins.
SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
CONTINUATION = "##"
_MAX_WORD = 100  # characters; longer words become [UNK], as in BERT

# Words of printable ASCII and typographic punctuation split as BERT's pre-tokenizer does: letters and digits hold together, every other
# character stands alone; of its normalizer only lower-casing concerns them. All other words take the library's whole, slow way.
_PLAIN_WORD = re.compile("[!-~“”‘’–—…«»]+")
_PIECES = re.compile("[0-9A-Za-z]+|[^0-9A-Za-z]")
_SENTENCE_END = "\n"


def build(vocabulary: list[str], lowercase: bool, strip_accents: bool | None = None, chinese: bool = True) -> Parts:
    ids = {token: number for number, token in enumerate(vocabulary)}
    hf = hf_tokenizers.Tokenizer(
        models.WordPiece(
            ids, unk_token=SPECIAL_TOKENS["unk"], max_input_chars_per_word=_MAX_WORD, continuing_subword_prefix=CONTINUATION
        )
    )
    hf.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    hf.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = SPECIAL_TOKENS["cls"], SPECIAL_TOKENS["sep"]
    hf.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=[(cls, ids[cls]), (sep, ids[sep])]
    )
    hf.decoder = decoders.WordPiece(prefix=CONTINUATION)
    hf.add_special_tokens(list(SPECIAL_TOKENS.values()))
    return _parts(hf)


def load_vocabulary(directory: Path, config: dict) -> Parts:
    """From vocab.txt: uncased if none of its words has a capital letter, unless the config says otherwise."""
    path = directory / "vocab.txt"
    try:
        vocabulary = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8 (byte {error.start})") from None
    if len(set(vocabulary)) != len(vocabulary):
        token = next(token for token, count in Counter(vocabulary).items() if count > 1)
        raise TokenizerError(f"{path} lists {token!r} more than once; every line must be another token")
    check_special(path, SPECIAL_TOKENS, set(vocabulary), "BERT")
    special = set(SPECIAL_TOKENS.values())
    has_capitals = any(token != token.lower() for token in vocabulary if token not in special)
    return build(
        vocabulary,
        lowercase=bool(config.get("do_lower_case", not has_capitals)),
        strip_accents=config.get("strip_accents"),
        chinese=bool(config.get("tokenize_chinese_chars", True)),
    )


def load_json(path: Path, content: dict) -> Parts:
    """content: of tokenizer.json, with a WordPiece model."""
    for part, expected in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        found = (content.get(part) or {}).get("type")
        if found != expected:
            raise TokenizerError(f"{path}: its {part} is {found}; WordPiece as in BERT has {expected}")
    check_added_tokens(path, content, set(SPECIAL_TOKENS.values()))
    check_special(path, SPECIAL_TOKENS, set(content["model"]["vocab"]), "BERT")
    return _parts(read_library(path))


def with_words(parts: Parts, words: list[str]) -> Parts:
    """The tokenizer with whole words as further pieces, numbered after its own."""
    content = json.loads(parts.hf.to_str())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = vocabulary | {word: number for number, word in enumerate(words, len(vocabulary))}
    return _parts(read_library(Path("tokenizer.json"), content))


def _parts(hf: hf_tokenizers.Tokenizer) -> Parts:
    finish_library(hf)
    vocabulary = vocabulary_in_order(hf)
    normalizer = hf.normalizer
    prefix = hf.model.continuing_subword_prefix
    settings = [normalizer.clean_text, normalizer.handle_chinese_chars, normalizer.strip_accents, normalizer.lowercase]
    return Parts(
        kind="wordpiece",
        hf=hf,
        encoder=WordPieceEncoder(hf, np.array([not token.startswith(prefix) for token in vocabulary], bool)),
        special=SPECIAL_TOKENS,
        extra_special=[],
        definition=["wordpiece", prefix, hf.model.unk_token, hf.model.max_input_chars_per_word, settings, vocabulary],
        surface=lambda token: (vocabulary[token].removeprefix(prefix), vocabulary[token].startswith(prefix)),
        files=config_files(
            "BertTokenizer",
            SPECIAL_TOKENS,
            do_lower_case=normalizer.lowercase,
            strip_accents=normalizer.strip_accents,
            tokenize_chinese_chars=normalizer.handle_chinese_chars,
        )
        | {"vocab.txt": "".join(f"{token}\n" for token in vocabulary).encode()},
    )


class WordPieceEncoder:
    """Encodes sentences with `hf`, a WordPiece tokenizer with BERT's normalizer and pre-tokenizer that encodes special tokens as text.

    is_word_start: bool [vocab_size], False for pieces that continue the word before them. BERT's words are those of `word_starts`.
    """

    def __init__(self, hf: hf_tokenizers.Tokenizer, is_word_start: np.ndarray):
        self.library = hf
        self._model = hf.model
        self._lowercase = hf.normalizer.lowercase
        self._is_word_start = is_word_start
        # The largest value marks sentence ends, so a vocabulary of 65,536 needs the wider type.
        self._dtype = np.dtype(np.uint16 if hf.get_vocab_size() < 65536 else np.uint32)
        self._mark = int(np.iinfo(self._dtype).max)
        self._pieces = Cache(self._encode_piece, {})
        self._words = Cache(self._encode_word, {"": b"", _SENTENCE_END: self._bytes([self._mark])})

    def encode_continuation(self, text: str) -> np.ndarray:
        return self.encode_sentences([text])[0]

    def encode_sentences(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids [T] (uint16 or uint32) of all sentences in a row, int64 [len(sentences)] exclusive ends, and bool [T] word starts."""
        if not sentences:
            return np.zeros(0, self._dtype), np.zeros(0, np.int64), np.zeros(0, bool)
        between = f" {_SENTENCE_END} "
        text = between.join(sentences)
        if text.count(_SENTENCE_END) >= len(sentences):
            text = between.join([sentence.replace(_SENTENCE_END, " ") for sentence in sentences])
        marked = np.frombuffer(b"".join(map(self._words.__getitem__, text.split(" "))), self._dtype)
        is_mark = marked == self._mark
        ends = np.append(np.flatnonzero(is_mark), len(marked)) - np.arange(len(sentences))
        ids = marked[~is_mark]
        return ids, ends, self._is_word_start[ids]

    def _encode_word(self, word: str) -> bytes:
        if _PLAIN_WORD.fullmatch(word):
            return b"".join(map(self._pieces.__getitem__, _PIECES.findall(word.lower() if self._lowercase else word)))
        return self._bytes(self.library.encode(word, add_special_tokens=False).ids)

    def _encode_piece(self, piece: str) -> bytes:
        return self._bytes([token.id for token in self._model.tokenize(piece)])

    def _bytes(self, ids: list[int]) -> bytes:
        return np.array(ids, self._dtype).tobytes()
