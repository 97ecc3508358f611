"""`launch tpu-vm`: recorded gcloud calls, the workers' scripts run here, and relaunching until done."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import exit_codes
from launch.cli import main
from launch.launchers import tpu_vm, worker
from launch.launchers.relaunch import relaunch_until_done
from tests.launch.launchers.conftest import HOSTILE

ROOT = Path(__file__).parents[3]
WHERE = ["bert-large", "--zone=us-central2-b", "--project=my-project"]
REQUEST = ["--accelerator-type=v4-32", "--runtime-version=tpu-ubuntu2204-base", "--spot"]
PROVISION = ["--package=git+https://github.com/me/bert_jax@v1", "--store=gs://my-bucket/store", "--mount=gs://my-bucket/runs"]
PAYLOAD = ["pretrain", "--config=bert_large", "--workdir=bucket/large", "--config.data.path=store"]
# Runs the command of `tpu-vm ssh` as gcloud and ssh do it: words parted at spaces, joined again, and given to the login shell.
REMOTE = """
import subprocess
line = [word for word in sys.argv if word.startswith("--command=")]
if line:
    line = " ".join(line[0].removeprefix("--command=").split(" "))
    sys.exit(subprocess.run([os.environ.get("LOGIN_SHELL", "bash"), "-c", line]).returncode)
