"""The demo's page is for the person at the machine: what is malformed, too large or from elsewhere is refused in words, and the page loads nothing from elsewhere."""

import argparse
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest

import launch.demo.server
from launch.config import ConfigError
from launch.demo.command import add_demo
from launch.demo.server import LARGEST_BODY, QUESTIONS, Server, demo

PAGE = Path(launch.demo.server.__file__).parent
MARKUP = "<script>window.hacked = 1</script>"
BAD = {  # question, part of the answer
    "/api/fill-mask": [
        ({}, "no text"), ({"text": "   "}, "no text"), ({"text": 7}, "text must be text"), ({"text": None}, "text must be text"), ({"text": "no mask here"}, r"no \[MASK\]"),
        ({"text": "[MASK]" * 17}, "17 masks"), ({"text": "[MASK] " + "a" * 2000}, "2,007 characters"), ({"text": "[MASK] " + "a " * 900}, "at most 64"), ({"text": "[MASK] \ud800"}, "surrogate"),
    ],
    "/api/attention": [
        ({"text": "a", "layer": 0, "head": 1}, "no layer 0"), ({"text": "a", "layer": 1, "head": 5}, "head 5"), ({"text": "a", "layer": 4, "head": None}, "no layer 4"),
        ({"text": "a", "layer": "1", "head": 1}, "layer must be a whole number"), ({"text": "a", "layer": 1, "head": True}, "head must be"), ({"text": "a", "layer": 1.0, "head": 1}, "layer must be"),
        ({"text": "a", "layer": 10**30, "head": 1}, "no layer 1000"), ({"text": "", "layer": 1, "head": 1}, "no text"), ({"text": "a", "pair": [], "layer": 1, "head": 1}, "pair must be"),
        ({"text": "a " * 70, "layer": 1, "head": 1}, "72 tokens"), ({"text": "a " * 40, "pair": "a " * 40, "layer": 1, "head": 1}, "83 tokens"),
    ],
    "/api/compare": [
        ({}, "list of texts"), ({"lines": "a\nb"}, "list of texts"), ({"lines": ["a", 1]}, "list of texts"), ({"lines": ["a"]}, "2 to 24 lines"), ({"lines": ["a", " "]}, "2 to 24 lines"),
        ({"lines": ["a"] * 25}, "these are 25"), ({"lines": ["a", "b" * 2001]}, "2,001 characters"), ({"lines": ["a", "\udfff"]}, "surrogate"),
    ],
    "/api/replaced": [({"text": "a"}, "no such part")],
    "/api/classify": [({"text": "a"}, "no such part")],
}  # fmt: skip


def test_malformed_questions_are_refused_in_words(served):
    assert BAD.keys() == QUESTIONS.keys()
    for path, questions in BAD.items():
        for question, words in questions:
            status, answer = served.ask(path, question)
            assert (status, answer.keys()) == (400, {"error"}) and re.search(words, answer["error"]), (path, question, answer)
        for text in (b"", b"{", b"[1]", b"null", b"[" * 60_000, b"\xff\xfe", b'{"text": NaN}x'):
            status, _, body = served.send("POST", path, text, Content_Type="application/json", Content_Length=str(len(text)))
            assert status == 400 and "JSON" in json.loads(body)["error"], text[:20]


def test_only_the_own_name_and_addresses_are_answered(served):
    port = served.server.server_address[1]
    for host in ("localhost", f"localhost:{port}", "127.0.0.1", f"127.0.0.1:{port}", "LOCALHOST:9", "[::1]:80", "192.168.0.7:8777"):
        assert served.send("GET", "/", Host=host)[0] == 200, host
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "", "[evil]", "x@localhost", "127.0.0.1, evil.example"):
        for method, path in (("GET", "/"), ("GET", "/api/model"), ("POST", "/api/fill-mask")):
            status, _, body = served.send(method, path, b"", Host=host, Content_Length="0")
            assert status == 403 and "localhost" in json.loads(body)["error"], host


def test_what_is_too_large_or_of_unknown_size_is_refused(served):
    body = json.dumps({"text": "a" * LARGEST_BODY}).encode()
    for size, content in ((len(body), body), (LARGEST_BODY + 1, b" " * (LARGEST_BODY + 1)), (10**12, b""), (10**4000, b"")):
        status, _, answer = served.send("POST", "/api/fill-mask", content, Content_Type="application/json", Content_Length=str(size))
        assert status == 413 and "bytes" in json.loads(answer)["error"]
    for size in ({}, {"Content_Length": "-1"}, {"Content_Length": "ten"}, {"Content_Length": "١"}, {"Transfer_Encoding": "chunked"}):
        assert served.send("POST", "/api/fill-mask", b"", Content_Type="application/json", **{name: value.encode() for name, value in size.items()})[0] == 411, size


