"""Corpus preparation and input pipeline beside those of google-research/bert, on the same text, in one run.

    git clone https://github.com/google-research/bert google_research_bert
    python benchmarks/google_research.py --peer=google_research_bert TEXT ... [--megabytes=2] [--length 128 512] [--rounds=3]

Theirs is create_pretraining_data.py (text with a sentence a line -> TFRecords of masked pairs) and the input_fn of run_pretraining.py over those records.
It is run with dupe_factor 1, the least work that it can be given, and 10, its default, which is how it gets ten different masks. Their files are copied aside and told to import tensorflow.compat.v1; tf.contrib's two
data functions, which TensorFlow 2 lacks, become their successors in tf.data. Ours is `prepare` (raw text -> sentences -> token store) with the plan
of its segment pairs, and the loader, which masks anew in every epoch. Rates are per second of processor time, all threads, best of the rounds.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from data_pipeline.batches.loader import Loader
from data_pipeline.batches.masking import MaskingSpec
from data_pipeline.preparation.prepare import prepare
from data_pipeline.sources import corpus
from data_pipeline.tokenization import sentences, tokenizers

PREDICTIONS = {128: 20, 512: 77}
BATCH_SIZE = 256
FILES = ("create_pretraining_data.py", "tokenization.py", "run_pretraining.py", "modeling.py", "optimization.py")
SUCCESSORS = {
    "import tensorflow as tf": "import tensorflow.compat.v1 as tf",
    "tf.contrib.data.parallel_interleave": "tf.data.experimental.parallel_interleave",
    "tf.contrib.data.map_and_batch": "tf.data.experimental.map_and_batch",
}
CREATE = """
import sys, time
import create_pretraining_data as peer
began = time.process_time()
peer.FLAGS(sys.argv)
peer.tf.logging.set_verbosity(peer.tf.logging.ERROR)
peer.tf.logging.info = lambda *_: None
peer.tf.logging.set_verbosity = lambda *_: None
peer.main(None)
print("CPU", time.process_time() - began)
"""
READ = """
import sys, time
import run_pretraining as peer
records, length, predictions, batch_size, seconds = sys.argv[1], *map(int, sys.argv[2:])
dataset = peer.input_fn_builder([records], length, predictions, is_training=True)({"batch_size": batch_size})
batches = iter(dataset)
for _ in range(10):
    next(batches)
count, cpu, wall = 0, time.process_time(), time.perf_counter()
while time.perf_counter() - wall < seconds:
    next(batches)
    count += 1
