"""The commands of a pretraining run: doctor and plan before it, pretrain, evaluate, what is in it (inspect, report), and record, its batches without it."""

import argparse
from pathlib import Path

from launch.commands.parts import (
    add_command,
    add_config_options,
    add_oversight_options,
    add_process_options,
    join_processes,
    load_config,
    print_config,
    with_config,
)


def add_doctor(commands) -> None:
    @with_config
    def run(arguments, config):
        from launch.doctor.command import doctor

        workdir = None if arguments.workdir is None else Path(arguments.workdir)
        return doctor(config, workdir, skip=tuple(arguments.skip), as_json=arguments.json)

    command = add_command(
        commands, "doctor", run,
        "Checks a config with its data before a long run: text, batches, model, learning rate, speed, disk. Says what to do; keeps nothing.\n"
        "Exit status: 0 nothing failed; 1 something did.",
        "  bert-jax doctor --config=configs/bert_mini.py --config.data.path=store --workdir=runs/mini\n"
        "  bert-jax doctor --config=configs/bert_base.py --config.data.path=store --skip='learning rate' --json",
    )
    add_config_options(command)
    command.add_argument("--workdir", metavar="DIR", help="of the run to be: its disk, and the checkpoint or imported weights that it starts from")
    command.add_argument("--skip", action="append", default=[], metavar="NAME", help="a check to leave out, as it is printed; may be repeated")
    command.add_argument("--json", action="store_true", help="print the verdicts as JSON; progress goes to standard error")


def add_plan(commands) -> None:
    @with_config
    def run(arguments, config):
        from launch.plan.command import plan

        return plan(
            config, arguments.config, arguments.topology, price=arguments.price, search=arguments.search, unrolled=arguments.unrolled,
            chip_batch=arguments.chip_batch, phase=arguments.phase, as_json=arguments.json, output=arguments.output, cached=not arguments.no_cache,
            keep_text=arguments.hlo,
        )

    command = add_command(
        commands, "plan", run,
        "What a config needs and takes on a TPU slice that is not here: memory, FLOPs, collectives, step time, days, cost. Compiles each phase for it\n"
        "(needs bert-jax[plan]); minutes for a large model. GPUs are planned by arithmetic. Exit status: 0 it fits; 1 it does not, or an error.",
        "  bert-jax plan --config=configs/bert_large.py --topology=v4-128\n"
        "  bert-jax plan --config=configs/bert_base.py --topology=v3-8 --search --price=2.2\n"
        "  bert-jax plan --config=configs/bert_large.py --topology=v4-8 --phase=1 --chip-batch=32 --json\n"
        "  bert-jax plan --config=configs/roberta_base.py --topology=gpu:h100x64",
    )
    add_config_options(command)
    command.add_argument("--topology", required=True, metavar="SLICE", help="v4-128, v3-32, v5e-16, v5p-8, v6e-8, v4:4x4x8 (chips along each axis), or gpu:h100x64")
    command.add_argument("--price", type=float, metavar="MONEY", help="of one chip for an hour: the page tells the cost of the run")
    command.add_argument("--search", action="store_true", help="try micro-batches and remat settings, and plan the fastest that fits")
    command.add_argument("--unrolled", action="store_true", help="tell also what a program without loops over layers would take (minutes more)")
    command.add_argument("--phase", type=int, metavar="N", help="one phase alone, counted from 0")
    command.add_argument("--chip-batch", type=int, metavar="N", help="sequences per chip in a step of one micro-batch, instead of the config's batch")
    command.add_argument("--json", action="store_true", help="print all figures as JSON; progress goes to standard error")
    command.add_argument("--output", metavar="FILE", help="also write the page there; a name in .json takes the figures")
    command.add_argument("--hlo", metavar="DIR", help="keep the text of the compiled programs")
    command.add_argument("--no-cache", action="store_true", help="compile again what was compiled before (kept in ~/.cache/bert_jax/plans)")


def step_range(text: str):
    from bert_jax.training.profile import ProfileSteps

    try:
        return ProfileSteps.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_pretrain(commands) -> None:
    def run(arguments):
        if arguments.print_config:
            return print_config(load_config(arguments))
        if arguments.workdir is None:
            raise ValueError("give a --workdir: where checkpoints, logs and the report go")
        from launch.oversight import Oversight

        oversight = Oversight(Path(arguments.workdir), grace=arguments.grace, hang_timeout=arguments.hang_timeout)

        def train() -> int:
            config = load_config(arguments)
            join_processes(arguments, saves_on_signal=True, leave=oversight.leave)
            oversight.joined()
            from launch.pretrain import pretrain

            return pretrain(
                config, Path(arguments.workdir), oversight, accept_changes=arguments.accept_changes, check_determinism=arguments.check_determinism,
                profile_steps=arguments.profile_steps, wandb_project=arguments.wandb,
            )

        return oversight.run(train)

    from launch.config import describe_fields

    command = add_command(
        commands, "pretrain", run,
        "Pretrains a model. Run again on the same workdir, it continues from the newest whole checkpoint.\n"
        "Exit status: 0 finished; 75 stopped by SIGTERM or SIGINT with the state saved (run the same command again); 1 an error; others: docs/training.md.",
        "  bert-jax pretrain --config=configs/bert_mini.py --workdir=runs/mini --config.data.path=store\n"
        "  bert-jax pretrain --config=configs/bert_base.py --workdir=runs/base --config.data.path=store --config.batch_size=64\n"
        "  bert-jax pretrain --config=configs/bert_base.py --print-config\n\nconfig fields, set by --config.FIELD=VALUE:\n" + describe_fields(),
    )
    add_config_options(command)
    command.add_argument("--workdir", metavar="DIR", help="checkpoints, logs, tokenizer, config.json and report.html")
    command.add_argument("--accept-changes", action="store_true", help="continue a workdir's run although its config or data differ")
    command.add_argument(
        "--check-determinism", action="store_true",
        help="first make the next step twice and compare all bits, here and where a phase begins; an error names what differs (needs memory for a second state)",
    )
    command.add_argument(
        "--profile-steps", type=step_range, metavar="FIRST:LAST", help="trace the updates after step FIRST up to LAST into WORKDIR/profile, such as 100:110 (docs/training.md)",
    )
    add_oversight_options(command)
    command.add_argument("--wandb", metavar="PROJECT", help="also log to Weights & Biases: PROJECT or ENTITY/PROJECT (needs bert-jax[wandb])")
    add_process_options(command)


