"""A BERT config.json (Hugging Face) or bert_config.json (original) <-> a config's `model` section. Both formats name their fields alike."""

from bert_jax.model.families import build_spec
from bert_jax.model.spec import ModelSpec

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
# Fields that change what is computed, and the values (or absence) under which our encoder computes the same.
REQUIRED_VALUES = {
    "model_type": (None, "bert"),
    "position_embedding_type": (None, "absolute"),
    "is_decoder": (None, False),
    "add_cross_attention": (None, False),
    "is_encoder_decoder": (None, False),
    "tie_word_embeddings": (None, True),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
}


def section_from_config(config: dict, *, nsp: bool, source: str) -> dict:
    """The `model` section of a config; `source` names the file in errors. ValueError names the field, its value and what fits."""
    if not isinstance(config, dict):
        raise ValueError(f"{source} holds {type(config).__name__}; expected a JSON object with the model's sizes")
    for field, values in REQUIRED_VALUES.items():
        if config.get(field) not in values:
            fitting = " or ".join("absent" if value is None else repr(value) for value in values)
            raise ValueError(f"{source}: {field} is {config[field]!r}; only BERT encoders can be imported, where it is {fitting}")
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
    section = {"family": "bert"} | {ours: config[field] for ours, field in SIZES.items()}
    section |= {"activation": ACTIVATIONS[activation]} | {ours: config.get(field, default) for ours, (field, default) in DEFAULTED.items()}
    section["nsp"] = nsp
    try:
        build_spec(section)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} does not describe a model: {error}") from None
    return section


def config_from_spec(spec: ModelSpec, *, pad_token_id: int) -> dict:
    """A complete Hugging Face BertConfig as a JSON object."""
    encoder = spec.encoder
    return {
        "architectures": ["BertForPreTraining" if spec.nsp else "BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": encoder.embedding.vocab_size,
        "hidden_size": encoder.hidden_size,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.attention.num_heads,
        "intermediate_size": encoder.mlp.intermediate_size,
        "max_position_embeddings": encoder.embedding.max_positions,
        "type_vocab_size": encoder.embedding.type_vocab_size,
        "hidden_act": EXPORTED_ACTIVATIONS[encoder.mlp.activation],
        "layer_norm_eps": encoder.norm_eps,
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention.dropout,
        "initializer_range": encoder.initializer_range,
        "pad_token_id": pad_token_id,
        "bos_token_id": None,
        "eos_token_id": None,
        "classifier_dropout": None,
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "torch_dtype": "float32",
    }
