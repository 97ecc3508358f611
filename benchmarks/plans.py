"""Writes docs/plans/: the plan of every shipped config on a TPU v3 and a v4 slice that it fits, and a table of them all.

    python benchmarks/plans.py [NAME ...] [--slice v4] [--output docs/plans]

Each plan is what `bert-jax plan` prints with the overrides of `SLICES` (they are on the page). Minutes of compiling for each large config; what was measured before is
taken from the cache. Exit status 1 if one does not fit. The table is made of all plans in the directory.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from launch.config import load
from launch.plan import page as plan_page
from launch.plan.plan import default_cache, make_plan

ROOT = Path(__file__).parent.parent
# config -> slice -> overrides: micro-batches that fill the devices without running over, and an evaluation batch that divides over them.
SLICES: dict[str, dict[str, list[str]]] = {
    "quickstart": {"v3-8": ["model.vocab_size=6000"], "v4-8": ["model.vocab_size=6000"]},
    "bert_tiny": {"v3-8": [], "v4-8": []},
    "bert_mini": {"v3-8": [], "v4-8": []},
    "bert_small": {"v3-8": [], "v4-8": []},
    "bert_medium": {"v3-8": [], "v4-8": []},
    "bert_base": {"v3-32": [], "v4-32": []},
    "bert_large": {"v3-32": [], "v4-32": []},
    "bert_large_lamb_64k": {
        "v3-128": ["accumulate=16", "phases.1.accumulate=32"],
        "v4-128": ["accumulate=16", "phases.1.accumulate=32"],
    },
    "bert_large_mlperf": {"v3-128": ["accumulate=3", "eval.batch_size=256"], "v4-128": ["accumulate=3", "eval.batch_size=256"]},
    "roberta_base": {"v3-128": ["accumulate=8"], "v4-128": ["accumulate=8"]},
    "roberta_large": {"v3-128": ["accumulate=16"], "v4-128": ["accumulate=8"]},
    "roberta_base_1b": {"v3-32": ["accumulate=16"], "v4-32": ["accumulate=16"]},
    "roberta_base_100m": {"v3-32": ["accumulate=4"], "v4-32": ["accumulate=4"]},
    "continue_pretraining": {"v3-8": ["accumulate=32"], "v4-8": ["accumulate=32"]},
}


def write_plan(name: str, topology: str, overrides: list[str], output: Path) -> bool:
    """Whether it fits."""
    words = [f"config.{override}" for override in overrides]
    plan = make_plan(load(name, words), topology, cache=default_cache(), say=logging.info)
    command = " ".join(["bert-jax plan", f"--config=configs/{name}.py", f"--topology={topology}", *(f"--{word}" for word in words)])
    page = plan_page.to_markdown(plan, name).replace("\n\n", f"\n\n    {command}\n\n", 1)
    (output / f"{name}.{topology}.md").write_text(page)
    figures = plan_page.to_json(plan) | {"command": command}
    (output / f"{name}.{topology}.json").write_text(json.dumps(figures, indent=1) + "\n")
    return plan.fits


def write_table(output: Path) -> None:
    lines = [
        "# Plans", "",
        "`python benchmarks/plans.py` writes these pages; [plan.md](../plan.md) says how a plan is made and how far to trust it.", "",
        "| config, slice | phase | rows a device | memory of a device | FLOPs / model | step | MFU | sequences/s | time of the run |", "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    order = [(name, topology) for name, slices in SLICES.items() for topology in slices]
    for name, topology in order:
        path = output / f"{name}.{topology}.json"
        if not path.exists():
            continue
        figures = json.loads(path.read_text())
        for number, phase in enumerate(figures["phases"]):
            memory = phase["memory"]
            lines.append(
                f"| {f'[{name}, {topology}]({name}.{topology}.md)' if number == 0 else ''} | {phase['name'] or 'all'}: {phase['steps']:,} x {phase['batch_size']:,} @ {phase['length']} | "
                f"{phase['rows_per_device']} | {plan_page.size(memory['peak'])} of {plan_page.size(memory['capacity'])} | {phase['flops_ratio']:.3f} | "
                f"{phase['step_seconds']['planned'] * 1e3:,.1f} ms | {phase['mfu']:.1%} | {phase['sequences_per_second']:,.0f} | "
                f"{plan_page.time(figures['seconds']) if number == 0 else ''} |"
            )
    (output / "README.md").write_text("\n".join([*lines, "", plan_page.UNCERTAINTY, ""]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SLICES)} (default: all)")
    parser.add_argument("--slice", default="", metavar="PREFIX", help="only slices whose names begin with this, such as v4")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "plans")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    logging.getLogger("absl").setLevel(logging.ERROR)
    arguments.output.mkdir(parents=True, exist_ok=True)
    over = []
    for name in arguments.names or SLICES:
        if name not in SLICES:
            parser.error(f"{name}: known are {', '.join(SLICES)}")
        for topology, overrides in SLICES[name].items():
            if topology.startswith(arguments.slice):
                logging.info("%s on %s", name, topology)
                if not write_plan(name, topology, overrides, arguments.output):
                    over.append(f"{name} on {topology}")
                write_table(arguments.output)
    for one in over:
        print(f"does not fit: {one}", file=sys.stderr)
    return bool(over)


if __name__ == "__main__":
    sys.exit(main())
