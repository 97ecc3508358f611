"""Runs `bert-jax` as several real processes, and records which rows each of them trained on.

As a program: `python -m tests.launch.processes COMMAND ...` is `bert-jax COMMAND ...`, with three variables: RECORD_ROWS, a directory for the hashes of the rows;
SECONDS_PER_BATCH, the least time that a batch takes; FAILING_SAVE, such as 1/2: process 1 cannot write its part of its second save.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL_FILES = 2**16
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
ENVIRONMENT = re.compile(r"(SLURM|OMPI|BERT_JAX|JAX)_(?!PLATFORMS)|XLA_FLAGS$")  # of the tests' own process, not for its children


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def by_options(port: int, count: int) -> list[tuple[list[str], dict[str, str]]]:
    """(options, variables) of each process."""
    return [([f"--coordinator=127.0.0.1:{port}", f"--num-processes={count}", f"--process-id={number}"], {}) for number in range(count)]


def by_variables(port: int, count: int) -> list[tuple[list[str], dict[str, str]]]:
    common = {"BERT_JAX_COORDINATOR": f"127.0.0.1:{port}", "BERT_JAX_NUM_PROCESSES": f"{count}"}
    return [([], common | {"BERT_JAX_PROCESS_ID": f"{number}"}) for number in range(count)]


def by_slurm(port: int, count: int) -> list[tuple[list[str], dict[str, str]]]:
    """As srun on one node sets them. JAX makes the port of the job's number, so the number is made of a port."""
    port = free_port_from(61440)
    common = {"SLURM_JOB_ID": f"{port - 61440}", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": f"{count}", "SLURM_STEP_TASKS_PER_NODE": f"{count}"}
    return [([], common | {"SLURM_PROCID": f"{number}", "SLURM_LOCALID": f"{number}", "SLURM_NODEID": "0"}) for number in range(count)]


def by_open_mpi(port: int, count: int) -> list[tuple[list[str], dict[str, str]]]:
    """As mpirun of OpenMPI 4 on one node sets them."""
    port = free_port_from(61440)
    common = {"OMPI_MCA_orte_hnp_uri": f"{(port - 61440) << 12}.0;tcp://127.0.0.1:40000", "OMPI_COMM_WORLD_SIZE": f"{count}", "OMPI_COMM_WORLD_LOCAL_SIZE": f"{count}"}
    return [([], common | {"OMPI_COMM_WORLD_RANK": f"{number}", "OMPI_COMM_WORLD_LOCAL_RANK": f"{number}"}) for number in range(count)]


def free_port_from(first: int) -> int:
    for port in range(first + os.getpid() % 2000, 65536):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


@dataclasses.dataclass
class Job:
    """The processes of one run, each with its output in a file."""

    processes: list[subprocess.Popen]
    outputs: list[Path]

    def text(self, number: int = 0) -> str:
        return self.outputs[number].read_text(errors="replace")

    def wait_for(self, words: str, number: int = 0, seconds: float = 300) -> None:
        """Until a process says the words; AssertionError with what it said instead."""
        deadline = time.monotonic() + seconds
        while words not in self.text(number):
            assert self.processes[number].poll() is None and time.monotonic() < deadline, f"never said {words!r}:\n{self.text(number)}"
            time.sleep(0.05)

    def end(self, seconds: float = 300) -> list[int]:
        """The exit statuses. Nothing is left running."""
        try:
            deadline = time.monotonic() + seconds
            return [process.wait(max(deadline - time.monotonic(), 0.1)) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
                process.wait()

    def check(self, status: int = 0) -> None:
        statuses = self.end()
        assert statuses == [status] * len(statuses), f"{statuses}:\n" + "\n---\n".join(self.text(number) for number in range(len(self.outputs)))


def start(directory: Path, *arguments: str, processes: int = 1, devices: int = 1, join=by_options, variables: dict[str, str] | None = None, program="processes") -> Job:
    """`bert-jax ARGUMENTS`, by `tests.launch.processes` or another program here, as so many processes of so many devices. Outputs go to `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    own = {name: value for name, value in os.environ.items() if not ENVIRONMENT.match(name)}
    own |= {"XLA_FLAGS": f"{QUICK} --xla_force_host_platform_device_count={devices}", "PYTHONPATH": str(ROOT)} | (variables or {})
    job = Job([], [])
    for number, (options, more) in enumerate(join(free_port(), processes) if processes > 1 else [([], {})]):
        output = directory / f"output_{len(list(directory.glob('output_*')))}_{number}.txt"
        command = [sys.executable, "-m", f"tests.launch.{program}", *arguments, *options]
        with open(output, "w") as file:
            job.processes.append(subprocess.Popen(command, cwd=ROOT, env=own | more, stdout=file, stderr=subprocess.STDOUT))
        job.outputs.append(output)
    return job


# ---- within the processes ----


def recording(make_source, directory: Path, seconds: float):
    """`make_source` whose sources write, for each training batch, the hash of every row they give, under its number in the global batch."""
    import jax
    import numpy as np

    from bert_jax.sharding import process_rows

    class Recorded:
        def __init__(self, source, rows):
            self.source, self.rows = source, rows

        def __getattr__(self, name):
            return getattr(self.source, name)

        def batches(self, start_step, stop_step=None):
            with open(directory / f"rows_{os.getpid()}_{jax.process_index()}.jsonl", "a", buffering=1) as file:
                for step, batch in enumerate(self.source.batches(start_step, stop_step), start_step):
                    hashes = [
                        hashlib.sha256(b"".join(np.ascontiguousarray(batch[name][row]).tobytes() for name in sorted(batch))).hexdigest()
                        for row in range(len(self.rows))
                    ]
                    assert len(batch["example_ids"]) == len(self.rows)
                    file.write(json.dumps([step, dict(zip(self.rows.tolist(), hashes))]) + "\n")
                    time.sleep(seconds)
                    yield batch

    def make(config, data, mesh, **settings):
        source = make_source(config, data, mesh, **settings)
        if settings.get("split", "train") != "train" or mesh is None:
            return source
        return Recorded(source, process_rows(mesh, config["batch_size"]))

    return make


def recorded_rows(directory: Path) -> dict[int, dict[int, str]]:
    """step -> row of the global batch -> hash, over all processes and sessions; AssertionError if two of them differ."""
    steps: dict[int, dict[int, str]] = {}
    for path in sorted(directory.glob("rows_*.jsonl")):
        for line in path.read_text().splitlines():
            step, rows = json.loads(line)
            held = steps.setdefault(step, {})
            for row, digest in rows.items():
                assert held.setdefault(int(row), digest) == digest, f"row {row} of step {step} is not the same everywhere"
    return steps


def failing_once(save, number: int, which: int):
    """Orbax's asynchronous `save`, in whose call number `which`, from 1, process `number` can write no file of more than SMALL_FILES bytes, until its error is asked for."""
    calls = itertools.count(1)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def failing(*arguments):
        import jax

        if next(calls) != which or jax.process_index() != number:
            return save(*arguments)
        limit(SMALL_FILES)
        response = save(*arguments)

        def result():
            try:
                return response.result()
            finally:
                limit(resource.RLIM_INFINITY)

        return types.SimpleNamespace(result=result)

    return failing


if __name__ == "__main__":
    from launch.cli import command_line

    if "FAILING_SAVE" in os.environ:
        from bert_jax.training import checkpoint

        checkpoint.ORPHANED = 2.0
        checkpoint.ocp.save_checkpointables_async = failing_once(checkpoint.ocp.save_checkpointables_async, *map(int, os.environ["FAILING_SAVE"].split("/")))

    if "RECORD_ROWS" in os.environ and sys.argv[1] == "pretrain":
        import launch.pretrain

        launch.pretrain.make_source = recording(launch.pretrain.make_source, Path(os.environ["RECORD_ROWS"]), float(os.environ.get("SECONDS_PER_BATCH", 0)))
    command_line()
