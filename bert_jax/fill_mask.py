"""Top predictions for the masks in sentences: text in, tokens and probabilities out."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.training.state import Blueprint

BUCKET = 32  # lengths are padded to multiples of this, so that few shapes are compiled
BERT_MASK = "[MASK]"  # understood by every model, unless the text holds the model's own mask token


class TextTokenizer(Protocol):
    """What is asked of a tokenizer, as `data_pipeline.tokenization.tokenizers.Tokenizer` has it. special: ids of pad, unk, cls, sep and mask."""

    special: dict[str, int]
    mask_token: str

    def encode(self, text: str, *, continues: bool = False) -> np.ndarray: ...

    def surface(self, token: int) -> tuple[str, bool]: ...


@dataclasses.dataclass(frozen=True)
class Prediction:
    """token: its text; "##" in front of letters that continue the word before them."""

    token: str
    id: int
    probability: float


def mask_in(text: str, tokenizer: TextTokenizer) -> str:
    """How a text writes its masks."""
    return tokenizer.mask_token if tokenizer.mask_token in text else BERT_MASK


def encode_with_masks(text: str, tokenizer: TextTokenizer) -> list[int]:
    """Ids of a text in which masks may be written, without special tokens around it."""
    ids: list[int] = []
    *before, last = text.split(mask_in(text, tokenizer))
    for index, piece in enumerate(before):
        # The space before a word is a part of its token, or none at all: it goes with the mask.
        ids += [*tokenizer.encode(piece.rstrip(" "), continues=index > 0).tolist(), tokenizer.special["mask"]]
    return ids + tokenizer.encode(last, continues=bool(before)).tolist()


class FillMask:
    """A model with its tokenizer. params: the nested dict of the blueprint's arrays."""

    def __init__(self, blueprint: Blueprint, params: dict, tokenizer: TextTokenizer):
        self.blueprint, self.params, self.tokenizer = blueprint, params, tokenizer
        self.cls, self.sep, self.pad, self.mask = (tokenizer.special[name] for name in ("cls", "sep", "pad", "mask"))
        self._probabilities = jax.jit(self._forward)

    def _forward(self, params: dict, batch: dict[str, jax.Array]) -> jax.Array:
        return jax.nn.softmax(self.blueprint.model(params)(batch)["mlm"], axis=-1)

    def __call__(self, texts: list[str], *, top_k: int = 5) -> list[list[list[Prediction]]]:
        """For each text, for each of its masks, the `top_k` most probable tokens, best first.

        A mask is written as the tokenizer's mask token, or as [MASK] in a text without that. ValueError for a text without a mask, or one
        longer than the model's positions.
        """
        rows = [self._encode(text) for text in texts]
        longest = max(len(row) for row in rows)
        limit = self.blueprint.spec.encoder.embedding.max_positions
        length = min(-(-longest // BUCKET) * BUCKET, limit)
        slots = 1 << (max(row.count(self.mask) for row in rows) - 1).bit_length()  # a power of two, so that few shapes are compiled
        input_ids = np.full((len(rows), length), self.pad, np.int32)
        segment_ids = np.zeros_like(input_ids)
        positions = np.zeros((len(rows), slots), np.int32)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = row
            segment_ids[index, : len(row)] = 1
            masked = np.flatnonzero(np.asarray(row) == self.mask)
            positions[index, : len(masked)] = masked
        batch = {
            "input_ids": input_ids, "segment_ids": segment_ids, "token_type_ids": np.zeros_like(input_ids), "mlm_positions": positions,
        }
        probabilities, ids = jax.lax.top_k(self._probabilities(self.params, jax.tree.map(jnp.asarray, batch)), top_k)
        probabilities, ids = np.asarray(probabilities), np.asarray(ids)
        return [
            [
                [Prediction(self._shown(int(i)), int(i), float(p)) for i, p in zip(ids[row, slot], probabilities[row, slot])]
                for slot in range(rows[row].count(self.mask))
            ]
            for row in range(len(rows))
        ]

    def _encode(self, text: str) -> list[int]:
        own = self.tokenizer.mask_token
        if mask_in(text, self.tokenizer) not in text:
            raise ValueError(f'no {own} in {text!r}; write for instance "The capital of France is {own}."')
        ids = [self.cls, *encode_with_masks(text, self.tokenizer), self.sep]
        limit = self.blueprint.spec.encoder.embedding.max_positions
        if len(ids) > limit:
            raise ValueError(f"the text has {len(ids)} tokens, but the model takes at most {limit}: {text[:60]!r}...")
        return ids

    def _shown(self, token: int) -> str:
        text, continues_word = self.tokenizer.surface(token)
        return f"##{text}" if continues_word and text[0].isalnum() else text
