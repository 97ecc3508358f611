"""`bert-jax finetune`: from a pretrained model and a task's config to scored models, one for each seed.

    WORKDIR/config.json, task.json, model.json, tokenizer/, data.json, environment.json
    WORKDIR/seeds/SEED/checkpoints, metrics.jsonl, tensorboard     a run, as of pretraining
    WORKDIR/seeds/SEED/scores.json, outcome.json, predictions-*.jsonl    of its best checkpoint; the run is over
    WORKDIR/scores.json, report.html                               of all seeds
"""

import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import jax

from bert_jax.model.adapter_spec import LoraSpec
from bert_jax.processes import from_first, is_first
from bert_jax.sharding import process_rows
from bert_jax.training.bad_steps import Limits
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.checkpoint_files import better
from bert_jax.training.digests import digest_of_all
from bert_jax.training.loop import Cadence, fit
from bert_jax.training.profile import Profiler
from bert_jax.training.run_log import RunLog, SilentLog, read_records
from bert_jax.training.state import TrainState, saved_trees, shardings_of, state_from_params, state_of
from data_pipeline.tasks.batches import TaskBatches
from launch import config as configs
from launch.config import ConfigError
from launch.exit_codes import STOPPED
from launch.finetune import outcome
from launch.finetune.at_once import InTurns, at_once, parts_of_devices
from launch.finetune.fields import FINETUNING
from launch.finetune.job import Job, make_job, resolve_steps, task_of
from launch.finetune.predict import write_predictions
from launch.finetune.scoring import check_libraries, metric_names, metrics_of, shown
from launch.finetune.seeds import summary, table, write_summary
from launch.finetune.sets import TaskSets, open_sets
from launch.finetune.start import start_params
from launch.load_model import LoadedModel, load_model
from launch.model_section import write_model_section
from launch.oversight import Oversight
from launch.report.report import write_report
from launch.run import copy_tokenizer, environment
from launch.workdir_lock import locked

FIRST_WRITTEN = (".lock", "tokenizer", "config.json")  # what a run that was killed at once may have left
log = logging.getLogger("bert_jax")


class Enough(Exception):
    """A run ends before its last step, for eval.patience is over."""


def finetune(config: dict, init: Path, workdir: Path, oversight: Oversight, *, accept_changes: bool = False) -> int:
    """Trains and scores a model for each of the config's seeds; returns 0, or 75 after SIGTERM or SIGINT. Continues what the workdir holds.

    init: a workdir or an exported model, whose encoder is trained on. Everything that a config can get wrong is found before the workdir is touched.
    """
    oversight.watch.begins("opening the pretrained model", slow=True)
    pretrained = load_model(init).encoder_alone()
    pretrained = dataclasses.replace(pretrained, params=jax.device_get(pretrained.params))  # devices have the memory for what is trained
    return finetune_model(config, pretrained, workdir, oversight, accept_changes=accept_changes)


def prepare(config: dict, pretrained: LoadedModel) -> tuple[Job, TaskSets, tuple[int, ...]]:
    """What all seeds share; the job's config is the resolved one. Of the pretrained model only its sizes and its tokenizer are read."""
    if pretrained.task is not None and pretrained.task.adapter is not None:
        raise ConfigError(f"--init={pretrained.origin} was trained with bottleneck adapters, which no other training goes on with; give the pretrained model that they were added to")
    sets = open_sets(config, pretrained.tokenizer())
    config = resolve_steps(config, len(sets.train.features))
    config |= {"task": config["task"] | {"metric": metric_of(config, sets)}}
    check_libraries(task_of(config, sets))
    return make_job(config, pretrained.section, sets, parts_of_devices(config["mesh"]["seeds"])[0]), sets, seeds_of(config)


def finetune_model(config: dict, pretrained: LoadedModel, workdir: Path, oversight: Oversight, *, accept_changes: bool = False, keep_models: bool = True) -> int:
    """`finetune` of a model that is open, whose encoder stands alone. keep_models: False deletes the checkpoints of a seed once it is scored."""
    oversight.watch.begins("opening the data", slow=True)
    job, sets, seeds = prepare(config, pretrained)
    config = job.config
    facts = {"fingerprint": sets.fingerprint, "init": digest_of_all(pretrained.params), "sets": outcome.facts_of_sets(sets)}
    from_first(lambda: check_continues(config, facts, workdir, accept_changes))

    with locked(workdir), jax.set_mesh(job.mesh):
        if is_first():
            copy_tokenizer(pretrained.tokenizer_dir, workdir)
            configs.write_json(workdir / "config.json", config)
            configs.write_json(workdir / "data.json", facts)
            configs.write_json(workdir / "environment.json", environment())
            write_model_section(workdir, job.model)
            job.task.write(workdir)
        describe(job, pretrained, sets, workdir)

        def run_seed(job: Job, seed: int, oversight: Oversight) -> bool:
            place = workdir / "seeds" / str(seed)
            if not from_first(lambda: (place / "scores.json").is_file()):
                if not train_seed(job, pretrained, sets, seed, place, oversight):
                    return False
                oversight.watch.begins(f"the scores of seed {seed}", slow=True)
                score_seed(job, sets, seed, place)
            if is_first() and not keep_models:
                shutil.rmtree(place / "checkpoints", ignore_errors=True)
            return True

        if config["mesh"]["seeds"] == 1:
            finished = all(run_seed(job, seed, oversight) for seed in seeds)
        else:
            others = parts_of_devices(config["mesh"]["seeds"])[1 : len(seeds)]
            jobs = [job, *(make_job(config, pretrained.section, sets, devices) for devices in others)]
            finished = at_once(run_seed, jobs, seeds, oversight)
        if not finished:
            return STOPPED.status
        if is_first():
            write_summary(workdir, config["task"]["metric"], seeds)
            print(table(summary(workdir)))
            log.info("report: %s", write_report(workdir))
    return 0


