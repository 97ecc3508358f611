"""The encoder: embeddings and a scanned stack of blocks."""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.attention import ATTENDED, Context
from bert_jax.model.block import ACTIVATIONS_AXES, Block
from bert_jax.model.embed import InputEmbedding
from bert_jax.model.layers import Norm, scan_layers, stack_layers
from bert_jax.model.spec import Compute, EncoderSpec
from bert_jax.sharding import constrain

POLICIES = jax.checkpoint_policies
PROJECTIONS = POLICIES.dots_with_no_batch_dims_saveable
REMAT_WRAPPERS = {
    "none": lambda step: step,
    "elementwise": lambda step: jax.checkpoint(step, policy=POLICIES.save_from_both_policies(PROJECTIONS, POLICIES.save_only_these_names(ATTENDED))),
    "dots": lambda step: jax.checkpoint(step, policy=PROJECTIONS),
    "full": jax.checkpoint,
}


class Period(nnx.Module):
    """Successive blocks, one for each kind of attention in the spec's pattern; what is scanned where the pattern has several."""

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        self.blocks = nnx.Dict({str(index): Block(spec, rngs=rngs) for index in range(len(spec.kinds))})


class Encoder(nnx.Module):
    """`first`: the blocks held apart (`EncoderSpec.first_layers`). `layers`: all others, stacked: a block, or a Period of them; in an encoder with
    layer_groups one block for each group, applied several times."""

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        self.spec = spec
        self.embed = InputEmbedding(spec, rngs=rngs)
        first, kinds = spec.first_layers, len(spec.kinds)
        if first:
            self.first = nnx.Dict({str(index): Block(spec, attention_norm=spec.first_norm or index > 0, rngs=rngs) for index in range(first)})
        self.repeats = (spec.num_layers - first) // kinds
        make = Block if kinds == 1 else Period
        if self.repeats:
            self.layers = stack_layers(lambda rngs: make(spec, rngs=rngs), spec.layer_groups or self.repeats, rngs=rngs)
        if spec.pre_norm:
            self.final_norm = Norm(spec.hidden_size, spec.norm)

    def __call__(
        self, batch: dict[str, jax.Array], *, key: jax.Array | None = None, compute: Compute = Compute(), tables: InputEmbedding | None = None
    ) -> jax.Array:
        """The encoder's output [b, l, d]. Reads input_ids, token_type_ids, segment_ids and, if there, position_ids. key=None: no dropout. tables: of an
        encoder that has none of its own."""
        return self._run(batch, key, compute, tables, collect=False)[0]

    def hidden_states(self, batch: dict[str, jax.Array], *, compute: Compute = Compute()) -> jax.Array:
        """The embeddings' output and every layer's, [num_layers + 1, b, l, d], without dropout. The last is the encoder's output: of a pre-norm
        encoder, normalised."""
        last, states = self._run(batch, None, compute, None, collect=True)
        return jnp.concatenate([states[:-1], last[None]])

    def _run(self, batch, key, compute, tables, collect):
        spec, context = self.spec, Context(batch["segment_ids"])
        first, kinds = spec.first_layers, spec.kinds
        embed_key, first_keys, layer_keys = None, [None] * first, None
        if key is not None:  # all keys of the model in one split: each derivation costs compile time
            keys = jax.random.split(key, 1 + spec.num_layers * Block.KEYS)
            embed_key, block_keys = keys[0], keys[1:].reshape(spec.num_layers, Block.KEYS)
            first_keys, layer_keys = block_keys[:first], block_keys[first:].reshape(self.repeats, len(kinds), Block.KEYS)
        wrap = REMAT_WRAPPERS[compute.remat]

        x = self.embed(batch["input_ids"], batch["token_type_ids"], batch.get("position_ids"), embed_key, jnp.dtype(compute.dtype), tables)
        x = constrain(x, ACTIVATIONS_AXES)
        states = [x]
        for index in range(first):
            graphdef, parameters = nnx.split(self.first[str(index)])
            run = wrap(lambda parameters, x, keys, graphdef=graphdef, kind=kinds[index % len(kinds)]: nnx.merge(graphdef, parameters)(x, kind, context, keys, compute))
            x = run(parameters, x, first_keys[index])
            states.append(x)

        def body(part: Block | Period, x: jax.Array, keys: jax.Array | None):
            passed = []
            for index, block in enumerate([part] if len(kinds) == 1 else [part.blocks[str(index)] for index in range(len(kinds))]):
                x = block(x, kinds[(first + index) % len(kinds)], context, None if keys is None else keys[index], compute)
                passed.append(x)
            return x, jnp.stack(passed) if collect else None

        if self.repeats:
            uses = 1 if spec.layer_groups is None else spec.num_layers // spec.layer_groups
            x, passed = scan_layers(self.layers, body, x, layer_keys, uses=uses, wrap=wrap, unroll=compute.unroll)
            states += [passed.reshape(-1, *x.shape)] if collect else []
        if not collect:
            return (self.final_norm(x) if spec.pre_norm else x), None
        states = jnp.concatenate([state.reshape(-1, *x.shape) for state in states])
        return (self.final_norm(x) if spec.pre_norm else x), states
