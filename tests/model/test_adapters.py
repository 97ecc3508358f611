"""LoRA and bottleneck adapters in the layers of every family: nothing at first, then what the formulas say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

from bert_jax.model.adapter_spec import BottleneckSpec, LoraSpec, adapter_of, settings_of
from bert_jax.model.adapters import Bottleneck, LowRank, is_added, with_lora_merged
from bert_jax.model.families.tasks import task_spec
from bert_jax.model.layers import Project
from bert_jax.training.state import make_blueprint

SIZES = dict(vocab_size=50, hidden_size=16, num_layers=3, num_heads=2, intermediate_size=24, max_positions=16)
SECTIONS = {
    "bert": {},
    "roberta": {},
    "albert": {"embedding_size": 8},
    "mosaic_bert": {},
    "modernbert": {"window": 4, "global_every": 2},
    "deberta": {"max_distance": 16},
    "longformer": {"window": 4, "global_tokens": 1},
}
LORA = LoraSpec(rank=3, alpha=6.0, targets=("attention", "mlp"))
BOTTLENECK = BottleneckSpec(size=5, places=("attention", "mlp"))
rng = np.random.default_rng(0)
BATCH = {
    "input_ids": jnp.asarray(rng.integers(5, 50, (2, 12)), jnp.int32),
    "token_type_ids": jnp.zeros((2, 12), jnp.int32),
    "segment_ids": jnp.asarray(np.arange(12) < [[12], [9]], jnp.int32),
}


def blueprint_of(family: str, adapter=None):
    spec = task_spec(SIZES | {"family": family} | SECTIONS[family], kind="classification", outputs=2)
    return make_blueprint(dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, adapter=adapter)))


def drawn(params: dict, *, added: float) -> dict:
    """Parameters with no ones and zeros but where something was added, which is `added` times as large as the rest."""
    flat = sorted(traverse_util.flatten_dict(params).items())
    draw = np.random.default_rng(1)
    values = {path: draw.normal(float(path[-1] == "scale"), 0.2, leaf.shape).astype(np.float32) for path, leaf in flat if not is_added(path)}
    values |= {path: added * draw.normal(0, 0.2, leaf.shape).astype(np.float32) for path, leaf in flat if is_added(path)}
    return traverse_util.unflatten_dict(values)


def compiled(blueprint):
    return jax.jit(lambda params: blueprint.model(params)(BATCH))


@pytest.mark.parametrize("family", [family for family in SECTIONS if family != "mosaic_bert"])
def test_low_rank_is_nothing_at_first_and_merges(family):
    plain, lora = blueprint_of(family), blueprint_of(family, LORA)
    of_plain, of_lora = compiled(plain), compiled(lora)
    base, learnt = of_plain(drawn(plain.params, added=0.0)), drawn(lora.params, added=1.0)
    np.testing.assert_array_equal(of_lora(drawn(lora.params, added=0.0)), base)
    changed = of_lora(learnt)
    np.testing.assert_allclose(changed, of_plain(with_lora_merged(learnt, LORA)), atol=1e-5)
    assert np.abs(changed - base).max() > 0.01


@pytest.mark.parametrize("family", ["bert", "albert", "modernbert"])
def test_bottlenecks_are_nothing_at_first(family):
    """With norms behind the sum and before the part, and where layers share their parameters."""
    plain, bottleneck = blueprint_of(family), blueprint_of(family, BOTTLENECK)
    of_bottleneck = compiled(bottleneck)
    base = compiled(plain)(drawn(plain.params, added=0.0))
    np.testing.assert_array_equal(of_bottleneck(drawn(bottleneck.params, added=0.0)), base)
    assert np.abs(of_bottleneck(drawn(bottleneck.params, added=1.0)) - base).max() > 0.01


def test_every_matrix_of_a_layer_can_have_a_change():
    def changed(family, *targets):
        params = blueprint_of(family, LoraSpec(2, 2.0, targets)).params
        return {".".join(path[:-2]).removeprefix("encoder.").removeprefix("layers.") for path in traverse_util.flatten_dict(params) if path[-1] == "a"}

    assert changed("bert", "query", "value") == {"attention.query", "attention.value"}
    assert changed("bert", "mlp", "attention.output") == {"mlp.up", "mlp.down", "attention.output"}
    assert changed("longformer", "query") == {"attention.query"} and "attention.query_global" in changed("longformer", "attention")
    assert changed("deberta", "position_key") == {"attention.position_key"}
    assert changed("modernbert", "query") == {"first.0.attention.query", "blocks.0.attention.query", "blocks.1.attention.query"}
    with pytest.raises(ValueError, match=r"'qeury', but the matrices of a layer are attention.key, .*mlp.up"):
        blueprint_of("bert", LoraSpec(2, 2.0, ("query", "qeury")))


def test_gradients_are_those_of_the_product():
    """Of W + s A B, whose gradients follow from that of the merged W, which knows nothing of A and B. MosaicBERT's MLP has two matrices in one."""
    plain, lora = blueprint_of("mosaic_bert"), blueprint_of("mosaic_bert", LORA)

    def loss(params, blueprint):
        return jnp.square(blueprint.model(params)(BATCH)).sum()

    learnt = drawn(lora.params, added=1.0)
    found, of_merged = jax.jit(lambda params: (jax.grad(loss)(params, lora), jax.grad(loss)(with_lora_merged(params, LORA), plain)))(learnt)
    params, found, of_merged = (traverse_util.flatten_dict(jax.device_get(tree)) for tree in (learnt, found, of_merged))
    checked = 0
    for path in [path for path in params if path[-1] == "a"]:
        kernel = of_merged[*path[:-2], "kernel"]
        a, b, of_a, of_b = (tree[*path[:-1], name] for tree in (params, found) for name in ("a", "b"))
        layers = range(len(kernel)) if "layers" in path else [...]
        for layer in layers:
            matrix = kernel[layer].reshape(np.prod(a[layer].shape[:-1]), -1)
            flat_a, flat_b = a[layer].reshape(-1, LORA.rank), b[layer].reshape(LORA.rank, -1)
            for ours, wanted in ((of_a[layer], 2 * matrix @ flat_b.T), (of_b[layer], 2 * flat_a.T @ matrix)):
                np.testing.assert_allclose(ours.reshape(wanted.shape), wanted, atol=1e-4 * np.abs(wanted).max() + 1e-7)
                checked += 1
    assert checked == 2 * 6 * lora.spec.encoder.num_layers


