"""Each metric against its definition on examples worked out by hand, or written out here once more."""

import math

import numpy as np
import pytest

from data_pipeline.tasks import metrics
from data_pipeline.tasks.entities import entities, entity_f1
from data_pipeline.tasks.examples import Examples
from data_pipeline.tasks.squad import exact_match, f1, normalised, squad


def test_classification():
    labels, predicted = [1, 1, 1, 0, 0, 2], [1, 1, 0, 0, 1, 2]
    found = metrics.classification(predicted, labels, ("accuracy", "f1", "f1_macro", "f1_micro"))
    assert found["accuracy"] == found["f1_micro"] == 4 / 6
    # Of class 1: 2 right of 3 found and 3 there. Class 0: 1 of 2 and 2. Class 2: all.
    assert found["f1"] == pytest.approx(2 / 3) and found["f1_macro"] == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    # (TP x TN - FP x FN) / sqrt((TP + FP)(TP + FN)(TN + FP)(TN + FN)) with 3, 1, 1, 2.
    labels, predicted = [1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0, 1]
    assert metrics.classification(predicted, labels, ("matthews",))["matthews"] == pytest.approx((3 - 2) / math.sqrt(4 * 5 * 2 * 3))
    assert metrics.classification([1] * 7, labels, ("matthews", "f1"))["matthews"] == 0
    with pytest.raises(ValueError, match="metric 'f2' is unknown; known: accuracy"):
        metrics.classification(predicted, labels, ("f2",))
    with pytest.raises(ValueError, match="must be alike"):
        metrics.classification(predicted, labels[1:])
    for names in metrics.METRICS_OF.values():
        metrics.correlation(predicted, labels) if "pearson" in names else metrics.classification(predicted, labels, names)


def test_multilabel():
    labels, predicted = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]]), np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]])
    found = metrics.multilabel(predicted, labels)
    # Right 2, found 3, there 3. By class: 1, 2/3, 0. By example: 2/3, 2/3, and 0 where there is none.
    assert found == pytest.approx({"f1_micro": 2 / 3, "f1_macro": (1 + 2 / 3) / 3, "f1_samples": 4 / 9, "accuracy": 1 / 3})


def test_correlation():
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=50), generator.normal(size=50).round(0)
    centred = one - one.mean(), other - other.mean()
    pearson = (centred[0] @ centred[1]) / math.sqrt((centred[0] @ centred[0]) * (centred[1] @ centred[1]))
    found = metrics.correlation(one, other)
    assert found["pearson"] == pytest.approx(pearson)

    def ranks(values):  # ties share the mean of their ranks
        return np.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])

    assert found["spearman"] == pytest.approx(metrics.correlation(ranks(one), ranks(other))["pearson"])
    assert metrics.correlation(one, np.exp(one))["spearman"] == pytest.approx(1)
    assert all(map(math.isnan, metrics.correlation(one, np.ones(50)).values()))


def test_similarity_is_of_cosines():
    first = np.array([[1, 0], [3, 0], [0, 2], [1, 1]], np.float32)
    second = np.array([[9, 0], [2, 2], [5, 0], [-1, -1]], np.float32)
    assert metrics.similarity(first, second, np.array([1, math.sqrt(0.5), 0, -1])) == pytest.approx({"pearson": 1, "spearman": 1})
    assert metrics.similarity(first, second, np.array([5, 4, 3, 3.5]))["spearman"] == pytest.approx(0.8)


