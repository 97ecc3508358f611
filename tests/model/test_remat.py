"""What each choice of `compute.remat` keeps of a layer for the backward pass, and what it computes again."""

import dataclasses
import functools

import jax
import pytest
from flax import nnx
from jax.extend import core

from bert_jax.model.adapter_spec import LoraSpec
from bert_jax.model.families import build_spec
from bert_jax.model.remat import POLICIES
from bert_jax.model.spec import REMAT, Compute
from tests.model.test_parity import BASE, graph, random_batch

ROWS, LENGTH, LAYERS = 2, 16, 4
ALL_ALIKE = {"bert": {}, "albert": {"family": "albert", "layer_groups": 1, "embedding_size": 16}}  # no layer is held apart from the loop
D, F = BASE["hidden_size"], BASE["intermediate_size"]


@functools.cache
def lower(shape="bert", lora=False, **compute):
    """(jaxpr, text) of the gradients of an encoder with dropout."""
    spec = build_spec(BASE | ALL_ALIKE[shape] | {"num_layers": LAYERS, "dropout": 0.1, "attention_dropout": 0.1})
    if lora:
        spec = dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, adapter=LoraSpec(4, 8.0, ("query", "value"))))
    graphdef, params = graph(spec)
    batch = random_batch(spec, ROWS, LENGTH)

    def loss(params):
        return nnx.merge(graphdef, params).encoder(batch, key=jax.random.key(0), compute=Compute(**compute)).sum()

    traced = jax.jit(jax.grad(loss)).trace(params)
    return traced.jaxpr, traced.lower().as_text()


def equations(jaxpr):
    """Those of all loops and functions in it, as often as they stand there."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: isinstance(value, core.Jaxpr | core.ClosedJaxpr)):
            if isinstance(value, core.Jaxpr | core.ClosedJaxpr):
                yield from equations(getattr(value, "jaxpr", value))


def products(jaxpr):
    return sum(equation.primitive.name == "dot_general" for equation in equations(jaxpr))


def kept(jaxpr):
    """Numbers for each token of a layer that the loop over layers hands to the backward pass."""
    loop = next(equation for equation in equations(jaxpr) if equation.primitive.name == "scan")
    sizes = [out.aval.size for out in loop.outvars[loop.params["num_carry"] :]]
    return sum(sizes) / (ROWS * LENGTH * loop.params["length"])


def test_every_choice_is_known():
    assert {"none", *POLICIES} == set(REMAT)


def test_elementwise_computes_no_projection_again():
    """Only attention's scores, whose product is one; `dots` also what is made of them, `full` also the projections."""
    counts = {remat: products(lower(remat=remat)[0]) for remat in REMAT}
    assert counts["elementwise"] == counts["none"] + 1
    assert counts["dots"] == counts["none"] + 2
    assert counts["full"] >= counts["none"] + 2 + 5  # all but the last one, which nothing behind it in the layer needs


def test_elementwise_computes_no_low_rank_product_again():
    counts = {remat: products(lower(lora=True, remat=remat)[0]) for remat in ("none", "elementwise")}
    assert counts["elementwise"] == counts["none"] + 1  # attention's scores


def test_elementwise_keeps_eleven_times_the_layers_output_and_two_statistics_a_norm():
    """Its input, queries, keys, values, what attention found, both sums, and the MLP's inner layer."""
    found = kept(lower(remat="elementwise")[0])
    assert 7 * D + F + 4 <= found <= 7 * D + F + 4 + 2  # and the key of the layer's dropout
    assert kept(lower(remat="dots")[0]) == found - D
    assert kept(lower(remat="full")[0]) == found - 6 * D - F - 4
    assert kept(lower(remat="none")[0]) > 2 * found


@pytest.mark.parametrize("shape", ALL_ALIKE)
def test_a_barrier_only_where_there_is_no_loop(shape):
    """It makes a copy of all that was kept; without a loop, compilers would undo the rematerialisation."""
    assert "optimization_barrier" not in lower(shape, remat="elementwise")[1]
    assert "optimization_barrier" in lower(shape, remat="elementwise", unroll=LAYERS)[1]
    assert "optimization_barrier" not in lower(shape, remat="none", unroll=LAYERS)[1]
