"""A config.json (Hugging Face) or bert_config.json (original BERT) <-> a config's `model` section. All formats name their fields alike."""

import dataclasses

from bert_jax.model.families import FAMILY_FIELDS, build_spec


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How transformers knows a family. title: for a reader. naming: of `names.py`; also the prefix of the encoder's weights.

    names_ends: whether config.json names the tokens that begin and end an input.
    """

    title: str
    model_type: str
    naming: str
    class_prefix: str
    names_ends: bool


ARCHITECTURES = {
    "bert": Architecture("BERT", "bert", "bert", "Bert", False),
    "roberta": Architecture("RoBERTa", "roberta", "roberta", "Roberta", True),
    "xlm_roberta": Architecture("XLM-RoBERTa", "xlm-roberta", "roberta", "XLMRoberta", True),
}
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
}
DEFAULTED = {  # what both formats mean by an absent field
    "norm_eps": ("layer_norm_eps", 1e-12),
    "dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
    "initializer_range": ("initializer_range", 0.02),
}
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
EXPORTED_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}
FIXED = {"type_vocab_size": 1, "activation": "gelu"}  # in a family whose section does not state them
# Fields that change what is computed, and the values (or absence) under which our encoder computes the same.
REQUIRED_VALUES = {
    "position_embedding_type": (None, "absolute"),
    "is_decoder": (None, False),
    "add_cross_attention": (None, False),
    "is_encoder_decoder": (None, False),
    "tie_word_embeddings": (None, True),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
}


def family_of(config: dict, *, source: str) -> str:
    """The family of a config; `source` names the file in errors. An absent model_type is an original BERT's."""
    if not isinstance(config, dict):
        raise ValueError(f"{source} holds {type(config).__name__}; expected a JSON object with the model's sizes")
    model_type = config.get("model_type") or "bert"
    families = [family for family, architecture in ARCHITECTURES.items() if architecture.model_type == model_type]
    if not families:
        known = ", ".join(architecture.model_type for architecture in ARCHITECTURES.values())
        raise ValueError(f"{source}: model_type is {model_type!r}; models of these types can be imported: {known}")
    return families[0]


def model_class(section: dict) -> str:
    """The class of transformers that has all weights of a model."""
    return ARCHITECTURES[section["family"]].class_prefix + ("ForPreTraining" if build_spec(section).nsp else "ForMaskedLM")


def section_from_config(config: dict, *, nsp: bool, source: str) -> dict:
    """The `model` section of a config; `source` names the file in errors. ValueError names the field, its value and what fits.

    nsp: whether a model of a family that can have a sentence-pair head has one.
    """
    family = family_of(config, source=source)
    fields = FAMILY_FIELDS[family]
    for field, values in REQUIRED_VALUES.items():
        if config.get(field) not in values:
            fitting = " or ".join("absent" if value is None else repr(value) for value in values)
            raise ValueError(f"{source}: {field} is {config[field]!r}; only encoders can be imported where it is {fitting}")
    missing = [field for field in SIZES.values() if field not in config]
    if missing:
        raise ValueError(f"{source} lacks {', '.join(missing)}; take the config that belongs to the checkpoint")
    for field in SIZES.values():
        if type(config[field]) is not int or config[field] < 1:
            raise ValueError(f"{source}: {field} is {config[field]!r}; it must be a positive integer")
    if config.get("embedding_size", config["hidden_size"]) != config["hidden_size"]:
        raise ValueError(
            f"{source}: embedding_size {config['embedding_size']!r} differs from hidden_size {config['hidden_size']!r}; "
            "factorised embeddings (ALBERT, ELECTRA) are not a BERT encoder and cannot be imported"
        )
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise ValueError(f"{source}: hidden_act is {activation!r}; known: {', '.join(ACTIVATIONS)}")
    section = {ours: config[field] for ours, field in SIZES.items()} | {"activation": ACTIVATIONS[activation], "nsp": nsp}
    section |= {ours: config.get(field, default) for ours, (field, default) in DEFAULTED.items()}
    if "position_offset" in fields:
        section |= _positions(config, source)
    for ours, field in (("type_vocab_size", "type_vocab_size"), ("activation", "hidden_act")):
        if ours not in fields and section[ours] != FIXED[ours]:
            raise ValueError(f"{source}: {field} is {config[field]!r}; {family} models can be imported where it is {FIXED[ours]!r}")
    section = {"family": family} | {field: section[field] for field in fields}
    try:
        build_spec(section)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} does not describe a model: {error}") from None
    return section


def _positions(config: dict, source: str) -> dict[str, int]:
    """RoBERTa's table holds rows for no token (up to that of padding) and then one for each position of the longest input."""
    pad = config.get("pad_token_id", 1)
    if type(pad) is not int or not 0 <= pad < config["max_position_embeddings"] - 1:
        raise ValueError(
            f"{source}: pad_token_id is {pad!r}; expected an id from 0 to max_position_embeddings - 2, for positions begin after it"
        )
    return {"position_offset": pad + 1, "max_positions": config["max_position_embeddings"] - pad - 1}


def config_from_section(section: dict, *, pad: int, cls: int, sep: int) -> dict:
    """A complete Hugging Face config as a JSON object. pad, cls, sep: ids of the tokenizer. ValueError if the positions begin elsewhere."""
    encoder = build_spec(section).encoder
    architecture = ARCHITECTURES[section["family"]]
    offset = encoder.embedding.position_offset
    if offset and offset != pad + 1:
        raise ValueError(
            f"model.position_offset is {offset}, but the tokenizer's padding token has id {pad}; transformers counts the positions of "
            f"{architecture.title} from that id + 1. Give the tokenizer that the model was trained with (or train with position_offset={pad + 1})"
        )
    return {
        "architectures": [model_class(section)],
        "model_type": architecture.model_type,
        "vocab_size": encoder.embedding.vocab_size,
        "hidden_size": encoder.hidden_size,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.attention.num_heads,
        "intermediate_size": encoder.mlp.intermediate_size,
        "max_position_embeddings": encoder.embedding.position_rows,
        "type_vocab_size": encoder.embedding.type_vocab_size,
        "hidden_act": EXPORTED_ACTIVATIONS[encoder.mlp.activation],
        "layer_norm_eps": encoder.norm_eps,
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention.dropout,
        "initializer_range": encoder.initializer_range,
        "pad_token_id": pad,
        "bos_token_id": cls if architecture.names_ends else None,
        "eos_token_id": sep if architecture.names_ends else None,
        "classifier_dropout": None,
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "torch_dtype": "float32",
    }
