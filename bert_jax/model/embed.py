"""Input embeddings: tokens + positions + token types, then norm and dropout (Devlin et al. 2018, figure 2).

A token-type table of one row tells nothing apart: it is added everywhere, whatever the ids (RoBERTa has such a table).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.layers import Embedding, Norm, dropout
from bert_jax.model.spec import EncoderSpec


class InputEmbedding(nnx.Module):
    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        tables, hidden, std = spec.embedding, spec.hidden_size, spec.initializer_range
        self.rate = spec.dropout
        self.max_positions = tables.max_positions
        self.tokens = Embedding(tables.padded_vocab_size, hidden, "vocab", std=std, used_rows=tables.vocab_size, rngs=rngs)
        self.position_offset = tables.position_offset
        self.uses_token_types = tables.type_vocab_size > 1
        self.positions = Embedding(tables.position_rows, hidden, "positions", std=std, rngs=rngs)
        self.token_types = Embedding(tables.type_vocab_size, hidden, "token_types", std=std, rngs=rngs)
        self.norm = Norm(hidden, spec.norm_eps)

    def __call__(
        self, input_ids: jax.Array, token_type_ids: jax.Array, position_ids: jax.Array | None, key: jax.Array | None, dtype: jnp.dtype
    ) -> jax.Array:
        """ids [b, l] -> [b, l, d] in `dtype`. position_ids count from 0, wherever the table's rows begin; None means 0..l-1."""
        length = input_ids.shape[1]
        if length > self.max_positions:
            raise ValueError(f"length {length} is over the model's max_positions {self.max_positions}")
        if position_ids is None:
            position_ids = jnp.arange(length)[None]
        types = token_type_ids if self.uses_token_types else jnp.zeros((1, 1), jnp.int32)
        x = self.tokens(input_ids, dtype) + self.positions(position_ids + self.position_offset, dtype) + self.token_types(types, dtype)
        return dropout(self.norm(x), self.rate, key)
