"""`bert-jax launch KIND`: its options, and which function of this package each kind is."""

import argparse

RAW = argparse.RawDescriptionHelpFormatter


def split_payload(argv: list[str]) -> tuple[list[str], list[str]]:
    """The words of `bert-jax launch` before the first `--`, and the command after it, which argparse would mix up with a NAME."""
    if argv[:1] != ["launch"] or "--" not in argv:
        return argv, []
    dashes = argv.index("--")
    return argv[:dashes], argv[dashes + 1 :]


def add_launch(commands) -> None:
    """Adds the command to the parser of `bert-jax`."""
    summary = "Runs a bert-jax command on a pod, a cluster, or several processes of this machine."
    launch = commands.add_parser(
        "launch", help=summary, formatter_class=RAW, allow_abbrev=False,
        description=summary + " Prints what it would do; --execute does it. Nothing that costs\nmoney is created or deleted but by `tpu-vm create`, `tpu-vm delete` and `tpu-vm run --recreate`. See docs/pods.md.",
        epilog="""examples:
  bert-jax launch local --processes=2 --devices=2 -- pretrain --config=bert_mini --workdir=runs/mini --config.data.path=store
  bert-jax launch local-gpus -- pretrain --config=bert_base --workdir=runs/base --config.data.path=store
  bert-jax launch slurm bert-large --nodes=2 --gpus-per-node=8 --cpus-per-node=96 --time=24:00:00 -- pretrain ...
  bert-jax launch tpu-vm run bert-large --zone=us-central2-b -- pretrain ...
  bert-jax launch gke bert-large --generation=v4 --topology=2x2x4 --image=IMAGE -- pretrain ...""",
    )
    kinds = launch.add_subparsers(dest="kind", required=True, metavar="KIND")
    add_local(kinds)
    add_local_gpus(kinds)
    add_slurm(kinds)
    add_tpu_vm(kinds)
    add_gke(kinds)
    add_xpk(kinds)


def add_kind(kinds, name: str, run, summary: str, *, payload: bool = True, named: bool = True) -> argparse.ArgumentParser:
    usage = f"%(prog)s {'NAME ' if named else ''}[options]{' -- COMMAND ...' if payload else ''}"
    closing = "COMMAND is a bert-jax command with its arguments, after two dashes: -- pretrain --config=..." if payload else None
    kind = kinds.add_parser(name, usage=usage, help=summary, description=summary, epilog=closing, formatter_class=RAW, allow_abbrev=False)
    kind.set_defaults(run=run, takes_payload=payload)
    kind.add_argument("--execute", action="store_true", help="do it; without this, it is only printed")
    if named:
        kind.add_argument("name", metavar="NAME")
    return kind


def payload_of(arguments: argparse.Namespace) -> list[str]:
    """The command to launch; one that `bert-jax` does not know, or with unknown options, is refused here and not on 64 machines."""
    from launch.cli import parse
    from launch.launchers.steps import check_words

    if not arguments.payload:
        raise ValueError("give the command to run after two dashes: bert-jax launch ... -- pretrain --config=... --workdir=...")
    check_words(arguments.payload)
    if parse(arguments.payload).command == "launch":
        raise ValueError("a launched command cannot be `launch` itself")
    return arguments.payload


def add_local(kinds) -> None:
    def run(arguments):
        from launch.launchers.local import bert_jax_command, launch_local

        command = bert_jax_command(payload_of(arguments))
        return launch_local(command, arguments.processes, arguments.devices, execute=arguments.execute, grace=arguments.grace)

    kind = add_kind(
        kinds, "local", run,
        "Several processes with virtual CPU devices on this machine, as one JAX program: how a pod is tried out.\n"
        "Lines come with the process's number; signals are passed on; when one process fails the others are ended, and its status is returned.", named=False,
    )
    kind.add_argument("--processes", type=int, required=True, metavar="N")
    kind.add_argument("--devices", type=int, default=1, metavar="N", help="virtual CPU devices of each process (default: 1)")
    kind.add_argument("--grace", type=float, default=30.0, metavar="SECONDS", help="between SIGTERM and SIGKILL when another process has failed (default: 30)")


def add_local_gpus(kinds) -> None:
    def run(arguments):
        from launch.launchers.local import launch_local_gpus

        return launch_local_gpus(payload_of(arguments), arguments.gpus, execute=arguments.execute)

    kind = add_kind(kinds, "local-gpus", run, "One process with all GPUs of this machine; an error, and not the CPU, where there is none.", named=False)
    kind.add_argument("--gpus", metavar="LIST", help="only these, such as 0,1,2,3 (default: all)")


