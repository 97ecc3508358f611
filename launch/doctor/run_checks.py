"""Checks of `bert-jax doctor` on the model, the rates, the speed and the disk.

Enters: a phase's `Run`, batches, parameters. Leaves: a `Check` each. Nothing is written anywhere.
"""

import contextlib
import dataclasses
import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.batch import device_fields
from bert_jax.sharding import put_batch
from bert_jax.training.metrics import divide
from bert_jax.training.objectives import cross_entropy
from bert_jax.training.state import TrainState, Tree
from bert_jax.training.step import make_eval_step
from launch.doctor.check import FAIL, OK, SKIP, WARN, Check, graded
from launch.inspect.batch_statistics import Batch, original_ids
from launch.run import Run, step_of

SWEEP_STEPS = 80
SWEEP = (1 / 20, 200)  # of the peak rate: the first and the last rate of the sweep
SWEEP_SECONDS, TIMED_SECONDS = 40, 20  # for as many rows as that allows
TIMED_STEPS = 5
EFFICIENCY = 0.3  # of a step, against a product of matrices
INPUT_SECONDS = 2.0
HELD_TOKENS = 2**13  # of a batch in the check of attention


# ---- the model ----


def check_starting_loss(run: Run, params, batches: Iterable[Batch], origin: str, vocab_size: int) -> Check:
    """MLM loss before the first update, against ln V. origin: where the parameters come from, in words."""
    step = make_eval_step(run.blueprint, run.objective, dataclasses.replace(run.compute, remat="none"), run.abstract.params, run.mesh)
    loss = divide([step(params, put_batch(device_fields(batch), run.mesh)) for batch in batches])["mlm_loss"]
    return judge_starting_loss(loss, math.log(vocab_size), origin)


def judge_starting_loss(loss: float, uniform: float, origin: str) -> Check:
    measured = f"MLM loss {loss:.3f} with {origin}; ln(vocabulary) = {uniform:.3f}"
    if not math.isfinite(loss):
        return Check("starting loss", FAIL, measured, "the model overflows: lower model.initializer_range, or use compute.dtype=float32")
    if origin != "fresh weights":
        advice = "the weights know nothing of this text: is it the same tokenizer, language and case as the model's?"
        return graded("starting loss", loss / uniform, 0.8, 1.0, measured, advice)
    advice = "a fresh model should guess evenly: check model.initializer_range (BERT: 0.02), the tokenizer and the masking"
    return graded("starting loss", abs(loss - uniform), max(0.1 * uniform, 0.5), max(0.3 * uniform, 1.5), measured, advice)


def token_losses(run: Run, params) -> Callable[[Batch], np.ndarray]:
    """A function of a batch giving float32 [B, K], the loss of each prediction, in float32 and without dropout."""
    compute = dataclasses.replace(run.compute, dtype="float32", remat="none")

    @jax.jit
    def losses(params, batch):
        return cross_entropy(run.blueprint.model(params)(batch, compute=compute)["mlm"], batch["mlm_targets"])

    return lambda batch: np.asarray(losses(params, device_fields(batch)))


def check_isolation(losses: Callable[[Batch], np.ndarray], batch: Batch, special: dict[str, int], *, packed: bool) -> Check:
    """Whether a prediction depends on anything outside its document: padding, or, packed, the row's other documents.

    Every second document of a row (and all padding) gets other tokens, then the others do; losses in the documents left alone must stay."""
    real, original = batch["segment_ids"] > 0, original_ids(batch)
    documents = np.cumsum(original == special["cls"], axis=1) if packed else np.ones_like(original)
    rows = np.arange(len(original))[:, None]
    used, document = batch["mlm_weights"] > 0, documents[rows, batch["mlm_positions"]]
    ordinary = np.setdiff1d(np.arange(original.max() + 1), list(special.values()))
    others = np.random.default_rng(0).choice(ordinary, original.shape).astype(np.int32)
    before, outside, inside = losses(batch), 0.0, 0.0
    for parity in (0, 1):
        changed = ~real | ((documents % 2 == parity) & ~np.isin(batch["input_ids"], list(special.values())))
        change = np.abs(losses(batch | {"input_ids": np.where(changed, others, batch["input_ids"])}) - before)
        outside = max(outside, float(change[used & (document % 2 != parity)].max(initial=0)))
        inside = max(inside, float(change[used & (document % 2 == parity)].max(initial=0)))
    several = int((np.where(real, documents, 0).max(axis=1) > 1).sum())
    what = f"padding and other documents ({several} of {len(rows)} rows hold several)" if packed else "padding"
    measured = f"other tokens in {what} change a masked token's loss by {outside:.2g}; in its own document by {inside:.2g}"
    if inside == 0:
        return Check("isolation", FAIL, measured, "predictions do not depend on the text at all: attention or the embeddings are broken")
    if outside > 1e-3 * inside:
        advice = "attention crosses documents: segment_ids of the batches or the model's mask are wrong; record the batches again"
        return Check("isolation", FAIL, measured, advice)
    return Check("isolation", OK, measured)


