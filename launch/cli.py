"""The `bert-jax` command: every subcommand, its options and examples. Each is one function of `launch/`, imported when it is called."""

import argparse
import logging
import os
import select
import signal
import sys
import traceback
from pathlib import Path

from launch.cli_parts import (
    RAW,
    add_command,
    add_config_options,
    add_oversight_options,
    add_process_options,
    join_processes,
    load_config,
    print_config,
)
from launch.finetune.commands import add_embed, add_finetune, add_glue, add_predict, add_rank


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
    from launch.launchers.options import split_payload

    words, payload = split_payload(sys.argv[1:] if argv is None else argv)
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
    add_tokenizer(commands)
    add_extend_tokenizer(commands)
    add_prepare(commands)
    add_doctor(commands)
    add_plan(commands)
    add_pretrain(commands)
    add_evaluate(commands)
    add_export(commands)
    add_import(commands)
    add_grow(commands)
    add_fill_mask(commands)
    add_finetune(commands)
    add_glue(commands)
    add_predict(commands)
    add_embed(commands)
    add_rank(commands)
    add_inspect(commands)
    add_record(commands)
    add_report(commands)
    add_launch(commands)
    return parser


def add_launch(commands) -> None:
    from launch.launchers import options

    options.add_launch(commands)


def add_corpus_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--input", required=True, action="append", metavar="GLOB",
        help="text, JSON lines (both also .gz, .zst), Parquet: a path, a directory, a quoted glob, or a URL (gs://, s3://, https://, ...); "
        "tfds:NAME/CONFIG:SPLIT or tfds:DIRECTORY:SPLIT, a TensorFlow data set on disk; hf:DIRECTORY:SPLIT, a Hugging Face one; "
        "`embedded`, the English that comes with Python. May be repeated",
    )
    command.add_argument(
        "--documents", choices=("blank-line", "line", "file"), default="blank-line",
        help="what separates documents in text files (default: a blank line)",
    )
    command.add_argument("--text-field", default="text", help="JSON field, column or feature that holds the text (default: text)")
    command.add_argument(
        "--on-error", choices=("fail", "skip"), default="fail",
        help="broken UTF-8, NUL bytes, files cut short: stop with the place (default), or skip, count and report",
    )
    command.add_argument("--min-characters", type=int, default=0, metavar="N", help="leave shorter documents out, counted (default: 0)")
    command.add_argument("--max-characters", type=int, default=0, metavar="N", help="leave longer documents out, counted (default: 0, no limit)")


def add_tokenizer(commands) -> None:
    def run(arguments):
        from data_pipeline.sources import corpus
        from data_pipeline.tokenization import tokenizers

        documents = corpus.Corpus(
            arguments.input, documents=arguments.documents, text_field=arguments.text_field, on_error=arguments.on_error,
            min_characters=arguments.min_characters, max_characters=arguments.max_characters,
        )
        tokenizer, coverage = tokenizers.train(
            documents, arguments.output, kind=arguments.kind, vocab_size=arguments.vocab_size,
            lowercase=False if arguments.cased else None,
        )
        print(f"{tokenizer.kind} tokenizer of {tokenizer.vocab_size:,} entries in {arguments.output}\n  on a sample of {coverage}")

    command = add_command(
        commands, "tokenizer", run, "Trains a tokenizer on raw text and writes it in Hugging Face layout.",
        "  bert-jax tokenizer --input='text/*.txt' --kind=wordpiece --vocab-size=30522 --output=tok\n"
        "  bert-jax tokenizer --input='text/*.txt' --kind=byte_bpe --output=tok\n"
        "  bert-jax tokenizer --input=embedded --kind=sentencepiece_unigram --vocab-size=8000 --output=tok",
    )
    add_corpus_options(command)
    command.add_argument(
        "--kind", choices=("wordpiece", "byte_bpe", "sentencepiece_unigram", "sentencepiece_bpe"), default="wordpiece",
        help="wordpiece as BERT (default), byte_bpe as RoBERTa, sentencepiece_unigram as ALBERT, sentencepiece_bpe",
    )
    command.add_argument(
        "--vocab-size", type=int, help="entries, special tokens included (default: 30522, 50265 or 30000: as BERT, RoBERTa or ALBERT)"
    )
    command.add_argument(
        "--cased", action="store_true", help="keep case and accents (default: drop both, as bert-base-uncased; byte_bpe always keeps them)"
    )
    command.add_argument("--output", required=True, metavar="DIR")


