"""A fine-tuning run that SIGTERM reaches and that the same command goes on with."""

import signal
from pathlib import Path

import pytest

from bert_jax.training.checkpoint import Checkpoints
from data_pipeline.tasks.batches import TaskBatches
from launch.cli import main


def stopped_and_resumed(command: list[str], workdir: Path) -> dict[str, str]:
    """Stops the command, whose run in `workdir` is of seed 0, at its third batch, and lets it go on to its end: the digests of what it trained."""
    build, built = TaskBatches.batch, []

    def batch(self, step):
        built.append(step)
        if len(built) == 3:
            signal.raise_signal(signal.SIGTERM)
        return build(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskBatches, "batch", batch)
        assert main(command) == 75
    assert not (workdir / "seeds" / "0" / "scores.json").exists()
    assert main(command) == 0
    return digests_of(workdir)


def digests_of(workdir: Path) -> dict[str, str]:
    """Of the last checkpoint of seed 0."""
    checkpoints = Checkpoints(workdir / "seeds" / "0" / "checkpoints")
    return checkpoints.record(checkpoints.steps()[-1])["digests"]
