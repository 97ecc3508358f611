"""ELECTRA: an encoder and the generator that it is trained with, and each of them by itself."""

import dataclasses

from bert_jax.model.families.berts import bert
from bert_jax.model.spec import DetectionSpec, MlmHeadSpec, ModelSpec


def electra_generator(
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    intermediate_size: int,
    embedding_size: int,
    max_positions: int = 512,
    type_vocab_size: int = 2,
    activation: str = "gelu",
    norm_eps: float = 1e-12,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    initializer_range: float = 0.02,
) -> ModelSpec:
    """The masked language model of ELECTRA by itself: BERT with tables of another width, exact GELU in its MLM head, and no sentence-pair head."""
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
    embedding = dataclasses.replace(spec.encoder.embedding, size=None if embedding_size == hidden_size else embedding_size)
    return dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, embedding=embedding), mlm_head=MlmHeadSpec("gelu"))


def electra_discriminator(*, activation: str = "gelu", **sizes) -> DetectionSpec:
    """What ELECTRA's pretraining leaves: the encoder with the detection head, without its generator."""
    return DetectionSpec(electra_generator(activation=activation, **sizes).encoder, activation, generator=None, loss_weight=50.0)


def electra(
    *,
    generator_hidden_size: int,
    generator_layers: int,
    generator_heads: int,
    generator_intermediate_size: int,
    detection_weight: float = 50.0,
    activation: str = "gelu",
    **sizes,
) -> DetectionSpec:
    """ELECTRA (Clark et al. 2020, arXiv 2003.10555): an encoder that finds the tokens which a small generator replaced; both share their tables. The sizes
    without `generator_` are the encoder's."""
    own = dict(
        hidden_size=generator_hidden_size, num_layers=generator_layers, num_heads=generator_heads, intermediate_size=generator_intermediate_size,
    )  # fmt: skip
    generator = electra_generator(activation=activation, **sizes | own)
    embedding = dataclasses.replace(generator.encoder.embedding, shared=True)
    generator = dataclasses.replace(generator, encoder=dataclasses.replace(generator.encoder, embedding=embedding))
    return DetectionSpec(electra_generator(activation=activation, **sizes).encoder, activation, generator, detection_weight)
