"""F1 of named entities by the definition of CoNLL's conlleval (Tjong Kim Sang and De Meulder 2003, section 2.3): an entity counts if its
type, its first and its last word are right.

Tags are O, B-TYPE and I-TYPE, in IOB1 or IOB2: an entity begins at B-, and at I- where the word before is of no or another type. Our own
because seqeval, which counts the same, is no longer kept and fails to install beside some versions of setuptools.
"""

from collections import Counter
from collections.abc import Sequence

Entity = tuple[int, int, str]  # first word, exclusive last word, type


def entities(tags: Sequence[str]) -> set[Entity]:
    """Of one sentence. Raises ValueError for a tag that is neither O, B-TYPE nor I-TYPE."""
    found, start, type_of_entity = set(), 0, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, dash, type_here = tag.partition("-")
        if not (tag == "O" or prefix in ("B", "I") and dash and type_here):
            raise ValueError(f"tag {tag!r} is neither O, B-TYPE nor I-TYPE")
        if type_of_entity and (prefix != "I" or type_here != type_of_entity):
            found.add((start, place, type_of_entity))
            type_of_entity = ""
        if type_here and not type_of_entity:
            start, type_of_entity = place, type_here
    return found


def entity_f1(predicted: Sequence[Sequence[str]], tags: Sequence[Sequence[str]]) -> dict[str, float]:
    """precision, recall and f1 over all entities, and "f1/TYPE" of each type; accuracy of the words' tags.

    0 where nothing was found or there is nothing to find."""
    if list(map(len, predicted)) != list(map(len, tags)) or not any(map(len, tags)):
        raise ValueError("there must be a predicted tag for each word, and one word at least")
    right, guessed, wanted = Counter(), Counter(), Counter()
    for predicted_tags, true_tags in zip(predicted, tags):
        ours, truth = entities(predicted_tags), entities(true_tags)
        for counter, found in ((right, ours & truth), (guessed, ours), (wanted, truth)):
            counter.update(type_of_entity for _, _, type_of_entity in found)
    same = sum(one == other for ours, truth in zip(predicted, tags) for one, other in zip(ours, truth))
    total = {
        "precision": right.total() / max(1, guessed.total()),
        "recall": right.total() / max(1, wanted.total()),
        "f1": _f1(right.total(), guessed.total(), wanted.total()),
        "accuracy": same / sum(map(len, tags)),
    }
    return total | {f"f1/{name}": _f1(right[name], guessed[name], wanted[name]) for name in sorted({*guessed, *wanted})}


def _f1(right: int, guessed: int, wanted: int) -> float:
    return 2 * right / max(1, guessed + wanted)
