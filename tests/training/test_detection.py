"""Replaced-token detection: what is sampled, what counts as replaced, sums that add up over micro-batches, and gradients that go where they should."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers

from bert_jax.batch import device_fields
from bert_jax.interop import architectures, weights
from bert_jax.model.families import build_spec
from bert_jax.model.spec import Compute
from bert_jax.sharding import make_mesh
from bert_jax.training.metrics import divide, model_flops
from bert_jax.training.objectives import MaskedLm, ReplacedTokenDetection, objective_of, put_in, ratios, sample, total_loss
from bert_jax.training.optim import OptimizerSpec, make_optimizer
from bert_jax.training.schedules import Schedule
from bert_jax.training.state import abstract_state, init_state, make_blueprint
from bert_jax.training.step import make_train_step
from tests.training.conftest import make_batch

SECTION = {
    "family": "electra", "vocab_size": 200, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "max_positions": 24,
    "embedding_size": 24, "generator_hidden_size": 16, "generator_layers": 1, "generator_heads": 2, "generator_intermediate_size": 24, "dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip
SPEC = build_spec(SECTION)
BLUEPRINT = make_blueprint(SPEC)
OBJECTIVE = objective_of(SPEC, None, 4)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})


@pytest.fixture(scope="module")
def params():
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: random.normal(0.0, 0.3, leaf.shape).astype(np.float32), BLUEPRINT.params)


@pytest.fixture(scope="module")
def batch():
    random, rows, length = np.random.default_rng(1), 4, 16
    lengths = np.array([16, 12, 9, 14])
    real = np.arange(length) < lengths[:, None]
    ids = np.where(real, random.integers(5, 200, (rows, length)), 0).astype(np.int32)
    positions = np.array([[2, 5, 9], [1, 3, 0], [4, 0, 0], [6, 7, 13]], np.int32)
    weights = (positions > 0).astype(np.float32)
    targets = np.where(weights > 0, np.take_along_axis(ids, positions, 1), 0).astype(np.int32)
    for row in range(rows):
        ids[row, positions[row][weights[row] > 0]] = 4
    return {
        "input_ids": ids, "token_type_ids": np.zeros_like(ids), "segment_ids": real.astype(np.int32), "mlm_positions": positions, "mlm_targets": targets,
        "mlm_weights": weights,
    }  # fmt: skip


@functools.cache
def compiled():
    def run(params, batch, key):
        def loss_of(params):
            losses, right = OBJECTIVE.sums(BLUEPRINT.model(params), batch, key=key, compute=Compute())
            return total_loss(losses, OBJECTIVE.weights(batch), OBJECTIVE.scales), (losses, right)

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    return jit(run)


def test_the_objective_follows_the_spec():
    assert OBJECTIVE == ReplacedTokenDetection(50.0, 4) and OBJECTIVE.scales == {"detection": 50.0}
    assert objective_of(SPEC.generator, "nsp", 4) == MaskedLm("nsp", 4)


def test_samples_follow_the_softmax_and_never_the_padding():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    logits = jnp.concatenate([logits, jnp.full(5, -1e30)])
    drawn = np.asarray(sample(jnp.broadcast_to(logits, (20_000, 8)), jax.random.key(0)))
    np.testing.assert_allclose(np.bincount(drawn, minlength=8) / 20_000, [0.5, 0.3, 0.2, 0, 0, 0, 0, 0], atol=0.015)


def test_samples_stand_at_the_used_slots_alone_and_an_equal_one_is_original(batch):
    tokens = np.full((4, 3), 77, np.int32)
    tokens[0, 1] = batch["mlm_targets"][0, 1]
    seen, replaced = put_in(batch, tokens)
    expected, differs = batch["input_ids"].copy(), np.zeros((4, 16), bool)
    for row, slot in zip(*np.nonzero(batch["mlm_weights"])):
        expected[row, batch["mlm_positions"][row, slot]] = tokens[row, slot]
        differs[row, batch["mlm_positions"][row, slot]] = (row, slot) != (0, 1)
    np.testing.assert_array_equal(seen["input_ids"], expected)
    np.testing.assert_array_equal(replaced, differs)
    assert differs.sum() == batch["mlm_weights"].sum() - 1 and not differs[:, 0].any()


def test_losses_and_counts_are_those_of_an_independent_computation(params, batch):
    """With torch's losses, on logits of the two networks and the samples drawn with the same key."""
    (total, (losses, right)), _ = compiled()(params, batch, None)
    model = BLUEPRINT.model(params)
    mlm = np.asarray(model(batch)["mlm"])
    tokens = np.asarray(sample(jnp.asarray(mlm), jax.random.key(0)))
    seen, replaced = put_in(batch, tokens)
    scores, replaced = np.array(model.detection_logits(seen)), np.asarray(replaced)
    used, real = batch["mlm_weights"] > 0, batch["segment_ids"] > 0
    assert 0 < replaced.sum() <= used.sum() and tokens.max() < 200
    mlm_loss = torch.nn.functional.cross_entropy(torch.from_numpy(mlm[used][:, :200]), torch.from_numpy(batch["mlm_targets"][used]).long(), reduction="sum")
    detection = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(scores[real]), torch.from_numpy(replaced[real].astype(np.float32)), reduction="sum"
    )
    np.testing.assert_allclose(losses["mlm"], mlm_loss, rtol=1e-5)
    np.testing.assert_allclose(losses["detection"], detection, rtol=1e-5)
    np.testing.assert_allclose(total, mlm_loss / used.sum() + 50 * detection / real.sum(), rtol=1e-5)
    flagged = scores > 0
    metrics = ratios(losses, right, OBJECTIVE.weights(batch))
    found = (flagged & replaced & real).sum()
    assert metrics["detection_recall"] == (found, replaced.sum()) and metrics["detection_precision"] == (found, (flagged & real).sum())
    assert metrics["detection_accuracy"] == ((flagged == replaced)[real].sum(), real.sum())


