"""What is kept and shown: no secret of the environment or of an address, nothing that a browser or a terminal would obey."""

import json
import logging
import os
import sys

import numpy as np
import pytest

from bert_jax.interop import model_card
from launch import config as configs
from launch.cli import main
from launch.exchange import without_places
from launch.inspect.batch_statistics import BatchStatistics
from launch.inspect.batch_view import BatchView
from launch.inspect.decoded_rows import DecodedRow, Piece
from launch.inspect.distribution import Distribution
from launch.inspect.page import write_page
from launch.inspect.store_facts import StoreFacts
from launch.redaction import ShownLog, for_terminal, redact
from launch.report.run_texts import config_table
from launch.run import environment
from tests.launch.test_report import HOSTILE, RUN, Page, samples, train, write_run
from tests.security.conftest import SECTION

SECRETS = ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "SSH_AUTH_SOCK", "MY_PASSWORD")


@pytest.mark.parametrize(
    "text, kept",
    [
        ("https://user:s3cret@host/x", "https://***@host/x"),
        ("https://s3cret@host/x", "https://***@host/x"),
        ("git+https://user:s3cret@host/r@v1", "git+https://***@host/r@v1"),
        ("git+ssh://git:s3cret@host/r", "git+ssh://***@host/r"),
        ("s3://key:s3cret@host/x", "s3://***@host/x"),
        ("HTTPS://USER:s3cret@HOST", "HTTPS://***@HOST"),
        ("https://user:s3@cret@host/", "https://***@host/"),
        ("https://user:s3cret@[::1]:80/", "https://***@[::1]:80/"),
        ("--config.data.path=/a,https://a:s3cret@h/x,https://s3cret@h2/y", "--config.data.path=/a,https://***@h/x,https://***@h2/y"),
        ("'https://host/x?X-Amz-Signature=s3cret&z=1' tail", "'https://host/x?***' tail"),
        ("https://host/x?token=s3cret", "https://host/x?***"),
    ],
)
def test_passwords_and_signatures_are_masked(text, kept):
    assert redact(text) == kept and "s3cret" not in kept


@pytest.mark.parametrize(
    "text",
    [
        "git+ssh://git@github.com/o/r@v1", "gs://bucket/x@y", "a@b", "user:word@host", "https://host:8080/x@y", "gs://bucket/part-?.txt", "what? a=b", "plain text, with = and @",
    ],
)
def test_ordinary_text_stays(text):
    assert redact(text) == text


def test_escape_codes_are_written_out():
    assert for_terminal("a\x1b[2Jb\x07\nnext\tcolumn\u202e größe 中 …") == "a\\x1b[2Jb\\x07\nnext\tcolumn\\u202e größe 中 …"


def test_errors_and_log_lines_are_masked(tmp_path, capsys):
    name = str(tmp_path / "\x1b[2J") + "https://user:s3cret@host/"
    assert main(["inspect", name]) == 1
    shown = capsys.readouterr().err
    assert "https://***@host" in shown and "s3cret" not in shown and "\x1b" not in shown
    record = logging.LogRecord("bert_jax", logging.INFO, "", 0, "left out: %s", ("https://a:s3cret@h/ \x1b[2J",), None)
    assert ShownLog(sys.stderr).format(record) == "left out: https://***@h/ \\x1b[2J"


