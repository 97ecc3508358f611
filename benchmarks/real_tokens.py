"""How much of the rows is not padding, and how much of the text they hold, for each kind of sequences.

    python benchmarks/real_tokens.py STORE ... [--length 128 512]

Real tokens: the share of all positions that are not padding, special tokens included. Text: tokens in an epoch's rows per token of the
corpus; it exceeds 1 where random segments repeat text, and falls below where long segments are trimmed. Pieces: per row. Plan: sentences
a second of processor time. Each plan is made anew, in a temporary directory with links to the store.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from data_pipeline.sequences import plans
from data_pipeline.sequences.packing import Sequences
from data_pipeline.stores.store import TokenStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="+", metavar="STORE")
    parser.add_argument("--length", type=int, nargs="+", default=[128, 512])
    arguments = parser.parse_args()
    for directory in map(Path, arguments.stores):
        print(f"\n{directory.name}: {TokenStore(directory).num_tokens:,} tokens\n")
        print("| length | sequences | rows | real tokens | text | pieces | plan, sentences/s |\n|---|---|---|---|---|---|---|")
        for length in arguments.length:
            for kind in plans.KINDS:
                with tempfile.TemporaryDirectory() as temporary:
                    for part in directory.iterdir():
                        if part.name != "plans":
                            (Path(temporary) / part.name).symlink_to(part.absolute())
                    store = TokenStore(temporary)
                    start = time.process_time()
                    sequences = Sequences(store, kind=kind, length=length)
                    rate = store.num_sentences / (time.process_time() - start)
                rows, pieces = len(sequences), len(sequences.lengths)
                text = int(sequences.lengths.sum(dtype=np.int64))
                real = text + (2 * pieces if sequences.packed else rows + pieces)
                print(
                    f"| {length} | `{kind}` | {rows:,} | {real / (rows * length):.4f} | {text / store.num_tokens:.3f} "
                    f"| {pieces / rows:.2f} | {rate / 1e6:.1f} million |"
                )


if __name__ == "__main__":
    main()