def add_extend_tokenizer(commands) -> None:
    def run(arguments):
        from data_pipeline.sources import corpus
        from data_pipeline.tokenization import tokenizers
        from data_pipeline.tokenization.extension import extend

        documents = corpus.Corpus(
            arguments.input, documents=arguments.documents, text_field=arguments.text_field, on_error=arguments.on_error,
            min_characters=arguments.min_characters, max_characters=arguments.max_characters,
        )
        extension = extend(tokenizers.load(arguments.tokenizer), documents, arguments.words)
        extension.tokenizer.save(arguments.output)
        print(f"{extension}\n  such as {', '.join(extension.words[:12])}")

    command = add_command(
        commands, "extend-tokenizer", run,
        "Adds the most frequent words of a domain's text that a WordPiece tokenizer cuts into pieces; all old ids stay.",
        "  bert-jax extend-tokenizer --tokenizer=bert-base-uncased --input='domain/*.txt' --words=2000 --output=tok\n"
        "  bert-jax import --from=bert-base-uncased --tokenizer=tok --workdir=runs/domain\n"
        "  bert-jax prepare --input='domain/*.txt' --tokenizer=tok --output=store",
    )
    add_corpus_options(command)
    command.add_argument("--tokenizer", required=True, metavar="DIR", help="a model's own: its Hugging Face directory, or WORKDIR/tokenizer")
    command.add_argument("--words", required=True, type=int, metavar="N", help="how many to add")
    command.add_argument("--output", required=True, metavar="DIR")


def add_prepare(commands) -> None:
    def run(arguments):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        from data_pipeline.preparation.prepare import prepare

        try:
            summary = prepare(
                arguments.input, arguments.tokenizer, arguments.output, workers=arguments.workers, holdout=arguments.holdout,
                documents=arguments.documents, text_field=arguments.text_field, on_error=arguments.on_error, language=arguments.language,
                min_characters=arguments.min_characters, max_characters=arguments.max_characters,
                deduplicate=arguments.deduplicate, shard_size=arguments.shard_size, overwrite=arguments.overwrite,
                runner=arguments.runner, runner_flags=arguments.runner_flag,
            )
        except KeyboardInterrupt:
            first = "" if arguments.runner == "local" else "see that no job of it goes on elsewhere, and "
            print(f"bert-jax prepare: stopped; finished shards are kept: {first}run the same command again to continue", file=sys.stderr)
            return 75
        print(summary)

    command = add_command(
        commands, "prepare", run,
        "Turns raw text into a token store. Killed, it continues where it was; the store depends neither on the number of workers nor on\n"
        "the runner.",
        "  bert-jax prepare --input='text/*.txt' --tokenizer=tok --output=store\n"
        "  bert-jax prepare --input='crawl/*.jsonl.gz' --text-field=content --on-error=skip --deduplicate --tokenizer=tok --output=store\n"
        "  bert-jax prepare --input='gs://bucket/text/*.gz' --tokenizer=tok --output=gs://bucket/store --runner=DataflowRunner \\\n"
        "      --runner-flag=--project=P --runner-flag=--region=R ...     (docs/scale.md)",
    )
    add_corpus_options(command)
    command.add_argument("--tokenizer", required=True, metavar="DIR", help="from `bert-jax tokenizer`, or any directory with tokenizer.json, vocab.txt, vocab.json and merges.txt, or spiece.model")
    command.add_argument("--output", required=True, metavar="DIR", help="a directory, or a URL that fsspec knows, such as gs://bucket/store")
    command.add_argument("--workers", type=int, default=None, help="processes of a local run (default: one per core)")
    command.add_argument("--deduplicate", action="store_true", help="leave out all copies of a document but the first")
    command.add_argument("--holdout", type=float, default=0.01, help="share of documents kept for evaluation, chosen by their hash (default: 0.01)")
    command.add_argument(
        "--language", default="en", metavar="CODE",
        help="of the text, for the sentence splitter, which has common rules for one that it does not know (default: en)",
    )
    command.add_argument("--shard-size", type=int, default=16_000_000, help="characters of text per shard (default: 16000000)")
    command.add_argument("--overwrite", action="store_true", help="start afresh where a store with other settings stands")
    command.add_argument(
        "--runner", default="local", metavar="NAME",
        help="local (default), or on Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner (needs bert-jax[beam])",
    )
    command.add_argument(
        "--runner-flag", action="append", default=[], metavar="FLAG", help="an option of the Beam runner, such as --project=P; may be repeated"
    )


def add_doctor(commands) -> None:
    def run(arguments):
        config = load_config(arguments)
        if arguments.print_config:
            return print_config(config)
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
    def run(arguments):
        config = load_config(arguments)
        if arguments.print_config:
            return print_config(config)
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


