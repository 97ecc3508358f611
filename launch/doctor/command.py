"""`bert-jax doctor`: checks a config with its data before a long run, and says what to do about what it finds. Trains nothing that is kept.

Enters: a config and perhaps a workdir. Leaves: a verdict per check, on standard output as words or JSON. The checks are listed in
examination.py.
"""

import contextlib
import dataclasses
import json
import logging
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from rich.text import Text

from launch.config import ConfigError
from launch.doctor.check import FAIL, OK, SKIP, WARN, Check
from launch.doctor.examination import CHECKS, Examination, Patient
from launch.inspect.text import make_console
from launch.pretrain import Stage

COLOURS = {OK: "green", WARN: "yellow", FAIL: "bold red", SKIP: "dim"}
log = logging.getLogger("bert_jax")


def doctor(config: dict, workdir: Path | None = None, *, skip: tuple[str, ...] = (), as_json: bool = False) -> int:
    """Prints a verdict per check; returns 1 if any failed, else 0. skip: names of checks to leave out."""
    unknown = [name for name in skip if name not in CHECKS]
    if unknown:
        raise ConfigError(f"--skip={unknown[0]}: there is no such check; known: {', '.join(CHECKS)}")
    results = []
    for phase, check, seconds in examine(config, workdir, skip, print_as=None if as_json else make_console()):
        results.append({"phase": phase} | dataclasses.asdict(check) | {"seconds": round(seconds, 2)})
    failed, warned = (sum(result["verdict"] == verdict for result in results) for verdict in (FAIL, WARN))
    if as_json:
        print(json.dumps({"verdict": FAIL if failed else WARN if warned else OK, "checks": results}, indent=2))
    else:
        counts = [f"{number} {word}" for number, word in ((failed, "failed"), (warned, "to think about")) if number]
        print(f"\n{len(results)} checks: " + (", ".join(counts) if counts else "all is well"))
    return 1 if failed else 0


def examine(config: dict, workdir: Path | None, skip: tuple[str, ...], print_as) -> Iterator[tuple[str, Check, float]]:
    """(phase, check, seconds that it took), printed as they come. print_as: a rich console; None prints progress on standard error instead."""
    began = time.monotonic()
    level = log.level
    log.setLevel(logging.ERROR)  # what opening a run warns of, the checks say
    try:
        try:
            patient = Patient(config, workdir)
        except (ValueError, OSError) as error:
            check = Check("config", FAIL, " ".join(str(error).split()))
            show(print_as, check)
            yield "the run", check, time.monotonic() - began
            return
        seen: set[str] = set()
        with jax.set_mesh(patient.stages[0].run.mesh):
            for stage in patient.stages:
                if print_as is not None:
                    print_as.print(Text("\n" * bool(stage.phase.number) + heading(stage), "bold"))
                examination = Examination(patient, stage)
                whens = ("each",) + (() if stage.phase.number else ("first",)) + (() if stage.data.fingerprint in seen else ("text",))
                seen.add(stage.data.fingerprint)
                for name, (how, when) in CHECKS.items():
                    if when in whens and name not in skip:
                        yield str(stage.phase), *timed(examination, name, how, print_as)
    finally:
        log.setLevel(level)


def heading(stage: Stage) -> str:
    config = stage.config
    return f"{stage.phase}: {config['steps']:,} steps, batches of {config['batch_size']:,} x {config['length']}, from {stage.data}\n"


def timed(examination: Examination, name: str, how: Callable[[Examination], Check], print_as) -> tuple[Check, float]:
    began = time.monotonic()
    try:
        if print_as is None:
            print(f"{name} ...", file=sys.stderr, flush=True)
            check = how(examination)
        else:
            with print_as.status(f"{name} ...") if print_as.is_terminal else contextlib.nullcontext():
                check = how(examination)
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:  # the others go on
        check = Check(name, FAIL, f"could not be checked: {' '.join(str(error).split())}")
    show(print_as, check)
    return check, time.monotonic() - began


def show(console, check: Check) -> None:
    """Two columns and, below, what to do."""
    if console is None:
        return
    indent, width = " " * 25, max(40, console.width - 25)
    lines = textwrap.wrap(check.measured, width) or [""]
    console.print(Text.assemble("  ", (f"{check.verdict:<5}", COLOURS[check.verdict]), f" {check.name:<17}", lines[0]))
    for line in lines[1:]:
        console.print(indent + line)
    for number, line in enumerate(textwrap.wrap(check.advice, width - 3)):
        console.print(Text(f"{indent}{'   ' if number else '-> '}{line}", COLOURS[check.verdict]))
