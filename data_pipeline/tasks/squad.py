"""SQuAD's exact match and F1, in percent, with the official normalisation (Rajpurkar et al. 2016, section 6.1; 2018, section 4).

An answer is compared in lower case, without punctuation (ASCII's), articles and superfluous white space; the best of the answers given
counts. Where a question has no answer (2.0), the empty prediction is right and every other wrong. In 1.1 every question has one.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping

from data_pipeline.tasks.examples import Examples

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact_match(predicted: str, answer: str) -> float:
    return float(normalised(predicted) == normalised(answer))


def f1(predicted: str, answer: str) -> float:
    """Of the two bags of words; 1 where both are empty."""
    ours, truth = normalised(predicted).split(), normalised(answer).split()
    if not ours or not truth:
        return float(ours == truth)
    same = (Counter(ours) & Counter(truth)).total()
    return 2 * same / (len(ours) + len(truth))


def squad(predicted: Mapping[str, str], examples: Examples) -> dict[str, float]:
    """exact and f1 over all questions; where some have no answer also of the ones that have one ("has_answer_...") and of the others
    ("no_answer_...").

    predicted: by the question's id, "" for no answer. Raises ValueError for a question without a prediction."""
    missing = [name for name in examples.ids if name not in predicted]
    if missing:
        raise ValueError(f"question {missing[0]!r} has no prediction; {len(missing)} of {len(examples)} have none")
    scores = []
    for name, answers in zip(examples.ids, examples.answers, strict=True):
        # An answer that is nothing but an article normalises to nothing and does not count, unless all do.
        texts = [text for _, text in answers if normalised(text)] or [""]
        scores.append((bool(answers), *(max(measure(predicted[name], text) for text in texts) for measure in (exact_match, f1))))
    groups = {"": scores}
    if not all(has_answer for has_answer, _, _ in scores):
        groups |= {"has_answer_": [score for score in scores if score[0]], "no_answer_": [score for score in scores if not score[0]]}
    return {
        f"{prefix}{name}": 100 * sum(score[column] for score in group) / len(group)
        for prefix, group in groups.items() if group
        for column, name in ((1, "exact"), (2, "f1"))
    }  # fmt: skip
