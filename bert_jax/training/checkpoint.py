"""Checkpoints of a run; the only file that knows Orbax.

    CHECKPOINTS/step_00001000/state/        Orbax: `params` and, unless imported, `opt_state`
    CHECKPOINTS/step_00001000/commit.json   written last: step, shapes and dtypes of every leaf, sizes and SHA-256 of every file

A step directory without commit.json was cut short and does not count. Orbax restores a flipped bit or another dtype without a word, so both are checked here
before anything is read. A damaged checkpoint is renamed to `step_...damaged` and the one before it is used.

Of several processes each writes and reads the parts that its devices hold, in one directory that all of them see. The first one decides what is whole, and writes the
commit, once all have written. Everything public here but `steps`, `path`, `record` and `abstract` is for all processes together.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from bert_jax.processes import any_process, from_first, is_first

COMMIT = "commit.json"
FORMAT = "bert_jax.checkpoint"
log = logging.getLogger("bert_jax")


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says which, why, and what to do."""


class Checkpoints:
    """Asynchronous saves with retention, and restores of the newest whole checkpoint.

    keep: how many of the newest are retained (at least 1). One save is under way at a time; `save` waits for the one before.
    """

    def __init__(self, directory: Path, *, keep: int = 2):
        if keep < 1:
            raise ValueError(f"checkpoint.keep is {keep}; it must be at least 1")
        self.directory, self.keep = Path(directory).absolute(), keep  # Orbax takes absolute paths only
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.last_save_seconds: dict[str, float] = {}

    def steps(self) -> list[int]:
        """Committed steps, oldest first, as the disk has them."""
        return sorted(_step_number(path) for path in self.directory.glob("step_*") if (path / COMMIT).exists() and _step_number(path) is not None)

    def path(self, step: int) -> Path:
        return self.directory / f"step_{step:08d}"

    def save(self, step: int, trees: dict[str, Any]) -> None:
        """trees: {"params": ..., "opt_state": ...}. Returns once the arrays are copied off the devices; writing goes on in the background.

        An error of the save before this one, in any process, is raised here or in `wait`.
        """
        self.wait()
        started = time.monotonic()
        final = self.path(step)
        if not from_first(lambda: self._begin(step)):
            return
        leaves = _leaf_table(trees)
        response = ocp.save_checkpointables_async(final / "state", trees)
        blocked = time.monotonic() - started

        def finish():
            try:
                response.result()
                if is_first():
                    files = {str(path.relative_to(final)): _file_record(path) for path in sorted(final.rglob("*")) if path.is_file()}
                    record = {"format": FORMAT, "step": step, "trees": sorted(trees), "leaves": leaves, "files": files}
                    temporary = final / (COMMIT + ".tmp")
                    temporary.write_text(json.dumps(record, indent=1))
                    os.replace(temporary, final / COMMIT)
                    self._retain()
                self.last_save_seconds = {"blocked": blocked, "total": time.monotonic() - started}
            except BaseException as error:  # handed to the training thread
                self._error = error

        self._thread = threading.Thread(target=finish, name=f"save-{step}")
        self._thread.start()

    def _begin(self, step: int) -> bool:
        """Makes the directory of a step; False if the step is saved already."""
        if step in self.steps():
            return False
        shutil.rmtree(self.path(step), ignore_errors=True)  # the remains of a save that was killed
        self.path(step).mkdir(parents=True)
        return True

    def wait(self) -> None:
        """Returns when no save is under way, in any process; raises the error of one that failed."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        failed, error, self._error = any_process(self._error is not None), self._error, None
        if failed:
            raise CheckpointError(f"saving a checkpoint under {self.directory} failed: {error or 'see the other processes'}") from error

    def _retain(self) -> None:
        for step in self.steps()[: -self.keep]:
            (self.path(step) / COMMIT).unlink()  # first, so that a half-removed step does not count
            shutil.rmtree(self.path(step))

    def remove_partial(self) -> None:
        """Removes step directories that a killed save left without their commit."""
        from_first(self._remove_partial)

    def _remove_partial(self) -> None:
        for path in self.directory.glob("step_*"):
            if _step_number(path) is not None and not (path / COMMIT).exists():
                log.warning("removing %s: its save was cut short", path)
                shutil.rmtree(path)

    def newest(self, *, set_aside: bool = False) -> int | None:
        """The newest step whose files are what its commit says, or None if there has never been one.

        set_aside: rename damaged ones on the way, as only a run that goes on in this directory may.
        CheckpointError if there were checkpoints and all are damaged: training must not start from scratch over them.
        """
        return from_first(lambda: self._newest(set_aside))

    def _newest(self, set_aside: bool) -> int | None:
        damaged = []
        for step in reversed(self.steps()):
            reason = self._damage(step)
            if reason is None:
                return step
            log.error("checkpoint %s is damaged (%s); trying the one before", self.path(step), reason)
            if set_aside:
                aside = self.path(step).with_name(self.path(step).name + ".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(self.path(step), aside)
            damaged.append(f"step {step}: {reason}")
        if damaged or list(self.directory.glob("step_*.damaged")):
            details = "; ".join(damaged) or ", ".join(path.name for path in self.directory.glob("step_*.damaged"))
            raise CheckpointError(f"no usable checkpoint is left in {self.directory} ({details}). Train in another workdir, or delete this directory to start over")
        return None

    def choose(self, step: int | None) -> int:
        """`step` if it is whole, or the newest whole one for None; CheckpointError says why there is none."""
        if step is None:
            step = self.newest()
            if step is None:
                raise CheckpointError(f"there is no checkpoint in {self.directory} yet")
        elif reason := self.damage(step):
            raise CheckpointError(f"the checkpoint of step {step} is damaged: {reason}; steps there: {self.steps()}")
        return step

    def record(self, step: int) -> dict:
        """The commit record of a step."""
        path = self.path(step) / COMMIT
        if not path.exists():
            raise CheckpointError(f"there is no checkpoint of step {step} in {self.directory}; steps there: {self.steps() or 'none'}")
        return json.loads(path.read_text())

    def damage(self, step: int) -> str | None:
        """What is wrong with a step's files, or None. Reads and hashes all of them. CheckpointError if there is no such step."""
        return from_first(lambda: self._damage(step))

    def _damage(self, step: int) -> str | None:
        try:
            files = self.record(step)["files"]
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError):
            return f"{COMMIT} is unreadable"
        for name, expected in files.items():
            path = self.path(step) / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size} bytes, not {expected['bytes']}"
            if _file_record(path) != expected:
                return f"the contents of {name} have changed"
        return None

    def restore(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
        """abstract: name -> tree of ShapeDtypeStructs with shardings; a subset of what was saved may be asked for.

        CheckpointError names the leaves whose shape or dtype differ from what is asked.
        """
        saved, wanted = self.record(step)["leaves"], _leaf_table(abstract)
        differences = [
            f"{name}: saved {saved.get(name, 'nothing')}, wanted {leaf}" for name, leaf in wanted.items() if saved.get(name) != leaf
        ]
        if differences:
            more = f" (and {len(differences) - 5} more)" if len(differences) > 5 else ""
            raise CheckpointError(
                f"checkpoint {self.path(step)} does not fit this config's model and optimizer: {'; '.join(differences[:5])}{more}. "
                "Use the config that made it, or another workdir"
            )
        return ocp.load_checkpointables(self.path(step) / "state", abstract)

    def abstract(self, step: int, blueprint_tree: dict[str, Any]) -> dict[str, Any]:
        """The part of `blueprint_tree` that the step holds (an imported checkpoint has no opt_state)."""
        trees = self.record(step)["trees"]
        return {name: tree for name, tree in blueprint_tree.items() if name in trees}


def _step_number(path: Path) -> int | None:
    digits = path.name.removeprefix("step_")
    return int(digits) if digits.isdigit() else None


def _leaf_table(trees: dict[str, Any]) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(trees)
    return {jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _file_record(path: Path) -> dict:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
