"""The `bert-jax` command: every subcommand, its options and examples. Each is one function of `launch/`, imported when it is called."""

import argparse
import logging
import os
import sys
from pathlib import Path

RAW = argparse.RawDescriptionHelpFormatter


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand; returns the exit status: 0 done, 1 an error in words, 2 bad usage, 75 stopped by a signal with everything saved.

    BERT_JAX_TRACEBACK=1 in the environment shows an error's traceback.
    """
    arguments, overrides = make_parser().parse_known_args(argv)
    unknown = [word for word in overrides if not (word.startswith("--config.") and arguments.command in ("pretrain", "record"))]
    if unknown and any(word.startswith("--config.") and "=" not in word for word in overrides):
        make_parser().error(f"write overrides with an equals sign: --config.FIELD=VALUE (near {unknown[0]})")
    if unknown:
        make_parser().error(f"unknown argument {unknown[0]} for `bert-jax {arguments.command}` (see bert-jax {arguments.command} --help)")
    arguments.overrides = [word.removeprefix("--") for word in overrides]
    quiet_libraries()
    try:
        return arguments.run(arguments) or 0
    except (ValueError, OSError, FloatingPointError, ImportError, RuntimeError) as error:
        if os.environ.get("BERT_JAX_TRACEBACK"):
            raise
        print(f"bert-jax {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"bert-jax {arguments.command}: interrupted", file=sys.stderr)
        return 130


def quiet_libraries() -> None:
    """Our own log on stderr; TensorFlow's, absl's and Orbax's chatter only from warnings up."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
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
    add_prepare(commands)
    add_pretrain(commands)
    add_evaluate(commands)
    add_export(commands)
    add_import(commands)
    add_fill_mask(commands)
    add_inspect(commands)
    add_record(commands)
    add_report(commands)
    return parser


def add_command(commands, name: str, run, summary: str, example: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary, epilog=f"examples:\n{example}", formatter_class=RAW, allow_abbrev=False)
    command.set_defaults(run=run)
    return command


def add_corpus_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--input", required=True, action="append", metavar="GLOB",
        help="text, .jsonl or .gz files: a path, a quoted glob or a directory; may be repeated. `embedded`: the English that comes with Python",
    )
    command.add_argument(
        "--documents", choices=("blank-line", "line", "file"), default="blank-line",
        help="what separates documents in text files (default: a blank line)",
    )
    command.add_argument("--text-field", default="text", help="field of JSONL records that holds the text (default: text)")
    command.add_argument(
        "--on-error", choices=("fail", "skip"), default="fail",
        help="broken UTF-8, NUL bytes, cut gz files: stop with the place (default), or skip, count and report",
    )


def add_tokenizer(commands) -> None:
    def run(arguments):
        from data_pipeline import corpus, tokenizers

        documents = corpus.Corpus(
            arguments.input, documents=arguments.documents, text_field=arguments.text_field, on_error=arguments.on_error
        )
        tokenizer, coverage = tokenizers.train(
            documents, arguments.output, kind=arguments.kind, vocab_size=arguments.vocab_size, lowercase=not arguments.cased
        )
        print(f"{tokenizer.kind} tokenizer of {tokenizer.vocab_size:,} entries in {arguments.output}\n  on a sample of {coverage}")

    command = add_command(
        commands, "tokenizer", run, "Trains a tokenizer on raw text and writes it in Hugging Face layout.",
        "  bert-jax tokenizer --input='text/*.txt' --kind=wordpiece --vocab-size=30522 --output=tok\n"
        "  bert-jax tokenizer --input=embedded --vocab-size=8000 --output=tok",
    )
    add_corpus_options(command)
    command.add_argument("--kind", choices=("wordpiece",), default="wordpiece", help="default: wordpiece")
    command.add_argument("--vocab-size", type=int, default=30_522, help="entries, special tokens included (default: 30522, as BERT)")
    command.add_argument("--cased", action="store_true", help="keep case and accents (default: lowercase, as bert-base-uncased)")
    command.add_argument("--output", required=True, metavar="DIR")


