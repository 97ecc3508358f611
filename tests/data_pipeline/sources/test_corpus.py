import collections
import gzip
import itertools
import json
import os
import pickle
import tracemalloc

import pytest
import zstandard

from data_pipeline.sources import embedded
from data_pipeline.sources.corpus import Corpus, CorpusError, by_reason
from data_pipeline.sources.reading import MAX_DOCUMENT
from data_pipeline.sources.text_files import MAX_JSON_LINE


@pytest.fixture(scope="module")
def prose() -> list[str]:
    return list(itertools.islice(embedded.documents(), 1000))


@pytest.fixture
def documents(prose) -> list[str]:
    return prose[:40]


def compress(suffix: str, content: bytes) -> bytes:
    return {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor(write_checksum=True).compress}[suffix](content)


def write(path, documents, layout="blank-line"):
    parted = {"blank-line": "\n\n", "line": "\n"}[layout]
    path.write_bytes(parted.join(documents).encode())
    return path


def test_layouts_and_containers_hold_the_same_documents(tmp_path, documents):
    plain = write(tmp_path / "a.txt", documents)
    assert list(Corpus(plain)) == documents
    lines = tmp_path / "c.jsonl"
    lines.write_text("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in documents))
    assert list(Corpus(lines)) == documents
    for suffix in (".gz", ".zst"):
        # Compressed files may be joined end to end.
        halves = [plain.read_bytes()[:5000], plain.read_bytes()[5000:]]
        (tmp_path / f"b.txt{suffix}").write_bytes(b"".join(compress(suffix, half) for half in halves))
        assert list(Corpus(tmp_path / f"b.txt{suffix}")) == documents
        (tmp_path / f"d.jsonl{suffix}").write_bytes(compress(suffix, lines.read_bytes()))
        assert list(Corpus(tmp_path / f"d.jsonl{suffix}")) == documents
    lines = [line for text in documents for line in text.split("\n")]
    assert list(Corpus(plain, documents="line")) == lines
    assert list(Corpus(plain, documents="file")) == ["\n\n".join(documents)]


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOne.\r\nTwo.\r\n\r\n\r\nThree.\r\n")
    assert list(Corpus(tmp_path / "a.txt")) == ["One.\nTwo.", "Three."]


def test_inputs_are_sorted_and_read_once(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.jsonl", "ignored.bin", "ignored.arrow", "ignored.parquet.gz", ".hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": name}) if name.endswith("jsonl") else name)
    assert list(Corpus(tmp_path)) == ["a.txt", "b.txt", "sub/c.jsonl"]
    assert list(Corpus(str(tmp_path / "*.txt"))) == ["a.txt", "b.txt"]
    corpus = Corpus([tmp_path / "b.txt", str(tmp_path / "*.txt")])
    assert list(corpus) == list(corpus) == ["b.txt", "a.txt"]
    assert corpus.progress["bytes"] == corpus.size == 10


GOOD = b"A good document.\n\n"
BAD = {
    "broken UTF-8": ("a.txt", GOOD + b"caf\xe9 is Latin-1\n\n" + GOOD, "line 3, byte 21"),
    "NUL byte": ("a.txt", GOOD + b"fine\nnot \0 fine\n\n" + GOOD, "line 4, byte 27"),
    "malformed JSON": ("a.jsonl", b'{"text": "good"}\n{"text": "cut\n{"text": "good"}\n', "line 2, byte 17"),
    "no text in field 'text'": ("a.jsonl", b'{"text": "good"}\n{"body": "x"}\n{"text": "good"}\n', "'body'"),
    "JSON line too long": ("a.jsonl", b'{"text": "good"}\n"' + b"x" * (MAX_JSON_LINE * 2) + b'"\n{"text": "good"}\n', "line 2, byte 17"),
}
BAD_JSON = [b'{"text": 5}', b"[1]", b'{"text": "\\ud800"}', b'{"text": "a\\u0000b"}', b'{"text": "caf\xe9"}', b"[" * 100_000]


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_document_stops_the_run_or_is_counted(tmp_path, reason):
    name, content, place = BAD[reason]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError) as error:
        list(Corpus(tmp_path / name))
    for part in (str(tmp_path / name), place, reason, "--on-error=skip"):
        assert part in str(error.value)
    corpus = Corpus(tmp_path / name, on_error="skip")
    assert len(list(corpus)) == 2
    assert corpus.skips == {reason: 1}


@pytest.mark.parametrize("line", BAD_JSON)
def test_bad_json_lines(tmp_path, line):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "good"}\n')
    with pytest.raises(CorpusError, match="line 2, byte "):
        list(Corpus(tmp_path / "a.jsonl"))
    corpus = Corpus(tmp_path / "a.jsonl", on_error="skip")
    assert list(corpus) == ["good", "good"]
    assert corpus.skips.total() == 1


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "end cut", "flipped", "empty"])
def test_damaged_compression(tmp_path, prose, damage, suffix):
    whole = compress(suffix, "\n\n".join(prose).encode())
    middle = len(whole) // 2
    content = {
        "cut": whole[:middle],
        "end cut": whole[:-2],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :],
        "empty": b"",
    }[damage]
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(content)
    (tmp_path / "b.txt").write_text("The next file.")
    with pytest.raises(CorpusError, match=f"a.txt{suffix}, line .*, byte"):
        list(Corpus(tmp_path))
    corpus = Corpus(tmp_path, on_error="skip")
    read = list(corpus)
    assert read[-1] == "The next file."
    # A flipped bit may show as broken text before the checksum at the end of the file is reached.
    codec = {".gz": "gzip", ".zst": "zstd"}[suffix]
    assert corpus.skips[f"{codec} data cut short or damaged"] == 1 and (damage == "flipped" or corpus.skips.total() == 1)
    if damage in ("cut", "end cut"):
        assert read[:-1] == prose[: len(read) - 1]
        assert len(read) > 300


