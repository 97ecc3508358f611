"""The encoder: embeddings and a scanned stack of blocks."""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.attention import segment_mask
from bert_jax.model.block import ACTIVATIONS_AXES, Block
from bert_jax.model.embed import InputEmbedding
from bert_jax.model.layers import scan_layers, stack_layers
from bert_jax.model.spec import Compute, EncoderSpec
from bert_jax.sharding import constrain

REMAT_WRAPPERS = {
    "none": lambda step: step,
    "dots": lambda step: jax.checkpoint(step, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
    "full": jax.checkpoint,
}


class Encoder(nnx.Module):
    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        self.num_layers = spec.num_layers
        self.embed = InputEmbedding(spec, rngs=rngs)
        self.layers = stack_layers(lambda rngs: Block(spec, rngs=rngs), spec.num_layers, rngs=rngs)

    def __call__(self, batch: dict[str, jax.Array], *, key: jax.Array | None = None, compute: Compute = Compute()) -> jax.Array:
        """The last layer's output [b, l, d]. Reads input_ids, token_type_ids, segment_ids and, if there, position_ids. key=None: no dropout."""
        return self._run(batch, key, compute, collect=False)[0]

    def hidden_states(self, batch: dict[str, jax.Array], *, compute: Compute = Compute()) -> jax.Array:
        """The embeddings' output and every layer's, [num_layers + 1, b, l, d], without dropout."""
        first, layers = self._run(batch, None, compute, collect=True)[1:]
        return jnp.concatenate([first[None], layers])

    def _run(self, batch, key, compute, collect):
        embed_key, layer_keys = None, None
        if key is not None:  # all keys of the model in one split: each derivation costs compile time
            keys = jax.random.split(key, 1 + self.num_layers * Block.KEYS)
            embed_key, layer_keys = keys[0], keys[1:].reshape(self.num_layers, Block.KEYS)
        mask = segment_mask(batch["segment_ids"])
        first = self.embed(batch["input_ids"], batch["token_type_ids"], batch.get("position_ids"), embed_key, jnp.dtype(compute.dtype))
        first = constrain(first, ACTIVATIONS_AXES)

        def body(block: Block, x: jax.Array, keys: jax.Array | None):
            x = block(x, mask, keys)
            return x, x if collect else None

        last, layers = scan_layers(self.layers, body, first, layer_keys, wrap=REMAT_WRAPPERS[compute.remat], unroll=compute.unroll)
        return last, first, layers
