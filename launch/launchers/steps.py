"""What a launcher would do: programs to run and files to write, shown as shell words that can be pasted, or done."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

CONTROL = re.compile(r"[^\x20-\x7e\n\xa0-\U0010ffff]")


@dataclasses.dataclass(frozen=True)
class Command:
    """A program to run: what for, its argument list, and text for its standard input."""

    purpose: str
    argv: tuple[str, ...]
    stdin: str | None = None


@dataclasses.dataclass(frozen=True)
class File:
    """A text file to write, whole or not at all."""

    purpose: str
    path: Path
    text: str


Step = Command | File


def quote(word: str) -> str:
    """The word as bash reads it back. Control characters, which could repaint a terminal, are written as escapes."""
    if not CONTROL.search(word):
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + CONTROL.sub(lambda match: "".join(f"\\x{byte:02x}" for byte in match.group().encode()), escaped) + "'"


def describe(step: Step) -> str:
    """The step as a shell would do it, under a comment that says what for."""
    if isinstance(step, File):
        return f"# {step.purpose}\ncat > {quote(str(step.path))} {here_document(step.text)}\n"
    words = " ".join(quote(word) for word in step.argv)
    return f"# {step.purpose}\n{words}{'' if step.stdin is None else ' ' + here_document(step.stdin)}\n"


def here_document(text: str) -> str:
    delimiter = "EOF"
    while delimiter in text.splitlines():
        delimiter += "_"
    return f"<<'{delimiter}'\n{text.removesuffix(chr(10))}\n{delimiter}"


def show(steps: Sequence[Step]) -> None:
    for step in steps:
        print(describe(step))


def do(step: Step) -> int:
    """Does one step after printing it; returns the program's exit status, 0 for a file. OSError names a program that is not installed."""
    print(describe(step), flush=True)
    if isinstance(step, File):
        partial = step.path.with_name(step.path.name + ".partial")
        partial.write_text(step.text)
        os.replace(partial, step.path)
        return 0
    try:
        return subprocess.run(step.argv, input=step.stdin, text=True, stdin=None if step.stdin is not None else subprocess.DEVNULL).returncode
    except FileNotFoundError:
        raise not_installed(step.argv[0]) from None


def not_installed(program: str) -> FileNotFoundError:
    return FileNotFoundError(f"{program} is not installed, or not on the PATH; without --execute the commands are only printed")


def run_steps(steps: Sequence[Step], execute: bool) -> int:
    """Prints the steps, or does them until one fails; returns the exit status of that one, else 0."""
    if not execute:
        show(steps)
        print("# nothing was done: add --execute to do it")
        return 0
    for step in steps:
        status = do(step)
        if status:
            print(f"bert-jax launch: {step.purpose}: {program_of(step)} ended with status {status}", file=sys.stderr)
            return status
    return 0


def program_of(step: Step) -> str:
    return step.argv[0] if isinstance(step, Command) else str(step.path)


def check_name(what: str, value: str, pattern: str, example: str) -> str:
    """A value that goes where nothing can be quoted, or into a name; ValueError if it does not match `pattern` as a whole."""
    if not re.fullmatch(pattern, value):
        raise ValueError(f"{what} {value!r} does not fit; such as {example}")
    return value


def check_words(words: Sequence[str]) -> None:
    """ValueError for what no argument list can hold, and for passwords in URLs: arguments are seen by all users of a machine and end in logs."""
    for word in words:
        if "\0" in word or any("\ud800" <= character <= "\udfff" for character in word):
            raise ValueError(f"argument {word!r} holds a NUL or bytes that are no UTF-8")
        for address in re.findall(r"[a-zA-Z+]+://[^\s'\"]+", word):
            if holds_password(address):
                scheme, _, rest = address.partition("://")
                raise ValueError(
                    f"the address {scheme}://***@{rest.rpartition('@')[2]} holds a user name or password, which arguments, logs and files would show; "
                    "use a credential helper, or a package file instead"
                )


def holds_password(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.password is not None or (parts.username is not None and "ssh" not in parts.scheme)
    except ValueError:
        return "@" in address
