"""What `bert-jax doctor` examines: a run opened as `pretrain` opens it, and for each of its phases the checks by name.

Enters: a config and perhaps a workdir. Leaves: a `Check` each. The checks are in text_checks.py (stored text), row_checks.py (batches) and
run_checks.py (model, rates, speed, disk).
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.state import TrainState, Tree, state_from_params
from bert_jax.training.watch import Watch
from launch.config import ConfigError
from launch.data import PAIR_OBJECTIVES, make_source
from launch.doctor.check import FAIL, OK, SKIP, WARN, Check
from launch.doctor.row_checks import check_masking, check_pairs, check_repeats, check_rows, fullest_rows
from launch.doctor.run_checks import (
    SWEEP,
    SWEEP_SECONDS,
    SWEEP_STEPS,
    TIMED_SECONDS,
    TIMED_STEPS,
    Sweep,
    affordable_rows,
    check_disk,
    check_isolation,
    check_schedule,
    check_starting_loss,
    free_memory,
    input_rate,
    judge_rate,
    judge_throughput,
    product_flops,
    sweep,
    token_losses,
    tree_bytes,
)
from launch.doctor.text_checks import (
    Hashes,
    check_duplicates,
    check_epochs,
    check_held_out,
    check_overlap,
    check_vocabulary,
    read_hashes,
    stores_of,
)
from launch.downstream import open_tasks, steps_of
from launch.pretrain import Stage, check_continues, make_dropout_key, make_stages
from launch.run import fresh_state
from launch.teacher import open_teacher

SAMPLE_ROWS = 2048
SAMPLE_BATCH = 256
LOSS_ROWS = 64
ISOLATION_ROWS = 8


class Patient:
    """A run that is examined; what several checks need is made once, when the first of them asks."""

    def __init__(self, config: dict, workdir: Path | None):
        self.workdir = workdir
        self.config, self.stages = make_stages(config)
        self.state: TrainState | None = None
        self.origin = "fresh weights"

    @functools.cached_property
    def flops(self) -> float:
        return product_flops()

    @functools.cached_property
    def frozen(self) -> tuple[Tree, ...]:
        """A teacher's parameters, if the config has one."""
        run, teacher = self.stages[0].run, open_teacher(self.config, self.stages[0].data)
        return () if teacher is None else (teacher.read(*run.frozen),)

    def starting_state(self) -> TrainState:
        """As `pretrain` would start: the workdir's newest whole checkpoint, or fresh weights. The state of the checks before, if there was one."""
        if self.state is None:
            run = self.stages[0].run
            step = None if self.workdir is None else Checkpoints(self.workdir / "checkpoints").newest()
            if step is None:
                self.state, self.origin = fresh_state(self.config, run, self.frozen)
            else:
                held = Checkpoints(self.workdir / "checkpoints").restore(step, {"params": run.abstract.params})["params"]
                self.state, self.origin = state_from_params(held, run.tx, run.abstract), f"the workdir's checkpoint of step {step:,}"
        return self.state

    def too_big(self) -> str:
        """Why the model is not run on this machine; empty if it can be."""
        run, free = self.stages[0].run, free_memory()
        needed = 2 * tree_bytes(run.abstract.params) + tree_bytes(run.abstract.opt_state) + tree_bytes(run.frozen)
        return (
            f"parameters, gradients and optimizer state need {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free"
            if free and needed > free
            else ""
        )


