"""What is frozen keeps its bits, and has neither gradients nor moments; what is trained above it is trained as if nothing were frozen."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from bert_jax.model.adapter_spec import BottleneckSpec, LoraSpec
from bert_jax.model.adapters import is_added
from bert_jax.model.depth import heights
from bert_jax.model.families.tasks import task_spec
from bert_jax.model.spec import Compute
from bert_jax.sharding import make_mesh
from bert_jax.training.optim import OptimizerSpec, make_optimizer
from bert_jax.training.schedules import Schedule
from bert_jax.training.state import abstract_state, make_blueprint, state_from_params
from bert_jax.training.step import make_train_step
from bert_jax.training.task_objectives import Classification
from bert_jax.training.trained import EVERYTHING, trained_part

SIZES = dict(vocab_size=50, hidden_size=16, num_layers=3, num_heads=2, intermediate_size=24, max_positions=16)
SECTIONS = {
    "bert": {},
    "albert": {"num_layers": 4, "layer_groups": 2, "embedding_size": 8},
    "modernbert": {"num_layers": 5, "window": 4, "global_every": 2},  # one layer apart, then twice a period of two
    "deberta_v3_discriminator": {"max_distance": 16, "position_buckets": 4, "convolution": 3},
}
LORA, BOTTLENECK = LoraSpec(2, 4.0, ("query", "value")), BottleneckSpec(4, ("mlp",))
B1 = 0.9


def spec_of(family: str, adapter=None):
    spec = task_spec(SIZES | {"family": family} | SECTIONS[family], kind="classification", outputs=2, dropout=0.0)
    return dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, adapter=adapter, dropout=0.1))


def make_batch(step: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(step)
    ids = draw.integers(5, 50, (4, 8)).astype(np.int32)
    fields = {"token_type_ids": np.zeros_like(ids), "segment_ids": np.ones_like(ids), "labels": (ids[:, 1] % 2).astype(np.int32)}
    return {"input_ids": ids, **fields, "weights": np.ones(4, np.float32)}


def drawn(shapes: dict) -> dict:
    draw = np.random.default_rng(0)
    return jax.tree.map_with_path(lambda path, leaf: jnp.asarray(draw.normal(float(path[-1].key == "scale"), 0.2, leaf.shape), jnp.float32), shapes)


class Trial:
    """A model, its first parameters, and its state after some steps."""

    def __init__(self, spec, freeze: str, *, steps: int, accumulate: int = 1, **optimizer):
        blueprint = make_blueprint(spec)
        self.blueprint = dataclasses.replace(blueprint, trained=trained_part(spec, blueprint.params, freeze))
        settings = dict(b1=B1, b2=0.999, eps=1e-6, weight_decay=0.1, clip_norm=0.0, exclude=("norm",)) | optimizer
        tx = make_optimizer(OptimizerSpec(**{"name": "adamw_bert"} | settings), *map(self.blueprint.trained.names, (blueprint.axes, heights(blueprint.params, spec))))
        mesh = make_mesh(devices=jax.devices()[:1])
        abstract = abstract_state(self.blueprint, tx, mesh)
        step = make_train_step(self.blueprint, Classification(), tx, Schedule(peak=1e-2, warmup_steps=0, name="constant"), Compute(), abstract, mesh, accumulate=accumulate)
        self.first = drawn(blueprint.params)
        self.state = state_from_params(jax.tree.map(jnp.array, self.first), tx, abstract, self.blueprint.trained)
        self.jaxpr = jax.make_jaxpr(step)(self.state, make_batch(0), jax.random.key(0)) if not steps else None
        for number in range(steps):
            self.state, self.metrics = step(self.state, make_batch(number), jax.random.key(0))

    @property
    def moments(self) -> dict[tuple, jax.Array]:
        return traverse_util.flatten_dict(next(part.mu for part in jax.tree.leaves(self.state.opt_state, is_leaf=lambda node: hasattr(node, "mu")) if hasattr(part, "mu")))

    def changed(self) -> dict[tuple, np.ndarray]:
        """For each parameter which of its entries, along the first axis, have other bits than at first."""
        first, last = (traverse_util.flatten_dict(jax.device_get(params)) for params in (self.first, self.state.params))
        return {path: np.any((last[path].view(np.uint32) != leaf.view(np.uint32)).reshape(len(leaf), -1), axis=1) for path, leaf in first.items()}


FROZEN = {  # (family, freeze) -> what is trained of the entries of some parameters: path -> booleans, or of the whole parameter one
    ("bert", "embeddings"): {"encoder.layers.mlp.up.kernel": [1, 1, 1], "encoder.embed.norm.scale": 0, "encoder.embed.tokens.embedding": 0},
    ("bert", "2 layers"): {"encoder.layers.mlp.up.kernel": [0, 0, 1], "encoder.layers.attention_norm.scale": [0, 0, 1], "pooler.kernel": 1},
    ("bert", "encoder"): {"encoder.layers.mlp.up.kernel": 0, "pooler.kernel": 1, "classifier.bias": 1},
    ("albert", "2 layers"): {"encoder.layers.mlp.up.kernel": [0, 1], "encoder.embed.project.kernel": 0},
    ("modernbert", "4 layers"): {
        "encoder.first.0.mlp.up.kernel": 0, "encoder.layers.blocks.0.mlp.up.kernel": [0, 0], "encoder.layers.blocks.1.mlp.up.kernel": [0, 1], "encoder.final_norm.scale": 1,
    },
    ("deberta_v3_discriminator", "1 layers"): {
        "encoder.first.0.mlp.up.kernel": 0, "encoder.convolution.project.kernel": 0, "encoder.relative.table.embedding": 0, "encoder.layers.mlp.up.kernel": [1, 1],
    },
}  # fmt: skip


@pytest.mark.parametrize(("family", "freeze"), FROZEN)
def test_frozen_parameters_have_no_moments(family, freeze):
    spec = spec_of(family)
    blueprint = make_blueprint(spec)
    part = trained_part(spec, blueprint.params, freeze)
    trained = traverse_util.flatten_dict(part.of(blueprint.params), sep=".")
    whole = traverse_util.flatten_dict(blueprint.params, sep=".")
    for path, entries in FROZEN[family, freeze].items():
        count = trained[path].shape[0] if path in trained else 0
        assert count == (sum(entries) if isinstance(entries, list) else entries * whole[path].shape[0]), path
    params = drawn(blueprint.params)
    put = part.put_into(params, jax.tree.map(lambda leaf: leaf + 1, part.of(params)))
    for path, leaf in traverse_util.flatten_dict(put, sep=".").items():
        added = np.asarray(leaf - traverse_util.flatten_dict(params, sep=".")[path])
        start = len(added) - (trained[path].shape[0] if path in trained else 0)
        assert not added[:start].any() and np.allclose(added[start:], 1, atol=1e-5)


def test_what_is_frozen_keeps_its_bits():
    changed = Trial(spec_of("bert"), "2 layers", steps=2).changed()
    for path, entries in FROZEN["bert", "2 layers"].items():
        own = changed[tuple(path.split("."))]
        assert own.astype(int).tolist() == (entries if isinstance(entries, list) else [entries] * len(own))


def test_what_is_above_has_the_gradients_that_it_has_if_nothing_is_frozen():
    """Of layers in a pattern: one held apart, then two periods of two, of which the first is frozen and half of the second."""
    spec, batch = spec_of("modernbert"), {name: jnp.asarray(field) for name, field in make_batch(0).items()}
    blueprint = make_blueprint(spec)
    part = trained_part(spec, blueprint.params, "4 layers")

    def loss(trained, params, part):
        return jnp.square(blueprint.model(part.put_into(params, trained))(batch, compute=Compute(untrained_layers=part.layers))).sum()

    params = drawn(blueprint.params)
    ours, full = jax.jit(lambda params: [jax.grad(loss)(one.of(params), params, one) for one in (part, EVERYTHING)])(params)
    full = traverse_util.flatten_dict(full)
    for path, gradient in traverse_util.flatten_dict(ours).items():
        wanted = np.asarray(full[path])
        np.testing.assert_allclose(gradient, wanted[len(wanted) - len(gradient) :], atol=1e-4 * np.abs(wanted).max(), err_msg=str(path))


def scans(jaxpr) -> list[int]:
    """The lengths of the scans in a program."""
    found = []
    for equation in jaxpr.eqns:
        found += [equation.params["length"]] if equation.primitive.name == "scan" else []
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            found += scans(inner) if hasattr(inner, "eqns") else []
    return found


@pytest.mark.parametrize(("adapter", "freeze", "lengths"), [(None, "", [3, 3]), (None, "2 layers", [2, 1, 1]), (None, "encoder", [3]), (LORA, "", [3, 3])])
def test_no_gradient_goes_through_frozen_layers(adapter, freeze, lengths):
    """Forwards through all layers, backwards through the trained ones."""
    assert sorted(scans(Trial(spec_of("bert", adapter), freeze, steps=0).jaxpr.jaxpr)) == sorted(lengths)


HEAD = 16 * 16 + 16 + 16 * 2 + 2
ADDED = {LORA: 3 * 2 * 2 * (2 * 16), BOTTLENECK: 3 * (2 * 4 * 16 + 4 + 16) + 2 * 16 * (2 * 3 + 1)}  # these with the norms


@pytest.mark.parametrize("adapter", [LORA, BOTTLENECK], ids=lambda adapter: adapter.kind)
def test_what_was_added_and_the_head_are_trained(adapter):
    blueprint = make_blueprint(spec_of("bert", adapter))
    part = trained_part(blueprint.spec, blueprint.params)
    trained = {path for path in traverse_util.flatten_dict(part.of(blueprint.params))}
    assert {path for path in traverse_util.flatten_dict(blueprint.params) if path[0] != "encoder" or is_added(path)} <= trained
    assert all("norm" in path[-2] for path in trained if path[0] == "encoder" and not is_added(path)) and (adapter is BOTTLENECK or ("encoder", "embed", "norm", "scale") not in trained)
    assert dataclasses.replace(blueprint, trained=part).num_trained == HEAD + ADDED[adapter]


def test_a_run_with_low_rank_changes_nothing_else_and_remembers_nothing_else():
    ours = Trial(spec_of("bert", LORA), "", steps=3, accumulate=2, layer_decay=0.9, name="adamw", clip_norm=1.0)
    changed = {path for path, entries in ours.changed().items() if entries.any()}
    assert changed == set(ours.moments) == {path for path in ours.changed() if path[0] != "encoder" or is_added(path)}
    assert sum(leaf.size for leaf in jax.tree.leaves(ours.state.opt_state)) == 2 * (HEAD + ADDED[LORA]) + 1  # and the number of steps
    assert all(np.isfinite(float(top)) for top, _ in ours.metrics.values())


@pytest.mark.parametrize("name", ["lamb_v1", "stable_adamw", "adafactor", "muon"])
def test_every_optimizer_takes_a_part(name):
    given = {"adafactor": dict(decay_exponent=0.8), "muon": dict(momentum=0.9)}.get(name, {})
    for adapter, freeze in ((LORA, ""), (BOTTLENECK, ""), (None, "encoder")):
        blueprint = make_blueprint(spec_of("bert", adapter))
        part = trained_part(blueprint.spec, blueprint.params, freeze)
        params = part.of(drawn(blueprint.params))
        adam = dict(b1=B1, b2=0.999, eps=1e-6) if name != "adafactor" else {}
        tx = make_optimizer(OptimizerSpec(name, **adam, **given, weight_decay=0.1, clip_norm=1.0, exclude=("bias", "norm")), part.names(blueprint.axes))
        abstract_state(dataclasses.replace(blueprint, trained=part), tx, make_mesh(devices=jax.devices()[:1]))
        updates = jax.eval_shape(lambda params, tx=tx: tx.update(params, tx.init(params), params)[0], params)
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


def test_what_does_not_fit_is_told():
    def refused(family, freeze, adapter=None) -> str:
        spec = spec_of(family, adapter)
        with pytest.raises(ValueError) as error:
            trained_part(spec, {"encoder": {}}, freeze)
        return str(error.value)

    assert "'1 layers' to '3 layers'" in refused("bert", "4 layers") and "'0 layers'" in refused("bert", "0 layers") and "'pooler'" in refused("bert", "pooler")
    assert "take a multiple of 2" in refused("albert", "3 layers")
    assert "adapt.kind=lora freezes the whole encoder" in refused("bert", "2 layers", LORA)
    assert trained_part(types.SimpleNamespace(encoder=spec_of("bert").encoder), {}, "1 layer").layers == 1
