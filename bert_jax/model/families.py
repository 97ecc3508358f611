"""One short function per family: published sizes in, spec out. The keyword names are those of the configs' `model` section."""

import dataclasses
import inspect

from bert_jax.model.spec import AttentionSpec, EmbeddingSpec, EncoderSpec, MlpSpec, ModelSpec


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
    if num_heads < 1 or hidden_size % num_heads:
        raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")
    return ModelSpec(
        encoder=EncoderSpec(
            embedding=EmbeddingSpec(vocab_size, max_positions, type_vocab_size),
            hidden_size=hidden_size,
            num_layers=num_layers,
            attention=AttentionSpec(num_heads, hidden_size // num_heads, attention_dropout),
            mlp=MlpSpec(intermediate_size, activation),
            norm_eps=norm_eps,
            dropout=dropout,
            initializer_range=initializer_range,
        ),
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


FAMILIES = {"bert": bert, "roberta": roberta, "xlm_roberta": roberta}
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
