"""docs/pods.md: every command in it is one that `bert-jax` takes, and what is launched can be printed."""

import re
import shlex
from pathlib import Path

import pytest

from launch.cli import main, parse

PAGE = Path(__file__).parents[3] / "docs/pods.md"
COMMANDS = [line.strip() for line in PAGE.read_text().splitlines() if re.match(r" {4}\S", line)]
OURS = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("bert-jax ")]


def test_the_page_goes_all_the_way():
    kinds = {words[1] for words in OURS if words[0] == "launch"}
    assert kinds == {"local", "local-gpus", "slurm", "tpu-vm", "gke", "xpk"}
    assert {words[0] for words in OURS} == {"launch", "plan", "evaluate", "export"}
    assert {words[2] for words in OURS if words[1] == "tpu-vm"} == {"create", "setup", "run", "stop", "delete"}
    assert all(line.startswith(("bert-jax ", "gcloud ", "kubectl ", "pip ")) for line in COMMANDS)


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_every_command_is_understood(words, stand_ins, capsys):
    assert parse(words).command == words[0]
    if words[0] == "launch":
        end = words.index("--") if "--" in words else len(words)
        shown = [word for word in words[:end] if word != "--execute"] + words[end:]
        assert main(shown) == 0
        assert "nothing was done" in capsys.readouterr().out
        assert not stand_ins.calls()


@pytest.mark.parametrize("words", [[], ["local"], ["local-gpus"], ["slurm"], ["tpu-vm"], *(["tpu-vm", action] for action in ("create", "setup", "run", "stop", "delete")), ["gke"], ["xpk"]])
def test_help_explains_itself(words, capsys):
    with pytest.raises(SystemExit) as status:
        main(["launch", *words, "--help"])
    assert status.value.code == 0
    shown = capsys.readouterr().out
    assert " ".join(["bert-jax", "launch", *words]) in shown and ("--execute" in shown or words in ([], ["tpu-vm"]))


def test_configs_that_are_launched_load():
    for words in OURS:
        if "--" in words:
            assert main([*words[words.index("--") + 1 :], "--print-config"]) == 0
