"""The encoder: embeddings and a scanned stack of blocks."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.attention import Context
from bert_jax.model.block import ACTIVATIONS_AXES, Block
from bert_jax.model.convolution import Convolution
from bert_jax.model.disentangled import RelativePositions
from bert_jax.model.embed import InputEmbedding, Tables
from bert_jax.model.layers import Norm, part_last, scan_layers, stack_layers
from bert_jax.model.mask_decoder import MaskDecoder
from bert_jax.model.remat import rematerialised
from bert_jax.model.spec import Compute, DisentangledSpec, EncoderSpec
from bert_jax.sharding import constrain


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
        self.convolution = Convolution(spec, rngs=rngs) if spec.convolution else None
        self.relative = RelativePositions(spec, rngs=rngs) if isinstance(spec.attention, DisentangledSpec) else None

    def __call__(
        self,
        batch: dict[str, jax.Array],
        *,
        key: jax.Array | None = None,
        compute: Compute = Compute(),
        tables: Tables | None = None,
        decoder: MaskDecoder | None = None,
    ) -> jax.Array:
        """The encoder's output [b, l, d]. Reads input_ids, token_type_ids, segment_ids and, if there, position_ids and global_tokens. key=None: no dropout.
        tables: of an encoder that has none of its own, or not them alone. decoder: the result is what it makes of the last layer."""
        return self._run(batch, key, compute, tables, decoder)[0]

    def hidden_states(self, batch: dict[str, jax.Array], *, compute: Compute = Compute()) -> jax.Array:
        """The embeddings' output and every layer's, [num_layers + 1, b, l, d], without dropout. The last is the encoder's output: of a pre-norm
        encoder, normalised."""
        last, embedded, states = self._run(batch, None, compute, collect=lambda block, before, after, kind, context: after)
        return jnp.concatenate([embedded[None], states[:-1], last[None]])

    def attention_probabilities(self, batch: dict[str, jax.Array]) -> jax.Array:
        """Every layer's, float32 [num_layers, b, h, q, k], without dropout. Those of a query add up to 1; a query of padding has none that mean anything."""
        compute = Compute()

        def probabilities(block, before, after, kind, context):
            return block.probabilities(before, kind, context, compute)

        return self._run(batch, None, compute, collect=probabilities)[2]

    def _run(self, batch, key, compute, tables=None, decoder=None, collect=None):
        """(the output, the embeddings, what `collect` makes of every layer's (block, input, output, kind, context), stacked)."""
        spec, context = self.spec, Context(batch["segment_ids"], global_tokens=batch.get("global_tokens"))
        first, kinds = spec.first_layers, spec.kinds
        repeats, uses_of_last = (self.repeats, 0) if decoder is None else (self.repeats - 1, decoder.USES)
        scanned = first + repeats * len(kinds)
        embed_key, first_keys, layer_keys, last_keys = None, [None] * first, None, [None] * uses_of_last
        if key is not None:  # all keys of the model in one split: each derivation costs compile time
            keys = jax.random.split(key, 1 + (scanned + uses_of_last) * Block.KEYS)
            embed_key, block_keys = keys[0], keys[1:].reshape(-1, Block.KEYS)
            first_keys, last_keys = block_keys[:first], block_keys[scanned:]
            layer_keys = block_keys[first:scanned].reshape(repeats, len(kinds), Block.KEYS)

        x = self.embed(batch["input_ids"], batch["token_type_ids"], batch.get("position_ids"), embed_key, jnp.dtype(compute.dtype), tables)
        x = constrain(x, ACTIVATIONS_AXES)
        if self.relative is not None:
            context = context._replace(relative=self.relative(x.shape[1], x.dtype))
        embedded, collected = x, []
        for index in range(first):
            graphdef, parameters = nnx.split(self.first[str(index)])
            kind, here = kinds[index % len(kinds)], context._replace(layer=index)
            run = lambda parameters, x, keys, graphdef=graphdef, kind=kind, here=here: nnx.merge(graphdef, parameters)(x, kind, here, keys, compute)
            before, x = x, rematerialised(run, compute.remat, in_loop=False)(parameters, x, first_keys[index])
            if index == 0 and self.convolution is not None:
                x = self.convolution(embedded, x, context.segment_ids, None if key is None else jax.random.fold_in(embed_key, 1))
            if collect is not None:
                collected.append(collect(self.first[str(index)], before, x, kind, here)[None])

        def body(part: Block | Period, x: jax.Array, own: tuple[jax.Array, jax.Array | None]):
            (numbers, keys), found = own, []
            for index, block in enumerate([part] if len(kinds) == 1 else [part.blocks[str(index)] for index in range(len(kinds))]):
                kind, here = kinds[(first + index) % len(kinds)], context._replace(layer=numbers[index])
                before, x = x, block(x, kind, here, None if keys is None else keys[index], compute)
                if collect is not None:
                    found.append(collect(block, before, x, kind, here))
            return x, jnp.stack(found) if found else None

        if self.repeats:
            uses = 1 if spec.layer_groups is None else spec.num_layers // spec.layer_groups
            layers, last = (self.layers, None) if decoder is None else part_last(self.layers)
            numbers = jnp.arange(first, scanned).reshape(repeats, len(kinds))
            below = max(compute.untrained_layers - first, 0) // (len(kinds) * uses)
            untrained = below if below < (spec.layer_groups or repeats) else 0  # all of them: nothing in the scan has a gradient anyway
            x, found = scan_layers(layers, body, x, (numbers, layer_keys), uses=uses, remat=compute.remat, unroll=compute.unroll, untrained=untrained)
            if collect is not None:
                collected.append(found.reshape(-1, *found.shape[2 if uses == 1 else 3 :]))
        if decoder is not None:
            graphdef, parameters = nnx.split(last)

            def run_last(parameters, queries, memory, keys):
                return nnx.merge(graphdef, parameters)(queries, kinds[0], context._replace(layer=scanned, memory=memory), keys, compute)

            x = decoder(functools.partial(rematerialised(run_last, compute.remat, in_loop=False), parameters), x, batch.get("position_ids"), last_keys)
        return (self.final_norm(x) if spec.pre_norm else x), embedded, (jnp.concatenate(collected) if collected else None)
