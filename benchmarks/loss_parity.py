"""Loss curves of bert_jax and of transformers + torch.optim.AdamW: same weights, same batches, dropout off, float32 on the CPU.

    python benchmarks/loss_parity.py [--batches RECORDED] [--steps 200] [--output FILE.json]

transformers makes the weights, bert_jax reads them with its importer. Each side takes its own optimizer, clip, schedule and loss: here optax
and `objectives.MaskedLm` on gathered positions, there AdamW, clip_grad_norm_, get_linear_schedule_with_warmup and labels of -100 at
every position but the masked ones. Without --batches, batches of `bert-jax record`'s kind are recorded from the embedded corpus. Prints a table; the exit
status is 1 if any step differs by more than --tolerance.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import numpy as np
import torch
import transformers

from bert_jax import recorded
from bert_jax.batch import device_fields
from bert_jax.interop import huggingface
from bert_jax.model.families import build_spec
from bert_jax.model.spec import Compute
from bert_jax.recorded import RecordedBatches
from bert_jax.sharding import make_mesh, put_batch
from bert_jax.training.objectives import MaskedLm
from bert_jax.training.optim import OptimizerSpec, make_optimizer
from bert_jax.training.schedules import Schedule
from bert_jax.training.state import TrainState, abstract_state, make_blueprint, state_from_params
from bert_jax.training.step import make_train_step

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What both sides are told: AdamW, linear warmup from 0 to `peak`, linear decay to 0 at `total_steps`, clip of the global norm."""

    peak: float = 1e-3
    warmup_steps: int = 20
    total_steps: int = 200
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 1.0

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.peak, self.warmup_steps, self.total_steps, power=1.0, end=0.0, decay_from="warmup")

    @property
    def optimizer(self) -> OptimizerSpec:
        return OptimizerSpec("adamw", self.b1, self.b2, self.eps, self.weight_decay, self.clip_norm, exclude=("bias", "norm"))


def save_random_model(directory: Path, *, seed: int = 0, **config) -> None:
    """A BertForPreTraining with transformers' own random weights, by save_pretrained; `config` are BertConfig's fields."""
    torch.manual_seed(seed)
    transformers.BertForPreTraining(transformers.BertConfig(**config)).save_pretrained(directory)


def load_torch(directory: Path, attention: str) -> transformers.BertForPreTraining:
    return transformers.BertForPreTraining.from_pretrained(directory, attn_implementation=attention, dtype=torch.float32).train()


