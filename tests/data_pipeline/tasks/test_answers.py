"""Outputs in the words of the data: answers over windows, tags of words."""

import numpy as np
import pytest

from data_pipeline.tasks.answers import best_answers, tags_of_examples, tags_of_words
from data_pipeline.tasks.encode import encode
from data_pipeline.tasks.examples import Examples
from data_pipeline.tasks.squad import squad
from data_pipeline.tasks.task_data import TaskData
from data_pipeline.tokenization import tokenizers
from tests.data_pipeline.tokenization import tokenizer_checks as checks

SPAN = TaskData("span", text="question", text_pair="context", label="answers")


@pytest.fixture(scope="module", params=["wordpiece", "byte_bpe", "sentencepiece_unigram"])
def tokenizer(request, tmp_path_factory):
    return tokenizers.train(checks.documents(80), tmp_path_factory.mktemp("tok"), request.param, vocab_size=1200)[0]


@pytest.fixture(scope="module")
def asked(tokenizer):
    """Questions on long passages, every third without an answer, and their features."""
    passages = [text for text in checks.documents(60) if len(text) > 700 and "``" not in text and "''" not in text][:9]
    answers = []
    for number, passage in enumerate(passages):
        words = passage.split()
        text = next(word for word in words[len(words) // 2 :] if len(word) > 4)
        answers.append(() if number % 3 == 2 else ((passage.index(text), text),))
    examples = Examples("span", [f"q{number}" for number in range(9)], ["what is it?"] * 9, passages, answers=answers)
    return examples, encode(examples, tokenizer, SPAN, 64, doc_stride=16)


def logits_of(features, length=80):
    """A perfect model's: high at the positions of the labels."""
    starts, ends = (np.zeros((len(features), length), np.float32) for _ in range(2))
    rows = np.arange(len(features))
    starts[rows, features.start_positions] = ends[rows, features.end_positions] = 10
    return starts, ends


def test_labels_as_outputs_give_the_answers(asked):
    examples, features = asked
    found = best_answers(*logits_of(features), features, examples)
    assert list(found) == examples.ids and len(features) > 3 * len(examples)
    scores = squad({name: answer.text for name, answer in found.items()}, examples)
    assert scores["no_answer_exact"] == 100 and scores["has_answer_f1"] > 70  # an answer within a token's word is not found to the letter
    for name, answers, passage in zip(examples.ids, examples.answers, examples.pairs):
        answer = found[name]
        for candidate in answer.best:
            assert passage[candidate.start : candidate.start + len(candidate.text)] == candidate.text or candidate.start == -1
        assert [candidate.score for candidate in answer.best] == sorted((candidate.score for candidate in answer.best), reverse=True)
        if answers:
            assert answers[0][1] in answer.text and answer.null_difference == pytest.approx(0 + 0 - 20)


def test_thresholds_and_lengths(asked):
    examples, features = asked
    starts, ends = logits_of(features)
    forced = best_answers(starts, ends, features, examples, null_threshold=None)
    assert all(answer.text for answer in forced.values()) and all("" != best.text for answer in forced.values() for best in answer.best)
    assert all(not answer.text for answer in best_answers(starts, ends, features, examples, null_threshold=-100.0).values())
    one = best_answers(starts, ends, features, examples, n_best=3, max_answer_length=1)
    assert all(len(answer.best) <= 4 for answer in one.values())
    # The same from rows of their own lengths: padding is not read, not even where it is high.
    lengths = features.towers[""].lengths
    starts[np.arange(starts.shape[1]) >= lengths[:, None]] = 99
    ragged = [row[:length] for row, length in zip(starts, lengths)], [row[:length] for row, length in zip(ends, lengths)]
    assert best_answers(*ragged, features, examples) == best_answers(starts, ends, features, examples)


def test_the_search_finds_what_trying_all_spans_finds(asked):
    examples, features = asked
    generator = np.random.default_rng(0)
    starts, ends = generator.normal(size=(2, len(features), 64))
    found = best_answers(starts, ends, features, examples, n_best=64, max_answer_length=5, null_threshold=1.0)
    bounds = features.towers[""].bounds
    for number, name in enumerate(examples.ids):
        best, null = -np.inf, np.inf
        for window in np.flatnonzero(features.examples == number):
            offsets = features.offsets[bounds[window] : bounds[window + 1]]
            null = min(null, starts[window][0] + ends[window][0])
            for begin in range(len(offsets)):
                for end in range(begin, min(begin + 5, len(offsets))):
                    score = starts[window][begin] + ends[window][end]
                    if min(offsets[begin][0], offsets[end][0]) >= 0 and score > best:
                        best, text = score, examples.pairs[number][offsets[begin][0] : offsets[end][1]].strip()
        assert found[name].null_difference == pytest.approx(null - best)
        assert found[name].text == ("" if null - best > 1 else text)


def test_tags_of_words(tokenizer):
    sentences = [line.split() for line in checks.lines_of(checks.documents(15)) if line.split()][:30]
    names = ("B-X", "I-X", "O")
    labels = [np.array([len(word) % 3 for word in words], np.int32) for words in sentences]
    examples = Examples("tokens", list(map(str, range(30))), words=sentences, labels=labels, label_names=names)
    features = encode(examples, tokenizer, TaskData("tokens"), 512)
    predicted = np.full((30, 512), 1)
    bounds = features.towers[""].bounds
    for row in range(30):
        of_row = features.labels[bounds[row] : bounds[row + 1]]
        predicted[row][: len(of_row)][of_row >= 0] = of_row[of_row >= 0]
    assert tags_of_words(predicted, features, examples, names) == tags_of_examples(examples)
    cut = encode(examples, tokenizer, TaskData("tokens"), 12)
    tags = tags_of_words(np.zeros((30, 12), int), cut, examples, names)
    assert list(map(len, tags)) == list(map(len, sentences)) and cut.truncated > 0
    kept = (cut.first_words >= 0).sum()
    assert sum(tag == "B-X" for of_words in tags for tag in of_words) == kept < sum(map(len, sentences))
