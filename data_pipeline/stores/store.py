"""The token store: tokenised documents as flat numpy files, opened with mmap. See docs/data.md for the layout.

Enters: per chunk of text the token ids with their sentence, document and word boundaries (`ShardWriter`), and counts (`write_manifest`).
Leaves: `TokenStore(directory, split)`, whose shards hold memory-mapped arrays. Only numpy is needed to read a store.

A shard appears under its final name only when whole, and manifest.json is written last: a directory with a manifest is a complete store.
"""

import dataclasses
import errno
import functools
import os
import shutil
import uuid
from pathlib import Path

import numpy as np

from data_pipeline.stores import checksums
from data_pipeline.stores.checksums import file_record
from data_pipeline.stores.manifest import ARRAYS, StoreError, files_of, fingerprint, read_manifest

SPLITS = ("train", "eval")
_DTYPES = {"tokens": ("uint16", "uint32"), "sentence_ends": ("int64",), "document_ends": ("int64",), "word_starts": ("uint8",)}

_CHUNK = 1 << 22  # entries of an array checked at a time


def token_dtype(vocab_size: int) -> np.dtype:
    """The dtype of tokens.npy: uint16, or uint32 when the vocabulary does not fit."""
    return np.dtype(np.uint16 if vocab_size <= 65536 else np.uint32)


def shard_name(split: str, unit: int, group: int = 0) -> str:
    """The directory of a shard: `unit` counts within `group`, and names sort in the order of the text."""
    return f"{split}/shard-{group:05d}-{unit:05d}"


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
        """Raises StoreError if the file is no array of the length and kind that the manifest implies."""
        path = self.directory / f"{name}.npy"
        length = {
            "tokens": self.num_tokens,
            "sentence_ends": self.num_sentences,
            "document_ends": self.num_documents,
            "word_starts": (self.num_tokens + 7) // 8,
        }[name]
        try:
            array = np.lib.format.open_memmap(path, mode="r")  # not np.load, which takes archives too
        except (ValueError, EOFError) as error:
            raise StoreError(f"{path} is not a numpy array ({error}); prepare the store again") from None
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            fix = "prepare with a larger --shard-size, or raise vm.max_map_count"
            raise OSError(error.errno, f"{error.strerror} while mapping {path}: perhaps too many shards; {fix}") from None
        if array.shape != (length,) or array.dtype.name not in _DTYPES[name]:
            wanted = f"{' or '.join(_DTYPES[name])} [{length}]"
            raise StoreError(f"{path} holds {array.dtype.name} {list(array.shape)} instead of {wanted}; prepare the store again")
        return array

    def contradictions(self, vocab_size: int) -> list[str]:
        """What the arrays say that cannot be: ends that do not ascend to the count, tokens outside the vocabulary. Reads everything."""
        found = []
        for name, last in (("sentence_ends", self.num_tokens), ("document_ends", self.num_sentences)):
            ends, before = getattr(self, name), 0
            for start in range(0, len(ends), _CHUNK):
                chunk = np.asarray(ends[start : start + _CHUNK])
                if (np.diff(chunk, prepend=before) <= 0).any():
                    found.append(f"{name}.npy does not ascend")
                    break
                before = int(chunk[-1])
            if ends[-1] != last:
                found.append(f"{name}.npy ends at {ends[-1]} instead of {last}")
        largest = max(int(self.tokens[start : start + _CHUNK].max()) for start in range(0, self.num_tokens, _CHUNK))
        if largest >= vocab_size:
            found.append(f"tokens.npy holds the id {largest}, beyond the vocabulary of {vocab_size}")
        return found


class TokenStore:
    """One split of a token store.

    Raises StoreError if `directory` holds no complete store, has no such split, or if a shard's file is missing or has another
    size than the manifest says. Contents are not hashed here; `verify` and `verify_once` do.
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
            self.shards.append(_shard(self.directory, record))
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

    @property
    def special_ids(self) -> list[int]:
        """All token ids that are to be neither masked nor drawn as replacements: those of `special`, control pieces and fillers."""
        tokenizer = self.manifest["tokenizer"]
        return sorted({*tokenizer["special"].values(), *tokenizer.get("special_ids", ())})

    @functools.cached_property
    def unigram_counts(self) -> np.ndarray:
        """int64 [vocab_size]: how often each token occurs in the training split. Raises StoreError if the file is no such array."""
        path = self.directory / "unigram_counts.npy"
        try:
            array = np.lib.format.open_memmap(path, mode="r")
        except (ValueError, EOFError) as error:
            raise StoreError(f"{path} is not a numpy array ({error}); prepare the store again") from None
        if array.shape != (self.vocab_size,) or array.dtype != np.int64:
            raise StoreError(f"{path} holds {array.dtype} {list(array.shape)} instead of int64 [{self.vocab_size}]; prepare the store again")
        return np.array(array)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the tokenizer or with any token, boundary or order in the store (all splits)."""
        return fingerprint(self.manifest)

    def verify(self) -> None:
        """Reads every file of the store, all splits: checksums, ascending ends, ids within the vocabulary.

        Raises StoreError naming each file that differs from the manifest or contradicts it.
        """
        self._refuse(checksums.differences(self.directory, files_of(self.manifest)))
        contradictions = []
        for split in self.manifest["splits"].values():
            for record in split["shards"]:
                shard = _shard(self.directory, record)
                contradictions += [f"{record['name']}/{trouble}" for trouble in shard.contradictions(self.vocab_size)]
        self._refuse(contradictions)

    def verify_once(self) -> None:
        """Hashes the files of all splits that no earlier call found right; afterwards a start costs a `stat` per file.

        What was found right is remembered by size, modification time and inode in STORE/plans/verified.json, or in the user's cache
        (~/.cache/bert_jax) if the store cannot be written. Raises StoreError like `verify`.
        """
        beside, cache = checksums.stamp_places(self.directory)
        writable = os.access(beside.parent if beside.parent.is_dir() else self.directory, os.W_OK)
        self._refuse(checksums.differences(self.directory, files_of(self.manifest), beside if writable else cache))

    def _refuse(self, troubles: list[str]) -> None:
        if troubles:
            shown = "; ".join(troubles[:20]) + (f"; and {len(troubles) - 20} more" if len(troubles) > 20 else "")
            raise StoreError(f"token store {self.directory} is damaged; prepare it again. {shown}")


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
        # A name of its own: a cluster may try again elsewhere while the first attempt is still writing.
        temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
        temporary.mkdir(parents=True)
        files = {}
        for array_name, chunks in self._chunks.items():
            if array_name == "word_starts":
                chunks = [np.packbits(np.concatenate(chunks))]
            path = temporary / f"{array_name}.npy"
            with open(path, "wb") as file:
                # np.save's bytes, without a copy of the whole array in memory
                header = {"descr": chunks[0].dtype.str, "fortran_order": False, "shape": (sum(map(len, chunks)),)}
                np.lib.format.write_array_header_1_0(file, header)
                for chunk in chunks:
                    file.write(chunk.data)
                file.flush()
                os.fsync(file.fileno())
            files[path.name] = file_record(path)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(temporary, target)
        return {
            "name": name,
            "tokens": self.num_tokens,
            "sentences": self.num_sentences,
            "documents": self.num_documents,
            "files": files,
        }


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


def _shard(directory: Path, record: dict) -> Shard:
    return Shard(directory / record["name"], record["tokens"], record["sentences"], record["documents"])
