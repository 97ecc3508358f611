"""A model for long inputs that begins as one for short inputs: positions copied, attention's projections kept (Beltagy et al. 2020, arXiv 2004.05150, section 5).

Trees of parameters enter and leave, as numpy or JAX arrays.
"""

import dataclasses
import re

import jax.numpy as jnp
from flax import traverse_util

from bert_jax.model.spec import AnySpec, AttentionSpec, EncoderSpec

POSITIONS = "encoder.embed.positions.embedding"


def differences(longer: AnySpec, shorter: AnySpec) -> list[str]:
    """What stands against it that `longer` begins as `shorter`, each as "field: of one, of the other"; empty: nothing does. They may differ in the longest
    input, in which keys attention sees, in dropout, and in heads."""

    def compared(encoder: EncoderSpec) -> dict:
        embedding, attention = encoder.embedding, encoder.attention
        own = {field.name: getattr(encoder, field.name) for field in dataclasses.fields(encoder)}
        own |= {f"embedding.{field.name}": getattr(embedding, field.name) for field in dataclasses.fields(embedding)}
        own |= {f"attention.{field.name}": getattr(attention, field.name) for field in dataclasses.fields(AttentionSpec)}
        free = ("embedding", "embedding.max_positions", "embedding.position_offset", "attention", "attention.window", "attention.dropout", "dropout", "initializer_range")
        return {name: value for name, value in own.items() if name not in free}

    ours, theirs = compared(longer.encoder), compared(shorter.encoder)
    found = [f"{name}: {ours[name]}, {theirs[name]}" for name in ours if ours[name] != theirs[name]]
    if longer.encoder.embedding.max_positions <= shorter.encoder.embedding.max_positions or longer.encoder.embedding.positions != "learned":
        found.append(f"max_positions: {longer.encoder.embedding.max_positions}, {shorter.encoder.embedding.max_positions}")
    return found


def lengthened_params(fresh: dict, longer: AnySpec, params: dict, shorter: AnySpec) -> dict:
    """The parameters of `longer`: those of `shorter`, the rows of its positions one time after another, and its projections for global tokens too. Heads
    that it lacks are those of `fresh`, an initialised model."""
    theirs = traverse_util.flatten_dict(params, sep=".")
    ours = traverse_util.flatten_dict(fresh, sep=".")
    begun = {path: theirs.get(re.sub(r"\.(query|key|value)_global\.", r".\1.", path), leaf) for path, leaf in ours.items()}
    new, old = longer.encoder.embedding, shorter.encoder.embedding
    rows = theirs[POSITIONS][old.position_offset :]
    tiled = rows[jnp.arange(new.max_positions) % old.max_positions]
    begun[POSITIONS] = jnp.concatenate([ours[POSITIONS][: new.position_offset], tiled])
    return traverse_util.unflatten_dict(begun, sep=".")