def add_slurm(kinds) -> None:
    def run(arguments):
        from pathlib import Path

        from launch.launchers.slurm import Job, submit
        from launch.launchers.steps import run_steps

        fields = (
            "name", "nodes", "gpus_per_node", "tasks", "time", "cpus_per_node", "partition", "account", "qos", "notice", "restarts", "package", "python", "store",
            "local_store",
        )
        job = Job(directory=str(Path(arguments.directory).absolute()), **{field: getattr(arguments, field) for field in fields})
        return run_steps(submit(job, payload_of(arguments)), arguments.execute)

    kind = add_kind(
        kinds, "slurm", run,
        "GPU nodes under Slurm: writes DIRECTORY/NAME.sbatch and submits it. Before the time limit the run is told to save, and the job\n"
        "queues itself again until the command is done.",
    )
    kind.add_argument("--nodes", type=int, required=True, metavar="N")
    kind.add_argument("--gpus-per-node", type=int, required=True, metavar="N")
    kind.add_argument("--cpus-per-node", type=int, required=True, metavar="N", help="without them Slurm would give one to each task")
    kind.add_argument("--time", required=True, metavar="LIMIT", help="such as 24:00:00; of each start, not of the whole")
    kind.add_argument(
        "--tasks", choices=("per-node", "per-gpu"), default="per-node", help="one process per node with all its GPUs (default), or one per GPU",
    )
    kind.add_argument("--partition", metavar="NAME")
    kind.add_argument("--account", metavar="NAME")
    kind.add_argument("--qos", metavar="NAME")
    kind.add_argument("--notice", type=int, default=300, metavar="SECONDS", help="SIGTERM this long before the time limit (default: 300)")
    kind.add_argument("--restarts", type=int, default=100, metavar="N", help="how often the job queues itself again at most (default: 100)")
    kind.add_argument("--directory", default=".", metavar="DIR", help="that all nodes share; the command runs there (default: this one)")
    add_package(kind, "into DIRECTORY/venv before the run; a file must lie where the nodes see it (default: the nodes' own bert-jax)")
    kind.add_argument("--python", default="python3", metavar="PROGRAM", help="3.11 or newer, to make that venv with (default: python3)")
    kind.add_argument("--store", metavar="SOURCE", help="a token store, on a shared disk or gs://...; needs --local-store")
    kind.add_argument("--local-store", metavar="DIR", help="on each node's own disk, where it is copied to unless it is there")


def add_package(kind: argparse.ArgumentParser, where: str, *, required: bool = False) -> None:
    kind.add_argument(
        "--package", required=required, metavar="PACKAGE",
        help="git+https://HOST/REPOSITORY@REVISION, an address or file of a wheel or source archive, or bert-jax==VERSION: installed " + where,
    )


def add_tpu_vm(kinds) -> None:
    summary = "Cloud TPU slices through gcloud, the same on all workers."
    kind = kinds.add_parser(
        "tpu-vm", help=summary, description=summary, formatter_class=RAW, allow_abbrev=False,
        epilog="Each prints what it would do, and does it with --execute. NAME is that of the queued resource and of its node.",
    )
    actions = kind.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, run, summary: str, *, payload: bool = False) -> argparse.ArgumentParser:
        action = add_kind(actions, name, run, summary, payload=payload)
        action.add_argument("--zone", required=True, metavar="ZONE")
        action.add_argument("--project", metavar="PROJECT", help="(default: gcloud's)")
        return action

    def steps_of(name: str, *readers):
        def run(arguments):
            from launch.launchers import tpu_vm
            from launch.launchers.steps import run_steps

            steps = getattr(tpu_vm, name)(where_of(arguments), *(reader(arguments) for reader in readers))
            return run_steps(steps, arguments.execute)

        return run

    add_request(add("create", steps_of("create", request_of), "Asks for a slice: a queued resource. It costs money until `delete`."), required=True)
    add_provision(add("setup", steps_of("setup", provision_of), "Installs bert_jax on all workers, fetches the store, mounts the bucket; may be repeated."), required=True)
    add("stop", steps_of("stop"), "Asks the run to save and stop.")
    add("delete", steps_of("delete"), "Deletes the slice and its disks.")

    def run(arguments):
        from launch.launchers import tpu_vm

        recreate = None
        if arguments.recreate:
            for option in ("accelerator_type", "runtime_version", "package"):
                if getattr(arguments, option) is None:
                    raise ValueError(f"--recreate needs what `create` and `setup` were given: --{option.replace('_', '-')} is missing")
            recreate = request_of(arguments), provision_of(arguments)
        return tpu_vm.run(where_of(arguments), payload_of(arguments), retries=arguments.retries, recreate=recreate, execute=arguments.execute)

    action = add(
        "run", run,
        "Runs the command on all workers, in ~/bert-jax, and again until it is done: after 75 and other statuses that a relaunch can help,\n"
        "a broken connection and preemption.\n"
        "Ctrl-C or SIGTERM asks the run to save and stop.", payload=True,
    )
    action.add_argument("--retries", type=int, default=50, metavar="N", help="relaunches at most (default: 50)")
    action.add_argument(
        "--recreate", action="store_true", help="when a slice was taken away: delete it, create and set it up again; with the options of both, as they were given",
    )
    add_request(action, required=False)
    add_provision(action, required=False)