def test_missing_and_empty_inputs(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "blank.txt").write_bytes(b" \n\n\t\n")
    (tmp_path / "x.txt.xz").write_bytes(b"")
    (tmp_path / "x.parquet.gz").write_bytes(b"")
    (tmp_path / "none").mkdir()
    for inputs, words in [
        (tmp_path / "absent.txt", "does not exist"),
        (str(tmp_path / "*.absent"), "no file matches"),
        (tmp_path / "none", "holds no file"),
        (tmp_path / "x.txt.xz", "only .gz and .zst"),
        (tmp_path / "x.parquet.gz", "decompress it"),
        ([], "no input"),
    ]:
        with pytest.raises(CorpusError, match=words):
            Corpus(inputs)
    for name in ("empty.txt", "blank.txt"):
        with pytest.raises(CorpusError, match="holds no document"):
            list(Corpus(tmp_path / name))
    with pytest.raises(CorpusError, match="blank-line, line, file"):
        Corpus(tmp_path / "blank.txt", documents="paragraph")
    with pytest.raises(CorpusError, match="min_characters=9"):
        Corpus(tmp_path / "blank.txt", min_characters=9, max_characters=5)


def test_what_is_read_and_left_out_adds_up(tmp_path, documents):
    lengths = sorted(map(len, documents))
    shortest, longest = lengths[10], lengths[30]
    write(tmp_path / "a.txt", documents)
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*documents, " "]) + "{}\n")
    corpus = Corpus(tmp_path, on_error="skip", min_characters=shortest, max_characters=longest)
    assert list(corpus) == [text for text in documents * 2 if shortest <= len(text) <= longest]
    counts = corpus.progress
    assert corpus.skips == {"empty text": 1, "no text in field 'text'": 1}
    assert corpus.filtered == {
        f"shorter than {shortest:,} characters": 2 * sum(length < shortest for length in lengths),
        f"longer than {longest:,} characters": 2 * sum(length > longest for length in lengths),
    }
    assert counts["documents"] + corpus.skips.total() + corpus.filtered.total() == 2 * len(documents) + 2
    with pytest.raises(CorpusError, match="left out: .*, 80 x shorter than 1,000,000"):
        list(Corpus(tmp_path, on_error="skip", min_characters=10**6))


def test_length_limits_judge_a_document_before_it_is_cut(tmp_path):
    long = "".join(f"word {number} " for number in range(300_000))  # one line
    (tmp_path / "a.txt").write_text(f"Short.\n\n{long}word\n{long[:1000]}\n\nShort too.")
    size = len(long) + 4 + 1000
    assert list(Corpus(tmp_path / "a.txt", max_characters=2 * MAX_DOCUMENT)) == ["Short.", "Short too."]
    for limits in ({"min_characters": 2 * MAX_DOCUMENT}, {"min_characters": 7, "max_characters": size + 10}):
        pieces = list(Corpus(tmp_path / "a.txt", **limits))
        assert "".join(piece for piece in pieces if "word" in piece).replace("\n", "") == f"{long}word{long[:1000]}" and len(pieces) > 3
    corpus = Corpus(tmp_path / "a.txt", max_characters=size - 10)
    assert len(list(corpus)) == 2 and corpus.filtered.total() == 1


