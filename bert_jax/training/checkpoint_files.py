"""What lies in a directory of checkpoints: which are whole, which are damaged and why, which may go. Files only, of one process; no arrays.

    step_00001000/             a checkpoint: whole with its commit.json, which is written last
    step_00001000/unfinished   there from the beginning of a save to its commit. A step without commit and with this, or empty, was cut short; without both it is damaged
    step_00001000.damaged/     set aside, with the reason in damage.json
    step_00001000.removed/     on its way out
"""

import hashlib
import json
import logging
import math
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from bert_jax.foreign import misplaced
from bert_jax.training.storage import patiently

STEP = re.compile("step_[0-9]{8,15}")
COMMIT, UNFINISHED, DAMAGE = "commit.json", "unfinished", "damage.json"
FORMAT = "bert_jax.checkpoint"
LOWER_IS_BETTER = ("loss", "perplexity")  # in the name of a metric
HIGHER_IS_BETTER = ("accuracy", "f1", "matthews", "pearson", "spearman", "exact", "precision", "recall", "ndcg", "mrr", "map")
KEEP_LEAST = 2
ROOM = 1.05  # of a checkpoint's bytes must be free before it is begun
log = logging.getLogger("bert_jax")


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says which, why, and what to do."""


class SaveError(CheckpointError):
    """A checkpoint could not be written. Those before it are as they were, and nothing of it is left."""


def better(metric: str, score: float) -> float:
    """Something that is the larger the better the score; of one that is not defined (nan) the least there is."""
    if not math.isfinite(score):
        return -math.inf
    return -score if any(word in metric for word in LOWER_IS_BETTER) else score


class CheckpointFiles:
    """keep: how many of the newest are retained, at least 2. keep_every: steps divisible by it stay for ever; 0: none. keep_best: a held-out
    metric; the checkpoint with its best score stays too, of those with a score: the lowest loss or perplexity, the highest of anything else. "": none."""

    def __init__(self, directory: Path, *, keep: int = 2, keep_every: int = 0, keep_best: str = ""):
        if keep < KEEP_LEAST:
            raise ValueError(f"checkpoint.keep is {keep}; it must be at least {KEEP_LEAST}, so that there is another when one is damaged")
        if keep_every < 0:
            raise ValueError(f"checkpoint.keep_every is {keep_every}; it must be a number of steps, or 0")
        if keep_best and not any(word in keep_best for word in LOWER_IS_BETTER + HIGHER_IS_BETTER):
            raise ValueError(f"checkpoint.keep_best is {keep_best!r}; it must be a held-out loss, perplexity, accuracy or other score, such as mlm_loss, or empty")
        self.directory, self.keep, self.keep_every, self.keep_best = Path(directory).absolute(), keep, keep_every, keep_best

    def steps(self) -> list[int]:
        """Committed steps, oldest first, as the disk has them."""
        return sorted(step for path, step in self._step_directories() if (path / COMMIT).exists())

    def _step_directories(self) -> list[tuple[Path, int]]:
        paths = sorted(path for path in self.directory.glob("step_*") if STEP.fullmatch(path.name) and path.is_dir())
        numbers = [(path, int(path.name.removeprefix("step_"))) for path in paths]
        return [(path, step) for path, step in numbers if path == self.path(step)]  # of several spellings of a number, one

    def path(self, step: int) -> Path:
        return self.directory / f"step_{step:08d}"

    def begin(self, step: int, size: int) -> bool:
        """Makes the directory of a step of `size` bytes; False if the step is saved already. SaveError where there is no room; OSError."""
        if (self.path(step) / COMMIT).exists():
            return False
        self.remove_partial()  # also of a save that failed and could not be removed then
        self.discard(step)
        self.directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.directory).free
        if free < ROOM * size:
            raise SaveError(f"a checkpoint needs {ROOM * size / 1e9:,.3g} GB, but {free / 1e9:,.3g} GB are free in {self.directory}; free some space")
        self.path(step).mkdir()
        (self.path(step) / UNFINISHED).touch()
        return True

    def commit(self, step: int, facts: dict[str, Any]) -> None:
        """Hashes the files of a step and makes it count."""
        if self.keep_best and facts["scores"] and self.keep_best not in facts["scores"]:
            log.warning("checkpoint.keep_best is %s, but evaluations give %s", self.keep_best, ", ".join(facts["scores"]))
        final = self.path(step)
        names = [path for path in sorted(final.rglob("*")) if path.is_file() and path.name != UNFINISHED]
        files = {str(path.relative_to(final)): patiently(f"hashing {path}", lambda path=path: _file_record(path)) for path in names}
        temporary = final / (COMMIT + ".tmp")

        record = {"format": FORMAT, "step": step, **facts, "files": files}

        def write() -> None:
            temporary.write_text(json.dumps(record | {"sha256": _record_hash(record)}, indent=1))
            os.replace(temporary, final / COMMIT)

        patiently(f"committing {final}", write)
        (final / UNFINISHED).unlink()

    def discard(self, step: int) -> None:
        """Removes what there is of a step; from the first moment it does not count."""
        removed = self.path(step).with_name(self.path(step).name + ".removed")
        _remove(removed, ignore_errors=True)
        if self.path(step).exists():
            os.replace(self.path(step), removed)
            _remove(removed, ignore_errors=True)  # what cannot be removed now is at the next start

    def retain(self) -> None:
        """Removes what need not be kept."""
        steps = self.steps()
        kept = {*steps[-self.keep :], *(step for step in steps if self.keep_every and step % self.keep_every == 0), self.best()}
        for step in steps:
            if step not in kept:
                try:
                    self.discard(step)
                except OSError as error:
                    log.warning("%s could not be removed (%s); the next save tries again", self.path(step), error)

    def best(self) -> int | None:
        """The step with the best score by `keep_best`, the later of equals."""
        scores = {}
        for step in self.steps() if self.keep_best else []:
            try:
                score = self.record(step).get("scores", {}).get(self.keep_best)
            except (ValueError, OSError, AttributeError):  # a damaged commit, which restoring tells of
                continue
            if isinstance(score, (int, float)) and math.isfinite(score):
                scores[step] = better(self.keep_best, score)
        return max(scores, key=lambda step: (scores[step], step), default=None)

    def unfinished(self) -> list[Path]:
        """Of saves that are under way or were cut short."""
        without = [path for path, _ in self._step_directories() if not (path / COMMIT).exists()]
        return [path for path in without if (path / UNFINISHED).exists() or not any(path.iterdir())]

    def remove_partial(self) -> None:
        """Removes what a killed save, or a killed removal, left."""
        for path in self.unfinished():
            log.warning("removing %s: its save was cut short", path)
            _remove(path)
        for path in self.directory.glob("step_*.removed"):
            _remove(path)

    def newest(self, *, set_aside: bool = False) -> int | None:
        """The newest step whose files are what its commit says, or None if there has never been one.

        set_aside: rename damaged ones on the way, as only a run that goes on in this directory may.
        CheckpointError if there were checkpoints and all are damaged: training must not start from scratch over them.
        """
        damaged, unfinished = [], self.unfinished()
        for path, step in reversed(self._step_directories()):
            reason = None
            if (path / COMMIT).exists():
                reason = self.damage(step)
                if reason is None:
                    return step
            elif path in unfinished:
                continue
            else:
                reason = f"{COMMIT} is missing"
            log.error("checkpoint %s is damaged (%s); trying the one before", path, reason)
            if set_aside:
                self.set_aside(step, reason)
            damaged.append(f"step {step}: {reason}")
        damaged = damaged or [f"{path.name}: {reason}" for path, reason in self.damaged()]
        if damaged:
            raise CheckpointError(
                f"no usable checkpoint is left in {self.directory} ({'; '.join(damaged)}). Train in another workdir, or delete this directory to start over"
            )
        return None

    def set_aside(self, step: int, reason: str) -> None:
        """Renames a damaged step, with the reason in it. As many of the newest stay as of whole ones."""
        aside = self.path(step).with_name(self.path(step).name + ".damaged")
        _remove(aside, ignore_errors=True)
        os.replace(self.path(step), aside)
        said = {"step": step, "reason": reason, "found": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        if not aside.is_symlink():  # what a link leads to is not ours to write
            (aside / DAMAGE).write_text(json.dumps(said, indent=1))
        log.error("renamed to %s", aside)
        for old, _ in self.damaged()[: -self.keep]:
            _remove(old, ignore_errors=True)

    def damaged(self) -> list[tuple[Path, str]]:
        """What was set aside, oldest step first, and why."""
        found = []
        for path in sorted(self.directory.glob("step_*.damaged")):
            try:
                found.append((path, str(json.loads((path / DAMAGE).read_text())["reason"])))
            except (OSError, ValueError, KeyError, TypeError):
                found.append((path, "the reason is not known"))
        return found

    def record(self, step: int) -> dict:
        """The commit record of a step."""
        path = self.path(step) / COMMIT
        if not path.exists():
            raise CheckpointError(f"there is no checkpoint of step {step} in {self.directory}; steps there: {self.steps() or 'none'}")
        return json.loads(path.read_text())

    def damage(self, step: int, *, contents: bool = True) -> str | None:
        """What is wrong with a step's files, or None. contents: reads and hashes all of them, else only their sizes are compared.

        CheckpointError if there is no such step, OSError if the storage fails: that does not speak against the checkpoint."""
        try:
            record = patiently(f"reading {self.path(step)}", lambda: self.record(step))
            if "digests" in record or "sha256" in record:  # both came together
                stated = record.pop("sha256")
                if stated != _record_hash(record):
                    return f"the contents of {COMMIT} have changed"
            if record["step"] != step or not isinstance(record["leaves"], dict) or not isinstance(record["trees"], list):
                return f"{COMMIT} is not of this step"
            for name, expected in record["files"].items():
                if reason := misplaced(self.path(step), name):
                    return f"{COMMIT} names {name!r}, which {reason}"
                path = self.path(step) / name
                if not path.is_file():
                    return f"{name} is missing"
                if path.stat().st_size != expected["bytes"]:
                    return f"{name} has {path.stat().st_size} bytes, not {expected['bytes']}"
                if contents and patiently(f"hashing {path}", lambda: _file_record(path)) != expected:
                    return f"the contents of {name} have changed"
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return f"{COMMIT} is unreadable"
        return None


def _remove(path: Path, *, ignore_errors: bool = False) -> None:
    """A directory with all in it; of a link to one only the link."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=ignore_errors)


def _file_record(path: Path) -> dict:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _record_hash(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
