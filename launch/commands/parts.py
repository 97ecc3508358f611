"""What several commands of `bert-jax` have in common: their form, their config, their place among other processes."""

import argparse
import json
import os

RAW = argparse.RawDescriptionHelpFormatter


def add_command(commands, name: str, run, summary: str, example: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary, epilog=f"examples:\n{example}", formatter_class=RAW, allow_abbrev=False)
    command.set_defaults(run=run)
    return command


def add_config_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", required=True, metavar="FILE", help="a config file, such as configs/bert_base.py, or the name of one")
    command.add_argument("--print-config", action="store_true", help="print the resolved config as JSON and stop")
    command.set_defaults(takes_overrides=True)


def add_process_options(command: argparse.ArgumentParser) -> None:
    several = command.add_argument_group(
        "one of several processes", "needed only where Slurm, OpenMPI or a TPU pod do not tell; or BERT_JAX_COORDINATOR, BERT_JAX_NUM_PROCESSES, BERT_JAX_PROCESS_ID",
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, a free port; the same for all processes")
    several.add_argument("--num-processes", type=int, metavar="N", help="how many there are; 1: this one alone, whatever the environment says")
    several.add_argument("--process-id", type=int, metavar="I", help="the number of this one, from 0")


def join_processes(arguments, *, saves_on_signal: bool, leave=None) -> None:
    from launch import distributed

    distributed.start(arguments.coordinator, arguments.num_processes, arguments.process_id, saves_on_signal=saves_on_signal, leave=leave)


def load_config(arguments, schema=None) -> dict:
    """schema: of the command's configs; None: pretraining's."""
    from launch import config

    return config.load(arguments.config, arguments.overrides, schema or config.PRETRAINING)


def print_config(config: dict) -> None:
    print(json.dumps(config, indent=2))


def with_config(run):
    """What a command runs: `run(arguments, config)`, or with --print-config that config is printed, and nothing else happens."""

    def run_or_print(arguments):
        config = load_config(arguments)
        return print_config(config) if arguments.print_config else run(arguments, config)

    return run_or_print


def add_oversight_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--grace", type=float, default=os.environ.get("BERT_JAX_GRACE") or "300", metavar="SECONDS",
        help="from SIGTERM until the machine is gone: leave by then, saved or not (default: BERT_JAX_GRACE, or 300)",
    )
    command.add_argument(
        "--hang-timeout", type=float, default=600.0, metavar="SECONDS",
        help="a step that takes longer has hung: dump the stacks and leave with 70; six times as long for what compiles, starts or saves (default: 600)",
    )
