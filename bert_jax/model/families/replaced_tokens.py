"""ELECTRA: an encoder and the generator that it is trained with, and each of them by itself."""

import dataclasses

from bert_jax.model.families.berts import bert
from bert_jax.model.families.varied import varies
from bert_jax.model.spec import DetectionSpec, MlmHeadSpec, ModelSpec


@varies(bert, without=("nsp",))
def electra_generator(*, embedding_size: int, **sizes) -> ModelSpec:
    """The masked language model of ELECTRA by itself: BERT with tables of another width, exact GELU in its MLM head, and no sentence-pair head."""
    spec = bert(nsp=False, **sizes)
    size = None if embedding_size == spec.encoder.hidden_size else embedding_size
    encoder = dataclasses.replace(spec.encoder, embedding=dataclasses.replace(spec.encoder.embedding, size=size))
    return dataclasses.replace(spec, encoder=encoder, mlm_head=MlmHeadSpec("gelu"))


@varies(electra_generator)
def electra_discriminator(*, activation: str = "gelu", **sizes) -> DetectionSpec:
    """What ELECTRA's pretraining leaves: the encoder with the detection head, without its generator."""
    return DetectionSpec(electra_generator(activation=activation, **sizes).encoder, activation, generator=None, loss_weight=50.0)


@varies(electra_generator)
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
