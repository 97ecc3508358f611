"""Finds and opens the files of a corpus, local or remote. Enters: paths, directories, globs, URLs. Leaves: Sources, and their bytes.

Remote files go through fsspec, which knows gs://, s3://, https:// and many more; each protocol has its own package.
"""

import glob
import gzip
import hashlib
import io
import os
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from data_pipeline.sources.reading import BadInput, CorpusError, Source

if TYPE_CHECKING:
    import fsspec

CODECS = {".gz": "gzip", ".zst": "zstd"}
KINDS = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
DAMAGE = (EOFError, zlib.error, OSError)  # what a decompressor may raise; is_damage tells them from a disk or a network that fails

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"PAR1": "Parquet"}
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # a frame of other data, with which zstd may begin
_OTHER_COMPRESSION = {".bz2", ".xz", ".zip", ".7z", ".lz4"}
_FINGERPRINTS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "updated", "mtime", "created")
_WEB = ("http://", "https://")
_BUFFER = 1 << 16  # bytes; also about what is lost of the good text before the place where compressed data is damaged


def expand(item: str) -> list[Source]:
    """The files that a path, directory, glob or URL stands for, sorted. Raises CorpusError if there is none."""
    if "://" in item:
        return _expand_remote(item)
    if os.path.isfile(item):
        return [source(item)]
    if os.path.isdir(item):
        return _of_directory(item, [str(path) for path in sorted(Path(item).rglob("*")) if path.is_file()])
    if glob.has_magic(item):
        return _of_glob(item, sorted(name for name in glob.glob(item, recursive=True) if os.path.isfile(name)))
    raise CorpusError(f"input {item!r} does not exist; give a file, a directory, a glob, or `embedded`")


def source(address: str, info: dict[str, Any] | None = None) -> Source:
    """The Source of one file. `info` is what fsspec's listing says of a remote one."""
    if "://" not in address:
        try:
            address.encode()
        except UnicodeEncodeError:
            raise CorpusError(f"the name of the file {os.fsencode(address)!r} is not UTF-8; rename the file or its directory") from None
        status = os.stat(address)
        return Source(address, status.st_size, status.st_mtime_ns, _kind(address), address)
    if info is None or info.get("size") is None:  # a web page lists names alone
        file_system, path = _file_system(address)
        info = file_system.info(path)
    name = _without_credentials(address)
    stated = repr([(key, str(info[key])) for key in _FINGERPRINTS if info.get(key)])
    fingerprint = int.from_bytes(hashlib.blake2b(stated.encode(), digest_size=7).digest())
    return Source(name, int(info.get("size") or 0), fingerprint, _kind(name), address)


def open_raw(source: Source, seekable: bool = False) -> BinaryIO:
    """The bytes as they are stored. Raises OSError."""
    if "://" not in source.address:
        return open(source.address, "rb")
    file_system, path = _file_system(source.address)
    if source.address.startswith(_WEB) and not seekable:  # not every server gives parts of a file
        return file_system.open(path, "rb", block_size=0)
    return file_system.open(path, "rb")


def compression(name: str) -> str | None:
    """The suffix of the compression that is undone while reading, or None."""
    suffix = Path(name).suffix.lower()
    return suffix if suffix in CODECS else None


def decompressed(raw: BinaryIO, suffix: str | None) -> BinaryIO:
    """The bytes that `raw` holds compressed. Raises BadInput if it holds something else; reading raises one of DAMAGE if they are cut
    short or damaged.
    """
    buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, _BUFFER)
    if suffix is None:
        return buffered
    if not buffered.peek(1):
        raise EOFError("an empty file is no compressed file")
    start = buffered.peek(4)[:6]
    if len(start) >= 4 and content_kind(start) != CODECS[suffix] and not (suffix == ".zst" and _SKIPPABLE.match(start)):
        kind = content_kind(start)
        fix = f"it holds {kind} data: name the file so" if kind else f"take {suffix} off its name if it holds text, or copy it again"
        raise BadInput(f"no {CODECS[suffix]} data", "", fix)
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=buffered)
    import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(buffered, "r"), CODECS[suffix]), _BUFFER)


def content_kind(start: bytes) -> str | None:
    """What a file with these first bytes (6 or more) holds, if it is compressed or Parquet."""
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)


def is_damage(error: Exception) -> bool:
    """Whether the file's content is at fault: libraries report that without the number of an operating system's error."""
    return not isinstance(error, OSError) or isinstance(error, gzip.BadGzipFile) or (type(error) is OSError and error.errno is None)


def read_bytes(address: str) -> bytes:
    """All of a small file. Raises OSError."""
    with open_raw(Source("", 0, address=address)) as file:
        return file.read()


