"""Tokenizers: training and loading, always in Hugging Face's file layout. WordPiece as in BERT (Devlin et al. 2018, section 3).

Enters: documents (training), or a directory with tokenizer.json or vocab.txt. Leaves: `Tokenizer`, and directories that stock
`transformers.AutoTokenizer` reads with equal ids. Text is text: a literal "[MASK]" in a corpus is split like any word, and never becomes
the special id.
"""

import dataclasses
import hashlib
import heapq
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tokenizers as hf_tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from data_pipeline import sentences
from data_pipeline.wordpiece import CONTINUATION, SPECIAL_TOKENS, TokenizerError, WordPieceEncoder
from data_pipeline.wordpiece_training import train_vocabulary

_MAX_WORD = 100  # characters; longer words become [UNK], as in BERT
_COVERAGE_CHARACTERS = 4_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A trained tokenizer. `special` maps pad, unk, cls, sep, mask to ids; `hash` changes with anything that can change an id."""

    kind: str
    vocab_size: int
    special: dict[str, int]
    hash: str
    is_word_start: np.ndarray  # bool [vocab_size]: False for pieces that continue the word before them
    hf: hf_tokenizers.Tokenizer
    encoder: WordPieceEncoder = dataclasses.field(repr=False)

    def encode(self, text: str) -> np.ndarray:
        """int32 [T]: the ids of `text`, without special tokens."""
        return self.encode_sentences([text])[0].astype(np.int32)

    def encode_sentences(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids [T] of all sentences in a row (unsigned), and int64 [len(sentences)]: each sentence's exclusive end."""
        return self.encoder.encode_sentences(sentences)

    def decode(self, ids: Iterable[int]) -> str:
        return self.hf.decode([int(token) for token in ids], skip_special_tokens=False)

    def save(self, directory: str | Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and vocab.txt; raises OSError if it cannot."""
        _save_wordpiece(self, Path(directory))


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How well a vocabulary fits a sample of text. A word is what BERT's pre-tokenizer makes: a run of letters, or a punctuation mark."""

    documents: int
    characters: int
    words: int
    tokens: int
    unknown: int  # words that became [UNK]

    @property
    def tokens_per_word(self) -> float:
        return self.tokens / max(1, self.words)

    @property
    def unknown_share(self) -> float:
        return self.unknown / max(1, self.words)

    def __str__(self) -> str:
        return f"{self.words:,} words: {self.tokens_per_word:.3f} tokens per word, {self.unknown_share:.4%} of words are [UNK]"


def train(
    documents: Iterable[str],
    directory: str | Path,
    kind: str = "wordpiece",
    vocab_size: int = 30522,
    lowercase: bool = True,
    sample_characters: int = 32_000_000,
) -> tuple[Tokenizer, Coverage]:
    """Trains on the documents of lowest hash, at most `sample_characters` of them, writes `directory` and measures the fit on that sample.

    The same documents in any order give the same files. Raises TokenizerError if `kind` is unknown, the vocabulary is too small for the
    alphabet, or there is no text.
    """
    _check_kind(kind)
    sample = _sample(documents, sample_characters)
    vocabulary = train_vocabulary(sample, vocab_size, lowercase)
    tokenizer = _wordpiece(vocabulary, lowercase=lowercase)
    tokenizer.save(directory)
    return tokenizer, coverage(tokenizer, sample)


def load(directory: str | Path) -> Tokenizer:
    """Reads tokenizer.json, or vocab.txt with an optional tokenizer_config.json.

    A bare vocab.txt is taken as uncased if none of its words has a capital letter. Raises TokenizerError if the directory holds no
    tokenizer of a known kind, or one that lacks a special token.
    """
    directory = Path(directory)
    if (directory / "tokenizer.json").is_file():
        return _load_json(directory / "tokenizer.json")
    if (directory / "vocab.txt").is_file():
        return _load_vocabulary(directory)
    why = "has neither tokenizer.json nor vocab.txt" if directory.is_dir() else "is not a directory"
    raise TokenizerError(f"no tokenizer at {directory}: it {why}. Train one with `bert-jax tokenizer`")


def coverage(tokenizer: Tokenizer, documents: Iterable[str], characters: int = _COVERAGE_CHARACTERS) -> Coverage:
    """Encodes documents until `characters` are seen."""
    count, seen, words, tokens, unknown = 0, 0, 0, 0, 0
    for document in documents:
        ids = tokenizer.encode(document)
        count += 1
        seen += len(document)
        words += int(tokenizer.is_word_start[ids].sum())
        tokens += len(ids)
        unknown += int((ids == tokenizer.special["unk"]).sum())
        if seen >= characters:
            break
    return Coverage(count, seen, words, tokens, unknown)


def _check_kind(kind: str) -> None:
    if kind != "wordpiece":
        raise TokenizerError(f"tokenizer kind {kind!r} is unknown; known kinds: wordpiece")


def _sample(documents: Iterable[str], characters: int) -> list[str]:
    """Documents of lowest hash: a sample that depends neither on their order nor on how many there are to come."""
    heap: list[tuple[int, str]] = []  # minus the hash, so that the highest hash leaves first
    held = 0
    bound = -(1 << 64)  # nothing beyond a document that had to leave may come in, or the order would matter
    for document in documents:
        # A giant document takes part in pieces, or the sample could be that document alone.
        for piece in sentences.cut(document, max(1, characters // 16)):
            key = -int.from_bytes(hashlib.blake2b(piece.encode(), digest_size=8).digest())
            if key <= bound:
                continue
            heapq.heappush(heap, (key, piece))
            held += len(piece)
            while held > characters:
                bound, dropped = heapq.heappop(heap)
                held -= len(dropped)
    return [document for _, document in sorted(heap, reverse=True)]


def _wordpiece(vocabulary: list[str], lowercase: bool, strip_accents: bool | None = None, chinese: bool = True) -> Tokenizer:
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
    return _finish(hf)


def _load_vocabulary(directory: Path) -> Tokenizer:
    path = directory / "vocab.txt"
    try:
        vocabulary = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8 (byte {error.start})") from None
    if len(set(vocabulary)) != len(vocabulary):
        token = next(token for token, count in Counter(vocabulary).items() if count > 1)
        raise TokenizerError(f"{path} lists {token!r} more than once; every line must be another token")
    _check_special(path, set(vocabulary))
    config_path = directory / "tokenizer_config.json"
    config = _read_json(config_path) if config_path.is_file() else {}
    special = set(SPECIAL_TOKENS.values())
    has_capitals = any(token != token.lower() for token in vocabulary if token not in special)
    return _wordpiece(
        vocabulary,
        lowercase=bool(config.get("do_lower_case", not has_capitals)),
        strip_accents=config.get("strip_accents"),
        chinese=bool(config.get("tokenize_chinese_chars", True)),
    )


def _load_json(path: Path) -> Tokenizer:
    content = _read_json(path)
    parts = {part: (content.get(part) or {}).get("type") for part in ("model", "normalizer", "pre_tokenizer")}
    expected = {"model": "WordPiece", "normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
    for part, kind in expected.items():
        if parts[part] != kind:
            raise TokenizerError(f"{path}: its {part} is {parts[part]}; wordpiece, the only known kind, has {kind}")
    special = set(SPECIAL_TOKENS.values())
    extra = [token["content"] for token in content.get("added_tokens", []) if token["content"] not in special]
    if extra:
        raise TokenizerError(f"{path} has added tokens ({', '.join(map(repr, extra[:5]))}), which are not supported; remove them")
    _check_special(path, set(content["model"]["vocab"]))
    try:
        hf = hf_tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{path} is not a tokenizer that this version of `tokenizers` reads: {error}") from None
    return _finish(hf)


def _finish(hf: hf_tokenizers.Tokenizer) -> Tokenizer:
    hf.no_truncation()
    hf.no_padding()
    hf.encode_special_tokens = True
    ids = hf.get_vocab()
    if sorted(ids.values()) != list(range(len(ids))):
        raise TokenizerError(f"the tokenizer's ids are not 0 to {len(ids) - 1} without gaps")
    vocabulary = sorted(ids, key=ids.__getitem__)
    normalizer = hf.normalizer
    definition = [
        "wordpiece",
        hf.model.continuing_subword_prefix,
        hf.model.unk_token,
        hf.model.max_input_chars_per_word,
        [normalizer.clean_text, normalizer.handle_chinese_chars, normalizer.strip_accents, normalizer.lowercase],
        vocabulary,
    ]
    return Tokenizer(
        kind="wordpiece",
        vocab_size=len(vocabulary),
        special={name: ids[token] for name, token in SPECIAL_TOKENS.items()},
        hash=hashlib.sha256(json.dumps(definition).encode()).hexdigest(),
        is_word_start=np.array([not token.startswith(hf.model.continuing_subword_prefix) for token in vocabulary], bool),
        hf=hf,
        encoder=WordPieceEncoder(hf, lowercase=normalizer.lowercase),
    )


def _save_wordpiece(tokenizer: Tokenizer, directory: Path) -> None:
    normalizer = tokenizer.hf.normalizer
    named = {f"{name}_token": token for name, token in SPECIAL_TOKENS.items()}
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": normalizer.lowercase,
        "strip_accents": normalizer.strip_accents,
        "tokenize_chinese_chars": normalizer.handle_chinese_chars,
        "model_max_length": 512,
        **named,
    }
    ids = tokenizer.hf.get_vocab()
    files = {
        "vocab.txt": "".join(f"{token}\n" for token in sorted(ids, key=ids.__getitem__)),
        "special_tokens_map.json": json.dumps(named, indent=2) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        "tokenizer.json": tokenizer.hf.to_str(pretty=True) + "\n",
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        temporary = directory / f"{name}.tmp"
        temporary.write_text(content, encoding="utf-8", newline="\n")
        os.replace(temporary, directory / name)


def _check_special(path: Path, vocabulary: set[str]) -> None:
    missing = [token for token in SPECIAL_TOKENS.values() if token not in vocabulary]
    if missing:
        raise TokenizerError(f"{path} has no {', '.join(missing)}; a BERT tokenizer needs {', '.join(SPECIAL_TOKENS.values())}")


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} holds no JSON object")
    return content
