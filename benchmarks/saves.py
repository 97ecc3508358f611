"""How long a save keeps training waiting: a BERT-base with Adam's moments (110M parameters, 1.3 GB), saved three times, the first included.

    python benchmarks/saves.py [--directory DIR]

blocked: until the next step may begin, the copy off the devices included. total: until the checkpoint is whole on the disk of DIR (default: the temporary one).
"""

import argparse
import tempfile
from pathlib import Path

import jax
import numpy as np

from bert_jax.model.families import bert
from bert_jax.sharding import make_mesh
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.optim import OptimizerSpec, make_optimizer
from bert_jax.training.state import abstract_state, make_blueprint, saved_trees


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    blueprint = make_blueprint(bert(vocab_size=30_522, hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3_072, max_positions=512))
    mesh = make_mesh(devices=jax.devices()[:1])
    tx = make_optimizer(OptimizerSpec("adamw", 0.9, 0.999, 1e-6, 0.01, 1.0, ("bias", "norm")), blueprint.axes)
    shapes = saved_trees(abstract_state(blueprint, tx, mesh))
    draw = np.random.default_rng(0)  # random, since checkpoints are compressed
    with tempfile.TemporaryDirectory(dir=options.directory) as directory, jax.set_mesh(mesh):
        checkpoints = Checkpoints(Path(directory) / "checkpoints")
        checkpoints.restore_newest(shapes)  # there is none; as a run begins
        trees = jax.tree.map(lambda leaf: jax.device_put(draw.standard_normal(leaf.shape, np.float32).astype(leaf.dtype), leaf.sharding), shapes)
        print(f"{sum(leaf.nbytes for leaf in jax.tree.leaves(trees)) / 1e9:.2f} GB in {len(jax.tree.leaves(trees))} arrays")
        for step in (1, 2, 3):
            checkpoints.save(step, trees)
            checkpoints.wait()
            seconds = checkpoints.last_save_seconds
            print(f"save {step}: blocked {seconds['blocked']:.2f} s of {seconds['total']:.1f} s, {seconds['blocked'] / seconds['total']:.1%}")


if __name__ == "__main__":
    main()
