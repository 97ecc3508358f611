"""Fine-tuning step by step, for benchmarks/finetune_comparison.py: the same model with its head, the same batches, no dropout; the loss of every update.

    python benchmarks/finetune_comparison_steps.py TASK MODEL DATA OUTPUT.json

MODEL is a task's model that bert_jax exported, DATA the task's folder. Ours is the train step of `bert-jax finetune`; the other transformers' model for the
task (of sentence vectors its encoder, the mean of the tokens and sentence-transformers' loss), with the optimizer and schedule that Trainer makes.

transformers' model for answers takes padding for a place where one may begin or end, in the loss; bert_jax does not. So that the rest can be compared, the
logits of padding are masked here, and `as_it_comes` holds the losses of the first batches without that.
"""

import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
import transformers
from finetune_comparison_tasks import RECIPE, TASKS, Task, overrides, training_arguments
from finetune_comparison_torch import CLASSES

from bert_jax.batch import device_fields
from bert_jax.sharding import put_batch
from bert_jax.training.state import shardings_of, state_from_params
from data_pipeline.tasks.batches import TaskBatches
from launch.config import load
from launch.finetune.fields import FINETUNING
from launch.finetune.job import Job, make_job, resolve_steps
from launch.finetune.sets import open_sets
from launch.load_model import load_model

UPDATES = 40
SCALE = 20.0  # of the cosines in sentence-transformers' MultipleNegativesRankingLoss
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
Batch = dict[str, np.ndarray]


def main() -> int:
    task, model, data, output = TASKS[sys.argv[1]], *map(Path, sys.argv[2:])
    torch.set_num_threads(1)
    job, sets, params = open_job(task, model, data)
    source = TaskBatches(sets.train.features, batch_size=task.batch_size, lengths=sets.lengths, seed=0)
    batches = [source.batch(step) for step in range(UPDATES)]
    ours = our_losses(job, params, batches)
    theirs, as_it_comes = torch_losses(task, model, batches)
    found = {"updates": UPDATES, "bert_jax": ours, "transformers": theirs, "largest": float(np.abs(np.subtract(ours, theirs)).max())}
    output.write_text(json.dumps(found | ({"as_it_comes": as_it_comes} if as_it_comes else {})), encoding="utf-8")
    return 0


def open_job(task: Task, model: Path, data: Path) -> tuple[Job, object, dict]:
    """As `bert-jax finetune` has it, but with the head's weights given."""
    path, *fields = overrides(task, str(data / "train.jsonl"), str(data / "eval.jsonl"), seed=0)
    changed = {"steps": UPDATES, "schedule.warmup_steps": UPDATES // 10, "eval.every": UPDATES}
    changed |= dict.fromkeys(("model.dropout", "model.attention_dropout", "head.dropout"), 0.0)
    fields += [f"config.{field}={value}" for field, value in changed.items()]
    config = load(str(Path(__file__).parents[1] / path.removeprefix("--config=")), [field.removeprefix("--") for field in fields], FINETUNING)
    loaded = load_model(model)
    sets = open_sets(config, loaded.tokenizer())
    job = make_job(resolve_steps(config, len(sets.train.features)), loaded.section, sets)
    params = {name: loaded.params[name] for name in job.abstract.params}
    return job, sets, params


def our_losses(job: Job, params: dict, batches: list[Batch]) -> list[float]:
    """Of each batch before its update."""
    state, losses = state_from_params(jax.device_put(params, shardings_of(job.abstract.params)), job.tx, job.abstract), []
    for batch in batches:
        state, metrics = job.train_step(state, put_batch(device_fields(batch), job.mesh), jax.random.key(0))
        losses.append(float(metrics["loss"][0]))
    return losses


def torch_losses(task: Task, directory: Path, batches: list[Batch]) -> tuple[list[float], list[float]]:
    """(of each batch before its update, of the first four as the model itself counts them; none where that is the same)"""
    if task.kind == "embedding":
        model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32, add_pooling_layer=False, **NO_DROPOUT)
    else:
        model = CLASSES[task.kind].from_pretrained(directory, dtype=torch.float32, **NO_DROPOUT)
    model.train()
    optimizer, scheduler = trainers_own(task, model)
    losses, as_it_comes = [], []
    for batch in batches:
        loss = LOSSES[task.kind](model, batch)
        if task.kind == "span" and len(as_it_comes) < 4:
            with torch.no_grad():
                as_it_comes.append(model(**inputs_of(batch), **tensors(batch, "start_positions", "end_positions")).loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip_norm)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses, as_it_comes


def trainers_own(task: Task, model: torch.nn.Module) -> tuple:
    """Optimizer and schedule as transformers' Trainer makes them."""
    changed = {"max_steps": UPDATES, "warmup_steps": UPDATES // 10, "eval_strategy": "no", "save_strategy": "no"}
    with tempfile.TemporaryDirectory() as scratch:
        trainer = transformers.Trainer(model, transformers.TrainingArguments(scratch, **(training_arguments(task, seed=0) | changed)))
    trainer.create_optimizer_and_scheduler(UPDATES)
    return trainer.optimizer, trainer.lr_scheduler


def tensors(batch: Batch, *names: str) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(batch[name].astype(np.int64)) for name in names}


def inputs_of(batch: Batch, tower: str = "") -> dict[str, torch.Tensor]:
    ids, types, mask = tensors(batch, *(tower + name for name in ("input_ids", "token_type_ids", "segment_ids"))).values()
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}


def labelled(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    return model(**inputs_of(batch), **tensors(batch, "labels")).loss


def span(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    inputs = inputs_of(batch)
    found, padding = model(**inputs), inputs["attention_mask"] == 0
    ends = zip((found.start_logits, found.end_logits), tensors(batch, "start_positions", "end_positions").values(), strict=True)
    return sum(torch.nn.functional.cross_entropy(logits.masked_fill(padding, -1e9), position) for logits, position in ends) / 2


def embedding(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    vectors = []
    for tower in ("", "pair_"):
        inputs = inputs_of(batch, tower)
        real = inputs["attention_mask"][:, :, None].float()
        mean = (model(**inputs).last_hidden_state * real).sum(1) / real.sum(1)
        vectors.append(torch.nn.functional.normalize(mean, dim=-1))
    return torch.nn.functional.cross_entropy(SCALE * vectors[0] @ vectors[1].T, torch.arange(len(vectors[0])))


LOSSES = {"classification": labelled, "tokens": labelled, "span": span, "embedding": embedding}

if __name__ == "__main__":
    sys.exit(main())
