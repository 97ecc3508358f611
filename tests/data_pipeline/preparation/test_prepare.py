import hashlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from data_pipeline.preparation import groups, units
from data_pipeline.preparation.output import open_output
from data_pipeline.preparation.prepare import prepare
from data_pipeline.sources import embedded
from data_pipeline.sources.corpus import Corpus, CorpusError
from data_pipeline.stores.store import StoreError, TokenStore
from data_pipeline.tokenization import sentences, tokenizers

ROOT = Path(__file__).parents[3]
SIZE = 20_000  # characters per shard: dozens of shards


@pytest.fixture(scope="module")
def documents():
    return list(itertools.islice(embedded.documents(), 500))


@pytest.fixture(scope="module")
def text(documents, tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("\n\n".join(documents))
    return path


@pytest.fixture(scope="module")
def tokenizer_dir(documents, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizers.train(documents, directory, vocab_size=3000)
    return directory


def make(text, tokenizer_dir, output, **changes):
    return prepare(text, tokenizer_dir, output, **{"workers": 1, "holdout": 0.1, "shard_size": SIZE, "progress": False} | changes)


def digests(store: Path) -> dict[str, str]:
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(store.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(text, tokenizer_dir, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "store"
    return output, make(text, tokenizer_dir, output)


def read(store: TokenStore) -> list[list[list[int]]]:
    """Documents as lists of sentences as lists of ids."""
    found = []
    for shard in store.shards:
        pieces = np.split(shard.tokens, shard.sentence_ends[:-1])
        begin = 0
        for end in shard.document_ends:
            found.append([piece.tolist() for piece in pieces[begin:end]])
            begin = end
    return found


def test_the_store_holds_every_document_in_order(whole, documents, tokenizer_dir):
    output, summary = whole
    tokenizer = tokenizers.load(tokenizer_dir)
    for split, wanted in (("train", False), ("eval", True)):
        expected = [
            [tokenizer.encode(sentence).tolist() for sentence in sentences.split(document)]
            for document in documents
            if units.is_held_out(document, 0.1) is wanted
        ]
        assert read(TokenStore(output, split)) == expected
        assert summary.splits[split] == len(expected)
    assert 20 < summary.splits["eval"] < 80
    assert summary.counts["documents"] == len(documents)
    assert summary.counts["characters"] == sum(map(len, documents))
    TokenStore(output).verify()
    assert tokenizers.load(TokenStore(output).tokenizer_dir).hash == tokenizer.hash
    assert {path.name for path in output.iterdir()} >= {"manifest.json", "tokenizer", "unigram_counts.npy", "train", "eval"}
    assert not list(output.rglob("*.tmp")) and not (output / "units").exists()
    for part in ("500", "tokens per word", "unknown", "MB/s"):
        assert part in str(summary)


def test_bytes_do_not_depend_on_the_number_of_workers(whole, text, tokenizer_dir, tmp_path):
    make(text, tokenizer_dir, tmp_path / "store", workers=3)
    assert digests(tmp_path / "store") == digests(whole[0])


def run_in_background(text, tokenizer_dir, output, workers):
    script = (
        "import sys\nfrom data_pipeline.preparation.prepare import prepare\nif __name__ == '__main__':\n"
        f"    prepare(*sys.argv[1:], workers={workers}, holdout=0.1, shard_size={SIZE}, progress=False)\n"
    )
    path = output.with_name("run.py")
    path.write_text(script)
    return subprocess.Popen(
        [sys.executable, str(path), str(text), str(tokenizer_dir), str(output)], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_prepare_continues_with_the_shards_it_has(whole, text, tokenizer_dir, tmp_path, workers):
    output = tmp_path / "store"
    process = run_in_background(text, tokenizer_dir, output, workers)
    wait_for(lambda: len(list((output / "units").glob("unit-*.json"))) >= 3 or process.poll() is not None)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path.name[5:16] for path in (output / "units").glob("unit-*.json")}
    assert finished and not (output / "manifest.json").exists()
    with pytest.raises(StoreError, match="not a token store"):
        TokenStore(output)
    wait_for(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    before = {path: path.stat().st_ino for path in output.glob("*/shard-*/*.npy") if path.parent.name[-11:] in finished}

    summary = make(text, tokenizer_dir, output)
    assert summary.units - summary.new_units >= len(finished)
    assert before and all(path.stat().st_ino == inode for path, inode in before.items())
    assert digests(output) == digests(whole[0])


def test_a_damaged_shard_of_an_interrupted_run_is_made_again(whole, text, tokenizer_dir, tmp_path):
    output = tmp_path / "store"
    make(text, tokenizer_dir, output)
    _pretend_interrupted(output, text, tokenizer_dir)
    (output / "train/shard-00000-00001/tokens.npy").write_bytes(b"")
    assert make(text, tokenizer_dir, output).new_units == 1
    assert digests(output) == digests(whole[0])


def _pretend_interrupted(output, text, tokenizer_dir):
    """Brings a complete store back to the moment before its manifest was written."""
    (output / "manifest.json").unlink()
    corpus, tokenizer = Corpus(text), tokenizers.load(tokenizer_dir)
    job = groups.Job(corpus, tokenizer.hash, SIZE, units.UnitSettings(open_output(output), 0.1, "en"))
    for number, group in enumerate(groups.make_groups(corpus.sources, SIZE)):
        groups.whole_group(number, group, (), job, tokenizer)


def test_a_complete_store_is_left_as_it_is(whole, text, tokenizer_dir):
    before = digests(whole[0])
    summary = make(text, tokenizer_dir, whole[0])
    assert summary.new_units == 0 and summary.counts == whole[1].counts
    assert digests(whole[0]) == before


CHANGES = {
    "holdout": ({"holdout": 0.2}, "--holdout was 0.1, now 0.2"),
    "documents": ({"documents": "line"}, '--documents was "blank-line", now "line"'),
    "shard_size": ({"shard_size": 30_000}, "--shard-size was 20000, now 30000"),
    "on_error": ({"on_error": "skip"}, "--on-error"),
    "language": ({"language": "de"}, "--language"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_settings_are_refused_with_the_difference(whole, text, tokenizer_dir, name):
    change, words = CHANGES[name]
    before = digests(whole[0])
    with pytest.raises(StoreError) as error:
        make(text, tokenizer_dir, whole[0], **change)
    assert words in str(error.value) and "--overwrite" in str(error.value)
    assert digests(whole[0]) == before


def test_other_text_or_tokenizer_is_refused_and_overwritten_on_request(documents, tokenizer_dir, tmp_path):
    text, output = tmp_path / "text.txt", tmp_path / "store"
    text.write_text("\n\n".join(documents[:50]))
    make(text, tokenizer_dir, output)
    tokenizers.train(documents[:50], tmp_path / "tokenizer", vocab_size=1000)
    with pytest.raises(StoreError, match="--tokenizer was"):
        make(text, tmp_path / "tokenizer", output)
    content = text.read_text()
    text.write_text(content + "\n\nOne more document.")
    with pytest.raises(StoreError, match="--input was of another size: text.txt. Choose"):
        make(text, tokenizer_dir, output)
    (tmp_path / "other.txt").write_text(content)
    with pytest.raises(StoreError, match="--input was text.txt, now other.txt. Choose"):
        make(tmp_path / "other.txt", tokenizer_dir, output)
    with pytest.raises(StoreError, match="--input was without other.txt. Choose"):
        make([text, tmp_path / "other.txt"], tokenizer_dir, output)
    text.write_text(content.replace("the", "eht"))
    os.utime(text, ns=(0, 0))
    with pytest.raises(StoreError, match="modified since"):
        make(text, tokenizer_dir, output)
    text.write_text(content)
    _pretend_interrupted(output, text, tokenizer_dir)
    text.write_text(content.replace("the", "eht"))
    with pytest.raises(StoreError, match="begun from other text"):
        make(text, tokenizer_dir, output)
    make(text, tmp_path / "tokenizer", output, overwrite=True)
    assert TokenStore(output).vocab_size == 1000
    TokenStore(output).verify()


def test_overwrite_and_prepare_leave_foreign_directories_alone(text, tokenizer_dir, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="choose another --output"):
            make(text, tokenizer_dir, tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["thesis.tex"]
    with pytest.raises(OSError):
        make(text, tokenizer_dir, tmp_path / "train" / "thesis.tex")


def test_a_documents_split_depends_on_nothing_else(documents, tokenizer_dir, tmp_path):
    outcomes = []
    for number, subset in enumerate((documents[:200], documents[199::-1], documents[100:300])):
        path = tmp_path / f"{number}.txt"
        path.write_text("\n\n".join(subset))
        make(path, tokenizer_dir, tmp_path / f"store{number}", shard_size=5_000 * (number + 1))
        stores = {split: TokenStore(tmp_path / f"store{number}", split) for split in ("train", "eval")}
        outcomes.append({split: {str(document) for document in read(store)} for split, store in stores.items()})
    for other in outcomes[1:]:
        assert not outcomes[0]["train"] & other["eval"] and not outcomes[0]["eval"] & other["train"]
    assert outcomes[0] == outcomes[1]


def test_added_text_moves_no_document_between_the_splits(documents, tokenizer_dir, tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(documents[:150]))
    make(tmp_path / "a.txt", tokenizer_dir, tmp_path / "before")
    (tmp_path / "b.txt").write_text("\n\n".join(documents[150:]))
    make([tmp_path / "b.txt", tmp_path / "a.txt"], tokenizer_dir, tmp_path / "after")
    for split in ("train", "eval"):
        before, after = (read(TokenStore(tmp_path / name, split)) for name in ("before", "after"))
        assert before and after[-len(before) :] == before and len(after) > len(before)


def test_holdout_share(documents):
    held = [units.is_held_out(f"{number} {document}", 0.25) for document in documents for number in range(20)]
    assert abs(np.mean(held) - 0.25) < 0.02
    assert not any(units.is_held_out(document, 0.0) for document in documents)


def test_without_eval_or_training_documents(tokenizer_dir, tmp_path):
    (tmp_path / "one.txt").write_text("A corpus of a single document.\nIt has two lines.")
    summary = make(tmp_path / "one.txt", tokenizer_dir, tmp_path / "store", holdout=0.01)
    assert "no eval split" in str(summary) and "--holdout" in str(summary)
    with pytest.raises(StoreError, match="it has: train"):
        TokenStore(tmp_path / "store", "eval")
    with pytest.raises(CorpusError, match="no document is left for training.*--documents=line"):
        make(tmp_path / "one.txt", tokenizer_dir, tmp_path / "other", holdout=0.999999)


def test_skips_and_empty_documents_are_counted(tokenizer_dir, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"Good text.\n\nBroken \xff text.\n\n\x01\x02\n\nA nul \0 byte.\n\nMore.\n\n \x1c \nLast.\n")
    with pytest.raises(CorpusError, match="a.txt, line 3, byte 19: broken UTF-8"):
        make(tmp_path / "a.txt", tokenizer_dir, tmp_path / "store", holdout=0.0)
    summary = make(tmp_path / "a.txt", tokenizer_dir, tmp_path / "other", on_error="skip", holdout=0.0)
    assert summary.counts["skips"] == {"broken UTF-8": 1, "NUL byte": 1, "no token": 1}
    assert summary.counts["documents"] == 3 and summary.counts["sentences"] == 3
    assert TokenStore(tmp_path / "other").manifest["counts"]["skips"] == summary.counts["skips"]
    assert "broken UTF-8" in str(summary)


def test_what_failed_before_its_first_shard_does_not_bar_the_corrected_command(documents, tokenizer_dir, tmp_path):
    output, good, broken = tmp_path / "store", tmp_path / "good.txt", tmp_path / "broken.jsonl"
    good.write_text("\n\n".join(documents[:50]))
    broken.write_text('{"body": "Text."}\n')
    output.mkdir()
    for wrong, change in ((broken, {}), (broken, {"on_error": "skip"}), (good, {"min_characters": 10**8}), (good, {"holdout": 0.999999})):
        with pytest.raises(CorpusError):
            make(wrong, tokenizer_dir, output, **change)
        assert (output / "prepare.json").exists()
    leftover = output / "train/shard-00000-00009.tmp"
    leftover.mkdir(parents=True)
    (output / "train/thesis.tex").write_text("years of work")
    make(good, tokenizer_dir, output)
    make(good, tokenizer_dir, tmp_path / "other")
    assert (output / "train/thesis.tex").read_text() == "years of work" and not leftover.exists()
    (output / "train/thesis.tex").unlink()
    assert digests(output) == digests(tmp_path / "other")


def test_an_interrupted_store_still_refuses_other_settings(text, tokenizer_dir, tmp_path):
    make(text, tokenizer_dir, tmp_path / "store")
    _pretend_interrupted(tmp_path / "store", text, tokenizer_dir)
    before = digests(tmp_path / "store")
    with pytest.raises(StoreError, match="--on-error was"):
        make(text, tokenizer_dir, tmp_path / "store", on_error="skip")
    assert digests(tmp_path / "store") == before


def test_another_programs_directory_is_no_beginning_of_a_store(text, tokenizer_dir, tmp_path):
    (tmp_path / "prepare.json").write_text('{"settings": {}}')
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(StoreError, match="Choose another --output"):
        make(text, tokenizer_dir, tmp_path)
    assert (tmp_path / "tokenizer").exists()


def test_an_output_that_cannot_be_written_is_named(text, tokenizer_dir, tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(OSError, match="--output=.*store cannot be written .Read-only file system.; choose another --output"):
        make(text, tokenizer_dir, tmp_path / "store")


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_says_how_to_go_on(whole, text, tokenizer_dir, tmp_path, sign):
    output = tmp_path / "store"
    # A shell's background jobs ignore Ctrl-C, and so would their children.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom launch.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "prepare", f"--input={text}", f"--tokenizer={tokenizer_dir}", f"--output={output}"]
    command += ["--holdout=0.1", f"--shard-size={SIZE}", "--workers=2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: list((output / "units").glob("unit-*.json")) or process.poll() is not None)
    process.send_signal(sign)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 75 and "run the same command again" in errors and "Traceback" not in errors
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    assert digests(output) == digests(whole[0])


def test_a_closed_pipe_ends_quietly(whole, text, tokenizer_dir):
    command = [sys.executable, "-m", "launch.cli", "prepare", f"--input={text}", f"--tokenizer={tokenizer_dir}", f"--output={whole[0]}"]
    command += ["--holdout=0.1", f"--shard-size={SIZE}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141


def test_an_empty_corpus_leaves_no_store(tokenizer_dir, tmp_path):
    (tmp_path / "a.txt").write_text("\n\n")
    with pytest.raises(CorpusError, match="holds no document"):
        make(tmp_path / "a.txt", tokenizer_dir, tmp_path / "store")
    with pytest.raises(StoreError):
        TokenStore(tmp_path / "store")


def test_bad_arguments(text, tokenizer_dir, tmp_path):
    for change in ({"holdout": 1.0}, {"holdout": -0.1}, {"shard_size": 0}, {"workers": 0}, {"documents": "page"}):
        with pytest.raises(ValueError, match=next(iter(change))):
            make(text, tokenizer_dir, tmp_path / "store", **change)
    assert not (tmp_path / "store").exists()


def test_more_shards_than_can_be_mapped_are_refused(text, tokenizer_dir, tmp_path):
    with pytest.raises(StoreError, match="shard_size 1 gives about .* set --shard-size=1000000$"):
        make(text, tokenizer_dir, tmp_path / "store", shard_size=1)
    assert not (tmp_path / "store").exists()


def test_two_at_once_are_refused(text, tokenizer_dir, tmp_path):
    output = tmp_path / "store"
    process = run_in_background(text, tokenizer_dir, output, 1)
    try:
        wait_for(lambda: (output / "units").exists())
        process.send_signal(signal.SIGSTOP)
        assert not (output / "manifest.json").exists()
        with pytest.raises(StoreError, match="another prepare"):
            make(text, tokenizer_dir, output)
    finally:
        process.kill()
        process.wait()


def test_a_dead_worker_is_reported(text, tokenizer_dir, tmp_path):
    output = tmp_path / "store"
    failed = []

    def kill_workers():
        wait_for(lambda: (output / "units").exists())
        for child in psutil.Process().children(recursive=True):
            child.kill()
            failed.append(child)

    thread = threading.Thread(target=kill_workers)
    thread.start()
    with pytest.raises(ChildProcessError, match="continue"):
        make(text, tokenizer_dir, output, workers=2)
    thread.join()
    assert failed
    assert make(text, tokenizer_dir, output).new_units > 0


def test_a_failing_disk_is_an_os_error(text, tokenizer_dir, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        make(text, tokenizer_dir, tmp_path / "store")
    monkeypatch.undo()
    monkeypatch.setattr(units.store.ShardWriter, "write", full)
    with pytest.raises(OSError, match="No space.* while writing shard 0-0 .* run the same command again"):
        make(text, tokenizer_dir, tmp_path / "store")
    monkeypatch.undo()
    make(text, tokenizer_dir, tmp_path / "store")
    TokenStore(tmp_path / "store").verify()


def test_tensorflow_stays_unloaded():
    code = "import sys, data_pipeline.preparation.prepare; print([name for name in ('tensorflow', 'jax', 'torch') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
