"""`launch slurm`: the batch script, and what it does when run with stand-ins for Slurm's programs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import main
from launch.launchers.slurm import Job, batch_script, seconds_of, submit
from launch.launchers.steps import run_steps
from tests.launch.launchers.conftest import HOSTILE

SIZE = ["--nodes=2", "--gpus-per-node=8", "--cpus-per-node=96", "--time=24:00:00"]
PAYLOAD = ["pretrain", "--config=bert_large", "--workdir=runs/large", "--config.data.path=/local/store"]
# As srun: runs the program once, returns its status, and on SIGTERM kills it ("forcing job termination" in src/srun/signals.c).
SRUN = """
import signal, subprocess
words = sys.argv[1:]
while words[0].startswith("--"): words.pop(0)
child = subprocess.Popen(words)
open({task!r}, "w").write(str(child.pid))
signal.signal(signal.SIGTERM, lambda *_: child.kill())
sys.exit(child.wait() % 256)
"""
SAVES = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit(75))); print('up', flush=True); time.sleep(60)"


def make_job(shared: Path, **changes) -> Job:
    return Job(**({"name": "large", "directory": str(shared), "nodes": 2, "gpus_per_node": 4, "tasks": "per-node", "time": "1:00:00", "cpus_per_node": 32} | changes))


def run_script(job: Job, payload: list[str], stand_ins, *, do: str = "", state: str = "RUNNING", restarted: int = 0, **options) -> subprocess.Popen:
    """Starts the batch script as Slurm does; the bert-jax that it finds notes its arguments and devices, then does `do`."""
    task = str(stand_ins.directory / "task")
    stand_ins.make("srun", SRUN.format(task=task))
    stand_ins.make("scancel", f"import signal; os.kill(int(open({task!r}).read()), signal.SIGTERM)")
    stand_ins.make("squeue", f"print({state!r})")
    program = Path(job.directory) / "venv/bin/bert-jax" if job.package else stand_ins.directory / "bert-jax"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(
        f"#!{sys.executable} -IS\nimport json, os, signal, sys, time\n"
        f"json.dump([sys.argv[1:], os.environ.get('JAX_LOCAL_DEVICE_IDS')], open({str(stand_ins.directory / 'ran')!r}, 'w'))\n{do}\n"
    )
    program.chmod(0o755)
    script = stand_ins.directory / "script"
    script.write_text(batch_script(job, payload))
    slurm = {"SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "32", "SLURM_RESTART_COUNT": str(restarted)}
    return subprocess.Popen(["bash", str(script)], cwd=job.directory, env=os.environ | slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def ran(stand_ins) -> list:
    return json.loads((stand_ins.directory / "ran").read_text())


@pytest.mark.parametrize(
    "options, name",
    [
        ([], "plain"),
        (["--tasks=per-gpu", "--partition=gpu", "--account=lab", "--qos=long", "--notice=120", "--restarts=3"], "per_gpu"),
        (["--package=git+https://github.com/me/bert_jax@v1", "--store=/shared/store", "--local-store=/local/store"], "setup"),
    ],
)
def test_the_printed_script_is_golden_and_valid_shell(options, name, stand_ins, golden, capsys):
    assert main(["launch", "slurm", "bert-large", *SIZE, "--directory=/shared/me", *options, "--", *PAYLOAD]) == 0
    shown = capsys.readouterr().out
    golden(f"slurm_{name}.txt", shown)
    subprocess.run(["bash", "-n"], input=shown, text=True, check=True)
    script = shown.partition("<<'EOF'\n")[2].partition("\nEOF\n")[0]
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert not stand_ins.calls()


@pytest.mark.parametrize(
    ("limit", "seconds"), [("5", 300), ("5:30", 330), ("24:00:00", 86400), ("2-0", 172800), ("1-2:03", 93780), ("1-2:03:04", 93784)],
)
def test_time_limits_are_read_as_slurm_reads_them(limit, seconds):
    assert seconds_of(limit) == seconds


def test_the_script_is_written_and_submitted(stand_ins, tmp_path):
    directory = tmp_path / "it's $HOME"
    directory.mkdir()
    assert run_steps(submit(make_job(directory), PAYLOAD), execute=True) == 0
    assert stand_ins.calls() == [["sbatch", f"--chdir={directory}", f"{directory}/large.sbatch"]]
    assert (directory / "large.sbatch").read_text() == batch_script(make_job(directory), PAYLOAD)


def test_hostile_arguments_arrive_byte_for_byte(stand_ins, tmp_path):
    process = run_script(make_job(tmp_path), ["pretrain", *HOSTILE], stand_ins)
    assert process.wait(timeout=30) == 0
    assert ran(stand_ins)[0] == ["pretrain", *HOSTILE]
    assert not list(tmp_path.rglob("owned"))


@pytest.mark.parametrize(
    "tasks, number, cpus, devices", [("per-node", 1, 32, "0,1,2,3"), ("per-gpu", 4, 8, None)],
)
def test_a_task_has_all_gpus_of_its_node_or_one(tasks, number, cpus, devices, stand_ins, tmp_path):
    job = make_job(tmp_path, tasks=tasks)
    text = batch_script(job, PAYLOAD)
    for directive in (f"--ntasks-per-node={number}", f"--cpus-per-task={cpus}", "--gpus-per-node=4", "--nodes=2"):
        assert f"#SBATCH {directive}\n" in text
    assert run_script(job, PAYLOAD, stand_ins).wait(timeout=30) == 0
    assert ran(stand_ins) == [PAYLOAD, devices]


@pytest.mark.parametrize(
    "do, state, restarted, status, queued_again",
    [
        ("sys.exit(0)", "RUNNING", 0, 0, False),
        ("sys.exit(75)", "RUNNING", 0, 0, True),
        ("sys.exit(75)", "RUNNING", 4, 0, True),
        ("sys.exit(75)", "RUNNING", 5, 75, False),  # as often as allowed
        ("sys.exit(75)", "CANCELLED", 0, 75, False),  # a person ended it
        ("sys.exit(75)", "PREEMPTED", 0, 75, False),  # Slurm queues it again itself
        ("sys.exit(70)", "RUNNING", 0, 0, True),  # hung
        ("sys.exit(1)", "RUNNING", 0, 1, False),
        ("sys.exit(73)", "RUNNING", 0, 73, False),  # the disk is full
        ("os.kill(os.getpid(), 9)", "RUNNING", 0, None, False),
    ],
)
def test_only_a_run_that_may_go_on_is_queued_again(do, state, restarted, status, queued_again, stand_ins, tmp_path):
    process = run_script(make_job(tmp_path, restarts=5), PAYLOAD, stand_ins, do=do, state=state, restarted=restarted)
    ended = process.wait(timeout=30)
    assert ended == status if status is not None else ended not in (0, 75)
    assert stand_ins.calls("scontrol") == [["scontrol", "requeue", "17"]] * queued_again


def test_the_notice_before_the_time_limit_saves_and_queues_again(stand_ins, tmp_path):
    assert "#SBATCH --signal=TERM@300\n" in batch_script(make_job(tmp_path), PAYLOAD)  # to the tasks; with B: to the script, whose srun may not have it
    process = run_script(make_job(tmp_path), PAYLOAD, stand_ins, do=SAVES)
    assert process.stdout.readline() == "up\n"
    os.kill(int((stand_ins.directory / "task").read_text()), signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert stand_ins.calls("scontrol") == [["scontrol", "requeue", "17"]]


def test_a_person_can_stop_a_job_saved_and_it_is_not_queued_again(stand_ins, tmp_path):
    process = run_script(make_job(tmp_path), PAYLOAD, stand_ins, do=SAVES)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=30) == 75
    assert stand_ins.calls("scancel", "scontrol") == [["scancel", "--signal=TERM", "17"]]


def test_the_package_is_installed_once_and_the_store_copied_whole(stand_ins, tmp_path):
    shared, local = tmp_path / "shared $HOME", tmp_path / "local it's"
    (shared / "store").mkdir(parents=True)
    (shared / "store/tokens.npy").write_text("tokens")
    (tmp_path / "local it's").mkdir()
    (local / "store.partial").mkdir()
    (local / "store.partial/left behind").write_text("")
    stand_ins.make("python3", "pass")
    python = shared / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!{sys.executable} -IS\nimport sys; open('installed', 'a').write(sys.argv[-1] + '\\n')\n")
    python.chmod(0o755)
    job = make_job(shared, package="bert-jax==0.1.0", store=str(shared / "store"), local_store=str(local / "store"))
    for _ in range(2):
        process = run_script(job, PAYLOAD, stand_ins)
        assert process.wait(timeout=30) == 0, process.stdout.read()
    assert (shared / "installed").read_text() == "bert-jax[gpu]==0.1.0\n"
    assert stand_ins.calls("python3") == [["python3", "-m", "venv", "--clear", "venv"]]
    assert [path.name for path in local.iterdir()] == ["store"] and [path.name for path in (local / "store").iterdir()] == ["tokens.npy"]
    assert ran(stand_ins)[0] == PAYLOAD


def test_a_store_in_a_bucket_is_fetched_with_gcloud(stand_ins, tmp_path):
    job = make_job(tmp_path, store="gs://my-bucket/store", local_store=str(tmp_path / "store"))
    assert run_script(job, PAYLOAD, stand_ins).wait(timeout=30) == 0
    assert stand_ins.calls("gcloud") == [["gcloud", "storage", "rsync", "--recursive", "gs://my-bucket/store", f"{tmp_path}/store.partial"]]


def test_an_installation_that_fails_ends_the_job(stand_ins, tmp_path):
    stand_ins.make("python3", "sys.exit(1)")
    process = run_script(make_job(tmp_path, package="bert-jax"), PAYLOAD, stand_ins)
    assert process.wait(timeout=30) == 1 and not (stand_ins.directory / "ran").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "x\n#SBATCH --uid=0"}, "the name"),
        ({"partition": "gpu --uid=0"}, "--partition"),
        ({"time": "1 hour"}, "--time"),
        ({"nodes": 0}, "--nodes=0"),
        ({"time": "1:00"}, "60 s as Slurm reads it"),  # a minute, though an hour was meant
        ({"time": "5"}, "--notice=300"),
        ({"directory": "here"}, "absolute path"),
        ({"store": "/shared/store"}, "--local-store"),
        ({"store": "store", "local_store": "/l"}, "--store"),
        ({"store": "/s", "local_store": "l"}, "--local-store"),
    ],
)
def test_what_could_break_the_script_is_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_job(tmp_path, **change)