def add_evaluate(commands) -> None:
    def run(arguments):
        join_processes(arguments, saves_on_signal=False)
        from launch.evaluate import evaluate_workdir

        evaluate_workdir(Path(arguments.workdir), step=arguments.step, data_path=arguments.data)

    command = add_command(
        commands, "evaluate", run, "Held-out loss, perplexity and accuracies of a checkpoint, beside the unigram baseline.",
        "  bert-jax evaluate --workdir=runs/mini\n  bert-jax evaluate --workdir=runs/mini --step=5000",
    )
    command.add_argument("--workdir", required=True, metavar="DIR")
    command.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    command.add_argument("--data", metavar="STORE", help="another token store, made with the same tokenizer")
    add_process_options(command)


def add_record(commands) -> None:
    @with_config
    def run(arguments, config):
        from launch.record import record

        record(config, Path(arguments.output), batches=arguments.batches, epochs=arguments.epochs, phase=arguments.phase)

    command = add_command(
        commands, "record", run,
        "Writes a config's first batches, masked once and for all: static masking, and training where TensorFlow is absent.",
        "  bert-jax record --config=configs/bert_small.py --config.data.path=store --batches=1000 --output=recorded\n"
        "  bert-jax record --config=configs/bert_small.py --config.data.path=store --epochs=10 --output=recorded     (ten masks for each sequence)\n"
        "  bert-jax pretrain --config=configs/bert_small.py --workdir=run --config.data.path=recorded",
    )
    add_config_options(command)
    command.add_argument("--output", required=True, metavar="DIR")
    number = command.add_mutually_exclusive_group(required=True)
    number.add_argument("--batches", type=int, help="how many; they are repeated in training")
    number.add_argument("--epochs", type=int, help="instead: whole passes over the data, each with an order and masks of its own; the last batch is filled up")
    command.add_argument("--phase", type=int, default=0, help="of a config with phases: which one's batches, counted from 0 (default: 0)")


def add_inspect(commands) -> None:
    def run(arguments):
        from launch.inspect.path import Look, inspect_path

        inspect_path(
            arguments.path,
            Look(
                rows=arguments.rows, step=arguments.step, sequences=arguments.sequences, masking=arguments.masking, rate=arguments.rate,
                length=arguments.length, verify=arguments.verify, html=None if arguments.html is None else Path(arguments.html),
            ),
        )

    command = add_command(
        commands, "inspect", run,
        "Shows what token stores, recorded batches, a workdir or an exported model hold: lengths, padding, masking in numbers, and decoded batches.",
        "  bert-jax inspect store --length=64 --rows=3\n"
        "  bert-jax inspect store --sequences=packed_documents --masking=spans:0.2:10\n"
        "  bert-jax inspect store --html=store.html     (every kind of sequence and masking, on one page)\n"
        "  bert-jax inspect news,books                  (a mixture)\n"
        "  bert-jax inspect runs/mini --step=1200",
    )
    command.add_argument("path", metavar="PATH", help="for a mixture several stores, parted by commas")
    command.add_argument("--rows", type=int, help="rows of the batch to decode (default: 2; 0: none)")
    command.add_argument("--step", type=int, help="which batch (default: 0)")
    command.add_argument(
        "--sequences", metavar="KIND",
        help="how a store is cut: segment_pairs (default), sentence_order, full_sentences, document_sentences or packed_documents",
    )
    command.add_argument(
        "--masking", metavar="CHOICE", help="how a store is masked: tokens (default), whole_words, ngrams:3 or spans:0.2:10",
    )
    command.add_argument("--rate", type=float, help="share of tokens to predict, for a store (default: 0.15)")
    command.add_argument("--length", type=int, help="tokens per sequence, for a store (default: 128)")
    command.add_argument("--verify", action="store_true", help="hash every file of the stores first")
    command.add_argument("--html", metavar="FILE", help="also write a page that loads nothing and runs no script")


def add_report(commands) -> None:
    def run(arguments):
        from launch.report.report import write_report

        print(write_report(Path(arguments.workdir)))

    command = add_command(
        commands, "report", run, "Writes WORKDIR/report.html: curves, samples, config and environment in one self-contained page.",
        "  bert-jax report --workdir=runs/mini",
    )
    command.add_argument("--workdir", required=True, metavar="DIR")
