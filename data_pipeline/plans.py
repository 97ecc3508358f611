"""Plans: for each sequence, which pieces of the token store it takes. Made once per store and settings, cached, memory-mapped. numpy only.

Enters: a `TokenStore` and `Settings`. Leaves: a directory of ARRAYS (`cached`). Every choice is a hash of (seed, pass, shard, sentence), so
a plan is the same on every machine. The greedy walks of both kinds are vectorised: where a sequence that began at sentence i would end is
worked out for all i at once; the walk itself then only follows that table.
"""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipeline.order import PLAN, draw, fold, make_key
from data_pipeline.store import TokenStore

VERSION = 1  # part of a plan's name: raise it when the same settings give other sequences
KINDS = ("segment_pairs", "full_sentences")
ARRAYS = {"first_pieces": np.int64, "starts": np.int64, "lengths": np.uint16, "labels": np.uint8}
BLOCK_SENTENCES = 1 << 19  # bounds the memory: about 150 bytes per sentence


@dataclasses.dataclass(frozen=True)
class Settings:
    kind: str
    length: int
    short_seq_prob: float
    duplicates: int
    seed: int

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"sequences={self.kind!r} is not known; choose one of: {', '.join(KINDS)}")
        if not 8 <= self.length <= 65535:
            raise ValueError(f"length={self.length} does not fit; it must lie in [8, 65535]")
        if not 0 <= self.short_seq_prob <= 1:
            raise ValueError(f"short_seq_prob={self.short_seq_prob} is not a probability; it must lie in [0, 1]")
        if self.duplicates < 1:
            raise ValueError(f"duplicates={self.duplicates} leaves no sequence; it must be at least 1")
        if self.kind == "full_sentences" and self.duplicates > 1:
            raise ValueError(f"duplicates={self.duplicates}: full_sentences makes no random choice; set duplicates=1 and train more epochs")
        make_key(self.seed)


@dataclasses.dataclass(frozen=True)
class Block:
    """Whole documents of one shard: S sentences, D documents. Token offsets count within the shard; sentence numbers within the block."""

    shard: int
    first_sentence: int  # within the shard
    first_document: int  # within the split
    starts: np.ndarray  # int64 [S], token offsets
    ends: np.ndarray  # int64 [S]
    document_stops: np.ndarray  # int64 [D], exclusive sentence numbers
    document_of: np.ndarray  # int64 [S]


@dataclasses.dataclass(frozen=True)
class Piecewise:
    """Some rows of a plan: R rows of P pieces in all."""

    pieces: np.ndarray  # int64 [R], pieces of each row
    starts: np.ndarray  # int64 [P], token offsets within the split
    lengths: np.ndarray  # int64 [P]
    labels: np.ndarray  # [R]


def cached(store: TokenStore, settings: Settings) -> Path:
    """The directory of the plan, made first if there is none. Several processes may ask at once: the first to finish wins, all agree.

    Lies in STORE/plans/, or under the temporary directory where the store cannot be written."""
    if settings.kind == "full_sentences":  # nothing random: one plan for all
        settings = dataclasses.replace(settings, short_seq_prob=0.0, seed=0)
    content = json.dumps([VERSION, store.fingerprint, store.split, dataclasses.asdict(settings)])
    name = f"{store.split}-{settings.kind}-{settings.length}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    home, elsewhere = store.directory / "plans", Path(tempfile.gettempdir()) / f"bert_jax_plans_{os.getuid()}"
    for directory in (home / name, elsewhere / name):
        if directory.is_dir():
            return directory
    try:
        home.mkdir(exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".tmp", dir=home))
    except OSError:
        home = elsewhere
        home.mkdir(mode=0o700, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".tmp", dir=home))
    try:
        _write(store, settings, temporary)
        temporary.chmod(0o755)
        try:
            os.rename(temporary, home / name)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was first, with the same plan
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return home / name


