"""Checkpoints of a run; the only file that knows Orbax.

    CHECKPOINTS/step_00001000/state/        Orbax: `params` and, unless imported, `opt_state`
    CHECKPOINTS/step_00001000/commit.json   written last: step, shapes, dtypes and digests of every leaf, sizes and SHA-256 of every file, held-out scores

A step directory without commit.json was cut short and does not count. Orbax restores a flipped bit or another dtype without a word, so files are hashed and types
compared before anything is read, and the digests of the arrays, which are the same on any devices, are compared once they are in place. A damaged checkpoint is renamed to
`step_...damaged`, with the reason in it, and the one before it is used.

Of several processes each writes and reads the parts that its devices hold, in one directory that all of them see. The first one decides what is whole, and writes the
commit, once all have written. Everything public here but `steps`, `path`, `record` and `abstract` is for all processes together.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from bert_jax.processes import any_process, from_first, is_first, tell, told
from bert_jax.training.checkpoint_files import CheckpointError, CheckpointFiles, SaveError
from bert_jax.training.digests import compile_digests, digests, finish_digests, leaf_names, start_digests
from bert_jax.training.storage import patiently

__all__ = ["CheckpointError", "Checkpoints", "SaveError"]
SLOW = 60.0  # seconds between warnings that a save is still under way
ORPHANED = 10.0  # seconds after which a save is given up, once another process has failed in it
log = logging.getLogger("bert_jax")


class DigestError(CheckpointError):
    """What was restored is not what was saved, though the files are as they were written."""


class Checkpoints:
    """Asynchronous saves with retention, and restores of the newest whole checkpoint. keep, keep_every, keep_best: see `CheckpointFiles`.

    One save is under way at a time; `save` waits for the one before.
    """

    def __init__(self, directory: Path, *, keep: int = 2, keep_every: int = 0, keep_best: str = ""):
        self.files = CheckpointFiles(directory, keep=keep, keep_every=keep_every, keep_best=keep_best)
        self.directory = self.files.directory
        self._saving: int | None = None
        self._saves = self._given_up = 0  # saves begun so far, by all processes alike; the number of the last that was given up
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.last_save_seconds: dict[str, float] = {}

    def steps(self) -> list[int]:
        """Committed steps, oldest first, as the disk has them."""
        return self.files.steps()

    def path(self, step: int) -> Path:
        return self.files.path(step)

    def save(self, step: int, trees: dict[str, Any], scores: dict[str, float] | None = None) -> None:
        """trees: {"params": ..., "opt_state": ...}. Returns once the arrays are copied off the devices; writing goes on in the background.

        scores: held-out metrics of this step, by which the best is kept. SaveError if there is no room; an error of the save before this one, in any
        process, is raised here or in `wait`. What failed is removed.
        """
        self.wait()
        started = time.monotonic()
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))
        begun = from_first(functools.partial(self._begin, step, size))
        if isinstance(begun, str):
            raise SaveError(f"the checkpoint of step {step} was not written: {begun}")
        if not begun:
            return
        self._saving, self._thread, self._saves = step, None, self._saves + 1
        try:
            sums = start_digests(trees)
            response = ocp.save_checkpointables_async(self.path(step) / "state", trees)
        except Exception as error:  # told in `wait`, where the processes meet
            self._failed(self._saves, error)
            return
        facts = {"trees": sorted(trees), "leaves": _leaf_table(trees), "scores": scores or {}}
        finish = functools.partial(self._finish, step, self._saves, response, facts, lambda: finish_digests(facts["leaves"], sums), started, time.monotonic() - started)
        self._thread = threading.Thread(target=finish, name=f"save-{step}")
        self._thread.start()

    def _begin(self, step: int, size: int) -> bool | str:
        """False if the step is saved already; why it cannot be saved, in words."""
        try:
            return patiently(f"beginning the checkpoint of step {step}", lambda: self.files.begin(step, size))
        except (SaveError, OSError) as error:
            return str(error)

    def _failed(self, number: int, error: BaseException) -> None:
        """Of this process's part of a save: for `wait`, and for the other processes, which Orbax has wait for it."""
        if number == self._saves and number != self._given_up:
            self._error = error
        if jax.process_count() > 1:
            tell(_failure(number), _shortened(error))

    def _finish(self, step: int, number: int, response, facts: dict, digests_of: Callable[[], dict[str, str]], started: float, blocked: float) -> None:
        """In the background: waits for Orbax, commits, removes what need not be kept."""
        try:
            response.result()
            if is_first():
                self.files.commit(step, facts | {"digests": digests_of()})
            self.last_save_seconds = {"blocked": blocked, "total": time.monotonic() - started}
            if is_first():
                self.files.retain()
        except BaseException as error:  # handed to the training thread
            self._failed(number, error)

    def wait(self) -> None:
        """Returns when no save is under way, in any process. SaveError if it failed, and what there is of it is removed."""
        if self._saving is None:
            return
        if self._thread is not None:
            self._join(self._thread)
        step, self._saving, self._thread = self._saving, None, None
        failed, error, self._error = any_process(self._error is not None), self._error, None
        if failed:
            from_first(lambda: self._discard_uncommitted(step))
            raise SaveError(f"saving the checkpoint of step {step} under {self.directory} failed: {_shortened(error)}") from error

    def _join(self, thread: threading.Thread) -> None:
        """Until the save's thread ends, or another process's part has failed and Orbax would wait for it for long."""
        began = warned = time.monotonic()
        failed_at = None
        while thread.is_alive():
            thread.join(1.0)
            now = time.monotonic()
            if thread.is_alive() and now - warned >= SLOW:
                warned = now
                log.warning("the checkpoint of step %d is still being written after %d s of waiting: slow storage?", self._saving, now - began)
            if jax.process_count() > 1 and (words := told(_failure(self._saves))) is not None:
                failed_at = failed_at or now
                if thread.is_alive() and now - failed_at > ORPHANED:
                    self._given_up, self._error = self._saves, SaveError(f"in another process: {words}")
                    return

    def settle(self) -> None:
        """Before an error leaves: returns when this process writes nothing any more, if it is alone. Of several one may wait for another that is gone."""
        if self._thread is not None and jax.process_count() == 1:
            self._thread.join()

    def _discard_uncommitted(self, step: int) -> None:
        if step in self.steps():
            return  # it was whole before something else, such as removing an older one, failed
        try:
            self.files.discard(step)
        except OSError as error:
            log.warning("%s could not be removed (%s); the next start will", self.path(step), error)

    def remove_partial(self) -> None:
        """Removes step directories that a killed save left without their commit."""
        from_first(self.files.remove_partial)

    def newest(self, *, set_aside: bool = False) -> int | None:
        """The newest step whose files are what its commit says, or None if there has never been one.

        set_aside: rename damaged ones on the way, as only a run that goes on in this directory may.
        CheckpointError if there were checkpoints and all are damaged: training must not start from scratch over them.
        """
        return from_first(lambda: self.files.newest(set_aside=set_aside))

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
        return self.files.record(step)

    def damage(self, step: int) -> str | None:
        """What is wrong with a step's files, or None. Reads and hashes all of them. CheckpointError if there is no such step."""
        return from_first(lambda: self.files.damage(step))

    def restore(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
        """abstract: name -> tree of ShapeDtypeStructs with shardings; a subset of what was saved may be asked for.

        CheckpointError names the leaves whose shape or dtype differ from what is asked; DigestError those whose contents differ from what was saved.
        """
        record, wanted = self.record(step), _leaf_table(abstract)
        saved = record["leaves"]
        differences = [
            f"{name}: saved {saved.get(name, 'nothing')}, wanted {leaf}" for name, leaf in wanted.items() if saved.get(name) != leaf
        ]
        if differences:
            raise CheckpointError(
                f"checkpoint {self.path(step)} does not fit this config's model and optimizer: {_few(differences)}. Use the config that made it, or another workdir"
            )
        trees = ocp.load_checkpointables(self.path(step) / "state", abstract)
        expected = record.get("digests")  # checkpoints of earlier versions have none
        if expected is not None:
            wrong = [name for name, digest in digests(trees).items() if expected.get(name) != digest]
            if wrong:
                raise DigestError(f"what was read from {self.path(step)} is not what was saved: {_few(wrong)}")
        return trees

    def restore_newest(self, wanted: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """(step, trees) of the newest checkpoint that can be read and holds what was saved; what it lacks of `wanted` is left out. Damaged ones are set aside.

        None if there has never been a checkpoint: what the first save needs is then compiled in the background. CheckpointError as in `newest` and `restore`.
        """
        while (step := self.newest(set_aside=True)) is not None:
            try:
                return step, self.restore(step, self.abstract(step, wanted))
            except DigestError as error:
                from_first(functools.partial(self.files.set_aside, step, str(error)))
        threading.Thread(target=compile_digests, args=(wanted,), name="compiling-digests").start()
        return None

    def abstract(self, step: int, blueprint_tree: dict[str, Any]) -> dict[str, Any]:
        """The part of `blueprint_tree` that the step holds (an imported checkpoint has no opt_state)."""
        trees = self.record(step)["trees"]
        return {name: tree for name, tree in blueprint_tree.items() if name in trees}


def _failure(number: int) -> str:
    """Under which a process tells that its part of the run's so manieth save failed."""
    return f"bert_jax/save_failed/{number}"


def _leaf_table(trees: dict[str, Any]) -> dict[str, str]:
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in zip(leaf_names(trees), jax.tree.leaves(trees), strict=True)}


def _few(items: list[str]) -> str:
    return "; ".join(items[:5]) + (f" (and {len(items) - 5} more)" if len(items) > 5 else "")


def _shortened(error: BaseException | None) -> str:
    """Orbax's errors may hold kilobytes."""
    text = " ".join(f"{type(error).__name__}: {error}".split()) if error is not None else "see the other processes"
    return text if len(text) <= 300 else text[:300] + " ..."