# ---- rates ----


def check_schedule(rates: np.ndarray, schedule: dict) -> Check:
    """rates: float [N], at steps spread evenly over the phase, first and last included."""
    peak = schedule["peak"]
    measured = f"{schedule['name']}: from {rates[0]:.2g} up to {rates.max():.2g}, ends at {rates[-1]:.2g}"
    dead = float((rates[1:-1] <= 0).mean())
    if dead > 0:
        measured += f"; 0 in {dead:.0%} of the steps"
        return Check("schedule", FAIL, measured, "nothing is learnt at rate 0: set schedule.total_steps to the phase's steps (0 does)")
    if rates.max() < 0.9 * peak:
        measured += f"; the peak {peak:.2g} is never reached"
        return Check("schedule", WARN, measured, "shorten schedule.warmup_steps, or set schedule.total_steps to the phase's steps")
    if schedule["name"] not in ("constant", "inverse_sqrt") and rates[-1] > 0.5 * peak:
        return Check("schedule", WARN, measured, "the rate does not come down: set schedule.total_steps to the phase's steps (0 does)")
    return Check("schedule", OK, measured)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """rates and losses [n] of the updates made; seconds: median of an update without its compilation; rows: of the batches."""

    rates: np.ndarray
    losses: np.ndarray
    seconds: float
    rows: int


def sweep(
    run: Run, state: TrainState, batches: Iterable[Batch], key: jax.Array, *, steps: int, low: float, high: float, accumulate: int = 1, frozen: tuple[Tree, ...] = ()
) -> tuple[Sweep, TrainState]:
    """Updates at rates rising exponentially from `low` to `high`, until the loss blows up. Consumes the state; returns the last. frozen: as `Run.frozen`."""
    ratio = math.log(high / low) / max(1, steps - 1)
    first = int(state.step)

    def rate(step):
        return low * jnp.exp(ratio * step.astype(jnp.float32))

    train_step = step_of(dataclasses.replace(run, schedule=rate), accumulate=accumulate, first_step=first)
    losses, seconds, rows = [], [], 0
    for batch in itertools.islice(batches, steps):
        rows, arrays, began = len(batch["input_ids"]), put_batch(device_fields(batch), run.mesh), time.monotonic()
        state, metrics = train_step(state, arrays, key, *frozen)
        losses.append(divide([metrics])["loss"])
        seconds.append(time.monotonic() - began)
        rates = low * np.exp(ratio * np.arange(len(losses)))
        if blow_up(rates, np.asarray(losses)) is not None:
            break
    return Sweep(rates, np.asarray(losses), float(np.median(seconds[1:] or seconds)), rows), state


