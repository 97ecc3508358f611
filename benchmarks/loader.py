"""Sequences per second and core: this loader beside transformers' DataCollatorForLanguageModeling over the same sequences.

    python benchmarks/loader.py [--store STORE] [--length 128 512] [--choice tokens whole_words] [--batch_size 256] [--rounds 5]

The loader reads the memory-mapped store, orders, masks and batches; the collator gets its sequences ready-made in memory, as lists (what a
`datasets` data set hands out) and as tensors, and masks and batches. Both are timed in turn in one process; the best round counts. "CPU" is
process time, all threads, so sequences per CPU second are sequences per second and core. Without --store the store is made from Python's
own documentation, cut into pieces of at most four letters: 1.38 tokens a word. The collator always chooses single tokens.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tokenizers
import torch
import transformers

from data_pipeline.batches.loader import Loader
from data_pipeline.batches.masking import MaskingSpec
from data_pipeline.sequences.packing import Sequences
from data_pipeline.stores.store import TokenStore

PREDICTIONS = {128: 20, 512: 77}


def loader_batches(store: str, length: int, choice: str, batch_size: int, workers: int) -> Iterator:
    masking = MaskingSpec(predictions=PREDICTIONS.get(length, round(0.15 * length)), choice=choice)
    return Loader(store, batch_size=batch_size, length=length, masking=masking, seed=0, workers=workers).batches(0)


def collator_batches(store: TokenStore, length: int, batch_size: int, tensors: bool) -> Iterator:
    rows = Sequences(store, kind="segment_pairs", length=length)
    gathered = rows.gather(np.random.default_rng(0).integers(0, len(rows), 4 * batch_size))
    names = {number: f"[{name}]" for name, number in store.special.items()}
    vocabulary = {names.get(number, f"token{number}"): number for number in range(store.vocab_size)}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[unk]")),
        **{f"{name}_token": f"[{name}]" for name in store.special},
    )
    fields = {
        "input_ids": gathered.input_ids.astype(np.int64),
        "token_type_ids": gathered.token_type_ids.astype(np.int64),
        "attention_mask": gathered.segment_ids.astype(np.int64),
        "special_tokens_mask": np.isin(gathered.input_ids, list(store.special.values())).astype(np.int64),
    }
    convert = torch.from_numpy if tensors else np.ndarray.tolist
    examples = [{name: convert(array[row]) for name, array in fields.items()} for row in range(len(gathered.input_ids))]
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    while True:
        yield from torch.utils.data.DataLoader(examples, batch_size=batch_size, shuffle=True, collate_fn=collator)


def seconds_to_batch(store: str, length: int, batch_size: int, step: int) -> float:
    """From nothing to the batch of a far step: opening the store and its plan, which is there already, and building the batch."""
    began = time.perf_counter()
    masking = MaskingSpec(predictions=PREDICTIONS.get(length, round(0.15 * length)))
    Loader(store, batch_size=batch_size, length=length, masking=masking, seed=0).batch(step)
    return time.perf_counter() - began


def measure(contenders: dict[str, Iterator], batch_size: int, rounds: int, seconds: float = 1.0) -> dict[str, tuple[float, float]]:
    """Best sequences per CPU second and per wall second of each."""
    best = {name: (0.0, 0.0) for name in contenders}
    for batches in contenders.values():
        for _ in range(10):
            next(batches)
    for _ in range(rounds):
        for name, batches in contenders.items():
            count, cpu, wall = 0, time.process_time(), time.perf_counter()
            while count < 4 or time.perf_counter() - wall < seconds:
                next(batches)
                count += 1
            rates = [count * batch_size / spent for spent in (time.process_time() - cpu, time.perf_counter() - wall)]
            best[name] = tuple(np.maximum(best[name], rates))
            time.sleep(0.2)  # what a prefetching loader still builds must not count against the next
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="a token store; by default one of Python's documentation")
    parser.add_argument("--length", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--choice", nargs="+", default=["tokens"], help="of masking, such as tokens whole_words ngrams:3 spans:0.2:10")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.store is None:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        from tests.data_pipeline.docstring_stores import word_pieces

        arguments.store = str(word_pieces())
    store = TokenStore(arguments.store)
    print(f"{store!r}, batches of {arguments.batch_size}, {os.cpu_count()} cores")
    for length in arguments.length:
        contenders = {
            f"loader, {choice}, {workers} worker(s)": loader_batches(arguments.store, length, choice, arguments.batch_size, workers)
            for choice in arguments.choice
            for workers in (1, 2)
        } | {
            "collator, lists": collator_batches(store, length, arguments.batch_size, tensors=False),
            "collator, tensors": collator_batches(store, length, arguments.batch_size, tensors=True),
        }
        best = measure(contenders, arguments.batch_size, arguments.rounds)
        for name, (cpu, wall) in best.items():
            print(f"length {length:4d}  {name:34s} {cpu:9,.0f} sequences/s per core  {wall:9,.0f} sequences/s wall")
        theirs = max(cpu for name, (cpu, _) in best.items() if name.startswith("collator"))
        for choice in arguments.choice:
            ours = max(cpu for name, (cpu, _) in best.items() if name.startswith(f"loader, {choice},"))
            print(f"length {length:4d}  {choice}: ratio to the faster collator, per core: {ours / theirs:.1f}")
        print(f"length {length:4d}  batch of step 10,000,000, opening included: {seconds_to_batch(arguments.store, length, arguments.batch_size, 10**7):.3f} s")


if __name__ == "__main__":
    main()
