"""The two sides of benchmarks/comparison.py: `train(batch) -> loss`, which returns when the update is made, and `evaluate(batches)`.

Ours is the train step of `bert-jax pretrain`. The other is transformers' BertForPreTraining as it comes (attention "sdpa", logits at every
position), torch's fused AdamW, clip_grad_norm_ and get_linear_schedule_with_warmup. Both start from the same weights; each draws its own
dropout.
"""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import numpy as np
import torch
import transformers
from comparison_arms import Budget
from comparison_data import Batch
from loss_parity import Recipe, decay_groups, torch_inputs

from bert_jax.batch import device_fields
from bert_jax.interop import huggingface
from bert_jax.model.families import build_spec
from bert_jax.model.spec import Compute
from bert_jax.sharding import make_mesh, put_batch
from bert_jax.training.evaluate import evaluate
from bert_jax.training.objectives import MaskedLm
from bert_jax.training.optim import make_optimizer
from bert_jax.training.state import abstract_state, make_blueprint, state_from_params
from bert_jax.training.step import make_eval_step, make_train_step

METRICS = ("mlm_loss", "mlm_accuracy", "nsp_accuracy")


def recipe_of(budget: Budget) -> Recipe:
    return Recipe(peak=budget.peak, warmup_steps=budget.warmup_steps, total_steps=budget.steps)


def initial_params(section: dict, seed: int) -> dict:
    """bert_jax's initialisation (truncated normal), the same for both sides."""
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None  # as state.init_state: it runs once
    return jax.device_get(jax.jit(make_blueprint(build_spec(section)).init, compiler_options=quick)(jax.random.key(seed)))


class Programs:
    """What is compiled for a model and budget, once for all seeds."""

    def __init__(self, section: dict, budget: Budget):
        recipe = recipe_of(budget)
        self.blueprint, self.mesh = make_blueprint(build_spec(section)), make_mesh(devices=jax.devices()[:1])
        self.tx, compute = make_optimizer(recipe.optimizer, self.blueprint.axes), Compute(dtype="float32")
        self.abstract = abstract_state(self.blueprint, self.tx, self.mesh)
        objective = MaskedLm("nsp" if section["nsp"] else None)
        self.train = make_train_step(self.blueprint, objective, self.tx, recipe.schedule, compute, self.abstract, self.mesh)
        self.evaluate = {
            pairs: make_eval_step(self.blueprint, MaskedLm(pairs), compute, self.abstract.params, self.mesh)
            for pairs in (None, objective.pairs)
        }


@functools.cache
def programs(section: str, budget: Budget) -> Programs:
    return Programs(json.loads(section), budget)


class Ours:
    def __init__(self, section: dict, params: dict, budget: Budget, seed: int):
        self.nsp = section["nsp"]
        self.programs = programs(json.dumps(section), budget)
        self.state = state_from_params(jax.tree.map(jax.numpy.array, params), self.programs.tx, self.programs.abstract)
        self.key = jax.random.key(seed, impl="rbg")  # as the configs have it

    def train(self, batch: Batch) -> float:
        self.state, metrics = self.programs.train(self.state, put_batch(device_fields(batch), self.programs.mesh), self.key)
        jax.block_until_ready(self.state)
        return float(metrics["loss"][0])

    def evaluate(self, batches: list[Batch]) -> dict[str, float]:
        """A model without NSP never saw a second segment: for it all tokens are of the first, and pairs have no label."""
        pairs = "nsp" if self.nsp and "nsp_labels" in batches[0] else None
        if not self.nsp:
            batches = [batch | {"token_type_ids": np.zeros_like(batch["token_type_ids"])} for batch in batches]
        metrics = evaluate(self.state.params, self.programs.evaluate[pairs], batches, self.programs.mesh)
        return {name: float(metrics[name]) for name in METRICS if name in metrics}


class Torch:
    def __init__(self, directory: Path, budget: Budget, seed: int, device: str):
        recipe, self.device = recipe_of(budget), torch.device(device)
        torch.manual_seed(seed)
        self.clip_norm = recipe.clip_norm
        self.model = transformers.BertForPreTraining.from_pretrained(directory, dtype=torch.float32).train().to(self.device)
        groups = decay_groups(self.model, recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.peak, betas=(recipe.b1, recipe.b2), eps=recipe.eps, fused=True)
        self.scheduler = transformers.get_linear_schedule_with_warmup(self.optimizer, recipe.warmup_steps, recipe.total_steps)

    def train(self, batch: Batch) -> float:
        loss = self.model(**self._inputs(batch)).loss
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        return loss.item()

    def evaluate(self, batches: list[Batch]) -> dict[str, float]:
        self.model.eval()
        losses, hits, predictions, right, rows = 0.0, 0, 0, 0, 0
        with torch.no_grad():
            for batch in batches:
                inputs = self._inputs(batch)
                labels, order = inputs.pop("labels"), inputs.pop("next_sentence_label")
                output = self.model(**inputs)
                logits, targets = output.prediction_logits[labels != -100], labels[labels != -100]
                losses += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
                hits += (logits.argmax(-1) == targets).sum().item()
                predictions += len(targets)
                right += (output.seq_relationship_logits.argmax(-1) == order).sum().item()
                rows += len(order)
        self.model.train()
        return {"mlm_loss": losses / predictions, "mlm_accuracy": hits / predictions, "nsp_accuracy": right / rows}

    def _inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device) for name, tensor in torch_inputs(batch).items()}


@dataclasses.dataclass(frozen=True)
class Start:
    """A model before training: its config section, its parameters, and where to export them for transformers."""

    section: dict
    params: dict
    tokenizer_dir: Path
    scratch: Path

    def trainer(self, framework: str, budget: Budget, seed: int, device: str) -> Ours | Torch:
        if framework == "bert_jax":
            return Ours(self.section, self.params, budget, seed)
        directory = self.scratch / "initial"
        huggingface.export(self.params, self.section, self.tokenizer_dir, directory)
        return Torch(directory, budget, seed, device)
