"""The page of a plan, in Markdown, and the same as JSON. Plain values in, text out."""

import dataclasses
from typing import Any

from bert_jax.plan.chips import GIB
from bert_jax.plan.estimate import Step
from launch.plan.plan import PhasePlan, Plan, setting_of

SHOWN_OPERATIONS = 12
UNCERTAINTY = (
    "What this is worth: memory, FLOPs and collectives are those of the program that will run. Times are the compiler's expectations on idle hardware, "
    "collectives added as if nothing overlapped, no input wait, evaluation, checkpoint or start. They rank programs and slices; they do not prove speed. "
    "Nothing of this project has been timed on a TPU yet; docs/plan.md holds a plan against a published run."
)


def to_json(plan: Plan) -> dict[str, Any]:
    """Everything on the page, and the settings behind it. Bytes, seconds and FLOPs, of a device unless said otherwise."""
    chip = plan.topology.chip
    return {
        "topology": {
            "name": plan.topology.name, "chips": plan.topology.chips, "devices": plan.topology.devices, "hosts": plan.topology.hosts, "shape": plan.topology.shape,
            "device_memory": chip.memory, "chip_peak_flops": chip.peak_flops, "chip_bandwidth": chip.hbm_bandwidth,
        },
        "fits": plan.fits, "seconds": plan.seconds, "chip_hours": plan.chip_hours, "cost": cost_of(plan),
        "phases": [
            {
                "name": phase.name, "steps": phase.steps, "sequences": phase.sequences, "batch_size": phase.config["batch_size"], "length": phase.config["length"],
                "accumulate": phase.config["accumulate"], "remat": phase.config["compute"]["remat"], "asked": phase.asked, "fits": phase.fits,
                "rows_per_device": phase.rows, "shapes": dataclasses.asdict(phase.shapes),
                "memory": {
                    "weights": phase.shapes.weights, "opt_state": phase.shapes.opt_state, "frozen": phase.shapes.frozen, "batch": phase.shapes.batch, "temporaries": phase.measured.temporaries,
                    "program": phase.measured.code, "peak": phase.measured.peak, "capacity": chip.memory,
                },
                "flops": phase.step.flops, "products": phase.measured.products, "flops_ratio": phase.step.flops_ratio, "bytes": phase.step.bytes,
                "unrolled": dataclasses.asdict(phase.step.unrolled) if phase.step.unrolled else None,
                "step_seconds": {
                    "planned": phase.step.seconds, "schedule": phase.step.schedule_seconds, "roofline": phase.step.roofline_seconds, "arithmetic": phase.step.flops_seconds, "memory_bandwidth": phase.step.bytes_seconds, "collectives": phase.step.collective_seconds,
                },
                "bound": phase.step.bound, "mfu": phase.step.mfu(phase.step.seconds), "roofline_mfu": phase.step.mfu(phase.step.roofline_seconds),
                "sequences_per_second": phase.rate, "seconds": phase.seconds, "host_sequences_per_second": phase.rate / plan.topology.hosts,
                "collectives": [dataclasses.asdict(one) for one in phase.traffic], "kernels": [dataclasses.asdict(one) for one in phase.measured.kernels],
                "operations": [dataclasses.asdict(one) | {"seconds": one.cycles / chip.clock} for one in phase.measured.operations],
                "tried": [dataclasses.asdict(one) for one in phase.tried],
            }
            for phase in plan.phases
        ],
        "config": plan.config,
    }  # fmt: skip


def cost_of(plan: Plan) -> float | None:
    return None if plan.price is None else plan.chip_hours * plan.price


