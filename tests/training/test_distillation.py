"""Distillation: losses and gradients of the published script's formulation in torch; a student made of its teacher's layers; a teacher that nothing changes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import torch
import transformers

from bert_jax.interop import architectures, weights
from bert_jax.model.depth import layers_of, outside_layers
from bert_jax.model.families import build_spec
from bert_jax.model.spec import Compute
from bert_jax.sharding import make_mesh
from bert_jax.training.distillation import Distillation, student_params
from bert_jax.training.metrics import model_flops
from bert_jax.training.objectives import MaskedLm, total_loss
from bert_jax.training.optim import OptimizerSpec, make_optimizer
from bert_jax.training.schedules import Schedule
from bert_jax.training.state import abstract_params, abstract_state, make_blueprint, state_from_params
from bert_jax.training.step import make_train_step
from tests.training.conftest import make_batch

SIZES = {"vocab_size": 200, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48, "max_positions": 40, "dropout": 0.0, "attention_dropout": 0.0}
TEACHER = {"family": "bert", "num_layers": 4, "nsp": False} | SIZES
STUDENT = {"family": "distilbert", "num_layers": 2} | SIZES
TAUGHT_BY = make_blueprint(build_spec(TEACHER))
BLUEPRINT = make_blueprint(build_spec(STUDENT))
OBJECTIVE = Distillation(MaskedLm(None, 4), BLUEPRINT.spec, TAUGHT_BY, 2.0, 5.0, 2.0, 1.0, "real")
LAYERS = (0, 3)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})


def random_params(blueprint, seed):
    random = np.random.default_rng(seed)
    return jax.tree.map_with_path(
        lambda path, leaf: random.normal(float(path[-1].key == "scale"), 0.2, leaf.shape).astype(np.float32), blueprint.params
    )


@pytest.fixture(scope="module")
def teacher():
    return random_params(TAUGHT_BY, 0)


@pytest.fixture(scope="module")
def params():
    return random_params(BLUEPRINT, 1)


@pytest.fixture(scope="module")
def batch():
    """Of one token type, for the student cannot tell two apart. There are 24 positions and 5 slots: the soft targets' last part is not full."""
    batch = make_batch(0, rows=4)
    return {name: np.zeros_like(field) if name == "token_type_ids" else field for name, field in batch.items() if name not in ("example_ids", "source_ids")}


def run(objective):
    def losses_of(params, teacher, batch):
        losses, _ = objective.sums(BLUEPRINT.model(params), batch, teacher, key=None, compute=Compute())
        return total_loss(losses, objective.weights(batch), objective.scales), losses

    return jit(jax.value_and_grad(losses_of, has_aux=True))


@functools.cache
def compiled():
    return run(OBJECTIVE)


def stock(section, params):
    """transformers' model with our parameters."""
    naming = architectures.architecture_of(section).naming
    config = architectures.config_from_section(section, pad=0, cls=2, sep=3)
    model = getattr(transformers, config["architectures"][0])(transformers.AutoConfig.for_model(**config, attn_implementation="eager")).eval()
    tensors = weights.to_tensors(params, build_spec(section), naming)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()}, strict=False)
    model.tie_weights()
    return model


def published_loss(student, teacher, batch, *, restricted: bool):
    """The step of the script `distiller.py`: the mean divergence over all tokens that are not padding, or with restrict_ce_to_mask over the predicted ones; the
    MLM loss; the cosine of the last hidden states over all tokens that are not padding. 5, 2 and 1 of them."""
    ids, real = torch.from_numpy(batch["input_ids"]).long(), torch.from_numpy(batch["segment_ids"] > 0)
    labels = torch.full(ids.shape, -100)
    for row, slot in zip(*np.nonzero(batch["mlm_weights"])):
        labels[row, batch["mlm_positions"][row, slot]] = int(batch["mlm_targets"][row, slot])
    with torch.no_grad():
        wanted = teacher(input_ids=ids, attention_mask=real.long(), output_hidden_states=True)
    given = student(input_ids=ids, attention_mask=real.long(), output_hidden_states=True)
    mask = labels > -1 if restricted else real
    divergence = torch.nn.KLDivLoss(reduction="batchmean")
    soft = divergence(torch.log_softmax(given.logits[mask] / 2, -1), torch.softmax(wanted.logits[mask] / 2, -1)) * 2**2
    mlm = torch.nn.CrossEntropyLoss(ignore_index=-100)(given.logits.view(-1, 200), labels.view(-1))
    one, other = given.hidden_states[-1][real], wanted.hidden_states[-1][real]
    cosine = torch.nn.CosineEmbeddingLoss(reduction="mean")(one, other, torch.ones(len(one)))
    return 5.0 * soft + 2.0 * mlm + 1.0 * cosine, {"soft": soft, "mlm": mlm, "cosine": cosine}


@pytest.mark.parametrize("targets", ["real", "masked"])
def test_losses_and_gradients_are_the_published_scripts(params, teacher, batch, targets):
    objective = dataclasses.replace(OBJECTIVE, targets=targets)
    (total, losses), gradients = run(objective)(params, teacher, batch)
    student = stock(STUDENT, params)
    wanted, parts = published_loss(student, stock(TEACHER, teacher), batch, restricted=targets == "masked")
    wanted.backward()
    np.testing.assert_allclose(total, wanted.item(), rtol=1e-5)
    counts = objective.weights(batch)
    for name, part in parts.items():
        np.testing.assert_allclose(losses[name] / counts[name], part.item(), rtol=1e-5)
    naming = architectures.architecture_of(STUDENT).naming
    ours = weights.to_tensors(gradients, BLUEPRINT.spec, naming)
    theirs = {name: parameter.grad.numpy() for name, parameter in student.named_parameters(remove_duplicate=False) if name not in naming.tied}
    assert ours.keys() == theirs.keys()
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, atol=1e-5 * max(np.abs(gradient).max(), largest / 100), err_msg=name)


