"""The report page: self-contained, safe with hostile text, honest about what is missing, small and quick for long runs."""

import html.parser
import json
import math
import os
import re
import time

import numpy as np
import pytest

from launch.report.charts import make_charts, smooth, thin_keeping_extremes
from launch.report.report import write_report
from launch.report.run_log import read_log
from launch.report.words import describe_model, group_config

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
VOID = {"meta", "img", "br", "link", "input", "hr"}


def train(step, **values):
    record = {
        "split": "train",
        "step": step,
        "time": 1.7e9 + step,
        "loss": 2 + 8 / step,
        "mlm_loss": 2.0,
        "mlm_accuracy": 0.4,
        "grad_norm": 1.0,
        "learning_rate": 1e-4,
        "sequences_per_second": 100.0,
        "tokens_per_second": 12800.0,
        "input_wait": 0.01,
    }
    return {**record, **values}


def evaluation(step, **values):
    record = {
        "split": "eval",
        "step": step,
        "time": 1.7e9 + step,
        "loss": 2.5,
        "mlm_loss": 2.5,
        "mlm_accuracy": 0.375,
        "perplexity": 12.2,
        "unigram_accuracy": 0.0625,
        "sequences": 64,
    }
    return {**record, **values}


def event(step, kind, at=None, detail=""):
    return {"split": "event", "step": step, "time": 1.7e9 + (step if at is None else at), "event": kind, "detail": detail}


RUN = [event(0, "started"), *(train(step) for step in range(10, 110, 10)), evaluation(100), event(100, "finished")]


def write_run(path, records, ending="", **files):
    path.mkdir(exist_ok=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + ending)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return write_report(path).read_text(encoding="utf-8")


