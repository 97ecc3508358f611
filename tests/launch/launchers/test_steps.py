"""Steps: what is shown can be pasted into bash and does the same; passwords are refused."""

import subprocess

import pytest

from launch.launchers.steps import Command, File, check_words, describe, quote, run_steps
from tests.launch.launchers.conftest import HOSTILE


def test_what_is_shown_is_what_would_run(stand_ins, tmp_path):
    command = Command("look", ("gcloud", *HOSTILE))
    subprocess.run(["bash", "-c", describe(command)], check=True, cwd=tmp_path)
    assert run_steps([command], execute=True) == 0
    assert stand_ins.calls() == [["gcloud", *HOSTILE]] * 2
    assert not (tmp_path / "owned").exists()


def test_no_control_character_reaches_the_terminal():
    for word in HOSTILE:
        assert all(character.isprintable() or character == "\n" or ord(character) > 0xA0 for character in quote(word))


@pytest.mark.parametrize("text", ["plain\n", "no newline", "a\nEOF\nEOF_\nb\n", "$(touch owned) `x` \\ $HOME '\"\n", "\n\n"])
def test_a_file_is_shown_and_written_alike(text, tmp_path):
    step = File("a file", tmp_path / "it's here", text)
    assert run_steps([step], execute=False) == 0 and not step.path.exists()
    assert run_steps([step], execute=True) == 0
    assert step.path.read_text() == text
    step.path.unlink()
    subprocess.run(["bash", "-c", describe(step)], check=True, cwd=tmp_path)
    assert step.path.read_text() == text.removesuffix("\n") + "\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it's here"]


def test_nothing_runs_without_execute(stand_ins, capsys):
    assert run_steps([Command("delete", ("gcloud", "delete", "everything"))], execute=False) == 0
    assert not stand_ins.calls()
    assert capsys.readouterr().out == "# delete\ngcloud delete everything\n\n# nothing was done: add --execute to do it\n"


def test_the_first_failing_step_is_the_last(stand_ins, capsys):
    stand_ins.make("gcloud", "sys.exit(3)")
    assert run_steps([Command("one", ("gcloud",)), Command("two", ("kubectl",))], execute=True) == 3
    assert stand_ins.calls() == [["gcloud"]]
    assert "one: gcloud ended with status 3" in capsys.readouterr().err


def test_a_missing_program_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="gcloud is not installed"):
        run_steps([Command("one", ("gcloud",))], execute=True)


@pytest.mark.parametrize(
    "word", ["git+https://user:s3cret@host/r", "git+https://s3cret@github.com/o/r", "--config.data.path=https://a:s3cret@h/x", "bert-jax @ https://s3cret@h/x.whl"]
)
def test_passwords_in_addresses_are_refused_and_not_repeated(word):
    with pytest.raises(ValueError, match="credential helper") as error:
        check_words([word])
    assert "s3cret" not in str(error.value)


def test_ordinary_words_are_let_through():
    check_words([*HOSTILE, "git+ssh://git@github.com/o/r@v1", "git+https://github.com/o/r@main", "gs://bucket/x@y", "a@b", "https://host/x?y=1"])


@pytest.mark.parametrize("word", ["nul\0", "\udcff"])
def test_what_no_argument_list_can_hold_is_refused(word):
    with pytest.raises(ValueError, match="NUL"):
        check_words([word])