def to_markdown(plan: Plan, title: str) -> str:
    first = plan.phases[0]
    mesh = " x ".join(f"{name} {size}" for name, size in first.shapes.mesh.items())
    zero1 = ", optimizer state cut over data (ZeRO-1)" if plan.config["mesh"].get("zero1") else ""
    lines = [
        f"# {title} on {plan.topology.name}", "",
        verdict(plan), "",
        f"- slice: {plan.topology}",
        f"- mesh: {mesh}{zero1}; {first.shapes.num_params / 1e6:,.1f}M parameters, {first.config['compute']['dtype']} activations",
        f"- checkpoint: {size(first.shapes.state)}, and {size(first.shapes.state * (plan.config['checkpoint']['keep'] + 1))} of disk for the {plan.config['checkpoint']['keep']} retained and the one being written",
        f"- the run: {time(plan.seconds)}, {plan.chip_hours:,.0f} chip-hours" + (f", {cost_of(plan):,.0f} at {plan.price:g} per chip-hour" if plan.price is not None else ""),
        "",
    ]  # fmt: skip
    lines += [line for warning in warnings(plan) for line in (f"**Before you start:** {warning}", "")]
    for phase in plan.phases:
        lines += phase_lines(phase, plan)
    return "\n".join([*lines, UNCERTAINTY, ""])


def verdict(plan: Plan) -> str:
    if plan.fits:
        fullest = max(plan.phases, key=lambda phase: phase.measured.peak)
        return f"**It fits**: {size(fullest.measured.peak)} of a device's {size(plan.topology.chip.memory)}."
    words = []
    for phase in plan.phases:
        if not phase.fits:
            where = f"phases.{phase.number}." if phase.name else ""
            needs = f", which needs {size(phase.needed)} of {size(plan.topology.chip.memory)}" if phase.needed else ""
            words.append(
                f"{phase.name or 'the run'} does not with accumulate={phase.asked[0]}{needs}; with --config.{where}accumulate={phase.config['accumulate']} "
                f"it does ({size(phase.measured.peak)})"
            )
    return f"**It does not fit as configured**: {'; '.join(words)}. The figures are of the settings that fit."


def warnings(plan: Plan) -> list[str]:
    """What would stop the run on this slice, or waste it, beside memory."""
    found = []
    for phase in plan.phases:
        shards = phase.shapes.mesh["data"] * phase.shapes.mesh["fsdp"]
        batch = phase.config["eval"]["batch_size"]
        if batch % shards:
            found.append(f"eval.batch_size is {batch}, which does not divide over {shards} devices; set --config.eval.batch_size={-(-batch // shards) * shards}.")
        tokens = phase.rows * phase.config["length"]
        if tokens < 2048:
            found.append(
                f"{phase.name or 'the run'}: {tokens:,} tokens a device at a time are too few to keep it busy; take a smaller slice"
                + (f", or --config.accumulate below {phase.config['accumulate']}." if phase.config["accumulate"] > 1 else ", or a larger batch.")
            )
    return list(dict.fromkeys(found))


