"""Several processes as one run: from options and environment to `jax.distributed.initialize`, and the way out after an error.

Looked for, first to last: the options --coordinator, --num-processes and --process-id; the variables BERT_JAX_COORDINATOR, BERT_JAX_NUM_PROCESSES and
BERT_JAX_PROCESS_ID; Slurm (inside srun); OpenMPI (inside mpirun); TPU pods on GKE and Google Cloud; indexed jobs of Kubernetes.

A missing peer at the start, a dead one later and an end that others do not come to are all noticed in bounded time. JAX ends the process with status 134
(SIGABRT) and a page of text when that happens; at the start, which is where a person errs, we are quicker and say it in words.
"""

import dataclasses
import glob
import importlib.util
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping

from launch import exit_codes
from launch.config import ConfigError

START_SECONDS = 300  # for all processes to come, unless BERT_JAX_START_TIMEOUT says otherwise
HEARTBEAT_SECONDS = 20  # without a sign of life, until a process counts as dead
SHUTDOWN_SECONDS = 30  # between the first and the last process's end
SYMMETRY_SECONDS = 5  # the coordinator's process stays this long after an error, so that others tell of theirs
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
ALONE = "To run this process alone, say --num-processes=1 (BERT_JAX_NUM_PROCESSES=1)"
log = logging.getLogger("bert_jax")
_process: int | None = None  # this one's number, once there are several


@dataclasses.dataclass(frozen=True)
class Setting:
    """Arguments of `jax.distributed.initialize`; None is what JAX finds by itself. origin: where they are from, in words."""

    origin: str
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: tuple[int, ...] | None = None
    method: str | None = None


def start(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None, *, saves_on_signal: bool, leave: Callable | None = None) -> None:
    """Joins the other processes, if options or environment name any; before anything else that uses JAX's devices.

    saves_on_signal: SIGTERM is remembered for `StopRequest` instead of ending the process. leave: ends the process, given an exit code and why, if not all come.
    ConfigError for settings that do not fit together.
    """
    import jax  # sets TPU_SKIP_MDS_QUERY where there is no TPU

    setting = find(os.environ, coordinator, num_processes, process_id)
    if setting is None:
        return
    seconds = start_seconds(os.environ)
    jax.config.update("jax_enable_preemption_service", saves_on_signal)
    watchdog = threading.Timer(seconds, give_up, (setting, seconds, leave))
    watchdog.daemon = True
    watchdog.start()
    try:
        jax.distributed.initialize(
            setting.coordinator, setting.num_processes, setting.process_id, setting.local_device_ids, cluster_detection_method=setting.method,
            initialization_timeout=int(seconds) + 60,  # at which JAX would abort: after the watchdog
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS, shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
        devices = jax.local_device_count()  # the processes exchange what devices they have
    except (ValueError, RuntimeError, OSError) as error:
        raise ConfigError(f"the processes, which are known from {setting.origin}, could not be joined: {error}. {ALONE}") from error
    finally:
        watchdog.cancel()
    global _process
    _process = jax.process_index()
    if _process > 0:
        speak_as_one_of_many(_process)
    log.info("process %d of %d, from %s; %d of %d devices are here", _process, jax.process_count(), setting.origin, devices, jax.device_count())


def give_up(setting: Setting, seconds: float, leave: Callable | None) -> None:
    """Ends the process: from another thread, since JAX waits without a way to be interrupted."""
    me = "" if setting.process_id is None else f" This is process {setting.process_id}."
    count = f"the {setting.num_processes}" if setting.num_processes else "all"
    where = f" at {setting.coordinator}" if setting.coordinator else ""
    print(
        f"bert-jax: not all of {count} processes met{where} within {seconds:g} s (known from {setting.origin}).{me} See that every one of them was started and is "
        f"still running, with the same number of processes and a number of its own, and that all reach the coordinator, which is process 0. "
        f"BERT_JAX_START_TIMEOUT=SECONDS waits longer. {ALONE}",
        file=sys.stderr, flush=True,
    )
    if leave is not None:
        leave(exit_codes.MISSING_PEER, f"not all of {count} processes met within {seconds:g} s")
    os._exit(exit_codes.MISSING_PEER.status)


def speak_as_one_of_many(number: int) -> None:
    """Other processes than the first log warnings and errors only, with their number."""
    logging.getLogger("bert_jax").setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter(f"process {number}: %(message)s"))


def number() -> int | None:
    """This process's number, None if it is alone."""
    return _process


def count() -> int:
    """How many processes there are."""
    if _process is None:
        return 1
    import jax

    return jax.process_count()


