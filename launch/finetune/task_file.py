"""task.json of a fine-tuned workdir, beside model.json: with both the network can be built again, and its inputs and outputs read."""

import dataclasses
from pathlib import Path
from typing import Any

from bert_jax.interop.tasks import LABELLED, Task
from bert_jax.model.adapter_spec import AdapterSpec, adapter_of
from bert_jax.model.families.tasks import task_spec
from bert_jax.model.spec import TaskSpec
from data_pipeline.tasks.task_data import TaskData
from launch.config import ConfigError, read_json, write_json

NAME = "task.json"
COLUMNS = {
    "span": {"text": "question", "text_pair": "context", "label": "answers"},
    "ranking": {"text": "query", "text_pair": "passage"},
    "embedding": {"text_pair": "text_pair"},
    "choice": {"choices": ("choices",)},
}
SPANS = {"stride": 128, "answer_length": 30}


@dataclasses.dataclass(frozen=True)
class TaskFile:
    """kind, outputs, pooling, dropout: of the head (`TaskSpec`). labels: names of classes in the order of their numbers, or None. columns: of the data
    it was trained on, as `TaskData` has them. length: tokens of the longest input. stride, answer_length: of spans; elsewhere 0. adapt: of an encoder with LoRA or
    bottlenecks, as `adapter_spec.adapter_of` takes it."""

    kind: str
    outputs: int
    pooling: str
    dropout: float
    labels: tuple[str, ...] | None
    columns: dict[str, Any]
    length: int
    stride: int = 0
    answer_length: int = 0
    adapt: dict[str, Any] | None = None

    @property
    def adapter(self) -> AdapterSpec | None:
        return None if self.adapt is None else adapter_of(self.adapt)

    def spec(self, model: dict) -> TaskSpec:
        """model: a config's `model` section, of the encoder."""
        spec = task_spec(model, kind=self.kind, outputs=self.outputs, pooling=self.pooling, dropout=self.dropout)
        return dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, adapter=self.adapter))

    @property
    def head(self) -> Task:
        """As interop has it."""
        return Task(self.kind, self.outputs, self.pooling, self.dropout, self.labels if self.kind in LABELLED else None, self.length)

    def write(self, workdir: Path) -> None:
        write_json(workdir / NAME, dataclasses.asdict(self))


def task_file_of(head: Task) -> TaskFile:
    """For a model that comes with its head and without its data: columns as they are mostly named."""
    columns = dataclasses.asdict(TaskData(head.kind, **COLUMNS.get(head.kind, {})))
    columns = {name: value for name, value in columns.items() if name not in ("kind", "label_names")}
    held = {field.name: getattr(head, field.name) for field in dataclasses.fields(Task)}
    return TaskFile(**held, columns=columns, **(SPANS if head.kind == "span" else {}))


def read_task_file(workdir: Path) -> TaskFile | None:
    """None for a workdir of pretraining or import. ConfigError for a file that is not of `bert-jax finetune`."""
    path = workdir / NAME
    if not path.is_file():
        return None
    held = read_json(path)
    try:
        labels = held["labels"]
        held |= {"labels": None if labels is None else tuple(map(str, labels)), "columns": dict(held["columns"])}
        task = TaskFile(**held)
        sizes = (task.outputs, task.length, task.stride, task.answer_length)
        if not all(type(size) is int and 0 <= size < 2**31 for size in sizes) or not isinstance(task.dropout, float | int):
            raise TypeError
        _ = task.adapter
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ConfigError(f"{path} was not written by `bert-jax finetune`; take the workdir's own") from None
    return task
