"""What is logged where: metrics.jsonl, TensorBoard's tags and texts, the seconds of saves, profiles of the steps asked for."""

import json
from pathlib import Path

import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event

from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.profile import Profiler, ProfileSteps
from bert_jax.training.run_log import RunLog, read_records, tag_of
from bert_jax.training.saves import TimedSaves


def read_events(directory: Path) -> list[Event]:
    """The events of TensorBoard's files: records of uint64 length, uint32 checksum, the protobuf, uint32 checksum."""
    events = []
    for path in sorted(directory.glob("events*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            events.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += length + 16
    return events


def scalars_and_texts(directory: Path) -> tuple[dict[tuple[str, int], float], dict[tuple[str, int], str]]:
    scalars, texts = {}, {}
    for event in read_events(directory):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "text":
                texts[value.tag, event.step] = value.tensor.string_val[0].decode()
            else:
                scalars[value.tag, event.step] = value.simple_value
    return scalars, texts


def test_tags_are_grouped_by_what_they_speak_of():
    tags = {
        "train/loss": ("train", "loss"), "train/learning_rate": ("train", "learning_rate"), "eval/perplexity": ("eval", "perplexity"),
        "norms/grad_norm": ("train", "grad_norm"), "norms/update_ratio/mlp": ("train", "update_ratio/mlp"), "norms/trust_ratio/min": ("train", "trust_ratio/min"),
        "speed/mfu": ("train", "mfu"), "speed/input_wait": ("train", "input_wait"), "sources/news": ("train", "sequences/news"),
        "eval/sequences": ("eval", "sequences"), "checkpoint/total_seconds": ("checkpoint", "total_seconds"),
    }
    assert {tag: tag_of(*named) for tag, named in tags.items()} == {tag: tag for tag in tags}


def test_tensorboard_holds_what_the_lines_hold(tmp_path):
    with RunLog(tmp_path, 0) as run_log:
        run_log.text(0, "config", "| field | value |\n| --- | --- |\n| seed | 1 |")
        run_log.write("train", 10, {"loss": 2.5, "grad_norm/mlp": 0.25})
        run_log.write("eval", 10, {"perplexity": 8.0})
    scalars, texts = scalars_and_texts(tmp_path / "tensorboard")
    assert scalars == {("train/loss", 10): 2.5, ("norms/grad_norm/mlp", 10): 0.25, ("eval/perplexity", 10): 8.0}
    assert list(texts) == [("config/text_summary", 0)] and "| seed | 1 |" in texts["config/text_summary", 0]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [{name: line[name] for name in line if name != "time"} for line in lines] == [
        {"split": "train", "step": 10, "loss": 2.5, "grad_norm/mlp": 0.25}, {"split": "eval", "step": 10, "perplexity": 8.0},
    ]


def test_a_line_that_was_cut_short_is_no_record(tmp_path):
    assert read_records(tmp_path / "metrics.jsonl") == []
    with RunLog(tmp_path, 0) as run_log:
        for step in (1, 2, 3):
            run_log.write("train", step, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"split": "event", "step": 3, "detail": "{}')  # which ends as a whole line does
    assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    with RunLog(tmp_path, 2) as run_log:
        run_log.event(2, "resumed")
        assert run_log.has_event("resumed", 2) and not run_log.has_event("resumed", 3)
    assert [(record["split"], record["step"]) for record in read_records(tmp_path / "metrics.jsonl")] == [("train", 1), ("train", 2), ("event", 2)]


def test_every_save_is_timed_once(tmp_path):
    tree = {"params": {"w": jnp.arange(8.0)}}
    with RunLog(tmp_path, 0) as run_log:
        saves = TimedSaves(Checkpoints(tmp_path / "checkpoints"), run_log)
        for step in (5, 10, 10):  # a step that is saved already takes no time and has no line
            saves.save(step, tree)
        saves.wait()
        saves.log()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(record["split"], record["step"]) for record in records] == [("checkpoint", 5), ("checkpoint", 10)]
    assert all(record["blocked_seconds"] >= 0 and record["total_seconds"] > 0 for record in records)
    assert {tag for tag, _ in scalars_and_texts(tmp_path / "tensorboard")[0]} == {"checkpoint/blocked_seconds", "checkpoint/total_seconds"}


@pytest.mark.parametrize("wanted, traced", [("2:4", [3, 4]), ("0:1", [1]), ("4:99", [5, 6]), ("6:9", []), (None, [])])
def test_the_profile_covers_the_steps_asked_for(wanted, traced, tmp_path, monkeypatch):
    calls, on = [], []
    monkeypatch.setattr("jax.profiler.start_trace", lambda directory: on.append(directory))
    monkeypatch.setattr("jax.profiler.stop_trace", on.clear)
    with Profiler(tmp_path, wanted and ProfileSteps.parse(wanted)) as profiler:
        for step in range(1, 7):
            if profiler.begins(step):
                profiler.start()
            with profiler.step(step):
                calls += [step] if on else []
            if profiler.ends(step):
                profiler.stop()
    assert calls == traced and not on  # a trace that the end of the run cut short is written too


@pytest.mark.parametrize("text", ["100", "100:100", "5:2", "a:b", ":4", "-1:3"])
def test_steps_to_profile_are_a_range(text):
    with pytest.raises(ValueError, match="FIRST:LAST, such as 100:110"):
        ProfileSteps.parse(text)
    assert ProfileSteps.parse("100:110") == ProfileSteps(100, 110)
