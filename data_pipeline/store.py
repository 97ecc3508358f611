"""The token store: tokenised documents as flat numpy files, opened with mmap. See docs/data.md for the layout.

Enters: per chunk of text the token ids with their sentence, document and word boundaries (`ShardWriter`), and counts (`write_manifest`).
Leaves: `TokenStore(directory, split)`, whose shards hold memory-mapped arrays. Only numpy is needed to read a store.

A shard appears under its final name only when whole, and manifest.json is written last: a directory with a manifest is a complete store.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FORMAT = "bert_jax.token_store"
VERSION = 1
SPLITS = ("train", "eval")
MANIFEST = "manifest.json"
ARRAYS = ("tokens", "sentence_ends", "document_ends", "word_starts")

_SHARD_NAME = re.compile(r"(train|eval)/shard-[0-9]{5,}")


class StoreError(ValueError):
    """A directory is not a usable token store; the message names the file and the fix."""


def token_dtype(vocab_size: int) -> np.dtype:
    """The dtype of tokens.npy: uint16, or uint32 when the vocabulary does not fit."""
    return np.dtype(np.uint16 if vocab_size <= 65536 else np.uint32)


def shard_name(split: str, number: int) -> str:
    return f"{split}/shard-{number:05d}"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One directory of arrays. T tokens, S sentences, D documents; every shard holds at least one of each."""

    directory: Path
    num_tokens: int
    num_sentences: int
    num_documents: int

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """uint16 or uint32 [T], without special tokens."""
        return self._map("tokens")

    @functools.cached_property
    def sentence_ends(self) -> np.ndarray:
        """int64 [S], ascending: exclusive token offsets within the shard."""
        return self._map("sentence_ends")

    @functools.cached_property
    def document_ends(self) -> np.ndarray:
        """int64 [D], ascending: exclusive indices into `sentence_ends`."""
        return self._map("document_ends")

    @functools.cached_property
    def word_starts(self) -> np.ndarray:
        """uint8 [ceil(T / 8)]: numpy.packbits of one bit per token, 1 where a word starts."""
        return self._map("word_starts")

    def _map(self, name: str) -> np.ndarray:
        return np.load(self.directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)


class TokenStore:
    """One split of a token store.

    Raises StoreError if `directory` holds no complete store, has no such split, or if a shard's file is missing or has another
    size than the manifest says. Contents are not hashed here; `verify` does.
    """

    def __init__(self, directory: str | Path, split: str = "train"):
        self.directory = Path(directory)
        self.split = split
        self.manifest = read_manifest(self.directory)
        splits = self.manifest["splits"]
        if split not in splits:
            raise StoreError(f"token store {self.directory} has no split {split!r}; it has: {', '.join(splits)}")
        self.shards: list[Shard] = []
        for record in splits[split]["shards"]:
            _check_sizes(self.directory, record["name"], record["files"])
            self.shards.append(
                Shard(self.directory / record["name"], int(record["tokens"]), int(record["sentences"]), int(record["documents"]))
            )
        _check_sizes(self.directory, "", {"unigram_counts.npy": self.manifest["files"]["unigram_counts.npy"]})
        self.token_offsets = _offsets([shard.num_tokens for shard in self.shards])
        self.sentence_offsets = _offsets([shard.num_sentences for shard in self.shards])
        self.document_offsets = _offsets([shard.num_documents for shard in self.shards])
        """int64 [num_shards + 1] each: the global offset of every shard's first token, sentence, document; the total comes last."""

    def __repr__(self) -> str:
        return f"TokenStore({str(self.directory)!r}, split={self.split!r}, documents={self.num_documents}, tokens={self.num_tokens})"

    @property
    def num_tokens(self) -> int:
        return int(self.token_offsets[-1])

    @property
    def num_sentences(self) -> int:
        return int(self.sentence_offsets[-1])

    @property
    def num_documents(self) -> int:
        return int(self.document_offsets[-1])

    @property
    def tokenizer_dir(self) -> Path:
        return self.directory / "tokenizer"

    @property
    def vocab_size(self) -> int:
        return int(self.manifest["tokenizer"]["vocab_size"])

    @property
    def special(self) -> dict[str, int]:
        """Token ids of pad, unk, cls, sep and mask."""
        return dict(self.manifest["tokenizer"]["special"])

    @functools.cached_property
    def unigram_counts(self) -> np.ndarray:
        """int64 [vocab_size]: how often each token occurs in the training split."""
        return np.load(self.directory / "unigram_counts.npy", allow_pickle=False)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the tokenizer or with any token, boundary or order in the store (all splits)."""
        return fingerprint(self.manifest)

    def verify(self) -> None:
        """Reads and hashes every file of the store, all splits; raises StoreError naming each file that differs from the manifest."""
        bad = [f"{name}: {trouble}" for name, trouble in _damage(self.directory, self.manifest)]
        if bad:
            raise StoreError(f"token store {self.directory} is damaged; prepare it again. " + "; ".join(bad))


class ShardWriter:
    """Collects chunks of documents in memory and writes them as one shard."""

    def __init__(self, vocab_size: int):
        self.num_tokens = 0
        self.num_sentences = 0
        self.num_documents = 0
        self._dtype = token_dtype(vocab_size)
        self._chunks: dict[str, list[np.ndarray]] = {name: [] for name in ARRAYS}

    def add(self, tokens: np.ndarray, sentence_ends: np.ndarray, document_ends: np.ndarray, is_word_start: np.ndarray) -> None:
        """Appends documents: `tokens` [t], `is_word_start` bool [t]; `sentence_ends` [s], `document_ends` [d] count from this chunk."""
        self._chunks["tokens"].append(tokens.astype(self._dtype))
        self._chunks["sentence_ends"].append(np.asarray(sentence_ends, np.int64) + self.num_tokens)
        self._chunks["document_ends"].append(np.asarray(document_ends, np.int64) + self.num_sentences)
        self._chunks["word_starts"].append(np.asarray(is_word_start, bool))
        self.num_tokens += len(tokens)
        self.num_sentences += len(sentence_ends)
        self.num_documents += len(document_ends)

    def write(self, directory: Path, name: str) -> dict | None:
        """Writes DIRECTORY/NAME and returns its manifest record; None, and nothing written, if there are no documents."""
        if self.num_documents == 0:
            return None
        target = directory / name
        temporary = target.with_name(target.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        temporary.mkdir(parents=True)
        files = {}
        for array_name, chunks in self._chunks.items():
            array = np.concatenate(chunks)
            path = temporary / f"{array_name}.npy"
            with open(path, "wb") as file:
                np.save(file, np.packbits(array) if array_name == "word_starts" else array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            files[path.name] = file_record(path)
        os.rename(temporary, target)
        return {
            "name": name,
            "tokens": self.num_tokens,
            "sentences": self.num_sentences,
            "documents": self.num_documents,
            "files": files,
        }


def file_record(path: Path) -> dict:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def write_json(path: Path, value: dict) -> None:
    """Writes atomically: a reader sees the old file or the whole new one, also after a crash."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_manifest(directory: Path, manifest: dict) -> None:
    """Completes a store; every file that the manifest names must already be there."""
    write_json(directory / MANIFEST, {"format": FORMAT, "version": VERSION, **manifest})


