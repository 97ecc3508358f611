"""DeBERTa in its three versions: disentangled attention, absolute positions in the mask decoder, and replaced-token detection with tables that do not pull at
one another."""

import dataclasses

from bert_jax.model.families.berts import bert
from bert_jax.model.families.varied import varies, with_attention
from bert_jax.model.spec import DetectionSpec, DisentangledSpec, ModelSpec


@varies(bert, without=("nsp",))
def deberta(
    *,
    max_distance: int = 512,
    input_positions: bool = False,
    mask_decoder: bool = True,
    type_vocab_size: int = 0,
    norm_eps: float = 1e-7,
    **sizes,
) -> ModelSpec:
    """DeBERTa (He et al. 2020, arXiv 2006.03654): BERT with scores between contents and relative positions, which have projections of their own; absolute
    positions are in the mask decoder (`mask_decoder`) and not in the input (`input_positions`)."""
    spec = bert(type_vocab_size=type_vocab_size, norm_eps=norm_eps, nsp=False, **sizes)
    encoder = with_attention(spec, DisentangledSpec, max_distance=max_distance, key_bias=False).encoder
    embedding = dataclasses.replace(encoder.embedding, positions="learned" if input_positions else "none")
    return dataclasses.replace(spec, encoder=dataclasses.replace(encoder, embedding=embedding), mask_decoder=mask_decoder)


@varies(deberta)
def deberta_v2(*, position_buckets: int = 256, convolution: int = 0, **sizes) -> ModelSpec:
    """Version 2 (microsoft/DeBERTa), and version 3's generator: relative positions in logarithmic buckets, normalised, and projected as contents are; in the
    two largest models a convolution beside the first layer."""
    spec = deberta(**sizes)
    attention = dataclasses.replace(spec.encoder.attention, buckets=position_buckets, shared_projections=True, norm=True, key_bias=True)
    return dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, attention=attention, convolution=convolution))


@varies(deberta_v2, without=("mask_decoder",))
def deberta_v3_discriminator(**sizes) -> DetectionSpec:
    """What version 3's pretraining leaves: version 2's encoder with the detection head, without its generator."""
    encoder = deberta_v2(mask_decoder=False, **sizes).encoder
    return DetectionSpec(encoder, encoder.mlp.activation, generator=None, loss_weight=50.0)


@varies(deberta_v2)
def deberta_v3(*, generator_layers: int, detection_weight: float = 50.0, mask_decoder: bool = True, **sizes) -> DetectionSpec:
    """DeBERTaV3 (He et al. 2021, arXiv 2111.09543): an encoder that finds the tokens which a generator of fewer layers replaced. The encoder's token table is
    the generator's, through which no gradient of the encoder flows, plus one of its own (section 3.2: gradient-disentangled embedding sharing)."""
    encoder = deberta_v3_discriminator(**sizes).encoder
    generator = deberta_v2(mask_decoder=mask_decoder, **sizes | {"num_layers": generator_layers})
    embedding = dataclasses.replace(encoder.embedding, added=True)
    return DetectionSpec(dataclasses.replace(encoder, embedding=embedding), encoder.mlp.activation, generator, detection_weight)