def test_keys_decide_the_samples(params, batch):
    first, again, other = (compiled()(params, batch, jax.random.key(seed))[0] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first[1][0]["mlm"] == other[1][0]["mlm"] and first[1][0]["detection"] != other[1][0]["detection"]


def test_no_gradient_flows_through_the_samples(params, batch):
    """The generator's own parts have the gradient of its loss alone; the tables that it shares have both losses'."""
    _, gradients = compiled()(params, batch, None)

    @jit
    def of_generator(params):
        def loss_of(params):
            losses, _ = MaskedLm(None).sums(BLUEPRINT.model(params), batch, key=None, compute=Compute())
            return losses["mlm"] / batch["mlm_weights"].sum()

        return jax.grad(loss_of)(params)

    alone = of_generator(params)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), gradients["generator"], alone["generator"])
    for table in ("tokens", "positions"):
        shared, generators = (tree["encoder"]["embed"][table]["embedding"] for tree in (gradients, alone))
        assert np.abs(generators).max() > 1e-4 and np.abs(shared - generators).max() > 1e-3
    assert not any(leaf.any() for leaf in jax.tree.leaves(alone["detection_head"])) and optax.tree.norm(gradients["detection_head"]) > 0


DISENTANGLED = SECTION | {"family": "deberta_v3", "generator_layers": 1, "max_distance": 24, "position_buckets": 8}
DISENTANGLED = {name: value for name, value in DISENTANGLED.items() if name != "embedding_size" and not name.startswith(("generator_h", "generator_i"))}


@pytest.fixture(scope="module")
def disentangled(batch):
    """(blueprint, parameters, gradients of the generator's loss and of the detection loss) of a DeBERTaV3."""
    blueprint = make_blueprint(build_spec(DISENTANGLED))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.normal(0.0, 0.3, leaf.shape).astype(np.float32), blueprint.params)

    @jit
    def gradients(params):
        return tuple(jax.grad(lambda params: OBJECTIVE.sums(blueprint.model(params), batch, key=None, compute=Compute())[0][name])(params) for name in ("mlm", "detection"))

    return blueprint, params, *gradients(params)


