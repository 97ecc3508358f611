"""ELECTRA (Clark et al. 2020, arXiv 2003.10555) as transformers has it: discriminator and generator as two models, each with the tables that they share."""

from collections.abc import Callable

import jax
import numpy as np

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
from bert_jax.interop.architectures.bert import DEFAULTED, EMBED_ROWS, LAYER_ROWS, REQUIRED_VALUES, ROBERTA_CLASSIFIER, SIZES
from bert_jax.interop.weights import TORCH, Naming, under
from bert_jax.model.families import FAMILY_FIELDS
from bert_jax.model.spec import AnySpec

NAMES = Naming(
    rows=(
        *under("encoder.embed.", "electra.embeddings.", EMBED_ROWS),
        ("encoder.embed.project.kernel", "electra.embeddings_project.weight", "kernel"),
        ("encoder.embed.project.bias", "electra.embeddings_project.bias", "flat"),
        ("mlm_head.transform.kernel", "generator_predictions.dense.weight", "kernel"),
        ("mlm_head.transform.bias", "generator_predictions.dense.bias", "flat"),
        ("mlm_head.norm.scale", "generator_predictions.LayerNorm.weight", "flat"),
        ("mlm_head.norm.bias", "generator_predictions.LayerNorm.bias", "flat"),
        ("mlm_head.bias", "generator_lm_head.bias", "vocabulary"),
        ("detection_head.transform.kernel", "discriminator_predictions.dense.weight", "kernel"),
        ("detection_head.transform.bias", "discriminator_predictions.dense.bias", "flat"),
        ("detection_head.score.kernel", "discriminator_predictions.dense_prediction.weight", "kernel"),
        ("detection_head.score.bias", "discriminator_predictions.dense_prediction.bias", "flat"),
    ),
    layer="electra.encoder.layer.{layer}.",
    layer_rows=LAYER_ROWS,
    prefix="electra.",
    inside=("embeddings.", "embeddings_project.", "encoder."),
    needed=("electra.", "generator_", "discriminator_"),
    tied={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    outputs_first=TORCH,
)
SIZES = SIZES | {"embedding_size": "embedding_size"}
DISCRIMINATOR, GENERATOR = "discriminator", "generator"
GENERATOR_SIZES = {  # of the `model` section: the generator's by itself -> those of both together
    "hidden_size": "generator_hidden_size",
    "num_layers": "generator_layers",
    "num_heads": "generator_heads",
    "intermediate_size": "generator_intermediate_size",
}


def to_section(config: dict, nsp: bool, source: str) -> dict:
    del nsp  # there is no such head
    check_values(config, REQUIRED_VALUES, source)
    check_sizes(config, SIZES.values(), source)
    section = {ours: config[field] for ours, field in SIZES.items()} | {"activation": activation_of(config, "hidden_act", source)}
    return section | {ours: config.get(field, default) for ours, (field, default) in DEFAULTED.items()}


def to_config(spec: AnySpec, *, pad: int, cls: int, sep: int) -> dict:
    del cls, sep  # not named in this config
    encoder = spec.encoder
    return sizes_of(spec) | {
        "embedding_size": encoder.embedding.size or encoder.hidden_size,
        "pad_token_id": pad,
    }


def parts(section: dict, params: dict) -> dict[str, tuple[dict, dict]]:
    """A model of the family `electra` -> its discriminator and its generator, each a (section, params) of a family of its own."""
    own = {name: value for name, value in section.items() if name in FAMILY_FIELDS["electra_generator"]}
    smaller = {ours: section[theirs] for ours, theirs in GENERATOR_SIZES.items()}
    generator = params["generator"]
    embed = {name: value for name, value in params["encoder"]["embed"].items() if name != "project"} | generator["encoder"].get("embed", {})
    return {
        DISCRIMINATOR: (own | {"family": "electra_discriminator"}, {name: params[name] for name in ("encoder", "detection_head")}),
        GENERATOR: (own | smaller | {"family": "electra_generator"}, generator | {"encoder": generator["encoder"] | {"embed": embed}}),
    }


def whole(load: Callable[[str], tuple[dict, dict]]) -> tuple[dict, dict]:
    """The inverse of `parts`; load: the name of a part -> its (section, params). ValueError if they do not belong together."""
    (section, params), (smaller, generator) = load(DISCRIMINATOR), load(GENERATOR)
    differing = sorted(name for name in section.keys() - GENERATOR_SIZES.keys() - {"family"} if section[name] != smaller[name])
    tables = {name: value for name, value in generator["encoder"]["embed"].items() if name != "project"}
    same = not differing and all(
        np.array_equal(one, other)
        for name, table in tables.items()
        for one, other in zip(jax.tree.leaves(table), jax.tree.leaves(params["encoder"]["embed"][name]))
    )
    if not same:
        what = ", ".join(f"{name} ({section[name]!r} and {smaller[name]!r})" for name in differing) or "their embeddings"
        raise ValueError(f"{DISCRIMINATOR} and {GENERATOR} differ in {what}, which the two of one ELECTRA share; give those of one model")
    own = {name: value for name, value in generator["encoder"]["embed"].items() if name == "project"}
    encoder = {name: value for name, value in generator["encoder"].items() if name != "embed"} | ({"embed": own} if own else {})
    sizes = {theirs: smaller[ours] for ours, theirs in GENERATOR_SIZES.items()}
    return section | sizes | {"family": "electra", "detection_weight": 50.0}, params | {"generator": generator | {"encoder": encoder}}


SUMMARY = {"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"}
CHOICE = TaskClass((*linear("pooler", "sequence_summary.summary"), *CLASSIFIER), dropout="summary_last_dropout", fields=SUMMARY)
TASKS = task_classes(TaskClass(ROBERTA_CLASSIFIER), CHOICE)


def _architecture(title: str, only_class: str) -> Architecture:
    return Architecture(title, "electra", "Electra", NAMES, to_config, to_section, only_class, optional_pooler=False, tasks=TASKS)


ELECTRA_DISCRIMINATOR = _architecture("ELECTRA", "ElectraForPreTraining")
ELECTRA_GENERATOR = _architecture("ELECTRA generator", "ElectraForMaskedLM")