def add_export(commands) -> None:
    def run(arguments):
        from launch.exchange import export

        export(Path(arguments.workdir), Path(arguments.output), step=arguments.step, check=arguments.verify, pooling=arguments.pooling)

    command = add_command(
        commands, "export", run, "Writes a checkpoint as a Hugging Face directory: safetensors, config, tokenizer, model card.",
        "  bert-jax export --workdir=runs/mini --output=mini --verify\n"
        "  bert-jax export --workdir=runs/mini --output=sentences --pooling=mean --verify     (for sentence-transformers)",
    )
    command.add_argument("--workdir", required=True, metavar="DIR")
    command.add_argument("--output", required=True, metavar="DIR")
    command.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    command.add_argument(
        "--verify", action="store_true",
        help="load it with stock transformers, compare every layer and the logits, and refuse on mismatch (needs bert-jax[torch])",
    )
    command.add_argument(
        "--pooling", choices=("mean", "cls", "max"),
        help="the encoder alone, as a model of sentence-transformers: the vector of a text is the mean or the largest of its tokens', or the first token's",
    )


def add_import(commands) -> None:
    def run(arguments):
        from launch.exchange import import_model

        import_model(Path(getattr(arguments, "from")), Path(arguments.workdir), tokenizer=None if arguments.tokenizer is None else Path(arguments.tokenizer))

    command = add_command(
        commands, "import", run,
        "Reads a BERT, RoBERTa, XLM-R, ALBERT, ELECTRA, DistilBERT, ModernBERT, Longformer or BigBird into a workdir for continued pretraining. Missing pretraining heads are initialised, and it says so.",
        "  bert-jax import --from=bert-base-uncased --workdir=runs/domain\n"
        "  bert-jax import --from=uncased_L-12_H-768_A-12 --workdir=runs/domain     (bert_model.ckpt + bert_config.json + vocab.txt)",
    )
    command.add_argument("--from", required=True, metavar="DIR", help="a Hugging Face directory, or an original TensorFlow checkpoint's")
    command.add_argument("--workdir", required=True, metavar="DIR")
    command.add_argument("--tokenizer", metavar="DIR", help="of `bert-jax extend-tokenizer`: rows of its further words begin as the mean of their old pieces'")


def add_grow(commands) -> None:
    def run(arguments):
        config = load_config(arguments)
        if arguments.print_config:
            return print_config(config)
        from launch.first_weights import grow_model

        grow_model(Path(getattr(arguments, "from")), config, Path(arguments.workdir))

    command = add_command(
        commands, "grow", run, "Starts a larger model from a smaller one: of its family, by tiling (ModernBERT-large from base); for longer inputs, by copied positions (Longformer from RoBERTa).",
        "  bert-jax grow --from=runs/modernbert_base --config=configs/modernbert_large.py --workdir=runs/modernbert_large\n"
        "  bert-jax pretrain --config=configs/modernbert_large.py --workdir=runs/modernbert_large --config.data.path=store\n"
        "  bert-jax grow --from=roberta-base --config=configs/longformer_base.py --workdir=runs/longformer",
    )
    command.add_argument("--from", required=True, metavar="DIR", help="the smaller model: a workdir or a Hugging Face directory")
    add_config_options(command)
    command.add_argument("--workdir", required=True, metavar="DIR")


def add_fill_mask(commands) -> None:
    def run(arguments):
        from launch.fill_mask import print_predictions

        print_predictions(Path(arguments.model), arguments.text or [line.rstrip("\n") for line in sys.stdin], arguments.top)

    command = add_command(
        commands, "fill-mask", run, "Predicts the words behind [MASK], which may also be written as the model's own mask token, such as <mask>.",
        "  bert-jax fill-mask --model=mini 'The file could not be [MASK].'\n  bert-jax fill-mask --model=runs/mini --top=3 < sentences.txt",
    )
    command.add_argument("--model", required=True, metavar="DIR", help="an exported directory or a workdir")
    command.add_argument("--top", type=int, default=5, help="predictions per mask (default: 5)")
    command.add_argument("text", nargs="*", metavar="TEXT", help="sentences with [MASK]; read from standard input if none is given")


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


def add_record(commands) -> None:
    def run(arguments):
        config = load_config(arguments)
        if arguments.print_config:
            return print_config(config)
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


def add_report(commands) -> None:
    def run(arguments):
        from launch.report.report import write_report

        print(write_report(Path(arguments.workdir)))

    command = add_command(
        commands, "report", run, "Writes WORKDIR/report.html: curves, samples, config and environment in one self-contained page.",
        "  bert-jax report --workdir=runs/mini",
    )
    command.add_argument("--workdir", required=True, metavar="DIR")


if __name__ == "__main__":
    sys.exit(main())
