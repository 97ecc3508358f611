"""Heads for downstream tasks on an encoder: of sequences, of tokens, of spans, and none, for sentence embeddings."""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.activations import ACTIVATION_FUNCTIONS
from bert_jax.model.dropout import dropout
from bert_jax.model.encoder import Encoder
from bert_jax.model.layers import Norm, Project
from bert_jax.model.pooling import pool
from bert_jax.model.spec import TOKEN_KINDS, Compute, TaskSpec


class TaskModel(nnx.Module):
    """`encoder`, and what the spec's kind needs of `pooler`, `pooler_norm` and `classifier`."""

    def __init__(self, spec: TaskSpec, *, rngs: nnx.Rngs):
        hidden, std, pooler = spec.encoder.hidden_size, spec.encoder.initializer_range, spec.pooler
        self.spec = spec
        self.encoder = Encoder(spec.encoder, rngs=rngs)
        if spec.kind == "embedding":
            self.pooler = None
            self.classifier = self._classifier(3 * hidden, rngs) if spec.outputs > 1 else None  # of pairs of vectors and their difference
            return
        if pooler is not None and (pooler.every_token or spec.kind not in TOKEN_KINDS):
            self.pooler = Project("...d,de->...e", {"embed": hidden, "hidden": hidden}, 1, std=std, bias=pooler.bias, rngs=rngs)
            self.pooler_norm = Norm(hidden, spec.encoder.norm) if pooler.norm else None
        else:
            self.pooler = None
        self.classifier = self._classifier(hidden, rngs)

    def _classifier(self, width: int, rngs: nnx.Rngs) -> Project:
        axes = {"embed": width, "classes": self.spec.outputs}
        return Project("...d,de->...e", axes, 1, std=self.spec.encoder.initializer_range, rngs=rngs)

    def __call__(self, batch: dict[str, jax.Array], *, key: jax.Array | None = None, compute: Compute = Compute()) -> jax.Array:
        """Reads input_ids, token_type_ids, segment_ids and, if there, position_ids: [b, l]. Float32 scores: [b, l, outputs] of tokens and spans, [b, outputs]
        of sequences; of embeddings the vectors [b, d] themselves. key=None: no dropout."""
        encoder_key, *keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        hidden = self.encoder(batch, key=encoder_key, compute=compute)
        if self.spec.kind == "embedding":
            return pool(hidden, batch["segment_ids"], self.spec.pooling).astype(jnp.float32)
        return self.scores(hidden, batch["segment_ids"], keys)

    def scores(self, hidden: jax.Array, segment_ids: jax.Array, keys: tuple = (None, None)) -> jax.Array:
        """The head on the encoder's output [b, l, d]."""
        spec, pooler = self.spec, self.spec.pooler
        x = hidden if spec.kind in TOKEN_KINDS else pool(hidden, segment_ids, spec.pooling)
        if self.pooler is not None:
            x = dropout(x, spec.dropout, keys[0]) if pooler.drop_first else x
            x = ACTIVATION_FUNCTIONS[pooler.activation or spec.encoder.mlp.activation](self.pooler(x))
            x = x if self.pooler_norm is None else self.pooler_norm(x)
        return self.classifier(dropout(x, spec.dropout, keys[1])).astype(jnp.float32)
