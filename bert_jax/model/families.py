"""One short function per family: published sizes in, spec out. The keyword names are those of the configs' `model` section."""

import dataclasses
import inspect

from bert_jax.model.spec import AttentionSpec, EmbeddingSpec, EncoderSpec, MlmHeadSpec, MlpSpec, ModelSpec, NormSpec, RopeSpec


def bert(
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    intermediate_size: int,
    max_positions: int = 512,
    type_vocab_size: int = 2,
    activation: str = "gelu",
    norm_eps: float = 1e-12,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    initializer_range: float = 0.02,
    nsp: bool = True,
) -> ModelSpec:
    """BERT (Devlin et al. 2018, arXiv 1810.04805): post-norm blocks, learned positions, MLM and NSP heads."""
    return ModelSpec(
        encoder=EncoderSpec(
            embedding=EmbeddingSpec(vocab_size, max_positions, type_vocab_size),
            hidden_size=hidden_size,
            num_layers=num_layers,
            attention=AttentionSpec(num_heads, _head_dim(hidden_size, num_heads), attention_dropout),
            mlp=MlpSpec(intermediate_size, activation),
            norm=NormSpec(norm_eps),
            dropout=dropout,
            initializer_range=initializer_range,
        ),
        mlm_head=MlmHeadSpec(activation),
        nsp=nsp,
    )


def roberta(
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    intermediate_size: int,
    max_positions: int = 512,
    position_offset: int = 2,
    norm_eps: float = 1e-5,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    initializer_range: float = 0.02,
) -> ModelSpec:
    """RoBERTa (Liu et al. 2019, arXiv 1907.11692) and XLM-R (Conneau et al. 2020, arXiv 1911.02116), as fairseq has them: BERT with one
    token type, positions that begin at the padding token's id + 1, exact GELU (in the MLM head too) and no sentence-pair head."""
    if position_offset < 1:
        raise ValueError(f"position_offset {position_offset} leaves no row for padding; it is the padding token's id + 1 (RoBERTa: 2)")
    spec = bert(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        intermediate_size=intermediate_size,
        max_positions=max_positions,
        type_vocab_size=1,
        activation="gelu",
        norm_eps=norm_eps,
        dropout=dropout,
        attention_dropout=attention_dropout,
        initializer_range=initializer_range,
        nsp=False,
    )
    embedding = dataclasses.replace(spec.encoder.embedding, position_offset=position_offset)
    return dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, embedding=embedding))


def academic_bert(
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    intermediate_size: int,
    max_positions: int = 512,
    type_vocab_size: int = 2,
    activation: str = "gelu",
    norm_eps: float = 1e-12,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    initializer_range: float = 0.02,
) -> ModelSpec:
    """BERT with its norms before attention and MLP and one at the end, and the MLM head alone (Izsak et al. 2021, arXiv 2104.07705)."""
    spec = bert(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        intermediate_size=intermediate_size,
        max_positions=max_positions,
        type_vocab_size=type_vocab_size,
        activation=activation,
        norm_eps=norm_eps,
        dropout=dropout,
        attention_dropout=attention_dropout,
        initializer_range=initializer_range,
        nsp=False,
    )
    return dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, pre_norm=True))


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
    attention = AttentionSpec(num_heads, _head_dim(hidden_size, num_heads), attention_dropout, bias=False)
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
    attention = AttentionSpec(num_heads, _head_dim(hidden_size, num_heads), attention_dropout, alibi=True)
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
    seen = AttentionSpec(num_heads, _head_dim(hidden_size, num_heads), attention_dropout, bias=False, rope=RopeSpec(rope_base))
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


def _head_dim(hidden_size: int, num_heads: int) -> int:
    if num_heads < 1 or hidden_size % num_heads:
        raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")
    return hidden_size // num_heads


FAMILIES = {
    "bert": bert,
    "roberta": roberta,
    "xlm_roberta": roberta,
    "academic_bert": academic_bert,
    "crammed_bert": crammed_bert,
    "mosaic_bert": mosaic_bert,
    "modernbert": modernbert,
}
# The fields of a config's `model` section besides `family`.
FAMILY_FIELDS: dict[str, tuple[str, ...]] = {name: tuple(inspect.signature(make).parameters) for name, make in FAMILIES.items()}


def build_spec(model: dict) -> ModelSpec:
    """The spec of a config's `model` section: {"family": name, ...keywords of that family's function}."""
    numbers = dict(model)
    family = numbers.pop("family", None)
    if family not in FAMILIES:
        raise ValueError(f"model.family is {family!r}; known families: {', '.join(FAMILIES)}")
    try:
        return FAMILIES[family](**numbers)
    except TypeError as error:  # an unknown or missing keyword; Python's message names it
        raise ValueError(f"config section `model` does not fit the family {family!r}: {error}") from None
