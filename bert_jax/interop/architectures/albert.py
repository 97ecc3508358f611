"""ALBERT (Lan et al. 2019, arXiv 1909.11942) as transformers has it: groups of layers under their own numbers, and a head for the order of sentences."""

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
from bert_jax.interop.architectures.bert import DEFAULTED, EMBED_ROWS, REQUIRED_VALUES, SIZES
from bert_jax.interop.weights import TORCH, Naming, under
from bert_jax.model.spec import ModelSpec

NAMES = Naming(
    rows=(
        *under("encoder.embed.", "albert.embeddings.", EMBED_ROWS),
        ("encoder.embed.project.kernel", "albert.encoder.embedding_hidden_mapping_in.weight", "kernel"),
        ("encoder.embed.project.bias", "albert.encoder.embedding_hidden_mapping_in.bias", "flat"),
        ("mlm_head.transform.kernel", "predictions.dense.weight", "kernel"),
        ("mlm_head.transform.bias", "predictions.dense.bias", "flat"),
        ("mlm_head.norm.scale", "predictions.LayerNorm.weight", "flat"),
        ("mlm_head.norm.bias", "predictions.LayerNorm.bias", "flat"),
        ("mlm_head.bias", "predictions.bias", "vocabulary"),
        ("pooler.kernel", "albert.pooler.weight", "kernel"),
        ("pooler.bias", "albert.pooler.bias", "flat"),
        ("nsp_head.kernel", "sop_classifier.classifier.weight", "classifier"),
        ("nsp_head.bias", "sop_classifier.classifier.bias", "flat"),
    ),
    layer="albert.encoder.albert_layer_groups.{layer}.albert_layers.0.",
    layer_rows=(
        ("attention.query.kernel", "attention.query.weight", "kernel"),
        ("attention.query.bias", "attention.query.bias", "flat"),
        ("attention.key.kernel", "attention.key.weight", "kernel"),
        ("attention.key.bias", "attention.key.bias", "flat"),
        ("attention.value.kernel", "attention.value.weight", "kernel"),
        ("attention.value.bias", "attention.value.bias", "flat"),
        ("attention.output.kernel", "attention.dense.weight", "from_heads"),
        ("attention.output.bias", "attention.dense.bias", "flat"),
        ("attention_norm.scale", "attention.LayerNorm.weight", "flat"),
        ("attention_norm.bias", "attention.LayerNorm.bias", "flat"),
        ("mlp.up.kernel", "ffn.weight", "kernel"),
        ("mlp.up.bias", "ffn.bias", "flat"),
        ("mlp.down.kernel", "ffn_output.weight", "kernel"),
        ("mlp.down.bias", "ffn_output.bias", "flat"),
        ("mlp_norm.scale", "full_layer_layer_norm.weight", "flat"),
        ("mlp_norm.bias", "full_layer_layer_norm.bias", "flat"),
    ),
    prefix="albert.",
    inside=("embeddings.", "encoder.", "pooler."),
    needed=("albert.embeddings.", "albert.encoder.", "predictions.", "sop_classifier."),
    tied={"predictions.decoder.weight": "albert.embeddings.word_embeddings.weight", "predictions.decoder.bias": "predictions.bias"},
    outputs_first=TORCH,
)
SIZES = SIZES | {"embedding_size": "embedding_size"}
REQUIRED_VALUES = REQUIRED_VALUES | {"inner_group_num": (None, 1)}
DEFAULTED = DEFAULTED | {  # otherwise than in BERT
    "layer_groups": ("num_hidden_groups", 1),
    "dropout": ("hidden_dropout_prob", 0.0),
    "attention_dropout": ("attention_probs_dropout_prob", 0.0),
}


def to_section(config: dict, nsp: bool, source: str) -> dict:
    check_values(config, REQUIRED_VALUES, source)
    check_sizes(config, SIZES.values(), source)
    section = {ours: config[field] for ours, field in SIZES.items()} | {"nsp": nsp}
    section |= {"activation": activation_of({"hidden_act": "gelu_new"} | config, "hidden_act", source)}
    return section | {ours: config.get(field, default) for ours, (field, default) in DEFAULTED.items()}


def to_config(spec: ModelSpec, *, pad: int, cls: int, sep: int) -> dict:
    encoder = spec.encoder
    return sizes_of(spec) | {
        "embedding_size": encoder.embedding.size,
        "num_hidden_groups": encoder.layer_groups,
        "inner_group_num": 1,
        "classifier_dropout_prob": 0.1,
        "pad_token_id": pad,
        "bos_token_id": cls,
        "eos_token_id": sep,
    }


TASKS = task_classes(TaskClass((*linear("pooler", "albert.pooler"), *CLASSIFIER), dropout="classifier_dropout_prob"))
ALBERT = Architecture(
    "ALBERT", "albert", "Albert", NAMES, to_config, to_section, pair_logits="sop_logits", pair_objective="sentence-order prediction", tasks=TASKS
)