"""
SLICE = tpu_vm.Slice("bert-large", "us-central2-b")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A worker's home directory, whose bert-jax notes its arguments and does what the file `do` says."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    program = tmp_path / "home/bert-jax/venv/bin/bert-jax"
    program.parent.mkdir(parents=True)
    program.write_text(
        f"#!{sys.executable} -IS\nimport json, os, signal, sys, time\n"
        "open('ran', 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "exec(open('do').read() if os.path.exists('do') else '')\n"
    )
    program.chmod(0o755)
    return tmp_path / "home/bert-jax"


def ran(home: Path) -> list[list[str]]:
    return [json.loads(line) for line in (home / "ran").read_text().splitlines()]


@pytest.mark.parametrize(
    "words, name",
    [
        (["create", *WHERE, *REQUEST, "--service-account=trainer@my-project.iam.gserviceaccount.com"], "create"),
        (["setup", *WHERE, *PROVISION], "setup"),
        (["run", *WHERE, "--", *PAYLOAD], "run"),
        (["run", *WHERE, "--recreate", *REQUEST, *PROVISION, "--retries=3", "--", *PAYLOAD], "run_recreate"),
        (["stop", *WHERE], "stop"),
        (["delete", *WHERE], "delete"),
    ],
)
def test_what_is_printed_is_golden_valid_shell_and_not_done(words, name, stand_ins, golden, capsys):
    assert main(["launch", "tpu-vm", *words]) == 0
    shown = capsys.readouterr().out
    golden(f"tpu_vm_{name}.txt", shown)
    subprocess.run(["bash", "-n"], input=shown, text=True, check=True)
    assert not stand_ins.calls()


@pytest.mark.parametrize("script", [worker.SETUP, worker.RUN, worker.STOP])
def test_scripts_are_valid_and_hold_no_single_quote(script):
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "'" not in script  # it would be unreadable in what is printed


def test_create_and_delete_are_what_they_say(stand_ins):
    assert main(["launch", "tpu-vm", "create", *WHERE, *REQUEST, "--execute"]) == 0
    assert main(["launch", "tpu-vm", "delete", *WHERE, "--execute"]) == 0
    assert stand_ins.calls() == [
        [
            "gcloud", "compute", "tpus", "queued-resources", "create", "bert-large", "--node-id=bert-large", "--accelerator-type=v4-32",
            "--runtime-version=tpu-ubuntu2204-base", "--spot", "--zone=us-central2-b", "--project=my-project",
        ],
        ["gcloud", "compute", "tpus", "queued-resources", "delete", "bert-large", "--force", "--quiet", "--zone=us-central2-b", "--project=my-project"],
    ]


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_hostile_arguments_arrive_byte_for_byte(shell, stand_ins, home, monkeypatch):
    monkeypatch.setenv("LOGIN_SHELL", shell)
    stand_ins.make("gcloud", REMOTE)
    assert tpu_vm.run(SLICE, ["pretrain", *HOSTILE], retries=0, recreate=None, execute=True) == 0
    assert ran(home) == [["pretrain", *HOSTILE]]
    assert not list(home.parent.rglob("owned"))


@pytest.mark.parametrize(
    "options, message",
    [
        (["bert;rm", "--zone=us-central2-b"], "the name 'bert;rm'"),
        (["-x", "--zone=us-central2-b"], "NAME"),
        (["x", "--zone=$(id)"], "--zone"),
        (["x", "--zone=us-central2-b", "--project=a b"], "--project"),
    ],
)
def test_names_that_do_not_fit_are_refused(options, message, stand_ins, capsys):
    try:
        assert main(["launch", "tpu-vm", "delete", *options, "--execute"]) == 1
    except SystemExit:
        pass
    assert message in capsys.readouterr().err and not stand_ins.calls()


@pytest.mark.parametrize(
    "option", ["--package=nowhere.whl", "--package=git+https://me:s3cret@github.com/o/r", "--package=a b", "--store=/local", "--mount=gs://x y", "--mount=gs://b/../c;x"]
)
def test_set_up_that_cannot_work_is_refused(option, stand_ins, capsys):
    provision = [word for word in PROVISION if not word.startswith(option.partition("=")[0])]
    assert main(["launch", "tpu-vm", "setup", *WHERE, *provision, option, "--execute"]) == 1
    shown = capsys.readouterr()
    assert "s3cret" not in shown.out + shown.err and not stand_ins.calls()


@pytest.mark.parametrize("workdir", [["--workdir=runs/large"], ["--workdir", "runs/large"], ["--workdir=store/../x"]])
def test_a_workdir_on_one_machines_disk_is_refused(workdir, stand_ins, capsys):
    assert main(["launch", "tpu-vm", "run", *WHERE, "--execute", "--", "pretrain", "--config=bert_large", *workdir]) == 1
    assert "bucket/NAME" in capsys.readouterr().err and not stand_ins.calls()


def test_setup_installs_fetches_and_mounts_and_may_be_repeated(stand_ins, home):
    stand_ins.make("gcloud", REMOTE)
    stand_ins.make("python3", "import pathlib\nif 'venv' in sys.argv: p = pathlib.Path('venv/bin/python'); p.write_text(''); p.chmod(0o755)")
    stand_ins.make("mountpoint", "sys.exit(0 if os.path.exists('bucket/mounted') else 32)")
    stand_ins.make("gcsfuse", "open('bucket/mounted', 'w')")
    provision = tpu_vm.Provision("git+https://github.com/me/bert_jax@v1", "gs://my-bucket/store", "gs://my-bucket/runs/large")
    (setup,) = tpu_vm.setup(SLICE, provision)
    for _ in range(2):
        assert subprocess.run(setup.argv).returncode == 0
    install = ["python3", "-m", "uv", "pip", "install", "--quiet", "--python", "venv/bin/python", "--reinstall-package", "bert-jax"]
    install.append("bert-jax[tpu] @ git+https://github.com/me/bert_jax@v1")
    fetch = ["gcloud", "storage", "rsync", "--recursive", "gs://my-bucket/store", "store"]
    get_uv, make = ["python3", "-m", "pip", "install", "--quiet", "--user", "uv"], ["python3", "-m", "uv", "venv", "--quiet", "--python", "3.11", "venv"]
    uncached = ["--metadata-cache-ttl-secs=0", "--metadata-cache-negative-ttl-secs=0"]
    mount = ["gcsfuse", "--implicit-dirs", *uncached, "--only-dir", "runs/large", "my-bucket", "bucket"]
    calls = [call for call in stand_ins.calls("python3", "gcloud", "gcsfuse", "fusermount") if "ssh" not in call]
    assert calls == [get_uv, make, install, fetch, mount, get_uv, install, fetch]


MOUNTS = {"mountpoint": "sys.exit(0 if os.path.exists('bucket/mounted') else 32)", "gcsfuse": "open('bucket/mounted', 'w')", "fusermount": "os.remove('bucket/mounted')"}


def make_mounts(stand_ins) -> None:
    for name, code in MOUNTS.items():
        stand_ins.make(name, code)
    stand_ins.make("gcloud", REMOTE)
    stand_ins.make("python3")


def test_a_machine_that_was_started_anew_mounts_the_bucket_again_before_it_runs(stand_ins, home):
    make_mounts(stand_ins)
    (setup,) = tpu_vm.setup(SLICE, tpu_vm.Provision("bert-jax", mount="gs://my-bucket/runs"))
    (home / "venv/bin/python").touch(mode=0o755)
    assert subprocess.run(setup.argv).returncode == 0
    (home / "bucket/mounted").unlink()
    (home / "do").write_text("assert os.path.exists('bucket/mounted')")
    assert tpu_vm.run(SLICE, PAYLOAD, retries=0, recreate=None, execute=True) == 0
    first, again = stand_ins.calls("gcsfuse")
    assert first == again == ["gcsfuse", "--implicit-dirs", "--metadata-cache-ttl-secs=0", "--metadata-cache-negative-ttl-secs=0", "--only-dir", "runs", "my-bucket", "bucket"]
    (home / "bucket/mounted").unlink()
    stand_ins.make("gcsfuse", "sys.exit(1)")
    assert tpu_vm.run(SLICE, PAYLOAD, retries=0, recreate=None, execute=True) in exit_codes.AGAIN and ran(home).count(PAYLOAD) == 1


@pytest.mark.parametrize("workdir", [["--workdir=bucket/large"], ["--workdir", "bucket/large"]])
def test_without_a_bucket_its_directory_is_not_written_to(workdir, stand_ins, home, capfd):
    make_mounts(stand_ins)
    assert tpu_vm.run(SLICE, ["pretrain", "--config=bert_large", *workdir], retries=0, recreate=None, execute=True) == 1
    assert "no bucket is mounted" in capfd.readouterr().err and not (home / "ran").exists()


def test_another_bucket_takes_the_place_of_the_first(stand_ins, home):
    make_mounts(stand_ins)
    (home / "venv/bin/python").touch(mode=0o755)
    for bucket in ("gs://my-bucket/runs", "gs://my-bucket/runs", "gs://another/runs"):
        (setup,) = tpu_vm.setup(SLICE, tpu_vm.Provision("bert-jax", mount=bucket))
        assert subprocess.run(setup.argv).returncode == 0
    assert [call[0] for call in stand_ins.calls("gcsfuse", "fusermount")] == ["gcsfuse", "fusermount", "gcsfuse"]
    assert stand_ins.calls("gcsfuse")[-1][-2:] == ["another", "bucket"]


def test_setup_copies_a_package_file_first(stand_ins, home, tmp_path):
    archive = tmp_path / "bert_jax-0.1.0-py3-none-any.whl"
    archive.write_text("")
    stand_ins.make("gcloud", REMOTE)
    stand_ins.make("python3")
    (home / "venv/bin/python").write_text("")
    (home / "venv/bin/python").chmod(0o755)
    assert main(["launch", "tpu-vm", "setup", *WHERE, f"--package={archive}", "--execute"]) == 0
    first, second = stand_ins.calls("gcloud")
    assert first == ["gcloud", "compute", "tpus", "tpu-vm", "scp", str(archive), "bert-large:", "--worker=all", "--zone=us-central2-b", "--project=my-project"]
    assert stand_ins.calls("python3")[-1][-1] == f"bert-jax[tpu] @ file://{home.parent}/{archive.name}"
    assert not stand_ins.calls("gcsfuse", "sudo")


def test_setup_stops_at_the_first_error(stand_ins, home):
    stand_ins.make("gcloud", REMOTE)
    stand_ins.make("python3", "sys.exit(4)")
    (setup,) = tpu_vm.setup(SLICE, tpu_vm.Provision("bert-jax==0.1.0", "gs://my-bucket/store"))
    assert subprocess.run(setup.argv).returncode == 4
    assert stand_ins.calls("python3") and not [call for call in stand_ins.calls("gcloud") if "storage" in call]


@pytest.mark.parametrize("status", [0, 1, 75, 134])
def test_a_run_shows_its_own_lines_and_returns_its_status(status, stand_ins, home):
    (home / "run.log").write_text("of an earlier run\n")
    (home / "do").write_text(f"print('first'); print('last', file=sys.stderr); sys.exit({status})")
    result = subprocess.run(["bash", "-c", worker.remote_command(worker.RUN, "pretrain")], capture_output=True, text=True)
    assert result.returncode == status
    assert sorted(result.stdout.splitlines()) == ["first", "last"]
    assert (home / "run.log").read_text().startswith("of an earlier run\n")


SAVES = "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'saving\\n'), time.sleep(1), sys.exit(75))); print('up', flush=True); time.sleep(60)"


def started(home: Path, **options) -> subprocess.Popen:
    process = subprocess.Popen(["bash", "-c", worker.remote_command(worker.RUN, "pretrain")], stdout=subprocess.PIPE, text=True, **options)
    assert process.stdout.readline() == "up\n"
    return process


def test_a_run_left_by_a_broken_connection_saves_before_the_next_begins(stand_ins, home):
    (home / "do").write_text(SAVES)
    first = started(home)
    (home / "do").write_text("print('second')")
    second = subprocess.run(["bash", "-c", worker.remote_command(worker.RUN, "pretrain")], capture_output=True, text=True)
    assert (second.returncode, second.stdout) == (0, "second\n") and "an earlier run is alive" in second.stderr
    assert first.communicate(timeout=20)[0].startswith("saving") and first.returncode == 75


@pytest.mark.parametrize("how", ["stop", "TERM", "HUP"])
@pytest.mark.parametrize("times", [1, 2])
def test_stopping_saves(times, how, stand_ins, home):
    (home / "do").write_text(SAVES)
    process = started(home)
    for _ in range(times):
        if how == "stop":
            assert subprocess.run(["bash", "-c", worker.remote_command(worker.STOP)]).returncode == 0
        else:
            process.send_signal(getattr(signal, "SIG" + how))
        assert process.stdout.readline() == "saving\n"
    assert process.wait(timeout=20) == 75


def test_stop_harms_nobody_when_nothing_runs(stand_ins, home):
    with subprocess.Popen(["sleep", "60"]) as other:
        (home / "pid").write_text(str(other.pid))  # of a run that ended; the number went to another process
        assert subprocess.run(["bash", "-c", worker.remote_command(worker.STOP)]).returncode == 0
        other.kill()
        assert other.wait() == -signal.SIGKILL  # and not SIGTERM, which would have come first


def relaunch(statuses: list[int], *, gone=(), retries: int = 5, recovers: bool = True, stopping: bool = False) -> tuple[int, int]:
    """The result, and how many launches there were; `gone`: after which launches the machines are gone."""
    launches = []

    def launch():
        launches.append(statuses[len(launches)])
        return launches[-1]

    status = relaunch_until_done(
        launch, lambda: len(launches) in gone, lambda: recovers, lambda: stopping, retries=retries, pause=1.0, sleep=lambda seconds: None
    )
    return status, len(launches)


def test_relaunching_goes_on_after_saving_disconnection_and_preemption_only():
    assert relaunch([0]) == (0, 1)
    assert relaunch([75, 75, 0]) == (0, 3)
    assert relaunch([69, 70, 71, 79, 0]) == (0, 5)
    assert relaunch([73, 0]) == (73, 1)
    assert relaunch([255, 0]) == (0, 2)
    assert relaunch([1, 0]) == (1, 1)
    assert relaunch([134, 0]) == (134, 1)
    assert relaunch([134, 0], gone=[1]) == (0, 2)
    assert relaunch([75, 0], gone=[1], recovers=False) == (75, 1)
    assert relaunch([75] * 9, retries=3) == (75, 4)
    assert relaunch([75, 0], stopping=True) == (75, 1)


SCRIPTED = """
script = json.load(open({script!r}))
kind = next(word for word in ("describe", "ssh", "create", "delete", "scp") if word in sys.argv)
answer = script[kind].pop(0) if len(script[kind]) > 1 else script[kind][0]
json.dump(script, open({script!r}, "w"))
if isinstance(answer, str): print(answer)
sys.exit(answer if isinstance(answer, int) else 0)
"""


def run_scripted(stand_ins, tmp_path, *, recreate: bool, **script) -> tuple[int, list[str]]:
    """`tpu-vm run` against a gcloud that answers as scripted, the last answer for ever; the status and the order of calls."""
    path = tmp_path / "script"
    path.write_text(json.dumps({"create": [0], "delete": [0], "scp": [0]} | script))
    stand_ins.make("gcloud", SCRIPTED.format(script=str(path)))
    options = (tpu_vm.Request("v4-32", "tpu-ubuntu2204-base", spot=True), tpu_vm.Provision("bert-jax==0.1.0")) if recreate else None
    status = tpu_vm.run(SLICE, PAYLOAD, retries=4, recreate=options, execute=True, sleep=lambda seconds: None)
    return status, [call[4] + (" setup" if "uv" in call[-2] else "") for call in stand_ins.calls("gcloud")]


def test_a_spot_slice_is_made_anew_only_when_asked(stand_ins, tmp_path):
    states = ["SUSPENDED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    status, calls = run_scripted(stand_ins, tmp_path, recreate=True, ssh=[255, 0, 0], describe=states)
    assert status == 0
    assert calls == ["ssh", "describe", "delete", "create", "describe", "describe", "describe", "ssh setup", "ssh"]


def test_a_slice_taken_away_while_it_is_set_up_is_made_anew_once_more(stand_ins, tmp_path):
    states = ["SUSPENDED", "ACTIVE", "ACTIVE", "SUSPENDED", "ACTIVE"]
    status, calls = run_scripted(stand_ins, tmp_path, recreate=True, ssh=[255, 1, 1, 0, 0], describe=states)
    assert status == 0
    made = ["delete", "create", "describe"]
    assert calls == ["ssh", "describe", *made, "ssh setup", "describe", "ssh setup", "describe", *made, "ssh setup", "ssh"]


def test_a_network_that_fails_for_a_while_does_not_end_it(stand_ins, tmp_path):
    status, calls = run_scripted(stand_ins, tmp_path, recreate=False, ssh=[255, 0], describe=[1, 1, 1, "ACTIVE"])
    assert (status, calls) == (0, ["ssh", *["describe"] * 4, "ssh"])


def test_what_no_other_try_can_help_is_told_at_once(stand_ins, tmp_path):
    stand_ins.make("gcloud", "print('ERROR: (gcloud) NOT_FOUND: no such thing', file=sys.stderr); sys.exit(1)")
    with pytest.raises(RuntimeError, match="queued resource bert-large"):
        tpu_vm.read_state(SLICE, lambda seconds: None)
    assert len(stand_ins.calls()) == 1


def test_the_end_says_that_the_slice_still_costs_money(stand_ins, tmp_path, capsys):
    assert run_scripted(stand_ins, tmp_path, recreate=False, ssh=[0], describe=["ACTIVE"]) == (0, ["ssh"])
    assert "costs money until" in capsys.readouterr().err


def test_without_recreate_nothing_is_created_or_deleted(stand_ins, tmp_path, capsys):
    assert run_scripted(stand_ins, tmp_path, recreate=False, ssh=[255], describe=["SUSPENDED"]) == (255, ["ssh", "describe"])
    assert "--recreate" in capsys.readouterr().err


def test_a_request_that_fails_ends_it(stand_ins, tmp_path, capsys):
    status, calls = run_scripted(stand_ins, tmp_path, recreate=True, ssh=[75], describe=["SUSPENDED", "FAILED"])
    assert (status, calls) == (75, ["ssh", "describe", "delete", "create", "describe"])
    assert "is FAILED" in capsys.readouterr().err


def test_an_active_slice_is_run_again_and_an_error_is_not(stand_ins, tmp_path):
    assert run_scripted(stand_ins, tmp_path, recreate=True, ssh=[75, 255, 1], describe=["ACTIVE"]) == (1, ["ssh", "describe"] * 3)


def test_a_slice_that_gcloud_does_not_know_ends_it_in_words(stand_ins, tmp_path):
    with pytest.raises(RuntimeError, match="queued resource bert-large"):
        run_scripted(stand_ins, tmp_path, recreate=True, ssh=[75], describe=[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_saves_and_ends_without_relaunch(number, stand_ins, home):
    stand_ins.make("gcloud", REMOTE)
    (home / "do").write_text(SAVES)
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.cli", "launch", "tpu-vm", "run", *WHERE, "--execute", "--", *PAYLOAD], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    while process.stdout.readline() != "up\n":
        time.sleep(0.01)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and "saving" in output
    assert "asking the run to save and stop" in errors
    assert ran(home) == [PAYLOAD]
