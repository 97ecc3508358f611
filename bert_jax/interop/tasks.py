"""Fine-tuned models in Hugging Face directories: their class in transformers, what config.json says of their heads, and the names of the heads' weights."""

import dataclasses
import pathlib
from collections.abc import Mapping

from bert_jax.interop import sentence_transformers
from bert_jax.interop.architectures.architecture import Architecture, TaskClass
from bert_jax.interop.weights import Naming
from bert_jax.model.families.tasks import task_spec
from bert_jax.model.spec import TaskSpec

SEQUENCE, TOKENS, SPAN, CHOICE = "SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice"
CLASSES = {
    "classification": SEQUENCE, "multilabel": SEQUENCE, "regression": SEQUENCE, "ranking": SEQUENCE, "tokens": TOKENS, "span": SPAN, "choice": CHOICE,
}  # fmt: skip
PROBLEMS = {  # config.json's problem_type, by which transformers chooses loss and pipelines what they do with scores
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
    "ranking": "multi_label_classification",  # of the one label "relevant"
}
LABELLED = ("classification", "multilabel", "tokens")
MOST_LABELS = 1_000_000  # so that no config.json, whatever it says, makes a head that fills the memory
EMBEDDING = TaskClass((("classifier.kernel", "pair_classifier.weight", "kernel"), ("classifier.bias", "pair_classifier.bias", "flat")), dropout=None)
PAIR_LABELS = "pair_classifier_labels"  # a field of ours: how many classes of pairs an encoder of sentences was trained with


@dataclasses.dataclass(frozen=True)
class Task:
    """What a head is for. kind, outputs, pooling, dropout: as in `TaskSpec`. labels: names of classes in the order of their numbers, or None. length: tokens
    of the longest input."""

    kind: str
    outputs: int
    pooling: str
    dropout: float
    labels: tuple[str, ...] | None
    length: int

    def spec(self, section: dict) -> TaskSpec:
        """section: a config's `model` section, of the encoder."""
        return task_spec(section, kind=self.kind, outputs=self.outputs, pooling=self.pooling, dropout=self.dropout)


def model_class(architecture: Architecture, task: Task) -> str:
    return architecture.class_prefix + ("Model" if task.kind == "embedding" else f"For{CLASSES[task.kind]}")


def class_of(architecture: Architecture, task: Task) -> TaskClass:
    """ValueError if transformers has no class that computes what this task's model computes."""
    if task.kind == "embedding":
        return EMBEDDING
    name = model_class(architecture, task)
    if CLASSES[task.kind] not in architecture.tasks:
        without = architecture.without.get(CLASSES[task.kind], f"transformers has no {name}")
        raise ValueError(f"{without}, so that {architecture.title} fine-tuned for {task.kind} cannot be exported")
    if task.kind not in ("tokens", "span") and task.pooling not in architecture.poolings:
        pooled = " or ".join(architecture.poolings)
        raise ValueError(
            f"this model's classifier reads the {task.pooling} of all tokens, but transformers' {name} reads {pooled} (cls: the first token's vector), so that it "
            f"cannot be exported; fine-tune with --config.head.pooling={architecture.poolings[0]}"
        )
    return architecture.tasks[CLASSES[task.kind]]


def naming_of(architecture: Architecture, task: Task) -> Naming:
    """The names of the encoder's and the head's weights."""
    head, naming = class_of(architecture, task), architecture.naming
    needed = {f"{name.split('.')[0]}." for _, name, _ in head.rows if not name.startswith(naming.prefix)}
    return dataclasses.replace(
        naming,
        rows=(*(row for row in naming.rows if row[0].startswith("encoder.")), *head.rows),
        needed=(*(name for name in naming.needed if name.startswith(naming.prefix)), *sorted(needed)),
        beside=("classifier",) if task.kind == "embedding" else (),
    )


def config_of(architecture: Architecture, task: Task) -> dict:
    """The fields of config.json that tell of the head."""
    head = class_of(architecture, task)
    config: dict = dict(head.fields) | ({head.dropout: task.dropout} if head.dropout else {})
    if task.kind == "embedding":
        return config | ({PAIR_LABELS: task.outputs} if task.outputs > 1 else {})
    labels = task.labels if task.labels and task.kind in LABELLED else tuple(f"LABEL_{number}" for number in range(task.outputs))
    config |= {"id2label": {str(number): label for number, label in enumerate(labels)}, "label2id": {label: number for number, label in enumerate(labels)}}
    if CLASSES[task.kind] == SEQUENCE:
        config |= {"problem_type": PROBLEMS[task.kind]}
        config |= {architecture.pooling_field: task.pooling} if architecture.pooling_field else {}
    if CLASSES[task.kind] == CHOICE and architecture.pooling_field:
        config |= {architecture.pooling_field: task.pooling}
    return config | ({"sentence_transformers": sentence_transformers.CROSS_ENCODER} if task.kind == "ranking" else {})