class Examination:
    """The checks of one phase, by name. The first phase has those of the run as a whole too."""

    def __init__(self, patient: Patient, stage: Stage):
        self.patient, self.stage = patient, stage
        self.config, self.data, self.run = stage.config, stage.data, stage.run
        self.swept: Sweep | None = None

    @functools.cached_property
    def sample(self) -> tuple[list[dict], list[float]]:
        """SAMPLE_ROWS rows as training gets them, in batches (of an epoch at most), and the masking rate of each batch."""
        source = make_source(self.config, self.data, None, batch_size=None if self.data.recorded else SAMPLE_BATCH)
        number = source.num_batches * source.batch_size if self.data.recorded else source.num_sequences
        batches = [source.batch(step) for step in range(max(1, min(SAMPLE_ROWS, number) // source.batch_size))]
        rate = self.config["masking"]["rate"]
        return batches, [rate if self.data.recorded else source.masking.rate_at(step, source.rate_steps) for step in range(len(batches))]

    @functools.cached_property
    def hashes(self) -> Hashes:
        return read_hashes(stores_of(self.data.paths, "train"))

    def few(self, rows: int) -> Iterator[dict]:
        """Batches of so many rows, a multiple of the shards, as training gets them."""
        if not self.data.recorded:
            return make_source(self.config, self.data, self.run.mesh, batch_size=rows).batches(0)
        return ({name: array[:rows] for name, array in batch.items()} for batch in self.stage.source.batches(0))

    # ---- the checks, in order; each may raise what stops it, which is then its verdict ----

    def workdir(self) -> Check:
        patient = self.patient
        if patient.workdir is None or not patient.workdir.exists():
            return Check("workdir", OK, "a run from scratch")
        try:
            check_continues(patient.config, patient.stages, patient.workdir, accept_changes=False)
        except ConfigError as error:
            return Check("workdir", FAIL, " ".join(str(error).split()))
        steps = Checkpoints(patient.workdir / "checkpoints").steps()
        return Check("workdir", OK, f"continues from step {steps[-1]:,}" if steps else "no checkpoint yet: a run from scratch")

    def disk(self) -> Check:
        return check_disk(self.run, self.config["checkpoint"]["keep"], self.patient.workdir)

    def downstream(self) -> Check:
        """As `pretrain` opens the trials' configs and data before its first step."""
        config, section = self.patient.config, self.patient.config["downstream"]
        try:
            steps = steps_of(section, self.patient.stages[-1].phase.stop)
            tasks = open_tasks(config, self.run, self.data.tokenizer_dir, Watch()) if steps else {}
        except (ConfigError, ImportError) as error:
            return Check("downstream", FAIL, " ".join(str(error).split()))
        if steps:
            times = f"at {len(steps):,} steps, from {steps[0]:,} to {steps[-1]:,}" if len(steps) > 1 else f"at step {steps[0]:,}"
            return Check("downstream", OK, f"{times}: {'; '.join(f'{name}, {task}' for name, task in tasks.items())}")
        if section["configs"]:
            return Check("downstream", WARN, "downstream.configs names tasks, and no step tries them", "set downstream.every or downstream.steps")
        return Check("downstream", OK, "no trials on downstream tasks")

    def schedule(self) -> Check:
        steps = jnp.linspace(0, self.config["steps"] - 1, min(self.config["steps"], 1001)).astype(jnp.int32)
        return check_schedule(jax.device_get(jax.vmap(self.run.schedule)(steps)), self.config["schedule"])

    def vocabulary(self) -> Check:
        return check_vocabulary(self.data.unigram_shares, self.data.special)

    def duplicates(self) -> Check:
        return (
            Check("duplicates", SKIP, "recorded batches do not hold the documents") if self.data.recorded else check_duplicates(self.hashes)
        )

    def overlap(self) -> Check:
        return check_overlap(
            None if self.data.recorded else self.hashes, read_hashes(stores_of(self.data.held_out, "eval")) if self.data.held_out else None
        )

    def held_out(self) -> Check:
        sequences = 0
        if self.data.held_out:
            with contextlib.suppress(ValueError):  # so little that it makes no sequence
                sequences = make_source(self.config, self.data, None, split="eval", batch_size=1).num_sequences
        masking = self.config["masking"]
        return check_held_out(
            sequences, self.config["eval"]["sequences"], round((masking["end_rate"] or masking["rate"]) * self.config["length"])
        )

    def epochs(self) -> Check:
        source, sequences = self.stage.source, self.stage.phase.sequences
        if self.data.recorded:
            return check_epochs(source.num_batches * source.batch_size, sequences)
        return check_epochs(
            source.num_sequences, sequences, self.config["data"]["duplicates"] if self.config["data"]["sequences"] in PAIR_OBJECTIVES else 1
        )

    def rows(self) -> Check:
        return check_rows(self.sample[0], self.config["data"]["sequences"])

    def pairs(self) -> Check:
        return check_pairs(self.sample[0])

    def masking(self) -> Check:
        special_ids = list(self.data.special.values())
        if not self.data.recorded:
            special_ids = stores_of(self.data.paths[:1], "train")[0].special_ids
        return check_masking(*self.sample, self.config["masking"], self.data.special, special_ids)

    def repeats(self) -> Check:
        return check_repeats(self.sample[0])

    def isolation(self) -> Check:
        if reason := self.patient.too_big():
            return Check("isolation", SKIP, reason)
        batch = fullest_rows(self.sample[0], ISOLATION_ROWS, self.data.special)
        losses = token_losses(self.run, self.patient.starting_state().params)
        return check_isolation(losses, batch, self.data.special, packed=self.config["data"]["sequences"] == "packed_documents")

    def starting_loss(self) -> Check:
        if reason := self.patient.too_big():
            return Check("starting loss", SKIP, reason)
        shards = self.run.mesh.shape["data"] * self.run.mesh.shape["fsdp"]
        rows = max(shards, min(LOSS_ROWS // shards * shards, affordable_rows(self.config, self.run, self.patient.flops, TIMED_SECONDS)))
        params = self.patient.starting_state().params
        return check_starting_loss(self.run, params, [next(self.few(rows))], self.patient.origin, self.config["model"]["vocab_size"])

    def learning_rate(self) -> Check:
        peak, reason = self.config["schedule"]["peak"], self.update(SWEEP_STEPS, SWEEP_SECONDS)
        return (
            judge_rate(self.swept, peak, self.config["batch_size"]) if self.swept and not reason else Check("learning rate", SKIP, reason)
        )

    def throughput(self) -> Check:
        reason = "" if self.swept else self.update(TIMED_STEPS, TIMED_SECONDS)
        if reason:
            return Check("throughput", SKIP, reason)
        return judge_throughput(self.swept, input_rate(self.stage.source), self.config["steps"], self.stage.phase.sequences)

    def update(self, steps: int, seconds: float) -> str:
        """Makes `swept` by updates of as many rows as `seconds` allow; or says why not."""
        if reason := self.patient.too_big():
            return reason
        rows = affordable_rows(self.config, self.run, self.patient.flops, seconds / steps)
        if not rows:
            return f"{steps} updates of a single row would take more than {seconds} seconds on this machine: run the doctor where you will train"
        peak, whole = self.config["schedule"]["peak"], rows == self.config["batch_size"]
        state = self.patient.starting_state()
        self.patient.state = None  # the updates consume it
        self.swept, self.patient.state = sweep(
            self.run,
            state,
            self.few(rows),
            make_dropout_key(self.patient.config),
            steps=steps,
            low=SWEEP[0] * peak,
            high=SWEEP[1] * peak,
            accumulate=self.config["accumulate"] if whole else 1,
            frozen=self.patient.frozen,
        )
        return ""


CHECKS: dict[
    str, tuple[Callable[[Examination], Check], str]
] = {  # name -> how, and which phases have it: the first, those with other text, or each
    "workdir": (Examination.workdir, "first"),
    "disk": (Examination.disk, "first"),
    "downstream": (Examination.downstream, "first"),
    "schedule": (Examination.schedule, "each"),
    "vocabulary": (Examination.vocabulary, "text"),
    "duplicates": (Examination.duplicates, "text"),
    "held-out text": (Examination.held_out, "text"),
    "held-out overlap": (Examination.overlap, "text"),
    "epochs": (Examination.epochs, "each"),
    "rows": (Examination.rows, "each"),
    "pairs": (Examination.pairs, "each"),
    "masking": (Examination.masking, "each"),
    "repeats": (Examination.repeats, "each"),
    "isolation": (Examination.isolation, "each"),
    "starting loss": (Examination.starting_loss, "first"),
    "learning rate": (Examination.learning_rate, "first"),
    "throughput": (Examination.throughput, "each"),
}
