"""The commands from raw text to a token store: tokenizer, extend-tokenizer, prepare."""

import argparse
import signal
import sys

from launch.commands.parts import add_command


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
