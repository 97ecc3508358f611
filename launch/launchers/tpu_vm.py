"""TPU VMs through gcloud: a queued resource NAME with one node NAME, on all of whose workers the same is done.

Creating and deleting are commands of their own; `run` does them only with `--recreate`, when a spot slice was taken away.
"""

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable

from launch.exit_codes import AGAIN
from launch.launchers import worker
from launch.launchers.relaunch import relaunch_until_done, run_interruptibly, say
from launch.launchers.steps import Command, check_name, check_words, not_installed, run_steps, show

NAME = r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
TAKEN_AWAY = ("SUSPENDING", "SUSPENDED", "FAILED", "DELETING")
COMING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")
POLL = 60.0  # seconds
TRIES = 10  # of what needs the network, before a fault of it counts
FINAL = ("NOT_FOUND", "PERMISSION_DENIED", "INVALID_ARGUMENT", "gcloud auth login")  # in gcloud's words: no other try helps


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice by name, and how gcloud finds it."""

    name: str
    zone: str
    project: str | None = None

    def __post_init__(self):
        check_name("the name", self.name, NAME, "bert-large-1")
        check_name("--zone", self.zone, r"[a-z]+-[a-z]+[0-9]+-[a-z]", "us-central2-b")
        if self.project is not None:
            check_name("--project", self.project, r"[a-z0-9][a-z0-9.:-]{4,80}", "my-project-123")

    def gcloud(self, *words: str) -> tuple[str, ...]:
        return ("gcloud", "compute", "tpus", *words, f"--zone={self.zone}", *((f"--project={self.project}",) if self.project else ()))

    def on_all_workers(self, line: str) -> tuple[str, ...]:
        """`line` in the login shell of every worker at once. gcloud's status is that of the first worker, by number, that failed."""
        return self.gcloud("tpu-vm", "ssh", self.name, "--worker=all", f"--command={line}")


@dataclasses.dataclass(frozen=True)
class Request:
    """What to ask for: accelerator type (v4-32), runtime version (tpu-ubuntu2204-base), spot or not, and the workers' service account."""

    accelerator_type: str
    runtime_version: str
    spot: bool = False
    service_account: str | None = None

    def __post_init__(self):
        check_name("--accelerator-type", self.accelerator_type, r"v[0-9][a-z0-9]*-[0-9]+", "v4-32")
        check_name("--runtime-version", self.runtime_version, r"[a-z0-9][a-z0-9._-]+", "tpu-ubuntu2204-base")
        if self.service_account is not None:
            check_name("--service-account", self.service_account, r"[a-z0-9.-]+@[a-z0-9.-]+", "trainer@my-project.iam.gserviceaccount.com")


@dataclasses.dataclass(frozen=True)
class Provision:
    """What a worker is set up with: bert_jax, the store to fetch, the bucket to mount."""

    package: str
    store: str | None = None
    mount: str | None = None
    python: str = "3.11"


def create(where: Slice, request: Request) -> list[Command]:
    argv = where.gcloud(
        "queued-resources", "create", where.name, f"--node-id={where.name}", f"--accelerator-type={request.accelerator_type}",
        f"--runtime-version={request.runtime_version}", *(("--spot",) if request.spot else ()),
        *((f"--service-account={request.service_account}",) if request.service_account else ()),
    )
    return [Command(f"ask for {'spot ' if request.spot else ''}{request.accelerator_type}: it costs money from when it is ACTIVE until it is deleted", argv)]


def delete(where: Slice) -> list[Command]:
    return [Command(f"delete {where.name} and all that is on its disks", where.gcloud("queued-resources", "delete", where.name, "--force", "--quiet"))]


