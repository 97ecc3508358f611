"""What ends a process from beside it: signals, hangs and errors leave with their exit status and exit_reason.json. No model; the main thread is in C code, as in XLA."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import exit_codes, witness

ROOT = Path(__file__).parents[2]
PROGRAM = """
import argparse, hashlib, os, sys, time
from pathlib import Path
from launch import cli
from launch.oversight import Oversight
workdir, grace, hang = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
oversight = Oversight(workdir, grace=grace, hang_timeout=hang)

def in_c_code():  # for minutes, heeding no handler
    print("here", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)

def main():
    {body}
    return 0

cli.parse = lambda words: argparse.Namespace(command="work", run=lambda arguments: oversight.run(main))
cli.command_line()
"""
HOLDS = "oversight.holds(lambda: 7); oversight.watch.step = 9; "


def start(workdir: Path, body: str, *, grace: float = 300, hang: float = 600) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body), str(workdir), str(grace), str(hang)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    if "in_c_code" in body:
        assert process.stdout.readline() == "here\n", process.communicate()[1]
    return process


def end(process: subprocess.Popen, workdir: Path, status: int) -> tuple[dict, str]:
    """(exit_reason.json, what was said on standard error)"""
    said = process.communicate(timeout=60)[1]
    assert process.returncode == status, said
    reason = json.loads((workdir / "exit_reason.json").read_text())
    assert (reason["code"], reason["name"], reason["again"]) == (status, exit_codes.BY_STATUS[status].name, exit_codes.BY_STATUS[status].again)
    return reason, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_c_code_with_nothing_to_lose_ends_at_once(number, tmp_path):
    process = start(tmp_path, HOLDS + "in_c_code()")
    assert json.loads((tmp_path / "exit_reason.json").read_text())["name"] == "running"
    process.send_signal(number)
    reason, said = end(process, tmp_path, 75)
    assert reason["last_durable_step"] == 7 and reason["step"] == 9
    assert signal.Signals(number).name in said and "nothing is lost" in said and "starting" in reason["message"]


@pytest.mark.parametrize("step, status", [(9, 79), (7, 75)])
def test_unsaved_work_has_the_grace_time_and_no_more(step, status, tmp_path):
    process = start(tmp_path, HOLDS + f"oversight.watch.step, oversight.watch.unsaved = {step}, True; in_c_code()", grace=2)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.7)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)  # changes nothing
    reason, _ = end(process, tmp_path, status)
    assert "did not end within 2 s" in reason["message"]


def test_a_run_that_stops_by_itself_is_left_to_do_so(tmp_path):
    body = HOLDS + "oversight.watch.unsaved = True; print('here', flush=True)\n    while not oversight.stop.due(): time.sleep(0.01)\n    time.sleep(1); return 75"
    process = start(tmp_path, body)
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    reason, _ = end(process, tmp_path, 75)
    assert reason["message"] == "SIGTERM"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_process_that_cannot_say_why_it_ended_has_a_witness(number, tmp_path):
    process = start(tmp_path, HOLDS + "in_c_code()")
    process.send_signal(number)
    process.communicate()
    deadline = time.monotonic() + 30
    while (reason := json.loads((tmp_path / "exit_reason.json").read_text()))["name"] == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (reason["name"], reason["pid"], reason["again"], reason["last_durable_step"]) == ("gone", process.pid, True, 7)
    assert [path.name for path in tmp_path.glob("exit_reason*")] == ["exit_reason.json"]


@pytest.mark.parametrize("thread", ["threading.Thread(target=time.sleep, args=(1000,)).start()", "futures.ThreadPoolExecutor().submit(time.sleep, 1000)"])
def test_threads_that_others_left_do_not_keep_a_process(thread, tmp_path):
    """As Orbax's, after a save that failed: they wait for minutes for what never comes, and Python for them; for those of a pool before it lets the main thread end."""
    leave = f"import threading, launch.oversight; from concurrent import futures; launch.oversight.ENDING_SECONDS = 0.5; {thread}; "
    end(start(tmp_path, HOLDS + leave + "return 75"), tmp_path, 75)
    process = start(tmp_path, HOLDS + leave + "raise FloatingPointError('it is 3')")
    assert "it is 3" in process.communicate(timeout=60)[1] and process.returncode == 76