def test_other_pages_forms_and_other_paths_are_refused(served):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):  # what a page may send to another site unasked
        assert served.send("POST", "/api/fill-mask", b'{"text": "[MASK]"}', Content_Type=kind, Content_Length="18")[0] == 415
    for path in ("/../../etc/passwd", "/server.py", "/demo.html.j2", "/api/fill-mask", f"/{MARKUP.replace(' ', '')}"):
        status, headers, _ = served.send("GET", path)
        assert status == 404 and headers["Content-Type"] == "application/json", path
    assert served.send("POST", "/api/model", b"{}", Content_Type="application/json", Content_Length="2")[0] == 404
    assert served.send("DELETE", "/")[0] == 501


def test_every_answer_is_closed_off(served):
    for method, path in (("GET", "/"), ("GET", "/demo.css"), ("GET", "/demo.js"), ("GET", "/api/model"), ("GET", "/nothing"), ("POST", "/api/compare")):
        _, headers, _ = served.send(method, path)
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and "Access-Control-Allow-Origin" not in headers
    html, style, script = (served.send("GET", path)[2].decode() for path in ("/", "/demo.css", "/demo.js"))
    assert "--paper: #fbfaf7" in style and "{%" not in html + style
    for text in (html, style, script):
        assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"^\s*//.*$", "", text, flags=re.M))
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "setTimeout(\"", "javascript:", "srcdoc", "DOMParser"):
        assert unsafe not in script and unsafe not in html
    assert not re.search(r"\son[a-z]+=|<script>|style=", html)


def test_markup_in_a_text_stays_text(served):
    body = json.dumps({"lines": [MARKUP, f"{MARKUP} too"]}).encode()
    status, headers, answer = served.send("POST", "/api/compare", body, Content_Type="application/json", Content_Length=str(len(body)))
    assert status == 200 and headers["Content-Type"] == "application/json" and json.loads(answer)["lines"][0] == MARKUP


def test_what_the_model_breaks_on_is_told_without_its_details(served, monkeypatch):
    def fail(text):
        raise KeyError("secret")

    monkeypatch.setattr(served.model, "fill_mask", fail)
    status, answer = served.ask("/api/fill-mask", {"text": "[MASK]"})
    assert status == 500 and "KeyError" in answer["error"] and "secret" not in answer["error"]
    monkeypatch.setattr(served.model, "fill_mask", lambda text: {"probability": float("nan")})
    status, answer = served.ask("/api/fill-mask", {"text": "[MASK]"})
    assert status == 500 and "not finite" in answer["error"]


def test_an_address_that_cannot_be_had_is_an_error_that_names_the_option(served):
    with pytest.raises(ConfigError, match=f"--port={served.server.server_address[1]}.*in use.*another --port"):
        demo(served.path, "127.0.0.1", served.server.server_address[1], opens=False)
    with pytest.raises(ConfigError, match="--port=70000"):
        Server("127.0.0.1", 70000)
    with pytest.raises(ConfigError, match="--host=no-such-host.invalid"):
        Server("no-such-host.invalid", 0)
    with Server("0.0.0.0", 0) as everyone:
        assert not everyone.is_private and served.server.is_private and not everyone.is_own("evil.example")


def test_the_command_says_where_it_is_and_ctrl_c_ends_it(served, monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(launch.demo.server, "DemoModel", lambda path: served.model)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    found = []

    def visit():
        for _ in range(200):
            try:
                found.append(urllib.request.urlopen(f"http://127.0.0.1:{port}/").read())
                break
            except OSError:
                time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    parser = argparse.ArgumentParser()
    add_demo(parser.add_subparsers())
    arguments = parser.parse_args(["demo", f"--model={served.path}", f"--port={port}"])
    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        assert arguments.run(arguments) == 0
    finally:
        visitor.join()
        signal.signal(signal.SIGINT, before)
    assert b"<main>" in found[0] and f"http://127.0.0.1:{port}/" in capsys.readouterr().out
    Server("127.0.0.1", port).server_close()  # which is free again
