"""Inspecting: statistics of hand-made batches, rows decoded as they read, hostile text made harmless on page and terminal, the command."""

import io
import json
import os
import re
import shutil
import types

import numpy as np
import pytest
from rich.console import Console

from bert_jax import batch as contract
from data_pipeline.batches.loader import Loader
from data_pipeline.batches.masking import MaskingSpec
from data_pipeline.tokenization import tokenizers
from launch.cli import main
from launch.inspect.batch_statistics import measure, original_ids
from launch.inspect.batch_view import word_starts_by_token, word_starts_of
from launch.inspect.decoded_rows import decode_rows, printable
from launch.inspect.distribution import Bin, Distribution
from launch.inspect.page import compact, write_page
from launch.inspect.path import last_record
from launch.inspect.show_batch import print_rows
from launch.inspect.store_facts import read_facts, shard_lengths
from launch.inspect.text import describe_record
from tests.launch.conftest import SMALL, run
from tests.launch.test_report import HOSTILE, Page

PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL = {"pad": PAD, "unk": UNK, "cls": CLS, "sep": SEP, "mask": MASK}
CODES = "\x1b[2J\x07\u202e\r"


def make_batch(original, word_starts, chosen, *, length, slots, types_from=None, **labels):
    """A batch of one row and its word starts. chosen: position -> what the model sees there."""
    batch = contract.zeros(1, length, slots, nsp=False)
    batch["input_ids"][0, : len(original)] = original
    batch["segment_ids"][0, : len(original)] = 1
    if types_from:
        batch["token_type_ids"][0, types_from : len(original)] = 1
    for slot, (position, seen) in enumerate(sorted(chosen.items())):
        batch["mlm_positions"][0, slot], batch["mlm_targets"][0, slot], batch["mlm_weights"][0, slot] = position, original[position], 1
        batch["input_ids"][0, position] = seen
    starts = np.zeros((1, length), bool)
    starts[0, word_starts] = True
    batch |= {name: np.asarray([value], np.int32) for name, value in labels.items()}
    contract.check(batch)
    return batch, starts


# Words: aa b c [SEP] d ee
PAIR = make_batch(
    [CLS, 10, 11, 12, 13, SEP, 14, 15, 16, SEP], [1, 3, 4, 6, 7], {1: MASK, 3: 20, 4: 13, 6: MASK, 7: MASK, 8: MASK},
    length=12, slots=7, types_from=6, nsp_labels=1,
)  # fmt: skip


class Words:
    """A tokenizer of which each token is one of these texts; "##" continues a word."""

    kind = "wordpiece"

    def __init__(self, texts, special=SPECIAL):
        self.texts, self.special = texts, special
        self.hf = types.SimpleNamespace(id_to_token=lambda token: self.texts[token])

    def surface(self, token):
        text = self.texts[token]
        return text.removeprefix("##"), text.startswith("##")


# ---- statistics ----


def test_measuring_a_pair_counts_masks_words_and_runs():
    batch, starts = PAIR
    measured = measure([batch], SPECIAL, lambda _: starts)
    assert (measured.rows, measured.length, measured.slots) == (1, 12, 7)
    assert (measured.candidates, measured.masked, measured.replaced, measured.kept) == (7, 4, 1, 1)
    assert measured.chosen_share == 6 / 7 and measured.real_share == 10 / 12
    assert (measured.chosen_words, measured.whole_words) == (5, 4)  # of aa one token is left
    assert (measured.long_chosen_words, measured.long_whole_words) == (2, 1) and measured.long_whole_share == 0.5
    # Neither kind of run goes on behind the [SEP].
    assert measured.token_runs.values.tolist() == [1, 2, 3] and measured.token_runs.counts.tolist() == [1, 1, 1]
    assert measured.word_runs.values.tolist() == [2, 3] and measured.word_runs.counts.tolist() == [1, 1]
    assert measured.pieces.values.tolist() == [2] and measured.predictions.values.tolist() == [6]
    assert measured.labels == {"B follows A": 0, "B is random": 1}