def tell(name: str, text: str) -> None:
    """See `bert_jax.processes.tell`, which loads jax."""
    from bert_jax import processes

    processes.tell(name, text)


def told(name: str) -> str | None:
    from bert_jax import processes

    return processes.told(name)


def speaker() -> str:
    """In front of an error's words: which process says it, if there are several."""
    return "" if _process is None else f"process {_process}: "


def part() -> None:
    """Returns when all processes are here. After it they know nothing of one another."""
    import jax

    jax.distributed.shutdown()


def leave_after_error(status: int) -> int:
    """Returns the status; or, of several processes, ends this one with it and does not wait for the others, which may be waiting for it."""
    if _process is None:
        return status
    end_process(status)


def end_process(status: int) -> None:
    """Ends this process at once, but for a checkpoint that is under way and, in the coordinator's process, a time for others to tell of their errors."""
    sys.stdout.flush()
    sys.stderr.flush()
    for thread in threading.enumerate():
        if thread.name.startswith("save-"):  # a checkpoint from before the error, which needs the other processes too
            thread.join(SHUTDOWN_SECONDS)
    if _process == 0 and count() > 1:  # with it goes the coordination service, and JAX then aborts the others
        time.sleep(SYMMETRY_SECONDS)
    os._exit(status)


# ---- where the settings come from ----


def find(environ: Mapping[str, str], coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> Setting | None:
    """None if this process is to run alone."""
    coordinator = coordinator or environ.get("BERT_JAX_COORDINATOR") or None
    num_processes = number_of(environ, "BERT_JAX_NUM_PROCESSES") if num_processes is None else num_processes
    process_id = number_of(environ, "BERT_JAX_PROCESS_ID") if process_id is None else process_id
    if num_processes == 1:
        return None
    if (coordinator, num_processes, process_id) != (None, None, None):
        return explicit(environ, coordinator, num_processes, process_id)
    for look in (from_slurm, from_open_mpi, from_tpu_pod, from_kubernetes):
        setting = look(environ)
        if setting is not None:
            return setting if setting.num_processes != 1 else None
    return None


def explicit(environ: Mapping[str, str], coordinator: str | None, num_processes: int | None, process_id: int | None) -> Setting:
    """What options and variables say; numbers that they leave out are a launcher's."""
    origin, devices = "options or BERT_JAX_ variables", None
    launcher = None
    if coordinator is not None and None in (num_processes, process_id):
        launcher = from_slurm(environ) or from_open_mpi(environ, coordinator)
    if launcher is not None:
        origin, devices = f"{origin} and {launcher.origin}", launcher.local_device_ids
        num_processes = launcher.num_processes if num_processes is None else num_processes
        process_id = launcher.process_id if process_id is None else process_id
    given = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    missing = [option for option, value in given.items() if value is None]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} must be given as well (or {' and '.join('BERT_JAX_' + option[2:].upper().replace('-', '_') for option in missing)}): "
            "all processes name one coordinator, HOST:PORT of process 0, and their number, and each a number of its own from 0"
        )
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:\[\]]+):\d{1,5}", coordinator):
        raise ConfigError(f"--coordinator={coordinator} is not HOST:PORT; give an address of process 0's host that all reach, and a free port there")
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ConfigError(f"--process-id={process_id} does not fit --num-processes={num_processes}; processes are numbered from 0 to {num_processes - 1}")
    return Setting(origin, coordinator, num_processes, process_id, devices, "deactivate")


def from_slurm(environ: Mapping[str, str]) -> Setting | None:
    """Tasks of srun; JAX knows the coordinator from the list of nodes. The five variables are there in a step only, not in a batch script or an allocation."""
    if not all(environ.get(name) for name in SLURM):
        return None
    tasks, node = int(environ["SLURM_NTASKS"]), int(environ.get("SLURM_NODEID") or 0)
    here = tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or f"{tasks}")
    devices = None
    if tasks > 1:
        devices = own_gpus(environ, int(environ["SLURM_LOCALID"]), here[node] if node < len(here) else 1, on_node=environ.get("SLURM_GPUS_ON_NODE"))
    return Setting(f"Slurm (job {environ['SLURM_JOB_ID']})", None, tasks, int(environ["SLURM_PROCID"]), devices, "slurm")