def test_a_begins_as_in_peft_and_what_follows_as_zero():
    project = Project("bld,dgf->blgf", {"embed": 25, "gates": 2, "mlp": 3}, 1, std=0.02, rngs=nnx.Rngs(params=0))
    low_rank = LowRank(project, LoraSpec(512, 1.0, ("up",)), rngs=nnx.Rngs(params=0))
    a = np.asarray(low_rank.a[...])  # torch: kaiming_uniform_(a=sqrt(5)), up to 1 / sqrt(inputs)
    assert a.shape == (25, 512) and 0.199 < np.abs(a).max() <= 0.2 and abs(a.std() - 0.2 / 3**0.5) < 0.003
    assert low_rank.b.shape == (512, 2, 3) and not np.any(low_rank.b[...])
    behind = Bottleneck(blueprint_of("bert", BOTTLENECK).spec.encoder, rngs=nnx.Rngs(params=0))
    assert np.any(behind.down.kernel[...]) and not np.any(behind.up.kernel[...]) and not np.any(behind.up.bias[...])


def test_settings_are_read_for_their_kind():
    settings = {"kind": "", "rank": 8, "alpha": 16.0, "targets": ["query"], "size": 64, "places": ["mlp"]}
    assert adapter_of(settings) is None
    assert adapter_of(settings | {"kind": "lora"}) == LoraSpec(8, 16.0, ("query",))
    assert adapter_of(settings_of(BOTTLENECK)) == BOTTLENECK
    for kind, field, value, words in (
        ("lora", "rank", 0, "adapt.rank is 0"), ("lora", "alpha", -1.0, "adapt.alpha is -1"), ("lora", "targets", (), "adapt.targets"), ("lora", "rank", "8", "adapt.rank"),
        ("bottleneck", "size", 0, "adapt.size"), ("bottleneck", "places", ("mpl",), "known: attention, mlp"), ("prefix", "rank", 1, "known: lora, bottleneck"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            adapter_of(settings | {"kind": kind, field: value})
