"""The `bert-jax` command: its parts, from words to an exit status. Subcommands with options and examples are in `launch/commands`; what they call is imported when they run."""

import argparse
import logging
import os
import select
import sys
import traceback

from launch.commands import models, runs, tasks, text
from launch.commands.parts import RAW
from launch.demo import command as demo
from launch.launchers import options as launchers


def command_line() -> None:
    """What the installed command calls: `main`, and a process that ends in time though others' threads go on."""
    status = 1
    try:
        status = main()
    finally:
        if oversight := sys.modules.get("launch.oversight"):  # of a run
            oversight.end_in_time(status)
    sys.exit(status)


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand; returns the exit status: 0 done, 1 an error in words, 2 bad usage, 75 stopped by a signal with everything saved.

    BERT_JAX_TRACEBACK=1 in the environment shows an error's traceback.
    """
    arguments = parse(argv)
    quiet_libraries()
    try:
        status = arguments.run(arguments) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError as error:
        return end_of_pipe(arguments.command, error)
    except (ValueError, OSError, FloatingPointError, ImportError, RuntimeError) as error:
        if os.environ.get("BERT_JAX_TRACEBACK"):
            raise
        return failed(arguments.command, error, getattr(error, "exit_status", 1))
    except Exception as error:  # which says nothing to a user, but of several processes none may wait for the others
        from launch import distributed

        if distributed.number() is None:
            raise
        traceback.print_exc()
        return distributed.leave_after_error(getattr(error, "exit_status", 1))
    except KeyboardInterrupt:
        return failed(arguments.command, "interrupted", 130)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments of a subcommand; `overrides` holds its config.FIELD=VALUE. Ends with a message and status 2 on bad usage."""
    words, payload = launchers.split_payload(sys.argv[1:] if argv is None else argv)
    arguments, overrides = make_parser().parse_known_args(words, argparse.Namespace(payload=payload))
    unknown = [word for word in overrides if not (word.startswith("--config.") and getattr(arguments, "takes_overrides", False))]
    if unknown and any(word.startswith("--config.") and "=" not in word for word in overrides):
        make_parser().error(f"write overrides with an equals sign: --config.FIELD=VALUE (near {unknown[0]})")
    if unknown:
        make_parser().error(f"unknown argument {unknown[0]} for `bert-jax {arguments.command}` (see bert-jax {arguments.command} --help)")
    if payload and not arguments.takes_payload:
        make_parser().error(f"`bert-jax launch {arguments.kind} {arguments.action}` takes no command")
    arguments.overrides = [word.removeprefix("--") for word in overrides]
    return arguments


def failed(command: str, error: Exception | str, status: int) -> int:
    """Says what went wrong, and returns the status; one of several processes leaves with it."""
    from launch import distributed
    from launch.redaction import for_terminal

    print(f"{distributed.speaker()}bert-jax {command}: {for_terminal(str(error))}", file=sys.stderr)
    return distributed.leave_after_error(status)


def end_of_pipe(command: str, error: BrokenPipeError) -> int:
    """Nobody reads on (`... | head`): ends as the system's own commands do. A pipe other than standard output's is an error."""
    poller = select.poll()
    poller.register(sys.stdout, 0)
    if any(event & select.POLLERR for _, event in poller.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # lest the interpreter complain as it ends
        return 141
    print(f"bert-jax {command}: {error}", file=sys.stderr)
    return 1


def quiet_libraries() -> None:
    """Our own log on stderr; TensorFlow's, absl's and Orbax's chatter only from warnings up."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from launch.redaction import ShownLog

    logging.basicConfig(level=logging.WARNING, handlers=[ShownLog(sys.stderr)], format="%(message)s")
    logging.getLogger("bert_jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bert-jax",
        formatter_class=RAW,
        description="Pretrains BERT-family encoders from raw text and hands them to PyTorch.",
        epilog="""the road, from text to model:
  bert-jax tokenizer --input='text/*.txt' --kind=wordpiece --vocab-size=30522 --output=tok
  bert-jax prepare   --input='text/*.txt' --tokenizer=tok --output=store
  bert-jax pretrain  --config=configs/bert_base.py --workdir=run --config.data.path=store
  bert-jax evaluate  --workdir=run
  bert-jax export    --workdir=run --output=model --verify
  bert-jax fill-mask --model=model 'The capital of France is [MASK].'""",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    text.add_tokenizer(commands)
    text.add_extend_tokenizer(commands)
    text.add_prepare(commands)
    runs.add_doctor(commands)
    runs.add_plan(commands)
    runs.add_pretrain(commands)
    runs.add_evaluate(commands)
    models.add_export(commands)
    models.add_import(commands)
    models.add_grow(commands)
    models.add_fill_mask(commands)
    tasks.add_finetune(commands)
    tasks.add_glue(commands)
    tasks.add_predict(commands)
    tasks.add_embed(commands)
    tasks.add_rank(commands)
    demo.add_demo(commands)
    runs.add_inspect(commands)
    runs.add_record(commands)
    runs.add_report(commands)
    launchers.add_launch(commands)
    return parser


if __name__ == "__main__":
    command_line()
