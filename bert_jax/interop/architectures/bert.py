"""BERT, RoBERTa and XLM-R: the models of Devlin et al. 2018 (arXiv 1810.04805), sections 3 and 3.1, under transformers' names and under those of
google-research/bert. Their configs, bert_config.json included, name their fields alike."""

import dataclasses
import functools

from bert_jax.interop.architectures.architecture import (
    CLASSIFIER,
    Architecture,
    TaskClass,
    activation_of,
    check_sizes,
    check_values,
    linear,
    sizes_of,
    task_classes,
)
from bert_jax.interop.weights import TORCH, Naming, under
from bert_jax.model.families import FAMILY_FIELDS
from bert_jax.model.spec import ModelSpec

EMBED_ROWS = (
    ("tokens.embedding", "word_embeddings.weight", "vocabulary"),
    ("positions.embedding", "position_embeddings.weight", "table"),
    ("token_types.embedding", "token_type_embeddings.weight", "table"),
    ("norm.scale", "LayerNorm.weight", "flat"),
    ("norm.bias", "LayerNorm.bias", "flat"),
)
LAYER_ROWS = (
    ("attention.query.kernel", "attention.self.query.weight", "kernel"),
    ("attention.query.bias", "attention.self.query.bias", "flat"),
    ("attention.key.kernel", "attention.self.key.weight", "kernel"),
    ("attention.key.bias", "attention.self.key.bias", "flat"),
    ("attention.value.kernel", "attention.self.value.weight", "kernel"),
    ("attention.value.bias", "attention.self.value.bias", "flat"),
    ("attention.output.kernel", "attention.output.dense.weight", "from_heads"),
    ("attention.output.bias", "attention.output.dense.bias", "flat"),
    ("attention_norm.scale", "attention.output.LayerNorm.weight", "flat"),
    ("attention_norm.bias", "attention.output.LayerNorm.bias", "flat"),
    ("mlp.up.kernel", "intermediate.dense.weight", "kernel"),
    ("mlp.up.bias", "intermediate.dense.bias", "flat"),
    ("mlp.down.kernel", "output.dense.weight", "kernel"),
    ("mlp.down.bias", "output.dense.bias", "flat"),
    ("mlp_norm.scale", "output.LayerNorm.weight", "flat"),
    ("mlp_norm.bias", "output.LayerNorm.bias", "flat"),
)
HEAD_ROWS = (
    ("transform.kernel", "transform.dense.weight", "kernel"),
    ("transform.bias", "transform.dense.bias", "flat"),
    ("norm.scale", "transform.LayerNorm.weight", "flat"),
    ("norm.bias", "transform.LayerNorm.bias", "flat"),
    ("bias", "bias", "vocabulary"),
)
PAIR_ROWS = (
    ("pooler.kernel", "bert.pooler.dense.weight", "kernel"),
    ("pooler.bias", "bert.pooler.dense.bias", "flat"),
    ("nsp_head.kernel", "cls.seq_relationship.weight", "classifier"),
    ("nsp_head.bias", "cls.seq_relationship.bias", "flat"),
)
BERT_NAMES = Naming(
    rows=(*under("encoder.embed.", "bert.embeddings.", EMBED_ROWS), *under("mlm_head.", "cls.predictions.", HEAD_ROWS), *PAIR_ROWS),
    layer="bert.encoder.layer.{layer}.",
    layer_rows=LAYER_ROWS,
    prefix="bert.",
    inside=("embeddings.", "encoder.", "pooler."),
    needed=("bert.embeddings.", "bert.encoder.", "cls."),
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    outputs_first=TORCH,
)
ROBERTA_HEAD_ROWS = (
    ("transform.kernel", "dense.weight", "kernel"),
    ("transform.bias", "dense.bias", "flat"),
    ("norm.scale", "layer_norm.weight", "flat"),
    ("norm.bias", "layer_norm.bias", "flat"),
    ("bias", "bias", "vocabulary"),
)
ROBERTA_NAMES = Naming(
    rows=(*under("encoder.embed.", "roberta.embeddings.", EMBED_ROWS), *under("mlm_head.", "lm_head.", ROBERTA_HEAD_ROWS)),
    layer="roberta.encoder.layer.{layer}.",
    layer_rows=LAYER_ROWS,
    prefix="roberta.",
    inside=("embeddings.", "encoder.", "pooler."),
    needed=("roberta.embeddings.", "roberta.encoder.", "lm_head."),
    tied={"lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.bias": "lm_head.bias"},
    outputs_first=TORCH,
)


def _pre_norm(name: str) -> str:
    """RoBERTa's name of a layer's weight -> XLM-R XL's, whose norms stand elsewhere."""
    return name.replace("attention.output.LayerNorm", "attention.self_attn_layer_norm").replace("output.LayerNorm", "LayerNorm")


XLM_ROBERTA_XL_NAMES = dataclasses.replace(
    ROBERTA_NAMES,
    rows=(
        *ROBERTA_NAMES.rows,
        ("encoder.final_norm.scale", "roberta.encoder.LayerNorm.weight", "flat"),
        ("encoder.final_norm.bias", "roberta.encoder.LayerNorm.bias", "flat"),
    ),
    layer_rows=tuple((ours, _pre_norm(theirs), kind) for ours, theirs, kind in LAYER_ROWS),
)


