"""Input embeddings: tokens + positions + token types, then norm and dropout (Devlin et al. 2018, figure 2).

A token-type table of one row tells nothing apart: it is added everywhere, whatever the ids (RoBERTa has such a table).
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.dropout import dropout
from bert_jax.model.layers import Embedding, Norm, Project
from bert_jax.model.positions import sinusoidal_table
from bert_jax.model.spec import EncoderSpec


class SinusoidalPositions(nnx.Module):
    """A fixed table times one learned number, which starts at size^-0.5 (Hua et al. 2022, appendix, ScaledSin)."""

    def __init__(self, rows: int, size: int):
        self.rows, self.size = rows, size
        self.scale = nnx.Param(jnp.full((1,), size**-0.5, jnp.float32), axes=("hidden",))

    def __call__(self, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return (self.scale[...] * jnp.asarray(sinusoidal_table(self.rows, self.size))).astype(dtype)[ids]


class Tables(Protocol):
    """What an encoder's inputs are looked up in."""

    def look_up(self, input_ids: jax.Array, token_type_ids: jax.Array, position_ids: jax.Array | None, dtype: jnp.dtype) -> jax.Array: ...


class InputEmbedding(nnx.Module):
    """`look_up` sums and normalises, a call also drops out and projects. Where the spec says that tables and norm are `shared`, there is no look_up here."""

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        tables, std = spec.embedding, spec.initializer_range
        size = tables.size or spec.hidden_size
        self.rate = spec.dropout
        self.max_positions = tables.max_positions
        self.project = Project("ble,ed->bld", {"narrow": size, "embed": spec.hidden_size}, 1, std=std, rngs=rngs) if tables.size else None
        if tables.shared:
            return
        self.tokens = Embedding(tables.padded_vocab_size, size, "vocab", std=std, used_rows=0 if tables.added else tables.vocab_size, rngs=rngs)
        self.added, self.position_offset = tables.added, tables.position_offset
        self.uses_token_types = tables.type_vocab_size > 1
        if tables.positions == "learned":
            self.positions = Embedding(tables.position_rows, size, "positions", std=std, rngs=rngs)
        elif tables.positions == "sinusoidal":
            self.positions = SinusoidalPositions(tables.position_rows, size)
        else:
            self.positions = None
        self.token_types = Embedding(tables.type_vocab_size, size, "token_types", std=std, rngs=rngs) if tables.type_vocab_size else None
        self.norm = Norm(size, spec.norm) if tables.norm else None

    def __call__(
        self,
        input_ids: jax.Array,
        token_type_ids: jax.Array,
        position_ids: jax.Array | None,
        key: jax.Array | None,
        dtype: jnp.dtype,
        tables: Tables | None = None,
    ) -> jax.Array:
        """ids [b, l] -> [b, l, d] in `dtype`. tables: what is looked up, if they are shared or not these alone."""
        x = dropout((self if tables is None else tables).look_up(input_ids, token_type_ids, position_ids, dtype), self.rate, key)
        return x if self.project is None else self.project(x)

    def look_up(
        self, input_ids: jax.Array, token_type_ids: jax.Array, position_ids: jax.Array | None, dtype: jnp.dtype, base: jax.Array | None = None
    ) -> jax.Array:
        """ids [b, l] -> [b, l, e] in `dtype`. position_ids count from 0, wherever the table's rows begin; None means 0..l-1. base [v, e]: to whose rows the
        tokens' rows are added, in float32."""
        length = input_ids.shape[1]
        if length > self.max_positions:
            raise ValueError(f"length {length} is over the model's max_positions {self.max_positions}")
        if self.added and base is None:
            raise ValueError("this encoder's token table is what is added to its generator's; run it by the model that has both")
        x = self.tokens(input_ids, dtype) if base is None else (self.tokens(input_ids, jnp.float32) + base[input_ids]).astype(dtype)
        if self.positions is not None:
            if position_ids is None:
                position_ids = jnp.arange(length)[None]
            x = x + self.positions(position_ids + self.position_offset, dtype)
        if self.token_types is not None:
            x = x + self.token_types(token_type_ids if self.uses_token_types else jnp.zeros((1, 1), jnp.int32), dtype)
        return x if self.norm is None else self.norm(x)


class AddedTables(NamedTuple):
    """Tables whose tokens are another encoder's plus one's own (`EmbeddingSpec.added`): what is learnt here does not pull at the other's."""

    own: InputEmbedding
    base: InputEmbedding

    def look_up(self, input_ids: jax.Array, token_type_ids: jax.Array, position_ids: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
        """As InputEmbedding's."""
        base = jax.lax.stop_gradient(self.base.tokens.embedding[...])
        return self.own.look_up(input_ids, token_type_ids, position_ids, dtype, base)
