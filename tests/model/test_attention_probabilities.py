"""The attention probabilities that the encoder hands out are transformers', and those that its attention works with, whatever the kind."""

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from bert_jax.model.attention import Context, in_heads
from bert_jax.model.block import Block
from bert_jax.model.families import build_spec
from bert_jax.model.spec import Compute
from tests.model.test_parity import BASE, SHAPES, graph, inputs_of, jit, random_batch, random_params, stock

LONG = BASE | {"num_layers": 2, "max_positions": 80}
KINDS = {  # name -> (section, whether every query finds the same values)
    "whole": (LONG, True),
    "window": (LONG | {"family": "longformer", "window": 8}, True),
    "window with global tokens": (LONG | {"family": "longformer", "window": 8, "global_tokens": 2}, False),
    "blocks": (LONG | {"family": "big_bird", "block_size": 4, "random_blocks": 2}, True),
}


@pytest.mark.parametrize("name", ["base", "modernbert", "deberta_v2", "albert"])
def test_transformers_has_the_same(name):
    section = BASE | SHAPES[name]
    spec = build_spec(section)
    params, batch = random_params(spec), random_batch(spec)
    ours = np.asarray(jit(lambda params, batch: nnx.merge(graph(spec)[0], params).encoder.attention_probabilities(batch))(params, batch))
    with torch.no_grad():
        theirs = np.stack(stock(section, params).base_model(**inputs_of(batch, spec), output_attentions=True).attentions)
    rows, length = batch["segment_ids"].shape
    assert ours.shape == theirs.shape == (section["num_layers"], rows, 4, length, length)
    real = batch["segment_ids"] > 0
    ours, theirs = (np.moveaxis(one, 2, 3)[:, real] for one in (ours, theirs))  # [layers, tokens, heads, keys]
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
    assert theirs.max() > 0.3 and np.abs(theirs[0] - theirs[1]).max() > 0.1


@pytest.mark.parametrize("name", KINDS)
def test_what_heads_find_is_the_values_in_these_proportions(name):
    section, has_one_value = KINDS[name]
    spec = build_spec(section).encoder
    length, kind = 61, spec.attention
    random = np.random.default_rng(0)
    x = random.normal(size=(2, length, spec.hidden_size)).astype(np.float32)
    segment_ids = (np.arange(length) < np.array([[61], [40]])).astype(np.int32)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Block(spec, rngs=nnx.Rngs(params=0)).attention))
    params = jax.tree.map(lambda leaf: random.normal(0, 0.3, leaf.shape).astype(np.float32), nnx.to_pure_dict(state))

    def run(params):
        attention, context = nnx.merge(graphdef, params), Context(segment_ids, layer=1)
        found = attention.attended(x, kind, context, None, Compute())
        return attention.probabilities(x, kind, context, Compute()), in_heads(attention.value, x, kind), found

    probabilities, values, found = map(np.asarray, jit(run)(params))
    probabilities, found = (np.where(segment_ids[:, None, :, None] > 0, one, 0) for one in (probabilities, found.swapaxes(1, 2)))
    np.testing.assert_allclose(probabilities.sum(-1), np.broadcast_to(segment_ids[:, None], probabilities.shape[:3]), atol=1e-5)
    assert probabilities.min() >= 0 and np.all(probabilities[1, :, :, 40:] == 0)
    if has_one_value:
        np.testing.assert_allclose(np.einsum("bhqk,bkhc->bhqc", probabilities, values), found, atol=1e-5)
    assert (name == "whole") == bool((probabilities[0] > 0).all())
