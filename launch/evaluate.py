"""`bert-jax evaluate`: held-out metrics of a workdir's checkpoint, on the same batches with the same masks every time."""

from pathlib import Path

import jax

from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.loop import evaluation_line
from bert_jax.training.state import TrainState
from launch.config import ConfigError, read_run_config
from launch.data import check_same_tokenizer, open_data, resolve_vocabulary
from launch.phases import phase_at, phases_of
from launch.pretrain import held_out_evaluation
from launch.run import build_run


def evaluate_workdir(workdir: Path, *, step: int | None = None, data_path: str | None = None) -> dict[str, float]:
    """Metrics of the checkpoint of `step` (None: the newest whole one). data_path: another token store with the same tokenizer."""
    config = read_run_config(workdir) | {"mesh": {"data": -1, "fsdp": 1, "tensor": 1}, "accumulate": 1}  # whatever the run was trained on
    checkpoints = Checkpoints(workdir / "checkpoints")
    step = checkpoints.choose(step)
    config = phase_at(phases_of(config), step).config
    if data_path:
        config["data"] |= {"path": data_path, "weights": ()}
    data = open_data(config)
    check_same_tokenizer(data, workdir / "tokenizer")
    run = build_run(resolve_vocabulary(config, data), data.special["mask"])
    evaluation = held_out_evaluation(config, run, data)
    if evaluation is None:
        raise ConfigError(f"{data} holds no held-out text; give a token store that does (bert-jax prepare --holdout=...) with --data=STORE")
    with jax.set_mesh(run.mesh):
        params = checkpoints.restore(step, {"params": run.abstract.params})["params"]
        metrics = evaluation(TrainState(step, params, None))
    print(f"{data}\n{evaluation_line(step, metrics)}")
    return metrics | {"step": step}
