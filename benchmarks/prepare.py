"""Corpus preparation against the fast tokenizer of transformers on the same text: MB/s per core, and peak memory of all processes.

    python benchmarks/prepare.py [PATH ...] [--megabytes=10] [--workers=1]

Without a path the embedded corpus is read. Ours is the whole of `prepare` (reading, sentences, tokens, shards on disk); theirs is
tokenising alone, a batch of documents' lines at a time. Rates are per second of processor time, so that a busy machine disturbs less.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core

import psutil

from data_pipeline.sources import corpus
from data_pipeline.tokenization import tokenizers

_PREPARE = """
import sys
from data_pipeline.preparation.prepare import prepare
if __name__ == "__main__":
    text, tokenizer, output, workers = sys.argv[1:]
    prepare(text, tokenizer, output, workers=int(workers), progress=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", default=["embedded"])
    parser.add_argument("--documents", default="blank-line")
    parser.add_argument("--tokenizer", help="a tokenizer's directory; without it one of 30,522 words is trained on the text")
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        documents = list(_take(corpus.Corpus(arguments.paths, documents=arguments.documents), arguments.megabytes * 1e6))
        (directory / "text.txt").write_text("\n\n".join(documents), encoding="utf-8")
        megabytes = (directory / "text.txt").stat().st_size / 1e6
        tokenizer_dir = str(directory / "tokenizer")
        if arguments.tokenizer is None:
            tokenizers.train(documents, tokenizer_dir)
        else:
            tokenizers.load(arguments.tokenizer).save(tokenizer_dir)
        ours, wall, memory = _ours(directory, tokenizer_dir, arguments.workers)
        theirs = _theirs(documents, tokenizer_dir)
    print(f"text: {megabytes:.1f} MB, {len(documents):,} documents")
    together = f"{megabytes / wall:.2f} MB/s with {arguments.workers} workers, peak {memory:.0f} MB"
    print(f"prepare: {megabytes / ours:.2f} MB/s per core; {together}")
    print(f"transformers, tokenising alone: {megabytes / theirs:.2f} MB/s per core; ratio {theirs / ours:.1f}")


def _take(documents: Iterable[str], size: float) -> Iterator[str]:
    held = 0
    for document in documents:
        yield document
        held += len(document)
        if held >= size:
            return


def _ours(directory: Path, tokenizer_dir: str, workers: int) -> tuple[float, float, float]:
    """Processor seconds, seconds, and peak megabytes of the whole process tree, sampled; shared pages count once (PSS)."""
    script = directory / "run_prepare.py"
    script.write_text(_PREPARE)
    command = [sys.executable, str(script), str(directory / "text.txt"), tokenizer_dir, str(directory / "store"), str(workers)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    peak, processor = 0, {}
    while process.poll() is None:
        memory = 0
        try:
            parent = psutil.Process(process.pid)
            for one in [parent, *parent.children(recursive=True)]:
                times = one.cpu_times()
                processor[one.pid] = times.user + times.system
                memory += one.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            pass
        peak = max(peak, memory)
        time.sleep(0.02)
    wall = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"prepare failed with exit code {process.returncode}")
    return sum(processor.values()), wall, peak / 1e6


def _theirs(documents: list[str], tokenizer_dir: str) -> float:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir, model_max_length=10**9)
    started = time.process_time()
    for start in range(0, len(documents), 100):
        lines = [line for document in documents[start : start + 100] for line in document.split("\n")]
        tokenizer(lines, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)
    return time.process_time() - started


if __name__ == "__main__":
    main()
