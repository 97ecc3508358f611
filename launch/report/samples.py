"""Sample predictions on held-out sentences, for the report and the summary. The choice of sentences and masks does not depend on the model."""

from pathlib import Path

import numpy as np

from bert_jax.fill_mask import FillMask
from bert_jax.training.state import Blueprint
from launch.config import write_json
from launch.data import Data

COUNT = 8
SENTENCE_TOKENS = (9, 24)
SHORTEST_ANSWER = 4  # letters


def write_samples(workdir: Path, blueprint: Blueprint, params: dict, data: Data, *, step: int) -> None:
    """Writes WORKDIR/samples.json: held-out sentences with one word masked, the top predictions and the answer. Nothing if no text is held out."""
    if not data.held_out:
        return
    from data_pipeline.stores.store import TokenStore
    from data_pipeline.tokenization import tokenizers

    tokenizer = tokenizers.load(data.tokenizer_dir)
    chosen = choose(TokenStore(data.held_out[0], split="eval"), tokenizer)
    if not chosen:
        return
    predictions = FillMask(blueprint, params, tokenizer)([text for text, _ in chosen])
    write_json(
        workdir / "samples.json",
        [
            {
                "step": step,
                "text": text,
                "predictions": [[{"token": item.token, "probability": round(item.probability, 4)} for item in slot] for slot in slots],
                "answer": [answer],
            }
            for (text, answer), slots in zip(chosen, predictions)
        ],
    )


def choose(store, tokenizer) -> list[tuple[str, str]]:
    """Up to COUNT (sentence with one mask, the masked word), spread evenly over the held-out sentences of middling length."""
    candidates = []
    shard = store.shards[0]
    ends = np.asarray(shard.sentence_ends[:200_000])
    starts = np.concatenate([[0], ends[:-1]])
    word_starts = np.unpackbits(shard.word_starts[: ends[-1] // 8 + 1]).astype(bool)
    shortest, longest = SENTENCE_TOKENS
    for start, end in zip(starts, ends):
        if shortest <= end - start <= longest:
            sample = mask_one_word(np.asarray(shard.tokens[start:end]), word_starts[start:end], tokenizer)
            if sample:
                candidates.append(sample)
    spread = np.linspace(0, len(candidates) - 1, min(COUNT, len(candidates))).astype(int)
    return [candidates[index] for index in spread]


def mask_one_word(ids: np.ndarray, word_starts: np.ndarray, tokenizer) -> tuple[str, str] | None:
    """Masks the middle one of the one-token words that are long enough, or None if there is none. word_starts: bool, for each id."""
    whole = [
        index
        for index in range(1, len(ids) - 1)
        if word_starts[index]
        and word_starts[index + 1]
        and int(ids[index]) not in tokenizer.special_ids
        and len(word := tokenizer.surface(ids[index])[0]) >= SHORTEST_ANSWER
        and word.isalpha()
    ]
    if not whole:
        return None
    index = whole[len(whole) // 2]
    word = tokenizer.surface(ids[index])[0]
    before, *rest = tokenizer.decode([*ids[:index], tokenizer.special["mask"], *ids[index + 1 :]]).split(tokenizer.mask_token)
    return (f"{before.rstrip()} {tokenizer.mask_token}{rest[0]}", word) if len(rest) == 1 else None
