"""Trials of a pretraining run: at the steps that its config names, the parameters as they are then are fine-tuned and scored on downstream tasks.

    WORKDIR/downstream/step_00010000/TASK/...     each as `bert-jax finetune` leaves it, but without the trained models
    WORKDIR/downstream/step_00010000/table.json, report.html

In go the run's config and state; out come those files and lines of metrics.jsonl. The run waits meanwhile, and keeps its own state on its devices; a trial reads a
copy of the parameters, so that the run goes on with the bits that it would have had.
"""

import dataclasses
import gc
import json
import logging
import math
import shlex
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from bert_jax.interop import architectures
from bert_jax.processes import from_first, is_first, whole
from bert_jax.sharding import replicated
from bert_jax.training.digests import digest_of_all
from bert_jax.training.run_log import RunLog
from bert_jax.training.state import Blueprint, TrainState
from bert_jax.training.stop import Interrupted, StopRequest
from bert_jax.training.watch import Watch
from launch import config as configs
from launch.config import ConfigError
from launch.exit_codes import NO_SPACE, STORAGE
from launch.finetune.fields import FINETUNING
from launch.finetune.finetune import finetune_model, prepare
from launch.finetune.seeds import GLUE, score_of, spread_of, summary
from launch.load_model import LoadedModel
from launch.model_section import read_model_section
from launch.oversight import Oversight, code_of
from launch.report.report import write_report
from launch.run import Run

EVENT = "downstream"
log = logging.getLogger("bert_jax")


@dataclasses.dataclass(frozen=True)
class Task:
    """fingerprint: of its data. train, eval: how many examples there are to train on and to score."""

    config: dict[str, Any]
    fingerprint: str
    train: int
    eval: int

    def __str__(self) -> str:
        return f"{self.train:,} examples to train on, {self.eval:,} to score"


class Downstream:
    """`bert_jax.training.loop.Trials` of a run. steps: with a trial. tasks: by name."""

    def __init__(self, steps: list[int], tasks: dict[str, Task], run: Run, workdir: Path, oversight: Oversight):
        self.steps, self.tasks, self.run, self.workdir, self.oversight = frozenset(steps), tasks, run, workdir, oversight

    def due(self, step: int) -> bool:
        return step in self.steps

    def pending(self, step: int, run_log: RunLog) -> bool:
        """Whether the run was stopped before the trial of this step had ended."""
        return self.due(step) and not from_first(lambda: run_log.has_event(EVENT, step))

    def __call__(self, state: TrainState, run_log: RunLog) -> None:
        step = int(state.step)
        place = self.workdir / "downstream" / f"step_{step:08d}"
        inside = Inside(self.oversight, f"downstream tasks of step {step}")
        inside.watch.begins("copying the parameters", slow=True)
        params = jax.device_get(whole(state.params, replicated(self.run.mesh)))
        section = read_model_section(self.workdir, step)
        pretrained = LoadedModel(section, self.run.blueprint, params, self.workdir / "tokenizer", f"{self.workdir} at step {step}", step).encoder_alone()
        made_of = {
            "init": digest_of_all(pretrained.params), "tasks": {name: task.config for name, task in self.tasks.items()},
            "data": {name: task.fingerprint for name, task in self.tasks.items()},
        }
        from_first(lambda: begin_anew(place, made_of))
        found, failed = {}, {}
        for name, task in self.tasks.items():
            log.info("step %d: %s", step, name)
            try:
                if finetune_model(task.config, pretrained, place / name, inside, keep_models=False):
                    raise Interrupted
                found[name] = from_first(lambda: summary(place / name))
            except Interrupted:
                raise
            except Exception as error:  # of the task alone: it diverged, or there was no memory for it beside the run
                if code_of(error, several=False) in (NO_SPACE, STORAGE):  # the run would meet it too
                    raise
                log.warning("step %d: %s has no score: %s", step, name, error)
                failed[name] = f"{name}: {type(error).__name__}: {error}"
                inside.watch.unsaved = False
                from_first(lambda: forget_models(place / name))
        if found and is_first():
            configs.write_json(place / "table.json", {name: one["eval"] for name, one in found.items()})
            write_report(place)
        if found:
            scores = scores_to_log(found, whole_suite=not failed)
            run_log.write("downstream", step, scores)
            log.info("step %d, downstream: %s", step, "  ".join(f"{name.removesuffix('/score')} {scores[name]:.4f}" for name in scores if name.endswith(("/score", "average"))))
        run_log.event(step, EVENT, "; ".join(failed.values()))
        del params, pretrained
        gc.collect()  # what is compiled, and the arrays that it holds, lie in cycles


def forget_models(place: Path) -> None:
    for checkpoints in place.glob("seeds/*/checkpoints"):
        shutil.rmtree(checkpoints, ignore_errors=True)


def scores_to_log(found: dict[str, dict], *, whole_suite: bool) -> dict[str, float]:
    """found: the `summary` of each task. Their scores as in GLUE's table with their spread over seeds, every metric, and of the whole suite the average over tasks. What is not
    defined (a correlation with a constant) is left out."""
    scores = {}
    for name, one in found.items():
        scores |= {f"{name}/score": score_of(name, one), f"{name}/std": spread_of(name, one)}
        scores |= {f"{name}/{metric}": spread["mean"] for metric, spread in one["eval"].items()}
    if whole_suite:
        scores["average"] = statistics.fmean(score_of(name, one) for name, one in found.items())
    return {name: score for name, score in scores.items() if math.isfinite(score)}


