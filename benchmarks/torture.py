"""A small run under random faults: killed, stopped, frozen, its newest checkpoint damaged, its disk full or read-only. It must end as if nothing had been.

    python benchmarks/torture.py [--faults 100] [--minutes 60] [--processes 1] [--seed 0] [--steps 500] [--data RECORDED] [--directory DIR]

First the run is made once undisturbed. Then it is made again, with a fault at a drawn moment, in the start or some steps after it, and started anew when it has left, until it has
finished; that is a round. There are rounds until there have been so many faults, or so many minutes have passed. Each must end with the same bits in all parameters and
moments, whole checkpoints, and every step logged once with the same loss as in the undisturbed run; and each process must leave with a documented status, in time.

The text is English that comes with Python, recorded once, unless --data names recorded batches. Full and read-only disks need the right to mount (root). The schedule follows from the
seed; the moments within a step depend on the machine. The exit status is 1 if anything was not as it must be, with the last words of the run.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["JAX_PLATFORMS"] = "cpu"

from torture_faults import PEER_LEFT, ROOT, Fault, Job, Tortured, faults, small_disk

from bert_jax.training.checkpoint_files import CheckpointFiles

SMALL = [
    "--config=configs/quickstart.py", "--config.batch_size=8", "--config.length=32", "--config.masking.rate=0.15", "--config.masking.predictions=6",
    "--config.model.hidden_size=32", "--config.model.intermediate_size=64", "--config.model.max_positions=64", "--config.model.dropout=0.1", "--config.log_every=1",
    "--config.bad_steps.loss_times=1.1",  # skips some steps
]
LATE_STEPS = 40  # a fault comes up to so many steps after a start
EARLY = 0.2  # the share of faults that come before the first step
BY_ITSELF = "(left by itself)"
LINGERS = 60.0  # seconds, at most, that processes are there after they have said that the run has ended
RECORDED = 256  # batches, which come again and again


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500, help="of the run")
    parser.add_argument("--data", type=Path, help="recorded batches (bert-jax record); made if there are none")
    parser.add_argument("--directory", type=Path, help="where all is kept; a temporary one if not given")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as opened:
        directory = options.directory or Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="torture-")))
        directory = directory.absolute()
        disk = opened.enter_context(small_disk(directory / "disk"))
        print(f"in {directory}" + ("" if disk else "; no right to mount, so no full and no read-only disk"), flush=True)
        torture = Torture(options, directory, disk, opened)
        try:
            torture.run()
        except Tortured as error:
            print(f"FAILED after {torture.count} faults: {error}", flush=True)
            return 1
        finally:
            print(torture.table(), flush=True)
    return 0


class Torture:
    """opened: closed when all is over; what is still running is ended then. disk: whether directory/disk is one of its own."""

    def __init__(self, options: argparse.Namespace, directory: Path, disk: bool, opened: contextlib.ExitStack):
        self.options, self.directory, self.opened = options, directory, opened
        self.draw = random.Random(options.seed)
        self.kinds = faults(options.processes, disk)
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(directory / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1", "BERT_JAX_START_TIMEOUT": "90",
        }
        self.happened: list[tuple[str, str, float]] = []  # fault, statuses, seconds until all had left (0 if it lived on)
        self.jobs: list[Job] = []
        self.rounds = 0
        self.began = time.monotonic()

    def run(self) -> None:
        data = self.options.data.absolute() if self.options.data else self.record()
        command = ["pretrain", *SMALL, f"--config.steps={self.options.steps}", "--config.checkpoint.every=10", "--hang-timeout=60", f"--config.data.path={data}"]
        self.undisturbed = self.job("undisturbed", command)
        self.undisturbed.start()
        came = self.undisturbed.wait_for(lambda: self.undisturbed.step() > 0)
        self.start_seconds = time.monotonic() - self.undisturbed.began
        if not came or set(self.undisturbed.to_the_end()) != {0}:
            raise Tortured(f"the undisturbed run fails\n{self.undisturbed.said()}")
        self.began = time.monotonic()
        while not self.enough():
            self.rounds += 1
            job = self.job(f"round-{self.rounds}", command)
            self.round(job)
            self.compare(job)

    def record(self) -> Path:
        """Recorded batches, so that a start costs no TensorFlow."""
        root = self.directory / "data"
        for words in (
            ["tokenizer", "--input=embedded", "--vocab-size=1000", f"--output={root / 'tokenizer'}"],
            ["prepare", "--input=embedded", f"--tokenizer={root / 'tokenizer'}", f"--output={root / 'store'}"],
            ["record", *SMALL, f"--config.data.path={root / 'store'}", f"--batches={RECORDED}", f"--output={root / 'recorded'}"],
        ):
            if not (root / words[-1].rpartition("/")[2]).exists():
                subprocess.run([sys.executable, "-m", "launch.cli", *words], cwd=ROOT, env=self.environment, check=True, capture_output=True)
        return root / "recorded"

    def job(self, name: str, command: list[str]) -> Job:
        job = Job(self.directory / "disk" / name, self.directory / name, command, self.options.processes, self.environment)
        self.opened.callback(job.kill)
        self.jobs.append(job)
        return job

    @property
    def count(self) -> int:
        return sum(name != BY_ITSELF for name, _, _ in self.happened)

    def enough(self) -> bool:
        return self.count >= self.options.faults or time.monotonic() - self.began > 60 * self.options.minutes

    def round(self, job: Job) -> None:
        """One run to its end, with as many faults as come."""
        job.start()
        while not self.enough():
            fault = self.draw.choice(self.kinds)
            if self.moment(job, fault):
                self.suffer(job, fault)
            elif self.ended(job):
                return
        while not self.ended(job):
            pass

    def ended(self, job: Job) -> bool:
        """Of a run that leaves by itself: whether it is at its end. If not it is started anew: on a busy machine processes may take each other for dead."""
        statuses = job.to_the_end()
        if set(statuses) == {0}:
            if (late := job.lateness()) > LINGERS:
                raise Tortured(f"{late:.0f} s passed between the run's end and that of its processes\n{job.said()}")
            return True
        if not set(statuses) <= PEER_LEFT:
            raise Tortured(f"the run left by itself with {statuses}\n{job.said()}")
        self.happened.append((BY_ITSELF, ", ".join(map(str, statuses)), 0.0))
        print(f"{'':12} round {self.rounds}  step {job.step():5}  {BY_ITSELF}: {statuses}", flush=True)
        job.start()
        return False

    def moment(self, job: Job, fault: Fault) -> bool:
        """Waits for it; whether it came before the run's end."""
        if fault.early and self.draw.random() < EARLY:
            at = job.began + self.draw.uniform(0, self.start_seconds)
            return job.wait_for(lambda: time.monotonic() >= at) and job.running()
        target = job.step() + self.draw.randint(1, LATE_STEPS)
        came = job.wait_for(lambda: job.step() >= target and len(job.whole()) >= fault.whole)
        time.sleep(self.draw.uniform(0, 0.2))  # somewhere in steps and saves
        return came and job.running()

    def suffer(self, job: Job, fault: Fault) -> None:
        at, began = job.step(), time.monotonic()
        did = fault.do(job, self.draw)
        after = job.step()
        lives = fault.survives and job.wait_for(lambda: job.step() > after)
        seconds, said = 0.0, "lives on"
        if not lives:
            statuses = job.end()
            seconds, said = time.monotonic() - began, ", ".join(map(str, statuses))
            if set(statuses) == {0}:
                return  # it was at its end
            if not set(statuses) <= fault.leaves:
                raise Tortured(f"{fault.name} ({did}) at step {at}: the run left with {said}\n{job.said()}")
            job.start()
        self.happened.append((fault.name, said, seconds))
        minutes, rest = divmod(int(time.monotonic() - self.began), 60)
        print(f"{self.count:4} of {self.options.faults}  {minutes:3}:{rest:02}  round {self.rounds}  step {at:5}  {fault.name} ({did}): {said}", flush=True)

    def compare(self, job: Job) -> None:
        """Tortured unless the two runs have ended alike."""
        mine, expected = (outcome(each.workdir) for each in (job, self.undisturbed))
        for name, value in expected.items():
            if mine[name] != value:
                different = [key for key in {*mine[name], *value} if mine[name].get(key) != value.get(key)] if isinstance(value, dict) else [mine[name]]
                raise Tortured(f"round {self.rounds} ended with other {name}: {sorted(different)[:5]}; what it said is in {job.output(0)}")
        print(f"      round {self.rounds} has ended with the bits of the undisturbed run after {job.starts} starts", flush=True)

    def table(self) -> str:
        """What happened, by fault."""
        by_name = defaultdict(list)
        for name, said, seconds in self.happened:
            by_name[name].append((said, seconds))
        lines = ["", "| fault | times | left with | seconds until all had left: median, most |", "|---|---|---|---|"]
        for name, each in sorted(by_name.items()):
            outcomes = ", ".join(f"{said} x{count}" for said, count in Counter(said for said, _ in each).most_common())
            took = [seconds for _, seconds in each if seconds]
            lines.append(f"| {name} | {len(each)} | {outcomes} | " + (f"{statistics.median(took):.1f}, {max(took):.1f} |" if took else "|"))
        minutes = (time.monotonic() - self.began) / 60
        return "\n".join([*lines, "", f"{self.count} faults, {sum(job.starts for job in self.jobs)} starts, {self.rounds} rounds of {self.options.steps} steps, {minutes:.0f} minutes"])


def outcome(workdir: Path) -> dict:
    """What must be the same: digests of all arrays at the last step, what was logged, and no damage or leftover among the checkpoints."""
    files = CheckpointFiles(workdir / "checkpoints")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = Counter((line["step"], line.get("loss")) for line in lines if line["split"] == "train")
    return {
        "digests": files.record(files.steps()[-1])["digests"], "losses": dict(logged), "damage": [files.damage(step) for step in files.steps()],
        "leftovers": [path.name for path in files.directory.iterdir() if not path.name.endswith(".damaged") and path not in map(files.path, files.steps())],
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is running is ended, and the disk unmounted
    sys.exit(main())
