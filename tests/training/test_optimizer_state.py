"""The state of every optimizer on a mesh and in a checkpoint, whatever its shape."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax.sharding import make_mesh
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.state import Blueprint, abstract_state
from tests.training.small_trees import ENCODER_AXES, make_encoder, spec_of, with_rate

NAMES = ("lamb_v1", "stable_adamw", "adafactor", "muon")  # adamw's state is that of stable_adamw
# Runs in a process of its own: the number of devices is fixed when jax starts.
SHARDED = """
import json, sys
import jax, numpy as np, optax
from bert_jax.sharding import make_mesh
from bert_jax.training.state import Blueprint, abstract_state, shardings_of, update_shardings
from tests.training.small_trees import ENCODER_AXES, make_encoder, spec_of, with_rate

shapes = dict(embed=128, heads=2, head_dim=64, mlp=256, vocab=256)
params, gradients = make_encoder(**shapes), make_encoder(**shapes, key=1)
result = {}
for sizes, zero1 in (((1, 1, 1), False), ((2, 2, 2), False), ((4, 2, 1), True)):
    mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    chosen = {name: with_rate(spec_of(name, clip_norm=1.0), ENCODER_AXES) for name in json.loads(sys.argv[1])}
    blueprint = Blueprint(None, None, jax.eval_shape(lambda: params), ENCODER_AXES)
    abstract = {name: abstract_state(blueprint, tx, mesh, zero1=zero1) for name, tx in chosen.items()}

    def update(params, gradients):
        states, after = {}, {}
        for name, tx in chosen.items():
            pieces = jax.lax.with_sharding_constraint(gradients, update_shardings(abstract[name]))
            updates, states[name] = tx.update(pieces, tx.init(params), params)
            after[name] = optax.apply_updates(params, updates)
        return after, states

    own = shardings_of(abstract["lamb_v1"].params)
    out = ({name: own for name in chosen}, {name: shardings_of(abstract[name].opt_state) for name in chosen})
    quick = {"xla_backend_optimization_level": 0}
    after, states = jax.jit(update, in_shardings=(own, own), out_shardings=out, compiler_options=quick)(params, gradients)
    result[str(sizes)] = {
        "after": {name: [float(np.abs(np.asarray(leaf)).sum()) for leaf in jax.tree.leaves(tree)] for name, tree in after.items()},
        "moments": {name: sorted(
            {(*leaf.shape, *leaf.addressable_shards[0].data.shape) for leaf in jax.tree.leaves(tree) if leaf.size > 1}
        ) for name, tree in states.items()},
    }
print(json.dumps(result))
"""


def test_every_optimizer_computes_the_same_on_a_mesh_and_shards_its_moments():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    result = subprocess.run(
        [sys.executable, "-c", SHARDED, json.dumps(NAMES)], capture_output=True, text=True, cwd=Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": ".", "JAX_PLATFORMS": "cpu"},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    one, many, zero1 = json.loads(result.stdout.splitlines()[-1]).values()
    for name in NAMES:
        np.testing.assert_allclose(many["after"][name], one["after"][name], rtol=1e-5)
        np.testing.assert_allclose(zero1["after"][name], one["after"][name], rtol=1e-5)
        if name != "adafactor":
            assert [256, 128, 64, 64] in zero1["moments"][name]  # the table's vocabulary over data, its width over fsdp
            assert [2, 128, 2, 64, 2, 64, 2, 16] in zero1["moments"][name]  # projections: width over fsdp, head_dim over data
        moments = many["moments"][name]
        if name == "adafactor":  # biases whole; one row and one column per matrix, on every device
            whole = {(128, 128), (256, 256), (2, 128, 2, 128), (2, 256, 2, 256)}
            assert {tuple(shapes) for shapes in moments} == whole | {(2, 2, 64, 2, 1, 64)}
        else:
            assert [256, 128, 128, 64] in moments  # the table: vocabulary over tensor, width over fsdp
            assert [2, 128, 2, 64, 2, 64, 1, 64] in moments and [2, 2, 64, 128, 2, 1, 64, 64] in moments  # projections: heads over tensor


@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_states_with_gaps_are_saved_and_restored(name, tmp_path):
    """Muon has moments for some parameters only; Adafactor's have other shapes than the parameters."""
    params = make_encoder(embed=128, heads=2, head_dim=64)
    tx = with_rate(spec_of(name), ENCODER_AXES)
    abstract = abstract_state(Blueprint(None, None, jax.eval_shape(lambda: params), ENCODER_AXES), tx, make_mesh(devices=jax.devices()[:1]))
    _, state = jax.jit(tx.update)(params, tx.init(params), params)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"opt_state": state})
    checkpoints.wait()
    restored = checkpoints.restore(1, {"opt_state": abstract.opt_state})["opt_state"]
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
