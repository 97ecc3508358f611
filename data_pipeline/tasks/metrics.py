"""The published metrics of tasks, as fractions of 1 (SQuAD's in percent, as its script prints them). Enters: predictions and labels.
Leaves: floats by name.

From scikit-learn, scipy and pytrec_eval (which is TREC's own trec_eval), imported where they are needed; squad.py and entities.py hold what
has no library that is kept. A metric that is not defined for these predictions (a correlation with a constant) is nan, and never 0 in
disguise.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

# What GLUE reports of each task (Wang et al. 2018, table 1), the first one decides between models. MNLI: on both of its sets. SuperGLUE's:
# Wang et al. 2019.
METRICS_OF = {
    "cola": ("matthews",),
    "sst2": ("accuracy",),
    "mrpc": ("f1", "accuracy"),
    "stsb": ("pearson", "spearman"),
    "qqp": ("f1", "accuracy"),
    "mnli": ("accuracy",),
    "qnli": ("accuracy",),
    "rte": ("accuracy",),
    "wnli": ("accuracy",),
    "ax": ("matthews",),
    "boolq": ("accuracy",),
    "cb": ("f1_macro", "accuracy"),
    "copa": ("accuracy",),
    "wic": ("accuracy",),
    "xnli": ("accuracy",),
}
_EXTRA = "pip install 'bert-jax[finetune]'"


def classification(predicted: np.ndarray, labels: np.ndarray, names: Sequence[str] = ("accuracy",), positive: int = 1) -> dict[str, float]:
    """predicted, labels: classes, int [N]. names: of accuracy, f1 (of the class `positive`), f1_macro (over the classes that occur in
    either), f1_micro, matthews."""
    try:
        from sklearn import metrics
    except ImportError as error:
        raise ImportError(f"metrics need scikit-learn ({error}): {_EXTRA}") from error
    predicted, labels = _same_length(predicted, labels)

    def f1(average: str) -> float:
        return float(metrics.f1_score(labels, predicted, average=average, zero_division=0))

    known = {
        "accuracy": lambda: float(np.mean(predicted == labels)),
        "f1": lambda: float(metrics.f1_score(labels == positive, predicted == positive, zero_division=0)),
        "f1_macro": lambda: f1("macro"),
        "f1_micro": lambda: f1("micro"),
        "matthews": lambda: float(metrics.matthews_corrcoef(labels, predicted)),
    }
    return {name: _chosen(known, name)() for name in names}


def multilabel(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """predicted, labels: 0 or 1, [N, classes]. f1_micro, f1_macro (a class that neither has counts 0), f1_samples, and accuracy: all labels
    of an example right."""
    try:
        from sklearn import metrics
    except ImportError as error:
        raise ImportError(f"metrics need scikit-learn ({error}): {_EXTRA}") from error
    predicted, labels = (np.asarray(array).astype(bool) for array in _same_length(predicted, labels))
    scores = {
        f"f1_{average}": float(metrics.f1_score(labels, predicted, average=average, zero_division=0))
        for average in ("micro", "macro", "samples")
    }
    return scores | {"accuracy": float((predicted == labels).all(1).mean())}


def correlation(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """pearson and spearman of numbers [N]; nan where one of them is constant."""
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError(f"metrics need scipy ({error}): {_EXTRA}") from error
    predicted, labels = (np.asarray(array, np.float64) for array in _same_length(predicted, labels))
    if len(labels) < 2 or np.ptp(predicted) == 0 or np.ptp(labels) == 0:
        return {"pearson": math.nan, "spearman": math.nan}
    return {"pearson": float(stats.pearsonr(predicted, labels).statistic), "spearman": float(stats.spearmanr(predicted, labels).statistic)}


def similarity(first: np.ndarray, second: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """pearson and spearman between scores [N] and the cosines of embeddings, [N, D] each (STS; Reimers and Gurevych 2019, section 4)."""
    first, second = (np.asarray(array, np.float64) for array in _same_length(first, second))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = np.einsum("nd,nd->n", first, second) / np.maximum(norms, np.finfo(np.float64).tiny)
    return correlation(cosines, scores)


def retrieval(
    run: Mapping[str, Mapping[str, float]], relevance: Mapping[str, Mapping[str, int]], cut: int = 10, recalls: Sequence[int] = (10, 100)
) -> dict[str, float]:
    """Means over all queries of `relevance`: ndcg@cut (gain: the relevance), mrr@cut, map (over all that the run ranks), recall@k.

    run: query -> document -> score, as many documents as the largest cut; relevance: query -> document -> 0 for not relevant, or more.
    Documents of equal score are ordered by trec_eval's rule (the names, descending). A query that the run lacks counts 0."""
    try:
        import pytrec_eval
    except ImportError as error:
        raise ImportError(f"metrics of retrieval need pytrec_eval ({error}): pip install pytrec-eval-terrier, or {_EXTRA}") from error
    unknown = sorted(set(run) - set(relevance))
    if unknown:
        raise ValueError(f"query {unknown[0]!r} is in the run, but nothing is known to be relevant to it")
    if not relevance:
        raise ValueError("no query has a relevant document")
    relevance = {query: {document: int(grade) for document, grade in grades.items()} for query, grades in relevance.items()}
    # trec_eval compares 32-bit scores.
    run = {query: {document: float(np.float32(score)) for document, score in scores.items()} for query, scores in run.items() if scores}
    top = {query: dict(sorted(scores.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)[:cut]) for query, scores in run.items()}
    wanted = {f"ndcg_cut.{cut}", "map", "recall." + ",".join(map(str, recalls))}
    found = pytrec_eval.RelevanceEvaluator(relevance, wanted).evaluate(run)
    reciprocal = pytrec_eval.RelevanceEvaluator(relevance, {"recip_rank"}).evaluate(top)  # trec_eval itself knows no cut of it

    def mean(of_queries: Mapping[str, Mapping[str, float]], name: str) -> float:
        return math.fsum(scores[name] for scores in of_queries.values()) / len(relevance)

    scores = {f"ndcg@{cut}": mean(found, f"ndcg_cut_{cut}"), f"mrr@{cut}": mean(reciprocal, "recip_rank"), "map": mean(found, "map")}
    return scores | {f"recall@{k}": mean(found, f"recall_{k}") for k in recalls}


def _chosen(known: Mapping, name: str):
    if name not in known:
        raise ValueError(f"metric {name!r} is unknown; known: {', '.join(known)}")
    return known[name]


def _same_length(predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape or not len(labels):
        raise ValueError(f"predictions have the shape {predicted.shape} and labels {labels.shape}; they must be alike, and not empty")
    return predicted, labels
