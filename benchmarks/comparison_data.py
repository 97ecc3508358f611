"""Data of benchmarks/comparison.py: tokenizer and token stores, an arm's training batches, and the held-out rows that all are measured on.

A batch is a function of (text, arm, seed, step). Batches are built in numpy in the training process, before the clock of a step starts.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from comparison_arms import EVALUATION_RATE, EVALUATION_ROWS, FEW_EVERY, LENGTH, VOCABULARY, Arm, Budget

from data_pipeline.batches.loader import Loader
from data_pipeline.batches.masking import MaskingSpec
from data_pipeline.preparation.prepare import prepare
from data_pipeline.sources.corpus import Corpus
from data_pipeline.stores.store import TokenStore
from data_pipeline.tokenization import tokenizers

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Texts:
    """Stores under one tokenizer: "train", "few" and "valid"."""

    directory: Path

    @property
    def tokenizer_dir(self) -> Path:
        return self.directory / "tokenizer"

    @functools.cached_property
    def stores(self) -> dict[str, TokenStore]:
        return {name: TokenStore(self.path(name), split="train") for name in ("train", "few", "valid")}

    def path(self, text: str) -> Path:
        return self.directory / (f"every_{FEW_EVERY}th" if text == "few" else text)

    def loader(self, text: str, *, sequences: str, rate: float, seed: int, batch_size: int, dynamic: bool = True) -> Loader:
        masking = MaskingSpec(rate=rate, predictions=round(rate * LENGTH))
        return Loader(
            self.path(text), batch_size=batch_size, length=LENGTH, sequences=sequences, masking=masking, seed=seed, dynamic=dynamic
        )


def prepare_texts(train: list[str], valid: list[str], directory: Path) -> Texts:
    """Trains the tokenizer on the training text and makes the stores, or completes what an earlier call began."""
    texts = Texts(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if not texts.tokenizer_dir.is_dir():
        print("training the tokenizer", flush=True)
        tokenizers.train(Corpus(train), texts.tokenizer_dir, vocab_size=VOCABULARY)
    few = texts.path("few").with_suffix(".txt")
    if not few.is_file():
        temporary = few.with_name(few.name + ".tmp")
        documents = [document for number, document in enumerate(Corpus(train)) if number % FEW_EVERY == 0]
        temporary.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
        os.replace(temporary, few)
    for name, inputs in {"train": train, "few": [str(few)], "valid": valid}.items():
        prepare(inputs, texts.tokenizer_dir, texts.path(name), holdout=0.0, workers=1)
    return texts


@functools.cache
def real_share(texts: Texts, text: str, sequences: str) -> float:
    """The share of real tokens in rows of this kind, over the first 3,200 of seed 0."""
    loader = texts.loader(text, sequences=sequences, rate=EVALUATION_RATE, seed=0, batch_size=32)
    return float(np.mean([(loader.batch(step)["segment_ids"] > 0).mean() for step in range(100)]))


def rows_per_batch(texts: Texts, arm: Arm, budget: Budget) -> int:
    """As many rows as hold the budget's real tokens: kinds of sequences that pad more get more rows, and as many updates."""
    return round(budget.tokens / (LENGTH * real_share(texts, arm.text, arm.sequences)))


@dataclasses.dataclass(frozen=True)
class Training:
    """`batch(step)` of an arm and seed; for the record, rows and real tokens per update, and passes over the text in the run."""

    batch: Callable[[int], Batch]
    rows: int
    tokens: float
    epochs: float


def training_batches(texts: Texts, arm: Arm, budget: Budget, seed: int) -> Training:
    rows = rows_per_batch(texts, arm, budget)
    loader = texts.loader(arm.text, sequences=arm.sequences, rate=arm.rate, seed=seed, batch_size=rows)
    tokens = rows * LENGTH * real_share(texts, arm.text, arm.sequences)
    epochs = budget.steps * rows / loader.num_sequences
    if not arm.mask_draws:
        return Training(loader.batch, rows, tokens, epochs)
    recorded = round(arm.mask_draws * loader.num_sequences / rows)  # steps; `bert-jax record` would write these
    return Training(lambda step: loader.batch(step % recorded), rows, tokens, epochs)


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Rows of the held-out text, masked once and for all.

    unigram_*: of always predicting by the frequencies of the training text. nsp_majority: the share of the commoner
    label, None without labels.
    """

    batches: list[Batch]
    predictions: int
    unigram_accuracy: float
    unigram_loss: float
    nsp_majority: float | None


def held_out(texts: Texts, sequences: str) -> HeldOut:
    """The same rows and masks for every arm and seed."""
    loader = texts.loader("valid", sequences=sequences, rate=EVALUATION_RATE, seed=0, batch_size=32, dynamic=False)
    rows = min(EVALUATION_ROWS, loader.num_sequences)
    if rows < 32:
        raise SystemExit(f"the held-out text has {rows} rows of {LENGTH} tokens; give more of it")
    batches = [loader.batch(step) for step in range(rows // 32)]
    targets = np.concatenate([batch["mlm_targets"][batch["mlm_weights"] > 0] for batch in batches])
    counts = texts.stores["train"].unigram_counts.astype(np.float64) + 1  # a word that the training text lacks has a probability, too
    counts[texts.stores["train"].special_ids] = 0
    with np.errstate(divide="ignore"):
        log_shares = np.log(counts / counts.sum())
    ones = float(np.mean([batch["nsp_labels"] for batch in batches])) if "nsp_labels" in batches[0] else None
    return HeldOut(
        batches,
        predictions=len(targets),
        unigram_accuracy=float((targets == counts.argmax()).mean()),
        unigram_loss=float(-log_shares[targets].mean()),
        nsp_majority=None if ones is None else max(ones, 1 - ones),
    )
