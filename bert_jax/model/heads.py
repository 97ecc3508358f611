"""Pretraining heads on an encoder: masked language modelling with a tied decoder, pooler and next-sentence prediction, and the detection of replaced tokens.

`build` makes the model of a spec.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.activations import ACTIVATION_FUNCTIONS
from bert_jax.model.attention import MASKED
from bert_jax.model.embed import AddedTables, InputEmbedding
from bert_jax.model.encoder import Encoder
from bert_jax.model.layers import Norm, Project
from bert_jax.model.mask_decoder import MaskDecoder
from bert_jax.model.spec import AnySpec, Compute, DetectionSpec, ModelSpec, TaskSpec
from bert_jax.model.task_heads import TaskModel


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
        self.mask_decoder = MaskDecoder(spec.encoder, rngs=rngs) if spec.mask_decoder else None
        if spec.nsp or spec.pooler:
            self.pooler = Project("bd,de->be", {"embed": hidden, "hidden": hidden}, 1, std=std, rngs=rngs)
        if spec.nsp:
            self.nsp_head = Project("bd,de->be", {"embed": hidden, "classes": 2}, 1, std=std, rngs=rngs)

    def mlm_logits(self, hidden: jax.Array, positions: jax.Array, tables: InputEmbedding | None = None) -> jax.Array:
        """hidden [b, l, d], positions [b, p] -> float32 logits [b, p, padded vocabulary]. Only the given positions are projected."""
        chosen = jnp.take_along_axis(hidden, positions[:, :, None], axis=1)
        return self.mlm_head(chosen, (self.encoder.embed if tables is None else tables).tokens.embedding[...])

    def nsp_logits(self, hidden: jax.Array) -> jax.Array:
        """hidden [b, l, d] -> float32 logits [b, 2]; 0 is "B follows A", 1 is "B is random"."""
        return self.nsp_head(jnp.tanh(self.pooler(hidden[:, 0]))).astype(jnp.float32)

    def every_logit(self, hidden: jax.Array) -> dict[str, jax.Array]:
        """What the heads say of hidden states [b, l, d]: "MLM logits" [b, l, padded vocabulary] and, if there is a pair head, "NSP logits" [b, 2]; float32."""
        logits = {"MLM logits": self.mlm_logits(hidden, jnp.broadcast_to(jnp.arange(hidden.shape[1]), hidden.shape[:2]))}
        return logits | {"NSP logits": self.nsp_logits(hidden)} if self.nsp else logits

    def __call__(
        self, batch: dict[str, jax.Array], *, key: jax.Array | None = None, compute: Compute = Compute(), tables: InputEmbedding | None = None
    ) -> dict[str, jax.Array]:
        """{"mlm": float32 [b, p, v], "nsp": float32 [b, 2] if the model has it}; reads the batch contract's input fields and mlm_positions. tables: of an
        encoder that has none of its own."""
        hidden = self.encoder(batch, key=key, compute=compute, tables=tables, decoder=self.mask_decoder)
        logits = {"mlm": self.mlm_logits(hidden, batch["mlm_positions"], tables)}
        return logits | {"nsp": self.nsp_logits(hidden)} if self.nsp else logits


class DetectionHead(nnx.Module):
    """Dense layer, activation, and one score for each token (Clark et al. 2020, section 2; google-research/electra)."""

    def __init__(self, spec: DetectionSpec, *, rngs: nnx.Rngs):
        hidden, std = spec.encoder.hidden_size, spec.encoder.initializer_range
        self.activation = spec.activation
        self.transform = Project("bld,de->ble", {"embed": hidden, "hidden": hidden}, 1, std=std, rngs=rngs)
        self.score = Project("bld,de->ble", {"embed": hidden, "classes": 1}, 1, std=std, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [b, l, d] -> float32 [b, l]."""
        return self.score(ACTIVATION_FUNCTIONS[self.activation](self.transform(x)))[..., 0].astype(jnp.float32)


class DetectionModel(nnx.Module):
    """The encoder with its head, and the generator: one set of parameters, trained together. The generator reads the encoder's tables, or the encoder adds
    to the generator's tokens (`EmbeddingSpec.added`)."""

    def __init__(self, spec: DetectionSpec, *, rngs: nnx.Rngs):
        self.adds = spec.encoder.embedding.added
        self.encoder = Encoder(spec.encoder, rngs=rngs)
        self.detection_head = DetectionHead(spec, rngs=rngs)
        self.generator = None if spec.generator is None else PretrainingModel(spec.generator, rngs=rngs)

    def every_logit(self, hidden: jax.Array) -> dict[str, jax.Array]:
        """What the head says of the encoder's hidden states [b, l, d]: "detection logits", float32 [b, l]."""
        return {"detection logits": self.detection_head(hidden)}

    def detection_logits(self, batch: dict[str, jax.Array], *, key: jax.Array | None = None, compute: Compute = Compute()) -> jax.Array:
        """float32 [b, l], above 0 where a token seems replaced."""
        tables = AddedTables(self.encoder.embed, self.generator.encoder.embed) if self.adds else None
        return self.detection_head(self.encoder(batch, key=key, compute=compute, tables=tables))

    def __call__(self, batch: dict[str, jax.Array], *, key: jax.Array | None = None, compute: Compute = Compute()) -> dict[str, jax.Array]:
        """{"mlm": float32 [b, p, v]}, the generator's; as a PretrainingModel gives them."""
        if self.generator is None:
            raise ValueError("this model has no generator, which its pretraining and its predictions for masks need; it is an encoder to be fine-tuned")
        return self.generator(batch, key=key, compute=compute, tables=None if self.adds else self.encoder.embed)


MODELS = {ModelSpec: PretrainingModel, DetectionSpec: DetectionModel, TaskSpec: TaskModel}


def build(spec: AnySpec, *, rngs: nnx.Rngs) -> PretrainingModel | DetectionModel | TaskModel:
    return MODELS[type(spec)](spec, rngs=rngs)
