"""What an architecture is, and the checks that all of them make of a config.json."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from bert_jax.interop.weights import Naming, Row
from bert_jax.model.spec import AnySpec, DetectionSpec

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
EXPORTED_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}
MOST_LAYERS, LARGEST_SIZE = 10_000, 2**31 - 1  # so that no config.json, whatever it says, makes a table of names that fills the memory


@dataclasses.dataclass(frozen=True)
class TaskClass:
    """A class of transformers for downstream tasks. rows: of the head's weights. dropout: the field of config.json with the rate before the classifier; None if
    that is the encoder's or none. fields: others that the head depends on, with the values under which ours computes the same. idle: weights that the class
    has and never uses, with their number of axes, each of the hidden size."""

    rows: tuple[Row, ...]
    dropout: str | None = "classifier_dropout"
    fields: dict[str, object] = dataclasses.field(default_factory=dict)
    idle: dict[str, int] = dataclasses.field(default_factory=dict)


def linear(ours: str, theirs: str, *, bias: bool = True) -> tuple[Row, ...]:
    """The rows of a dense layer."""
    return ((f"{ours}.kernel", f"{theirs}.weight", "kernel"), *([(f"{ours}.bias", f"{theirs}.bias", "flat")] if bias else []))


CLASSIFIER = linear("classifier", "classifier")
SPAN_CLASSIFIER = linear("classifier", "qa_outputs")


def task_classes(sequence: TaskClass, choice: TaskClass | None = None, **changes: TaskClass) -> dict[str, TaskClass]:
    """By their names without prefix and "For", with what most models have for tokens and spans. choice: None if as `sequence`."""
    tokens = {"TokenClassification": TaskClass(CLASSIFIER, sequence.dropout), "QuestionAnswering": TaskClass(SPAN_CLASSIFIER, dropout=None)}
    return {"SequenceClassification": sequence, "MultipleChoice": choice or sequence, **tokens} | changes


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How transformers knows a family. title: for a reader. naming: of its weights.

    to_config: (spec, pad=, cls=, sep=) -> the fields of config.json. to_section: (config.json, nsp, source) -> the fields of the `model`
    section but for `family`; ValueError names the field, its value and what fits. only_class: of several families with one model_type, the
    class that tells this one. pair_logits: the output of the sentence-pair head; pair_objective: what it is usually trained for.
    optional_pooler: whether the model without heads makes a pooler unless told otherwise. headless: whether the class has none of our heads. completed:
    (config.json, names of weights) -> config.json with what the names alone tell. more_inputs: (spec, input_ids) -> what transformers' model has to be
    given besides a tokenizer's output to compute what ours does. as_trained: (its model) -> None, what has to be done with it for that before each input. tasks: its classes for downstream tasks. without: of those that are not among them, why.
    poolings: which vectors their classifiers of sequences can read; pooling_field: of config.json, which says so if there are several. remarks: for the model cards of
    classes for downstream tasks.
    """

    title: str
    model_type: str
    class_prefix: str
    naming: Naming
    to_config: Callable[..., dict]
    to_section: Callable[[dict, bool, str], dict]
    only_class: str | None = None
    pair_logits: str = "seq_relationship_logits"
    pair_objective: str = "next-sentence prediction"
    optional_pooler: bool = True
    headless: bool = False
    completed: Callable[[dict, Iterable[str]], dict] = lambda config, names: config
    more_inputs: Callable[[AnySpec, np.ndarray], dict[str, np.ndarray]] = lambda spec, input_ids: {}
    as_trained: Callable[[object], None] = lambda model: None
    tasks: dict[str, TaskClass] = dataclasses.field(default_factory=dict)
    without: dict[str, str] = dataclasses.field(default_factory=dict)
    poolings: tuple[str, ...] = ("cls",)
    pooling_field: str | None = None
    remarks: dict[str, str] = dataclasses.field(default_factory=dict)

    def model_class(self, spec: AnySpec) -> str:
        return self.only_class or self.class_prefix + ("ForMaskedLM" if self.logits(spec).keys() == {"MLM logits"} else "ForPreTraining")

    def logits(self, spec: AnySpec) -> dict[str, str]:
        """Our heads' logits (`every_logit`) -> the outputs of the class that hold them."""
        if self.headless:
            return {}
        if isinstance(spec, DetectionSpec):
            return {"detection logits": "logits"}
        return {"MLM logits": "prediction_logits", "NSP logits": self.pair_logits} if spec.nsp else {"MLM logits": "logits"}


def check_values(config: dict, required: dict[str, tuple], source: str) -> None:
    """ValueError unless each field has one of its values; None stands for an absent field."""
    for field, values in required.items():
        if config.get(field) not in values:
            fitting = " or ".join("absent" if value is None else repr(value) for value in values)
            raise ValueError(f"{source}: {field} is {config[field]!r}; only encoders can be imported where it is {fitting}")


def check_sizes(config: dict, fields: Iterable[str], source: str) -> None:
    """ValueError unless each field is there and a positive integer that a model can have."""
    missing = [field for field in fields if field not in config]
    if missing:
        raise ValueError(f"{source} lacks {', '.join(missing)}; take the config that belongs to the checkpoint")
    for field in fields:
        if type(config[field]) is not int or config[field] < 1:
            raise ValueError(f"{source}: {field} is {config[field]!r}; it must be a positive integer")
        most = MOST_LAYERS if "layers" in field else LARGEST_SIZE
        if config[field] > most:
            raise ValueError(f"{source}: {field} is {config[field]}; it can be {most} at most. Take the config that belongs to the checkpoint")


def activation_of(config: dict, field: str, source: str) -> str:
    activation = config.get(field, "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"{source}: {field} is {activation!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[activation]


def sizes_of(spec: AnySpec) -> dict:
    """The fields of config.json that BERT and the models nearest to it name alike."""
    encoder = spec.encoder
    return {
        "vocab_size": encoder.embedding.vocab_size,
        "hidden_size": encoder.hidden_size,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.attention.num_heads,
        "intermediate_size": encoder.mlp.intermediate_size,
        "max_position_embeddings": encoder.embedding.position_rows,
        "type_vocab_size": encoder.embedding.type_vocab_size,
        "hidden_act": EXPORTED_ACTIVATIONS[encoder.mlp.activation],
        "layer_norm_eps": encoder.norm.eps,
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention.dropout,
        "initializer_range": encoder.initializer_range,
        "position_embedding_type": "absolute",
    }