def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups of the usual fine-tuning scripts: no decay for biases and LayerNorms."""
    plain = [(name, parameter) for name, parameter in model.named_parameters()]
    exempt = {name for name, _ in plain if name.endswith("bias") or "LayerNorm" in name}
    return [
        {"params": [parameter for name, parameter in plain if name not in exempt], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in plain if name in exempt], "weight_decay": 0.0},
    ]


def torch_inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """The forward arguments of BertForPreTraining. ValueError for rows of several documents, which it cannot keep apart."""
    if batch["segment_ids"].max() > 1:
        raise ValueError(f"segment_ids goes up to {batch['segment_ids'].max()}; record batches of one document per row (segment_pairs)")
    labels = np.full(batch["input_ids"].shape, -100)
    rows, slots = np.nonzero(batch["mlm_weights"])
    labels[rows, batch["mlm_positions"][rows, slots]] = batch["mlm_targets"][rows, slots]
    fields = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["segment_ids"],
        "token_type_ids": batch["token_type_ids"],
        "labels": labels,
        "next_sentence_label": batch["nsp_labels"],
    }
    return {name: torch.from_numpy(array.astype(np.int64)) for name, array in fields.items()}


def prepare_ours(
    directory: Path, optimizer: OptimizerSpec, schedule: Schedule, devices: list[jax.Device]
) -> tuple[TrainState, Callable, jax.sharding.Mesh]:
    """A checkpoint of transformers as (state at step 0, train step, mesh), as `bert-jax pretrain` has them."""
    imported = huggingface.load(directory, key=jax.random.key(0))
    blueprint = make_blueprint(build_spec(imported.model_section))
    mesh = make_mesh(devices=devices)
    tx = make_optimizer(optimizer, blueprint.axes)
    abstract = abstract_state(blueprint, tx, mesh)
    step = make_train_step(blueprint, MaskedLm("nsp"), tx, schedule, Compute(dtype="float32"), abstract, mesh)
    return state_from_params(jax.device_put(imported.params), tx, abstract), step, mesh


def our_losses(directory: Path, batches: Iterator[Batch], optimizer: OptimizerSpec, schedule: Schedule) -> np.ndarray:
    """The loss of each batch before its update: float32 [steps]."""
    state, step, mesh = prepare_ours(directory, optimizer, schedule, jax.devices("cpu")[:1])
    losses = []
    for batch in batches:
        state, metrics = step(state, put_batch(device_fields(batch), mesh), jax.random.key(0))
        losses.append(metrics["loss"][0])
    return np.array(jax.device_get(losses), np.float32)


def torch_losses(directory: Path, batches: Iterator[Batch], recipe: Recipe) -> np.ndarray:
    """The same of transformers and torch: float32 [steps]."""
    model = load_torch(directory, "eager")
    groups = decay_groups(model, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=recipe.peak, betas=(recipe.b1, recipe.b2), eps=recipe.eps)
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, recipe.warmup_steps, recipe.total_steps)
    losses = []
    for batch in batches:
        loss = model(**torch_inputs(batch)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return np.array(losses, np.float32)


def record_embedded(directory: Path, *, steps: int, batch_size: int, length: int, vocab_size: int) -> RecordedBatches:
    """Tokenizer, token store and recorded batches of the embedded corpus, all under `directory`."""
    from data_pipeline.batches.loader import Loader
    from data_pipeline.batches.masking import MaskingSpec
    from data_pipeline.preparation.prepare import prepare
    from data_pipeline.sources.corpus import Corpus
    from data_pipeline.tokenization import tokenizers

    tokenizers.train(Corpus("embedded"), directory / "tokenizer", vocab_size=vocab_size)
    prepare("embedded", directory / "tokenizer", directory / "store", progress=False)
    masking = MaskingSpec(predictions=round(0.15 * length))
    loader = Loader(directory / "store", batch_size=batch_size, length=length, masking=masking, seed=0)
    recorded.write(directory / "batches", loader.batches(0, steps), {"vocab_size": loader.store.vocab_size})
    return RecordedBatches(directory / "batches")


def compare(source: RecordedBatches, directory: Path, arguments: argparse.Namespace) -> dict:
    """Both curves and the settings, as JSON."""
    config = {
        "vocab_size": source.description["vocab_size"], "hidden_size": arguments.hidden, "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.heads, "intermediate_size": 4 * arguments.hidden, "max_position_embeddings": max(source.length, 128),
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }
    recipe = Recipe(peak=arguments.peak, warmup_steps=arguments.steps // 10, total_steps=arguments.steps)
    save_random_model(directory, **config)
    ours = our_losses(directory, source.batches(0, arguments.steps), recipe.optimizer, recipe.schedule)
    theirs = torch_losses(directory, source.batches(0, arguments.steps), recipe)
    shape = {"batch_size": source.batch_size, "length": source.length, "steps": arguments.steps}
    return {
        "config": config, "recipe": dataclasses.asdict(recipe), "batches": shape, "tolerance": arguments.tolerance,
        "bert_jax": ours.tolist(), "transformers": theirs.tolist(), "largest_difference": float(np.abs(ours - theirs).max()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=Path, help="recorded batches (`bert-jax record`); without it they are recorded from the embedded corpus")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--peak", type=float, default=1e-3, help="learning rate at the end of the warmup, a tenth of the steps")
    parser.add_argument("--vocab_size", type=int, default=6000, help="without --batches")
    parser.add_argument("--batch_size", type=int, default=32, help="without --batches")
    parser.add_argument("--length", type=int, default=64, help="without --batches")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--output", type=Path, help="write both curves and the settings here, as JSON")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.batches:
            source = RecordedBatches(arguments.batches)
        else:
            sizes = {name: getattr(arguments, name) for name in ("steps", "batch_size", "length", "vocab_size")}
            source = record_embedded(Path(temporary), **sizes)
        result = compare(source, Path(temporary) / "model", arguments)
    ours, theirs = np.array(result["bert_jax"]), np.array(result["transformers"])
    difference = np.abs(ours - theirs)
    print(f"{'step':>5} {'bert_jax':>10} {'transformers':>13} {'|difference|':>13}")
    for step in sorted({*range(0, len(ours), 20), len(ours) - 1}):
        print(f"{step:5d} {ours[step]:10.5f} {theirs[step]:13.5f} {difference[step]:13.2e}")
    within = bool((difference <= arguments.tolerance).all())  # NaN is not within
    verdict = "within" if within else "over"
    print(f"largest difference {difference.max():.2e} at step {difference.argmax()} of {len(ours)}: {verdict} the tolerance {arguments.tolerance:g}")
    if arguments.output:
        temporary_file = arguments.output.with_name(arguments.output.name + ".tmp")
        temporary_file.write_text(json.dumps(result) + "\n", encoding="utf-8")
        os.replace(temporary_file, arguments.output)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
