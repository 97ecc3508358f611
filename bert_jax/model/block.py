"""One transformer block: attention and MLP, each added to its input, with norms after the sum (BERT) or before the part (pre-norm)."""

import jax
from flax import nnx

from bert_jax.model.attention import Context, SelfAttention
from bert_jax.model.disentangled import DisentangledSelfAttention
from bert_jax.model.dropout import dropout
from bert_jax.model.layers import ACTIVATION_FUNCTIONS, Norm, Project
from bert_jax.model.long_attention import BlockSparseAttention, GlobalTokensAttention
from bert_jax.model.long_spec import BlockSparseSpec, GlobalTokensSpec
from bert_jax.model.spec import AttentionSpec, Compute, EncoderSpec
from bert_jax.sharding import constrain

ACTIVATIONS_AXES = ("batch", "length", "hidden")
ATTENTIONS = {AttentionSpec: SelfAttention, GlobalTokensSpec: GlobalTokensAttention, BlockSparseSpec: BlockSparseAttention}


class Mlp(nnx.Module):
    """down(activation(up(x))), or down(activation(up(x)) * gate(x)) with both in one kernel: [d, 2, f], `up` first."""

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        hidden, inner, std, mlp = spec.hidden_size, spec.mlp.intermediate_size, spec.initializer_range, spec.mlp
        self.activation, self.gated = mlp.activation, mlp.gated
        equation, halves = ("bld,dgf->blgf", {"gates": 2}) if mlp.gated else ("bld,df->blf", {})
        self.up = Project(equation, {"embed": hidden} | halves | {"mlp": inner}, 1, std=std, bias=mlp.up_bias, rngs=rngs)
        self.down = Project("blf,fd->bld", {"mlp": inner, "embed": hidden}, 1, std=std, bias=mlp.down_bias, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        activate, x = ACTIVATION_FUNCTIONS[self.activation], self.up(x)
        return self.down(activate(x[:, :, 0]) * x[:, :, 1] if self.gated else activate(x))


class Block(nnx.Module):
    KEYS = 3  # dropout sites: attention probabilities, attention output, MLP output

    def __init__(self, spec: EncoderSpec, *, attention_norm: bool = True, rngs: nnx.Rngs):
        self.rate = spec.dropout
        self.pre_norm = spec.pre_norm
        self.attention = (DisentangledSelfAttention if spec.attention.disentangled else ATTENTIONS[type(spec.attention)])(spec, rngs=rngs)
        self.attention_norm = Norm(spec.hidden_size, spec.norm) if attention_norm else None
        self.mlp = Mlp(spec, rngs=rngs)
        self.mlp_norm = Norm(spec.hidden_size, spec.norm)

    def __call__(self, x: jax.Array, kind: AttentionSpec, context: Context, keys: jax.Array | None, compute: Compute) -> jax.Array:
        """x [b, l, d], keys [KEYS] -> [b, l, d]. kind: which of the encoder's kinds of attention this layer has."""
        probabilities_key, attention_key, mlp_key = (None,) * self.KEYS if keys is None else keys
        x = self._add(x, lambda x: self.attention(x, kind, context, probabilities_key, compute), self.attention_norm, attention_key)
        return self._add(x, self.mlp, self.mlp_norm, mlp_key)

    def _add(self, x, part, norm, key):
        if self.pre_norm:
            x = x + dropout(part(x if norm is None else norm(x)), self.rate, key)
        else:
            x = norm(x + dropout(part(x), self.rate, key))
        return constrain(x, ACTIVATIONS_AXES)
