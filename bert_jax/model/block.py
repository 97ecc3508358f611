"""One transformer block in BERT's post-norm order: x = norm(x + dropout(part(x))) for attention, then for the MLP."""

import jax
from flax import nnx

from bert_jax.model.attention import SelfAttention
from bert_jax.model.layers import ACTIVATION_FUNCTIONS, Norm, Project, dropout
from bert_jax.model.spec import EncoderSpec
from bert_jax.sharding import constrain

ACTIVATIONS_AXES = ("batch", "length", "hidden")


class Mlp(nnx.Module):
    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        hidden, inner, std = spec.hidden_size, spec.mlp.intermediate_size, spec.initializer_range
        self.activation = spec.mlp.activation
        self.up = Project("bld,df->blf", {"embed": hidden, "mlp": inner}, 1, std=std, rngs=rngs)
        self.down = Project("blf,fd->bld", {"mlp": inner, "embed": hidden}, 1, std=std, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(ACTIVATION_FUNCTIONS[self.activation](self.up(x)))


class Block(nnx.Module):
    KEYS = 3  # dropout sites: attention probabilities, attention output, MLP output

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        self.rate = spec.dropout
        self.attention = SelfAttention(spec, rngs=rngs)
        self.attention_norm = Norm(spec.hidden_size, spec.norm_eps)
        self.mlp = Mlp(spec, rngs=rngs)
        self.mlp_norm = Norm(spec.hidden_size, spec.norm_eps)

    def __call__(self, x: jax.Array, mask: jax.Array, keys: jax.Array | None) -> jax.Array:
        """x [b, l, d], mask [b, 1, q, k], keys [KEYS] -> [b, l, d]."""
        probabilities_key, attention_key, mlp_key = (None,) * self.KEYS if keys is None else keys
        x = self.attention_norm(x + dropout(self.attention(x, mask, probabilities_key), self.rate, attention_key))
        x = constrain(x, ACTIVATIONS_AXES)
        x = self.mlp_norm(x + dropout(self.mlp(x), self.rate, mlp_key))
        return constrain(x, ACTIVATIONS_AXES)
