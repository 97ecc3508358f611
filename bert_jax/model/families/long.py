"""Encoders for long inputs, whose attention is linear in the length."""

import dataclasses

from bert_jax.model.families.berts import bert, roberta
from bert_jax.model.families.varied import varies, with_attention
from bert_jax.model.long_spec import BlockSparseSpec, GlobalTokensSpec
from bert_jax.model.spec import ModelSpec


@varies(roberta)
def longformer(*, max_positions: int = 4096, window: int = 512, global_tokens: int = 0, **sizes) -> ModelSpec:
    """Longformer (Beltagy et al. 2020, arXiv 2004.05150): RoBERTa with a window in every layer, and projections of their own for up to `global_tokens`
    tokens of a row. The published pretraining has no such token (0); a classifier's is the first (1)."""
    spec = roberta(max_positions=max_positions, **sizes)
    return with_attention(spec, GlobalTokensSpec, window=window, global_tokens=global_tokens)


@varies(bert)
def big_bird(
    *, max_positions: int = 4096, block_size: int = 64, random_blocks: int = 3, activation: str = "gelu_tanh", nsp: bool = False, **sizes
) -> ModelSpec:
    """BigBird (Zaheer et al. 2020, arXiv 2007.14062) with internal global tokens (ITC): BERT that sees blocks, some of them random. The pooler is there even
    without a sentence-pair head, untrained, as in transformers."""
    spec = dataclasses.replace(bert(max_positions=max_positions, activation=activation, nsp=nsp, **sizes), pooler=True)
    return with_attention(spec, BlockSparseSpec, block_size=block_size, random_blocks=random_blocks, longest=max_positions)
