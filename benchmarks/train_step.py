"""Time of a whole training step in float32: bert_jax beside two torch versions, on the same cores or the same GPU.

    python benchmarks/train_step.py [--size bert_mini quickstart] [--dropout 0.0 0.1] [--rounds 9] [--threads N] [--output FILE.json]

transformers  BertForPreTraining as it comes (attention "sdpa", its default): MLM logits and loss at every position.
tuned torch   the same model; the MLM head and its loss on the masked positions only, gathered before the head, as bert_jax does.

All three make the same update: forward, backward, clip of the global norm, AdamW (in torch the fused one), from the same weights. Before
anything is timed, all must give the same losses on the warm-up steps of the run without dropout, within 1e-4. Rounds are interleaved; a round is
enough steps for about half a second, on batches that already lie on the device. The table has the median and the range over the rounds; the ratio is
the median over the rounds of (theirs / ours), above 1 where bert_jax is faster. torch runs eagerly: torch.compile is not measured.

Both wall time and CPU time (of all threads) are taken. Wall time is what counts, on an idle machine; where other work competes for the cores, torch's
OpenMP threads wait for one another and it looks several times slower than it is. There --threads 1 and the CPU time stay steady.

The GPU path (--device gpu: one GPU, true float32 on both sides) has not been run yet.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch shares the GPU

import jax
import numpy as np
import torch
import transformers
from loss_parity import Batch, Recipe, decay_groups, load_torch, prepare_ours, save_random_model, torch_inputs

from bert_jax import batch as contract
from bert_jax.sharding import put_batch

TOLERANCE = 1e-4
WARM_UP = 4
RECIPE = Recipe(peak=1e-4, warmup_steps=0, total_steps=10**9)  # a constant rate, as far as float32 goes


@dataclasses.dataclass(frozen=True)
class Size:
    layers: int
    hidden: int
    vocab_size: int
    length: int
    predictions: int
    batch_size: int
    activation: str  # gelu_pytorch_tanh is what our gelu_tanh computes, in one torch operation


SIZES = {
    "bert_mini": Size(4, 256, 30522, 128, 20, 16, "gelu"),
    "quickstart": Size(2, 128, 6000, 64, 10, 32, "gelu_pytorch_tanh"),
}


def random_batch(size: Size, seed: int) -> Batch:
    """Random ids in the shape of segment pairs: one row in ten is short, 15 % of its tokens are masked."""
    draw = np.random.default_rng(seed)
    batch = contract.zeros(size.batch_size, size.length, size.predictions, nsp=True)
    for row in range(size.batch_size):
        real = size.length if draw.random() >= 0.1 else int(draw.integers(size.length // 4, size.length))
        count = min(size.predictions, round(0.15 * real))
        batch["input_ids"][row, :real] = draw.integers(5, size.vocab_size, real)
        batch["segment_ids"][row, :real] = 1
        batch["token_type_ids"][row, real // 2 : real] = 1
        batch["mlm_positions"][row, :count] = np.sort(draw.choice(np.arange(1, real), count, replace=False))
        batch["mlm_targets"][row, :count] = draw.integers(5, size.vocab_size, count)
        batch["mlm_weights"][row, :count] = 1.0
    batch["nsp_labels"][:] = draw.integers(0, 2, size.batch_size)
    return batch


class Ours:
    """`bert-jax pretrain`'s own step."""

    def __init__(self, checkpoint: Path, batches: list[Batch], _: bool):
        self.state, self.step, mesh = prepare_ours(checkpoint, RECIPE.optimizer, RECIPE.schedule, jax.devices()[:1])
        self.batches = [put_batch(contract.device_fields(batch), mesh) for batch in batches]
        self.key = jax.random.key(0, impl="rbg")  # as the configs have it
        self.done = 0

    def run(self, steps: int) -> float:
        """Makes the steps, waits for the last and returns its loss."""
        for _ in range(steps):
            self.state, metrics = self.step(self.state, self.batches[self.done % len(self.batches)], self.key)
            self.done += 1
        jax.block_until_ready(self.state)
        return float(metrics["loss"][0])


class Torch:
    def __init__(self, checkpoint: Path, batches: list[Batch], on_gpu: bool, loss_of: Callable):
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.model = load_torch(checkpoint, "sdpa").to(self.device)
        groups = decay_groups(self.model, RECIPE.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=RECIPE.peak, betas=(RECIPE.b1, RECIPE.b2), eps=RECIPE.eps, fused=True)
        self.batches = [self._put(batch) for batch in batches]
        self.loss_of = loss_of
        self.done = 0

    def _put(self, batch: Batch) -> dict[str, torch.Tensor]:
        slots = {name: torch.from_numpy(batch[name]).to(self.device) for name in ("mlm_positions", "mlm_targets", "mlm_weights")}
        return {name: tensor.to(self.device) for name, tensor in torch_inputs(batch).items()} | slots

    def run(self, steps: int) -> float:
        for _ in range(steps):
            loss = self.loss_of(self.model, self.batches[self.done % len(self.batches)])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), RECIPE.clip_norm)
            self.optimizer.step()
            self.done += 1
        return loss.item()


INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def loss_at_every_position(model: transformers.BertForPreTraining, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**{name: batch[name] for name in (*INPUTS, "labels", "next_sentence_label")}).loss


