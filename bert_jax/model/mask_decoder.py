"""DeBERTa's enhanced mask decoder (He et al. 2020, arXiv 2006.03654, section 3.2): absolute positions enter where masked tokens are predicted, and not
in the input."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.layers import Embedding
from bert_jax.model.spec import EncoderSpec


class MaskDecoder(nnx.Module):
    """The encoder's last layer, run USES times on its own input, from which keys and values are made; the queries are at first that input plus absolute
    positions, and then what the layer gave (microsoft/DeBERTa). Its only parameters are the positions [max_positions, d]."""

    USES = 2

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        self.positions = Embedding(spec.embedding.max_positions, spec.hidden_size, "positions", std=spec.initializer_range, rngs=rngs)

    def __call__(self, layer: Callable, x: jax.Array, position_ids: jax.Array | None, keys: Sequence[jax.Array | None]) -> jax.Array:
        """layer: (queries, what keys and values are made of, keys of dropout) -> [b, l, d]. x [b, l, d], the layer's input; keys: for each use."""
        queries = x + self.positions(jnp.arange(x.shape[1])[None] if position_ids is None else position_ids, x.dtype)
        for use in range(self.USES):
            queries = layer(queries, x, keys[use])
        return queries
