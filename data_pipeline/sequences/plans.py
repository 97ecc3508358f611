"""Plans: for each sequence, which pieces of the token store it takes. Made once per store and settings, cached, memory-mapped. numpy only.

Enters: a `TokenStore` and `Settings`. Leaves: a directory of ARRAYS (`cached`). Every choice is a hash of the seed and of what is chosen
for, so a plan is the same on every machine. The kinds are made in pair_plans.py, sentence_plans.py and packed_plans.py, a block of
documents at a time. Their greedy walks are vectorised: where a sequence that began at sentence i would end is worked out for all i at
once; the walk itself then only follows that table.
"""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipeline.sequences.packed_plans import packed_documents
from data_pipeline.sequences.pair_plans import segment_pairs, sentence_order
from data_pipeline.sequences.plan_parts import Block, Piecewise, Settings, blocks, close_ends
from data_pipeline.sequences.sentence_plans import document_sentences, full_sentences
from data_pipeline.stores.store import TokenStore

VERSION = 1  # part of a plan's name: raise it when the same settings give other sequences
ARRAYS = {"first_pieces": np.int64, "starts": np.int64, "lengths": np.uint16, "labels": np.uint8}


def _each_block(make: Callable) -> Callable:
    return lambda store, settings, blocks, duplicate: (make(store, settings, block, duplicate) for block in blocks)


@dataclasses.dataclass(frozen=True)
class Kind:
    make: Callable[[TokenStore, Settings, Iterator[Block], int], Iterator[Piecewise]]
    label_field: str | None = None  # of the batch
    is_random: bool = False  # what `short_seq_prob`, `duplicates` and the seed are for
    is_packed: bool = False  # each piece has a [CLS], positions and attention of its own


KINDS = {
    "segment_pairs": Kind(segment_pairs, "nsp_labels", is_random=True),
    "sentence_order": Kind(sentence_order, "sop_labels", is_random=True),
    "full_sentences": Kind(_each_block(full_sentences)),
    "document_sentences": Kind(_each_block(document_sentences)),
    "packed_documents": Kind(packed_documents, is_packed=True),
}


def cached(store: TokenStore, settings: Settings) -> Path:
    """The directory of the plan, made first if there is none. Several processes may ask at once: the first to finish wins, all agree.

    Lies in STORE/plans/, or under the temporary directory where the store cannot be written."""
    if settings.kind not in KINDS:
        raise ValueError(f"sequences={settings.kind!r} is not known; choose one of: {', '.join(KINDS)}")
    if not KINDS[settings.kind].is_random:  # one plan for all
        if settings.duplicates > 1:
            raise ValueError(
                f"duplicates={settings.duplicates}: {settings.kind} makes no random choice; set duplicates=1 and train more epochs"
            )
        settings = dataclasses.replace(settings, short_seq_prob=0.0, seed=0)
    content = json.dumps([VERSION, store.fingerprint, store.split, dataclasses.asdict(settings)])
    name = f"{store.split}-{settings.kind}-{settings.length}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    home, elsewhere = store.directory / "plans", Path(tempfile.gettempdir()) / f"bert_jax_plans_{os.getuid()}"
    for directory in (home / name, elsewhere / name):
        if directory.is_dir() and (directory.parent == home or _is_own(elsewhere)):
            return directory
    try:
        home.mkdir(exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".tmp", dir=home))
    except OSError:
        home = elsewhere
        home.mkdir(mode=0o700, exist_ok=True)
        if not _is_own(home):
            raise PermissionError(errno.EPERM, f"{home} is another user's, or others may write there, so plans in it cannot be trusted; remove it, or set TMPDIR") from None
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


def _is_own(directory: Path) -> bool:
    """Whether a directory under a name that anybody could have taken is this user's, and nobody else may write there."""
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def read(directory: Path) -> tuple[np.ndarray, ...]:
    """The arrays of a plan, memory-mapped; ValueError if they do not fit together, as a cut or missing file makes them."""
    try:
        arrays = tuple(np.asarray(np.lib.format.open_memmap(directory / f"{name}.npy", mode="r")) for name in ARRAYS)
        first_pieces, starts, lengths, labels = arrays
        whole = len(first_pieces) == len(labels) + 1 and len(starts) == len(lengths) == first_pieces[-1]
    except (OSError, ValueError, EOFError, IndexError):
        whole = False
    if not whole:
        raise ValueError(f"the plan {directory} is damaged; delete that directory, and it will be made again")
    return arrays


def _write(store: TokenStore, settings: Settings, directory: Path) -> None:
    files = {name: open(directory / f"{name}.raw", "wb") for name in ARRAYS}
    try:
        total = 0
        np.zeros(1, np.int64).tofile(files["first_pieces"])
        sentences = store.num_sentences * settings.duplicates
        with tqdm(total=sentences, desc=f"plan {settings.kind} {settings.length}", unit=" sentences", delay=3) as bar:
            for duplicate in range(settings.duplicates):
                for rows in KINDS[settings.kind].make(store, settings, _shown(blocks(store), bar), duplicate):
                    first_pieces = total + np.cumsum(rows.pieces)
                    total += int(rows.pieces.sum())
                    for name, array in zip(ARRAYS, (first_pieces, rows.starts, rows.lengths, rows.labels)):
                        array.astype(ARRAYS[name]).tofile(files[name])
    finally:
        close_ends(store)
        for file in files.values():
            file.close()
    if not total:
        raise ValueError(f"{store!r} gives no sequence: {settings.kind} needs a document of two sentences")
    for name, dtype in ARRAYS.items():
        raw = directory / f"{name}.raw"
        array = np.memmap(raw, dtype, mode="r") if raw.stat().st_size else np.zeros(0, dtype)
        with open(directory / f"{name}.npy", "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        raw.unlink()


def _shown(blocks: Iterator[Block], bar: tqdm) -> Iterator[Block]:
    for block in blocks:
        yield block
        bar.update(len(block.starts))