def loss_at_masked_positions(model: transformers.BertForPreTraining, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    hidden, pooled = model.bert(**{name: batch[name] for name in INPUTS}, return_dict=False)[:2]
    positions = batch["mlm_positions"].long()
    chosen = hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[-1]))
    logits = model.cls.predictions(chosen).flatten(0, 1)
    losses = torch.nn.functional.cross_entropy(logits, batch["mlm_targets"].long().flatten(), reduction="none")
    weights = batch["mlm_weights"].flatten()
    nsp = torch.nn.functional.cross_entropy(model.cls.seq_relationship(pooled), batch["next_sentence_label"])
    return (losses * weights).sum() / weights.sum() + nsp


def transformers_as_it_is(*arguments) -> Torch:
    return Torch(*arguments, loss_of=loss_at_every_position)


def tuned_torch(*arguments) -> Torch:
    return Torch(*arguments, loss_of=loss_at_masked_positions)


CONTENDERS = {"bert_jax": Ours, "transformers": transformers_as_it_is, "tuned torch": tuned_torch}


def check_losses(runners: dict[str, Ours | Torch]) -> float:
    """The largest difference of any contender's warm-up loss to ours. SystemExit if it is over the tolerance: they do not do the same work."""
    worst = 0.0
    for _ in range(WARM_UP):
        losses = {name: runner.run(1) for name, runner in runners.items()}
        difference = max(abs(loss - losses["bert_jax"]) for loss in losses.values())
        if not difference <= TOLERANCE:
            raise SystemExit(f"the contenders do not compute the same: losses {losses} differ by more than {TOLERANCE:g}")
        worst = max(worst, difference)
    return worst


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def measure(runners: dict[str, Ours | Torch], rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Clock -> contender -> seconds per step in each round."""
    steps = {}
    for name, runner in runners.items():
        began = time.perf_counter()
        runner.run(WARM_UP)
        steps[name] = max(2, round(seconds * WARM_UP / (time.perf_counter() - began)))
    times: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in runners} for clock in CLOCKS}
    for _ in range(rounds):
        for name, runner in runners.items():
            began = {clock: now() for clock, now in CLOCKS.items()}
            runner.run(steps[name])
            for clock, now in CLOCKS.items():
                times[clock][name].append((now() - began[clock]) / steps[name])
    return times


def compare(name: str, dropout: float, arguments: argparse.Namespace, on_gpu: bool) -> dict:
    size = SIZES[name]
    batches = [random_batch(size, seed) for seed in range(4)]
    with tempfile.TemporaryDirectory() as checkpoint:
        save_random_model(
            Path(checkpoint), vocab_size=size.vocab_size, hidden_size=size.hidden, num_hidden_layers=size.layers,
            num_attention_heads=size.hidden // 64, intermediate_size=4 * size.hidden, max_position_embeddings=512,
            hidden_act=size.activation, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        )
        runners = {contender: make(Path(checkpoint), batches, on_gpu) for contender, make in CONTENDERS.items()}
    print(f"\n{name}: {size.layers} x {size.hidden}, length {size.length}, batch {size.batch_size}, vocabulary {size.vocab_size}, dropout {dropout:g}")
    if dropout == 0.0:
        print(f"  losses of {WARM_UP} warm-up steps equal within {check_losses(runners):.1e}")
    times = measure(runners, arguments.rounds, arguments.seconds)
    for clock in ("wall",) if on_gpu else CLOCKS:
        for contender, spent in times[clock].items():
            median = statistics.median(spent)
            line = f"  {clock:4s}  {contender:13s} {1e3 * median:8.2f} ms/step ({1e3 * min(spent):.2f} to {1e3 * max(spent):.2f})"
            line += f"  {size.batch_size / median:8.1f} sequences/s" if clock == "wall" else ""
            if contender != "bert_jax":
                ratios = [theirs / ours for theirs, ours in zip(spent, times[clock]["bert_jax"], strict=True)]
                line += f"   {statistics.median(ratios):.2f} x ours ({min(ratios):.2f} to {max(ratios):.2f})"
            print(line, flush=True)
    return {"name": name, "size": dataclasses.asdict(size), "dropout": dropout, "seconds_per_step": times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of work per contender and round")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="cores for each side, in turn")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto", help="auto: the GPU if jax and torch both see one")
    parser.add_argument("--output", type=Path, help="write all times here, as JSON")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])  # before jax counts the cores for its thread pool
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    on_gpu = arguments.device != "cpu" and torch.cuda.is_available() and jax.default_backend() == "gpu"
    if arguments.device == "gpu" and not on_gpu:
        parser.error(f"--device gpu needs a GPU that both see; torch: {torch.cuda.is_available()}, jax: {jax.default_backend()}")
    if on_gpu:
        jax.config.update("jax_default_matmul_precision", "highest")  # torch's default; jax's would be TF32
    else:
        jax.config.update("jax_platforms", "cpu")
    transformers.logging.disable_progress_bar()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {arguments.threads} threads"
    print(f"load average {os.getloadavg()[0]:.1f} before the start")
    print(f"float32 on {device}; jax {jax.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")
    results = [compare(name, dropout, arguments, on_gpu) for name in arguments.size for dropout in arguments.dropout]
    if arguments.output:
        temporary = arguments.output.with_name(arguments.output.name + ".tmp")
        temporary.write_text(json.dumps({"device": device, "results": results}) + "\n", encoding="utf-8")
        os.replace(temporary, arguments.output)


if __name__ == "__main__":
    sys.exit(main())
