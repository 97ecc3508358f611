"""What lies where `prepare` is to write. Enters: an output, and what `prepare` is asked for. Leaves: the output, locked and free, or
holding the beginning or the whole of this very store; else a StoreError that says what differs.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from data_pipeline.preparation.output import LocalOutput, Output, read_json
from data_pipeline.stores import manifest as manifests
from data_pipeline.stores import store
from data_pipeline.stores.store import StoreError

SETTINGS = "prepare.json"
_OWN_ENTRIES = ("manifest.json", SETTINGS, "unigram_counts.npy", "tokenizer", "train", "eval", "units", "plans")
_BEGINNINGS = ("units", "tokenizer", "unigram_counts.npy", f"{SETTINGS}.tmp")
_SHARD = re.compile(r"shard-[0-9]{5,}-[0-9]{5,}(\.tmp)?")
_FLAGS = {
    "inputs": "--input",
    "tokenizer": "--tokenizer",
    "documents": "--documents",
    "text_field": "--text-field",
    "on_error": "--on-error",
    "min_characters": "--min-characters",
    "max_characters": "--max-characters",
    "deduplicate": "--deduplicate",
    "holdout": "--holdout",
    "shard_size": "--shard-size",
    "language": "--language",
}


@contextlib.contextmanager
def locked(output: Output) -> Iterator[None]:
    """Creates the directory and holds it; the lock goes with the process, however that ends. A remote output cannot be locked."""
    if not isinstance(output, LocalOutput):
        yield
        return
    with writing(output):
        output.directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(output.directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"another prepare is writing to {output}; wait for it, or choose another --output") from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(output: Output) -> Iterator[None]:
    """Says of an OSError in the first things written, a read-only disk for instance, that it is about --output."""
    try:
        yield
    except OSError as error:
        fix = "choose another --output, or make this one writable"
        raise OSError(error.errno, f"--output={output} cannot be written ({error.strerror or error}); {fix}") from error


def check(output: Output, about: dict) -> None:
    """Raises StoreError unless `output` is free, or holds the beginning or the whole of the store that these settings make.

    Of a store made otherwise, of which not even a unit was finished, nothing is worth keeping: it is removed, and `output` is free.
    """
    if not set(output.names()) - {f"{SETTINGS}.tmp"}:
        return
    before = read_json(output, SETTINGS)
    try:
        known = dict(before["settings"])
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{output} is not empty and no token store begun by prepare; choose another --output") from None
    differences = [
        _difference(name, known.get(name), value)
        for name, value in json.loads(json.dumps(about["settings"])).items()
        if value != known.get(name)
    ]
    is_complete = output.size(manifests.MANIFEST) is not None
    # Shards without records: a whole store whose manifest was lost, or is still being copied.
    has_work = any(name.endswith(".json") for name in output.names("units")) or any(_SHARD.fullmatch(name) and not name.endswith(".tmp") for name in output.names("train"))
    if differences and before.get("format") == manifests.FORMAT and not is_complete and not has_work:
        _remove_beginnings(output)
        return
    if not differences and is_complete and before.get("modified_ns") != about["modified_ns"]:
        differences = ["--input files were modified since"]
    if differences:
        raise StoreError(f"{output} holds a token store made otherwise: {'; '.join(differences)}. Choose another --output, or --overwrite")


def _difference(name: str, before: Any, now: Any) -> str:
    """How a setting differs, in words."""
    if name == "inputs" and before:
        return _changed_inputs(before, now)
    return f"{_FLAGS.get(name, name)} was {_short(before)}, now {_short(now)}"


def _changed_inputs(before: list[list], now: list[list]) -> str:
    """What differs between two lists of [name, size], in words."""
    pairs_before, pairs_now = (dict.fromkeys(map(tuple, inputs)) for inputs in (before, now))
    names_before, names_now = (dict.fromkeys(name for name, _ in pairs) for pairs in (pairs_before, pairs_now))
    gone = [name for name in names_before if name not in names_now]
    new = [name for name in names_now if name not in names_before]
    if gone and new:
        return f"--input was {_listed(gone)}, now {_listed(new)}"
    if gone or new:
        return f"--input was with {_listed(gone)}" if gone else f"--input was without {_listed(new)}"
    resized = [pair[0] for pair in pairs_now if pair not in pairs_before]
    return f"--input was of another size: {_listed(resized)}" if resized else "--input was in another order"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:150]}..."


def _remove_beginnings(output: Output) -> None:
    """Deletes what a `prepare` writes before its first unit is finished, and nothing else."""
    for split in store.SPLITS:
        for name in output.names(split):
            if _SHARD.fullmatch(name):
                output.remove(f"{split}/{name}")
    for name in (*_BEGINNINGS, SETTINGS):
        output.remove(name)


def remove(output: Output) -> None:
    """Deletes a token store, complete or not, and nothing else."""
    if not output.names():
        return
    if output.size(SETTINGS) is None:
        raise StoreError(f"{output} is no token store, so --overwrite leaves it alone; choose another --output")
    # The manifest goes first: what is half deleted must not pass for a store.
    for name in _OWN_ENTRIES:
        output.remove(name)