def test_unknown_words_are_no_candidates_and_part_runs():
    batch, starts = make_batch([CLS, 10, UNK, 11, SEP], [1, 2, 3], {1: MASK, 3: MASK}, length=6, slots=2)
    measured = measure([batch], SPECIAL, lambda _: starts)
    assert measured.candidates == 2 and measured.chosen_share == 1
    assert measured.word_runs.values.tolist() == [1] and measured.word_runs.total == 2


def test_a_piece_cut_within_a_word_begins_a_word():
    batch, starts = make_batch([CLS, 10, SEP, 11, SEP], [1], {3: MASK}, length=5, slots=1)  # 11 continues a word that was cut off
    measured = measure([batch], SPECIAL, lambda _: starts)
    assert (measured.chosen_words, measured.whole_words) == (1, 1)


def test_a_row_without_anything_chosen_has_no_runs():
    batch, starts = make_batch([CLS, SEP], [], {}, length=4, slots=3)
    measured = measure([batch], SPECIAL, lambda _: starts)
    assert measured.chosen == 0 and measured.whole_share is None and not measured.token_runs and measured.predictions.greatest == 0
    with pytest.raises(ValueError, match="no batch"):
        measure([], SPECIAL, lambda _: starts)


def random_batch(rows, seed):
    """Rows of words of one to three tokens, a third of the tokens chosen."""
    random = np.random.default_rng(seed)
    length, slots = 40, 30
    batch, starts = contract.zeros(rows, length, slots, nsp=True), random.random((rows, length)) < 0.5
    for row in range(rows):
        real = random.integers(3, length + 1)
        ids = random.integers(5, 50, real)
        ids[0], ids[-1], ids[real // 2] = CLS, SEP, SEP
        chosen = np.flatnonzero((ids > MASK) & (random.random(real) < 0.33))[:slots]
        batch["segment_ids"][row, :real] = 1
        batch["mlm_positions"][row, : len(chosen)], batch["mlm_targets"][row, : len(chosen)] = chosen, ids[chosen]
        batch["mlm_weights"][row, : len(chosen)] = 1
        ids[chosen] = random.choice([MASK, 7], len(chosen))
        batch["input_ids"][row, :real] = ids
    batch["nsp_labels"][:] = random.integers(0, 2, rows)
    batch["source_ids"] = random.integers(0, 3, rows).astype(np.int32)
    return batch, starts


def slow_runs(chosen):
    """Lengths of the runs of True in each row, by looking at one after another."""
    return sorted(len(run) for row in chosen for run in re.findall("1+", "".join("01"[one] for one in row.astype(int))))


def test_measuring_batches_one_by_one_is_measuring_them_together():
    batch, starts = random_batch(32, seed=0)
    together = measure([batch], SPECIAL, lambda _: starts)
    place = iter(np.split(starts, [7, 20]))
    parts = [{name: array[rows] for name, array in batch.items()} for rows in (slice(7), slice(7, 20), slice(20, 32))]
    apart = measure(parts, SPECIAL, lambda _: next(place))
    for name, value in vars(together).items():
        other = getattr(apart, name)
        if isinstance(value, Distribution):
            assert (value.values.tolist(), value.counts.tolist()) == (other.values.tolist(), other.counts.tolist()), name
        else:
            np.testing.assert_array_equal(value, other)
    chosen = np.zeros(starts.shape, bool)
    rows, slots = np.nonzero(batch["mlm_weights"])
    chosen[rows, batch["mlm_positions"][rows, slots]] = True
    assert np.repeat(together.token_runs.values, together.token_runs.counts).tolist() == slow_runs(chosen)
    assert together.sources.sum() == 32 and original_ids(batch)[chosen].tolist() == batch["mlm_targets"][batch["mlm_weights"] > 0].tolist()


def test_lengths_come_from_the_ends_alone():
    shard = types.SimpleNamespace(sentence_ends=np.array([3, 5, 9, 10]), document_ends=np.array([2, 3, 4]))
    documents, sentences = shard_lengths(shard)
    assert documents.tolist() == [5, 4, 1] and sentences.tolist() == [3, 2, 4, 1]


@pytest.mark.parametrize("scale", [3, 40, 5000, 10**9])
def test_bins_hold_every_number_once_and_quantiles_are_numpys(scale):
    numbers = np.random.default_rng(scale).integers(1, scale, 999)
    counted = Distribution.of(numbers[:500], numbers[500:])
    assert counted.total == 999 and counted.mean == pytest.approx(numbers.mean())
    for share in (0.001, 0.1, 0.5, 0.9, 1.0):
        assert counted.quantile(share) == np.quantile(numbers, share, method="inverted_cdf")
    assert Distribution.of(np.arange(1, 31)).quantile(0.1) == 3  # although 0.1 * 30 is more than 3 in binary
    for bins, most in ((counted.doubling_bins(14), 14), (counted.single_bins(10), 10), (counted.equal_bins(scale, 8), 8)):
        assert sum(one.count for one in bins) == 999 and len(bins) <= most
        for one, following in zip(bins, bins[1:]):
            assert one.first <= one.last and following.first == one.last + 1
        for one in bins:
            assert one.count == ((numbers >= one.first) & (numbers <= (one.last or numbers.max()))).sum()


def test_bins_are_named_as_people_write_them():
    assert [str(one) for one in Distribution.of(np.array([1, 3, 1500])).doubling_bins()][:2] == ["1", "2–3"]
    assert str(Bin(1024, 2047, 1)) == "1,024–2,047" and str(Distribution.of(np.arange(1, 30)).single_bins(5)[-1]) == "5+"
    assert not Distribution.of() and Distribution.of().single_bins() == Distribution.of().doubling_bins() == []
    assert [compact(number) for number in (1, 999, 1000, 1500, 4096, 16384, 867_349, 2**20, 3_400_000)] == [
        "1", "999", "1k", "1.5k", "4k", "16k", "867k", "1M", "3.4M",
    ]  # fmt: skip


# ---- decoded rows ----

TEXTS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *["?"] * 5, "un", "##fold", "the", "map", "of", "mas", "##ks", *["?"] * 3, "drawn"]


