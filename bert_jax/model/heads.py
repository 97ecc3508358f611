"""Pretraining heads on an encoder: masked language modelling with a tied decoder, pooler and next-sentence prediction."""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.attention import MASKED
from bert_jax.model.encoder import Encoder
from bert_jax.model.layers import ACTIVATION_FUNCTIONS, Norm, Project
from bert_jax.model.spec import Compute, ModelSpec


class MlmHead(nnx.Module):
    """Dense layer, activation and norm, then the token table transposed, plus a bias (Devlin et al. 2018, section 3.1, task 1)."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        encoder, head = spec.encoder, spec.mlm_head
        hidden, embedding = encoder.hidden_size, encoder.embedding
        width = embedding.size or hidden
        self.activation = head.activation
        self.vocab_size = embedding.vocab_size
        axes = {"embed": hidden, "hidden": width}
        std, zeros = encoder.initializer_range, jnp.zeros((embedding.padded_vocab_size,), jnp.float32)
        self.transform = Project("bpd,de->bpe", axes, 1, std=std, bias=head.bias, rngs=rngs) if head.transform else None
        self.norm = Norm(width, encoder.norm) if head.transform else None
        self.bias = nnx.Param(zeros, axes=("vocab",)) if head.decoder_bias else None

    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        """x [b, p, d], the token table [v, e] -> float32 logits [b, p, v]; padding rows of the table get -1e30."""
        if self.transform is not None:
            x = self.norm(ACTIVATION_FUNCTIONS[self.activation](self.transform(x)))
        logits = jnp.einsum("bpe,ve->bpv", x, table.astype(x.dtype), preferred_element_type=jnp.float32)
        logits = logits if self.bias is None else logits + self.bias[...]
        return jnp.where(jnp.arange(table.shape[0]) < self.vocab_size, logits, MASKED)


class PretrainingModel(nnx.Module):
    """An encoder as pretrained: MLM head and, if the spec says so, pooler and a head for sentence pairs."""

    def __init__(self, spec: ModelSpec, *, rngs: nnx.Rngs):
        hidden, std = spec.encoder.hidden_size, spec.encoder.initializer_range
        self.nsp = spec.nsp
        self.encoder = Encoder(spec.encoder, rngs=rngs)
        self.mlm_head = MlmHead(spec, rngs=rngs)
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
