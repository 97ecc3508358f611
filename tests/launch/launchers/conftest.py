"""Stand-ins for gcloud, kubectl, sbatch and others: programs that come first on the PATH and write down how they were called."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest

PROGRAMS = ("gcloud", "kubectl", "xpk", "sbatch", "srun", "scancel", "scontrol", "squeue", "sudo", "curl", "gcsfuse", "fusermount", "lsb_release", "mountpoint")
RECORD = """\
#!{python} -IS
import fcntl, json, os, sys
with open({calls!r}, "a") as calls:
    fcntl.flock(calls, fcntl.LOCK_EX)
    calls.write(json.dumps(["{name}", *sys.argv[1:]]) + "\\n")
"""
# What a shell, a YAML file, a template or an option parser could trip over.
HOSTILE = (
    "", " ", "two  words ", "-n", "--help", "--", "'", '"', "it's \"so\"", "a\nb", "\n", "tail\n", "\ttab", "\x1b[31mred\x07", "$HOME", "$(touch owned)", "`touch owned`",
    "${HOME}", "$$", "$$(HOME)", "$(HOME)", "$", "a$$", "\\", "\\n", "a\\'b", "; touch owned", "| touch owned", "&& touch owned", "*", "~", "[a-z]", "{a,b}", "!!", "#x",
    "%s", "%x", "EOF", "'; touch owned; '", '"; touch owned; "', "{{ x }}", "yes", "null", "1e3", "- x: y", "ünïcödé 漢字", "\u202eabc", "a=b", "<&3", "> owned",
)


@dataclasses.dataclass
class StandIns:
    """The directory of the stand-ins, and the calls made of them."""

    directory: Path

    @property
    def log(self) -> Path:
        return self.directory / "calls"

    def make(self, name: str, then: str = "") -> None:
        """Makes or replaces one; `then` is Python code that runs after it has written its call down."""
        path = self.directory / name
        path.write_text(RECORD.format(python=sys.executable, calls=str(self.log), name=name) + then)
        path.chmod(0o755)

    def calls(self, *names: str) -> list[list[str]]:
        """The argument lists, of all programs or of those named."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        return [line for line in lines if not names or line[0] in names]


@pytest.fixture
def stand_ins(tmp_path, monkeypatch) -> StandIns:
    (tmp_path / "bin").mkdir()
    made = StandIns(tmp_path / "bin")
    for name in PROGRAMS:
        made.make(name)
    monkeypatch.setenv("PATH", f"{made.directory}{os.pathsep}{os.environ['PATH']}")
    return made


@pytest.fixture
def golden(request):
    """Compares text with tests/launch/launchers/golden/NAME; BERT_JAX_GOLDEN=write writes it instead."""

    def compare(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / name
        if os.environ.get("BERT_JAX_GOLDEN") == "write":
            path.write_text(text)
        assert text == path.read_text(), f"{name} changed; if it should, run again with BERT_JAX_GOLDEN=write and look at the difference"

    return compare
