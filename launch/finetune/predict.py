"""`bert-jax predict`: a fine-tuned model's answers for a file of examples as JSON lines, and its scores where the file has labels."""

import json
import sys
from pathlib import Path

from bert_jax.model.spec import TASK_KINDS
from data_pipeline.tasks.task_data import TaskDataError
from launch.finetune.outputs import Scores
from launch.finetune.scoring import metrics_of, predictions_of, shown
from launch.finetune.sets import TaskSet
from launch.finetune.task_file import TaskFile
from launch.finetune.use import open_model


def predict(path: Path, source: str, output: Path | None, *, columns: dict[str, str], batch_size: int) -> None:
    """columns: names that differ from the training data's. output: None prints the lines."""
    model = open_model(path, TASK_KINDS, batch_size=batch_size)
    try:
        part = model.read(source, columns, labelled=True)
    except TaskDataError:
        if {"label", "tags"} & columns.keys():
            raise
        part = model.read(source, columns, labelled=False)  # whose own error, if any, is about the texts
    scores = model.scores(part.features)
    write_predictions(output, model.task, scores, part)
    if part.features.labels is not None or part.features.start_positions is not None:
        print(f"{source}: {shown(metrics_of(model.task, scores, part))}", file=sys.stderr)


def write_predictions(path: Path | None, task: TaskFile, scores: Scores, part: TaskSet) -> None:
    """JSON lines; a file appears whole."""
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in predictions_of(task, scores, part))
    if path is None:
        sys.stdout.writelines(lines)
        return
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(lines)
    temporary.replace(path)