def test_the_student_begins_as_layers_of_its_teacher(params, teacher):
    begun = student_params(params, BLUEPRINT.spec, teacher, TAUGHT_BY.spec, LAYERS)
    assert jax.tree.structure(begun) == jax.tree.structure(params)
    given = layers_of(teacher, TAUGHT_BY.spec)
    for layer, number in zip(layers_of(begun, BLUEPRINT.spec), LAYERS, strict=True):
        assert layer.keys() == given[number].keys() and all(np.array_equal(layer[name], given[number][name]) for name in layer)
    outside, theirs = outside_layers(begun, BLUEPRINT.spec), outside_layers(teacher, TAUGHT_BY.spec)
    assert theirs.keys() - outside.keys() == {"encoder.embed.token_types.embedding"} and not outside.keys() - theirs.keys()
    assert all(np.array_equal(leaf, theirs[name]) for name, leaf in outside.items())


def test_layers_of_a_pattern_are_found_wherever_they_lie():
    """From ModernBERT's first layer, apart, and its two stacks, into a model where other layers lie apart."""
    sizes = {"family": "modernbert", "global_every": 3} | SIZES
    sections = [sizes | {"num_layers": layers} for layers in (7, 3)]
    teacher, student = (make_blueprint(build_spec(section)) for section in sections)
    params = random_params(teacher, 3)
    begun = student_params(random_params(student, 4), student.spec, params, teacher.spec, (0, 4, 5))
    given = layers_of(params, teacher.spec)
    for layer, number in zip(layers_of(begun, student.spec), (0, 4, 5), strict=True):
        assert all(np.array_equal(layer[name], given[number][name]) for name in layer)


def test_a_perfect_student_loses_nothing_to_its_teacher(teacher, batch):
    objective = Distillation(MaskedLm(None, 4), TAUGHT_BY.spec, TAUGHT_BY, 2.0, 5.0, 0.0, 1.0, "real")
    losses, _ = jit(lambda teacher: objective.sums(TAUGHT_BY.model(teacher), batch, teacher, key=None, compute=Compute()))(teacher)
    assert abs(losses["soft"]) < 1e-4 and abs(losses["cosine"]) < 1e-4 and losses["mlm"] > 1


@pytest.fixture(scope="module")
def step():
    """(two updates in two micro-batches each, student and teacher before)."""
    mesh = make_mesh(devices=jax.devices()[:1])
    tx = make_optimizer(OptimizerSpec("adamw", 0.9, 0.98, 1e-6, 0.0, 5.0, ("bias", "norm")), BLUEPRINT.axes)
    abstract, frozen = abstract_state(BLUEPRINT, tx, mesh), (abstract_params(TAUGHT_BY, mesh),)
    schedule = Schedule(peak=1e-3, warmup_steps=0, total_steps=100, power=1.0, end=0.0, decay_from="warmup")
    run = make_train_step(BLUEPRINT, OBJECTIVE, tx, schedule, Compute(), abstract, mesh, accumulate=2, frozen=frozen)
    return lambda params: state_from_params(jax.tree.map(jax.numpy.array, params), tx, abstract), run


def test_updates_lower_the_loss_and_leave_the_teacher_as_it_was(step, params, teacher, batch):
    fresh, train_step = step
    (whole, _), _ = compiled()(params, teacher, batch)
    state, placed = fresh(params), jax.tree.map(jax.numpy.array, teacher)
    seen = []
    for _ in range(3):
        state, metrics = train_step(state, batch, jax.random.key(0), placed)
        seen.append(float(metrics["loss"][0]))
        assert {"soft_loss", "mlm_loss", "cosine_loss", "mlm_accuracy"} <= metrics.keys()
    assert seen[0] == pytest.approx(float(whole), rel=1e-5) and seen[0] > seen[1] > seen[2]
    jax.tree.map(np.testing.assert_array_equal, placed, teacher)
    assert jax.tree.structure(state.params) == jax.tree.structure(params)


def test_what_does_not_fit_is_refused_in_words(params, teacher):
    change = functools.partial(dataclasses.replace, OBJECTIVE)
    other = make_blueprint(build_spec(TEACHER | {"hidden_size": 64}))
    assert change(teacher=other, cosine_weight=0.0).scales["cosine"] == 0
    for changes, words in (
        ({"teacher": other}, "cosine_weight compares them"), ({"teacher": make_blueprint(build_spec(TEACHER | {"vocab_size": 201}))}, "200 entries and the teacher of 201"),
        ({"temperature": 0.0}, "temperature is 0.0"), ({"targets": "all"}, "known: real, masked"), ({"soft_weight": 0.0, "cosine_weight": 0.0}, "above 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            change(**changes)
    for layers in ((0,), (0, 4)):
        with pytest.raises(ValueError, match="distillation.layers"):
            student_params(params, BLUEPRINT.spec, teacher, TAUGHT_BY.spec, layers)
    with pytest.raises(ValueError, match="the student's encoder.embed"):
        student_params(params, BLUEPRINT.spec, random_params(other, 0), other.spec, LAYERS)


def test_flops_count_the_teachers_forward_pass_and_every_soft_target():
    masked = dataclasses.replace(OBJECTIVE, targets="masked")
    assert masked.extra_flops(16, 3) == model_flops(TAUGHT_BY.spec, 16, 3) / 3
    assert OBJECTIVE.extra_flops(16, 3) - masked.extra_flops(16, 3) == (13 * 2 + 16 * 6) * TAUGHT_BY.spec.prediction_weights