def from_open_mpi(environ: Mapping[str, str], coordinator: str | None = None) -> Setting | None:
    """Processes of mpirun. OpenMPI 4 names a host, from which JAX makes the coordinator; 5 does not."""
    if not environ.get("OMPI_COMM_WORLD_SIZE") or not environ.get("OMPI_COMM_WORLD_RANK"):
        return None
    size, rank = int(environ["OMPI_COMM_WORLD_SIZE"]), int(environ["OMPI_COMM_WORLD_RANK"])
    if size > 1 and coordinator is None and not environ.get("OMPI_MCA_orte_hnp_uri"):
        raise ConfigError(f"this is one of {size} processes of OpenMPI, which names no coordinator (version 5 does not): add --coordinator=HOST:PORT, of rank 0's host. {ALONE}")
    here = int(environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or size)
    devices = own_gpus(environ, int(environ.get("OMPI_COMM_WORLD_LOCAL_RANK") or 0), here) if size > 1 else None
    return Setting("OpenMPI", None, size, rank, devices, "ompi")


def from_tpu_pod(environ: Mapping[str, str]) -> Setting | None:
    """Hosts of a TPU slice. On GKE variables name them; on Google Cloud's VMs JAX asks the metadata server, for which there must be a TPU here."""
    platforms = environ.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms or importlib.util.find_spec("libtpu") is None:
        return None
    names = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES") or ""
    if environ.get("TPU_WORKER_ID") and ("," in names or int(environ.get("MEGASCALE_NUM_SLICES") or 1) > 1):
        return Setting("the TPU slice's variables (TPU_WORKER_HOSTNAMES, TPU_WORKER_ID)")
    if not names and "TPU_SKIP_MDS_QUERY" not in environ:
        return Setting("the TPU VM's metadata")
    return None


def from_kubernetes(environ: Mapping[str, str]) -> Setting | None:
    """Pods of an indexed job; JAX asks the cluster."""
    if not environ.get("KUBERNETES_SERVICE_HOST") or not environ.get("JOB_COMPLETION_INDEX"):
        return None
    if importlib.util.find_spec("kubernetes") is None:
        log.warning(
            "this is pod %s of a Kubernetes job, and runs alone: for one run over all its pods set BERT_JAX_COORDINATOR, BERT_JAX_NUM_PROCESSES and "
            "BERT_JAX_PROCESS_ID in them, or install jax[k8s]", environ["JOB_COMPLETION_INDEX"],
        )
        return None
    return Setting("the Kubernetes job")


def own_gpus(environ: Mapping[str, str], local_rank: int, here: int, *, on_node: str | None = None) -> tuple[int, ...] | None:
    """Which of the GPUs that this process sees are its own, if `here` processes share its machine; None where there are none, or the user has said it.

    Left alone, JAX takes the one GPU with the number of the process on its machine: one of eight, with a process for each machine. A process that
    sees fewer than the machine's (on_node) was given them for itself. ConfigError if the GPUs do not divide over the processes.
    """
    seen = visible_gpus(environ)
    if not seen or environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    bound = bool(environ.get("SLURM_GPUS_PER_TASK")) or seen < int(on_node or seen) or (seen == 1 and here > 1)
    if bound or here == 1:
        return tuple(range(seen))
    if seen % here:
        raise ConfigError(
            f"{here} processes share this machine's {seen} GPUs, which do not divide over them: start one process for each machine or for each GPU, or name each "
            "one's with JAX_LOCAL_DEVICE_IDS"
        )
    share = seen // here
    return tuple(range(local_rank * share, (local_rank + 1) * share))


def visible_gpus(environ: Mapping[str, str]) -> int:
    """NVIDIA GPUs that JAX would find, counted without touching them."""
    platforms = environ.get("JAX_PLATFORMS", "")
    if platforms and "cuda" not in platforms and "gpu" not in platforms:
        return 0
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return len(glob.glob("/proc/driver/nvidia/gpus/*"))
    names = [name.strip() for name in listed.split(",")]
    return next((index for index, name in enumerate(names) if name in ("", "-1")), len(names))  # CUDA reads up to the first that is none


def tasks_per_node(text: str) -> list[int]:
    """Slurm's "4(x2),3" -> [4, 4, 3]."""
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if found is None:
            raise ConfigError(f"SLURM_STEP_TASKS_PER_NODE={text!r} is not like 4(x2),3; set it, or give --coordinator, --num-processes and --process-id")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def number_of(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name}={text!r} is not a whole number") from None


def start_seconds(environ: Mapping[str, str]) -> float:
    text = environ.get("BERT_JAX_START_TIMEOUT") or START_SECONDS
    try:
        seconds = float(text)
        if not 0 < seconds < 1e6:
            raise ValueError
    except ValueError:
        raise ConfigError(f"BERT_JAX_START_TIMEOUT={text!r} is not a number of seconds") from None
    return seconds