def begin_anew(place: Path, made_of: dict[str, Any]) -> None:
    """What an earlier start left of the step is of use if it began with the same parameters, configs and data."""
    path = place / "made_of.json"
    plain = json.loads(json.dumps(made_of))
    if path.is_file() and configs.read_json(path) == plain:
        return
    if place.exists():
        log.warning("%s began with other parameters, configs or data, and begins anew", place)
        shutil.rmtree(place)
    place.mkdir(parents=True)
    configs.write_json(path, plain)


def open_downstream(config: dict[str, Any], run: Run, last: int, tokenizer_dir: Path | None, workdir: Path, oversight: Oversight) -> Downstream | None:
    """None if the config has no trials. config: resolved. last: step of the run. All that cannot be is found before the run: ConfigError or ImportError."""
    steps = steps_of(config["downstream"], last)
    if not steps:
        return None
    return Downstream(steps, open_tasks(config, run, tokenizer_dir, oversight.watch), run, workdir, oversight)


def open_tasks(config: dict[str, Any], run: Run, tokenizer_dir: Path | None, watch: Watch) -> dict[str, Task]:
    """By name. Opens the data of every task once, and keeps none."""
    if jax.process_count() > 1:
        raise ConfigError(
            f"downstream trials need one process, and this run has {jax.process_count()}; set --config.downstream.every=0 --config.downstream.steps= and keep checkpoints "
            "(checkpoint.keep_every), which bert-jax glue and finetune take one by one"
        )
    tasks = {}
    for name, task in configs_of(config["downstream"]).items():
        watch.begins(f"opening the data of the downstream task {name}", slow=True)
        try:
            alone = section_alone(config["model"], run.blueprint)
            _, sets, _ = prepare(task, LoadedModel(alone, run.blueprint, {}, tokenizer_dir, "the run's data", None))
        except (ValueError, OSError) as error:
            raise ConfigError(f"downstream task {name}: {error}") from None
        tasks[name] = Task(task, sets.fingerprint, len(sets.train.examples), len(sets.eval.examples))
        log.info("downstream task %s: %s", name, tasks[name])
    return tasks


def steps_of(section: dict[str, Any], last: int) -> list[int]:
    """The steps with a trial, ascending. last: step of the run, which trials by `every` have too."""
    steps, every = section["steps"], section["every"]
    if any(not isinstance(step, int | float) or not 0 < step <= last or step != int(step) for step in steps):
        raise ConfigError(f"downstream.steps is {tuple(steps)}; give steps of the run, from 1 to {last}, such as {max(last // 2, 1)},{last}")
    if every < 0:
        raise ConfigError(f"downstream.every is {every}; give a number of steps, or 0 for none")
    return sorted({*map(int, steps), *((*range(every, last, every), last) if every else ())})


def configs_of(section: dict[str, Any]) -> dict[str, dict]:
    """Those of the tasks, by name."""
    try:
        overrides = [f"config.{word.removeprefix('--').removeprefix('config.')}" for word in shlex.split(section["overrides"])]
    except ValueError as error:
        raise ConfigError(f"downstream.overrides is {section['overrides']!r}: {error}; write FIELD=VALUE FIELD=VALUE") from None
    paths = [path for name in section["configs"] for path in (GLUE if name == "glue" else (str(name),))]
    if not paths:
        raise ConfigError("downstream.configs is empty, and there is nothing to try: set --config.downstream.configs=glue, or names of configs of bert-jax finetune")
    tasks = {Path(path).stem: configs.load(path, overrides, FINETUNING) for path in paths}
    if len(tasks) < len(paths):
        raise ConfigError(f"downstream.configs is {tuple(section['configs'])}: two of them have one name, and scores go by names; give each file its own")
    return tasks


def section_alone(model: dict, blueprint: Blueprint) -> dict:
    """The `model` section of what is fine-tuned, without an array."""
    found = {}

    def alone(params):
        found["section"], params = architectures.encoder_alone(model, params)
        return params

    jax.eval_shape(alone, blueprint.params)
    return found["section"]


class Inside:
    """An `Oversight` for work inside of a run: signals, and what hangs, are looked after as of the run; steps and checkpoints that are told of stay the run's."""

    def __init__(self, outer: Oversight, doing: str):
        self.stop: StopRequest = outer.stop
        self.watch = InsideWatch(outer.watch, doing)

    def holds(self, last_durable: Callable[[], int | None]) -> None:
        pass


class InsideWatch(Watch):
    """unsaved: also while updates of the run itself are."""

    def __init__(self, outer: Watch, doing: str):
        self.outer, self.within, self.held, self.step = outer, doing, outer.unsaved, None

    @property
    def unsaved(self) -> bool:
        return self.outer.unsaved

    @unsaved.setter
    def unsaved(self, value: bool) -> None:
        self.outer.unsaved = self.held or value

    def begins(self, doing: str, *, slow: bool = False) -> None:
        self.outer.begins(f"{self.within}: {doing}", slow=slow)

    def follows(self, others: list[Watch]) -> None:
        super().follows(others)
        doing, *since = self._now
        self.outer._now = (f"{self.within}: {doing}", *since)
