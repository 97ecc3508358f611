"""Writes docs/plans/: the plan of every shipped config on a TPU v3 and a v4 slice that it fits, and a table of them all.

    python benchmarks/plans.py [NAME ...] [--slice v4] [--output docs/plans]

Each page is what `bert-jax plan` prints with the overrides of `SLICES`, and names the command. A minute or two of compiling for each phase; what was compiled before is
taken from the cache. The table is made of plans.json, which keeps its figures. Exit status 1 if a plan does not fit or cannot be made; the others are made all the same.
"""

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from launch.config import load
from launch.plan import page as plan_page
from launch.plan.plan import Plan, default_cache, make_plan

ROOT = Path(__file__).parent.parent
# config -> slice -> overrides: micro-batches that fill the devices without running over.
SLICES: dict[str, dict[str, list[str]]] = {
    "quickstart": {"v3-8": ["model.vocab_size=6000"], "v4-8": ["model.vocab_size=6000"]},
    "bert_tiny": {"v3-8": [], "v4-8": []},
    "bert_mini": {"v3-8": [], "v4-8": []},
    "bert_small": {"v3-8": [], "v4-8": []},
    "bert_medium": {"v3-8": [], "v4-8": []},
    "electra_small": {"v3-8": [], "v4-8": []},
    "bert_base": {"v3-8": [], "v4-8": []},
    "continue_pretraining": {"v3-8": ["accumulate=8"], "v4-8": ["accumulate=4"]},
    "cramming_1day": {"v3-8": ["accumulate=8"], "v4-8": ["accumulate=4"]},
    "academic_24h": {"v3-8": ["accumulate=8"], "v4-8": ["accumulate=4"]},
    "roberta_base_100m": {"v3-32": ["accumulate=1"], "v4-32": ["accumulate=1"]},
    "roberta_base_1b": {"v3-32": ["accumulate=2"], "v4-32": ["accumulate=2"]},
    "electra_base": {"v3-32": [], "v4-32": []},
    "distilbert_base": {"v3-32": ["accumulate=2"], "v4-32": ["accumulate=2"]},
    "albert_base_v2": {"v3-32": ["accumulate=2"], "v4-32": ["accumulate=2"]},
    "mosaic_bert_base": {"v3-32": ["accumulate=1"], "v4-32": ["accumulate=1"]},
    "bert_large": {"v3-32": [], "v4-32": []},
    "modernbert_base": {
        "v3-32": ["mesh.tensor=4", *(f"{phase}accumulate=18" for phase in ("", "phases.1.", "phases.2."))],
        "v4-32": [f"{phase}accumulate=9" for phase in ("", "phases.1.", "phases.2.")],
    },
    "roberta_base": {"v3-128": ["accumulate=1"], "v4-128": ["accumulate=1"]},
    "xlm_roberta_base": {"v3-128": ["accumulate=2"], "v4-128": ["accumulate=2"]},
    "roberta_large": {"v3-128": ["accumulate=4"], "v4-128": ["accumulate=2"]},
    "bert_large_mlperf": {"v3-128": ["accumulate=2"], "v4-128": ["accumulate=1"]},
    "bert_large_lamb_64k": {"v3-128": ["accumulate=8", "phases.1.accumulate=16"], "v4-128": ["accumulate=4", "phases.1.accumulate=8"]},
    "albert_xxlarge_v2": {"v3-128": ["accumulate=4"], "v4-128": ["accumulate=2"]},
    "longformer_base": {"v3-32": ["accumulate=1"], "v4-32": ["accumulate=1"]},
    "bigbird_base": {"v3-32": ["accumulate=2"], "v4-32": ["accumulate=2"]},
    "deberta_base": {"v3-32": [], "v4-32": []},
    "deberta_v3_small": {"v3-128": ["accumulate=4"], "v4-128": ["accumulate=2"]},
    "deberta_v3_base": {"v3-128": ["accumulate=4"], "v4-128": ["accumulate=4"]},
    "deberta_v2_xlarge": {"v3-128": ["accumulate=8"], "v4-128": ["accumulate=4"]},
    "modernbert_large": {"v3-32": ["mesh.tensor=4", "accumulate=77"], "v4-64": ["mesh.tensor=4", "accumulate=11"]},
}
SHAPES = """\
`bert_large_*x*_v4-8.md` are BERT-large at the batches that plan.md compares, with `--phase`, `--chip-batch` and `--unrolled`."""


