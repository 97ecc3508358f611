"""A tiny model, batches with real structure, and everything of a run around them, shared by the trainer's tests."""

import types

import jax
import numpy as np
import pytest

from bert_jax import batch as contract
from bert_jax.model.families import bert
from bert_jax.model.spec import Compute
from bert_jax.sharding import make_mesh
from bert_jax.training.objectives import MaskedLm
from bert_jax.training.optim import OptimizerSpec, make_optimizer
from bert_jax.training.schedules import Schedule
from bert_jax.training.state import abstract_state, init_state, make_blueprint

VOCAB, LENGTH, SLOTS = 200, 24, 5


def make_batch(step: int, rows: int = 8) -> dict[str, np.ndarray]:
    """Rows of a repeating pattern, of different lengths and different numbers of masks; a pure function of the step."""
    draw = np.random.default_rng(step)
    batch = contract.zeros(rows, LENGTH, SLOTS, nsp=True)
    for row in range(rows):
        real = int(draw.integers(10, LENGTH + 1))
        ids = (5 + (draw.integers(0, 40) + np.arange(real)) % 60).astype(np.int32)
        count = int(draw.integers(1, SLOTS + 1))
        positions = np.sort(draw.choice(np.arange(1, real - 1), count, replace=False))
        batch["segment_ids"][row, :real] = 1
        batch["token_type_ids"][row, real // 2 : real] = 1
        batch["mlm_positions"][row, :count] = positions
        batch["mlm_targets"][row, :count] = ids[positions]
        batch["mlm_weights"][row, :count] = 1.0
        ids[positions] = 4
        batch["input_ids"][row, :real] = ids
        batch["nsp_labels"][row] = row % 2
    return batch


class Batches:
    """A source whose batch(step) is `make_batch(step)`."""

    def batches(self, start_step, stop_step=None):
        step = start_step
        while stop_step is None or step < stop_step:
            yield make_batch(step)
            step += 1


@pytest.fixture(scope="session")
def tiny():
    """Blueprint, optimizer, mesh and shapes of a two-layer model with dropout."""
    blueprint = make_blueprint(bert(vocab_size=VOCAB, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, max_positions=32))
    schedule = Schedule(peak=5e-3, warmup_steps=5, total_steps=100, power=1.0, end=0.0, decay_from="warmup")
    tx = make_optimizer(OptimizerSpec("adamw", 0.9, 0.999, 1e-6, 0.01, 1.0, ("bias", "norm")), blueprint.axes)
    mesh = make_mesh(devices=jax.devices()[:1])
    abstract = abstract_state(blueprint, tx, mesh)
    return types.SimpleNamespace(
        blueprint=blueprint, schedule=schedule, tx=tx, mesh=mesh, abstract=abstract, objective=MaskedLm("nsp"), compute=Compute(),
        fresh=lambda: init_state(blueprint, tx, abstract, jax.random.key(0)),
    )


@pytest.fixture(scope="session")
def tiny_step(tiny):
    from bert_jax.training.step import make_train_step

    return make_train_step(tiny.blueprint, tiny.objective, tiny.tx, tiny.schedule, tiny.compute, tiny.abstract, tiny.mesh)
