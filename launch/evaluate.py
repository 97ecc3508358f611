"""`bert-jax evaluate`: held-out metrics of a workdir's checkpoint, on the same batches with the same masks every time."""

from pathlib import Path

import jax

from bert_jax.processes import is_first
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.loop import evaluation_line
from bert_jax.training.state import TrainState
from launch.config import ConfigError, read_run_config
from launch.data import check_same_tokenizer, open_data, resolve_vocabulary
from launch.held_out import held_out_evaluation
from launch.phases import phase_at, phases_of
from launch.run import build_run


def evaluate_workdir(workdir: Path, *, step: int | None = None, data_path: str | None = None) -> dict[str, float]:
    """Metrics of the checkpoint of `step` (None: the newest whole one). data_path: another token store with the same tokenizer."""
    config = read_run_config(workdir) | {"mesh": {"data": -1, "fsdp": 1, "tensor": 1, "zero1": True}}
    checkpoints = Checkpoints(workdir / "checkpoints")
    step = checkpoints.choose(step)
    own_batches = {"accumulate": 1, "batch_ramp": {"start": 0, "over": 0, "sizes": 0}}  # whatever devices the run was trained on
    config = phase_at(phases_of(config), step).config | own_batches
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
    if is_first():
        print(f"{data}\n{evaluation_line(step, metrics)}")
        for name in (metric.removeprefix("mlm_loss/") for metric in metrics if metric.startswith("mlm_loss/")):
            print(f"  {name}: MLM loss {metrics[f'mlm_loss/{name}']:.3f}  masked accuracy {metrics[f'mlm_accuracy/{name}']:.1%}")
    return metrics | {"step": step}
