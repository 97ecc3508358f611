"""DeBERTa (He et al. 2020, arXiv 2006.03654; version 3: He et al. 2021, arXiv 2111.09543) as transformers has it, under the names of microsoft/DeBERTa.

Its classes have neither the mask decoder nor a head that finds replaced tokens: their weights lie beside the others in a file of their own, and what an exported
model says of masks is what the MLM head says of the last layer.
"""

import dataclasses
from collections.abc import Callable, Iterable

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
from bert_jax.interop.architectures.bert import EMBED_ROWS, LAYER_ROWS, REQUIRED_VALUES, SIZES
from bert_jax.interop.architectures.electra import DISCRIMINATOR, GENERATOR
from bert_jax.interop.weights import TORCH, Naming, under
from bert_jax.model.families import FAMILY_FIELDS
from bert_jax.model.spec import AnySpec

POSITIONS = "deberta.embeddings.position_embeddings.weight"  # of the input or, if that has none, of the mask decoder
OUTSIDE = tuple(row for row in LAYER_ROWS if not row[0].startswith(("attention.query", "attention.key", "attention.value")))
NAMES = Naming(
    rows=(
        *under("encoder.embed.", "deberta.embeddings.", EMBED_ROWS),
        ("encoder.relative.table.embedding", "deberta.encoder.rel_embeddings.weight", "table"),
        ("mlm_head.transform.kernel", "lm_predictions.lm_head.dense.weight", "kernel"),
        ("mlm_head.transform.bias", "lm_predictions.lm_head.dense.bias", "flat"),
        ("mlm_head.norm.scale", "lm_predictions.lm_head.LayerNorm.weight", "flat"),
        ("mlm_head.norm.bias", "lm_predictions.lm_head.LayerNorm.bias", "flat"),
        ("mlm_head.bias", "lm_predictions.lm_head.bias", "vocabulary"),
        ("mask_decoder.positions.embedding", POSITIONS, "table"),
    ),
    layer="deberta.encoder.layer.{layer}.",
    layer_rows=(
        ("attention.(query|key|value).kernel", "attention.self.in_proj.weight", "by_head"),
        ("attention.query.bias", "attention.self.q_bias", "flat"),
        ("attention.value.bias", "attention.self.v_bias", "flat"),
        ("attention.position_key.kernel", "attention.self.pos_proj.weight", "kernel"),
        ("attention.position_query.kernel", "attention.self.pos_q_proj.weight", "kernel"),
        ("attention.position_query.bias", "attention.self.pos_q_proj.bias", "flat"),
        *OUTSIDE,
    ),
    prefix="deberta.",
    inside=("embeddings.", "encoder."),
    needed=("deberta.", "lm_predictions.", "cls.", "detection_head."),
    tied={"cls.predictions.decoder.weight": "deberta.embeddings.word_embeddings.weight", "cls.predictions.decoder.bias": "lm_predictions.lm_head.bias"},
    outputs_first=(*TORCH, "by_head"),
    renamed=(("cls.predictions.transform.", "lm_predictions.lm_head."), ("cls.predictions.bias", "lm_predictions.lm_head.bias")),  # config.legacy
    beside=("mask_decoder",),
)
NAMES_V2 = dataclasses.replace(
    NAMES,
    rows=(
        *NAMES.rows,
        ("encoder.relative.norm.scale", "deberta.encoder.LayerNorm.weight", "flat"),
        ("encoder.relative.norm.bias", "deberta.encoder.LayerNorm.bias", "flat"),
        ("encoder.convolution.project.kernel", "deberta.encoder.conv.conv.weight", "convolution"),
        ("encoder.convolution.project.bias", "deberta.encoder.conv.conv.bias", "flat"),
        ("encoder.convolution.norm.scale", "deberta.encoder.conv.LayerNorm.weight", "flat"),
        ("encoder.convolution.norm.bias", "deberta.encoder.conv.LayerNorm.bias", "flat"),
        ("detection_head.transform.kernel", "detection_head.dense.weight", "kernel"),
        ("detection_head.transform.bias", "detection_head.dense.bias", "flat"),
        ("detection_head.score.kernel", "detection_head.classifier.weight", "kernel"),
        ("detection_head.score.bias", "detection_head.classifier.bias", "flat"),
    ),
    layer_rows=(
        *((f"attention.{part}.kernel", f"attention.self.{part}_proj.weight", "kernel") for part in ("query", "key", "value")),
        *((f"attention.{part}.bias", f"attention.self.{part}_proj.bias", "flat") for part in ("query", "key", "value")),
        *OUTSIDE,
    ),
    outputs_first=(*TORCH, "convolution"),
    beside=("mask_decoder", "detection_head"),
)
SIZES = {ours: field for ours, field in SIZES.items() if ours != "type_vocab_size"}
DEFAULTED = {
    "type_vocab_size": ("type_vocab_size", 0),
    "norm_eps": ("layer_norm_eps", 1e-7),
    "dropout": ("hidden_dropout_prob", 0.1),
    "attention_dropout": ("attention_probs_dropout_prob", 0.1),
    "initializer_range": ("initializer_range", 0.02),
    "input_positions": ("position_biased_input", True),
    "mask_decoder": ("enhanced_mask_decoder", False),  # a field of ours
}
REQUIRED_VALUES = REQUIRED_VALUES | {"relative_attention": (True,), "talking_head": (None, False)}
REQUIRED_VALUES_V2 = REQUIRED_VALUES | {"share_att_key": (True,), "norm_rel_ebd": ("layer_norm",), "conv_groups": (None, 1)}