def add_request(action: argparse.ArgumentParser, *, required: bool) -> None:
    action.add_argument("--accelerator-type", required=required, metavar="TYPE", help="such as v4-32")
    action.add_argument("--runtime-version", required=required, metavar="VERSION", help="tpu-ubuntu2204-base for v4 and older; see docs/pods.md")
    action.add_argument("--spot", action="store_true", help="cheaper, and may be taken away at any time")
    action.add_argument("--service-account", metavar="ACCOUNT", help="that the workers act as (default: the project's)")


def add_provision(action: argparse.ArgumentParser, *, required: bool) -> None:
    add_package(action, "on every worker", required=required)
    action.add_argument("--store", metavar="gs://...", help="a token store, copied to ~/bert-jax/store on every worker")
    action.add_argument("--mount", metavar="gs://...", help="a bucket, or a directory in it, mounted as ~/bert-jax/bucket with gcsfuse, for the workdir")
    action.add_argument("--python", default="3.11", metavar="VERSION", help="for ~/bert-jax/venv, from uv (default: 3.11)")


def where_of(arguments):
    from launch.launchers.tpu_vm import Slice

    return Slice(arguments.name, arguments.zone, arguments.project)


def request_of(arguments):
    from launch.launchers.tpu_vm import Request

    return Request(arguments.accelerator_type, arguments.runtime_version, arguments.spot, arguments.service_account)


def provision_of(arguments):
    from launch.launchers.tpu_vm import Provision

    return Provision(arguments.package, arguments.store, arguments.mount, arguments.python)


def add_kubernetes(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--image", required=True, metavar="IMAGE", help="with Python 3.11 or newer, and jax for TPUs or --package")
    kind.add_argument("--slices", type=int, default=1, metavar="N", help="(default: 1)")
    kind.add_argument("--restarts", type=int, default=20, metavar="N", help="of all pods, at most (default: 20)")
    kind.add_argument("--spot", action="store_true", help="on spot nodes")
    add_package(kind, "in every pod before the run (default: the image's own bert-jax)")


def add_gke(kinds) -> None:
    def run(arguments):
        from launch.launchers.gke import Workload, apply
        from launch.launchers.steps import run_steps

        fields = ("name", "generation", "topology", "image", "slices", "spot", "restarts", "package", "store", "mount", "service_account", "fetch_image")
        workload = Workload(**{field: getattr(arguments, field) for field in fields})
        return run_steps(apply(workload, payload_of(arguments), arguments.context, arguments.namespace), arguments.execute)

    kind = add_kind(kinds, "gke", run, "TPU slices on Google Kubernetes Engine: a JobSet, applied with kubectl. The command runs in /bert-jax.")
    add_kubernetes(kind)
    kind.add_argument("--generation", required=True, choices=("v3", "v4", "v5e", "v5p", "v6e"))
    kind.add_argument("--topology", required=True, metavar="AxBxC", help="chips of a slice: 2x2x4 for v4-32")
    kind.add_argument("--store", metavar="gs://...", help="a token store, copied to /bert-jax/store in every pod")
    kind.add_argument("--mount", metavar="gs://...", help="a bucket, or a directory in it, mounted as /bert-jax/bucket, for the workdir")
    kind.add_argument("--service-account", metavar="NAME", help="Kubernetes' own, that may use the buckets")
    kind.add_argument("--fetch-image", default="gcr.io/google.com/cloudsdktool/google-cloud-cli:slim", metavar="IMAGE", help="has gcloud, to copy the store with")
    kind.add_argument("--context", metavar="NAME", help="kubectl's (default: its current one)")
    kind.add_argument("--namespace", metavar="NAME", help="kubectl's (default: its context's)")


def add_xpk(kinds) -> None:
    def run(arguments):
        from launch.launchers.gke import xpk_command
        from launch.launchers.steps import run_steps

        steps = xpk_command(
            arguments.name, arguments.cluster, arguments.tpu_type, arguments.image, payload_of(arguments), slices=arguments.slices,
            restarts=arguments.restarts, package=arguments.package, spot=arguments.spot,
        )
        return run_steps(steps, arguments.execute)

    kind = add_kind(kinds, "xpk", run, "As gke, through xpk, which makes the JobSet. Store and bucket are attached with xpk's own `storage` commands.")
    add_kubernetes(kind)
    kind.add_argument("--cluster", required=True, metavar="NAME")
    kind.add_argument("--tpu-type", required=True, metavar="TYPE", help="such as v4-32")
