"""The `plan` command: the plan of a config on TPUs or GPUs, as a page or as JSON."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from bert_jax.plan.topology import GpuCluster, parse_topology

log = logging.getLogger("bert_jax")


def plan(
    config: dict[str, Any], config_name: str, topology: str, *, price: float | None, search: bool, unrolled: bool, chip_batch: int | None, phase: int | None, as_json: bool,
    output: str | None, cached: bool, keep_text: str | None,
) -> int:
    """Prints it; the exit status tells whether the config fits as it is."""
    if price is not None and not price >= 0:
        raise ValueError(f"--price={price:g}: give what a chip costs for an hour, 0 or more")
    title = Path(config_name).name.removesuffix(".py")
    if isinstance(parse_topology(topology), GpuCluster):
        from launch.plan.gpu import make_gpu_plan

        asked = {"--search": search, "--unrolled": unrolled, "--chip-batch": chip_batch is not None, "--phase": phase is not None, "--hlo": keep_text is not None}
        if unheeded := [option for option, given in asked.items() if given]:
            raise ValueError(f"{', '.join(unheeded)} would change nothing: GPUs are planned by arithmetic, all phases with the config's own batches; leave it away")
        made = make_gpu_plan(config, parse_topology(topology), price=price)
        figures, page, fits = made.figures, made.page(title), made.fits
    else:
        from launch.plan import page as plan_page
        from launch.plan.plan import default_cache, make_plan

        made = make_plan(
            config, topology, price=price, search=search, unrolled=unrolled, chip_batch=chip_batch, only=phase, cache=default_cache() if cached else None,
            keep_text=Path(keep_text) if keep_text else None, say=log.info,
        )
        figures, page, fits = plan_page.to_json(made), plan_page.to_markdown(made, title), made.fits
    print(json.dumps(figures, indent=2) if as_json else page)
    if output:
        temporary = Path(output + ".tmp")
        temporary.write_text(json.dumps(figures, indent=2) + "\n" if output.endswith(".json") else page)
        os.replace(temporary, output)
    return 0 if fits else 1