def to_section(config: dict, nsp: bool, source: str) -> dict:
    del nsp  # there is no such head
    check_values(config, REQUIRED_VALUES, source)
    check_sizes(config, SIZES.values(), source)
    terms = config.get("pos_att_type")
    if sorted(terms.lower().split("|") if isinstance(terms, str) else terms or []) != ["c2p", "p2c"]:
        raise ValueError(f"{source}: pos_att_type is {terms!r}; only encoders can be imported where it is 'c2p|p2c'")
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    for field, value in (("embedding_size", hidden), ("attention_head_size", hidden // heads)):
        if config.get(field, value) != value:
            raise ValueError(f"{source}: {field} is {config[field]!r}; only encoders can be imported where it is absent, or {value}")
    stated = config.get("max_relative_positions", -1)
    if type(stated) is not int:
        raise ValueError(f"{source}: max_relative_positions is {stated!r}; it must be an integer, or -1 for max_position_embeddings")
    section = {ours: config[field] for ours, field in SIZES.items()} | {"activation": activation_of(config, "hidden_act", source)}
    section |= {"max_distance": stated if stated > 0 else config["max_position_embeddings"]}
    return section | {ours: config.get(field, default) for ours, (field, default) in DEFAULTED.items()}


def to_section_v2(config: dict, nsp: bool, source: str) -> dict:
    section = to_section(config, nsp, source)
    check_values(config, REQUIRED_VALUES_V2, source)
    check_sizes(config, ("position_buckets",), source)
    taps = config.get("conv_kernel_size", 0)
    if taps and config.get("conv_act", "tanh") != config.get("hidden_act", "gelu"):
        raise ValueError(f"{source}: conv_act is {config.get('conv_act', 'tanh')!r}; only encoders can be imported where it is hidden_act")
    return section | {"position_buckets": config["position_buckets"], "convolution": taps}


def to_section_v3(config: dict, nsp: bool, source: str) -> dict:
    return {name: value for name, value in to_section_v2(config, nsp, source).items() if name != "mask_decoder"}


def to_config(spec: AnySpec, *, pad: int, cls: int, sep: int) -> dict:
    del cls, sep  # not named in this config
    encoder = spec.encoder
    relative, decoder = encoder.attention, getattr(spec, "mask_decoder", False)
    config = {field: value for field, value in sizes_of(spec).items() if field != "position_embedding_type"}
    config |= {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "max_relative_positions": relative.max_distance,
        "position_biased_input": encoder.embedding.positions != "none",
        "pad_token_id": pad,
        "legacy": False,  # names and head of microsoft/DeBERTa
    } | ({"enhanced_mask_decoder": True} if decoder else {})
    if relative.buckets is None:
        return config
    config |= {"position_buckets": relative.buckets, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
    return config | ({"conv_kernel_size": encoder.convolution, "conv_act": config["hidden_act"]} if encoder.convolution else {})


def completed(config: dict, names: Iterable[str]) -> dict:
    """Published checkpoints have a mask decoder, of which their configs say nothing, if there are positions and the input has none."""
    decoder = POSITIONS in names and not config.get("position_biased_input", True)
    return {"enhanced_mask_decoder": decoder} | config


def parts(section: dict, params: dict) -> dict[str, tuple[dict, dict]]:
    """A model of the family `deberta_v3` -> its discriminator, with the sum of both token tables, and its generator."""
    discriminator, generator = ({name: section[name] for name in FAMILY_FIELDS[family] if name in section} for family in ("deberta_v3_discriminator", "deberta_v2"))
    return {
        DISCRIMINATOR: (
            discriminator | {"family": "deberta_v3_discriminator"},
            {"encoder": _with_tokens(params["encoder"], _tokens(params) + _tokens(params["generator"])), "detection_head": params["detection_head"]},
        ),
        GENERATOR: (generator | {"family": "deberta_v2", "num_layers": section["generator_layers"]}, params["generator"]),
    }


def whole(load: Callable[[str], tuple[dict, dict]]) -> tuple[dict, dict]:
    """The inverse of `parts`, but for the rounding of a sum and a difference; load: the name of a part -> its (section, params). ValueError if they do not
    belong together."""
    (section, params), (smaller, generator) = load(DISCRIMINATOR), load(GENERATOR)
    differing = sorted(name for name in section.keys() - {"num_layers", "family"} if section[name] != smaller[name])
    if differing:
        what = ", ".join(f"{name} ({section[name]!r} and {smaller[name]!r})" for name in differing)
        raise ValueError(f"{DISCRIMINATOR} and {GENERATOR} differ in {what}, which the two of one DeBERTaV3 share; give those of one model")
    encoder = _with_tokens(params["encoder"], _tokens(params) - _tokens(generator))
    sizes = {"family": "deberta_v3", "generator_layers": smaller["num_layers"], "mask_decoder": smaller["mask_decoder"], "detection_weight": 50.0}
    return section | sizes, params | {"encoder": encoder, "generator": generator}


def _tokens(params: dict):
    return params["encoder"]["embed"]["tokens"]["embedding"]


def _with_tokens(encoder: dict, table) -> dict:
    return encoder | {"embed": encoder["embed"] | {"tokens": {"embedding": table}}}


HEAD = TaskClass((*linear("pooler", "pooler.dense"), *CLASSIFIER), dropout="cls_dropout", fields={"pooler_hidden_act": "gelu", "pooler_dropout": 0})
TASKS_V2 = task_classes(HEAD, TokenClassification=TaskClass(CLASSIFIER, dropout=None))
TASKS = {name: task for name, task in TASKS_V2.items() if name != "MultipleChoice"}
DEBERTA = Architecture("DeBERTa", "deberta", "Deberta", NAMES, to_config, to_section, optional_pooler=False, completed=completed, tasks=TASKS)
DEBERTA_V2 = Architecture(
    "DeBERTa-v2", "deberta-v2", "DebertaV2", NAMES_V2, to_config, to_section_v2, optional_pooler=False, completed=completed, tasks=TASKS_V2
)
DEBERTA_V3_DISCRIMINATOR = dataclasses.replace(
    DEBERTA_V2, title="DeBERTaV3", to_section=to_section_v3, only_class="DebertaV2Model", headless=True, completed=lambda config, names: config
)