def test_a_witness_leaves_what_another_process_says(tmp_path):
    path = tmp_path / "exit_reason.json"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for said in ({"pid": gone.pid, "name": "stopped"}, {"pid": gone.pid + 1, "name": "running"}):
        path.write_text(json.dumps(said))
        witness.main(gone.pid, str(path))
        assert json.loads(path.read_text()) == said


def test_ctrl_c_twice_interrupts(tmp_path):
    body = HOLDS + "oversight.watch.unsaved = True; print('here', flush=True)\n    while not oversight.stop.signal: time.sleep(0.01)\n    print('there', flush=True); time.sleep(60)"
    process = start(tmp_path, body)
    for line in ("here\n", "there\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert "interrupted" in said and process.returncode == 130 and json.loads((tmp_path / "exit_reason.json").read_text())["code"] == 130


def test_a_hang_is_named_with_all_stacks(tmp_path):
    body = HOLDS + "oversight.watch.begins('the batch of step 10'); in_c_code()"
    reason, said = end(start(tmp_path, body, hang=0.5), tmp_path, 70)
    stacks = (tmp_path / "stacks-0.txt").read_text()
    for text in (stacks, said):
        assert "the batch of step 10 has taken" in text and "in in_c_code" in text and "in _attend" in text
    assert reason["doing"] == "the batch of step 10" and "hung: the batch of step 10" in reason["message"]


def test_what_is_slow_has_more_time(tmp_path):
    body = HOLDS + "oversight.watch.begins('compiling', slow=True); time.sleep(1.8)\n    for _ in range(4): oversight.watch.begins('a step'); time.sleep(0.5)"
    end(start(tmp_path, body, hang=1.5), tmp_path, 0)


@pytest.mark.parametrize(
    "error, status",
    [
        ("ValueError('it is 3')", 1), ("TypeError('it is 3')", 1), ("MemoryError()", 1), ("FloatingPointError('it is 3')", 76), ("OSError(28, 'it is 3')", 73),
        ("RuntimeError('RESOURCE: it is 3: No space left on device')", 73), ("RuntimeError('Gloo: connection closed by peer')", 1),
    ],
)
def test_an_error_is_told_and_not_hidden(error, status, tmp_path):
    process = start(tmp_path, HOLDS + f"raise {error}")
    said = process.communicate(timeout=60)[1]
    assert process.returncode == status and ("it is 3" in said or error.partition("(")[0] in said or "closed by peer" in said)
    reason = json.loads((tmp_path / "exit_reason.json").read_text())
    assert reason["code"] == status and error.partition("(")[0] in reason["message"]


def test_an_error_is_not_hidden_where_nothing_can_be_written(tmp_path):
    (tmp_path / "exit_reason.json").mkdir()
    (tmp_path / "exit_reason.json/x").touch()
    said = start(tmp_path, HOLDS + "raise ValueError('it is 3')").communicate(timeout=60)[1]
    assert said.rstrip().endswith("bert-jax work: it is 3")
    said = start(tmp_path / "nowhere", "raise ValueError('it is 3')").communicate(timeout=60)[1]
    assert said.rstrip().endswith("bert-jax work: it is 3") and not (tmp_path / "nowhere").exists()


def test_the_record_of_another_run_is_left_alone(tmp_path):
    (tmp_path / "exit_reason.json").write_text("{}")
    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert start(tmp_path, "raise ValueError('held')").wait(60) == 1
        assert (tmp_path / "exit_reason.json").read_text() == "{}"
    start(tmp_path, "raise ValueError('not held')").wait(60)
    assert json.loads((tmp_path / "exit_reason.json").read_text())["message"] == "ValueError: not held"


def test_records_of_other_processes_of_an_earlier_run_go(tmp_path):
    for name in ("exit_reason-0.json", "exit_reason-1.json"):
        (tmp_path / name).write_text("{}")
    end(start(tmp_path, HOLDS), tmp_path, 0)
    assert not list(tmp_path.glob("exit_reason-*"))


def test_the_documentation_has_every_status():
    page = (ROOT / "docs/training.md").read_text()
    for code in exit_codes.TABLE:
        assert f"| {code.status} | `{code.name}` | {'yes' if code.again else 'no'} |" in page, code
