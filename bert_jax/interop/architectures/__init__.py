"""The model types of transformers that a family is known as there: names of weights, and config.json <-> a config's `model` section.

One file for each sort of model. `ARCHITECTURES` has them by our family's name; a family that is not in it has no class in transformers, and can be
trained but not exported.
"""

import math
from collections.abc import Callable

from bert_jax.interop.architectures import albert, bert, big_bird, deberta, distilbert, electra, longformer, modernbert
from bert_jax.interop.architectures.architecture import Architecture
from bert_jax.model.families import build_spec

ARCHITECTURES: dict[str, Architecture] = {
    "bert": bert.BERT,
    "roberta": bert.ROBERTA,
    "xlm_roberta": bert.XLM_ROBERTA,
    "xlm_roberta_xl": bert.XLM_ROBERTA_XL,
    "albert": albert.ALBERT,
    "distilbert": distilbert.DISTILBERT,
    "electra_discriminator": electra.ELECTRA_DISCRIMINATOR,
    "electra_generator": electra.ELECTRA_GENERATOR,
    "deberta": deberta.DEBERTA,
    "deberta_v2": deberta.DEBERTA_V2,
    "deberta_v3_discriminator": deberta.DEBERTA_V3_DISCRIMINATOR,
    "modernbert": modernbert.MODERNBERT,
    "longformer": longformer.LONGFORMER,
    "big_bird": big_bird.BIG_BIRD,
}
# Families that transformers has as several models: (section, params) -> name of a part -> its section and params; and back, from a function that loads a part.
PARTS = {"electra": electra.parts, "deberta_v3": deberta.parts}
PART_NAMES = (electra.DISCRIMINATOR, electra.GENERATOR)
WHOLE = {"electra_discriminator": electra.whole, "deberta_v3_discriminator": deberta.whole}  # by the first part's family


def parts_of(section: dict, params: dict) -> dict[str, tuple[dict, dict]]:
    """What a model is exported as: subdirectory -> (section, params). Most are one, in the directory itself."""
    return PARTS[section["family"]](section, params) if section["family"] in PARTS else {"": (section, params)}


def whole_of(load: Callable[[str], tuple[dict, dict]]) -> tuple[dict, dict]:
    """The inverse of `parts_of` for a model of several; load: the name of a part -> its (section, params). ValueError if they do not belong together."""
    families = {name: load(name)[0]["family"] for name in PART_NAMES}
    if families[PART_NAMES[0]] not in WHOLE:
        found = ", ".join(f"{name} is of the family {family}" for name, family in families.items())
        raise ValueError(f"{found}; give the parts of one model")
    return WHOLE[families[PART_NAMES[0]]](load)


def architecture_of(section: dict) -> Architecture:
    """ValueError if transformers has no class for the section's family."""
    if section["family"] not in ARCHITECTURES:
        raise ValueError(
            f"transformers has no class for the family {section['family']!r}, so that its models cannot be exported; "
            f"families that can: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[section["family"]]


def family_of(config: dict, *, source: str) -> str:
    """The family of a config.json; `source` names the file in errors. An absent model_type is an original BERT's."""
    if not isinstance(config, dict):
        raise ValueError(f"{source} holds {type(config).__name__}; expected a JSON object with the model's sizes")
    model_type = config.get("model_type") or "bert"
    families = [family for family, architecture in ARCHITECTURES.items() if architecture.model_type == model_type]
    if not families:
        known = ", ".join(architecture.model_type for architecture in ARCHITECTURES.values())
        raise ValueError(f"{source}: model_type is {model_type!r}; models of these types can be imported: {known}")
    stated = config.get("architectures")
    stated = stated if isinstance(stated, list) else []
    return next((family for family in families if ARCHITECTURES[family].only_class in stated), families[0])


def section_from_config(config: dict, *, nsp: bool, source: str) -> dict:
    """The `model` section of a config.json; `source` names the file in errors. ValueError names the field, its value and what fits.

    nsp: whether a model of a family that can have a sentence-pair head has one.
    """
    family = family_of(config, source=source)
    section = {"family": family} | ARCHITECTURES[family].to_section(config, nsp, source)
    for name, value in section.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{source} does not describe a model: {name} is {value}; it must be a finite number")
    try:
        build_spec(section)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} does not describe a model: {error}") from None
    return section


def encoder_alone(section: dict, params: dict) -> tuple[dict, dict]:
    """(section, params) of the model whose encoder is fine-tuned: of a model of several parts the first, otherwise what is given."""
    return parts_of(section, params)[PART_NAMES[0]] if section["family"] in PARTS else (section, params)


def config_from_section(section: dict, *, pad: int, cls: int, sep: int) -> dict:
    """A complete Hugging Face config as a JSON object. pad, cls, sep: ids of the tokenizer. ValueError if the positions begin elsewhere."""
    architecture, spec = architecture_of(section), build_spec(section)
    return {
        "architectures": [architecture.model_class(spec)],
        "model_type": architecture.model_type,
        **architecture.to_config(spec, pad=pad, cls=cls, sep=sep),
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
