"""Pretraining heads on an encoder: masked language modelling with a tied decoder, pooler and next-sentence prediction."""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.attention import MASKED
from bert_jax.model.encoder import Encoder
from bert_jax.model.layers import ACTIVATION_FUNCTIONS, Norm, Project
from bert_jax.model.spec import Compute, EncoderSpec, ModelSpec


class MlmHead(nnx.Module):
    """Transform, norm, then the token table transposed, plus a bias (Devlin et al. 2018, section 3.1, task 1)."""

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        hidden = spec.hidden_size
        self.activation = spec.mlp.activation
        self.vocab_size = spec.embedding.vocab_size
        self.transform = Project("bpd,de->bpe", {"embed": hidden, "hidden": hidden}, 1, std=spec.initializer_range, rngs=rngs)
        self.norm = Norm(hidden, spec.norm_eps)
        self.bias = nnx.Param(jnp.zeros((spec.embedding.padded_vocab_size,), jnp.float32), axes=("vocab",))

    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        """x [b, p, d], the token table [v, d] -> float32 logits [b, p, v]; padding rows of the table get -1e30."""
        x = self.norm(ACTIVATION_FUNCTIONS[self.activation](self.transform(x)))
        logits = jnp.einsum("bpd,vd->bpv", x, table.astype(x.dtype), preferred_element_type=jnp.float32) + self.bias[...]
        return jnp.where(jnp.arange(table.shape[0]) < self.vocab_size, logits, MASKED)


class PretrainingModel(nnx.Module):
    """BERT as pretrained: encoder, MLM head and, if the spec says so, pooler and NSP head."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        hidden, std = spec.encoder.hidden_size, spec.encoder.initializer_range
        self.nsp = spec.nsp
        self.encoder = Encoder(spec.encoder, rngs=rngs)
        self.mlm_head = MlmHead(spec.encoder, rngs=rngs)
        if spec.nsp:
            self.pooler = Project("bd,de->be", {"embed": hidden, "hidden": hidden}, 1, std=std, rngs=rngs)
            self.nsp_head = Project("bd,de->be", {"embed": hidden, "classes": 2}, 1, std=std, rngs=rngs)

    def mlm_logits(self, hidden: jax.Array, positions: jax.Array) -> jax.Array:
        """hidden [b, l, d], positions [b, p] -> float32 logits [b, p, padded vocabulary]. Only the given positions are projected."""
        chosen = jnp.take_along_axis(hidden, positions[:, :, None], axis=1)
        return self.mlm_head(chosen, self.encoder.embed.tokens.embedding[...])

    def nsp_logits(self, hidden: jax.Array) -> jax.Array:
        """hidden [b, l, d] -> float32 logits [b, 2]; 0 is "B follows A", 1 is "B is random"."""
        return self.nsp_head(jnp.tanh(self.pooler(hidden[:, 0]))).astype(jnp.float32)

    def __call__(self, batch: dict[str, jax.Array], *, key: jax.Array | None = None, compute: Compute = Compute()) -> dict[str, jax.Array]:
        """{"mlm": float32 [b, p, v], "nsp": float32 [b, 2] if the model has it}; reads the batch contract's input fields and mlm_positions."""
        hidden = self.encoder(batch, key=key, compute=compute)
        logits = {"mlm": self.mlm_logits(hidden, batch["mlm_positions"])}
        return logits | {"nsp": self.nsp_logits(hidden)} if self.nsp else logits