def add_prepare(commands) -> None:
    def run(arguments):
        from data_pipeline.prepare import prepare

        summary = prepare(
            arguments.input, arguments.tokenizer, arguments.output, workers=arguments.workers, holdout=arguments.holdout,
            documents=arguments.documents, text_field=arguments.text_field, on_error=arguments.on_error, language=arguments.language,
            shard_size=arguments.shard_size, overwrite=arguments.overwrite,
        )
        print(summary)

    command = add_command(
        commands, "prepare", run,
        "Turns raw text into a token store. Killed, it continues where it was; the store does not depend on the number of workers.",
        "  bert-jax prepare --input='text/*.txt' --tokenizer=tok --output=store\n"
        "  bert-jax prepare --input='crawl/*.jsonl.gz' --text-field=content --on-error=skip --tokenizer=tok --output=store --workers=16",
    )
    add_corpus_options(command)
    command.add_argument("--tokenizer", required=True, metavar="DIR", help="from `bert-jax tokenizer`, or any directory with tokenizer.json or vocab.txt")
    command.add_argument("--output", required=True, metavar="DIR")
    command.add_argument("--workers", type=int, default=None, help="processes (default: one per core)")
    command.add_argument("--holdout", type=float, default=0.01, help="share of documents kept for evaluation, chosen by their hash (default: 0.01)")
    command.add_argument("--language", default="en", metavar="CODE", help="of the text, for the sentence splitter (default: en)")
    command.add_argument("--shard-size", type=int, default=16_000_000, help="characters of text per shard (default: 16000000)")
    command.add_argument("--overwrite", action="store_true", help="start afresh where a store with other settings stands")


def add_config_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", required=True, metavar="FILE", help="a config file, such as configs/bert_base.py, or the name of one")
    command.add_argument("--print-config", action="store_true", help="print the resolved config as JSON and stop")


def load_config(arguments) -> dict:
    from launch import config

    return config.load(arguments.config, arguments.overrides)


def print_config(config: dict) -> None:
    import json

    print(json.dumps(config, indent=2))


def add_pretrain(commands) -> None:
    def run(arguments):
        config = load_config(arguments)
        if arguments.print_config:
            return print_config(config)
        if arguments.workdir is None:
            raise ValueError("give a --workdir: where checkpoints, logs and the report go")
        from launch.pretrain import pretrain

        return pretrain(config, Path(arguments.workdir), accept_changes=arguments.accept_changes)

    from launch.config import describe_fields

    command = add_command(
        commands, "pretrain", run,
        "Pretrains a model. Run again on the same workdir, it continues from the newest whole checkpoint.\n"
        "Exit status: 0 finished; 75 stopped by SIGTERM or SIGINT with the state saved (run the same command again); 1 an error.",
        "  bert-jax pretrain --config=configs/bert_mini.py --workdir=runs/mini --config.data.path=store\n"
        "  bert-jax pretrain --config=configs/bert_base.py --workdir=runs/base --config.data.path=store --config.batch_size=64\n"
        "  bert-jax pretrain --config=configs/bert_base.py --print-config\n\nconfig fields, set by --config.FIELD=VALUE:\n" + describe_fields(),
    )
    add_config_options(command)
    command.add_argument("--workdir", metavar="DIR", help="checkpoints, logs, tokenizer, config.json and report.html")
    command.add_argument("--accept-changes", action="store_true", help="continue a workdir's run although its config or data differ")


def add_evaluate(commands) -> None:
    def run(arguments):
        from launch.evaluate import evaluate_workdir

        evaluate_workdir(Path(arguments.workdir), step=arguments.step, data_path=arguments.data)

    command = add_command(
        commands, "evaluate", run, "Held-out loss, perplexity and accuracies of a checkpoint, beside the unigram baseline.",
        "  bert-jax evaluate --workdir=runs/mini\n  bert-jax evaluate --workdir=runs/mini --step=5000",
    )
    command.add_argument("--workdir", required=True, metavar="DIR")
    command.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    command.add_argument("--data", metavar="STORE", help="another token store, made with the same tokenizer")


