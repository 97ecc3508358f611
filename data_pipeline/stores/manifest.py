"""A token store's manifest: written last, checked whenever it is read. See docs/data.md for its fields.

Enters: a store's directory. Leaves: the manifest as a dict in which every name stays within the store and the counts add up. Standard
library only.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

FORMAT = "bert_jax.token_store"
VERSION = 2
MANIFEST = "manifest.json"
ARRAYS = ("tokens", "sentence_ends", "document_ends", "word_starts")

_SHARD_NAME = re.compile(r"(train|eval)/shard-[0-9]{5,}-[0-9]{5,}")
_OTHER_FILE = re.compile(r"unigram_counts\.npy|tokenizer/[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_SHA256 = re.compile("[0-9a-f]{64}")


class StoreError(ValueError):
    """A directory is not a usable token store; the message names the file and the fix."""


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
    write_json(directory / MANIFEST, complete(manifest))


def complete(manifest: dict) -> dict:
    return {"format": FORMAT, "version": VERSION, **manifest}


def read_manifest(directory: Path) -> dict:
    """The manifest of a complete store; raises StoreError if there is none or it is not one."""
    path = Path(directory) / MANIFEST
    if not path.exists():
        why = "the directory does not exist" if not Path(directory).exists() else f"it has no {MANIFEST}"
        raise StoreError(f"{directory} is not a token store: {why}. Make one with `bert-jax prepare`, or let an interrupted one finish")
    return parse_manifest(path.read_bytes(), str(path))


def parse_manifest(content: bytes, path: str) -> dict:
    """The same from a file's content; `path` is for errors."""
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not valid JSON ({error}); prepare the store again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreError(f"{path} is not the manifest of a token store: its format is not {FORMAT!r}")
    if manifest.get("version") != VERSION:
        raise StoreError(f"{path} has version {manifest.get('version')!r}; this program reads version {VERSION}: prepare the store again")
    try:
        trouble = next(_troubles(manifest), None)
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} lacks a field, or one is of another kind ({error!r}); prepare the store again") from None
    if trouble:
        raise StoreError(f"{path} {trouble}; prepare the store again")
    return manifest


def _troubles(manifest: dict) -> Iterator[str]:
    """What in a manifest no `prepare` wrote: names that leave the directory, counts that do not add up, files that are no checksum."""
    tokenizer = manifest["tokenizer"]
    _ = tokenizer["hash"], tokenizer["special"]["mask"], manifest["files"]["unigram_counts.npy"]
    if not _is_count(tokenizer["vocab_size"]) or tokenizer["vocab_size"] < 1:
        yield f"has a vocab_size of {tokenizer['vocab_size']!r}"
    for name in manifest["files"]:
        if not _OTHER_FILE.fullmatch(name):
            yield f"names a file {name!r}, which is none of a store's"
    shards = [(split, record) for split, value in manifest["splits"].items() for record in value["shards"]]
    for split, record in shards:
        name = record["name"]
        if not _SHARD_NAME.fullmatch(name) or not name.startswith(f"{split}/"):
            yield f"names a shard {name!r} in {split!r}; a shard is called like train/shard-00000-00000"
        if set(record["files"]) != {f"{array}.npy" for array in ARRAYS}:
            yield f"gives {name} the files {', '.join(record['files'])} instead of {', '.join(ARRAYS)}"
        counts = [record[unit] for unit in ("tokens", "sentences", "documents")]
        if not all(map(_is_count, counts)) or not counts[0] >= counts[1] >= counts[2] >= 1:
            yield f"gives {name} {counts[0]} tokens, {counts[1]} sentences, {counts[2]} documents"
    if len({record["name"] for _, record in shards}) < len(shards):
        yield "names a shard twice"
    for split, value in manifest["splits"].items():
        if not value["shards"]:
            yield f"has no shard for {split!r}"
        for unit, total in value.get("counts", {}).items():
            found = sum(record[unit] for record in value["shards"])
            if total != found:
                yield f"counts {total} {unit} in {split}, its shards {found}"
    for name, record in files_of(manifest).items():
        if not _is_count(record["size"]) or not _SHA256.fullmatch(record["sha256"]):
            yield f"has no size and SHA-256 of {name}"


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def fingerprint(manifest: dict) -> str:
    """16 hex digits over the tokenizer's hash and the shards' checksums in order."""
    content = [manifest["tokenizer"]["hash"]]
    for split in sorted(manifest["splits"]):
        for record in manifest["splits"][split]["shards"]:
            content.append([record["name"], [record["files"][f"{name}.npy"]["sha256"] for name in ARRAYS]])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def files_of(manifest: dict) -> dict[str, dict]:
    """Every file of a store, by its name within the directory."""
    files = dict(manifest["files"])
    for split in manifest["splits"].values():
        for record in split["shards"]:
            files.update((f"{record['name']}/{name}", value) for name, value in record["files"].items())
    return files