def phase_lines(phase: PhasePlan, plan: Plan) -> list[str]:
    step, memory, chip = phase.step, phase.measured, plan.topology.chip
    config, hosts = phase.config, plan.topology.hosts
    devices = chip.devices
    tokens = phase.rate * config["length"]
    other = memory.peak - phase.shapes.weights - phase.shapes.opt_state - phase.shapes.frozen - phase.shapes.batch - memory.temporaries
    teacher = f"teacher {size(phase.shapes.frozen)}, " if phase.shapes.frozen else ""
    found = "" if setting_of(config) == phase.asked else f" (the config has accumulate={phase.asked[0]}, remat={phase.asked[1]})"
    lines = [
        f"## {'Phase ' + phase.name if phase.name else 'The run'}: {phase.steps:,} steps of {config['batch_size']:,} x {config['length']}", "",
        f"A device works through {phase.rows} sequences at a time, accumulate={config['accumulate']}, remat={config['compute']['remat']}{found}.", "",
        "| | |", "|---|---|",
        f"| **time** | **{time(phase.seconds)}**: {phase.rate:,.0f} sequences/s, {phase.rate / plan.topology.chips:,.1f} a chip; {tokens:,.0f} tokens/s |",
        f"| step | {step.seconds * 1e3:,.1f} ms, MFU {step.mfu(step.seconds):.1%} (the compiler's schedule {step.schedule_seconds * 1e3:,.1f} ms + collectives {step.collective_seconds * 1e3:,.1f} ms) |",
        f"| step, roofline | {step.roofline_seconds * 1e3:,.1f} ms, MFU {step.mfu(step.roofline_seconds):.1%}; bound by {step.bound}: arithmetic {step.flops_seconds * 1e3:,.1f} ms, memory {step.bytes_seconds * 1e3:,.1f} ms |",
        f"| FLOPs of a {'core' if devices > 1 else 'chip'} | {step.flops:.3e}, {step.flops_ratio:.3f} of the model's; matrix products and kernels alone {memory.products / step.model_flops:.3f} |",
        f"| bytes moved | {step.bytes / 1e9:,.1f} GB |",
        f"| memory of a {'core' if devices > 1 else 'chip'} | {size(memory.peak)} of {size(chip.memory)}: weights {size(phase.shapes.weights)}, optimizer {size(phase.shapes.opt_state)}, {teacher}batch {size(phase.shapes.batch)}, activations and temporaries {size(memory.temporaries)}, program and rest {size(other)} |",
        *unrolled_lines(step),
        f"| input | each of {hosts} host(s) feeds {phase.rate / hosts:,.0f} sequences/s of {config['length']} tokens |",
        "",
    ]  # fmt: skip
    if phase.traffic:
        lines += ["| collectives of a step | over | number | arrays | on idle links |", "|---|---|---|---|---|"]
        lines += [f"| {one.kind} | {one.axes} | {one.count} | {one.bytes / 1e6:,.1f} MB | {one.seconds * 1e3:,.2f} ms |" for one in phase.traffic]
        lines.append("")
    lines += ["| where the schedule's time goes | | executions | |", "|---|---|---|---|"]
    lines += [
        f"| {origin(one.name)} | {one.opcode} | {one.count} | {one.cycles / chip.clock * 1e3:,.2f} ms |" for one in memory.operations[:SHOWN_OPERATIONS]
    ]
    lines.append("")
    silent = [kernel for kernel in memory.kernels if kernel.flops is None]
    if memory.kernels:
        stated = sum(kernel.count * (kernel.flops or 0) for kernel in memory.kernels)
        lines += [f"Custom kernels: {sum(kernel.count for kernel in memory.kernels)} calls a step, {stated:.3e} FLOPs by their stated cost." + (
            f" **{len(silent)} of {len(memory.kernels)} state no cost (pl.CostEstimate): their FLOPs are missing above.**" if silent else ""), ""]  # fmt: skip
    if len(phase.tried) > 1:
        lines += ["| tried | remat | memory | step |", "|---|---|---|---|"]
        for one in phase.tried:
            memory_text = "?" if one.memory is None else size(one.memory)
            lines.append(f"| accumulate={one.accumulate} | {one.remat} | {memory_text} | {'does not fit' if one.seconds is None else f'{one.seconds * 1e3:,.1f} ms'} |")
        lines.append("")
    return lines


def unrolled_lines(step: Step) -> list[str]:
    if (unrolled := step.unrolled) is None:
        return []
    compiler, schedule = (seconds + step.collective_seconds for seconds in (unrolled.compiler_seconds, unrolled.schedule_seconds))
    return [
        f"| without loops over layers | the compiler's schedule {schedule * 1e3:,.1f} ms, MFU {step.mfu(schedule):.1%}; its cost model {compiler * 1e3:,.1f} ms, MFU {step.mfu(compiler):.1%}; "
        f"{unrolled.layer_bytes / 1e9:.2f} GB a layer and micro-batch, {unrolled.rest_bytes / 1e9:.2f} GB outside the layers |"
    ]


def origin(name: str) -> str:
    """Of an operation, short: the backward pass is told from the forward one, and the loops' names are left out."""
    backward = "transpose(" in name
    kept = [part for part in name.split("/") if part not in ("while", "body", "closed_call", "transpose(jvp())", "jvp()")]
    return f"{'backward: ' if backward else ''}`{'/'.join(kept) or name or '(no origin)'}`".replace("|", "")


def size(count: float) -> str:
    """Bytes, in binary units."""
    return f"{count / GIB:,.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:,.1f} MiB"


def time(seconds: float) -> str:
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:,.1f} days"
    if seconds >= 7200:
        return f"{seconds / 3600:,.1f} hours"
    return f"{seconds / 60:,.1f} minutes" if seconds >= 120 else f"{seconds:,.1f} seconds"