def split_address(address: str) -> tuple[str, str]:
    """NAME:SPLIT as (NAME, SPLIT); SPLIT is "" if there is none. A colon within a path, URL or slice parts nothing."""
    name = re.sub(r"\[[^]]*\]", lambda slice: "-" * len(slice.group()), address).rpartition(":")[0]
    split = address[len(name) + 1 :]
    return (name, split) if name and "/" not in split else (address, "")


def _kind(name: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix in _OTHER_COMPRESSION:
        raise CorpusError(f"{name}: of compressed files only .gz and .zst are read; decompress it, or compress it with gzip or zstd")
    inner = Path(name.removesuffix(suffix)).suffix.lower() if suffix in CODECS else suffix
    kind = "arrow" if inner == ".arrow" else KINDS.get(inner, "text")
    if suffix in CODECS and kind in ("parquet", "arrow"):
        raise CorpusError(f"{name}: decompress it; {kind.title()} files are compressed inside")
    return kind


def _is_known(name: str) -> bool:
    """Whether a file of a directory is read: text, JSON or Parquet by its suffix, and not hidden."""
    path = Path(name)
    inner = path.with_suffix("") if path.suffix.lower() in CODECS else path
    kind = KINDS.get(inner.suffix.lower())
    return kind is not None and not (kind == "parquet" and inner is not path) and not path.name.startswith(".")


def _of_directory(item: str, names: list[str], infos: dict[str, dict] | None = None) -> list[Source]:
    for name in names:
        if Path(name).name == "dataset_info.json":
            directory = name.removesuffix("/dataset_info.json")
            for prefix, mark in (("hf", "state.json"), ("tfds", "features.json")):
                if f"{directory}/{mark}" in names:
                    raise CorpusError(f"directory {item} holds a prepared data set: give --input={prefix}:{directory}:SPLIT")
    known = [name for name in names if _is_known(name)]
    if not known:
        suffixes = ", ".join(KINDS)
        raise CorpusError(f"directory {item} holds no file ending in {suffixes}, or in .gz or .zst after these; a glob names others")
    return [source(name, infos and infos[name]) for name in known]


def _of_glob(item: str, names: list[str], infos: dict[str, dict] | None = None) -> list[Source]:
    if not names:
        raise CorpusError(f"no file matches {item!r}; check the pattern, and quote it so that the shell leaves it alone")
    return [source(name, infos and infos[name]) for name in names]


def _expand_remote(item: str) -> list[Source]:
    shown = _without_credentials(item)
    file_system, path = _file_system(item)
    is_web = item.startswith(_WEB)
    try:
        if glob.has_magic(path.replace("?", "") if is_web else path):
            return _of_glob(shown, *_listed(file_system, item, path, file_system.glob(path, detail=True)))
        info = file_system.info(path)
        if info["type"] == "directory" or (is_web and path.endswith("/")):
            return _of_directory(shown, *_listed(file_system, item, path, file_system.find(path, detail=True)))
    except FileNotFoundError:
        raise CorpusError(f"input {shown!r} does not exist; give a file, a directory or a glob") from None
    except (CorpusError, ImportError):
        raise
    except Exception as error:  # each protocol's package has its own
        raise CorpusError(f"{shown} cannot be listed: {type(error).__name__}: {error}; check the address and the credentials") from error
    return [source(item, info)]


def _listed(file_system: "fsspec.AbstractFileSystem", item: str, path: str, found: dict[str, dict]) -> tuple[list[str], dict[str, dict]]:
    """Addresses of the files that were found where `path` is the file system's name for `item`, and what the listing says of each."""
    # What precedes the path may name a host, of which the file system's own addresses know nothing.
    stem = next((stem.removesuffix(path) for stem in (item, item.rstrip("/")) if stem.endswith(path)), None)
    infos = {
        file_system.unstrip_protocol(name) if stem is None else stem + name: info for name, info in found.items() if info["type"] == "file"
    }
    return sorted(infos), infos


def _file_system(address: str) -> tuple["fsspec.AbstractFileSystem", str]:
    """The file system and its path of a URL. Raises ImportError if the protocol's package is missing."""
    import fsspec

    shown = _without_credentials(address)
    if "::" in address:
        raise CorpusError(f"{shown}: chained addresses (::) are not read; copy the files, or name them directly")
    try:
        return fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = (getattr(error.__cause__, "name", None) or "").split(".")[0]
        raise ImportError(f"{shown}: {error}" + (f" (pip install {package})" if package else "")) from error
    except ValueError as error:
        raise CorpusError(f"{shown}: {error}; fsspec reads gs://, s3://, https:// and others") from None


def _without_credentials(address: str) -> str:
    """The address as it may be shown and stored: no user, password or signed query."""
    if "://" not in address:
        return address
    protocol, rest = address.split("://", 1)
    if address.startswith(_WEB):
        rest = re.split("[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    return f"{protocol}://{host.rpartition('@')[2]}{slash}{path}"