def task_of(config: dict, architecture: Architecture, directory: pathlib.Path, *, dropout: float, length: int) -> Task | None:
    """The task of a directory in Hugging Face layout; None for a pretrained model. dropout: the encoder's, where config.json names none for the head. length:
    of the longest input, where nothing else says. ValueError names the field, its value and what fits."""
    source = str(directory / "config.json")
    if sentence_transformers.is_encoder(directory):
        pooling, longest = sentence_transformers.read(directory)
        return Task("embedding", _count(config.get(PAIR_LABELS, 1), source, PAIR_LABELS), pooling, dropout, None, min(longest or length, length))
    stated = config.get("architectures")
    names = {f"{architecture.class_prefix}For{name}": name for name in (SEQUENCE, TOKENS, SPAN, CHOICE)}
    found = next((names[name] for name in stated if isinstance(name, str) and name in names), None) if isinstance(stated, list) else None
    if found is None:
        return None
    if found not in architecture.tasks:
        raise ValueError(f"{source}: {architecture.without.get(found, f'{stated[0]} is unknown')}; it cannot be imported")
    head = architecture.tasks[found]
    for field, value in head.fields.items():
        if config.get(field, value) != value:
            raise ValueError(f"{source}: {field} is {config[field]!r}; only heads can be imported where it is absent, or {value!r}")
    rate = config.get(head.dropout) if head.dropout else None
    if rate is not None and (type(rate) not in (int, float) or not 0 <= rate < 1):
        raise ValueError(f"{source}: {head.dropout} is {rate!r}; it must be at least 0 and below 1")
    pooling = config.get(architecture.pooling_field, "cls") if architecture.pooling_field and found in (SEQUENCE, CHOICE) else "cls"
    if pooling not in architecture.poolings:
        raise ValueError(f"{source}: {architecture.pooling_field} is {pooling!r}; known: {', '.join(architecture.poolings)}")
    labels = ("start", "end") if found == SPAN else ("choice",) if found == CHOICE else _labels(config, source)
    kind = _kind(found, config, len(labels), source)
    return Task(kind, len(labels), pooling, dropout if rate is None else rate, labels if kind in LABELLED else None, length)


def _kind(found: str, config: dict, outputs: int, source: str) -> str:
    if found != SEQUENCE:
        return next(kind for kind, name in CLASSES.items() if name == found)
    if outputs == 1 and (isinstance(config.get("sentence_transformers"), Mapping) or "sbert_ce_default_activation_function" in config):
        return "ranking"
    problem = config.get("problem_type") or ("regression" if outputs == 1 else "single_label_classification")
    if problem not in PROBLEMS.values() or problem == "regression" and outputs > 1:
        raise ValueError(f"{source}: problem_type is {problem!r} with {outputs} labels; known: {', '.join(dict.fromkeys(PROBLEMS.values()))}, regression with one")
    return next(kind for kind, name in PROBLEMS.items() if name == problem)


def _labels(config: dict, source: str) -> tuple[str, ...]:
    stated = config.get("id2label")
    if stated is None:
        return tuple(f"LABEL_{number}" for number in range(_count(config.get("num_labels", 2), source, "num_labels")))
    if not isinstance(stated, dict) or len(stated) > MOST_LABELS or {*stated} != {str(number) for number in range(len(stated))} or not stated:
        raise ValueError(f"{source}: id2label is {str(stated)[:80]}; expected names of the labels 0, 1, 2, ...")
    labels = tuple(stated[str(number)] for number in range(len(stated)))
    if not all(isinstance(label, str) and label.isprintable() for label in labels) or len(set(labels)) < len(labels):
        raise ValueError(f"{source}: id2label is {str(stated)[:80]!r}; labels must be different printable texts")
    return labels


def _count(value: object, source: str, field: str) -> int:
    if type(value) is not int or not 1 <= value <= MOST_LABELS:
        raise ValueError(f"{source}: {field} is {value!r}; it must be a whole number from 1 to {MOST_LABELS}")
    return value
