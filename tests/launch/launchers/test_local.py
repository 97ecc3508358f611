"""`launch local` and `local-gpus` with real processes, each a few lines of Python without JAX."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.launchers.local import local_variables, run_processes

ROOT = Path(__file__).parents[3]
RANK = "import os, sys, time, signal; rank = int(os.environ['RANK']); "


def run(code: str, processes: int = 2, **options) -> int:
    return run_processes([sys.executable, "-IS", "-c", RANK + code], [{"RANK": str(rank)} for rank in range(processes)], **options)


def test_each_process_has_its_place_and_its_devices():
    first, second = (local_variables(rank, 2, 3, 4567, "--xla_a --xla_force_host_platform_device_count=8 --xla_b=1") for rank in (0, 1))
    assert first == {
        "BERT_JAX_COORDINATOR": "127.0.0.1:4567", "BERT_JAX_NUM_PROCESSES": "2", "BERT_JAX_PROCESS_ID": "0", "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1",
        "XLA_FLAGS": "--xla_a --xla_b=1 --xla_force_host_platform_device_count=3",
    }
    assert second == first | {"BERT_JAX_PROCESS_ID": "1"}


def test_lines_come_whole_with_their_rank(capfd):
    assert run("print(f'out {rank}', end=''); print('x' * 9000, file=sys.stderr); [print(line) for line in range(200)]", 3) == 0
    captured = capfd.readouterr()
    for rank in range(3):
        mine = [line for line in captured.out.splitlines() if line.startswith(f"[{rank}] ")]
        assert mine == [f"[{rank}] out {rank}0", *(f"[{rank}] {line}" for line in range(1, 200))]
        assert f"[{rank}] {'x' * 9000}\n" in captured.err
    assert len(captured.out.splitlines()) == 600


def test_bytes_that_are_no_text_and_a_missing_newline_pass(capfd):
    assert run("sys.stdout.buffer.write(b'\\xff end')", 1) == 0
    assert capfd.readouterr().out == "[0] \ufffd end\n"


@pytest.mark.parametrize(
    "code, expected",
    [
        ("sys.exit(0)", 0),
        ("sys.exit(75)", 75),
        ("sys.exit([0, 75][rank])", 75),
        ("sys.exit(3) if rank else time.sleep(60)", 3),
        ("sys.exit(1) if rank else (signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)), time.sleep(60))", 1),
        ("os.kill(os.getpid(), signal.SIGSEGV) if rank else time.sleep(60)", 139),
    ],
)
def test_one_failure_ends_all_and_is_the_status(code, expected):
    started = time.monotonic()
    assert run(code) == expected
    assert time.monotonic() - started < 30


def test_who_does_not_heed_is_killed_with_its_children(tmp_path, capfd):
    code = (
        f"child = os.fork() if rank == 0 else 0; open({str(tmp_path / 'pid')!r}, 'w').write(str(child)) if child else None; "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN) if rank == 0 else time.sleep(0.5); sys.exit(4) if rank else time.sleep(60)"
    )
    assert run(code, grace=0.2) == 4
    assert "process 1 ended with status 4; ending the others" in capfd.readouterr().err
    child = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    raise AssertionError("a child of a killed process is still alive")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_passed_on_once(number, tmp_path):
    child = (
        "import os, pathlib, signal, sys, time; got = []; rank = os.environ['RANK']\n"
        f"signal.signal({int(number)}, lambda *_: got.append(1))\n"
        "print('ready', flush=True)\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(0.3); print('got', len(got), flush=True); sys.exit(75)"
    )
    code = (
        "import sys; from launch.launchers.local import run_processes\n"
        f"sys.exit(run_processes([sys.executable, '-IS', '-c', {child!r}], [{{'RANK': '0'}}, {{'RANK': '1'}}]))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    assert {process.stdout.readline() for _ in range(2)} == {"[0] ready\n", "[1] ready\n"}
    os.killpg(process.pid, number)  # as a terminal does it
    output, _ = process.communicate(timeout=30)
    assert sorted(output.splitlines()) == ["[0] got 1", "[1] got 1"]
    assert process.returncode == 75


def launch(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "launch.cli", "launch", *words], capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, timeout=60,
    )


def test_the_command_prints_and_does_nothing_without_execute(tmp_path):
    result = launch("local", "--processes=2", "--devices=3", "--", "report", f"--workdir={tmp_path}/it's $HOME")
    assert result.returncode == 0 and "nothing was done" in result.stdout
    assert result.stdout.count("device_count=3") == 2 and "BERT_JAX_PROCESS_ID=1" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_command_runs_bert_jax_in_each_process(tmp_path):
    result = launch("local", "--processes=2", "--execute", "--", "pretrain", "--config=bert_mini", "--print-config", "--config.data.path=$HOME 'x'")
    assert result.returncode == 0, result.stderr
    for rank in range(2):
        text = "\n".join(line.removeprefix(f"[{rank}] ") for line in result.stdout.splitlines() if line.startswith(f"[{rank}] "))
        assert json.loads(text)["data"]["path"] == "$HOME 'x'"


@pytest.mark.parametrize(
    "words, status, message",
    [
        (["local", "--processes=2"], 1, "after two dashes"),
        (["local", "--processes=0", "--", "report", "--workdir=x"], 1, "at least one process"),
        (["local", "--processes=2", "--", "launch", "local", "--processes=2"], 1, "cannot be `launch` itself"),
        (["local", "--processes=2", "--", "pretrian", "--config=x"], 2, "pretrian"),
        (["local", "--processes=2", "--", "pretrain", "--config=x", "--wrokdir=y"], 2, "--wrokdir=y"),
        (["local", "--processes=2", "report", "--", "report", "--workdir=x"], 2, "report"),
        (["local-gpus", "--gpus=0;1", "--", "report", "--workdir=x"], 1, "parted by commas"),
    ],
)
def test_mistakes_are_found_before_anything_starts(words, status, message, capsys):
    from launch.cli import main

    try:
        assert main(["launch", *words]) == status
    except SystemExit as error:
        assert error.code == status
    assert message in capsys.readouterr().err


def test_local_gpus_becomes_one_process_that_needs_gpus(tmp_path):
    shown = launch("local-gpus", "--gpus=0,1", "--", "report", "--workdir=x")
    assert "JAX_PLATFORMS=cuda CUDA_VISIBLE_DEVICES=0,1" in shown.stdout and "nothing was done" in shown.stdout
    code = "import os, json, sys; from launch.launchers import local; local.bert_jax_command = lambda payload: [sys.executable, '-c', sys.argv[1], *payload]\n"
    code += "local.launch_local_gpus(['a b', '$x'], '2', execute=True)"
    child = "import os, sys; print(os.environ['JAX_PLATFORMS'], os.environ['CUDA_VISIBLE_DEVICES'], sys.argv[1:]); sys.exit(75)"
    result = subprocess.run([sys.executable, "-c", code, child], capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (75, "cuda 2 ['a b', '$x']")