def setup(where: Slice, provision: Provision) -> list[Command]:
    package = worker.read_package(provision.package, "tpu")
    if provision.store is not None:
        worker.read_bucket("--store", provision.store)
    bucket, prefix = worker.read_bucket("--mount", provision.mount) if provision.mount else ("", "")
    check_name("--python", provision.python, r"3\.[0-9]+", "3.11")
    steps = []
    if package.archive:
        if ":" in str(package.archive):
            raise ValueError(f"package {package.archive}: gcloud would take the colon for a machine's name; move the file")
        steps.append(Command("copy the package to all workers", where.gcloud("tpu-vm", "scp", str(package.archive), f"{where.name}:", "--worker=all")))
    line = worker.remote_command(
        worker.SETUP, package.requirement, package.archive.name if package.archive else "", provision.store or "", bucket, prefix, provision.python
    )
    return [*steps, Command("install bert_jax on all workers, fetch the store, mount the bucket", where.on_all_workers(line))]


def start(where: Slice, payload: list[str]) -> Command:
    check_words(payload)
    worker.check_shared_workdir(payload)
    return Command("run on all workers", where.on_all_workers(worker.remote_command(worker.RUN, *payload)))


def stop(where: Slice) -> list[Command]:
    return [Command("ask the processes on all workers to save and stop", where.on_all_workers(worker.remote_command(worker.STOP)))]


def describe_state(where: Slice) -> Command:
    return Command("look whether it was taken away", where.gcloud("queued-resources", "describe", where.name, "--format=value(state.state)"))


def run(
    where: Slice, payload: list[str], *, retries: int, recreate: tuple[Request, Provision] | None, execute: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Runs the payload on all workers until it is done; returns its exit status."""
    command = start(where, payload)
    recovery = [*delete(where), *create(where, recreate[0]), *setup(where, recreate[1])] if recreate else []
    if not execute:
        show([command])
        print(f"# again after status {', '.join(map(str, AGAIN))}, and after a broken connection or preemption, {retries} times at most. Before that:\n")
        show([describe_state(where), *recovery])
        print("# Ctrl-C or SIGTERM:\n")
        show(stop(where))
        print("# nothing was done: add --execute to do it")
        return 0
    interrupted = []

    def launch() -> int:
        show([command])
        status, stopped = run_interruptibly(command.argv, lambda: run_steps(stop(where), execute=True))
        interrupted.extend([True] * stopped)
        return status

    def recover() -> bool:
        if not recreate:
            print(f"{where.name} was taken away. To go on, delete, create and set it up again, then repeat this command; --recreate does so itself", file=sys.stderr)
            return False
        for _ in range(retries):
            if run_steps([*delete(where), *create(where, recreate[0])], execute=True) or not wait_until_active(where, sleep):
                return False
            for _ in range(TRIES):
                if run_steps(setup(where, recreate[1]), execute=True) == 0:
                    return True
                sleep(POLL)
                if read_state(where, sleep) in TAKEN_AWAY:
                    break  # once more from the queue
            else:
                return False
        return False

    status = relaunch_until_done(
        launch, lambda: read_state(where, sleep) in TAKEN_AWAY, recover, lambda: bool(interrupted), retries=retries, pause=POLL, sleep=sleep
    )
    say(f"status {status}; the slice {where.name} costs money until `bert-jax launch tpu-vm delete` deletes it")
    return status


def wait_until_active(where: Slice, sleep: Callable[[float], None]) -> bool:
    """Waits for the queue, however long it takes; False if the request failed."""
    state = None
    while True:
        previous, state = state, read_state(where, sleep)
        if state == "ACTIVE":
            return True
        if state not in COMING:
            print(f"{where.name} is {state}, and will not become ACTIVE", file=sys.stderr)
            return False
        if state != previous:
            print(f"{where.name} is {state}; waiting", file=sys.stderr, flush=True)
        sleep(POLL)


def read_state(where: Slice, sleep: Callable[[float], None]) -> str:
    """Of the queued resource; asks again when the network is what fails, as where this program runs on a laptop."""
    for attempt in range(TRIES):
        try:
            result = subprocess.run(describe_state(where).argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        except FileNotFoundError:
            raise not_installed("gcloud") from None
        if not result.returncode:
            return result.stdout.strip()
        sys.stderr.write(result.stderr)
        if any(word in result.stderr for word in FINAL) or attempt == TRIES - 1:
            break
        sleep(POLL)
    raise RuntimeError(f"gcloud cannot describe the queued resource {where.name} in {where.zone}; `run` needs one, as `create` makes it")
