"""`bert-jax pretrain`: builds a run from its config, starts or continues it in a workdir, and writes the report at the end."""

import contextlib
import dataclasses
import hashlib
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from bert_jax.processes import from_first, is_first, whole
from bert_jax.sharding import make_mesh, replicated
from bert_jax.training import wandb_tracker
from bert_jax.training.bad_steps import Limits
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.loop import BatchSource, Cadence, fit
from bert_jax.training.profile import Profiler, ProfileSteps
from bert_jax.training.progress import Hardware
from bert_jax.training.replay import check_replay
from bert_jax.training.run_log import RunLog, SilentLog
from bert_jax.training.state import TrainState, Tree, saved_trees, shardings_of, state_from_params, state_of
from bert_jax.training.stop import Interrupted
from launch import config as configs
from launch.config import ConfigError
from launch.data import Data, check_same_tokenizer, make_source, open_data, resolve_lengths, resolve_vocabulary
from launch.downstream import Downstream, open_downstream
from launch.exit_codes import STOPPED
from launch.held_out import held_out_evaluation
from launch.model_section import check_same_model, read_model_section, write_model_section
from launch.oversight import Oversight
from launch.phases import Phase, phases_of
from launch.report.report import write_report
from launch.report.run_texts import config_table, data_table, samples_table
from launch.report.samples import write_samples
from launch.run import Run, attention_in_words, build_run, copy_tokenizer, environment, fresh_state, step_of
from launch.teacher import open_teacher, place_teacher
from launch.workdir_lock import locked