def tokens_of(tree):
    return tree["encoder"]["embed"]["tokens"]["embedding"]


def test_disentangled_tables_do_not_pull_at_one_another(disentangled):
    """The generator learns from its loss alone, the encoder's own table from the detection alone (He et al. 2021, arXiv 2111.09543, section 3.2)."""
    _, _, of_generator, of_detection = disentangled
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_detection["generator"]))
    assert not any(leaf.any() for name, part in of_generator.items() if name != "generator" for leaf in jax.tree.leaves(part))
    assert np.abs(tokens_of(of_generator["generator"])).max() > 1e-3 and np.abs(tokens_of(of_detection)).max() > 1e-3
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(of_generator["generator"]["mask_decoder"]))


def test_the_encoder_reads_the_sum_of_both_tables(disentangled, batch):
    """It computes what an encoder by itself does whose table is the sum."""
    blueprint, params, *_ = disentangled
    alone = make_blueprint(build_spec({name: value for name, value in DISENTANGLED.items() if "generator" not in name} | {"family": "deberta_v3_discriminator"}))
    embed = params["encoder"]["embed"] | {"tokens": {"embedding": tokens_of(params) + tokens_of(params["generator"])}}
    summed = {"encoder": params["encoder"] | {"embed": embed}, "detection_head": params["detection_head"]}
    scores = [jit(lambda params, each=each: each.model(params).detection_logits(batch))(tree) for each, tree in ((blueprint, params), (alone, summed))]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
    with pytest.raises(ValueError, match="what is added to its generator's"):
        jax.eval_shape(lambda params: blueprint.model(params).encoder(batch), blueprint.params)


def test_the_encoders_own_table_begins_at_zero(disentangled):
    shapes = jax.jit(disentangled[0].init, compiler_options={"xla_backend_optimization_level": 0})(jax.random.key(0))
    assert not tokens_of(shapes).any() and tokens_of(shapes["generator"])[:200].std() > 0.01


def test_weights_of_the_whole_batch_make_micro_batches_add_up(params, batch):
    """With the same samples: the sums of two halves are the sums of the whole."""
    model = BLUEPRINT.model(params)
    halves = [{name: field[part] for name, field in batch.items()} for part in (slice(0, 2), slice(2, 4))]
    whole, *parts = (OBJECTIVE.weights(each) for each in (batch, *halves))
    for name, value in whole.items():
        assert value == sum(part[name] for part in parts)
    assert whole["detection"] == (batch["segment_ids"] > 0).sum()
    sums = [MaskedLm(None).sums(model, each, key=None, compute=Compute())[0]["mlm"] for each in (batch, *halves)]
    np.testing.assert_allclose(sums[0], sums[1] + sums[2], rtol=1e-5)


def test_flops_count_both_networks():
    generator, encoder = SPEC.generator.encoder, SPEC.encoder
    weights = sum(each.num_layers * each.layer_weights + 24 * each.hidden_size for each in (generator, encoder))
    attention = 12 * 16 * 16 * (1 * 16 + 2 * 32)
    heads = 3 * 24 * (16 + 200) + 16 * 32 * 33
    assert model_flops(SPEC, 16, 3) == 6 * (16 * weights + heads) + attention


def test_a_generator_must_fit_and_be_there():
    with pytest.raises(ValueError, match="cannot be those of"):
        type(SPEC)(SPEC.encoder, "gelu", build_spec(SECTION | {"embedding_size": 20}).generator, 50.0)
    alone = {name: value for name, value in SECTION.items() if "generator" not in name} | {"family": "electra_discriminator"}
    blueprint = make_blueprint(build_spec(alone))
    assert blueprint.params.keys() == {"encoder", "detection_head"}
    with pytest.raises(ValueError, match="no generator"):
        jax.eval_shape(lambda params: blueprint.model(params)({}), blueprint.params)


