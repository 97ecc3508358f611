"""Adafactor and Muon, which work on whole matrices, against their papers' formulas in float64 numpy, and Muon against torch's."""

import jax
import numpy as np
import pytest
import torch

from tests.training.small_trees import DECAY, ENCODER_AXES, RATE, make_encoder, matrices, run, spec_of, with_rate


def test_adafactor_equals_the_paper():
    """Shazeer & Stern 2018, algorithms 4 and 5, in float64; every matrix is large enough to be factored."""
    shapes = dict(embed=128, heads=2, head_dim=64, mlp=160, vocab=140)
    params, gradients = make_encoder(**shapes), [make_encoder(**shapes, key=key, std=key**3.0) for key in range(1, 5)]
    ours = matrices(run(spec_of("adafactor"), gradients, params, ENCODER_AXES))
    for name, start in matrices(params).items():
        weight, rows, columns = start.astype(np.float64), 0.0, 0.0
        for step, gradient in enumerate(gradients, 1):
            g = matrices(gradient)[name].astype(np.float64)
            keep = 1 - step**-0.8
            rows = keep * rows + (1 - keep) * (g**2 + 1e-30).sum(1)
            columns = keep * columns + (1 - keep) * (g**2 + 1e-30).sum(0)
            update = g / np.sqrt(np.outer(rows, columns) / rows.sum())
            update /= max(1.0, np.sqrt((update**2).mean()))
            update *= max(1e-3, np.sqrt((weight**2).mean()))
            weight = weight - RATE * (update + DECAY * weight)
        np.testing.assert_allclose(ours[name], weight, rtol=1e-4, atol=1e-5)


def newton_schulz(x):
    if x.shape[0] > x.shape[1]:
        return newton_schulz(x.T).T
    x = x / np.linalg.norm(x)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def test_muon_equals_its_formula_in_layers_and_adamw_elsewhere():
    params, gradients = make_encoder(), [make_encoder(key=key) for key in range(1, 6)]
    ours, adamw = (run(spec_of(name), gradients, params, ENCODER_AXES) for name in ("muon", "adamw"))
    for name, start in matrices(params).items():
        if name in ("embedding", "head"):
            continue
        weight, momentum = start.astype(np.float64), 0.0
        for step, gradient in enumerate(gradients, 1):
            g = matrices(gradient)[name].astype(np.float64)
            momentum = 0.95 * momentum + 0.05 * g
            mixed = 0.95 * momentum / (1 - 0.95 ** (step + 1)) + 0.05 * g / (1 - 0.95**step)
            update = 0.2 * max(g.shape) ** 0.5 * newton_schulz(mixed)
            weight = weight - RATE * (update + DECAY * weight)
        np.testing.assert_allclose(matrices(ours)[name], weight, rtol=1e-4, atol=1e-5)
    elsewhere = [(tree["embed"], tree["head"], tree["layers"]["query"]["bias"]) for tree in (ours, adamw)]
    jax.tree.map(lambda mine, theirs: np.testing.assert_allclose(mine, theirs, rtol=1e-6), *elsewhere)


def test_muon_without_momentum_equals_torch():
    """torch.optim.Muon iterates in bfloat16, hence the tolerance."""
    params, gradient = make_encoder(), make_encoder(key=1)
    ours = run(spec_of("muon", momentum=0.0), [gradient], params, ENCODER_AXES)
    for name in ("query0", "query1", "output0", "output1", "up0", "up1"):
        tensor = torch.tensor(matrices(params)[name], requires_grad=True)
        tensor.grad = torch.tensor(matrices(gradient)[name])
        torch.optim.Muon([tensor], lr=RATE, weight_decay=DECAY, momentum=0.0, nesterov=True, adjust_lr_fn="match_rms_adamw").step()
        before, theirs = matrices(params)[name], tensor.detach().numpy()
        np.testing.assert_allclose(matrices(ours)[name] - before, theirs - before, rtol=0.03, atol=1e-4)


def test_muon_refuses_a_matrix_whose_inputs_it_does_not_know():
    with pytest.raises(ValueError, match="layers/mixer/kernel.*are inputs and which outputs"):
        with_rate(spec_of("muon"), {"layers": {"mixer": {"kernel": ("layers", "embed", "mlp", "hidden")}}})