MOST_RANDOM = 0.65  # of segment pairs, before a warning
log = logging.getLogger("bert_jax")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A phase with all that it is run with."""

    phase: Phase
    data: Data
    run: Run
    source: BatchSource
    evaluation: Callable[..., dict[str, float]] | None
    limits: Limits

    @property
    def config(self) -> dict:
        return self.phase.config


def pretrain(
    config: dict, workdir: Path, oversight: Oversight, *, accept_changes: bool = False, check_determinism: bool = False, profile_steps: ProfileSteps | None = None,
    wandb_project: str | None = None,
) -> int:
    """Trains to the end of the last phase; returns 0, or 75 after SIGTERM or SIGINT. Continues from the workdir's newest whole checkpoint.

    check_determinism: make the next step twice before going on, here and where a phase begins; NotDeterministic if the bits differ.
    profile_steps: which updates to trace into WORKDIR/profile. wandb_project: where to log besides the workdir.

    Everything that a config can get wrong is found before the workdir is touched.
    """
    oversight.watch.begins("opening the data", slow=True)
    config, stages = make_stages(config)
    steps, data, run = stages[-1].phase.stop, stages[0].data, stages[0].run
    saving = config["checkpoint"]
    checkpoints = Checkpoints(workdir / "checkpoints", keep=saving["keep"], keep_every=saving["keep_every"], keep_best=saving["keep_best"])
    dropout_key = make_dropout_key(config)
    if wandb_project is not None:
        wandb_tracker.load()
    from_first(lambda: check_continues(config, stages, workdir, accept_changes))
    teacher = open_teacher(config, data)
    downstream = open_downstream(config, run, steps, data.tokenizer_dir, workdir, oversight)

    with locked(workdir), jax.set_mesh(run.mesh), contextlib.ExitStack() as opened:
        oversight.holds(lambda: max(checkpoints.steps(), default=None))
        oversight.watch.begins("restoring", slow=True)
        checkpoints.remove_partial()
        frozen = () if teacher is None else (place_teacher(teacher, *run.frozen, workdir, begun=bool(checkpoints.steps())),)
        state, origin = first_state(config, run, checkpoints, frozen)
        start = oversight.watch.step = int(state.step)
        if is_first():
            copy_tokenizer(data.tokenizer_dir, workdir)
            configs.write_json(workdir / "config.json", config)
            configs.write_json(workdir / "data.json", {"fingerprint": fingerprint(stages)})
            configs.write_json(workdir / "environment.json", environment())
            write_model_section(workdir, config["model"])
        describe(config, stages, workdir, origin)
        run_log = opened.enter_context(open_log(workdir, start, config, wandb_project if start < steps else None))
        if start >= steps:
            log.info("the run is already at step %d of %d; nothing to do", start, steps)
        else:
            run_log.event(start, "resumed" if start else "started", origin)
            run_log.text(start, "config", config_table(config))
            run_log.text(start, "data", data_table(((str(stage.phase), describe_phase(stage)) for stage in stages), fingerprint(stages)))
        tried = downstream is not None and downstream.pending(start, run_log)
        if tried:
            try:
                downstream(state, run_log)
            except Interrupted:
                run_log.event(start, "stopped", oversight.stop.signal)
                return STOPPED.status
        profiler = Profiler(workdir / "profile", profile_steps)
        for stage in stages:
            if start >= stage.phase.stop:
                continue
            if stage.phase.number and int(state.step) == stage.phase.start:
                log.info("%s: %s", stage.phase, describe_phase(stage))
                run_log.event(stage.phase.start, "phase", f"{stage.phase.name}: {describe_phase(stage)}")
                state = enter_phase(state, stage)
            expected_first_loss = math.log(config["model"]["vocab_size"]) if origin == "fresh weights" and int(state.step) == 0 else None
            state, finished = train_stage(state, frozen, stage, config, steps, checkpoints, run_log, dropout_key, profiler, oversight, downstream, expected_first_loss, check_determinism)
            if not finished:
                return STOPPED.status
        oversight.watch.begins("the report", slow=True)
        if tried or not from_first(lambda: run_log.has_event("finished", steps)):  # also when a run was killed after its last checkpoint
            finish(workdir, stages[-1].run, state, data, steps, run_log)
        log.info("checkpoint: %s", checkpoints.path(max(start, steps)))
    return 0


def open_log(workdir: Path, start: int, config: dict, wandb_project: str | None) -> RunLog:
    """One process writes the log of a run. It is to be closed."""
    if not is_first():
        return SilentLog()
    return RunLog(workdir, start, trackers=[wandb_tracker.WandbTracker(workdir, wandb_project, config)] if wandb_project else [])


def finish(workdir: Path, run: Run, state: TrainState, data: Data, steps: int, run_log: RunLog) -> None:
    """Samples and the report, by the first process; the others wait, so that all end together."""
    params = whole(state.params, replicated(run.mesh))

    def write() -> None:
        run_log.event(steps, "finished")
        with jax.set_mesh(make_mesh(devices=jax.local_devices()[:1])) if jax.process_count() > 1 else contextlib.nullcontext():
            write_samples(workdir, run.blueprint, params, data, step=steps)
        if samples := samples_table(workdir):
            run_log.text(steps, "samples", samples)
        log.info("report: %s", write_report(workdir))

    from_first(write)


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
        check_same_parameters(first, stage)
        if stage.limits.relative != first.limits.relative:
            raise ConfigError(
                f"{stage.phase} and {first.phase} do not both have bad_steps.loss_times or bad_steps.grad_norm_times; what is usual is kept through all phases or "
                "none: set one in each, if need be to a number that nothing reaches"
            )
    kept = config | {
        "model": config["model"] | {"vocab_size": first.config["model"]["vocab_size"]}, "data": config["data"] | {"path": first.config["data"]["path"]},
    }
    if "teacher" in config:
        path = config["teacher"]["path"]
        kept["teacher"] = first.config["teacher"] | {"path": os.path.abspath(path) if path else ""}
    if config["phases"]:
        kept["phases"] = [
            changes | ({"data": changes["data"] | {"path": stage.data.absolute}} if "path" in changes.get("data", {}) else {})
            for changes, stage in zip(config["phases"], stages)
        ]
    return kept, stages


def check_same_parameters(first: Stage, stage: Stage) -> None:
    """ConfigError naming the fields of the model that a phase changes, if its parameters are then others than the first phase's."""
    shapes = [jax.tree.map(lambda leaf: leaf.shape, each.run.abstract.params) for each in (first, stage)]
    if shapes[0] == shapes[1]:
        return
    before, after = first.config["model"], stage.config["model"]
    fields = [f"model.{name}={after[name]} (before: {before[name]})" for name in after if after[name] != before[name]]
    raise ConfigError(f"{stage.phase} has {', '.join(fields)}, which makes other parameters than those of {first.phase}; take it out of the phase")


def make_stage(phase: Phase) -> Stage:
    data = open_data(phase.config)
    config = resolve_vocabulary(phase.config, data)
    run = build_run(config, data.special["mask"])
    source, evaluation = make_source(config, data, run.mesh), held_out_evaluation(config, run, data)
    warn_of_random_pairs(config, data, source)
    whole = dataclasses.replace(phase, config=config | {"data": config["data"] | {"path": data.absolute}})
    return Stage(whole, data, run, source, evaluation, Limits(**config["bad_steps"]))


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
    state: TrainState, frozen: tuple[Tree, ...], stage: Stage, config: dict, steps: int, checkpoints: Checkpoints, run_log: RunLog, dropout_key: jax.Array,
    profiler: Profiler, oversight: Oversight, downstream: Downstream | None, expected_first_loss: float | None, check_determinism: bool,
) -> tuple[TrainState, bool]:
    phase, run, saving = stage.phase, stage.run, config["checkpoint"]
    by_size = {part.batch_size: step_of(run, accumulate=part.accumulate, first_step=phase.start, limits=stage.limits) for part in phase.batch_stages}

    def last_good() -> TrainState:
        state, _ = first_state(config, run, checkpoints, frozen)
        return enter_phase(state, stage) if phase.number and int(state.step) == phase.start else state

    def train_step(state: TrainState, batch: dict[str, jax.Array], key: jax.Array):
        return by_size[len(batch["input_ids"])](state, batch, key, *frozen)

    if check_determinism:
        oversight.watch.begins("making a step twice", slow=True)
        position = int(state.step) - phase.start
        verdict = check_replay(state, train_step, lambda: next(iter(stage.source.batches(position, position + 1))), run.mesh, dropout_key)
        log.info("deterministic: %s", verdict)
        run_log.event(int(state.step), "deterministic", verdict)

    return fit(
        state, train_step=train_step, source=stage.source, evaluate=stage.evaluation, checkpoints=checkpoints, run_log=run_log, mesh=run.mesh,
        cadence=Cadence(
            phase.start, phase.stop, steps, config["log_every"], config["eval"]["every"], saving["every"], saving["keep_every"], saving["minutes"]
        ),
        hardware=Hardware.here(run.flops(phase.config)), key=dropout_key, profiler=profiler, stop=oversight.stop, watch=oversight.watch, last_good=last_good, limits=stage.limits,
        expected_first_loss=expected_first_loss, trials=downstream,
    )