def test_retrieval():
    relevance = {"q1": {"a": 2, "b": 1, "c": 0}, "q2": {"d": 1}, "q3": {"e": 1}}
    run = {"q1": {"c": 0.9, "a": 0.5, "x": 0.4, "b": 0.1}, "q2": {"y": 2.0, "z": 1.5, "d": 1.0}}
    found = metrics.retrieval(run, relevance, cut=3, recalls=(1, 2, 5))
    best = 2 + 1 / math.log2(3)
    expected = {
        "ndcg@3": (2 / math.log2(3) / best + 1 / 2 + 0) / 3,
        "mrr@3": (1 / 2 + 1 / 3 + 0) / 3,
        "map": ((1 / 2 + 2 / 4) / 2 + 1 / 3 + 0) / 3,
        "recall@1": 0,
        "recall@2": (1 / 2 + 0 + 0) / 3,
        "recall@5": (1 + 1 + 0) / 3,
    }
    assert found == pytest.approx(expected)
    assert metrics.retrieval(run, relevance, cut=2)["mrr@2"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    # Equal scores, as TREC orders them: the later name first, also where they differ by less than 32 bits tell.
    tied = {"q": {"a": 1.0, "b": 1.0}}
    assert metrics.retrieval(tied, {"q": {"b": 1}}, cut=1)["mrr@1"] == metrics.retrieval(tied, {"q": {"b": 1}}, cut=1)["ndcg@1"] == 1
    assert metrics.retrieval({"q": {"a": 1.0 + 1e-12, "b": 1.0}}, {"q": {"b": 1}}, cut=1)["mrr@1"] == 1
    with pytest.raises(ValueError, match="query 'q4'"):
        metrics.retrieval({"q4": {"a": 1.0}}, relevance)


TRUTH = [["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-LOC"], ["I-ORG", "O", "I-ORG", "I-LOC"], ["O", "O"]]
GUESS = [["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "I-LOC"], ["I-ORG", "O", "B-ORG", "O"], ["O", "B-MISC"]]


def test_entities():
    assert entities(TRUTH[0]) == {(0, 2, "PER"), (3, 4, "LOC"), (4, 6, "LOC")}
    assert entities(TRUTH[1]) == {(0, 1, "ORG"), (2, 3, "ORG"), (3, 4, "LOC")}  # IOB1: I- begins what another does not go on with
    found = entity_f1(GUESS, TRUTH)
    # Right: PER and both ORG, of 5 found and 6 there.
    assert found["precision"] == 3 / 5 and found["recall"] == 3 / 6 and found["f1"] == pytest.approx(6 / 11) and found["accuracy"] == 8 / 12
    assert [found[f"f1/{name}"] for name in ("PER", "ORG", "LOC", "MISC")] == [1, 1, 0, 0]
    assert entity_f1([["O"]], [["O"]])["f1"] == 0
    for tag in ("X-PER", "B", "PER", "", "I-"):
        with pytest.raises(ValueError, match="is neither"):
            entities(["O", tag])
    with pytest.raises(ValueError, match="for each word"):
        entity_f1([["O"]], [["O", "O"]])


def test_entities_are_those_of_seqeval():
    reference = pytest.importorskip("seqeval.metrics")
    generator = np.random.default_rng(0)
    tags = ["O", "O", "B-A", "I-A", "B-B", "I-B"]
    truth, guess = ([[tags[number] for number in generator.integers(6, size=length)] for length in range(1, 60)] for _ in range(2))
    found = entity_f1(guess, truth)
    assert [found[name] for name in ("precision", "recall", "f1", "accuracy")] == pytest.approx(
        [getattr(reference, f"{name}_score")(truth, guess) for name in ("precision", "recall", "f1", "accuracy")]
    )
    assert 0.1 < found["f1"] < 0.5


def test_squads_normalisation():
    assert normalised("The  Cat's, a\tbig-one!") == "cats bigone"
    assert normalised("Theatre an Die") == "theatre die" and normalised("“x” €5") == "“x” €5"  # only ASCII's punctuation goes
    assert exact_match("the Beatles.", "Beatles") == 1 and exact_match("Beatle", "Beatles") == 0
    assert f1("the cat sat", "cat sat down") == pytest.approx(2 * 2 / (2 + 3))
    assert f1("to be or not to be", "to to to") == pytest.approx(2 * 2 / (6 + 3))
    assert f1("", "") == 1 and f1("", "x") == 0 and f1("the", "") == 1


def test_squad():
    answers = [((0, "x y"), (0, "y")), (), ((0, "z"),), ((0, "the"), (0, "w"))]
    examples = Examples("span", ["q1", "q2", "q3", "q4"], answers=answers)
    found = squad({"q1": "Y!", "q2": "something", "q3": "", "q4": "a w v"}, examples)
    assert found == pytest.approx({
        "exact": 25, "f1": 100 * (1 + 0 + 0 + 2 / 3) / 4,
        "has_answer_exact": 100 / 3, "has_answer_f1": 100 * (1 + 2 / 3) / 3, "no_answer_exact": 0, "no_answer_f1": 0,
    })  # fmt: skip
    assert squad({"q4": ""}, Examples("span", ["q4"], answers=answers[3:]))["exact"] == 0  # its "the" is no answer
    assert squad({"q1": "x y", "q2": ""}, Examples("span", ["q1", "q2"], answers=answers[:2]))["exact"] == 100
    assert set(squad({"q1": "x"}, Examples("span", ["q1"], answers=answers[:1]))) == {"exact", "f1"}
    with pytest.raises(ValueError, match="question 'q2' has no prediction; 3 of 4"):
        squad({"q1": "x"}, examples)


def test_squad_is_that_of_transformers():
    reference = pytest.importorskip("transformers.data.metrics.squad_metrics")
    words = ["the", "cat", "Sat,", "a", "on", "an", "(mat)", "Zürich", "—", "U.S."]
    generator = np.random.default_rng(0)
    for _ in range(300):
        one, other = (" ".join(words[number] for number in generator.integers(len(words), size=generator.integers(4))) for _ in range(2))
        assert normalised(one) == reference.normalize_answer(one)
        assert (exact_match(one, other), f1(one, other)) == pytest.approx(
            (reference.compute_exact(other, one), reference.compute_f1(other, one))
        )