def add_export(commands) -> None:
    def run(arguments):
        from launch.exchange import export

        export(Path(arguments.workdir), Path(arguments.output), step=arguments.step, check=arguments.verify)

    command = add_command(
        commands, "export", run, "Writes a checkpoint as a Hugging Face directory: safetensors, config, tokenizer, model card.",
        "  bert-jax export --workdir=runs/mini --output=mini --verify",
    )
    command.add_argument("--workdir", required=True, metavar="DIR")
    command.add_argument("--output", required=True, metavar="DIR")
    command.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    command.add_argument(
        "--verify", action="store_true",
        help="load it with stock transformers, compare every layer and the logits, and refuse on mismatch (needs bert-jax[torch])",
    )


def add_import(commands) -> None:
    def run(arguments):
        from launch.exchange import import_model

        import_model(Path(getattr(arguments, "from")), Path(arguments.workdir))

    command = add_command(
        commands, "import", run,
        "Reads a BERT into a workdir for continued pretraining. Missing pretraining heads are initialised, and it says so.",
        "  bert-jax import --from=bert-base-uncased --workdir=runs/domain\n"
        "  bert-jax import --from=uncased_L-12_H-768_A-12 --workdir=runs/domain     (bert_model.ckpt + bert_config.json + vocab.txt)",
    )
    command.add_argument("--from", required=True, metavar="DIR", help="a Hugging Face BERT directory, or an original TensorFlow checkpoint's")
    command.add_argument("--workdir", required=True, metavar="DIR")


def add_fill_mask(commands) -> None:
    def run(arguments):
        from launch.fill_mask import print_predictions

        print_predictions(Path(arguments.model), arguments.text or [line.rstrip("\n") for line in sys.stdin], arguments.top)

    command = add_command(
        commands, "fill-mask", run, "Predicts the words behind [MASK].",
        "  bert-jax fill-mask --model=mini 'The file could not be [MASK].'\n  bert-jax fill-mask --model=runs/mini --top=3 < sentences.txt",
    )
    command.add_argument("--model", required=True, metavar="DIR", help="an exported directory or a workdir")
    command.add_argument("--top", type=int, default=5, help="predictions per mask (default: 5)")
    command.add_argument("text", nargs="*", metavar="TEXT", help="sentences with [MASK]; read from standard input if none is given")


def add_inspect(commands) -> None:
    def run(arguments):
        from launch.inspect_path import inspect_path

        inspect_path(Path(arguments.path), rows=arguments.rows, step=arguments.step, length=arguments.length, sequences=arguments.sequences)

    command = add_command(
        commands, "inspect", run, "Shows what a token store, recorded batches, a workdir or an exported model holds, with decoded masked batches.",
        "  bert-jax inspect store --length=64 --rows=3\n  bert-jax inspect runs/mini --step=1200",
    )
    command.add_argument("path", metavar="PATH")
    command.add_argument("--rows", type=int, default=2, help="rows of the batch to decode (default: 2; 0: none)")
    command.add_argument("--step", type=int, default=0, help="which batch (default: 0)")
    command.add_argument("--length", type=int, default=128, help="tokens per sequence, for a store (default: 128)")
    command.add_argument("--sequences", choices=("segment_pairs", "full_sentences"), default="segment_pairs", help="how a store is cut into sequences")


def add_record(commands) -> None:
    def run(arguments):
        config = load_config(arguments)
        if arguments.print_config:
            return print_config(config)
        from launch.record import record

        record(config, Path(arguments.output), batches=arguments.batches)

    command = add_command(
        commands, "record", run,
        "Writes a config's first batches, masked once and for all: static masking, and training where TensorFlow is absent.",
        "  bert-jax record --config=configs/bert_base.py --config.data.path=store --batches=1000 --output=recorded\n"
        "  bert-jax pretrain --config=configs/bert_base.py --workdir=run --config.data.path=recorded",
    )
    add_config_options(command)
    command.add_argument("--output", required=True, metavar="DIR")
    command.add_argument("--batches", type=int, required=True, help="how many; they are repeated in training")


def add_report(commands) -> None:
    def run(arguments):
        from launch.report import write_report

        print(write_report(Path(arguments.workdir)))

    command = add_command(
        commands, "report", run, "Writes WORKDIR/report.html: curves, samples, config and environment in one self-contained page.",
        "  bert-jax report --workdir=runs/mini",
    )
    command.add_argument("--workdir", required=True, metavar="DIR")


if __name__ == "__main__":
    sys.exit(main())