def make_dropout_key(config: dict) -> jax.Array:
    try:
        return jax.random.key(config["seed"])
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"seed is {config['seed']}, which is no random key: {error}") from None


def check_continues(config: dict, stages: list[Stage], workdir: Path, accept_changes: bool) -> None:
    """ConfigError with every difference if the workdir holds another run, or a model that the config does not describe."""
    changes = []
    if (workdir / "model.json").exists():
        check_same_tokenizer(stages[0].data, workdir / "tokenizer")  # which nothing allows
    if (workdir / "config.json").exists() and Checkpoints(workdir / "checkpoints").steps():
        old = configs.read_run_config(workdir)
        changes = configs.differences(old, config)
        before, now = configs.read_json(workdir / "data.json").get("fingerprint"), fingerprint(stages)
        if before != now:
            changes.append(f"the text itself: fingerprint {before} (of {old['data']['path']}) -> {now} (of {config['data']['path']})")
    if changes and not accept_changes:
        raise ConfigError(
            f"{workdir} holds a run with another config:\n  " + "\n  ".join(changes) + "\n"
            "Use its config, or another --workdir, or --accept-changes to go on with the new one"
        )
    for change in changes:
        log.warning("continuing with a changed config: %s", change)
    if (workdir / "model.json").exists():
        check_same_model(read_model_section(workdir), config["model"], workdir)


def first_state(config: dict, run: Run, checkpoints: Checkpoints, frozen: tuple[Tree, ...]) -> tuple[TrainState, str]:
    """(state, where it came from): the newest checkpoint, imported weights, or a fresh initialisation. frozen: a teacher's parameters, if there is one."""
    found = checkpoints.restore_newest(saved_trees(run.abstract))
    if found is None:
        return fresh_state(config, run, frozen)
    step, held = found
    if "opt_state" not in held:
        return state_from_params(held["params"], run.tx, run.abstract), "imported weights"
    return state_of(step, held, run.abstract), f"checkpoint of step {step}"


def describe(config: dict, stages: list[Stage], workdir: Path, origin: str) -> None:
    """The lines a person sees before the first step."""
    model, run = config["model"], stages[0].run
    log.info(
        "%s: %d layers x %d, vocabulary %s, %.1fM parameters", model["family"], model["num_layers"], model["hidden_size"],
        f"{model['vocab_size']:,}", run.blueprint.num_params / 1e6,
    )
    attention = attention_in_words(
        config["compute"]["attention"], run.compute, run.blueprint.spec.encoder.kinds, [stage.config["length"] for stage in stages], run.mesh.devices.flat[0].device_kind
    )
    log.info("%s device(s), mesh %s, %s, attention by %s", jax.device_count(), dict(run.mesh.shape), run.compute.dtype, attention)
    for stage in stages:
        log.info("%s: %s", stage.phase, describe_phase(stage))
    log.info("workdir %s: starting from %s", workdir, origin)


def describe_phase(stage: Stage) -> str:
    config, data, parts = stage.config, stage.data, stage.phase.batch_stages
    ramp = "".join(f"{part.batch_size:,}, from step {part.stop:,} on " for part in parts[:-1])
    sources = ""
    if len(data.paths) > 1:
        sources = " (" + ", ".join(f"{name} {share:.1%}" for name, share in zip(stage.source.source_names, data.shares)) + ")"
    return (
        f"steps {stage.phase.start:,} to {stage.phase.stop:,}, batches of {ramp}{parts[-1].batch_size:,} x {config['length']}, {config['data']['sequences']}, "
        f"masking {config['masking']['choice']} at {config['masking']['rate']:.0%}, from {data}{sources}"
    )
