"""Makes lamb_fixtures.json: a few steps of two LAMBs in float64, one tensor of one layer at a time, in numpy and from their sources alone.

    python tests/training/lamb_fixtures.py > tests/training/lamb_fixtures.json

lamb_v1: You et al. 2019 (arXiv 1904.00962v1, algorithm 2) and google-research/albert, lamb_optimizer.py: moments without bias correction,
no clipping. lamb_nvidia: NVIDIA DeepLearningExamples with apex FusedLAMB: gradients divided by max(1, global norm / 1.0), moments with bias
correction. Both: weight decay inside the trust ratio; biases get neither.
"""

import json

import numpy as np

RATE, B1, B2, EPS, DECAY, STEPS = 0.02, 0.9, 0.999, 1e-6, 0.01, 5
SHAPES = {"layers.kernel": (2, 3, 4), "layers.bias": (2, 4), "table": (5, 3)}  # layers.*: a tensor per entry of the first axis


def wave(shape, frequency, size):
    """Numbers without a random generator, whose stream another version of numpy might change."""
    return size * np.sin(frequency * np.arange(1, np.prod(shape) + 1)).reshape(shape)


def lamb_v1(w, m, v, g, step, decay):
    m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
    return m, v, m / (np.sqrt(v) + EPS) + decay * w


def lamb_nvidia(w, m, v, g, step, decay):
    m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
    return m, v, (m / (1 - B1**step)) / (np.sqrt(v / (1 - B2**step)) + EPS) + decay * w


def train(variant, weights, gradients):
    """weights: name -> array; gradients: one such dict per step. Returns the weights after each step."""
    tensors = {(name, i): w for name, stack in weights.items() for i, w in enumerate(stack if name.startswith("layers") else [stack])}
    moments = {key: (np.zeros_like(w), np.zeros_like(w)) for key, w in tensors.items()}
    history = []
    for step, gradient in enumerate(gradients, 1):
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        shrink = max(1.0, norm / 1.0) if variant is lamb_nvidia else 1.0
        for key, w in tensors.items():
            name, i = key
            g = (gradient[name][i] if name.startswith("layers") else gradient[name]) / shrink
            m, v, update = variant(w, *moments[key], g, step, 0.0 if "bias" in name else DECAY)
            ratio = 1.0 if "bias" in name else np.sqrt((w**2).sum()) / np.sqrt((update**2).sum())
            moments[key], tensors[key] = (m, v), w - RATE * ratio * update
        history.append({name: [tensors[key].tolist() for key in tensors if key[0] == name] for name in weights})
    return [{name: after[name] if name.startswith("layers") else after[name][0] for name in after} for after in history]


if __name__ == "__main__":
    weights = {name: wave(shape, 1.7 + index, 0.5) for index, (name, shape) in enumerate(SHAPES.items())}
    gradients = [
        {name: wave(shape, 0.9 + index + 0.3 * step, 2.0**step) for index, (name, shape) in enumerate(SHAPES.items())}
        for step in range(STEPS)
    ]
    record = {
        "rate": RATE, "b1": B1, "b2": B2, "eps": EPS, "weight_decay": DECAY, "exclude": ["bias"],
        "weights": {name: w.tolist() for name, w in weights.items()},
        "gradients": [{name: g.tolist() for name, g in gradient.items()} for gradient in gradients],
        "after": {variant.__name__: train(variant, weights, gradients) for variant in (lamb_v1, lamb_nvidia)},
        "clip_norm": {"lamb_v1": 0.0, "lamb_nvidia": 1.0},
    }
    print(json.dumps(record, default=float))
