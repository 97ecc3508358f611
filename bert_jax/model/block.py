"""One transformer block: attention and MLP, each added to its input, with norms after the sum (BERT) or before the part (pre-norm)."""

import jax
from flax import nnx

from bert_jax.model.activations import ACTIVATION_FUNCTIONS
from bert_jax.model.adapter_spec import PLACES, BottleneckSpec, LoraSpec
from bert_jax.model.adapters import Bottleneck, add_lora
from bert_jax.model.attention import Context, SelfAttention
from bert_jax.model.disentangled import DisentangledSelfAttention
from bert_jax.model.dropout import dropout
from bert_jax.model.layers import Norm, Project
from bert_jax.model.long_attention import BlockSparseAttention, GlobalTokensAttention
from bert_jax.model.long_spec import BlockSparseSpec, GlobalTokensSpec
from bert_jax.model.remat import kept
from bert_jax.model.spec import AttentionSpec, Compute, DisentangledSpec, EncoderSpec
from bert_jax.sharding import constrain

ACTIVATIONS_AXES = ("batch", "length", "hidden")
ATTENTIONS = {
    AttentionSpec: SelfAttention, DisentangledSpec: DisentangledSelfAttention, GlobalTokensSpec: GlobalTokensAttention, BlockSparseSpec: BlockSparseAttention,
}


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
        self.attention = ATTENTIONS[type(spec.attention)](spec, rngs=rngs)
        self.attention_norm = Norm(spec.hidden_size, spec.norm) if attention_norm else None
        self.mlp = Mlp(spec, rngs=rngs)
        self.mlp_norm = Norm(spec.hidden_size, spec.norm)
        places = spec.adapter.places if isinstance(spec.adapter, BottleneckSpec) else ()
        self.attention_adapter, self.mlp_adapter = (Bottleneck(spec, rngs=rngs) if place in places else None for place in PLACES)
        if isinstance(spec.adapter, LoraSpec):
            add_lora(self, spec.adapter, rngs=rngs)

    def __call__(self, x: jax.Array, kind: AttentionSpec, context: Context, keys: jax.Array | None, compute: Compute) -> jax.Array:
        """x [b, l, d], keys [KEYS] -> [b, l, d]. kind: which of the encoder's kinds of attention this layer has."""
        probabilities_key, attention_key, mlp_key = (None,) * self.KEYS if keys is None else keys
        x = self._add(x, lambda x: self.attention(x, kind, context, probabilities_key, compute), self.attention_norm, attention_key, self.attention_adapter)
        return self._add(x, self.mlp, self.mlp_norm, mlp_key, self.mlp_adapter)

    def probabilities(self, x: jax.Array, kind: AttentionSpec, context: Context, compute: Compute) -> jax.Array:
        """Of its attention, for the block's input [b, l, d]: [b, h, q, k]."""
        x = self.attention_norm(x) if self.pre_norm and self.attention_norm is not None else x
        return self.attention.probabilities(x, kind, context, compute)

    def _add(self, x, part, norm, key, adapter):
        y = dropout(part(norm(x) if self.pre_norm and norm is not None else x), self.rate, key)
        x = kept(x + (y if adapter is None else adapter(y)))
        x = x if self.pre_norm else norm(x)
        return constrain(x, ACTIVATIONS_AXES)
