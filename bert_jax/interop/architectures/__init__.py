"""The model types of transformers that a family is known as there: names of weights, and config.json <-> a config's `model` section.

One file for each sort of model. `ARCHITECTURES` has them by our family's name; a family that is not in it has no class in transformers, and can be
trained but not exported.
"""

import math

from bert_jax.interop.architectures import albert, bert, distilbert, electra, modernbert
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
    "modernbert": modernbert.MODERNBERT,
}
# Families that transformers has as several models: (section, params) -> name of a part -> its section and params; and back, from a function that loads a part.
PARTS = {"electra": electra.parts}
WHOLE = {(electra.DISCRIMINATOR, electra.GENERATOR): electra.whole}  # by the names of the parts


def parts_of(section: dict, params: dict) -> dict[str, tuple[dict, dict]]:
    """What a model is exported as: subdirectory -> (section, params). Most are one, in the directory itself."""
    return PARTS[section["family"]](section, params) if section["family"] in PARTS else {"": (section, params)}


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
