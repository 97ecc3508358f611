"""One short function per family: published sizes in, spec out. The keyword names are those of the configs' `model` section."""

import inspect

from bert_jax.model.families.berts import academic_bert, albert, bert, distilbert, roberta, xlm_roberta_xl
from bert_jax.model.families.deberta import deberta, deberta_v2, deberta_v3, deberta_v3_discriminator
from bert_jax.model.families.long import big_bird, longformer
from bert_jax.model.families.modern import crammed_bert, modernbert, mosaic_bert
from bert_jax.model.families.replaced_tokens import electra, electra_discriminator, electra_generator
from bert_jax.model.spec import AnySpec

FAMILIES = {
    "bert": bert,
    "roberta": roberta,
    "xlm_roberta": roberta,
    "xlm_roberta_xl": xlm_roberta_xl,
    "albert": albert,
    "distilbert": distilbert,
    "electra": electra,
    "electra_generator": electra_generator,
    "electra_discriminator": electra_discriminator,
    "deberta": deberta,
    "deberta_v2": deberta_v2,
    "deberta_v3": deberta_v3,
    "deberta_v3_discriminator": deberta_v3_discriminator,
    "academic_bert": academic_bert,
    "crammed_bert": crammed_bert,
    "mosaic_bert": mosaic_bert,
    "modernbert": modernbert,
    "longformer": longformer,
    "big_bird": big_bird,
}
# The fields of a config's `model` section besides `family`.
FAMILY_FIELDS: dict[str, tuple[str, ...]] = {name: tuple(inspect.signature(make).parameters) for name, make in FAMILIES.items()}


def build_spec(model: dict) -> AnySpec:
    """The spec of a config's `model` section: {"family": name, ...keywords of that family's function}."""
    numbers = dict(model)
    family = numbers.pop("family", None)
    if family not in FAMILIES:
        raise ValueError(f"model.family is {family!r}; known families: {', '.join(FAMILIES)}")
    try:
        return FAMILIES[family](**numbers)
    except TypeError as error:  # an unknown or missing keyword; Python's message names it
        raise ValueError(f"config section `model` does not fit the family {family!r}: {error}") from None