def blow_up(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """The rate from which the loss is worse than it was by more than its noise, or None.

    The running median of five steps is compared with its best so far; noise is read off the first quarter, where rates are small."""
    finite = np.where(np.isfinite(losses), losses, np.inf)
    smooth = np.array([np.median(finite[max(0, at - 2) : at + 3]) for at in range(len(finite))])
    quiet = finite[: max(3, len(finite) // 4)]
    noise = float(np.std(np.diff(quiet))) / math.sqrt(2) if len(quiet) > 2 and np.isfinite(quiet).all() else 0.0
    worse = smooth > np.minimum.accumulate(smooth) + max(0.5, 4 * noise)
    return float(rates[np.argmax(worse)]) if worse.any() else None


def judge_rate(made: Sweep, peak: float, rows_of_run: int) -> Check:
    name, limit = "learning rate", blow_up(made.rates, made.losses)
    how = f"short ramp to {made.rates[-1]:.2g}, batches of {made.rows:,}" + (
        f" (the run: {rows_of_run:,})" if made.rows < rows_of_run else ""
    )
    if limit is None:
        if made.rates[-1] < peak:
            return Check(name, SKIP, f"{how}: too short to say")
        return Check(name, OK, f"{how}: the loss never blew up; the peak is {peak:.2g}")
    measured = f"the loss blows up at {limit:.2g}, {limit / peak:,.1f} times the peak {peak:.2g} ({how})"
    if limit <= peak:
        advice = f"lower schedule.peak, to about {limit / 10:.1g}"
        return Check(name, FAIL, measured, advice + (", or trust a ramp at the run's own batch size" if made.rows < rows_of_run else ""))
    return graded(
        name, peak / limit, 1 / 3, 1, measured, f"little room: lower schedule.peak, to about {limit / 10:.1g}, or warm up for longer"
    )


# ---- speed ----


def product_flops() -> float:
    """FLOP/s of a product of matrices on one device."""
    size = 1024 if jax.default_backend() == "cpu" else 4096
    matrix = jnp.ones((size, size), jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    product = jax.jit(lambda one: one @ one)
    jax.block_until_ready(product(matrix))
    times = []
    for _ in range(4):
        began = time.monotonic()
        jax.block_until_ready(product(matrix))
        times.append(time.monotonic() - began)
    return 2 * size**3 / min(times)


def affordable_rows(config: dict, run: Run, flops: float, seconds: float) -> int:
    """Rows of a step that takes at most about `seconds`: the config's batch, or fewer, a multiple of the shards; 0 if not even one fits."""
    shards = run.mesh.shape["data"] * run.mesh.shape["fsdp"]
    rows = int(seconds * EFFICIENCY * flops * run.mesh.size / run.flops(config))
    return config["batch_size"] if rows >= config["batch_size"] / 2 else rows // shards * shards  # half is within the estimate's error


def input_rate(source) -> float:
    """Sequences per second of the input pipeline alone, after its first batch."""
    with contextlib.closing(source.batches(0)) as stream:
        next(stream)
        rows, began = 0, time.monotonic()
        while time.monotonic() - began < INPUT_SECONDS:
            rows += len(next(stream)["input_ids"])
        return rows / (time.monotonic() - began)


def judge_throughput(made: Sweep, inputs: float, steps: int, sequences: int) -> Check:
    """inputs: sequences per second of the input pipeline; steps, sequences: of the phase."""
    device = made.rows / made.seconds
    whole = sequences / min(device, inputs)
    bound = "device" if inputs >= device else "input"
    measured = (
        f"{bound}-bound: the model takes {device:,.0f} sequences/s ({made.seconds:.2g} s for {made.rows:,}), the input gives {inputs:,.0f}, "
        f"{inputs / device:,.1f} times as many; {steps:,} steps take {duration(whole)}"
    )
    advice = "the devices wait for text: record the batches (bert-jax record), use masking.choice=tokens, or more and faster CPU cores"
    return graded("throughput", device / inputs, 0.8, 2, measured, advice)


def duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} seconds"


# ---- memory and disk ----


def tree_bytes(tree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def check_disk(run: Run, keep: int, workdir: Path | None) -> Check:
    """Room for the retained checkpoints and one being written."""
    place = (workdir or Path(".")).absolute()
    while not place.exists():
        place = place.parent
    one = tree_bytes((run.abstract.params, run.abstract.opt_state))
    held = 0 if workdir is None else sum(file.stat().st_size for file in workdir.glob("checkpoints/**/*") if file.is_file())
    needed, free = max(one, one * (keep + 1) - held), shutil.disk_usage(place).free
    where = str(place) if workdir else f"{place} (no --workdir given)"
    room = f"need {needed / 1e9:,.3g} GB of {free / 1e9:,.3g} GB free in {where}"
    measured = f"a checkpoint has {one / 1e9:,.3g} GB; {keep} kept and one being written {room}"
    return graded(
        "disk", needed / max(free, 1), 0.5, 0.95, measured, "free some space, use another --workdir, or keep fewer (checkpoint.keep)"
    )


def free_memory() -> int | None:
    """Bytes for arrays, of the devices or, on CPU, of the machine; None if it cannot be known."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) * jax.device_count()
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
