"""Where `prepare` writes: a local directory, or a bucket or cluster named by a URL (gs://, s3://, hdfs://, ...) through fsspec.

Enters: files made in a local directory (`scratch`). Leaves: the same files under the output, each there whole or not at all. Nothing here
knows what the files mean. An Output travels to worker processes and Beam workers; it connects where it is used.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.stores.manifest import StoreError, write_json

# In these a file appears when its upload is complete, and renaming would be a copy. Elsewhere a temporary name and a rename do it.
_WHOLE_UPLOADS = {"gs", "gcs", "s3", "s3a", "abfs", "abfss", "az", "memory"}


def open_output(place: str | Path) -> "Output":
    """`place` is a path, a file:// URL or another URL. Raises ImportError if fsspec is not installed."""
    text = str(place)
    if text.startswith("file://"):
        return LocalOutput(Path(text.removeprefix("file://")))
    return RemoteOutput(text.rstrip("/")) if "://" in text else LocalOutput(Path(text))


class LocalOutput:
    def __init__(self, directory: Path):
        self.directory = directory

    def __str__(self) -> str:
        return str(self.directory)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A local directory in which to make files for `put`: here the output itself, so that `put` has nothing to do."""
        self.directory.mkdir(parents=True, exist_ok=True)
        yield self.directory

    def put(self, scratch: Path, name: str) -> None:
        """Publishes SCRATCH/NAME, a file or a directory, as NAME."""

    def write_json(self, name: str, value: dict) -> None:
        (self.directory / name).parent.mkdir(parents=True, exist_ok=True)
        write_json(self.directory / name, value)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if it does not exist."""
        try:
            return (self.directory / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def size(self, name: str) -> int | None:
        """Bytes; None if there is no such file."""
        try:
            return (self.directory / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, name: str = "") -> list[str]:
        """What lies directly in a directory, sorted; nothing if it does not exist."""
        directory = self.directory / name
        return sorted(os.listdir(directory)) if directory.exists() else []

    def remove(self, name: str) -> None:
        """Deletes a file, or a directory with all that is in it; no error if there is none."""
        path = self.directory / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class RemoteOutput:
    """The same on an fsspec file system."""

    def __init__(self, url: str):
        self.url = url
        self._protocol = url.partition("://")[0]
        self._connect()  # here, lest the first worker find out that the library is missing

    def __str__(self) -> str:
        return self.url

    def _connect(self) -> tuple[Any, str]:
        try:
            import fsspec
        except ImportError:
            raise ImportError(f"--output={self.url} needs fsspec: pip install 'bert-jax[beam]'") from None
        try:
            return fsspec.core.url_to_fs(self.url)
        except ImportError as error:  # gcsfs, s3fs, ...
            raise ImportError(f"--output={self.url}: {error}") from None
        except ValueError as error:
            raise StoreError(f"--output={self.url}: {error}; give a directory, or a URL that fsspec knows") from None

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="bert_jax_prepare_") as name:
            yield Path(name)

    def put(self, scratch: Path, name: str) -> None:
        path = scratch / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                self._upload(file, str(file.relative_to(scratch)))

    def write_json(self, name: str, value: dict) -> None:
        with self.scratch() as scratch:
            write_json(scratch / "value.json", value)
            self._upload(scratch / "value.json", name)

    def _upload(self, file: Path, name: str) -> None:
        system, root = self._connect()
        target = f"{root}/{name}"
        system.makedirs(target.rpartition("/")[0], exist_ok=True)
        if self._protocol in _WHOLE_UPLOADS:
            system.put_file(str(file), target)
        else:
            system.put_file(str(file), f"{target}.tmp")
            if system.exists(target):  # HDFS refuses to rename onto a file
                system.rm(target)
            system.mv(f"{target}.tmp", target)

    def read(self, name: str) -> bytes | None:
        system, root = self._connect()
        try:
            return system.cat_file(f"{root}/{name}")
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int | None:
        system, root = self._connect()
        system.invalidate_cache()  # other workers write too
        try:
            return int(system.info(f"{root}/{name}")["size"])
        except FileNotFoundError:
            return None

    def names(self, name: str = "") -> list[str]:
        system, root = self._connect()
        system.invalidate_cache()
        try:
            return sorted({path.rstrip("/").rpartition("/")[2] for path in system.ls(f"{root}/{name}".rstrip("/"), detail=False)})
        except FileNotFoundError:
            return []

    def remove(self, name: str) -> None:
        system, root = self._connect()
        with contextlib.suppress(FileNotFoundError):
            system.rm(f"{root}/{name}", recursive=True)


Output = LocalOutput | RemoteOutput


def read_json(output: Output, name: str) -> Any:
    """The content of a JSON file; None if there is none, or it is no JSON."""
    content = output.read(name)
    try:
        return None if content is None else json.loads(content)
    except ValueError:
        return None
