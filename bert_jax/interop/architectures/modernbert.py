"""ModernBERT (Warner et al. 2024, arXiv 2412.13663) as transformers has it: one matrix for query, key and value, one for both halves of the MLP."""

from bert_jax.interop.architectures.architecture import CLASSIFIER, Architecture, TaskClass, check_sizes, check_values, linear, task_classes
from bert_jax.interop.weights import TORCH, Naming
from bert_jax.model.spec import ModelSpec

NAMES = Naming(
    rows=(
        ("encoder.embed.tokens.embedding", "model.embeddings.tok_embeddings.weight", "vocabulary"),
        ("encoder.embed.norm.scale", "model.embeddings.norm.weight", "flat"),
        ("encoder.final_norm.scale", "model.final_norm.weight", "flat"),
        ("mlm_head.transform.kernel", "head.dense.weight", "kernel"),
        ("mlm_head.norm.scale", "head.norm.weight", "flat"),
        ("mlm_head.bias", "decoder.bias", "vocabulary"),
    ),
    layer="model.layers.{layer}.",
    layer_rows=(
        ("attention.(query|key|value).kernel", "attn.Wqkv.weight", "kernel"),
        ("attention.output.kernel", "attn.Wo.weight", "from_heads"),
        ("attention_norm.scale", "attn_norm.weight", "flat"),
        ("mlp.up.kernel", "mlp.Wi.weight", "kernel"),
        ("mlp.down.kernel", "mlp.Wo.weight", "kernel"),
        ("mlp_norm.scale", "mlp_norm.weight", "flat"),
    ),
    prefix="model.",
    inside=("embeddings.", "layers.", "final_norm."),
    needed=("model.", "head.", "decoder."),
    tied={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    outputs_first=TORCH,
)
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "window": "local_attention",
}
REQUIRED_VALUES = {
    "hidden_activation": (None, "gelu"),
    "norm_bias": (None, False),
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "decoder_bias": (None, True),
    "classifier_bias": (None, False),
    "classifier_activation": (None, "gelu"),
    "tie_word_embeddings": (None, True),
    "quantization_config": (None,),
}
KINDS = {"full_attention": ("global_rope_theta", 160_000.0), "sliding_attention": ("local_rope_theta", 10_000.0)}


def to_section(config: dict, nsp: bool, source: str) -> dict:
    del nsp  # there is no such head
    check_values(config, REQUIRED_VALUES, source)
    check_sizes(config, SIZES.values(), source)
    bases = []
    for kind, (older_field, default) in KINDS.items():
        rope = (config.get("rope_parameters") or {}).get(kind) or {}
        if rope.get("rope_type", "default") != "default":
            raise ValueError(f"{source}: rope_parameters.{kind}.rope_type is {rope['rope_type']!r}; only 'default' can be imported")
        bases.append(float(rope.get("rope_theta", config.get(older_field, default))))
    return {ours: config[field] for ours, field in SIZES.items()} | {
        "global_every": _global_every(config, source),
        "rope_base": bases[0],
        "local_rope_base": bases[1],
        "norm_eps": config.get("norm_eps", 1e-5),
        "dropout": config.get("embedding_dropout", 0.0),
        "attention_dropout": config.get("attention_dropout", 0.0),
        "initializer_range": config.get("initializer_range", 0.02),
    }


def _global_every(config: dict, source: str) -> int:
    layers, stated = config["num_hidden_layers"], config.get("global_attn_every_n_layers")
    types = config.get("layer_types")
    if types is None:
        return 3 if stated is None else stated
    every = next((index for index in range(1, layers) if types[index] == "full_attention"), layers)
    if types != layer_types(layers, every):
        raise ValueError(f"{source}: layer_types is {types}; only a 'full_attention' at every n-th layer, from the first, can be imported")
    return stated if stated and types == layer_types(layers, stated) else every


def layer_types(layers: int, every: int) -> list[str]:
    return ["sliding_attention" if layer % every else "full_attention" for layer in range(layers)]


def to_config(spec: ModelSpec, *, pad: int, cls: int, sep: int) -> dict:
    encoder = spec.encoder
    seen, local = encoder.kinds[0], encoder.kinds[-1]
    window, local_base = (local.window, local.rope.base) if local.window else (128, KINDS["sliding_attention"][1])
    return {
        "vocab_size": encoder.embedding.vocab_size,
        "hidden_size": encoder.hidden_size,
        "num_hidden_layers": encoder.num_layers,
        "num_attention_heads": encoder.attention.num_heads,
        "intermediate_size": encoder.mlp.intermediate_size,
        "max_position_embeddings": encoder.embedding.max_positions,
        "local_attention": window,
        "layer_types": layer_types(encoder.num_layers, len(encoder.kinds)),
        "global_attn_every_n_layers": len(encoder.kinds),
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": seen.rope.base},
            "sliding_attention": {"rope_type": "default", "rope_theta": local_base},
        },
        "global_rope_theta": seen.rope.base,
        "local_rope_theta": local_base,
        "hidden_activation": "gelu",
        "norm_eps": encoder.norm.eps,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "decoder_bias": True,
        "embedding_dropout": encoder.dropout,
        "mlp_dropout": encoder.dropout,
        "attention_dropout": encoder.attention.dropout,
        "initializer_range": encoder.initializer_range,
        "pad_token_id": pad,
        "bos_token_id": cls,
        "eos_token_id": sep,
        "cls_token_id": cls,
        "sep_token_id": sep,
    }


HEAD = TaskClass((*linear("pooler", "head.dense", bias=False), ("pooler_norm.scale", "head.norm.weight", "flat"), *CLASSIFIER))  # in all of its classes
MODERNBERT = Architecture(
    "ModernBERT", "modernbert", "ModernBert", NAMES, to_config, to_section, optional_pooler=False,
    tasks=task_classes(HEAD, TokenClassification=HEAD, QuestionAnswering=HEAD), poolings=("cls", "mean"), pooling_field="classifier_pooling",
)  # fmt: skip
