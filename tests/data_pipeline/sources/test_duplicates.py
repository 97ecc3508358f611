import errno
import hashlib
import os
import pydoc_data.topics
import random
import tracemalloc

import pytest

from data_pipeline.sources import duplicates
from data_pipeline.sources.duplicates import Seen, document_hash


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return [line for text in pydoc_data.topics.topics.values() for line in text.split("\n")]


def test_a_document_is_new_once(tmp_path, lines):
    with Seen(tmp_path) as seen:
        met = set()
        for line in lines:
            assert seen.add(line) == (line not in met)
            met.add(line)
        assert len(seen) == len(met) < len(lines)
    assert list(tmp_path.iterdir()) == []


def test_growth_forgets_nothing_and_invents_nothing(monkeypatch):
    monkeypatch.setattr(duplicates, "_FIRST_BITS", 4)
    monkeypatch.setattr(duplicates, "_CHUNK", 64)
    numbers = random.Random(0).choices(range(60_000), k=120_000)
    with Seen() as seen:
        met = set()
        for number in numbers:
            assert seen.add(f"document {number}") == (number not in met)
            met.add(number)
        assert len(seen) == len(met)


def test_hashes_that_crowd_together_are_all_kept(monkeypatch):
    monkeypatch.setattr(duplicates, "_FIRST_BITS", 4)
    monkeypatch.setattr(duplicates, "_SPARE", 64)
    # All at home in the last slot, and then in two neighbours, of tables of up to 2^16 slots.
    crowd = [b"\xff\xff" + document_hash(str(number))[2:] for number in range(150)]
    crowd += [bytes([0x80, number % 2]) + document_hash(str(number))[2:] for number in range(1000)]
    with Seen() as seen:
        assert all(seen.add_hash(digest) for digest in crowd)
        assert not any(seen.add_hash(digest) for digest in crowd)


def test_memory_does_not_grow_with_the_documents(monkeypatch):
    monkeypatch.setattr(duplicates, "_CHUNK", 1 << 12)
    with Seen() as seen:
        tracemalloc.start()
        for number in range(50_000):
            seen.add(f"document {number}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20  # a set of as many hashes takes 5 MB


def test_the_hash_is_a_function_of_the_text_alone():
    assert document_hash("größe") == hashlib.blake2b("größe".encode(), digest_size=16).digest()
    assert len(document_hash("")) == 16


def test_a_full_disk_is_an_error_in_words(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Seen(tmp_path) as seen:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match=f"No space left on device while noting the documents met in {tmp_path}"):
            seen.add("A document.")