def test_gradients_are_those_of_stock_transformers(params, batch):
    """Both networks as transformers' classes, the samples drawn here, losses in torch: the tables that ours shares have the sum of both gradients there."""
    _, gradients = compiled()(params, batch, None)
    tokens = sample(BLUEPRINT.model(params)(batch)["mlm"], jax.random.key(0))
    seen, replaced = jax.tree.map(np.array, put_in(batch, tokens))
    models = {name: stock(section, part) for name, (section, part) in architectures.parts_of(SECTION, params).items()}
    used, real = batch["mlm_weights"] > 0, torch.from_numpy(batch["segment_ids"] > 0)
    row, slot = np.nonzero(used)
    given = {"attention_mask": real.long(), "token_type_ids": torch.from_numpy(batch["token_type_ids"]).long()}
    mlm = models["generator"](torch.from_numpy(batch["input_ids"]).long(), **given).logits[row, batch["mlm_positions"][row, slot]]
    scores = models["discriminator"](torch.from_numpy(seen["input_ids"]).long(), **given).logits[real]
    total = torch.nn.functional.cross_entropy(mlm, torch.from_numpy(batch["mlm_targets"][row, slot]).long())
    total = total + 50 * torch.nn.functional.binary_cross_entropy_with_logits(scores, torch.from_numpy(replaced).float()[real])
    total.backward()
    theirs = {name: {path: parameter.grad.numpy() for path, parameter in model.named_parameters() if parameter.grad is not None} for name, model in models.items()}
    compared = 0
    for name, (section, part) in architectures.parts_of(SECTION, gradients).items():
        for path, ours in weights.to_tensors(part, build_spec(section), architectures.architecture_of(section).naming).items():
            shared = path.startswith("electra.embeddings.")
            wanted = sum(one[path] for one in theirs.values()) if shared else theirs[name][path]
            np.testing.assert_allclose(ours, wanted, atol=2e-5 * max(np.abs(wanted).max(), 1.0), err_msg=f"{name}: {path}")
            compared += 1
    assert compared > 60


def stock(section, params):
    """transformers' model with our parameters."""
    architecture = architectures.architecture_of(section)
    config = architectures.config_from_section(section, pad=0, cls=2, sep=3)
    model = getattr(transformers, config["architectures"][0])(transformers.AutoConfig.for_model(**config, attn_implementation="eager")).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.to_tensors(params, build_spec(section), architecture.naming).items()}, strict=False)
    model.tie_weights()
    return model


def test_detection_is_learnt():
    """Rows that count up by one: a replaced token breaks its row. Recall leaves 0, and precision is far above the share of replaced tokens. (At twice the rate it never does.)"""
    blueprint = make_blueprint(build_spec(SECTION | {"initializer_range": 0.1}))
    tx = make_optimizer(OptimizerSpec("adamw", 0.9, 0.98, 1e-6, 0.0, 1.0, ("bias", "norm")), blueprint.axes)
    mesh = make_mesh(devices=jax.devices()[:1])
    abstract = abstract_state(blueprint, tx, mesh)
    schedule = Schedule(name="constant", peak=5e-3, warmup_steps=10)
    step = make_train_step(blueprint, OBJECTIVE, tx, schedule, Compute(), abstract, mesh)
    state, seen = init_state(blueprint, tx, abstract, jax.random.key(0)), []
    for number in range(240):
        rows = {name: field for name, field in device_fields(make_batch(number, rows=32)).items() if name != "nsp_labels"}
        state, metrics = step(state, rows, jax.random.key(1))
        seen.append(metrics)
    early, late = divide(seen[10:30]), divide(seen[-20:])
    replaced, tokens = (sum(float(metrics[name][1]) for metrics in seen[-20:]) for name in ("detection_recall", "detection_loss"))
    assert early["detection_recall"] < 0.1 and late["detection_recall"] > 0.5
    assert late["detection_precision"] > 0.8 > 3 * replaced / tokens > 0.3
    assert late["detection_loss"] < 0.6 * early["detection_loss"]