def shown(rows, **settings):
    stream = io.StringIO()
    print_rows(Console(file=stream, width=200, highlight=False, markup=False, **settings), rows)
    return stream.getvalue()


def test_rows_read_as_text_with_masks_in_place():
    (row,) = decode_rows(PAIR[0], Words(TEXTS), rows=5)
    assert (row.real, row.length, row.predictions, row.label) == (10, 12, 6, "B is random")
    (first, _), (second, pieces) = row.parts
    assert (first, second) == ("A", "B")
    assert [(piece.text, piece.kind, piece.seen, piece.joined) for piece in pieces] == [
        ("of", "masked", "[MASK]", False), ("mas", "masked", "[MASK]", False), ("ks", "masked", "[MASK]", True),
        ("[SEP]", "special", "[SEP]", False),
    ]  # fmt: skip
    text = re.sub(" +", " ", shown([row]))
    assert "A: [CLS] [un]fold [the<-drawn] [=map] [SEP]" in text and "B: [of] [mas][ks] [SEP]" in text


def test_documents_of_a_row_are_numbered():
    batch, _ = make_batch([CLS, 10, SEP, CLS, 12, SEP], [1, 4], {}, length=8, slots=1)
    batch["segment_ids"][0, 3:6] = 2
    assert [label for label, _ in decode_rows(batch, Words(TEXTS), rows=1)[0].parts] == ["1", "2"]


