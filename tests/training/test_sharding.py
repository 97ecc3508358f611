"""Eight virtual CPU devices, in any mesh, compute what one does; parameters and moments are really sharded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Runs in a process of its own: the number of devices is fixed when jax starts.
CODE = """
import json, sys
import jax, numpy as np
from bert_jax.batch import device_fields
from bert_jax.model.families import bert
from bert_jax.model.spec import Compute
from bert_jax.sharding import make_mesh, put_batch
from bert_jax.training.metrics import divide
from bert_jax.training.objectives import MaskedLm
from bert_jax.training.optim import OptimizerSpec, make_optimizer
from bert_jax.training.schedules import Schedule
from bert_jax.training.state import abstract_state, init_state, make_blueprint
from bert_jax.training.step import make_train_step
from tests.training.conftest import make_batch

spec = bert(vocab_size=200, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, max_positions=32, dropout=0.0, attention_dropout=0.0)
blueprint = make_blueprint(spec)
schedule = Schedule(peak=5e-3, warmup_steps=1, total_steps=100, power=1.0, end=0.0, decay_from="warmup")
tx = make_optimizer(OptimizerSpec("lamb_v1", 0.9, 0.999, 1e-6, 0.01, 1.0, ("bias", "norm")), blueprint.axes)
results = []
for sizes, accumulate in json.loads(sys.argv[1]):
    devices = jax.devices()[: int(np.prod(sizes))]
    mesh = make_mesh(*sizes, devices=devices)
    abstract = abstract_state(blueprint, tx, mesh)
    with jax.set_mesh(mesh):
        state = init_state(blueprint, tx, abstract, jax.random.key(0))
        step = make_train_step(blueprint, MaskedLm("nsp"), tx, schedule, Compute(), abstract, mesh, accumulate=accumulate)
        for number in range(3):
            state, metrics = step(state, put_batch(device_fields(make_batch(number, 16)), mesh), jax.random.key(1))
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == (256, 16)]
    table = state.params["encoder"]["embed"]["tokens"]["embedding"]
    results.append({
        "loss": divide([metrics])["loss"],
        "sum": float(sum(np.abs(np.asarray(leaf)).sum() for leaf in jax.tree.leaves(state.params))),
        "shards": [list(leaf.addressable_shards[0].data.shape) for leaf in (table, *moments)],
    })
print(json.dumps(results))
"""
MESHES = [((1, 1, 1), 1), ((8, 1, 1), 1), ((2, 2, 2), 1), ((2, 2, 1), 4)]


@pytest.fixture(scope="module")
def results():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    result = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(MESHES)], capture_output=True, text=True, cwd=Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": "."},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("index", range(1, len(MESHES)))
def test_every_mesh_computes_the_same(results, index):
    assert results[index]["loss"] == pytest.approx(results[0]["loss"], rel=1e-5)
    assert results[index]["sum"] == pytest.approx(results[0]["sum"], rel=1e-5)


def test_parameters_and_moments_are_sharded(results):
    for (sizes, _), result in zip(MESHES, results):
        _, fsdp, tensor = sizes
        assert result["shards"] == [[256 // tensor, 16 // fsdp]] * 3  # the table and both of its moments
