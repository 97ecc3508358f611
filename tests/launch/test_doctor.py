"""`bert-jax doctor`: every check finds what it is for, and is content with a run that has nothing wrong."""

import json
import shutil
import types

import jax
import numpy as np
import pytest

from data_pipeline.batches.loader import Loader
from data_pipeline.batches.masking import MaskingSpec
from data_pipeline.stores.store import TokenStore
from launch import config as configs
from launch.cli import main
from launch.doctor import run_checks as doctor_run
from launch.doctor.check import FAIL, OK, SKIP, WARN
from launch.doctor.examination import CHECKS, Examination, Patient
from launch.doctor.row_checks import check_masking, check_pairs, check_repeats, check_rows, fullest_rows
from launch.doctor.run_checks import (
    Sweep,
    blow_up,
    check_disk,
    check_isolation,
    check_schedule,
    judge_rate,
    judge_starting_loss,
    judge_throughput,
)
from launch.doctor.text_checks import (
    check_duplicates,
    check_epochs,
    check_held_out,
    check_overlap,
    check_vocabulary,
    range_hashes,
    read_hashes,
)
from tests.data_pipeline import docstring_stores
from tests.launch.conftest import SMALL

MASKING = {"choice": "tokens", "rate": 0.15, "end_rate": 0.0, "predictions": 10, "mask_share": 0.8, "random_share": 0.1}
SPECIAL = docstring_stores.SPECIAL


def batches(store, sequences, *, length=64, choice="tokens", count=4):
    masking = MaskingSpec(rate=0.15, predictions=10, choice=choice)
    loader = Loader(store, batch_size=128, length=length, sequences=sequences, masking=masking, seed=0)
    return [loader.batch(step) for step in range(count)]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Python's help topics without the sentences that come back and without tables (most of whose tokens are alike)."""
    seen, texts = set(), []
    for document in docstring_stores.encoded():
        sentences = [sentence for sentence in document if len(sentence) < 8 or len(set(sentence.tolist())) > len(sentence) / 2]
        sentences = [sentence for sentence in sentences if not (tuple(sentence) in seen or seen.add(tuple(sentence)))]
        texts += [sentences] if sentences else []
    return docstring_stores.write_store(tmp_path_factory.mktemp("clean"), texts, num_shards=3)


@pytest.fixture(scope="module")
def pairs():
    return batches(docstring_stores.documentation(), "segment_pairs")


@pytest.fixture(scope="module")
def packed():
    return batches(docstring_stores.documentation(), "packed_documents")


@pytest.fixture(scope="module")
def patient(prepared):
    """A tiny run on Python's help topics, packed."""
    overrides = [*SMALL[1:], f"--config.data.path={prepared.store}", "--config.data.sequences=packed_documents", "--config.model.nsp=false"]
    return Patient(configs.load("quickstart", [one.removeprefix("--") for one in overrides]), None)


@pytest.fixture(scope="module")
def losses(patient):
    with jax.set_mesh(patient.stages[0].run.mesh):
        return doctor_run.token_losses(patient.stages[0].run, patient.starting_state().params)


# ---- text ----


def test_ranges_hash_alike_when_their_tokens_are_alike():
    tokens = np.array([7, 8, 9, 1, 7, 8, 9, 8, 7])
    starts, stops = np.array([0, 4, 0, 6, 0, 4]), np.array([3, 7, 2, 8, 9, 8])
    one, two, shorter, other, whole, longer = range_hashes(tokens, starts, stops).tolist()
    assert one == two and len({one, shorter, other, whole, longer}) == 5


def test_duplicates_are_counted_by_documents_and_by_sentences(clean, tmp_path):
    fine = check_duplicates(read_hashes([TokenStore(clean)]))
    assert fine.verdict == OK and fine.measured.count("0.0% of") == 2 and not fine.advice
    texts = list({repr(document): document for document in docstring_stores.encoded()}.values())
    twice = TokenStore(docstring_stores.write_store(tmp_path / "twice", texts + texts))
    copied = check_duplicates(read_hashes([twice]))
    assert copied.verdict == FAIL and "50.0% of" in copied.measured and "--deduplicate" in copied.advice
    assert "100.0% of the text" in copied.measured
    licence = max((sentence for document in texts for sentence in document), key=len)
    boilerplate = TokenStore(docstring_stores.write_store(tmp_path / "boilerplate", [[*document, *[licence] * 3] for document in texts]))
    check = check_duplicates(read_hashes([boilerplate]))
    assert check.verdict in (WARN, FAIL) and "0.0% of" in check.measured and "boilerplate" in check.advice