print("RATE", count * batch_size / (time.process_time() - cpu))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="TEXT")
    parser.add_argument("--peer", type=Path, required=True, help="a clone of github.com/google-research/bert")
    parser.add_argument("--tokenizer", help="a BERT tokenizer's directory; without it an uncased one of 30,522 entries is trained on the text")
    parser.add_argument("--megabytes", type=float, default=2)
    parser.add_argument("--length", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--dupe_factor", type=int, nargs="+", default=[1, 10], help="theirs; the last one's records are read")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        copy_peer(arguments.peer, directory)
        documents = take(arguments.paths, arguments.megabytes * 1e6)
        (directory / "text.txt").write_text("\n\n".join(documents), encoding="utf-8")
        lines = ("\n".join(line.strip() for line in sentences.split(document, "en") if line.strip()) for document in documents)
        (directory / "sentences.txt").write_text("\n\n".join(lines), encoding="utf-8")
        megabytes = (directory / "text.txt").stat().st_size / 1e6
        if arguments.tokenizer is None:
            tokenizers.train(documents, directory / "tokenizer")
        else:
            tokenizers.load(arguments.tokenizer).save(directory / "tokenizer")
        print(f"{megabytes:.1f} MB of text, {len(documents):,} documents, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for length in arguments.length:
            compare(directory, length, megabytes, arguments.rounds, arguments.dupe_factor)


def copy_peer(peer: Path, directory: Path) -> None:
    for name in FILES:
        if not (peer / name).is_file():
            sys.exit(f"--peer={peer} has no {name}; clone https://github.com/google-research/bert and name that directory")
        text = (peer / name).read_text(encoding="utf-8")
        for old, new in SUCCESSORS.items():
            text = text.replace(old, new)
        (directory / name).write_text(text, encoding="utf-8")
    (directory / "create.py").write_text(CREATE)
    (directory / "read.py").write_text(READ)


def take(paths: list[str], size: float) -> list[str]:
    documents, held = [], 0
    for document in corpus.Corpus(paths):
        documents.append(document)
        held += len(document)
        if held >= size:
            break
    return documents


def compare(directory: Path, length: int, megabytes: float, rounds: int, dupe_factors: list[int]) -> None:
    predictions = PREDICTIONS.get(length, round(0.15 * length))
    records = directory / f"records-{length}"
    theirs_made, ours_made, theirs_read, ours_read = {factor: [] for factor in dupe_factors}, [], [], []
    for _ in range(rounds):
        for factor, rates in theirs_made.items():
            rates.append(megabytes / their_preparation(directory, records, length, predictions, factor))
        ours_made.append(megabytes / our_preparation(directory, length))
        theirs_read.append(run(directory, "read.py", "RATE", [str(records), *map(str, (length, predictions, BATCH_SIZE, 3))]))
        ours_read.append(our_rate(directory, length, predictions))
    for factor, rates in theirs_made.items():
        tell(f"length {length:3d}  preparation, dupe_factor {factor:2d}", rates, ours_made, "MB/s")
    tell(f"length {length:3d}  input pipeline", theirs_read, ours_read, "sequences/s")


def tell(what: str, theirs: list[float], ours: list[float], unit: str) -> None:
    print(f"{what:38s} google-research {max(theirs):10,.3f}  bert_jax {max(ours):10,.3f} {unit} per core   {max(ours) / max(theirs):,.1f} x", flush=True)


def their_preparation(directory: Path, records: Path, length: int, predictions: int, dupe_factor: int) -> float:
    flags = [
        f"--input_file={directory / 'sentences.txt'}", f"--output_file={records}", f"--vocab_file={directory / 'tokenizer' / 'vocab.txt'}", "--do_lower_case=True",
        f"--max_seq_length={length}", f"--max_predictions_per_seq={predictions}", f"--dupe_factor={dupe_factor}", "--masked_lm_prob=0.15", "--random_seed=12345",
    ]
    return run(directory, "create.py", "CPU", flags)


def our_preparation(directory: Path, length: int) -> float:
    """Processor seconds of prepare, in this process, and of the plan that the loader makes of its store."""
    shutil.rmtree(directory / "store", ignore_errors=True)
    began = time.process_time()
    prepare(directory / "text.txt", directory / "tokenizer", directory / "store", workers=1, holdout=0.0, progress=False)
    Loader(directory / "store", batch_size=BATCH_SIZE, length=length, masking=MaskingSpec(), seed=0)
    return time.process_time() - began


def our_rate(directory: Path, length: int, predictions: int) -> float:
    batches = Loader(directory / "store", batch_size=BATCH_SIZE, length=length, masking=MaskingSpec(predictions=predictions), seed=0, workers=1).batches(0)
    for _ in range(10):
        next(batches)
    count, cpu, wall = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - wall < 3:
        next(batches)
        count += 1
    rate = count * BATCH_SIZE / (time.process_time() - cpu)
    batches.close()
    return rate


def run(directory: Path, script: str, label: str, arguments: list[str]) -> float:
    ended = subprocess.run([sys.executable, script, *arguments], cwd=directory, capture_output=True, text=True)
    figures = [line.split()[1] for line in ended.stdout.splitlines() if line.startswith(label)]
    if ended.returncode or not figures:
        sys.exit(f"{script} failed:\n{ended.stderr[-2000:]}")
    return float(figures[0])


if __name__ == "__main__":
    main()
