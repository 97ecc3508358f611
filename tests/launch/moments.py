"""`python -m tests.launch.moments COMMAND ...` is `bert-jax COMMAND ...` that stays long at the moment named by the variable MOMENT, having said "at MOMENT".

RANK: of which process, if it is not all. In C code no handler of a signal runs, as in XLA.
"""

import hashlib
import os
import sys
import time

import numpy as np

import bert_jax.training.checkpoint_files
import launch.held_out
import launch.pretrain
from bert_jax.recorded import RecordedBatches
from bert_jax.training.checkpoint import Checkpoints
from launch.cli import main

SLOW_BATCH = 0.2  # seconds


def arrive() -> None:
    print(f"at {os.environ['MOMENT']}", file=sys.stderr, flush=True)


def stay_in_c_code() -> None:
    arrive()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)


def in_front(function, do):
    def changed(*arguments, **named):
        do()
        return function(*arguments, **named)

    return changed


def compiling() -> None:
    make = launch.pretrain.step_of
    launch.pretrain.step_of = lambda *arguments, **named: in_front(make(*arguments, **named), stay_in_c_code)


def restoring() -> None:
    Checkpoints.restore = in_front(Checkpoints.restore, stay_in_c_code)


def evaluating() -> None:
    """Batches that take long, of an evaluation that takes minutes."""
    make = launch.held_out.make_eval_step

    def slow() -> None:
        arrive()
        time.sleep(SLOW_BATCH)

    launch.held_out.make_eval_step = lambda *arguments, **named: in_front(make(*arguments, **named), slow)


def saving() -> None:
    """A commit that takes seconds, in the background."""
    commit = bert_jax.training.checkpoint_files.CheckpointFiles.commit

    def slow() -> None:
        arrive()
        time.sleep(2)

    bert_jax.training.checkpoint_files.CheckpointFiles.commit = in_front(commit, slow)


def at_batch(number: int, do) -> None:
    batches = RecordedBatches.batches

    def changed(self, start_step, stop_step=None):
        for index, batch in enumerate(batches(self, start_step, stop_step)):
            if index == number and os.environ.get("RANK", os.environ.get("BERT_JAX_PROCESS_ID")) == os.environ.get("BERT_JAX_PROCESS_ID"):
                do()
            time.sleep(0.05)
            yield batch

    RecordedBatches.batches = changed


def hanging() -> None:
    """A source that never gives its next batch."""

    def hang_in_the_source() -> None:
        arrive()
        time.sleep(10_000)

    at_batch(5, hang_in_the_source)


def failing() -> None:
    def fail() -> None:
        raise KeyError("the error of one")

    at_batch(5, fail)


def poisoned() -> None:
    """Batches 8, 9 and 10 with NaN for weights; all take a while."""
    batches = RecordedBatches.batches

    def changed(self, start_step, stop_step=None):
        for step, batch in enumerate(batches(self, start_step, stop_step), start_step):
            time.sleep(0.05)
            yield batch | {"mlm_weights": batch["mlm_weights"] * np.float32("nan")} if step in (8, 9, 10) else batch

    RecordedBatches.batches = changed


MOMENTS = {moment.__name__: moment for moment in (compiling, restoring, evaluating, saving, hanging, failing, poisoned)}

if __name__ == "__main__":
    if "MOMENT" in os.environ:
        MOMENTS[os.environ["MOMENT"]]()
    sys.exit(main())