def test_held_out_text_that_training_holds_is_found(prepared):
    train, held = (read_hashes([TokenStore(docstring_stores.documentation(), split)]) for split in ("train", "eval"))
    both = check_overlap(train, held)  # this store holds out two documents of the training text
    assert both.verdict == FAIL and "100.0% of the held-out documents, and 100.0% of the held-out text" in both.measured
    train, held = (read_hashes([TokenStore(prepared.store, split)]) for split in ("train", "eval"))
    assert check_overlap(train, held).verdict == OK
    assert check_overlap(train, None).verdict == SKIP


def test_vocabulary_of_other_text_is_found():
    special = {"pad": 0, "unk": 1}
    shares = np.full(100, 0.01)
    assert check_vocabulary(shares * np.where(np.arange(100) < 2, 0, 1), special).verdict == OK
    shares[1] = 0.2
    assert check_vocabulary(shares, special).verdict == FAIL
    few = np.zeros(100)
    few[50:60] = 0.1
    assert "never trained" in check_vocabulary(few, special).advice
    assert check_vocabulary(None, special).verdict == SKIP


def test_little_held_out_text_and_many_epochs_are_told():
    assert check_held_out(0, 512, 19).verdict == WARN and check_held_out(100, 512, 19).verdict == WARN
    assert "±1.0%" in check_held_out(1000, 512, 19).measured and check_held_out(1000, 512, 19).verdict == OK
    assert [check_epochs(1000, wanted).verdict for wanted in (40_000, 200_000, 2_000_000)] == [OK, WARN, FAIL]
    assert "the text 400 times" in check_epochs(1000, 40_000, passes=10).measured


# ---- batches ----


@pytest.mark.parametrize("choice", ["tokens", "whole_words", "ngrams:3", "spans:0.2:10"])
def test_the_loaders_masking_is_right(choice):
    sample = batches(docstring_stores.word_pieces(), "segment_pairs", choice=choice)
    check = check_masking(sample, [0.15] * 4, MASKING | {"choice": choice}, SPECIAL, list(SPECIAL.values()))
    assert check.verdict == OK, check


def changed(sample, **fields):
    return [{**sample[0], **fields}, *sample[1:]]


def test_broken_masking_is_found(pairs):
    def check(sample, **masking):
        return check_masking(sample, [masking.get("rate", 0.15)] * len(sample), MASKING | masking, SPECIAL, list(SPECIAL.values()))

    first = pairs[0]
    special = first["mlm_targets"].copy()
    special[0, 0] = SPECIAL["sep"]
    found = check(changed(pairs, mlm_targets=special))
    assert found.verdict == FAIL and "1 special tokens" in found.measured
    drawn = first["input_ids"].copy()
    rows, slots = np.nonzero(first["mlm_weights"])
    drawn[rows[0], first["mlm_positions"][rows[0], slots[0]]] = SPECIAL["cls"]
    assert "1 special tokens" in check(changed(pairs, input_ids=drawn)).measured
    assert "not the wished" in check(pairs, mask_share=1.0, random_share=0.0).advice
    assert "not masking.rate" in check(pairs, rate=0.1).advice and "not masking.rate" in check(pairs, rate=0.4, predictions=40).advice
    nothing = check([batch | {"mlm_weights": batch["mlm_weights"] * 0} for batch in pairs])
    assert nothing.verdict == FAIL and "nothing is predicted" in nothing.measured


def test_slots_that_cut_predictions_are_told():
    masking = MaskingSpec(rate=0.3, predictions=10)
    loader = Loader(docstring_stores.documentation(), batch_size=128, length=64, sequences="packed_documents", masking=masking, seed=0)
    check = check_masking([loader.batch(0)], [0.3], MASKING | {"rate": 0.3}, SPECIAL, list(SPECIAL.values()))
    assert check.verdict == FAIL and "predictions=1" in check.advice


