"""The convolution beside the first layer of DeBERTa-v2-xlarge (microsoft/DeBERTa): neighbouring tokens, such as pieces of one word, meet before attention."""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.activations import ACTIVATION_FUNCTIONS
from bert_jax.model.dropout import dropout
from bert_jax.model.layers import Norm, Project
from bert_jax.model.spec import EncoderSpec


class Convolution(nnx.Module):
    """norm(y + activation(convolution(x))), where x enters a layer and y leaves it. Neighbours in another document, or padding, count as 0."""

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        self.rate, self.activation, self.reach = spec.dropout, spec.mlp.activation, spec.convolution // 2
        axes = {"taps": spec.convolution, "embed": spec.hidden_size, "hidden": spec.hidden_size}
        self.project = Project("bltd,tde->ble", axes, 2, std=spec.initializer_range, rngs=rngs)
        self.norm = Norm(spec.hidden_size, spec.norm)

    def __call__(self, x: jax.Array, y: jax.Array, segment_ids: jax.Array, key: jax.Array | None) -> jax.Array:
        """x, y [b, l, d], segment_ids [b, l] -> [b, l, d]."""
        length, around = x.shape[1], (self.reach, self.reach)
        padded, segments = jnp.pad(x, ((0, 0), around, (0, 0))), jnp.pad(segment_ids, ((0, 0), around))
        taps = []
        for start in range(2 * self.reach + 1):
            theirs = segments[:, start : start + length]
            taps.append(jnp.where(((theirs == segment_ids) & (theirs > 0))[..., None], padded[:, start : start + length], 0))
        out = dropout(self.project(jnp.stack(taps, axis=2)), self.rate, key)
        return self.norm(y + ACTIVATION_FUNCTIONS[self.activation](out))