def _original(rows: tuple) -> tuple:
    """Rows with transformers' names -> with those of google-research/bert."""
    changes = ((".weight", ".kernel"), ("LayerNorm.kernel", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"), ("embeddings.kernel", "embeddings"),
               ("predictions.bias", "predictions.output_bias"), ("relationship.kernel", "relationship.output_weights"), ("relationship.bias", "relationship.output_bias"))  # fmt: skip
    return tuple((ours, functools.reduce(lambda name, change: name.replace(*change), changes, theirs).replace(".", "/"), kind) for ours, theirs, kind in rows)


ORIGINAL_NAMES = Naming(
    rows=_original(BERT_NAMES.rows),
    layer="bert/encoder/layer_{layer}/",
    layer_rows=_original(LAYER_ROWS),
    prefix="bert/",
    inside=(),
    needed=("bert/embeddings/", "bert/encoder/", "cls/"),
    tied={},
    outputs_first=("classifier",),
)

SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
}
DEFAULTED = {  # what all formats mean by an absent field
    "norm_eps": ("layer_norm_eps", 1e-12),
    "dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
    "initializer_range": ("initializer_range", 0.02),
}
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


def to_section(config: dict, nsp: bool, source: str, *, family: str) -> dict:
    fields = FAMILY_FIELDS[family]
    check_values(config, REQUIRED_VALUES, source)
    check_sizes(config, SIZES.values(), source)
    if config.get("embedding_size", config["hidden_size"]) != config["hidden_size"]:
        raise ValueError(
            f"{source}: embedding_size {config['embedding_size']!r} differs from hidden_size {config['hidden_size']!r}; "
            "factorised embeddings are not a BERT encoder's (ALBERT's and ELECTRA's model_type are others)"
        )
    section = {ours: config[field] for ours, field in SIZES.items()} | {"activation": activation_of(config, "hidden_act", source), "nsp": nsp}
    section |= {ours: config.get(field, default) for ours, (field, default) in DEFAULTED.items()}
    if "position_offset" in fields:
        section |= _positions(config, source)
    for ours, field in (("type_vocab_size", "type_vocab_size"), ("activation", "hidden_act")):
        if ours not in fields and section[ours] != FIXED[ours]:
            raise ValueError(f"{source}: {field} is {config[field]!r}; {family} models can be imported where it is {FIXED[ours]!r}")
    return {field: section[field] for field in fields}


def _positions(config: dict, source: str) -> dict[str, int]:
    """RoBERTa's table holds rows for no token (up to that of padding) and then one for each position of the longest input."""
    pad = config.get("pad_token_id", 1)
    if type(pad) is not int or not 0 <= pad < config["max_position_embeddings"] - 1:
        raise ValueError(
            f"{source}: pad_token_id is {pad!r}; expected an id from 0 to max_position_embeddings - 2, for positions begin after it"
        )
    return {"position_offset": pad + 1, "max_positions": config["max_position_embeddings"] - pad - 1}


def to_config(spec: ModelSpec, *, pad: int, cls: int, sep: int, names_ends: bool) -> dict:
    """names_ends: whether config.json names the tokens that begin and end an input."""
    encoder = spec.encoder
    offset = encoder.embedding.position_offset
    if offset and offset != pad + 1:
        raise ValueError(
            f"model.position_offset is {offset}, but the tokenizer's padding token has id {pad}; transformers counts the positions of "
            f"a RoBERTa from that id + 1. Give the tokenizer that the model was trained with (or train with position_offset={pad + 1})"
        )
    return sizes_of(spec) | {
        "pad_token_id": pad,
        "bos_token_id": cls if names_ends else None,
        "eos_token_id": sep if names_ends else None,
        "classifier_dropout": None,
        "is_decoder": False,
        "add_cross_attention": False,
        "use_cache": True,
    }


# The first has the pretrained pooler before a classifier of sequences, RoBERTa a layer of the classifier's own, but not before one of choices.
TASKS = task_classes(TaskClass((*linear("pooler", "bert.pooler.dense"), *CLASSIFIER)))
ROBERTA_CLASSIFIER = (*linear("pooler", "classifier.dense"), *linear("classifier", "classifier.out_proj"))
ROBERTA_TASKS = task_classes(TaskClass(ROBERTA_CLASSIFIER), TaskClass((*linear("pooler", "roberta.pooler.dense"), *CLASSIFIER), dropout=None))


def _architecture(title: str, family: str, model_type: str, class_prefix: str, naming: Naming, names_ends: bool, tasks: dict[str, TaskClass]) -> Architecture:
    described = functools.partial(to_config, names_ends=names_ends), functools.partial(to_section, family=family)
    return Architecture(title, model_type, class_prefix, naming, *described, tasks=tasks)


BERT = _architecture("BERT", "bert", "bert", "Bert", BERT_NAMES, names_ends=False, tasks=TASKS)
ROBERTA = _architecture("RoBERTa", "roberta", "roberta", "Roberta", ROBERTA_NAMES, names_ends=True, tasks=ROBERTA_TASKS)
XLM_ROBERTA = _architecture("XLM-RoBERTa", "xlm_roberta", "xlm-roberta", "XLMRoberta", ROBERTA_NAMES, names_ends=True, tasks=ROBERTA_TASKS)
XLM_ROBERTA_XL = _architecture("XLM-RoBERTa-XL", "xlm_roberta_xl", "xlm-roberta-xl", "XLMRobertaXL", XLM_ROBERTA_XL_NAMES, names_ends=True, tasks=ROBERTA_TASKS)