def test_an_answer_that_stands_open_in_the_row_is_found(pairs, clean):
    assert check_repeats(batches(clean, "packed_documents")).verdict == OK
    assert check_repeats(pairs).verdict == WARN  # the tables of Python's help topics are rows of dashes
    tokens = np.arange(200, 215)
    copied = pairs[0] | {"segment_ids": np.ones_like(pairs[0]["segment_ids"])}
    copied["input_ids"] = np.tile(tokens, 5)[:64] * np.ones((128, 1), np.int32)
    copied["mlm_positions"], copied["mlm_weights"] = (np.zeros_like(copied[name]) for name in ("mlm_positions", "mlm_weights"))
    copied["mlm_positions"][:, 0], copied["mlm_weights"][:, 0], copied["mlm_targets"] = 7, 1.0, copied["mlm_targets"] * 0 + tokens[7]
    copied["input_ids"][:, 7] = SPECIAL["mask"]
    assert "100.00%" in check_repeats([copied]).measured and check_repeats([copied]).verdict == FAIL
    copied["segment_ids"] = 1 + np.arange(64)[None, :] // 15 * np.ones((128, 1), int)  # each copy is out of the others' sight
    assert check_repeats([copied]).verdict == OK


def test_padding_and_short_documents_are_told(packed):
    assert check_rows(packed, "packed_documents").verdict == OK
    padded = {**packed[0], "segment_ids": packed[0]["segment_ids"] * (np.arange(64) < 20)}
    assert check_rows([padded], "full_sentences").verdict == FAIL
    short = {**packed[0], "segment_ids": 1 + np.arange(64) // 8 + 0 * packed[0]["segment_ids"]}
    assert (
        "sees 8 on average" in check_rows([short], "packed_documents").measured and check_rows([short], "packed_documents").verdict == WARN
    )


def test_labels_that_give_themselves_away_are_told(pairs, packed):
    assert check_pairs(packed).verdict == OK
    assert check_pairs([batch | {"nsp_labels": np.arange(128) % 2} for batch in pairs]).verdict == OK
    assert check_pairs([batch | {"nsp_labels": (np.arange(128) % 4 > 0) * 1} for batch in pairs]).verdict == WARN
    assert check_pairs([batch | {"nsp_labels": np.ones(128, int)} for batch in pairs]).verdict == FAIL


# ---- the model ----


def test_attention_across_documents_is_found(patient, losses):
    special = patient.stages[0].data.special
    batch = fullest_rows(Examination(patient, patient.stages[0]).sample[0], 8, special)
    check = check_isolation(losses, batch, special, packed=True)
    assert check.verdict == OK and "8 of 8 rows hold several" in check.measured
    leaking = check_isolation(
        lambda one: losses(one | {"segment_ids": (one["segment_ids"] > 0).astype(np.int32)}), batch, special, packed=True
    )
    assert leaking.verdict == FAIL and "crosses documents" in leaking.advice
    padded = batch | {
        "segment_ids": np.where(np.arange(32) < 20, batch["segment_ids"], 0),
        "mlm_weights": batch["mlm_weights"] * (batch["mlm_positions"] < 20),
    }
    assert check_isolation(losses, padded, special, packed=False).verdict == OK
    attends_padding = check_isolation(
        lambda one: losses(one | {"segment_ids": np.ones_like(one["segment_ids"])}), padded, special, packed=False
    )
    assert attends_padding.verdict == FAIL
    assert "do not depend on the text" in check_isolation(lambda one: np.ones_like(one["mlm_weights"]), batch, special, packed=True).advice


def test_starting_loss_is_compared_with_an_even_guess():
    assert judge_starting_loss(8.4, 8.29, "fresh weights").verdict == OK
    assert judge_starting_loss(9.5, 8.29, "fresh weights").verdict == WARN
    assert judge_starting_loss(19.0, 8.29, "fresh weights").verdict == FAIL
    assert judge_starting_loss(float("nan"), 8.29, "fresh weights").verdict == FAIL
    assert judge_starting_loss(2.1, 8.29, "the workdir's checkpoint of step 8").verdict == OK
    assert judge_starting_loss(8.3, 8.29, "the workdir's checkpoint of step 8").verdict == FAIL


# ---- rates, speed, disk ----


def test_schedules_that_stop_early_or_late_are_told():
    schedule, steps = {"name": "linear", "peak": 1e-3}, np.linspace(0, 1, 1001)
    line = np.minimum(steps * 10, (1 - steps) / 0.9) * 1e-3
    assert check_schedule(line, schedule).verdict == OK
    assert check_schedule(np.where(steps > 0.4, 0, line), schedule).verdict == FAIL
    assert check_schedule(line * 0.5, schedule).verdict == WARN  # the warmup is longer than the run
    assert check_schedule(np.minimum(steps * 10, 1) * 1e-3, schedule).verdict == WARN
    assert check_schedule(np.minimum(steps * 10, 1) * 1e-3, schedule | {"name": "constant"}).verdict == OK


def test_the_rate_at_which_the_loss_blows_up_is_read_off_a_ramp():
    rates, noise = np.geomspace(1e-4, 1, 81), 0.1 * np.random.default_rng(0).normal(size=81)
    falling = np.linspace(9, 7, 81) + noise
    assert blow_up(rates, falling) is None
    burst = np.where(rates < 0.1, falling, 12.0)
    assert 0.05 < blow_up(rates, burst) <= 0.11
    assert 0.05 < blow_up(rates, np.where(rates < 0.1, falling, np.nan)) <= 0.11
    verdicts = [judge_rate(Sweep(rates, burst, 0.1, 32), peak, 32).verdict for peak in (1e-2, 5e-2, 0.5)]
    assert verdicts == [OK, WARN, FAIL]


def test_input_that_is_slower_than_the_model_is_told():
    made = Sweep(np.ones(3), np.ones(3), 0.1, 32)  # 320 sequences per second
    assert [judge_throughput(made, inputs, 1000, 32_000).verdict for inputs in (5000, 300, 100)] == [OK, WARN, FAIL]
    assert (
        "device-bound" in judge_throughput(made, 5000, 1000, 32_000).measured
        and "2.0 minutes" not in judge_throughput(made, 5000, 1000, 32_000).measured
    )


def test_a_disk_too_small_for_the_checkpoints_is_told(patient, tmp_path, monkeypatch):
    run = patient.stages[0].run
    one = doctor_run.tree_bytes((run.abstract.params, run.abstract.opt_state))
    assert one >= 12 * sum(leaf.size for leaf in jax.tree.leaves(run.abstract.params))  # weights and two moments, float32
    for free, verdict in ((one * 100, OK), (one * 4, WARN), (one * 3.1, FAIL)):
        monkeypatch.setattr(doctor_run.shutil, "disk_usage", lambda path, free=free: types.SimpleNamespace(free=free))
        assert check_disk(run, 2, tmp_path / "not" / "yet").verdict == verdict


# ---- the command ----


def doctor(capsys, *arguments):
    status = main(["doctor", *arguments])
    return status, capsys.readouterr()


def test_a_sound_run_passes_and_every_check_speaks(prepared, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor_run, "INPUT_SECONDS", 0.1)
    monkeypatch.setattr("launch.doctor.examination.SWEEP_STEPS", 20)
    status, printed = doctor(capsys, *SMALL, f"--config.data.path={prepared.store}", f"--workdir={tmp_path / 'run'}", "--json")
    result = json.loads(printed.out)
    verdicts = {check["name"]: check["verdict"] for check in result["checks"]}
    assert status == 0 and list(verdicts) == list(CHECKS) and FAIL not in verdicts.values(), result
    assert "masking ..." in printed.err and not (tmp_path / "run").exists()


def test_a_broken_run_fails_with_advice(prepared, trained, capsys):
    quick = [name for name in CHECKS if name not in ("starting loss", "schedule", "workdir")]
    skips = [f"--skip={name}" for name in quick]
    broken = ["--config.model.initializer_range=3.0", "--config.schedule.total_steps=6", "--config.schedule.warmup_steps=1"]
    status, printed = doctor(capsys, *SMALL, f"--config.data.path={prepared.store}", *broken, *skips)
    assert (
        status == 1
        and printed.out.count("FAIL") == 2
        and "-> a fresh model should guess evenly" in printed.out
        and "2 failed" in printed.out
    )
    status, printed = doctor(capsys, *SMALL, f"--config.data.path={prepared.store}", f"--workdir={trained}", *skips)
    said = " ".join(printed.out.split())  # lines break where the width says
    assert status == 0 and "the workdir's checkpoint of step 12" in said and "continues from step 12" in said, said
    status, printed = doctor(
        capsys, *SMALL, f"--config.data.path={prepared.store}", "--config.seed=5", f"--workdir={trained}", "--skip=starting loss", *skips
    )
    assert status == 1 and "holds a run with another config: seed: 0 -> 5" in " ".join(printed.out.split())


def test_trials_on_downstream_tasks_are_opened_as_a_run_would(prepared, tmp_path, capsys):
    rows = [{"text": f"the sentence of number {number}", "label": "even" if number % 2 == 0 else "odd"} for number in range(12)]
    for name, part in (("train", rows[:8]), ("eval", rows[8:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    skips = [f"--skip={name}" for name in CHECKS if name not in ("downstream", "schedule")]

    def said(*words: str) -> tuple[int, str, str]:
        status, printed = doctor(capsys, *SMALL, f"--config.data.path={prepared.store}", *skips, "--json", *[f"--config.downstream.{word}" for word in words])
        (check,) = (check for check in json.loads(printed.out)["checks"] if check["name"] == "downstream")
        return status, check["verdict"], check["measured"]

    assert said() == (0, OK, "no trials on downstream tasks")
    assert said("configs=classification")[:2] == (0, WARN)
    tried = ["configs=classification", f"overrides=length=32 task.train={tmp_path / 'train.jsonl'} task.eval={tmp_path / 'eval.jsonl'}", "every=5"]
    assert said(*tried) == (0, OK, "at 3 steps, from 5 to 12: classification, 8 examples to train on, 4 to score")
    for wrong, words in (("steps=13", "1 to 12"), ("overrides=lenght=32", "length"), ("overrides=task.train=gone.jsonl task.eval=gone.jsonl", "gone.jsonl"), ("configs=", "downstream.configs is empty")):
        status, verdict, measured = said(*tried, wrong)
        assert (status, verdict) == (1, FAIL) and words in measured, measured


def test_recorded_batches_are_checked_as_far_as_they_can_be(prepared, tmp_path, capsys):
    assert main(["record", *SMALL, f"--config.data.path={prepared.store}", "--batches=40", f"--output={tmp_path / 'recorded'}"]) == 0
    models = [f"--skip={name}" for name in ("isolation", "starting loss", "learning rate", "throughput")]
    capsys.readouterr()
    status, printed = doctor(capsys, *SMALL, f"--config.data.path={tmp_path / 'recorded'}", *models, "--json")
    verdicts = {check["name"]: check["verdict"] for check in json.loads(printed.out)["checks"]}
    assert status == 0 and verdicts["masking"] == verdicts["rows"] == OK and verdicts["duplicates"] == verdicts["vocabulary"] == SKIP


def test_a_config_that_cannot_be_opened_is_a_verdict_and_an_unknown_check_an_error(prepared, capsys):
    status, printed = doctor(capsys, *SMALL, f"--config.data.path={prepared.store}", "--config.model.vocab_size=77")
    assert status == 1 and "model.vocab_size is 77" in " ".join(printed.out.split())
    status, printed = doctor(capsys, *SMALL, f"--config.data.path={prepared.store}", "--skip=nothing")
    assert status == 1 and "no such check; known: workdir, disk" in printed.err


def test_a_check_that_breaks_does_not_stop_the_others(prepared, tmp_path, capsys):
    shutil.copytree(prepared.store, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "plans", ignore_errors=True)
    with open(next((tmp_path / "store" / "train").glob("*/tokens.npy")), "r+b") as file:
        file.truncate(100)
    status, printed = doctor(capsys, *SMALL, f"--config.data.path={tmp_path / 'store'}")
    assert status == 1 and "config" in printed.out and "tokens.npy" in printed.out
