"""Encoders with other blocks than BERT's: gated MLPs, other positions, windows, no biases."""

import dataclasses

from bert_jax.model.families.berts import head_dim
from bert_jax.model.spec import AttentionSpec, EmbeddingSpec, EncoderSpec, MlmHeadSpec, MlpSpec, ModelSpec, NormSpec, RopeSpec


def crammed_bert(
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    intermediate_size: int,
    max_positions: int = 128,
    norm_eps: float = 1e-12,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    initializer_range: float = 0.02,
) -> ModelSpec:
    """The encoder of Cramming (Geiping & Goldstein 2022, arXiv 2212.14034, section 4.2): pre-norm, gated MLP, no biases but the norms',
    scaled sinusoidal positions, no token types, and the token table alone as MLM head.

    intermediate_size: after gating; the paper's 3072 counts both halves.
    """
    attention = AttentionSpec(num_heads, head_dim(hidden_size, num_heads), attention_dropout, bias=False)
    return ModelSpec(
        encoder=EncoderSpec(
            embedding=EmbeddingSpec(vocab_size, max_positions, type_vocab_size=0, positions="sinusoidal"),
            hidden_size=hidden_size,
            num_layers=num_layers,
            attention=attention,
            mlp=MlpSpec(intermediate_size, "gelu", gated=True, up_bias=False, down_bias=False),
            norm=NormSpec(norm_eps),
            dropout=dropout,
            initializer_range=initializer_range,
            pre_norm=True,
        ),
        mlm_head=MlmHeadSpec("gelu", transform=False, decoder_bias=False),
        nsp=False,
    )


def mosaic_bert(
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    intermediate_size: int,
    max_positions: int = 512,
    type_vocab_size: int = 2,
    norm_eps: float = 1e-12,
    dropout: float = 0.1,
    attention_dropout: float = 0.0,
    initializer_range: float = 0.02,
) -> ModelSpec:
    """MosaicBERT (Portes et al. 2023, arXiv 2312.17482): BERT with ALiBi in place of a position table, and gated MLPs whose first
    projection has no bias. max_positions limits the input alone, not a table."""
    attention = AttentionSpec(num_heads, head_dim(hidden_size, num_heads), attention_dropout, alibi=True)
    return ModelSpec(
        encoder=EncoderSpec(
            embedding=EmbeddingSpec(vocab_size, max_positions, type_vocab_size, positions="none"),
            hidden_size=hidden_size,
            num_layers=num_layers,
            attention=attention,
            mlp=MlpSpec(intermediate_size, "gelu", gated=True, up_bias=False),
            norm=NormSpec(norm_eps),
            dropout=dropout,
            initializer_range=initializer_range,
        ),
        mlm_head=MlmHeadSpec("gelu"),
        nsp=False,
    )


def modernbert(
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    intermediate_size: int,
    max_positions: int = 8192,
    global_every: int = 3,
    window: int = 128,
    rope_base: float = 160_000.0,
    local_rope_base: float = 10_000.0,
    norm_eps: float = 1e-5,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    initializer_range: float = 0.02,
) -> ModelSpec:
    """ModernBERT (Warner et al. 2024, arXiv 2412.13663): rotary positions, every `global_every`-th layer sees the whole document and the others
    a window, gated MLPs, pre-norm, no biases but the decoder's. intermediate_size: after gating. rope_base is that of the global layers."""
    seen = AttentionSpec(num_heads, head_dim(hidden_size, num_heads), attention_dropout, bias=False, rope=RopeSpec(rope_base))
    local = dataclasses.replace(seen, rope=RopeSpec(local_rope_base), window=window)
    if global_every < 1:
        raise ValueError(f"global_every is {global_every}; it must be 1 (all layers global) or more")
    return ModelSpec(
        encoder=EncoderSpec(
            embedding=EmbeddingSpec(vocab_size, max_positions, type_vocab_size=0, positions="none"),
            hidden_size=hidden_size,
            num_layers=num_layers,
            attention=seen,
            mlp=MlpSpec(intermediate_size, "gelu", gated=True, up_bias=False, down_bias=False),
            norm=NormSpec(norm_eps, bias=False),
            dropout=dropout,
            initializer_range=initializer_range,
            pattern=(seen, *[local] * (global_every - 1)),
            pre_norm=True,
            first_norm=False,
        ),
        mlm_head=MlmHeadSpec("gelu", bias=False),
        nsp=False,
    )
