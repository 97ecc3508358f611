"""Tokenizers: training and loading, always in Hugging Face's file layout: WordPiece, byte-level BPE, SentencePiece.

Enters: documents (training), or a directory. Leaves: `Tokenizer`, and directories that stock `transformers.AutoTokenizer` reads with equal
ids. Text is text: a literal "[MASK]" in a corpus is split like any word, and never becomes the special id.
"""

import dataclasses
import hashlib
import heapq
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tokenizers as hf_tokenizers

from data_pipeline.tokenization import byte_bpe, byte_bpe_training, sentencepiece_model, sentencepiece_training, sentences, wordpiece
from data_pipeline.tokenization.tokenizer_parts import Parts, TokenizerError, read_config, read_json, write_files
from data_pipeline.tokenization.wordpiece_training import train_vocabulary

__all__ = ["DEFAULT_VOCAB_SIZES", "Coverage", "Tokenizer", "TokenizerError", "coverage", "load", "train"]

# By kind: those of BERT, RoBERTa and ALBERT.
DEFAULT_VOCAB_SIZES = {"wordpiece": 30_522, "byte_bpe": 50_265, "sentencepiece_unigram": 30_000, "sentencepiece_bpe": 30_000}
_COVERAGE_CHARACTERS = 4_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A trained tokenizer. `special` maps pad, unk, cls, sep, mask to ids; `hash` changes with anything that can change an id.

    `special_ids` are all ids, sorted, that are to be neither masked nor drawn as replacements: those, control pieces, and fillers that no
    text becomes. `mask_token` is the text of the mask. `hf` is the library's tokenizer, for names of ids.
    """

    kind: str
    vocab_size: int
    special: dict[str, int]
    special_ids: tuple[int, ...]
    mask_token: str
    hash: str
    hf: hf_tokenizers.Tokenizer
    parts: Parts = dataclasses.field(repr=False)

    def encode(self, text: str, *, continues: bool = False) -> np.ndarray:
        """int32 [T]: the ids of `text`, without special tokens.

        continues: the text is not the beginning of a line; SentencePiece then puts no beginning of a word in front of it.
        """
        encoder = self.parts.encoder
        return (encoder.encode_continuation(text) if continues else encoder.encode_sentences([text])[0]).astype(np.int32)

    def encode_sentences(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids [T] of all sentences in a row (unsigned), int64 [len(sentences)] exclusive ends, and bool [T]: the token begins a word.

        Sentences as `data_pipeline.tokenization.sentences` splits them have the tokens of the lines that they come from.
        """
        return self.parts.encoder.encode_sentences(sentences)

    def encode_with_offsets(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each text the ids that `encode` gives, int32 [T], and int32 [T, 2]: the characters of the text, from and to, that each stands for.

        White space in front of a word may count as the word's, or as no token's."""
        encodings = self.parts.encoder.library.encode_batch(texts, add_special_tokens=False)
        return [(np.array(found.ids, np.int32), np.array(found.offsets, np.int32).reshape(-1, 2)) for found in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        return self.hf.decode([int(token) for token in ids], skip_special_tokens=False)

    def surface(self, token: int) -> tuple[str, bool]:
        """The text of a token for a reader, and whether it continues the word before it, as far as the token alone tells."""
        return self.parts.surface(int(token))

    def save(self, directory: str | Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and the kind's own files; OSError if it cannot."""
        write_files(Path(directory), self.parts.files | {"tokenizer.json": f"{self.hf.to_str(pretty=True)}\n".encode()})


@dataclasses.dataclass(frozen=True)
class Coverage:
    """How well a vocabulary fits a sample of text. A word is what BERT's pre-tokenizer makes: a run of letters, or a punctuation mark."""

    documents: int
    characters: int
    words: int
    tokens: int
    unknown: int  # tokens that are unk: whole words in WordPiece, characters in SentencePiece
    unknown_token: str

    @property
    def tokens_per_word(self) -> float:
        return self.tokens / max(1, self.words)

    @property
    def unknown_share(self) -> float:
        return self.unknown / max(1, self.words)

    def __str__(self) -> str:
        unknown = f"{self.unknown_share:.4%} of words are {self.unknown_token}"
        return f"{self.words:,} words: {self.tokens_per_word:.3f} tokens per word, {unknown}"


def train(
    documents: Iterable[str],
    directory: str | Path,
    kind: str = "wordpiece",
    vocab_size: int | None = None,
    lowercase: bool | None = None,
    sample_characters: int = 32_000_000,
) -> tuple[Tokenizer, Coverage]:
    """Trains on the documents of lowest hash, at most `sample_characters` of them, writes `directory` and measures the fit on that sample.

    kind: one of DEFAULT_VOCAB_SIZES, which has the default of `vocab_size`. lowercase: also drops accents; by default all kinds but
    byte_bpe do, which cannot. The same documents in any order give the same files. Raises TokenizerError if `kind` is unknown, the
    vocabulary is too small for the alphabet, or there is no text.
    """
    if kind not in DEFAULT_VOCAB_SIZES:
        raise TokenizerError(f"tokenizer kind {kind!r} is unknown; known kinds: {', '.join(DEFAULT_VOCAB_SIZES)}")
    if kind == "byte_bpe" and lowercase:
        raise TokenizerError("byte_bpe keeps case and accents, as RoBERTa does; for lower case choose another kind")
    vocab_size = DEFAULT_VOCAB_SIZES[kind] if vocab_size is None else vocab_size
    lowercase = lowercase is not False
    sample = _sample(documents, sample_characters)
    if kind == "wordpiece":
        tokenizer = tokenizer_of(wordpiece.build(train_vocabulary(sample, vocab_size, lowercase), lowercase=lowercase))
        tokenizer.save(directory)
    elif kind == "byte_bpe":
        tokenizer = tokenizer_of(byte_bpe.parts(byte_bpe.build(*byte_bpe_training.train(sample, vocab_size)), byte_bpe.SPECIAL_TOKENS))
        tokenizer.save(directory)
    else:
        model = sentencepiece_training.train(sample, vocab_size, kind.removeprefix("sentencepiece_"), lowercase)
        path = Path(directory) / "spiece.model"
        write_files(Path(directory), {path.name: model})
        config = {"tokenizer_class": "", "do_lower_case": lowercase, "keep_accents": not lowercase}
        tokenizer = tokenizer_of(sentencepiece_model.load_model(path, config))
        tokenizer.save(directory)
    return tokenizer, coverage(tokenizer, sample)


def load(directory: str | Path) -> Tokenizer:
    """Reads tokenizer.json, or vocab.txt, or vocab.json and merges.txt, or a SentencePiece model, with an optional tokenizer_config.json.

    A bare vocab.txt is taken as uncased if none of its words has a capital letter. Raises TokenizerError if the directory holds no
    tokenizer of a known kind, or one that lacks a special token.
    """
    directory = Path(directory)
    try:
        return _load(directory)
    except (OSError, ImportError, MemoryError):
        raise
    except TokenizerError as error:
        raise error if str(directory) in str(error) else TokenizerError(f"{directory}: {error}") from None
    except BaseException as error:  # fields of other kinds than expected, and the library's panics, which are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"the tokenizer in {directory} is malformed ({type(error).__name__}: {error}); fetch it again, or train another") from error


def _load(directory: Path) -> Tokenizer:
    config = read_config(directory)
    has = {path.name for path in directory.iterdir() if path.is_file()} if directory.is_dir() else set()
    model_file = next((name for name in sentencepiece_model.MODEL_FILES if name in has), None)
    if "tokenizer.json" in has:
        return tokenizer_of(_load_json(directory / "tokenizer.json", config))
    if "vocab.txt" in has:
        return tokenizer_of(wordpiece.load_vocabulary(directory, config))
    if {"vocab.json", "merges.txt"} <= has:
        return tokenizer_of(byte_bpe.load_files(directory, config))
    if model_file:
        return tokenizer_of(sentencepiece_model.load_model(directory / model_file, config))
    known = f"tokenizer.json, vocab.txt, vocab.json with merges.txt, {', '.join(sentencepiece_model.MODEL_FILES)}"
    why = f"has none of {known}" if directory.is_dir() else "is not a directory"
    raise TokenizerError(f"no tokenizer at {directory}: it {why}. Train one with `bert-jax tokenizer`")


def coverage(tokenizer: Tokenizer, documents: Iterable[str], characters: int = _COVERAGE_CHARACTERS) -> Coverage:
    """Encodes documents until `characters` are seen."""
    count, seen, words, tokens, unknown = 0, 0, 0, 0, 0
    unk = tokenizer.special["unk"]
    for document in documents:
        ids, _, is_word_start = tokenizer.encode_sentences([line for line in document.split("\n") if line])
        count += 1
        seen += len(document)
        words += int(is_word_start.sum())
        tokens += len(ids)
        unknown += int((ids == unk).sum())
        if seen >= characters:
            break
    return Coverage(count, seen, words, tokens, unknown, tokenizer.parts.special["unk"])


def _load_json(path: Path, config: dict) -> Parts:
    content = read_json(path)
    model = _model_type(content.get("model") or {})
    pre_tokenizer = (content.get("pre_tokenizer") or {}).get("type")
    if model == "WordPiece":
        return wordpiece.load_json(path, content)
    if model == "BPE" and pre_tokenizer == "ByteLevel":
        return byte_bpe.load_json(path, content, config)
    if model in ("Unigram", "BPE") and sentencepiece_model.has_metaspace(content):
        return sentencepiece_model.load_json(path, content, config)
    known = "WordPiece with BertPreTokenizer, BPE with ByteLevel, and Unigram or BPE with Metaspace"
    raise TokenizerError(f"{path}: its model is {model} and its pre_tokenizer is {pre_tokenizer}; known are {known}")


def _model_type(model: dict) -> str | None:
    """Old files do not name it."""
    if "type" in model or "vocab" not in model:
        return model.get("type")
    return "BPE" if "merges" in model else "WordPiece" if "max_input_chars_per_word" in model else "Unigram"


def tokenizer_of(parts: Parts) -> Tokenizer:
    ids = {role: parts.hf.token_to_id(token) for role, token in parts.special.items()}
    return Tokenizer(
        kind=parts.kind,
        vocab_size=parts.hf.get_vocab_size(),
        special=ids,
        special_ids=tuple(sorted({*ids.values(), *parts.extra_special})),
        mask_token=parts.special["mask"],
        hash=hashlib.sha256(json.dumps(parts.definition).encode()).hexdigest(),
        hf=parts.hf,
        parts=parts,
    )


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