def seeds_of(config: dict) -> tuple[int, ...]:
    seeds = tuple(config["seeds"])
    if not seeds or any(int(seed) != seed or not 0 <= seed < 2**31 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds is {seeds}; give different whole numbers, one for each run, such as 0,1,2")
    return tuple(map(int, seeds))


def metric_of(config: dict, sets: TaskSets) -> str:
    """task.metric, or the first of the kind's. ConfigError if evaluations do not give it."""
    known, stated = metric_names(task_of(config, sets)), config["task"]["metric"]
    if stated and stated not in known:
        raise ConfigError(f"task.metric is {stated!r}; this task of kind {config['task']['kind']} has {', '.join(known)}")
    return stated or known[0]


def check_continues(config: dict, facts: dict, workdir: Path, accept_changes: bool) -> None:
    """ConfigError with every difference if the workdir holds another run."""
    if not (workdir / "data.json").exists():
        if workdir.exists() and not (workdir / "task.json").exists():
            if not all(path.name in FIRST_WRITTEN or path.name.startswith(("exit_reason", "stacks-")) or path.suffix == ".tmp" for path in workdir.iterdir()):
                raise ConfigError(f"{workdir} is not empty, and no workdir of `bert-jax finetune`; give a new --workdir")
        return
    changes = configs.differences(configs.read_run_config(workdir, FINETUNING), config)
    before = configs.read_json(workdir / "data.json")
    names = {"fingerprint": "data (fingerprint of its contents)", "init": "--init (digest of its parameters)"}
    changes += [f"{name}: {before.get(fact)} -> {facts[fact]}" for fact, name in names.items() if before.get(fact) != facts[fact]]
    if changes and not accept_changes:
        raise ConfigError(
            f"{workdir} holds runs with another config:\n  " + "\n  ".join(changes) + "\n"
            "Use its config, or another --workdir, or --accept-changes to go on with the new one"
        )
    for change in changes:
        log.warning("continuing with a changed config: %s", change)


def describe(job: Job, pretrained: LoadedModel, sets: TaskSets, workdir: Path) -> None:
    """The lines a person sees before the first step."""
    log.info("%s with a head for %s, %.1fM parameters, from %s", job.model["family"], job.task.kind, job.blueprint.num_params / 1e6, pretrained.origin)
    if (trained := job.blueprint.num_trained) < (total := job.blueprint.num_params):
        log.info("trained: %s of %s parameters (%.2f%%), %s", f"{trained:,}", f"{total:,}", 100 * trained / total, described(job))
    if sets.labels:
        log.info("%d labels: %s%s", len(sets.labels), ", ".join(sets.labels[:8]), ", ..." if len(sets.labels) > 8 else "")
    for name, part in (("training", sets.train), ("evaluation", sets.eval), ("test", sets.test)):
        if part is not None:
            log.info("%-10s %s examples, %s rows, mean length %.0f, from %s", name, f"{len(part.examples):,}", f"{len(part.features):,}", part.features.lengths().mean(), part.source)
    log.info("seeds %s, each %s steps of %d rows; workdir %s", ", ".join(map(str, seeds_of(job.config))), f"{job.config['steps']:,}", job.config["batch_size"], workdir)


def described(job: Job) -> str:
    """What is trained, where not all is."""
    adapter, freeze = job.blueprint.spec.encoder.adapter, job.config["freeze"]
    if isinstance(adapter, LoraSpec):
        return f"LoRA of rank {adapter.rank} on {', '.join(adapter.targets)}, and the head"
    if adapter is not None:
        return f"adapters of size {adapter.size} behind {' and '.join(adapter.places)}, norms, and the head"
    return "the head" if freeze == "encoder" else f"all but the {'embeddings' if freeze == 'embeddings' else f'lowest {freeze}, and the embeddings'}"


def train_seed(job: Job, pretrained: LoadedModel, sets: TaskSets, seed: int, place: Path, oversight: Oversight) -> bool:
    """Whether the run came to its end, by its steps or its patience. False after SIGTERM or SIGINT, with the state saved."""
    config, metric = job.config, job.config["task"]["metric"]
    log.info("seed %d", seed)
    checkpoints = checkpoints_of(job, place)
    key = jax.random.key(seed)
    oversight.holds(lambda: max(checkpoints.steps(), default=None))
    oversight.watch.begins("restoring", slow=True)
    checkpoints.remove_partial()

    def first_state() -> TrainState:
        found = checkpoints.restore_newest(saved_trees(job.abstract))
        if found is None:
            params = jax.device_put(start_params(pretrained, job.blueprint, jax.random.fold_in(key, 1)), shardings_of(job.abstract.params))
            return state_from_params(params, job.tx, job.abstract, job.blueprint.trained)
        step, held = found
        return state_of(step, held, job.abstract)

    state = first_state()
    start = oversight.watch.step = int(state.step)
    place.mkdir(parents=True, exist_ok=True)
    patience = Patience(metric, config["eval"]["patience"], earlier_scores(place, start, metric))

    def evaluate(state: TrainState, after_batch: Callable[[], None]) -> dict[str, float]:
        values = metrics_of(job.task, job.predictor.scores(state.params, sets.eval.features, sets.lengths, after_batch), sets.eval)
        patience.scores.append(values[metric])
        return values

    with RunLog(place, start) if is_first() else SilentLog() as run_log:
        if start >= config["steps"]:
            return True
        run_log.event(start, "resumed" if start else "started", pretrained.origin)
        every = config["eval"]["every"]
        try:
            _, finished = fit(
                state, train_step=job.train_step, source=Source(job, sets, seed, patience), evaluate=evaluate, checkpoints=checkpoints, run_log=run_log, mesh=job.mesh,
                cadence=Cadence(0, config["steps"], config["steps"], config["log_every"], every, every), hardware=None, key=jax.random.fold_in(key, 2),
                profiler=Profiler(place / "profile", None), stop=oversight.stop, watch=oversight.watch, last_good=first_state, limits=Limits(**config["bad_steps"]),
                check_batch=lambda batch: None, describe=lambda step, values: f"step {step:>7,}  {shown(values)}",
            )
        except Enough:
            log.info("seed %d ends here: %d evaluations without a better %s", seed, patience.limit, metric)
            return True
    return finished


class Patience:
    """Evaluations since the best one. limit: how many are too many; 0: none are."""

    def __init__(self, metric: str, limit: int, scores: list[float]):
        self.metric, self.limit, self.scores = metric, limit, scores

    @property
    def over(self) -> bool:
        if not self.limit or not self.scores:
            return False
        good = [better(self.metric, score) for score in self.scores]
        return len(good) - 1 - good.index(max(good)) >= self.limit


def earlier_scores(place: Path, step: int, metric: str) -> list[float]:
    """Of the evaluations up to this step, before the run was started again."""
    records = read_records(place / "metrics.jsonl")
    return [record[metric] for record in records if record["split"] == "eval" and record["step"] <= step]


class Source:
    """Training batches as `fit` takes them: this process's rows of each."""

    source_names: tuple[str, ...] = ()

    def __init__(self, job: Job, sets: TaskSets, seed: int, patience: Patience):
        size = job.config["batch_size"]
        self.patience = patience
        self.built = TaskBatches(sets.train.features, batch_size=size, lengths=sets.lengths, seed=seed, rows=process_rows(job.mesh, size))

    def batches(self, start_step: int, stop_step: int | None = None):
        for batch in self.built.batches(start_step, stop_step):
            if self.patience.over:  # known since the last evaluation, whose checkpoint is saved by now
                raise Enough
            yield batch


def score_seed(job: Job, sets: TaskSets, seed: int, place: Path) -> None:
    """Writes the scores and predictions of the run's best checkpoint."""
    checkpoints = checkpoints_of(job, place)
    step = from_first(checkpoints.files.best)
    step = checkpoints.choose(step)
    params = checkpoints.restore(step, {"params": job.abstract.params})["params"]
    record: dict = {"seed": seed, "step": step}
    for name, part in (("eval", sets.eval), ("test", sets.test)):
        if part is None:
            continue
        scores = job.predictor.scores(params, part.features, sets.lengths)
        record[name] = metrics_of(job.task, scores, part)
        log.info("seed %d, %s, step %d: %s", seed, name, step, shown(record[name]))
        if is_first():
            write_predictions(place / f"predictions-{name}.jsonl", job.task, scores, part)
            if name == "eval":
                configs.write_json(place / outcome.NAME, outcome.outcome_of(job.task, scores, sets))
    if is_first():
        configs.write_json(place / "scores.json", record)


def checkpoints_of(job: Job, place: Path) -> Checkpoints:
    kind = Checkpoints if job.config["mesh"]["seeds"] == 1 else InTurns
    return kind(place / "checkpoints", keep=job.config["checkpoint"]["keep"], keep_best=job.config["task"]["metric"])
