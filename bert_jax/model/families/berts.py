"""BERT and what changes its sizes, its order or its sharing of parameters."""

import dataclasses

from bert_jax.model.families.varied import varies
from bert_jax.model.spec import AttentionSpec, EmbeddingSpec, EncoderSpec, MlmHeadSpec, MlpSpec, ModelSpec, NormSpec


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
            attention=AttentionSpec(num_heads, head_dim(hidden_size, num_heads), attention_dropout),
            mlp=MlpSpec(intermediate_size, activation),
            norm=NormSpec(norm_eps),
            dropout=dropout,
            initializer_range=initializer_range,
        ),
        mlm_head=MlmHeadSpec(activation),
        nsp=nsp,
    )


@varies(bert, without=("type_vocab_size", "activation", "nsp"))
def roberta(*, position_offset: int = 2, norm_eps: float = 1e-5, **sizes) -> ModelSpec:
    """RoBERTa (Liu et al. 2019, arXiv 1907.11692) and XLM-R (Conneau et al. 2020, arXiv 1911.02116), as fairseq has them: BERT with one
    token type, positions that begin at the padding token's id + 1, exact GELU (in the MLM head too) and no sentence-pair head."""
    if position_offset < 1:
        raise ValueError(f"position_offset {position_offset} leaves no row for padding; it is the padding token's id + 1 (RoBERTa: 2)")
    spec = bert(type_vocab_size=1, activation="gelu", norm_eps=norm_eps, nsp=False, **sizes)
    embedding = dataclasses.replace(spec.encoder.embedding, position_offset=position_offset)
    return dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, embedding=embedding))


@varies(roberta)
def xlm_roberta_xl(**sizes) -> ModelSpec:
    """XLM-R XL (Goyal et al. 2021, arXiv 2105.00572): RoBERTa with norms before attention and MLP and one at the end, and none on the embeddings."""
    spec = roberta(**sizes)
    embedding = dataclasses.replace(spec.encoder.embedding, norm=False)
    return dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, embedding=embedding, pre_norm=True))


@varies(bert)
def albert(
    *,
    embedding_size: int = 128,
    layer_groups: int = 1,
    activation: str = "gelu_tanh",
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    **sizes,
) -> ModelSpec:
    """ALBERT (Lan et al. 2019, arXiv 1909.11942): BERT with narrow embedding tables and a projection after them, and layers that share the
    parameters of `layer_groups` groups. The defaults are version 2's; version 1 has dropout 0.1 (xxlarge: none) and, in transformers, exact GELU."""
    spec = bert(activation=activation, dropout=dropout, attention_dropout=attention_dropout, **sizes)
    embedding = dataclasses.replace(spec.encoder.embedding, size=embedding_size)
    return dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, embedding=embedding, layer_groups=layer_groups))


@varies(bert, without=("type_vocab_size", "norm_eps", "nsp"))
def distilbert(**sizes) -> ModelSpec:
    """The student of DistilBERT (Sanh et al. 2019, arXiv 1910.01108): BERT without token types and sentence-pair head."""
    return bert(type_vocab_size=0, nsp=False, **sizes)


@varies(bert, without=("nsp",))
def academic_bert(**sizes) -> ModelSpec:
    """BERT with its norms before attention and MLP and one at the end, and the MLM head alone (Izsak et al. 2021, arXiv 2104.07705)."""
    spec = bert(nsp=False, **sizes)
    return dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, pre_norm=True))


def head_dim(hidden_size: int, num_heads: int) -> int:
    if num_heads < 1 or hidden_size % num_heads:
        raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")
    return hidden_size // num_heads