class Page(html.parser.HTMLParser):
    """Elements, attributes and visible text of a page, as a browser would parse them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.scripts, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(text for text in self.text if text.strip()).replace("\u202f", " "))

    def data(self):
        return json.loads(self.scripts[0], parse_constant=lambda name: pytest.fail(f"{name} is not JSON that a browser reads"))


def samples(text="The [MASK] returns a string .", answer=("method",), tokens=("method", "function"), steps=(50, 100)):
    predictions = [[{"token": token, "probability": 0.5 / (at + 1)} for at, token in enumerate(tokens)]]
    return [{"step": step, "text": text, "predictions": predictions, "answer": list(answer) if answer else None} for step in steps]


CONFIG = {"seed": 1, "model": {"family": "bert", "num_layers": 4, "hidden_size": 256, "embedding": {"vocab_size": 8000}}}


def test_headlines_hold_the_last_value_and_its_comparison(tmp_path):
    page = Page(
        write_run(tmp_path, RUN, config=CONFIG, environment={"jax": "0.10.2", "device_kind": "cpu", "num_devices": 2}, samples=samples())
    )
    assert page.words.count("BERT, 4 layers × 256, vocabulary 8,000") == 2  # the title and the heading
    for expected in (
        "Steps 100 ",
        "from 2.80 at step 10",
        "37.5 % most frequent token 6.2 %",
        "Held-out perplexity 12.2",
        "Resumes 0 never interrupted",
        "Training time 1 min 40 s",
        "pretraining finished",
        "2 × cpu",
        "0.10.2",
        "method ✓ 50.0 % function 25.0 %",
    ):
        assert expected in page.words, expected
    assert not page.open and "is not in the run" not in page.words


def test_page_loads_nothing(tmp_path):
    text = write_run(tmp_path, RUN, config=CONFIG, samples=samples())
    page = Page(text)
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    assert not {tag for tag, _ in page.elements} & {"link", "img", "iframe", "object", "embed", "base"}
    assert not [attributes for _, attributes in page.elements if {"src", "href", "srcset", "action"} & set(attributes)]
    policy = next(attributes["content"] for _, attributes in page.elements if attributes.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src 'nonce-" in policy


def test_hostile_text_stays_text_wherever_it_comes_from(tmp_path):
    plain = Page(write_run(tmp_path / "plain", RUN, config=CONFIG, environment={"a": "b"}, samples=samples(steps=(100,))))
    config = {"model": {"family": HOSTILE, HOSTILE: HOSTILE}, HOSTILE: [HOSTILE]}
    run = [*RUN[:-1], event(100, "stopped", detail=HOSTILE)]
    environment = {HOSTILE: HOSTILE, "device_kind": HOSTILE, "hostname": HOSTILE}
    answer = {"answer": [HOSTILE], "tokens": [HOSTILE], "text": f"{HOSTILE} [MASK]"}
    hostile = Page(write_run(tmp_path / "hostile", run, config=config, environment=environment, samples=samples(**answer)))
    for page in (plain, hostile):
        assert len([tag for tag, _ in page.elements if tag == "script"]) == 2 and "img" not in {tag for tag, _ in page.elements}
        assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    assert hostile.words.count("alert(1)") >= 10 and not any("alert" in script for script in hostile.scripts)


def test_last_line_cut_short_is_ignored_and_others_are_told(tmp_path):
    whole, cut = (
        Page(write_run(tmp_path / name, RUN, ending)) for name, ending in (("whole", ""), ("cut", '{"split": "train", "step": 11'))
    )
    assert cut.words == whole.words and cut.data() == whole.data()
    inner = Page(write_run(tmp_path / "inner", RUN, '{"split": "tr\n' + json.dumps(train(110)) + "\n"))
    assert "1 unreadable line of metrics.jsonl left out" in inner.words and "Steps 110" in inner.words


def test_missing_and_broken_files_are_named(tmp_path):
    page = Page(write_run(tmp_path, RUN))
    for name in ("config.json", "environment.json", "samples.json"):
        assert f"{name} is not in the run’s directory" in page.words
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "samples.json").write_text('[{"step": 1}]')
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "config.json could not be read (JSONDecodeError" in page.words and "samples.json could not be read (KeyError" in page.words


def test_without_metrics_the_error_names_path_and_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "metrics.jsonl")) + ".*bert-jax pretrain --workdir="):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    before = write_run(tmp_path, RUN)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path, RUN[:3])
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


def test_resumes_count_and_recomputed_steps_count_once(tmp_path):
    run = [
        event(0, "started", 0),
        *(train(step, time=1.7e9 + step, loss=9.0) for step in (10, 20, 30, 40)),
        evaluation(40, time=1.7e9 + 40),
    ]
    again = [event(20, "resumed", 1000), train(30, time=1.7e9 + 1010, loss=5.0), event(30, "stopped", 1010)]
    log = read_log(json.dumps(record) for record in run + again)
    assert [(record["step"], record["loss"]) for record in log.train] == [(10, 9.0), (20, 9.0), (30, 5.0)] and log.eval == []
    page = Page(write_run(tmp_path, run + again + [event(30, "resumed", 2000), train(40, time=1.7e9 + 2008), event(40, "finished", 2010)]))
    assert "Resumes 2 last at step 30" in page.words and page.data()["resumes"] == [20, 30]
    assert "Training time 1 min 00 s in 3 stretches" in page.words  # 40 s + 10 s + 10 s; the hours between do not count


def test_values_that_are_not_finite_leave_gaps_and_a_warning(tmp_path):
    bad = [
        train(110, loss=math.nan, grad_norm=math.inf),
        train(120, loss=-math.inf, mlm_accuracy=None),
        train(130, time=math.nan, grad_norm=1e300),
    ]
    page = Page(write_run(tmp_path, [*RUN, *bad, evaluation(130, perplexity=math.inf)]))
    charts = {chart["title"]: chart for chart in page.data()["charts"]}
    assert charts["Loss"]["curves"][0]["line"]["x"] == [*range(10, 110, 10), 130]
    assert "The loss is not finite on 2 training lines, first at step 110" in page.words and "NaN" not in page.words


@pytest.mark.parametrize("records", [[], [event(0, "started")], [train(10)], [train(10, loss=math.nan)], [evaluation(10)]])
def test_the_first_minutes_of_a_run_make_a_page(tmp_path, records):
    assert Page(write_run(tmp_path, records)).open == []


def test_a_million_steps_make_a_small_page_in_seconds(tmp_path):
    run = [train(step, grad_norm=1.0 + step % 7, nsp_accuracy=0.5) for step in range(10, 1_000_010, 10)]
    run[43_210]["loss"] = 77.7
    begin = time.perf_counter()
    text = write_run(tmp_path, [*run, *(evaluation(step) for step in range(1000, 1_001_000, 1000))], config=CONFIG)
    assert len(text) < 300_000 and time.perf_counter() - begin < 30
    assert 77.7 in Page(text).data()["charts"][0]["curves"][0]["raw"]["y"]  # the spike outlives the thinning


def test_thinning_keeps_ends_order_and_extremes():
    values = np.random.default_rng(0).normal(size=10_001)
    values[[777, 5000]] = 50, -50
    kept = thin_keeping_extremes(values, 200)
    assert len(kept) <= 200 and (np.diff(kept) > 0).all() and {777, 5000} <= set(kept.tolist())
    assert thin_keeping_extremes(values[:100], 200).tolist() == list(range(100))


def test_smoothing_keeps_lines_straight_and_forgets_outliers():
    at = np.arange(1000)
    line = smooth(3.0 * at + 1, at)
    np.testing.assert_allclose(line[:979], 3.0 * at[:979] + 1)  # a centred window moves no straight line, from the first point on
    spiked = np.ones(1000)
    spiked[500] = 1e30
    assert (smooth(spiked, np.arange(600, 1000)) == 1).all()


def test_charts_without_data_are_left_out_and_nsp_is_optional():
    log = read_log(json.dumps(record) for record in RUN)
    assert [chart["title"] for chart in make_charts(log)] == [
        "Loss",
        "Masked-token accuracy",
        "Learning rate",
        "Gradient norm",
        "Sequences per second",
    ]
    log = read_log(json.dumps(record) for record in [train(1, nsp_accuracy=0.6), train(2, nsp_accuracy=0.7, grad_norm=math.nan)])
    accuracy = next(chart for chart in make_charts(log) if chart["title"] == "Next-sentence accuracy")
    assert accuracy["curves"][0]["raw"] == {"x": [1, 2], "y": [0.6, 0.7]} and accuracy["level"]["value"] == 0.5


def test_samples_show_masks_answers_and_how_the_prediction_changed(tmp_path):
    text = "The [MASK] returns a [MASK] ."
    first, last = ([[{"token": one, "probability": 0.9}], [{"token": "string", "probability": 0.2}]] for one in ("the", "method"))
    entries = [
        {"step": step, "text": text, "predictions": predictions, "answer": ["method", "list"]}
        for step, predictions in ((20, last), (10, first))
    ]
    words = Page(write_run(tmp_path, RUN, samples=entries)).words
    assert "The mask 1 returns a mask 2 ." in words and "method ✓ 90.0 %" in words
    assert "10 the 20 method" in words.replace("\xa0", " ") and "answer: list , not among these" in words


def test_config_is_flattened_by_section_and_describes_the_model():
    config = {"steps": 10, "optimizer": {"rate": 1e-4, "decay": {"kind": "linear"}, "mask": None}, "on": True}
    assert group_config(config) == [
        ("general", [("steps", "10"), ("on", "true")]),
        ("optimizer", [("rate", "0.0001"), ("decay.kind", "linear"), ("mask", "none")]),
    ]
    assert describe_model(CONFIG) == "BERT, 4 layers × 256, vocabulary 8,000" and describe_model({}) == "BERT"


def test_noise_is_smoothed_schedules_are_not_and_a_spike_makes_the_axis_logarithmic():
    records = [train(step, grad_norm=1.0 + step % 2, learning_rate=step % 5, loss=3.0 + step % 2) for step in range(1, 201)]
    records[100]["grad_norm"] = 1e9
    charts = {chart["title"]: chart for chart in make_charts(read_log(json.dumps(record) for record in records))}
    loss, rate, norm = (charts[title] for title in ("Loss", "Learning rate", "Gradient norm"))
    assert not loss["log"] and np.ptp(loss["curves"][0]["line"]["y"][5:]) < 0.5 < np.ptp(loss["curves"][0]["raw"]["y"])
    assert rate["curves"][0]["line"]["y"] == [step % 5 for step in range(1, 201)] and rate["curves"][0]["raw"]["x"] == []
    assert norm["log"] and max(norm["curves"][0]["raw"]["y"]) == 1e9 and max(norm["curves"][0]["line"]["y"]) < 1e4


def test_sources_of_a_mixture_are_seen_beside_what_was_wanted(tmp_path):
    counted = [train(10, **{"sequences/news": 60, "sequences/books": 40}), train(20, **{"sequences/news": 80, "sequences/books": 20})]
    config = {"phases": [], "data": {"path": "stores/news,stores/books", "weights": [3, 1], "alpha": 1.0}}
    page = Page(write_run(tmp_path / "weights", counted, config=config))
    assert "news 70.0 % 75.0 % 140 books 30.0 % 25.0 % 60" in page.words
    by_size = config | {"data": config["data"] | {"weights": []}}
    assert "news 70.0 % – 140" in Page(write_run(tmp_path / "gone", counted, config=by_size)).words  # the stores are gone
    assert "Sources" not in Page(write_run(tmp_path / "one", RUN, config=config)).words
