"""The loss curve is that of transformers and torch.optim.AdamW, step by step, and the comparison is sharp enough to notice a wrong optimizer."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import LENGTH, VOCAB, make_batch

PATH = Path(__file__).parents[2] / "benchmarks" / "loss_parity.py"
STEPS, TOLERANCE = 25, 1e-4


@pytest.fixture(scope="module")
def parity():
    """benchmarks/loss_parity.py, by its path: site-packages may hold a package called `benchmarks`."""
    specification = importlib.util.spec_from_file_location("loss_parity", PATH)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe(parity):
    return parity.Recipe(peak=5e-3, warmup_steps=5, total_steps=STEPS, weight_decay=0.1)


@pytest.fixture(scope="module")
def checkpoint(parity, tmp_path_factory):
    """Random weights of transformers, with every bias and norm off its initial value, so that decaying them shows."""
    import torch
    import transformers

    directory = tmp_path_factory.mktemp("checkpoint")
    parity.save_random_model(
        directory, vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=LENGTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )
    model = transformers.BertForPreTraining.from_pretrained(directory)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return directory


def batches():
    return (make_batch(step) for step in range(STEPS))


@pytest.fixture(scope="module")
def reference(parity, checkpoint, recipe):
    return parity.torch_losses(checkpoint, batches(), recipe)


def test_loss_curve_equals_transformers(parity, checkpoint, recipe, reference):
    ours = parity.our_losses(checkpoint, batches(), recipe.optimizer, recipe.schedule)
    assert ours.shape == (STEPS,)
    assert reference[-5:].mean() < reference[:5].mean() - 0.5  # it trains, so the curves have something to differ in
    np.testing.assert_allclose(ours, reference, rtol=0, atol=TOLERANCE)


WRONG = {
    "decay of biases": ({"exclude": ("norm",)}, {}),
    "warmup one step shorter": ({}, {"warmup_steps": 4}),
}


@pytest.mark.parametrize("optimizer_change, schedule_change", WRONG.values(), ids=WRONG)
def test_wrong_optimizer_is_noticed(parity, checkpoint, recipe, reference, optimizer_change, schedule_change):
    optimizer = dataclasses.replace(recipe.optimizer, **optimizer_change)
    schedule = dataclasses.replace(recipe.schedule, **schedule_change)
    wrong = parity.our_losses(checkpoint, batches(), optimizer, schedule)
    assert np.abs(wrong - reference).max() > 3 * TOLERANCE
