"""An sbatch script for several GPU nodes: installs, fetches the store to the nodes' own disks, runs one JAX program on all, and queues itself again when it may go on (`exit_codes.AGAIN`).

JAX finds coordinator and ranks in Slurm's variables. It would give each task one device, the one numbered by its place on the node, so that a task which is to have
all GPUs of its node must be told so (`JAX_LOCAL_DEVICE_IDS`).
"""

import dataclasses
import shlex
from pathlib import Path

from launch.exit_codes import AGAIN
from launch.launchers.steps import Command, File, Step, check_name, check_words
from launch.launchers.worker import BUCKET, WAIT, read_package

BODY = """\
set -u
export SLURM_EXPORT_ENV=ALL  # the steps get this script's environment, which is not that of the shell which submitted it
"""

INSTALL = """\
(
  flock 9
  if [ "$(cat venv/requirement 2> /dev/null)" != "$requirement" ]; then
    "$python" -m venv --clear venv && venv/bin/python -m pip install --quiet "$requirement" && printf %s "$requirement" > venv/requirement
  fi
) 9> setup.lock || exit 1
"""

FETCH = """\
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 bash -c '
  set -eu
  if [ ! -d "$2" ]; then
    rm -rf "$2.partial"
    mkdir -p "$2.partial"
    case $1 in
      gs://*) gcloud storage rsync --recursive "$1" "$2.partial" ;;
      *) cp --archive "$1/." "$2.partial" ;;
    esac
    mv "$2.partial" "$2"
  fi
' fetch "$store" "$local_store" || exit 1
"""

RUN = """\
# A task that ends does not end the others at once: they may be saving. Ten minutes later Slurm ends them.
srun --kill-on-bad-exit=0 --wait=600 --gpu-bind=none --cpus-per-task="$SLURM_CPUS_PER_TASK" "${command[@]}" &
pid=$!
# The notice before the time limit goes to the tasks themselves. srun must not get it: it would kill them.
stopped=
trap 'stopped=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1  # a person's wish: scancel --batch --signal=USR1 JOB
""" + WAIT + f"""\
case " {' '.join(map(str, AGAIN))} " in *" $status "*) again=1 ;; *) again= ;; esac
if [ "$again" ] && [ -z "$stopped" ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt "$restarts" ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
  echo "status $status: queued again"
  scontrol requeue "$SLURM_JOB_ID" && exit
fi
exit "$status"
"""


@dataclasses.dataclass(frozen=True)
class Job:
    """What to ask Slurm for, and what to set up. Times in Slurm's words ("24:00:00"); `notice` in seconds before the time limit."""

    name: str
    directory: str  # that all nodes share
    nodes: int
    gpus_per_node: int
    tasks: str  # per-node or per-gpu
    time: str
    cpus_per_node: int
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    notice: int = 300
    restarts: int = 100
    package: str | None = None
    python: str = "python3"
    store: str | None = None
    local_store: str | None = None

    def __post_init__(self):
        check_name("the name", self.name, r"[A-Za-z][A-Za-z0-9._-]*", "bert-large")
        check_name("--time", self.time, r"[0-9]+(-[0-9]{1,2})?(:[0-9]{1,2}){0,2}", "24:00:00 or 2-0")
        for option in ("partition", "account", "qos"):
            if (value := getattr(self, option)) is not None:
                check_name(f"--{option}", value, r"[A-Za-z0-9_][A-Za-z0-9_.,-]*", "gpu")
        for option, least in (("nodes", 1), ("gpus_per_node", 1), ("cpus_per_node", 1), ("notice", 1), ("restarts", 0)):
            if getattr(self, option) < least:
                raise ValueError(f"--{option.replace('_', '-')}={getattr(self, option)}: give at least {least}")
        if seconds_of(self.time) <= self.notice:
            raise ValueError(f"--time={self.time} is {seconds_of(self.time):,} s as Slurm reads it, no longer than --notice={self.notice}; an hour is 1:00:00")
        if not Path(self.directory).is_absolute():
            raise ValueError(f"--directory={self.directory}: give an absolute path, which all nodes share")
        if (self.store is None) != (self.local_store is None):
            raise ValueError("--store and --local-store belong together: where the token store is, and where on each node's own disk it goes")
        if self.store is not None and not Path(self.store).is_absolute():
            check_name("--store", self.store, BUCKET, "/shared/store or gs://my-bucket/store")
        if self.local_store is not None and not Path(self.local_store).is_absolute():
            raise ValueError(f"--local-store={self.local_store}: give an absolute path")


def seconds_of(limit: str) -> int:
    """Of a time limit in Slurm's words: MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS and on to DAYS-HOURS:MINUTES:SECONDS."""
    days, dash, rest = limit.rpartition("-")
    numbers = [int(number) for number in rest.split(":")]
    units = (3600, 60, 1) if dash or len(numbers) == 3 else (60, 1)
    return int(days or 0) * 86400 + sum(number * unit for number, unit in zip(numbers, units))


def batch_script(job: Job, payload: list[str]) -> str:
    check_words([*payload, job.directory, job.store or "", job.local_store or "", job.python])
    tasks = job.gpus_per_node if job.tasks == "per-gpu" else 1
    directives = {
        "job-name": job.name, "nodes": job.nodes, "ntasks-per-node": tasks, "gpus-per-node": job.gpus_per_node,
        "cpus-per-task": max(job.cpus_per_node // tasks, 1), "time": job.time,
        "partition": job.partition, "account": job.account, "qos": job.qos,
        "signal": f"TERM@{job.notice}", "open-mode": "append", "output": "%x-%j.log", "export": "NONE",
    }
    lines = ["#!/bin/bash"]
    lines += [f"#SBATCH --{name}={value}" for name, value in directives.items() if value is not None]
    lines += ["#SBATCH --requeue", "", BODY.rstrip()]
    program = "bert-jax"
    if job.package is not None:
        package = read_package(job.package, "gpu")
        requirement = package.requirement or f"bert-jax[gpu] @ {package.archive.as_uri()}"
        lines += ["", f"python={shlex.quote(job.python)}", f"requirement={shlex.quote(requirement)}", INSTALL.rstrip()]
        program = "venv/bin/bert-jax"
    if job.store is not None:
        lines += ["", f"store={shlex.quote(job.store)}", f"local_store={shlex.quote(job.local_store)}", FETCH.rstrip()]
    if job.tasks == "per-node":
        lines += ["", "# one task per node, with all its GPUs", f"export JAX_LOCAL_DEVICE_IDS={','.join(map(str, range(job.gpus_per_node)))}"]
    else:
        lines += ["", "# one task per GPU: each takes the GPU numbered by its place on the node (SLURM_LOCALID)"]
    lines += ["", f"restarts={job.restarts}", f"command=({' '.join(shlex.quote(word) for word in [program, *payload])})", RUN]
    return "\n".join(lines)


def submit(job: Job, payload: list[str]) -> list[Step]:
    path = Path(job.directory) / f"{job.name}.sbatch"
    return [
        File("the batch script", path, batch_script(job, payload)),
        Command("hand it to Slurm", ("sbatch", f"--chdir={job.directory}", str(path))),
    ]
