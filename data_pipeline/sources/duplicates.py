"""Exact duplicates. Enters: documents, one after the other. Leaves: whether each was met before.

The hashes of the documents met lie in a file, an open-addressing table that doubles as it fills, so that the process's memory stays at
some 14 MB whatever their number. On disk a document takes 16 bytes at a load of 0.35 to 0.7: 23 to 46 bytes, and half as much again while
the table doubles. The operating system's page cache makes it quick; it is plain reads and writes rather than a memory map, because a full
disk then is an error in words instead of a signal that kills the process.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

_HASH = 16  # bytes
_EMPTY = bytes(_HASH)
_WINDOW = 8 * _HASH  # bytes read at a time
_FIRST_BITS = 16  # the first table has 2^16 slots
_MAX_LOAD = 0.7
_SPARE = 4096  # slots after the last home, for those that probe past it; when they are full the table doubles
_CHUNK = 1 << 16  # slots moved at a time


def document_hash(document: str) -> bytes:
    """16 bytes of BLAKE2b: the identity of a document, for duplicates and for the held-out split."""
    return hashlib.blake2b(document.encode(), digest_size=_HASH).digest()


class Seen:
    """The documents met so far. Two documents count as the same if their 128-bit hashes are equal.

    The table is a nameless file in `directory` (default: the system's temporary directory), gone when it is closed or the process ends.
    Raises OSError if the disk is full.
    """

    def __init__(self, directory: str | Path | None = None):
        self._directory = directory
        self._count = 0
        self._use(self._new_file(_FIRST_BITS), _FIRST_BITS)

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def add(self, document: str) -> bool:
        """True the first time that this document is met."""
        return self.add_hash(document_hash(document))

    def add_hash(self, digest: bytes) -> bool:
        """The same for a document_hash."""
        descriptor = self._descriptor
        # The hash's first bits are its home; it lies there or in the slots that follow, before the next empty one.
        position = (int.from_bytes(digest[:8]) >> self._shift) * _HASH
        while window := os.pread(descriptor, _WINDOW, position):
            for start in range(0, len(window), _HASH):
                entry = window[start : start + _HASH]
                if entry == digest:
                    return False
                if entry == _EMPTY:
                    self._write(descriptor, digest, position + start)
                    self._count += 1
                    if self._count > self._limit:
                        self._grow()
                    return True
            position += len(window)
        self._grow()
        return self.add_hash(digest)

    def _grow(self) -> None:
        bits = 65 - self._shift
        while (file := self._moved(bits)) is None:
            bits += 1
        self._file.close()
        self._use(file, bits)

    def _use(self, file: BinaryIO, bits: int) -> None:
        self._file = file
        self._descriptor = file.fileno()
        self._shift = 64 - bits
        self._limit = int(_MAX_LOAD * (1 << bits))

    def _moved(self, bits: int) -> BinaryIO | None:
        """A file of 2^bits homes with all hashes in it; None if they do not fit.

        Homes are ordered as hashes are, so both tables are passed once from beginning to end. The old one is taken in runs of slots that
        end with an empty one: what lies behind a run is greater than all in it, and since what lies at slot p moves to 2p + 1 at most (in
        a table twice the size), the runs stay apart.
        """
        file = self._new_file(bits)
        end = ((1 << bits) + _SPARE) * _HASH
        position, rest = 0, b""
        while True:
            read = os.pread(self._descriptor, _CHUNK * _HASH, position)
            position += len(read)
            slots = np.frombuffer(rest + read, dtype=">u8").reshape(-1, 2)
            filled = slots.any(axis=1)
            cut = len(slots) if not read else len(slots) - int(np.argmin(filled[::-1]))
            if read and filled.all():
                rest += read
                continue
            rest = slots[cut:].tobytes()
            hashes = slots[:cut][filled[:cut]].astype(np.uint64)
            if len(hashes):
                hashes = hashes[np.argsort(hashes[:, 0])]
                # Each goes to its home or, if that is taken, behind the one before: with i places used, max(home - i) + i.
                number = np.arange(len(hashes))
                beyond = (hashes[:, 0] >> np.uint64(64 - bits)).astype(np.int64) - number
                places = number + np.maximum.accumulate(beyond)
                if (places[-1] + 1) * _HASH > end:
                    file.close()
                    return None
                block = np.zeros((places[-1] + 1 - places[0], 2), ">u8")
                block[places - places[0]] = hashes
                self._write(file.fileno(), block.tobytes(), int(places[0]) * _HASH)
            if not read:
                return file

    def _new_file(self, bits: int) -> BinaryIO:
        file = tempfile.TemporaryFile(dir=self._directory, buffering=0)
        os.ftruncate(file.fileno(), ((1 << bits) + _SPARE) * _HASH)
        return file

    def _write(self, descriptor: int, content: bytes, position: int) -> None:
        try:
            written = os.pwrite(descriptor, content, position)
            while written < len(content):
                written += os.pwrite(descriptor, content[written:], position + written)
        except OSError as error:
            where = self._directory or tempfile.gettempdir()
            raise OSError(error.errno, f"{error.strerror} while noting the documents met in {where}; give it more space") from error