def _write(store: TokenStore, settings: Settings, directory: Path) -> None:
    make = segment_pairs if settings.kind == "segment_pairs" else full_sentences
    if settings.kind == "segment_pairs" and store.num_sentences == 1:
        raise ValueError(f"{store!r} holds one sentence, and segment pairs need two; prepare it from more text, or choose full_sentences")
    files = {name: open(directory / f"{name}.raw", "wb") for name in ARRAYS}
    try:
        total = 0
        np.zeros(1, np.int64).tofile(files["first_pieces"])
        sentences = store.num_sentences * settings.duplicates
        with tqdm(total=sentences, desc=f"plan {settings.kind} {settings.length}", unit=" sentences", delay=3) as bar:
            for duplicate in range(settings.duplicates):
                for block in blocks(store):
                    rows = make(store, settings, block, duplicate)
                    first_pieces = total + np.cumsum(rows.pieces)
                    total += int(rows.pieces.sum())
                    for name, array in zip(ARRAYS, (first_pieces, rows.starts, rows.lengths, rows.labels)):
                        array.astype(ARRAYS[name]).tofile(files[name])
                    bar.update(len(block.starts))
    finally:
        for file in files.values():
            file.close()
    for name, dtype in ARRAYS.items():
        raw = directory / f"{name}.raw"
        array = np.memmap(raw, dtype, mode="r") if raw.stat().st_size else np.zeros(0, dtype)
        with open(directory / f"{name}.npy", "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        raw.unlink()


def blocks(store: TokenStore) -> Iterator[Block]:
    for number, shard in enumerate(store.shards):
        document_ends = np.concatenate([np.zeros(1, np.int64), shard.document_ends])  # a copy in memory: one entry per document
        first = 0
        while first < shard.num_documents:
            begin = document_ends[first]
            last = max(first + 1, int(np.searchsorted(document_ends, begin + BLOCK_SENTENCES, side="right")) - 1)
            end = document_ends[last]
            ends = np.asarray(shard.sentence_ends[begin:end])
            starts = np.concatenate([np.asarray([shard.sentence_ends[begin - 1] if begin else 0]), ends[:-1]])
            sizes = np.diff(document_ends[first : last + 1])
            document_of = np.repeat(np.arange(last - first), sizes)
            yield Block(number, int(begin), int(store.document_offsets[number]) + first, starts, ends, np.cumsum(sizes), document_of)
            first = last


def _follow(following: np.ndarray) -> np.ndarray:
    """The walk 0, following[0], following[following[0]], ... until it leaves the array."""
    table, walk, here = following.tolist(), [], 0
    while here < len(table):
        walk.append(here)
        here = table[here]
    return np.asarray(walk, np.int64)


def full_sentences(store: TokenStore, settings: Settings, block: Block, duplicate: int) -> Piecewise:
    """Contiguous sentences while they fit; a row may go on into the next document, behind a [SEP], but not into the next block or shard.

    A sentence longer than a row is cut into rows of its own; nothing of the text is left out."""
    room = settings.length - 2
    sizes = block.ends - block.starts
    parts = np.maximum(1, -(-sizes // room))
    sentence = np.repeat(np.arange(len(sizes)), parts)
    part = np.arange(len(sentence)) - (np.cumsum(parts) - parts)[sentence]
    starts = block.starts[sentence] + part * room
    ends = np.minimum(starts + room, block.ends[sentence])
    separators = block.document_of[sentence]  # each document before this one ended with a [SEP]
    walk = _follow(np.searchsorted(ends + separators, starts + separators + room, side="right"))
    row_starts = starts[walk]
    document_starts = np.concatenate([block.starts[:1], block.ends[block.document_stops[:-1] - 1]])
    piece_starts = np.union1d(row_starts, document_starts)
    lengths = np.diff(piece_starts, append=block.ends[-1])
    first_pieces = np.searchsorted(piece_starts, row_starts)
    pieces = np.diff(first_pieces, append=len(piece_starts))
    return Piecewise(pieces, piece_starts + store.token_offsets[block.shard], lengths, np.zeros(len(walk)))


def segment_pairs(store: TokenStore, settings: Settings, block: Block, duplicate: int) -> Piecewise:
    """Pairs of segments. From sentence i on, whole sentences of the document are gathered up to a target number of tokens (the most that
    fits, or with `short_seq_prob` a random smaller one), and cut at a random sentence end. The first part is A. B is the rest, or, half of
    the time, and always if there is no rest, sentences from a random place of another document; the unused rest then begins the next pair.
    What is too long is trimmed at a random end of the longer segment, token by token.

    Two differences from the published data: the target is drawn per pair and not once per document, lest one draw cut a whole book into
    tiny pairs; and where the split is one document, B starts at least a quarter of it away from A."""
    most = settings.length - 3
    numbers = block.first_sentence + np.arange(len(block.starts))
    short_key, target_key, cut_key, random_key, document_key, sentence_key, trim_key = fold(
        make_key(settings.seed, PLAN, duplicate, block.shard), np.arange(7)
    )[:, None]
    is_short = draw(short_key, numbers, 1 << 32) < int(settings.short_seq_prob * 2**32)
    targets = np.where(is_short, 2 + draw(target_key, numbers, most - 1), most)
    reach = np.searchsorted(block.ends, block.starts + targets, side="left") + 1
    stops = np.minimum(reach, block.document_stops[block.document_of])
    counts = stops - np.arange(len(stops))
    cuts = np.arange(len(stops)) + np.where(counts == 1, 1, 1 + draw(cut_key, numbers, np.maximum(counts - 1, 1)))
    is_random = (counts == 1) | (draw(random_key, numbers, 2) == 1)

    walk = _follow(np.where(is_random, cuts, stops))
    a_starts, b_starts = block.starts[walk], block.ends[cuts[walk] - 1]
    a_sizes, b_sizes = b_starts - a_starts, block.ends[stops[walk] - 1] - b_starts
    offset = store.token_offsets[block.shard]
    a_starts, b_starts = a_starts + offset, b_starts + offset
    labels = is_random[walk]
    picked, chosen = walk[labels], numbers[walk[labels]]
    if store.num_documents > 1:
        own = block.first_document + block.document_of[picked]
        documents = draw(document_key, chosen, store.num_documents - 1)
        documents += documents >= own
    else:
        documents = np.zeros(len(picked), np.int64)
    wanted = np.maximum(targets[picked] - a_sizes[labels], 1)
    b_starts[labels], b_sizes[labels] = _random_segments(store, documents, sentence_key, chosen, wanted)

    # Trimming the longer of the two, one token at a time, ends here.
    a_kept = np.where(a_sizes + b_sizes <= most, a_sizes, np.minimum(a_sizes, np.maximum(most - b_sizes, (most + 1) // 2)))
    b_kept = np.minimum(b_sizes, most - a_kept)
    trim_keys = fold(trim_key, numbers[walk])
    a_starts += _heads(fold(trim_keys, 0), a_sizes - a_kept)
    b_starts += _heads(fold(trim_keys, 1), b_sizes - b_kept)
    starts, lengths = np.stack([a_starts, b_starts], axis=1), np.stack([a_kept, b_kept], axis=1)
    return Piecewise(np.full(len(walk), 2), starts.ravel(), lengths.ravel(), labels)


def _random_segments(store: TokenStore, documents: np.ndarray, key: np.ndarray, numbers: np.ndarray, wanted: np.ndarray):
    """Whole sentences from a random sentence of each document until `wanted` tokens or its end: token offsets in the split, and sizes."""
    starts, sizes = np.empty_like(documents), np.empty_like(documents)
    shard_of = np.searchsorted(store.document_offsets, documents, side="right") - 1
    for shard_number in np.unique(shard_of):
        here = np.flatnonzero(shard_of == shard_number)
        # Plain views: with hundreds of shards most of the time would go into indexing numpy.memmap.
        shard = store.shards[shard_number]
        document_ends, sentence_ends = np.asarray(shard.document_ends), np.asarray(shard.sentence_ends)
        document = documents[here] - store.document_offsets[shard_number]
        stop = document_ends[document]
        first = np.where(document > 0, document_ends[document - 1], 0)
        if store.num_documents > 1:
            sentence = first + draw(key, numbers[here], stop - first)
        else:
            quarter = np.maximum(1, stop // 4)
            sentence = (numbers[here] + quarter + draw(key, numbers[here], np.maximum(1, stop - 2 * quarter + 1))) % stop
        start = np.where(sentence > 0, sentence_ends[sentence - 1], 0)
        last = np.minimum(np.searchsorted(sentence_ends, start + wanted[here], side="left"), stop - 1)
        starts[here] = start + store.token_offsets[shard_number]
        sizes[here] = sentence_ends[last] - start
    return starts, sizes


def _heads(keys: np.ndarray, tosses: np.ndarray) -> np.ndarray:
    """How many of each number of fair coin tosses fall heads: the bits set among that many hashed bits. uint64 [N], int64 [N] -> int64
    [N]."""
    heads = np.zeros(len(tosses), np.int64)
    tossing, word = np.flatnonzero(tosses), 0
    while tossing.size:
        left = np.minimum(tosses[tossing] - 64 * word, 64).astype(np.uint64)
        bits = fold(keys[tossing], word) >> (np.uint64(64) - left)
        heads[tossing] += np.bitwise_count(bits)
        word += 1
        tossing = tossing[tosses[tossing] > 64 * word]
    return heads
