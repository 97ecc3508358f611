"""The update: accumulation is exact, evaluation is fixed, learning happens, and a restarted sequence of steps has the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.batch import device_fields
from bert_jax.model.families import bert, build_spec
from bert_jax.model.spec import Compute
from bert_jax.sharding import make_mesh, process_rows, put_batch
from bert_jax.training.evaluate import evaluate
from bert_jax.training.metrics import divide, model_flops
from bert_jax.training.objectives import MaskedLm, ratios
from bert_jax.training.state import make_blueprint, whole_params
from bert_jax.training.step import make_eval_step
from tests.training.conftest import LENGTH, make_batch


def put(tiny, step, rows=8):
    return put_batch(device_fields(make_batch(step, rows)), tiny.mesh)


def test_a_split_run_has_the_same_bits(tiny, tiny_step):
    """The state, the batch and the key decide everything: no hidden state in the step."""

    def advance(state, steps):
        for number in steps:
            state, _ = tiny_step(state, put(tiny, number), jax.random.key(1))
        return state

    whole = jax.device_get(advance(tiny.fresh(), range(6)).params)
    first = jax.device_get(advance(tiny.fresh(), range(3)))
    second = jax.device_get(advance(jax.tree.map(jax.numpy.asarray, first), range(3, 6)).params)
    for mine, theirs in zip(jax.tree.leaves(whole), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_dropout_depends_on_the_step_and_the_key(tiny, tiny_step):
    def loss(key, step):
        state = tiny.fresh()
        state.step = jax.numpy.int32(step)
        return divide([tiny_step(state, put(tiny, 0), key)[1]])["loss"]

    assert loss(jax.random.key(1), 0) == loss(jax.random.key(1), 0)
    assert loss(jax.random.key(1), 0) != loss(jax.random.key(2), 0)
    assert loss(jax.random.key(1), 0) != loss(jax.random.key(1), 1)


def test_it_learns_and_evaluation_sees_it(tiny, tiny_step):
    eval_step = make_eval_step(tiny.blueprint, tiny.objective, tiny.compute, tiny.abstract.params, tiny.mesh)
    held_out = [make_batch(step) for step in range(1000, 1004)]

    def score(state):
        return evaluate(state.params, eval_step, held_out, tiny.mesh, baseline_token=5)

    state = tiny.fresh()
    before = score(state)
    assert score(state) == before
    for number in range(60):
        state, _ = tiny_step(state, put(tiny, number), jax.random.key(1))
    after = score(state)
    assert before["mlm_loss"] == pytest.approx(np.log(200), abs=0.1)  # a fresh model is nearly uniform
    assert after["mlm_loss"] < before["mlm_loss"] - 0.8
    assert after["perplexity"] == pytest.approx(np.exp(after["mlm_loss"]))
    targets = np.concatenate([batch["mlm_targets"][batch["mlm_weights"] > 0] for batch in held_out])
    assert after["unigram_accuracy"] == pytest.approx((targets == 5).mean())
    assert after["predictions"] == len(targets) and after["sequences"] == 32
    assert after["nsp_majority"] == 0.5


def test_accuracy_is_told_apart_by_what_stands_at_the_place():
    """Of four predictions two are masked (one right), one is replaced (wrong), one kept (right); the unused slot counts nowhere."""
    batch = {
        "input_ids": jnp.asarray([[1, 4, 4, 9, 8, 2]]), "mlm_positions": jnp.asarray([[1, 2, 3, 4, 0]]), "mlm_targets": jnp.asarray([[5, 6, 7, 8, 0]]),
        "mlm_weights": jnp.asarray([[1.0, 1.0, 1.0, 1.0, 0.0]]),
    }
    predicted = jnp.asarray([[5, 5, 9, 8, 0]])
    objective = MaskedLm(None, mask_id=4)
    losses, right = objective.sums(lambda *_, **__: {"mlm": jax.nn.one_hot(predicted, 10)}, batch, key=None, compute=None)
    assert divide([ratios(losses, right, objective.weights(batch))]) == pytest.approx(
        {"mlm_loss": float(losses["mlm"]) / 4, "mlm_accuracy": 0.5, "mlm_masked_accuracy": 0.5, "mlm_random_accuracy": 0.0, "mlm_kept_accuracy": 1.0}
    )


def test_metrics_are_exact_over_a_window():
    window = [{"loss": (np.float32(6.0), np.float32(3.0))}, {"loss": (np.float32(1.0), np.float32(1.0))}]
    assert divide(window) == {"loss": 7.0 / 4.0}  # and not the mean of 2 and 1


@pytest.mark.parametrize(
    "size, length, predictions, gigaflops",
    [("large", 128, 20, 240.6), ("large", 512, 76, 1019.8), ("base", 128, 20, 69.9), ("base", 512, 76, 300.9)],
)
def test_model_flops_and_parameters_are_the_published_ones(size, length, predictions, gigaflops):
    sizes = {
        "base": dict(hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072),
        "large": dict(hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096),
    }
    blueprint = make_blueprint(bert(vocab_size=30_522, **sizes[size]))
    assert blueprint.num_params == {"base": 110_106_428, "large": 336_226_108}[size]  # transformers' BertForPreTraining
    assert model_flops(blueprint.spec, length, predictions) / 1e9 == pytest.approx(gigaflops, abs=0.06)


def test_a_batch_that_does_not_divide_is_refused():
    mesh = make_mesh(devices=jax.devices()[:1])
    np.testing.assert_array_equal(process_rows(mesh, 6), np.arange(6))
    with pytest.raises(ValueError, match="needs 2 devices, but there are 1"):
        make_mesh(data=2, devices=jax.devices()[:1])


def test_the_batch_contract_is_checked():
    from bert_jax.batch import check

    batch = make_batch(0)
    check(batch)
    with pytest.raises(ValueError, match="'mlm_targets' has K=4, but 'mlm_positions' has K=5"):
        check(batch | {"mlm_targets": batch["mlm_targets"][:, :4]})
    with pytest.raises(ValueError, match="'input_ids' is int64; expected int32"):
        check(batch | {"input_ids": batch["input_ids"].astype(np.int64)})
    with pytest.raises(ValueError, match="lacks the field 'segment_ids'"):
        check({name: array for name, array in batch.items() if name != "segment_ids"})
    assert batch["input_ids"].shape[1] == LENGTH


SMALL = dict(vocab_size=200, hidden_size=16, num_layers=4, num_heads=2, intermediate_size=32, max_positions=32)
FAMILIES = {
    "bert": dict(family="bert") | SMALL,
    "modernbert": dict(family="modernbert") | SMALL,
    "albert": dict(family="albert", embedding_size=8) | SMALL,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_of_layers_travel_as_they_are_used(family, tiny):
    """Rounding them once, before they are gathered, changes no bit of the logits; and nothing else is rounded, nor what a gradient adds up over layers."""
    blueprint = make_blueprint(build_spec(FAMILIES[family]))
    params, batch = blueprint.init(jax.random.key(0)), device_fields(make_batch(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)  # norms and biases too
    whole = whole_params(blueprint, params, tiny.mesh, "bfloat16")
    kinds = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.dtype for path, leaf in jax.tree.leaves_with_path(whole)}
    rounded = {name for name, kind in kinds.items() if kind == jnp.bfloat16}
    assert rounded == (set() if family == "albert" else {name for name in kinds if "/layers/" in name and name.endswith("kernel")})
    logits = jax.jit(lambda params: blueprint.model(params)(batch, compute=Compute(dtype="bfloat16"))["mlm"])
    np.testing.assert_array_equal(logits(whole), logits(params))