def test_colour_is_for_terminals_and_not_with_no_color(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    rows = decode_rows(PAIR[0], Words(TEXTS), rows=1)
    assert "\x1b" not in shown(rows)
    assert "\x1b[1;35m" in shown(rows, force_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[\d;]*3\d", shown(rows, force_terminal=True))


def test_what_does_not_show_is_written_as_a_code():
    assert printable(f"a{CODES}ü\u200d👩") == "a\\x1b[2J\\x07\\u202e\\rü\u200d👩"
    texts = [*TEXTS[:10], *[f"{HOSTILE}{CODES}"] * 11]
    text = shown(decode_rows(PAIR[0], Words(texts), rows=1))
    assert HOSTILE in text and not set(CODES) - {"[", "2", "J"} & set(text)


def test_a_character_parted_among_tokens_is_put_together_and_its_parts_are_shown():
    texts = [f"##{chr(token) if token < 128 else f'<{token:02X}>'}" for token in range(256)]
    ids = [*"Bär".encode(), *"ö".encode()]  # of ö, only the second byte is chosen
    batch, _ = make_batch([CLS, *ids, SEP], [1], {6: MASK}, length=8, slots=1)
    (row,) = decode_rows(batch, Words(texts), rows=1)
    assert [(piece.text, piece.kind) for piece in row.parts[0][1][1:-1]] == [("Bär<C3>", "plain"), ("<B6>", "masked")]


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe", "sentencepiece_unigram", "sentencepiece_bpe"])
def test_every_kind_of_tokenizer_reads_as_its_text(tmp_path, kind):
    sentence = 'The "wörld" isn\'t (all) 1,496 cafés — naïve 東京 🎉, is it?'
    tokenizer, _ = tokenizers.train([f"{sentence} {text}" for text in ("One", "Two", "Three")] * 20, tmp_path, kind, 340, lowercase=False)
    ids = tokenizer.encode(sentence)
    special = [tokenizer.special[name] for name in ("cls", "sep")]
    batch, _ = make_batch([special[0], *ids, special[1]], [1], {}, length=len(ids) + 4, slots=1)
    (row,) = decode_rows(batch, tokenizer, rows=1)
    pieces = row.parts[0][1][1:-1]
    text = "".join(("" if piece.joined else " ") + piece.text for piece in pieces).strip()
    if kind == "wordpiece":  # forgets the white space around punctuation
        assert text.replace(" ", "") == sentence.replace(" ", "") and "wörld" in text.split()
    else:
        assert text == sentence


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe", "sentencepiece_unigram", "sentencepiece_bpe"])
def test_words_of_a_recording_begin_where_those_of_its_store_do(corpus, tmp_path, kind):
    text = corpus.read_text()[:60_000] + " He said (in 東京) “très bien” — “naïve” cafés… 1,496 times." * 20
    (tmp_path / "text.txt").write_text(text)
    tokenizers.train([text], tmp_path / "tokenizer", kind, 800)
    arguments = [f"--input={tmp_path / 'text.txt'}", f"--tokenizer={tmp_path / 'tokenizer'}", f"--output={tmp_path / 'store'}"]
    run("prepare", *arguments, "--workers=1")
    loader = Loader(tmp_path / "store", batch_size=64, length=64, sequences="full_sentences", masking=MaskingSpec(predictions=10), seed=0)
    batch, tokenizer = loader.batch(0), tokenizers.load(tmp_path / "store" / "tokenizer")
    exact = word_starts_of(loader, {"kind": "full_sentences", "length": 64, "seed": 0})(batch)
    inside = (batch["segment_ids"] > 0) & ~np.isin(original_ids(batch), [tokenizer.special[name] for name in ("cls", "sep")])
    inside[:, 1:] &= inside[:, :-1]  # behind a special token a word begins in any case
    assert (exact == word_starts_by_token(tokenizer)(batch))[inside].mean() > 0.999


# ---- the command ----

KINDS = ("segment_pairs", "sentence_order", "full_sentences", "document_sentences", "packed_documents")
CHOICES = ("tokens", "whole_words", "ngrams:3", "spans:0.2:10")


@pytest.mark.parametrize("sequences, masking", [*zip(KINDS, CHOICES), ("packed_documents", "tokens")])
def test_a_store_shows_its_lengths_padding_masks_and_rows(prepared, capsys, monkeypatch, sequences, masking):
    monkeypatch.setenv("COLUMNS", "80")
    options = ["--rows=2", "--length=48", f"--sequences={sequences}", f"--masking={masking}", "--rate=0.2", "--verify"]
    run("inspect", str(prepared.store), *options)
    text = capsys.readouterr().out
    manifest = json.loads((prepared.store / "manifest.json").read_text())
    for split, value in manifest["splits"].items():
        counts = "".join(rf" +{sum(shard[unit] for shard in value['shards']):,}" for unit in ("documents", "sentences", "tokens"))
        assert re.search(rf"{split}{counts}", text), split
    assert f"{sequences} of 48 tokens, masked by {masking} at 20.0%" in text and text.count("to predict") == 2 and "[CLS]" in text
    assert "topics.txt" in text and "every file is as it was written" in text and "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    whole = float(re.search(r"of several\s+tokens ([\d.]+)%", text)[1])
    assert whole < 30 if masking == "tokens" else whole > 99


def test_steps_go_on_where_the_rows_before_ended(prepared, capsys):
    shown = []
    for rows, step in ((3, 0), (3, 1), (6, 0)):
        run("inspect", str(prepared.store), f"--rows={rows}", "--length=32", f"--step={step}")
        shown.append(re.findall(r"example \d+", capsys.readouterr().out))
    assert shown[0] + shown[1] == shown[2] and len(set(shown[2])) == 6


def test_several_stores_are_shown_as_a_mixture(corpus, prepared, tmp_path, capsys):
    (tmp_path / "other.txt").write_text(corpus.read_text()[:40_000])
    arguments = [f"--input={tmp_path / 'other.txt'}", f"--tokenizer={prepared.tokenizer}", f"--output={tmp_path / 'other'}"]
    run("prepare", *arguments, "--workers=1")
    capsys.readouterr()
    run("inspect", f"{prepared.store},{tmp_path / 'other'}", "--length=32", f"--html={tmp_path / 'page.html'}")
    text = capsys.readouterr().out
    shares = re.search(r"sources +store (\d+\.\d)%, other (\d+\.\d)%", text)
    sizes = [read_facts(path).splits["train"]["tokens"] for path in (prepared.store, tmp_path / "other")]
    assert float(shares[2]) == pytest.approx(100 * sizes[1] / sum(sizes), abs=2)
    words = Page((tmp_path / "page.html").read_text()).words
    assert "A mixture of 2 token stores" in words and "other.txt" in words and "from store" in words
    exact = [f"{name} {size / sum(sizes):.1%}" for name, size in zip(("store", "other"), sizes)]
    assert re.search(r"A mixture of 2 token stores\s+" + r"\s+".join(exact), " ".join(words.split()))


def test_verify_names_the_damaged_file(prepared, tmp_path, capsys):
    shutil.copytree(prepared.store, tmp_path / "store")
    (file,) = (tmp_path / "store" / "train").glob("*/word_starts.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x80
    file.write_bytes(content)
    assert main(["inspect", str(tmp_path / "store"), "--rows=0"]) == 0
    assert main(["inspect", str(tmp_path / "store"), "--rows=0", "--verify"]) == 1
    assert "word_starts.npy" in capsys.readouterr().err


def test_an_id_beyond_the_vocabulary_is_told_as_damage(prepared, tmp_path, capsys):
    shutil.copytree(prepared.store, tmp_path / "store", ignore=shutil.ignore_patterns("plans"))
    for file in (tmp_path / "store" / "train").glob("*/tokens.npy"):
        tokens = np.load(file, mmap_mode="r+")
        tokens[::50] = 60_000
        tokens.flush()
    assert main(["inspect", str(tmp_path / "store"), "--rows=0"]) == 1
    message = capsys.readouterr().err
    assert "is damaged" in message and "--verify" in message and "vocabulary of 1,000" in message and "axis" not in message


def test_what_is_counted_stays_within_an_epoch(prepared, tmp_path, capsys):
    options = ["--sequences=packed_documents", "--length=2048", f"--html={tmp_path / 'page.html'}"]
    run("inspect", str(prepared.store), "--rows=0", *options)
    counted, epoch = re.search(r"sample +([\d,]+) sequences of the ([\d,]+) in an epoch", capsys.readouterr().out).groups()
    assert counted == epoch and int(epoch) < 256  # fewer than the loader makes at once
    assert f"Rows looked at {epoch} of {epoch} in an epoch" in " ".join(Page((tmp_path / "page.html").read_text()).words.split())


def test_recordings_and_runs_show_their_own_batches(trained, prepared, tmp_path, capsys):
    run("record", *SMALL, f"--config.data.path={prepared.store}", "--batches=4", f"--output={tmp_path / 'recorded'}")
    capsys.readouterr()
    run("inspect", str(tmp_path / "recorded"), "--rows=2", "--step=3", f"--html={tmp_path / 'recorded.html'}")
    recorded = capsys.readouterr().out
    run("inspect", str(trained), "--rows=2", "--step=3", f"--html={tmp_path / 'run.html'}")
    text = capsys.readouterr().out
    assert "4 of 8 x 32" in recorded and "checkpoint of step 12" in text and "whole" in text and "batch of step 3" in text
    assert re.findall("── .*", text) == re.findall("── .*", recorded) and text.count("── ") == 2
    assert "segment_pairs of 32 tokens" in recorded
    for name in ("recorded", "run"):
        page = Page((tmp_path / f"{name}.html").read_text())
        assert sum("panel" in attributes.get("class", "") for _, attributes in page.elements) == 1 and "to predict" in page.words
        assert [attributes["id"] for tag, attributes in page.elements if tag == "input"] == ["vt", "vm"]  # nothing else has a choice
    assert "last logged: step 12, finished" in text
    run("inspect", str(trained), "--rows=0")
    assert "predictions" in (text := capsys.readouterr().out) and "── " not in text
    cases = [
        ([str(trained), "--masking=whole_words"], "--masking=whole_words"),
        ([str(trained), "--length=128"], "--length=128"),  # the default, but given
        ([str(trained), "--step=12"], "0 to 11"),
        ([str(tmp_path / "recorded"), "--rate=0.3"], "--rate=0.3"),
        ([f"{prepared.store},{tmp_path / 'recorded'}"], "a mixture is made of token stores"),
    ]
    for arguments, expected in cases:
        assert main(["inspect", *arguments]) == 1, arguments
        out, message = capsys.readouterr()
        assert expected in message and not out, (arguments, message)
    run("inspect", str(trained), "--rows=0", "--step=11", "--verify")
    assert "every file of the data is as it was written" in capsys.readouterr().out


def test_a_record_of_the_log_is_told_in_words():
    lines = [
        '{"split": "event", "step": 0, "event": "started", "detail": "fresh weights"}',
        '{"split": "train", "step": 1500, "loss": 2.5, "mlm_accuracy": 0.25, "tokens_per_second": 9}',
        '{"split": "eval", "step": 2000, "loss": NaN, "mlm_accuracy": 0.5}',
        '{"split": "train", "st',
    ]
    told = [describe_record(last_record(lines[:stop])) for stop in range(1, 5)]
    assert told[:2] == ["step 0, started (fresh weights)", "step 1,500, training, loss 2.5000, accuracy 25.0%"]
    assert told[2] == told[3] == "step 2,000, held out, accuracy 50.0%" and last_record(["{"]) is None


def test_bad_arguments_get_one_clear_line(prepared, corpus, tmp_path, capsys):
    store = str(prepared.store)
    (tmp_path / "empty").mkdir()
    (tmp_path / "interrupted").mkdir()
    shutil.copy(prepared.store / "prepare.json", tmp_path / "interrupted")
    run("tokenizer", f"--input={corpus}", "--vocab-size=900", f"--output={tmp_path / 'tok'}")
    run("prepare", f"--input={corpus}", f"--tokenizer={tmp_path / 'tok'}", f"--output={tmp_path / 'alien'}", "--workers=1")
    capsys.readouterr()
    cases = [
        ([str(tmp_path / "nowhere")], "not a directory"),
        ([str(tmp_path / "empty")], "neither a bert_jax workdir"),
        ([store, "--sequences=pairs"], "segment_pairs"),
        ([store, "--masking=letters"], "whole_words"),
        ([store, "--rate=2"], "rate"),
        ([store, "--rows=-1"], "--rows=-1"),
        ([store, "--rate=0"], "--rate"),
        ([store, "--length=4"], "--length"),
        ([store, f"--html={tmp_path / 'nowhere' / 'page.html'}"], "--html"),
        ([store, f"--html={tmp_path}"], "name a file"),
        ([str(tmp_path / "interrupted")], "let an interrupted one finish"),
        ([f"{store},{tmp_path / 'alien'}"], "different tokenizers"),
        ([f"{store},{tmp_path / 'empty'}"], "empty"),
    ]
    for arguments, expected in cases:
        assert main(["inspect", *arguments]) == 1, arguments
        out, message = capsys.readouterr()
        assert expected in message and "Traceback" not in message and not out, (arguments, message)


# ---- the page ----


@pytest.fixture(scope="module")
def hostile(prepared, tmp_path_factory):
    """The store and the page of a corpus that is an attack, from a file whose name is one."""
    root = tmp_path_factory.mktemp("hostile")
    text = " ".join([f"{HOSTILE} The {{{{ 7 * 7 }}}} file could not be opened, so it was made again.", f"{CODES} Then it was read."])
    (root / f"<script>{CODES}.txt").write_text("\n\n".join(" ".join([text] * (5 + number)) for number in range(40)))
    run("prepare", f"--input={root}", f"--tokenizer={prepared.tokenizer}", f"--output={root / 'store'}", "--workers=1", "--holdout=0.1")
    run("inspect", str(root / "store"), "--length=64", f"--html={root / 'page.html'}")
    return types.SimpleNamespace(store=root / "store", page=root / "page.html")


def test_the_page_has_every_kind_and_choice_and_loads_nothing(hostile):
    text = hostile.page.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open
    panels = [attributes["class"].split() for _, attributes in page.elements if "panel" in attributes.get("class", "").split()]
    inputs = {attributes["id"]: attributes for tag, attributes in page.elements if tag == "input"}
    labels = [attributes["for"] for tag, attributes in page.elements if tag == "label"]
    assert sorted(labels) == sorted(inputs) and sum("checked" in attributes for attributes in inputs.values()) == 3
    assert len(panels) == len(KINDS) * len(CHOICES) == len({tuple(classes) for classes in panels})
    for _, kind, choice in panels:
        assert {kind, choice} <= set(inputs) and f"#{kind}:checked ~ #{choice}:checked ~ .panel.{kind}.{choice}" in text
    for name in KINDS + CHOICES:
        assert name in page.words
    assert "There are no such batches" not in page.words
    assert not re.search(r"https?:|url\(|@import", text)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "embed", "base"}
    assert not [attributes for _, attributes in page.elements if {"src", "href", "srcset", "action"} & set(attributes)]
    policy = next(attributes["content"] for _, attributes in page.elements if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_hostile_text_stays_text_on_page_and_terminal(hostile, capsys):
    text = hostile.page.read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text and "49" not in re.findall(r"\{\{.*?\}\}", page.words)
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    words = re.sub(r"\s", "", page.words)
    assert "alert(1)" in words and "<script>\\x1b[2J" in page.words  # the text, and the file's name
    run("inspect", str(hostile.store), "--length=64")
    for output in (text, capsys.readouterr().out):
        assert not {letter for letter in output if not letter.isprintable()} - {"\n", "\u202f", "\xa0"}


def test_a_failed_write_leaves_the_old_page_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_page(path, "T", [], {("segment_pairs", "tokens"): "no text"}, ("segment_pairs", "tokens"))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    write_page(path, "T", [], {("segment_pairs", "tokens"): "no text"}, ("segment_pairs", "tokens"))
    assert "There are no such batches of this text: no text" in Page(path.read_text()).words
