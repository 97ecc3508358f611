"""A trace of some training steps by JAX's profiler, on request."""

import contextlib
import dataclasses
import re
from pathlib import Path

import jax

_RANGE = re.compile(r"(\d+):(\d+)")


@dataclasses.dataclass(frozen=True)
class ProfileSteps:
    """The updates after step `first` up to step `last`: last - first of them."""

    first: int
    last: int

    @staticmethod
    def parse(text: str) -> "ProfileSteps":
        """From "100:110". ValueError says how it is written."""
        match = _RANGE.fullmatch(text)
        if match is None or int(match[1]) >= int(match[2]):
            raise ValueError(f"{text!r} are no steps: write FIRST:LAST, such as 100:110 for the ten updates after step 100")
        return ProfileSteps(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.first}:{self.last}"


class Profiler:
    """Traces the steps of `wanted` into `directory`; with None, nothing. As a context manager it also ends a trace that a stop cut short.

    Every update of the trace stands in it as `train`, with its number.
    """

    def __init__(self, directory: Path, wanted: ProfileSteps | None):
        self.directory, self.wanted = directory, wanted
        self.tracing = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.tracing:
            self.stop()

    def begins(self, step: int) -> bool:
        """Whether the trace begins with the update that makes `step`."""
        return self.wanted is not None and not self.tracing and self.wanted.first < step <= self.wanted.last

    def start(self) -> None:
        jax.profiler.start_trace(str(self.directory))
        self.tracing = True

    def step(self, step: int):
        """The context of the update that makes `step`."""
        return jax.profiler.StepTraceAnnotation("train", step_num=step) if self.tracing else contextlib.nullcontext()

    def ends(self, step: int) -> bool:
        return self.tracing and step >= self.wanted.last

    def stop(self) -> None:
        """The devices should have done the last update by now: what they do later is not in the trace."""
        jax.profiler.stop_trace()
        self.tracing = False