def write_plan(name: str, topology: str, output: Path) -> bool:
    """Whether it fits."""
    words = [f"config.{override}" for override in SLICES[name][topology]]
    plan = make_plan(load(name, words), topology, cache=default_cache(), say=logging.info)
    command = " ".join(["bert-jax plan", f"--config={name}", f"--topology={topology}", *(f"--{word}" for word in words)])
    write(output / f"{name}.{topology}.md", plan_page.to_markdown(plan, name).replace("\n\n", f"\n\n    {command}\n\n", 1))
    kept = read_figures(output) | {f"{name}.{topology}": figures_of(plan) | {"command": command}}
    write(output / "plans.json", json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
    return plan.fits


def figures_of(plan: Plan) -> dict:
    """Those of the table."""
    whole = plan_page.to_json(plan)
    names = ("name", "steps", "batch_size", "length", "accumulate", "rows_per_device", "flops_ratio", "mfu", "sequences_per_second")
    phases = [
        {name: phase[name] for name in names} | {"step_seconds": phase["step_seconds"]["planned"], "memory": phase["memory"]["peak"], "capacity": phase["memory"]["capacity"]}
        for phase in whole["phases"]
    ]
    return {name: whole[name] for name in ("fits", "seconds", "chip_hours")} | {"phases": phases}


def read_figures(output: Path) -> dict:
    path = output / "plans.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_table(output: Path) -> None:
    lines = [
        "# Plans", "",
        "`python benchmarks/plans.py` writes these pages; [plan.md](../plan.md) says how a plan is made and how far to trust it. Which overrides make a config fit is on its page.", "",
        "| config, slice | phase | rows a device | memory of a device | FLOPs / model | step | MFU | sequences/s | time of the run |", "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    made = read_figures(output)
    for name, slices in SLICES.items():
        for topology in slices:
            if (figures := made.get(f"{name}.{topology}")) is None:
                continue
            for number, phase in enumerate(figures["phases"]):
                lines.append(
                    f"| {f'[{name}, {topology}]({name}.{topology}.md)' if number == 0 else ''} | {phase['name'] or 'all'}: {phase['steps']:,} x {phase['batch_size']:,} @ {phase['length']} | "
                    f"{phase['rows_per_device']} | {plan_page.size(phase['memory'])} of {plan_page.size(phase['capacity'])} | {phase['flops_ratio']:.3f} | "
                    f"{phase['step_seconds'] * 1e3:,.1f} ms | {phase['mfu']:.1%} | {phase['sequences_per_second']:,.0f} | "
                    f"{plan_page.time(figures['seconds']) if number == 0 else ''} |"
                )
    write(output / "README.md", "\n".join([*lines, "", SHAPES, "", plan_page.UNCERTAINTY, ""]))


def write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SLICES)} (default: all)")
    parser.add_argument("--slice", default="", metavar="PREFIX", help="only slices whose names begin with this, such as v4")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "plans")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    logging.getLogger("absl").setLevel(logging.ERROR)
    arguments.output.mkdir(parents=True, exist_ok=True)
    if unknown := [name for name in arguments.names if name not in SLICES]:
        parser.error(f"{', '.join(unknown)}: known are {', '.join(SLICES)}")
    problems = []
    for name in arguments.names or SLICES:
        for topology in SLICES[name]:
            if not topology.startswith(arguments.slice):
                continue
            logging.info("%s on %s", name, topology)
            try:
                if not write_plan(name, topology, arguments.output):
                    problems.append(f"{name} on {topology} does not fit")
            except (ValueError, RuntimeError) as error:
                problems.append(f"{name} on {topology}: {error}")
            write_table(arguments.output)
    for problem in problems:
        print(problem, file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
