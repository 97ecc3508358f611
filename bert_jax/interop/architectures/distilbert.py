"""DistilBERT (Sanh et al. 2019, arXiv 1910.01108) as transformers has it: BERT's layers under names of their own, without token types and pooler."""

from bert_jax.interop.architectures.architecture import (
    CLASSIFIER,
    EXPORTED_ACTIVATIONS,
    SPAN_CLASSIFIER,
    Architecture,
    TaskClass,
    activation_of,
    check_sizes,
    check_values,
    linear,
    task_classes,
)  # fmt: skip
from bert_jax.interop.weights import TORCH, Naming
from bert_jax.model.spec import ModelSpec

NAMES = Naming(
    rows=(
        ("encoder.embed.tokens.embedding", "distilbert.embeddings.word_embeddings.weight", "vocabulary"),
        ("encoder.embed.positions.embedding", "distilbert.embeddings.position_embeddings.weight", "table"),
        ("encoder.embed.norm.scale", "distilbert.embeddings.LayerNorm.weight", "flat"),
        ("encoder.embed.norm.bias", "distilbert.embeddings.LayerNorm.bias", "flat"),
        ("mlm_head.transform.kernel", "vocab_transform.weight", "kernel"),
        ("mlm_head.transform.bias", "vocab_transform.bias", "flat"),
        ("mlm_head.norm.scale", "vocab_layer_norm.weight", "flat"),
        ("mlm_head.norm.bias", "vocab_layer_norm.bias", "flat"),
        ("mlm_head.bias", "vocab_projector.bias", "vocabulary"),
    ),
    layer="distilbert.transformer.layer.{layer}.",
    layer_rows=(
        ("attention.query.kernel", "attention.q_lin.weight", "kernel"),
        ("attention.query.bias", "attention.q_lin.bias", "flat"),
        ("attention.key.kernel", "attention.k_lin.weight", "kernel"),
        ("attention.key.bias", "attention.k_lin.bias", "flat"),
        ("attention.value.kernel", "attention.v_lin.weight", "kernel"),
        ("attention.value.bias", "attention.v_lin.bias", "flat"),
        ("attention.output.kernel", "attention.out_lin.weight", "from_heads"),
        ("attention.output.bias", "attention.out_lin.bias", "flat"),
        ("attention_norm.scale", "sa_layer_norm.weight", "flat"),
        ("attention_norm.bias", "sa_layer_norm.bias", "flat"),
        ("mlp.up.kernel", "ffn.lin1.weight", "kernel"),
        ("mlp.up.bias", "ffn.lin1.bias", "flat"),
        ("mlp.down.kernel", "ffn.lin2.weight", "kernel"),
        ("mlp.down.bias", "ffn.lin2.bias", "flat"),
        ("mlp_norm.scale", "output_layer_norm.weight", "flat"),
        ("mlp_norm.bias", "output_layer_norm.bias", "flat"),
    ),
    prefix="distilbert.",
    inside=("embeddings.", "transformer."),
    needed=("distilbert.", "vocab_"),
    tied={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    outputs_first=TORCH,
)
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_layers": "n_layers",
    "num_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "max_positions": "max_position_embeddings",
}
RATES = {"dropout": 0.1, "attention_dropout": 0.1, "initializer_range": 0.02}  # under the same names there
REQUIRED_VALUES = {"tie_word_embeddings": (None, True), "pruned_heads": (None, {}), "quantization_config": (None,)}


def to_section(config: dict, nsp: bool, source: str) -> dict:
    del nsp  # there is no such head
    check_values(config, REQUIRED_VALUES, source)
    check_sizes(config, SIZES.values(), source)
    section = {ours: config[field] for ours, field in SIZES.items()} | {"activation": activation_of(config, "activation", source)}
    return section | {name: config.get(name, default) for name, default in RATES.items()}


def to_config(spec: ModelSpec, *, pad: int, cls: int, sep: int) -> dict:
    del cls, sep  # not named in this config
    encoder = spec.encoder
    return {
        "vocab_size": encoder.embedding.vocab_size,
        "dim": encoder.hidden_size,
        "n_layers": encoder.num_layers,
        "n_heads": encoder.attention.num_heads,
        "hidden_dim": encoder.mlp.intermediate_size,
        "max_position_embeddings": encoder.embedding.max_positions,
        "sinusoidal_pos_embds": False,
        "activation": EXPORTED_ACTIVATIONS[encoder.mlp.activation],
        "dropout": encoder.dropout,
        "attention_dropout": encoder.attention.dropout,
        "initializer_range": encoder.initializer_range,
        "pad_token_id": pad,
    }


TASKS = task_classes(
    TaskClass((*linear("pooler", "pre_classifier"), *CLASSIFIER), dropout="seq_classif_dropout"),
    TokenClassification=TaskClass(CLASSIFIER, dropout=None),
    QuestionAnswering=TaskClass(SPAN_CLASSIFIER, dropout="qa_dropout"),
)
DISTILBERT = Architecture("DistilBERT", "distilbert", "DistilBert", NAMES, to_config, to_section, optional_pooler=False, tasks=TASKS)
