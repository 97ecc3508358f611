"""The plan of a config on GPUs, by arithmetic: nothing is compiled for them, so this says less than a TPU's plan and is less sure.

Memory: weights and optimizer state as they are sharded, weights and gradients as a step computes with them, and what the forward pass keeps for the backward pass if nothing were fused, which is an
upper bound. Time: model FLOPs at an assumed MFU, and after it gradients reduced and weights gathered, as many bytes as an all-reduce.
"""

import dataclasses
from typing import Any

from bert_jax.plan.interconnect import gpu_all_reduce_seconds
from bert_jax.plan.topology import GpuCluster
from launch.plan.plan import open_phases
from launch.plan.programs import Programs, Shapes

ASSUMED_MFU = 0.45  # of BERT-large on A100 45 to 54 % are published (NVIDIA DeepLearningExamples), on 8 x H200 49 % (MLPerf 4.0)
RANGE = (0.35, 0.50)
FEW_TOKENS = 8192  # of one GPU's micro-batch


@dataclasses.dataclass(frozen=True)
class GpuPhase:
    name: str
    steps: int
    sequences: int
    config: dict[str, Any]
    shapes: Shapes
    memory: float
    step_seconds: float
    reduce_seconds: float

    @property
    def rows(self) -> int:
        """Sequences of a GPU in one micro-batch."""
        return self.config["batch_size"] // (self.config["accumulate"] * self.shapes.mesh["data"] * self.shapes.mesh["fsdp"])

    @property
    def tokens(self) -> int:
        return self.rows * self.config["length"]

    @property
    def rate(self) -> float:
        return self.config["batch_size"] / self.step_seconds

    @property
    def seconds(self) -> float:
        return self.sequences / self.rate


@dataclasses.dataclass(frozen=True)
class GpuPlan:
    cluster: GpuCluster
    phases: tuple[GpuPhase, ...]
    price: float | None
    keep: int

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    @property
    def fits(self) -> bool:
        return all(phase.memory <= self.cluster.gpu.memory_bytes for phase in self.phases)

    @property
    def cost(self) -> float | None:
        return None if self.price is None else self.seconds / 3600 * self.cluster.count * self.price

    @property
    def figures(self) -> dict[str, Any]:
        return {
            "topology": {"name": self.cluster.name, "devices": self.cluster.devices, "hosts": self.cluster.hosts, "device_memory": self.cluster.gpu.memory_bytes},
            "fits": self.fits, "seconds": self.seconds, "chip_hours": self.seconds / 3600 * self.cluster.count, "cost": self.cost, "assumed_mfu": ASSUMED_MFU,
            "phases": [
                {name: value for name, value in dataclasses.asdict(phase).items() if name != "config"} | {"sequences_per_second": phase.rate, "seconds": phase.seconds}
                for phase in self.phases
            ],
        }  # fmt: skip

    def page(self, title: str) -> str:
        from launch.plan.page import size, time

        first, gpu = self.phases[0].shapes, self.cluster.gpu
        cost = f", {self.cost:,.0f} at {self.price:g} per GPU-hour" if self.cost is not None else ""
        lines = [
            f"# {title} on {self.cluster.name}, by arithmetic", "",
            f"**{'It fits' if self.fits else 'It may not fit: raise accumulate, or use compute.remat=dots'}** by an upper bound of its memory.", "",
            f"- {self.cluster}; mesh {' x '.join(f'{name} {count}' for name, count in first.mesh.items())}; {first.num_params / 1e6:,.1f}M parameters",
            f"- checkpoint: {size(first.state)}, and {size(first.state * (self.keep + 1))} of disk for the {self.keep} retained and the one being written",
            f"- the run: {time(self.seconds)}, {self.seconds / 3600 * self.cluster.count:,.0f} GPU-hours{cost}", "",
            "| phase | steps | rows a GPU | memory, at most | step | sequences/s | each machine's input | time |", "|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for phase in self.phases:
            config = phase.config
            lines.append(
                f"| {phase.name or 'the run'} | {phase.steps:,} x {config['batch_size']:,} @ {config['length']} | {phase.rows} | {size(phase.memory)} of {size(gpu.memory_bytes)} | "
                f"{phase.step_seconds * 1e3:,.1f} ms, of which all-reduce {phase.reduce_seconds * 1e3:,.1f} | {phase.rate:,.0f} | {phase.rate / self.cluster.hosts:,.0f} | {time(phase.seconds)} |"
            )
        few = [phase for phase in self.phases if phase.tokens < FEW_TOKENS]
        if few:
            lines += ["", f"**Expect less:** {few[0].tokens:,} tokens a GPU at a time are too few to keep it busy, and the gradients' all-reduce weighs more; take fewer GPUs or a larger batch."]
        return "\n".join([
            *lines, "",
            f"An MFU of {ASSUMED_MFU:.0%} is assumed, not measured; at {RANGE[0]:.0%} to {RANGE[1]:.0%} the arithmetic takes {ASSUMED_MFU / RANGE[0]:.2f} to "
            f"{ASSUMED_MFU / RANGE[1]:.2f} times as long. Short sequences, small batches and small models reach less.", "",
        ])  # fmt: skip


def make_gpu_plan(config: dict[str, Any], cluster: GpuCluster, *, price: float | None) -> GpuPlan:
    phases, _ = open_phases(config)
    planned = []
    with Programs(cluster) as programs:
        for phase in phases:
            shapes = programs.shapes(phase.config)
            accumulated = shapes.num_params * 4 // (shapes.mesh["fsdp"] * shapes.mesh["tensor"]) if phase.config["accumulate"] > 1 else 0
            flops = shapes.model_flops * phase.config["batch_size"] / cluster.count
            reduce_seconds = gpu_all_reduce_seconds(shapes.gathered, cluster)  # gradients reduced and parameters gathered
            planned.append(GpuPhase(
                name=phase.name, steps=phase.stop - phase.start, sequences=sum(stage.batch_size * (stage.stop - stage.start) for stage in phase.batch_stages),
                config=phase.config, shapes=shapes, memory=shapes.weights + shapes.opt_state + 2 * shapes.gathered + accumulated + shapes.frozen + shapes.batch + shapes.saved,
                step_seconds=flops / cluster.gpu.peak_flops / ASSUMED_MFU + reduce_seconds, reduce_seconds=reduce_seconds,
            ))  # fmt: skip
    return GpuPlan(cluster, tuple(planned), price, config["checkpoint"]["keep"])