def test_what_a_run_keeps_holds_no_secret(tmp_path, monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setattr(sys, "argv", ["bert-jax", "pretrain", "--config.data.path=https://user:s3cret@host/store?signature=s3cret", "--workdir=run"])
    facts = environment()
    assert facts["command"] == "bert-jax pretrain --config.data.path=https://***@host/store?*** --workdir=run"
    config = configs.load("bert_mini", [])
    kept = [json.dumps(facts), json.dumps(config), config_table(config), model_card.render("name", SECTION, {"x": np.zeros(1)}, {"step": 1, "config": without_places(config)})]
    # A report of an older run, whose command was not masked yet.
    page = write_run(tmp_path, RUN, environment=facts | {"command": "--config.data.path=https://user:s3cret@host/"}, config=config)
    for text in (*kept, page):
        assert "s3cret" not in text
        assert not [name for name in ("HOME", "PATH", "USER") if os.environ.get(name, "") and len(os.environ[name]) > 8 and os.environ[name] in text]


def test_a_model_card_does_not_say_where_the_data_lies():
    config = configs.load("bert_mini", ["config.data.path=/home/somebody/secret project/store,/mnt/other"])
    config["phases"] = [{"data": {"path": "/home/somebody/second"}, "steps": 3}]
    shown = without_places(config)
    assert shown["data"]["path"] == "store,other" and shown["phases"] == [{"data": {"path": "second"}, "steps": 3}]
    assert "/home" not in model_card.render("name", SECTION, {"x": np.zeros(1)}, {"config": shown})
    assert config["data"]["path"].startswith("/home") and config["phases"][0]["data"]["path"].startswith("/home"), "the run's own stays"


# ---- pages ----


def check_page(text: str, scripts: int) -> Page:
    page = Page(text)
    assert not page.open
    assert sum(tag == "script" for tag, _ in page.elements) == scripts
    assert not {tag for tag, _ in page.elements} & {"img", "iframe", "object", "embed", "base", "link"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on") or name in ("href", "src", "srcdoc", "action", "formaction")]
    assert any("default-src 'none'" in attributes.get("content", "") for _, attributes in page.elements)
    return page


HOSTILE_TEXTS = (HOSTILE, '" onmouseover="alert(3)" x="', "' autofocus onfocus='alert(4)", "{{ 7 * 7 }}{% include 'x' %}", "<!--", "]]>", "javascript:alert(5)", "&lt;script&gt;")


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_a_report_of_hostile_text_is_text(tmp_path, text):
    config = {"model": {"family": text, text: text, "num_layers": text, "hidden_size": text}, "data": {"path": text}, "phases": [{"name": text}], text: [text]}
    run = [*RUN[:-1], train(110, **{f"sequences/{text}": 5, f"sequences/{text}2": 7, text: 1.0, "loss": text}), RUN[-1] | {"event": "stopped", "detail": text}]
    environment = {text: text, "device_kind": text, "hostname": text, "command": text}
    page = check_page(write_run(tmp_path, run, config=config, environment=environment, samples=samples(f"{text} [MASK]", (text,), (text, text))), scripts=2)
    assert " ".join(text.split()) in page.words and "49" not in page.words.split()


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_an_inspection_of_hostile_text_is_text(tmp_path, text):
    lengths = Distribution.of(np.arange(1, 9))
    counts = {"documents": 1, "sentences": 2, "tokens": 3}
    facts = StoreFacts(
        tmp_path, text, {text: counts | {"shards": 1}, "train": counts | {"shards": 1}}, {"kind": text, "vocab_size": 5, "hash": text}, text, [(text, 1), (text, 2)],
        {"characters": 1, "words": 1, "unknown": 0}, [(1, text)], lengths, lengths, 1,
    )
    statistics = BatchStatistics(1, 8, 2, 5, 1, 1, 0, 1, 1, 1, 1, lengths, lengths, lengths, lengths, lengths, {text: 1}, np.ones(2, np.int64))
    pieces = [Piece(text, kind, text, False) for kind in ("plain", "special", "masked", "replaced", "kept")]
    view = BatchView(text, text, 0.15, 3, statistics, (text, text), [DecodedRow(1, text, 3, 8, 1, text, [(text, pieces)])])
    write_page(tmp_path / "page.html", text, [facts, facts], {(text, text): view, (text, "tokens"): text}, (text, text), [0.5, 0.5])
    page = check_page((tmp_path / "page.html").read_text(encoding="utf-8"), scripts=0)
    assert " ".join(text.split()) in page.words and "49" not in page.words.split()
