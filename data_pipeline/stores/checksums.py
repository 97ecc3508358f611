"""Files against the size and SHA-256 recorded of them. numpy and the standard library only.

Enters: a directory and {name: {"size", "sha256"}}. Leaves: what differs. Hashing runs in threads (hashlib releases the lock), and a stamp
file can remember which files were right, so that the next look costs one `stat` per file.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

_THREADS = 16
_BAR_FROM = 1 << 30  # bytes to hash from which a progress bar is worth its line


def file_record(path: Path) -> dict:
    """{"size": bytes, "sha256": hex digits} of a file; raises OSError."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": file.tell(), "sha256": digest}


def differences(directory: Path, records: dict[str, dict], stamp: Path | None = None) -> list[str]:
    """"NAME: what is wrong" for each file that is missing, has another size or other content; an empty list if all is well.

    With `stamp`, files that it remembers as right, by size, modification time and inode, are not read again, and the ones found right are
    added to it; a stamp that cannot be read or written is done without.
    """
    known = _read_stamp(stamp) if stamp else {}
    wrong: dict[str, str] = {}
    to_hash: dict[str, list] = {}
    for name, record in records.items():
        try:
            status = os.stat(directory / name)
        except OSError as error:
            wrong[name] = "missing" if isinstance(error, FileNotFoundError) else str(error.strerror)
            continue
        identity = [status.st_size, status.st_mtime_ns, status.st_ino, record["sha256"]]
        if status.st_size != record["size"]:
            wrong[name] = f"{status.st_size} bytes instead of {record['size']}"
        elif known.get(name) != identity:
            to_hash[name] = identity
    for name, found in _hash(directory, list(to_hash), sum(identity[0] for identity in to_hash.values())):
        if found == records[name]["sha256"]:
            known[name] = to_hash[name]
        else:
            wrong[name] = f"its SHA-256 is {found[:12]}..., the manifest says {records[name]['sha256'][:12]}..."
    if stamp and to_hash:
        _write_stamp(stamp, {name: identity for name, identity in known.items() if name in records})
    return [f"{name}: {wrong[name]}" for name in records if name in wrong]


def stamp_places(directory: Path) -> list[Path]:
    """Where the stamp of a store may lie: beside its plans, or in the user's cache if the store cannot be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bert_jax" / "verified"
    name = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:32]
    return [directory / "plans" / "verified.json", cache / f"{name}.json"]


def _hash(directory: Path, names: list[str], size: int) -> Iterator[tuple[str, str]]:
    def digest(name: str) -> tuple[str, int, str]:
        try:
            record = file_record(directory / name)
        except OSError as error:
            return name, 0, f"unreadable ({error.strerror})"
        return name, record["size"], record["sha256"]

    threads = min(_THREADS, len(os.sched_getaffinity(0)))
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=size, unit="B", unit_scale=True, desc="verify", disable=None if size >= _BAR_FROM else True) as bar,
    ):
        for name, read, found in pool.map(digest, names):
            bar.update(read)
            yield name, found


def _read_stamp(path: Path) -> dict[str, list]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["verified"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_stamp(path: Path, verified: dict[str, list]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".tmp", delete=False) as file:
            try:
                json.dump({"verified": verified}, file)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError:
        return  # a full or read-only disk: the next start hashes again