def test_sources_are_read_alone_and_in_other_processes(tmp_path, documents):
    write(tmp_path / "a.txt", documents[:10])
    write(tmp_path / "b.txt", documents[10:])
    (tmp_path / "c.jsonl").write_text('{"text": "A document."}\n{}\n')
    corpus = Corpus([tmp_path, "embedded"], on_error="skip", max_characters=5000)
    counts, read = collections.Counter(), []
    for source in reversed(corpus.sources[:3]):
        read.append(list(pickle.loads(pickle.dumps(corpus)).read([source], counts)))
    assert corpus.progress == {}
    together = Corpus(tmp_path, on_error="skip", max_characters=5000)
    assert list(together) == [document for part in reversed(read) for document in part]
    assert counts == together.progress and counts["bytes"] == together.size
    assert by_reason(counts, "skip") == {"no text in field 'text'": 1}


@pytest.mark.parametrize("unit", ["word ", "größe", "x"])
@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_one_huge_line_is_cut_in_bounded_memory(tmp_path, unit, suffix):
    size = 24 << 20
    content = unit.encode() * (size // len(unit.encode()))
    (tmp_path / f"a.txt{suffix}").write_bytes(compress(suffix, content) if suffix else content)
    corpus = Corpus(tmp_path / f"a.txt{suffix}")
    tracemalloc.start()
    pieces = 0
    position = 0
    for piece in corpus:
        encoded = piece.encode()
        assert len(encoded) <= 2 * MAX_DOCUMENT
        if unit.endswith(" "):
            assert piece.startswith("word") and piece.endswith(" ")
        assert encoded == content[position : position + len(encoded)]
        position += len(encoded)
        pieces += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert position == len(content)
    assert pieces > 20 and corpus.progress["cut"] >= pieces - 1
    assert peak < 16 << 20


def test_embedded_corpus_is_prose_without_repetition(prose):
    documents = prose
    text = "\n".join(documents)
    assert len(documents) == 1000 and len(text) > 1_000_000
    paragraphs = text.split("\n")
    assert len(set(paragraphs)) == len(paragraphs)
    assert sum(character.isalpha() or character == " " for character in text) > 0.93 * len(text)
    words = text.split()
    assert sum(word in {"the", "a", "of", "to", "is", "and", "in"} for word in words) > 0.15 * len(words)
    assert ">>>" not in text and "\ndef " not in text
    assert list(itertools.islice(embedded.documents(), 100)) == documents[:100]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.txt.zst", gzip.compress(b"Text."), "no zstd data; it holds gzip data"),
        ("a.txt.gz", zstandard.ZstdCompressor().compress(b"Text."), "no gzip data; it holds zstd data"),
        ("a.txt.gz", b"plain text", "no gzip data; take .gz off its name"),
        ("a.txt", gzip.compress(b"Text.", mtime=0x7fff), "broken UTF-8; the file holds gzip data"),
        ("a.txt", "Grüße.\n".encode("utf-16"), "broken UTF-8; the file is UTF-16: .*iconv -f utf-16 -t utf-8"),
        ("a.txt", "Grüße.".encode("latin1"), "broken UTF-8; .*iconv -f latin1 -t utf-8"),
        ("a.jsonl", b'{"text": 3}', "no text in field 'text'; .* it holds a number"),
        ("a.jsonl", b'{"text": null}', "no text in field 'text'; .* it holds null"),
        ("a.jsonl", b'{"body": "Text."}', "no text in field 'text'; .* the object has 'body'"),
    ],
)
def test_errors_tell_what_the_file_holds_instead(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "b.txt").write_text("The next file.")
    with pytest.raises(CorpusError, match=words):
        list(Corpus(tmp_path / name))
    corpus = Corpus([tmp_path / name, tmp_path / "b.txt"], on_error="skip")
    assert list(corpus) == ["The next file."] and corpus.skips.total() == 1


def test_zstd_may_begin_with_a_skippable_frame(tmp_path):
    (tmp_path / "a.txt.zst").write_bytes(b"\x50\x2a\x4d\x18\x02\0\0\0ab" + compress(".zst", b"Text."))
    assert list(Corpus(tmp_path / "a.txt.zst")) == ["Text."]


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    with open(os.fsencode(tmp_path) + b"/bad\xff.txt", "w") as file:
        file.write("Text.")
    for item in (tmp_path, tmp_path / "*.txt"):
        with pytest.raises(CorpusError, match=r"bad\\xff.txt' is not UTF-8; rename"):
            Corpus(item)
