"""One update on every mesh that is asked for, on eight virtual CPU devices: a program of its own, since the number of devices is fixed when jax starts.

    python -m tests.training.mesh_runs DIRECTORY '[[[8, 1, 1], true, 1], ...]' [SUBJECT]      data x fsdp x tensor, zero1, accumulate; what is trained: bert

Prints a JSON list with a report for each: how far loss, gradients and updated parameters are from those of one device, each leaf's shape and the shape
that lies on one device, and the program's collectives. With two or more, the first's checkpoint is restored on the others and on one device.
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from bert_jax.batch import device_fields
from bert_jax.collectives import collectives
from bert_jax.model.adapter_spec import BottleneckSpec, LoraSpec
from bert_jax.model.families import build_spec
from bert_jax.model.families.tasks import task_spec
from bert_jax.model.spec import AnySpec, Compute
from bert_jax.sharding import MESH_AXES, make_mesh, put_batch
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.distillation import Distillation
from bert_jax.training.objectives import MaskedLm, Objective, objective_of
from bert_jax.training.optim import OptimizerSpec, make_optimizer
from bert_jax.training.schedules import Schedule
from bert_jax.training.state import Blueprint, abstract_params, abstract_state, init_state, make_blueprint, shardings_of
from bert_jax.training.step import make_train_step
from bert_jax.training.task_objectives import TOWERS, MultipleNegatives, TaskObjective
from bert_jax.training.trained import trained_part
from tests.training.conftest import make_batch

ROWS = 16
B1 = 0.9
# Every axis that a mesh may cut has eight pieces and more; no two axes have the same length, so that a collective's shape tells what it carries.
SIZES = dict(vocab_size=200, hidden_size=64, num_layers=2, num_heads=8, intermediate_size=112, max_positions=40, dropout=0.1, attention_dropout=0.1)
BERT = dict(family="bert", nsp=False) | SIZES
ADAPTERS = {"lora": LoraSpec(8, 16.0, ("attention", "mlp")), "bottleneck": BottleneckSpec(24, ("attention", "mlp"))}
GENERATOR = dict(generator_hidden_size=32, generator_layers=1, generator_heads=8, generator_intermediate_size=48)


class Subject(NamedTuple):
    """teacher: of a distillation. freeze: as in fine-tuning. batch: of ROWS rows, its fields on the devices."""

    spec: AnySpec
    objective: Objective | Distillation | TaskObjective
    teacher: Blueprint | None = None
    freeze: str = ""
    batch: dict | None = None


def subject(name: str) -> Subject:
    if name == "distillation":
        student, teacher = build_spec(BERT), make_blueprint(build_spec(BERT | {"num_layers": 4}))
        return Subject(student, Distillation(MaskedLm(None), student, teacher, 2.0, 5.0, 2.0, 1.0, "real"), teacher)
    if name in ADAPTERS or name == "frozen":
        spec = build_spec(BERT | {"num_layers": 4})
        spec = dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, adapter=ADAPTERS.get(name)))
        return Subject(spec, MaskedLm(None), freeze="2 layers" if name == "frozen" else "")
    if name == "multiple_negatives":  # each row is compared with all others
        towers = {prefix: make_batch(number, ROWS) for number, prefix in enumerate(TOWERS)}
        fields = {prefix + field: batch[field] for prefix, batch in towers.items() for field in ("input_ids", "token_type_ids", "segment_ids")}
        weights = (np.arange(ROWS) < ROWS - 1).astype(np.float32)
        return Subject(task_spec(BERT, kind="embedding", outputs=1, pooling="mean"), MultipleNegatives(), batch=fields | {"weights": weights})
    deberta = SIZES | dict(max_distance=40)
    sections = {
        "bert": BERT,
        "electra": dict(family="electra", embedding_size=48) | GENERATOR | SIZES,
        "deberta": dict(family="deberta") | deberta,
        "longformer": dict(family="longformer", window=4, global_tokens=2) | SIZES,
        "big_bird": dict(family="big_bird", block_size=2, random_blocks=1) | SIZES,
        "deberta_v3": dict(family="deberta_v3", generator_layers=2, position_buckets=8, convolution=3) | deberta,
    }
    spec = build_spec(sections[name])
    return Subject(spec, objective_of(spec, None, 4))


def names(tree, is_leaf=None) -> dict:
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf)}


def distances(values, wanted):
    """The largest difference in each array, relative to its largest number, or to a thousandth of the largest of all (the gradient of keys' biases is 0)."""
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    return jax.tree.map(lambda value, wanted: float(np.abs(value - wanted).max() / max(np.abs(wanted).max(), largest / 1000)), values, wanted)


class Runs:
    def __init__(self, subject: Subject):
        self.objective, self.teacher = subject.objective, subject.teacher
        blueprint = make_blueprint(subject.spec)
        self.blueprint = dataclasses.replace(blueprint, trained=trained_part(subject.spec, blueprint.params, subject.freeze))
        # After one step from zero, the first moment is (1 - b1) times the gradient.
        self.tx = make_optimizer(OptimizerSpec("adamw_bert", B1, 0.999, 1e-3, 0.01, 1.0, ("bias", "norm")), self.blueprint.trained.names(self.blueprint.axes))
        self.schedule = Schedule(peak=5e-2, warmup_steps=0, total_steps=100, power=1.0, end=0.0, decay_from="warmup")
        self.batch = subject.batch or {name: field for name, field in device_fields(make_batch(0, ROWS)).items() if name != "nsp_labels"}
        self.first = init_state(self.blueprint, self.tx, self.abstract((1, 1, 1), False)[1], jax.random.key(0))
        self.wanted = functools.cache(lambda accumulate: self.run((1, 1, 1), False, accumulate)[0])  # masks of dropout are each micro-batch's own

    def abstract(self, sizes, zero1):
        mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
        return mesh, abstract_state(self.blueprint, self.tx, mesh, zero1=zero1)

    def run(self, sizes, zero1, accumulate):
        """({"loss", "gradients", "params"} as numpy, the state after one update, the program's text)."""
        mesh, abstract = self.abstract(sizes, zero1)
        state = jax.device_put(jax.tree.map(np.asarray, self.first), shardings_of(abstract))
        with jax.set_mesh(mesh):
            shapes = () if self.teacher is None else (abstract_params(self.teacher, mesh),)
            frozen = tuple(jax.jit(self.teacher.init, out_shardings=shardings_of(each))(jax.random.key(2)) for each in shapes)
            step = make_train_step(self.blueprint, self.objective, self.tx, self.schedule, Compute(), abstract, mesh, accumulate=accumulate, frozen=shapes)
            batch = put_batch(self.batch, mesh)
            compiled = step.lower(state, batch, jax.random.key(1), *frozen).compile()
            state, metrics = compiled(state, batch, jax.random.key(1), *frozen)
        moments = next(part for part in state.opt_state if hasattr(part, "mu"))
        values = {"loss": metrics["loss"][0], "gradients": names(moments.mu), "params": names(state.params)}
        return jax.tree.map(np.asarray, values), state, compiled.as_text()

    def report(self, sizes, zero1, accumulate) -> tuple[dict, object]:
        values, state, text = self.run(sizes, zero1, accumulate)
        wanted = self.wanted(accumulate)
        farthest = {kind: max(jax.tree.leaves(distances(values[kind], wanted[kind]))) for kind in values}
        shapes = {kind: {name: (leaf.shape, sorted({shard.data.shape for shard in leaf.addressable_shards})) for name, leaf in names(tree).items()}
                  for kind, tree in (("params", state.params), ("opt_state", state.opt_state))}
        axes = dict(zip(MESH_AXES, sizes))
        found = [(one.kind, one.arrays, one.axes(axes), one.times, one.bytes, one.source) for one in collectives(text)]
        return {"farthest": farthest, "shapes": shapes, "collectives": found}, state

    def restored(self, directory: Path, state, sizes, zero1) -> bool:
        """Whether the checkpoint in the directory has the state's values on this mesh too, where the mesh's state has them."""
        _, abstract = self.abstract(sizes, zero1)
        trees = Checkpoints(directory).restore(1, {"params": abstract.params, "opt_state": abstract.opt_state})
        same = jax.tree.map(lambda ours, theirs: bool(np.array_equal(ours, theirs)), trees, {"params": state.params, "opt_state": state.opt_state})
        placed = jax.tree.map(lambda leaf, where: leaf.sharding == where.sharding, trees, {"params": abstract.params, "opt_state": abstract.opt_state})
        return all(jax.tree.leaves((same, placed)))


def main(directory: Path, cases: list, name: str = "bert") -> list[dict]:
    runs, reports, states = Runs(subject(name)), [], []
    for sizes, zero1, accumulate in cases:
        report, state = runs.report(tuple(sizes), zero1, accumulate)
        reports.append(report)
        states.append(state)
    checkpoints = Checkpoints(directory)
    checkpoints.save(1, {"params": states[0].params, "opt_state": states[0].opt_state})
    checkpoints.wait()
    for report, (sizes, zero1, _) in zip(reports, [((1, 1, 1), False, 1), *cases[1:]]):
        report["restored"] = runs.restored(directory, states[0], sizes, zero1)
    return reports


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), json.loads(sys.argv[2]), *sys.argv[3:])))
