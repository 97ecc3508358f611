"""Recorded batches: written once, replayed without TensorFlow. Static masking, and the source of data where there is no TensorFlow.

Enters (`write`): batches of the contract, such as a loader's. Leaves: a directory that `RecordedBatches` maps into memory and replays.
numpy only.

    DIRECTORY/
      manifest.json     format "bert_jax.recorded_batches", version 1; description; num_batches N, batch_size, length, predictions;
                        per file its size and SHA-256
      input_ids.npy     [N, B, L], one file per field, in the smallest integer dtype that holds its values; the contract's dtype on reading
      tokenizer/        the tokenizer's files, if given
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax import batch as contract
from bert_jax.foreign import misplaced

FORMAT = "bert_jax.recorded_batches"
VERSION = 1
SIZES = ("num_batches", "batch_size", "length", "predictions")


class RecordingError(ValueError):
    """A directory is not a usable recording; the message names the file and the fix."""


def write(
    directory: str | Path, batches: Iterable[dict[str, np.ndarray]], description: dict[str, Any], tokenizer_dir: str | Path | None = None
) -> None:
    """Records whole global batches, one after another; memory holds one at a time. `description` is JSON: the settings that made them.

    The directory appears only when whole. Raises FileExistsError if it exists; ValueError if there are no batches, or one does not satisfy
    the contract or differs from the first in its fields or shapes."""
    directory = Path(directory)
    if directory.exists():
        raise FileExistsError(f"{directory} exists; remove it or record elsewhere")
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=directory.name + ".", suffix=".tmp", dir=directory.parent))
    try:
        manifest = {"format": FORMAT, "version": VERSION, "description": description} | _write_fields(temporary, batches)
        if tokenizer_dir is not None:
            shutil.copytree(tokenizer_dir, temporary / "tokenizer")
        manifest["files"] = {
            path.relative_to(temporary).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        }
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        os.rename(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class RecordedBatches:
    """A recording, replayed.

    `rows` are the rows of the global batch that this process wants, all by default. Every file is hashed at opening, so a damaged recording
    is found before training. Raises RecordingError naming the file, ValueError for unfit rows."""

    def __init__(self, directory: str | Path, rows: np.ndarray | None = None):
        self.directory = Path(directory)
        manifest = _read_manifest(self.directory)
        self.description: dict[str, Any] = manifest["description"]
        self.num_batches: int = manifest["num_batches"]
        self.batch_size: int = manifest["batch_size"]
        self.length: int = manifest["length"]
        self.predictions: int = manifest["predictions"]
        self.source_names: tuple[str, ...] = tuple(self.description.get("source_names", ())) if "source_ids.npy" in manifest["files"] else ()
        self.num_sequences = self.num_batches * self.batch_size
        self._arrays: dict[str, np.ndarray] = {
            name: _map(self.directory / f"{name}.npy", name, manifest) for name in contract.FIELDS if f"{name}.npy" in manifest["files"]
        }
        rows = np.arange(self.batch_size) if rows is None else np.asarray(rows)
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or not rows.size or rows.min() < 0 or rows.max() >= self.batch_size:
            raise ValueError(f"rows must be a list of row numbers in [0, {self.batch_size}), the rows of {self.directory}; got {rows}")
        self._rows = rows
        contract.check(self.batch(0))

    @staticmethod
    def is_at(directory: Path) -> bool:
        """Whether the directory holds recorded batches, by its manifest's format."""
        try:
            manifest = json.loads((Path(directory) / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(manifest, dict) and manifest.get("format") == FORMAT

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with any byte of the recording."""
        manifest = json.loads((self.directory / "manifest.json").read_text(encoding="utf-8"))
        return hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def tokenizer_dir(self) -> Path | None:
        """The tokenizer's directory, if one was recorded."""
        path = self.directory / "tokenizer"
        return path if path.is_dir() else None

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The rows of the batch recorded at `step` modulo `num_batches`."""
        if step < 0:
            raise ValueError(f"step {step} does not fit; it must not be negative")
        number = step % self.num_batches
        return {name: array[number, self._rows].astype(contract.FIELDS[name].dtype) for name, array in self._arrays.items()}

    def batches(self, start_step: int = 0, stop_step: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        """`batch(step)` from `start_step` on, up to and without `stop_step`; without end if there is none."""
        step = start_step
        while stop_step is None or step < stop_step:
            yield self.batch(step)
            step += 1


def _write_fields(directory: Path, batches: Iterable[dict[str, np.ndarray]]) -> dict[str, int]:
    """Writes one .npy per field; returns the sizes for the manifest."""
    files, shapes, largest, count = {}, {}, {}, 0
    try:
        for batch in batches:
            contract.check(batch)
            if not count:
                shapes = {name: array.shape for name, array in batch.items()}
                files = {name: open(directory / f"{name}.raw", "wb") for name in batch}
                largest = dict.fromkeys(batch, 0)
            if {name: array.shape for name, array in batch.items()} != shapes:
                raise ValueError(f"batch {count} has other fields or shapes than batch 0; record batches of one kind")
            for name, array in batch.items():
                if array.dtype.kind == "i":
                    if array.min() < 0:
                        raise ValueError(f"batch {count} holds {array.min()} in {name!r}; the contract knows no negative number")
                    largest[name] = max(largest[name], int(array.max()))
                np.ascontiguousarray(array).tofile(files[name])
            count += 1
    finally:
        for file in files.values():
            file.close()
    if not count:
        raise ValueError("there are no batches to record")
    for name, shape in shapes.items():
        raw = np.memmap(directory / f"{name}.raw", contract.FIELDS[name].dtype, mode="r", shape=(count, *shape))
        dtype = np.min_scalar_type(largest[name]) if raw.dtype.kind == "i" else raw.dtype
        array = np.lib.format.open_memmap(directory / f"{name}.npy", mode="w+", dtype=dtype, shape=raw.shape)
        for number in range(count):
            array[number] = raw[number]
        array.flush()
        os.unlink(directory / f"{name}.raw")
    batch_size, length = shapes["input_ids"]
    return {"num_batches": count, "batch_size": batch_size, "length": length, "predictions": shapes["mlm_positions"][1]}


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise RecordingError(f"{directory} holds no recorded batches: it has no {path.name}; write them with `recorded.write`") from None
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{path} is not valid JSON ({error}); record the batches again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise RecordingError(f"{path} is not the manifest of recorded batches of version {VERSION}; record them again")
    try:
        _check_files(directory, manifest["files"])
        if not isinstance(manifest["description"], dict) or "input_ids.npy" not in manifest["files"] or not all(type(manifest[size]) is int and manifest[size] >= 0 for size in SIZES):
            raise TypeError("a size is no number, or there are no input_ids")
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordingError(f"{path} lacks a field, or one is of another kind ({error!r}); record the batches again") from None
    return manifest


def _check_files(directory: Path, files: dict[str, dict]) -> None:
    """RecordingError unless every file is within the directory and as it was written."""
    for name, record in files.items():
        if reason := misplaced(directory, name):
            raise RecordingError(f"{directory / 'manifest.json'} names {name!r}, which {reason}; record the batches again")
        file = directory / name
        if not file.is_file():
            raise RecordingError(f"{directory} lacks the file {name}; record the batches again")
        if file.stat().st_size != record["size"] or _sha256(file) != record["sha256"]:
            raise RecordingError(f"{file} is not as it was written (its SHA-256 differs); record the batches again")


def _map(path: Path, name: str, manifest: dict[str, Any]) -> np.ndarray:
    """A field's file, memory-mapped; RecordingError unless it holds numbers in the shape that the manifest's sizes imply."""
    field = contract.FIELDS[name]
    sizes = {"B": manifest["batch_size"], "L": manifest["length"], "K": manifest["predictions"]}
    shape = (manifest["num_batches"], *(sizes[letter] for letter in field.shape))
    kinds = "iu" if np.dtype(field.dtype).kind == "i" else "f"
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # not np.load, which takes archives too
    except (ValueError, EOFError) as error:
        raise RecordingError(f"{path} is not a numpy array ({error}); record the batches again") from None
    if array.shape != shape or array.dtype.kind not in kinds:
        raise RecordingError(f"{path} holds {array.dtype} {list(array.shape)} instead of numbers {list(shape)}; record the batches again")
    return array


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
