"""The demo's page over HTTP, for the person at this machine: three files, and a JSON object for each question to the model.

A web site that its owner visits meanwhile is to learn and to do nothing: other Host headers than the own are refused (a foreign name may be pointed at this
machine), questions are JSON by content type, which other sites' pages cannot send unasked, and all headers that close a page off are set.
"""

import ipaddress
import json
import logging
import socket
import socketserver
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from launch.config import ConfigError
from launch.demo.demo_model import DemoModel
from launch.pages import template_of

LARGEST_BODY = 64 * 1024  # bytes of a question
READ_ON = 16 * LARGEST_BODY  # bytes of a larger one that are dropped after the answer
PATIENCE = 30  # seconds for a request to arrive
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
FILES = {  # path -> (template, type)
    "/": ("demo.html.j2", "text/html; charset=utf-8"),
    "/demo.css": ("demo.css.j2", "text/css; charset=utf-8"),
    "/demo.js": ("demo.js", "text/javascript; charset=utf-8"),
}
log = logging.getLogger("bert_jax")


class Refusal(Exception):
    """status: of HTTP. The words go to the page."""

    def __init__(self, status: HTTPStatus, words: str):
        super().__init__(words)
        self.status = status


def _text(question: dict, name: str) -> str:
    found = question.get(name, "")
    if not isinstance(found, str):
        raise ValueError(f"{name} must be text")
    found.encode()  # halves of characters, which JSON can hold, are no text: an error in words
    return found


def _lines(question: dict) -> list[str]:
    lines = question.get("lines")
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError("lines must be a list of texts")
    return [_text({"lines": line}, "lines") for line in lines]


def _number(question: dict, name: str) -> int:
    found = question.get(name)
    if type(found) is not int:
        raise ValueError(f"{name} must be a whole number")
    return found


QUESTIONS: dict[str, Callable[[DemoModel, dict], dict[str, Any]]] = {
    "/api/fill-mask": lambda model, question: model.fill_mask(_text(question, "text")),
    "/api/replaced": lambda model, question: model.replaced(_text(question, "text")),
    "/api/classify": lambda model, question: model.classify(_text(question, "text"), _text(question, "pair")),
    "/api/attention": lambda model, question: model.attention(
        _text(question, "text"), _text(question, "pair"), _number(question, "layer"), None if question.get("head") is None else _number(question, "head"),
    ),
    "/api/compare": lambda model, question: model.compare(_lines(question)),
}


class Server(socketserver.ThreadingTCPServer):
    """Holds its address from the beginning; answers once `model` is set and `serve_forever` runs."""

    daemon_threads = True
    allow_reuse_address = True
    model: DemoModel

    def __init__(self, host: str, port: int):
        """port: 0 takes a free one. ConfigError in words."""
        self.host = host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except socket.gaierror:
            raise ConfigError(f"--host={host} is no address of this machine; the usual one is 127.0.0.1") from None
        except (OSError, OverflowError) as error:
            raise ConfigError(f"--port={port} of --host={host} cannot be had ({getattr(error, 'strerror', None) or error}); give another --port, or 0 for any") from None
        self.files = {path: (template_of(Path(__file__).parent, name).render().encode(), kind) for path, (name, kind) in FILES.items()}

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"

    @property
    def is_private(self) -> bool:
        """Whether this machine alone can reach it."""
        return ipaddress.ip_address(self.server_address[0]).is_loopback

    def is_own(self, host: str) -> bool:
        """Whether a Host header names this server: by an address, which no foreign name can hide behind, or by a name of its own."""
        name = host.removeprefix("[").partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if name.lower() in ("localhost", self.host.lower()):
            return True
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return False


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = PATIENCE
    server_version = "bert-jax"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _get(self) -> tuple[bytes, str]:
        path = self.path.partition("?")[0]
        if path == "/api/model":
            return _json(self.server.model.about())
        if path not in self.server.files:
            raise Refusal(HTTPStatus.NOT_FOUND, f"there is no {path[:100]} here")
        return self.server.files[path]

    def _post(self) -> tuple[bytes, str]:
        if self.path not in QUESTIONS:
            raise Refusal(HTTPStatus.NOT_FOUND, f"there is no {self.path[:100]} here")
        if self.headers.get_content_type() != "application/json":
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON, with Content-Type: application/json")
        question = self._question()
        try:
            return _json(QUESTIONS[self.path](self.server.model, question))
        except UnicodeEncodeError:
            raise Refusal(HTTPStatus.BAD_REQUEST, "the text holds half a character (a lone surrogate)") from None
        except ValueError as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from None

    def _question(self) -> dict:
        size = self.headers.get("Content-Length", "")
        if not (size.isascii() and size.isdigit()):
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "send a Content-Length")
        if len(size) > 9 or int(size) > LARGEST_BODY:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request has {size[:20]} bytes; at most {LARGEST_BODY:,} are read")
        try:
            question = json.loads(self.rfile.read(int(size)))
        except (ValueError, RecursionError):
            raise Refusal(HTTPStatus.BAD_REQUEST, "this is not JSON") from None
        if not isinstance(question, dict):
            raise Refusal(HTTPStatus.BAD_REQUEST, "send a JSON object")
        return question

    def _answer(self, find: Callable[[], tuple[bytes, str]]) -> None:
        try:
            if not self.server.is_own(self.headers.get("Host", "")):
                raise Refusal(HTTPStatus.FORBIDDEN, "this page answers to localhost, to addresses and to the name given with --host")
            status, (body, kind) = HTTPStatus.OK, find()
        except Refusal as refusal:
            status, (body, kind) = refusal.status, _json({"error": str(refusal)})
        except (TimeoutError, ConnectionError):
            return
        except Exception as error:
            log.exception("%s failed", self.path)
            status, (body, kind) = HTTPStatus.INTERNAL_SERVER_ERROR, _json({"error": f"the model failed ({type(error).__name__}); the terminal says where"})
        self._send(status, body, kind)
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            self._read_on()

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        try:
            self.send_response(status)
            for name, value in (HEADERS | {"Content-Type": kind, "Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except (TimeoutError, ConnectionError):
            pass  # nobody waits for it any more

    def _read_on(self) -> None:
        """Drops a part of what is still on its way: a connection that ends before is reset, and its sender may never see the answer."""
        self.connection.settimeout(0.5)
        left = READ_ON
        try:
            while left > 0 and (piece := self.rfile.read1(LARGEST_BODY)):
                left -= len(piece)
        except OSError:
            pass

    def log_message(self, format: str, *arguments) -> None:
        """What people write here is theirs: not even addresses are logged."""


def _json(answer: dict[str, Any]) -> tuple[bytes, str]:
    try:
        return json.dumps(answer, allow_nan=False).encode(), "application/json"
    except ValueError:
        raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "the model gives numbers that are not finite; its training has diverged") from None


def demo(path: Path, host: str, port: int, *, opens: bool) -> int:
    """Serves until Ctrl-C. opens: the page in this machine's browser."""
    with Server(host, port) as server:
        log.info("opening %s ...", path)
        server.model = DemoModel(path)
        print(f"{path} is on {server.address}  (Ctrl-C ends it)", flush=True)
        if not server.is_private:
            log.warning("whoever reaches this machine can use the page; without --host it is for this machine alone")
        if opens:
            import webbrowser

            webbrowser.open(server.address)
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print()
    return 0
