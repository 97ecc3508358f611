"""`bert-jax pretrain`: builds a run from its config, starts or continues it in a workdir, and writes the report at the end."""

import contextlib
import dataclasses
import fcntl
import hashlib
import logging
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.evaluate import evaluate
from bert_jax.training.loop import BatchSource, Cadence, Hardware, fit
from bert_jax.training.metrics import PEAK_FLOPS, RunLog, model_flops
from bert_jax.training.state import TrainState, init_state, shardings_of, state_from_params
from bert_jax.training.step import make_eval_step, make_train_step
from launch import config as configs
from launch.config import ConfigError
from launch.data import Data, check_same_tokenizer, make_source, open_data, resolve_lengths, resolve_vocabulary
from launch.model_section import check_same_model, read_model_section, write_model_section
from launch.phases import Phase, phases_of
from launch.report import write_report
from launch.run import Run, build_run, copy_tokenizer, environment
from launch.samples import write_samples

MOST_RANDOM = 0.65  # of segment pairs, before a warning
STOPPED = 75  # exit status: stopped by a signal with the state saved; the same command continues
log = logging.getLogger("bert_jax")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A phase with all that it is run with."""

    phase: Phase
    data: Data
    run: Run
    source: BatchSource
    evaluation: Callable[[TrainState], dict[str, float]] | None

    @property
    def config(self) -> dict:
        return self.phase.config


def pretrain(config: dict, workdir: Path, *, accept_changes: bool = False) -> int:
    """Trains to the end of the last phase; returns 0, or 75 after SIGTERM or SIGINT. Continues from the workdir's newest whole checkpoint.

    Everything that a config can get wrong is found before the workdir is touched.
    """
    if jax.process_count() > 1:
        raise ConfigError("pretraining on several processes is not there yet; run one process with all of a machine's devices")
    config, stages = make_stages(config)
    steps, data, run = stages[-1].phase.stop, stages[0].data, stages[0].run
    checkpoints = Checkpoints(workdir / "checkpoints", keep=config["checkpoint"]["keep"])
    dropout_key = make_dropout_key(config)
    check_continues(config, stages, workdir, accept_changes)

    workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir), jax.set_mesh(run.mesh):
        checkpoints.remove_partial()
        state, origin = first_state(config, run, checkpoints)
        start = int(state.step)
        copy_tokenizer(data.tokenizer_dir, workdir)
        configs.write_json(workdir / "config.json", config)
        configs.write_json(workdir / "data.json", {"fingerprint": fingerprint(stages)})
        configs.write_json(workdir / "environment.json", environment())
        write_model_section(workdir, config["model"])
        describe(config, stages, workdir, origin)
        run_log = RunLog(workdir, start)
        if start >= steps:
            log.info("the run is already at step %d of %d; nothing to do", start, steps)
        else:
            run_log.event(start, "resumed" if start else "started", origin)
        for stage in stages:
            if start >= stage.phase.stop:
                continue
            if stage.phase.number and int(state.step) == stage.phase.start:
                log.info("%s: %s", stage.phase, describe_phase(stage))
                run_log.event(stage.phase.start, "phase", f"{stage.phase.name}: {describe_phase(stage)}")
                state = enter_phase(state, stage)
            expected_first_loss = math.log(config["model"]["vocab_size"]) if origin == "fresh weights" and int(state.step) == 0 else None
            state, finished = train_stage(state, stage, config, steps, checkpoints, run_log, dropout_key, expected_first_loss)
            if not finished:
                return STOPPED
        if not run_log.has_event("finished", steps):  # also when a run was killed after its last checkpoint
            run_log.event(steps, "finished")
            write_samples(workdir, run.blueprint, state.params, data, step=steps)
            log.info("report: %s", write_report(workdir))
        run_log.close()
        log.info("checkpoint: %s", checkpoints.path(max(start, steps)))
    return 0


def make_stages(config: dict) -> tuple[dict, list[Stage]]:
    """The config as it is kept (vocabulary resolved, paths absolute), and its phases, each with its data, model, optimizer and batches."""
    stages = []
    config = resolve_lengths(config)
    for phase in phases_of(config):
        try:
            stages.append(make_stage(phase))
        except ValueError as error:
            if not phase.name:
                raise
            raise ConfigError(f"{phase}: {error}") from None
    first = stages[0]
    for stage in stages[1:]:
        if stage.data.tokenizer_hash != first.data.tokenizer_hash:
            raise ConfigError(f"{stage.phase} takes {stage.data}, which was prepared with another tokenizer than {first.data} of {first.phase}; prepare both with one")
    kept = config | {"model": first.config["model"], "data": config["data"] | {"path": first.config["data"]["path"]}}
    if config["phases"]:
        kept["phases"] = [
            changes | ({"data": changes["data"] | {"path": stage.data.absolute}} if "path" in changes.get("data", {}) else {})
            for changes, stage in zip(config["phases"], stages)
        ]
    return kept, stages


def make_stage(phase: Phase) -> Stage:
    data = open_data(phase.config)
    config = resolve_vocabulary(phase.config, data)
    run = build_run(config, data.special["mask"])
    source, evaluation = make_source(config, data, run.mesh), held_out_evaluation(config, run, data)
    warn_of_random_pairs(config, data, source)
    return Stage(dataclasses.replace(phase, config=config | {"data": config["data"] | {"path": data.absolute}}), data, run, source, evaluation)


def warn_of_random_pairs(config: dict, data: Data, source: BatchSource) -> None:
    """Where a sentence fills a segment pair there is nothing to follow it, and B is random: the labels are no longer even."""
    if data.recorded or config["data"]["sequences"] != "segment_pairs" or not config["model"].get("nsp"):
        return
    share = sum(part * source.sequences.labels.mean() for part, source in zip(data.shares, source.sources))
    if share > MOST_RANDOM:
        log.warning(
            "in %.0f%% of the segment pairs B is random, because documents or sentences are long or short for length %d: always saying so is right that often. "
            "Longer sequences, longer documents or data.sequences=sentence_order have even labels", 100 * share, config["length"],
        )


def fingerprint(stages: list[Stage]) -> str:
    """Of the data of all phases."""
    prints = list(dict.fromkeys(stage.data.fingerprint for stage in stages))
    return prints[0] if len(prints) == 1 else hashlib.sha256(",".join(prints).encode()).hexdigest()[:16]


def enter_phase(state: TrainState, stage: Stage) -> TrainState:
    """The state with which a phase begins: its optimizer state kept, kept with its counts at 0, or empty."""
    policy, tx = stage.phase.opt_state, stage.run.tx
    if policy == "keep":
        return state
    shardings = shardings_of(stage.run.abstract.opt_state)
    if policy == "reset":
        opt_state = jax.jit(tx.init, out_shardings=shardings)(state.params)
    else:
        opt_state = jax.tree.map_with_path(zero_if_count, state.opt_state)
    return dataclasses.replace(state, opt_state=opt_state)


def zero_if_count(path: tuple, leaf: jax.Array) -> jax.Array:
    """A step count of an optimizer's state anew, any other leaf as it is. Uncorrected Adam's state has no count."""
    return jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding) if getattr(path[-1], "name", None) == "count" else leaf


def train_stage(
    state: TrainState, stage: Stage, config: dict, steps: int, checkpoints: Checkpoints, run_log: RunLog, dropout_key: jax.Array, expected_first_loss: float | None
) -> tuple[TrainState, bool]:
    phase, run = stage.phase, stage.run
    train_step = make_train_step(
        run.blueprint, run.objective, run.tx, run.schedule, run.compute, run.abstract, run.mesh, accumulate=phase.config["accumulate"], first_step=phase.start
    )
    return fit(
        state, train_step=train_step, source=stage.source, evaluate=stage.evaluation, checkpoints=checkpoints, run_log=run_log, mesh=run.mesh,
        cadence=Cadence(phase.start, phase.stop, steps, config["log_every"], config["eval"]["every"], config["checkpoint"]["every"]),
        hardware=hardware(phase.config, run), key=dropout_key, expected_first_loss=expected_first_loss,
    )


@contextlib.contextmanager
def locked(workdir: Path):
    """Holds the workdir for this process; ConfigError if another run has it. The lock goes with the process, however it ends."""
    with open(workdir / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process is pretraining in {workdir}; wait for it, or use another --workdir") from None
        yield


def make_dropout_key(config: dict) -> jax.Array:
    try:
        return jax.random.key(config["seed"], impl=config["dropout_rng"])
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"seed {config['seed']} with dropout_rng {config['dropout_rng']!r} is no random key: {error}") from None


def check_continues(config: dict, stages: list[Stage], workdir: Path, accept_changes: bool) -> None:
    """ConfigError with every difference if the workdir holds another run, or a model that the config does not describe."""
    changes = []
    if (workdir / "config.json").exists() and Checkpoints(workdir / "checkpoints").steps():
        changes = configs.differences(configs.read_run_config(workdir), config)
        before = configs.read_json(workdir / "data.json").get("fingerprint")
        if before != fingerprint(stages):
            changes.append(f"data (fingerprint of its contents): {before} -> {fingerprint(stages)}")
    if changes and not accept_changes:
        raise ConfigError(
            f"{workdir} holds a run with another config:\n  " + "\n  ".join(changes) + "\n"
            "Use its config, or another --workdir, or --accept-changes to go on with the new one"
        )
    for change in changes:
        log.warning("continuing with a changed config: %s", change)
    if (workdir / "model.json").exists():
        check_same_model(read_model_section(workdir), config["model"], workdir)
        check_same_tokenizer(stages[0].data, workdir / "tokenizer")


def first_state(config: dict, run: Run, checkpoints: Checkpoints) -> tuple[TrainState, str]:
    """(state, where it came from): the newest checkpoint, imported weights, or a fresh initialisation."""
    step = checkpoints.newest(set_aside=True)
    if step is None:
        return init_state(run.blueprint, run.tx, run.abstract, jax.random.key(config["seed"])), "fresh weights"
    wanted = {"params": run.abstract.params, "opt_state": run.abstract.opt_state}
    held = checkpoints.restore(step, checkpoints.abstract(step, wanted))
    if "opt_state" not in held:
        return state_from_params(held["params"], run.tx, run.abstract), "imported weights"
    step_array = jax.device_put(np.int32(step), run.abstract.step.sharding)
    return TrainState(step_array, held["params"], held["opt_state"]), f"checkpoint of step {step}"


def held_out_evaluation(config: dict, run: Run, data: Data):
    """A function of the state giving held-out metrics, or None if too little text is held out. Every sequence counts at most once."""
    if data.recorded:
        log.warning("recorded batches have no held-out part: no evaluation")
        return None
    if not data.held_out:
        log.warning("no text is held out (see bert-jax prepare --holdout): no evaluation")
        return None
    for path in data.paths:
        if path not in data.held_out:
            log.warning("%s holds no held-out text and takes no part in the evaluation", path)
    shards = run.mesh.shape["data"] * run.mesh.shape["fsdp"]
    try:
        source = make_source(config, data, run.mesh, split="eval", batch_size=shards)
    except ValueError as error:
        log.warning("no evaluation: %s", error)
        return None
    sequences = min(config["eval"]["sequences"], source.num_sequences)
    batch_size = min(config["eval"]["batch_size"], sequences // shards * shards)
    if batch_size < 1:
        log.warning("no evaluation: %d sequence(s) are held out, fewer than there are devices (%d)", sequences, shards)
        return None
    source = make_source(config, data, run.mesh, split="eval", batch_size=batch_size)
    eval_step = make_eval_step(run.blueprint, run.objective, dataclasses.replace(run.compute, remat="none"), run.abstract.params, run.mesh)
    batches = sequences // batch_size
    if batches * batch_size < config["eval"]["sequences"]:
        shortest = min(source.sources, key=lambda part: len(part.sequences) / data.shares[data.paths.index(part.store.directory)])
        log.warning(
            "evaluating %d held-out sequences instead of eval.sequences=%d: %s has %d", batches * batch_size, config["eval"]["sequences"],
            shortest.store.directory, len(shortest.sequences),
        )
    return lambda state: evaluate(state.params, eval_step, source.batches(0, batches), run.mesh, baseline_token=data.baseline_token)


def hardware(config: dict, run: Run) -> Hardware:
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    flops = model_flops(run.blueprint.spec, config["length"], config["masking"]["predictions"])
    return Hardware(flops, peak * jax.device_count() if peak else None)


def describe(config: dict, stages: list[Stage], workdir: Path, origin: str) -> None:
    """The lines a person sees before the first step."""
    model, run = config["model"], stages[0].run
    log.info(
        "%s: %d layers x %d, vocabulary %s, %.1fM parameters", model["family"], model["num_layers"], model["hidden_size"],
        f"{model['vocab_size']:,}", run.blueprint.num_params / 1e6,
    )
    log.info("%s device(s), mesh %s, %s", jax.device_count(), dict(run.mesh.shape), run.compute.dtype)
    for stage in stages:
        log.info("%s: %s", stage.phase, describe_phase(stage))
    log.info("workdir %s: starting from %s", workdir, origin)


def describe_phase(stage: Stage) -> str:
    config, data = stage.config, stage.data
    sources = ""
    if len(data.paths) > 1:
        sources = " (" + ", ".join(f"{name} {share:.1%}" for name, share in zip(stage.source.source_names, data.shares)) + ")"
    return (
        f"steps {stage.phase.start:,} to {stage.phase.stop:,}, batches of {config['batch_size']:,} x {config['length']}, {config['data']['sequences']}, "
        f"masking {config['masking']['choice']} at {config['masking']['rate']:.0%}, from {data}{sources}"
    )