def read_manifest(directory: Path) -> dict:
    """The manifest of a complete store; raises StoreError if there is none or it is not one."""
    path = Path(directory) / MANIFEST
    if not path.exists():
        why = "the directory does not exist" if not Path(directory).exists() else f"it has no {MANIFEST}"
        raise StoreError(f"{directory} is not a token store: {why}. Make one with `bert-jax prepare`, or let an interrupted one finish")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is not valid JSON ({error}); prepare the store again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"{path} is not the manifest of a token store: its format is not {FORMAT!r}")
    if manifest.get("version") != VERSION:
        raise StoreError(f"{path} has version {manifest.get('version')!r}; this program reads version {VERSION}: prepare the store again")
    try:
        names = [record["name"] for split in manifest["splits"].values() for record in split["shards"]]
        tokenizer = manifest["tokenizer"]
        _ = (tokenizer["hash"], tokenizer["vocab_size"], tokenizer["special"]["mask"], manifest["files"]["unigram_counts.npy"])
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} lacks a field ({error!r}); prepare the store again") from None
    for name in names:
        if not _SHARD_NAME.fullmatch(name):
            raise StoreError(f"{path} names a shard {name!r}; a shard is called like train/shard-00000")
    return manifest


def fingerprint(manifest: dict) -> str:
    """16 hex digits over the tokenizer's hash and the shards' checksums in order."""
    content = [manifest["tokenizer"]["hash"]]
    for split in sorted(manifest["splits"]):
        for record in manifest["splits"][split]["shards"]:
            content.append([record["name"], [record["files"][f"{name}.npy"]["sha256"] for name in ARRAYS]])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _offsets(counts: list[int]) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(counts, np.int64))])


def _check_sizes(directory: Path, folder: str, files: dict[str, dict]) -> None:
    for name, record in files.items():
        path = directory / folder / name
        try:
            size = path.stat().st_size
        except OSError:
            raise StoreError(f"token store {directory} lacks the file {Path(folder) / name}; prepare the store again") from None
        if size != record["size"]:
            raise StoreError(
                f"token store {directory}: {Path(folder) / name} holds {size} bytes, the manifest says {record['size']}; prepare it again"
            )


def _damage(directory: Path, manifest: dict) -> Iterator[tuple[str, str]]:
    expected = dict(manifest["files"])
    for split in manifest["splits"].values():
        for record in split["shards"]:
            expected |= {f"{record['name']}/{name}": value for name, value in record["files"].items()}
    for name, record in expected.items():
        path = directory / name
        if not path.is_file():
            yield name, "missing"
        elif path.stat().st_size != record["size"]:
            yield name, f"{path.stat().st_size} bytes instead of {record['size']}"
        elif file_record(path)["sha256"] != record["sha256"]:
            yield name, "its SHA-256 is not the manifest's"
