"""Ids, token types, offsets and labels, against transformers."""

import shutil

import numpy as np
import pytest

from data_pipeline.tasks.encode import IGNORED, encode
from data_pipeline.tasks.examples import Examples
from data_pipeline.tasks.task_data import TaskData, TaskDataError
from data_pipeline.tasks.token_rows import truncate_longest_first
from data_pipeline.tokenization import tokenizers
from tests.data_pipeline.tokenization import tokenizer_checks as checks
from tests.data_pipeline.tokenization.test_sentencepiece import stock_of_model

LAYOUTS = ("wordpiece", "byte_bpe", "sentencepiece_unigram")
PUBLISHED = ("bert cased", "bert uncased", "roberta", "albert")
SINGLE = TaskData("classification")
PAIR = TaskData("classification", text_pair="pair")
WORDS = TaskData("tokens")
SPAN = TaskData("span", text="question", text_pair="context", label="answers")


@pytest.fixture(scope="module")
def lines():
    """Real text, hard text, none at all; without the literal special tokens, of which transformers makes special ids in SentencePiece.

    Not long: of what it cuts off, transformers makes all combinations."""
    lines = [*checks.lines_of(checks.documents(30)), *checks.ODD_LINES, *checks.LANGUAGES, *checks.random_lines(200)]
    return [line[:200] for line in lines if not any(token in line for token in checks.LITERAL_SPECIAL)]


def train(kind, directory):
    return tokenizers.train(checks.documents(100), directory, kind, vocab_size=1500)[0]


@pytest.fixture(scope="module", params=LAYOUTS)
def pair_of_tokenizers(request, tmp_path_factory):
    """Ours, and transformers' of the same directory."""
    directory = tmp_path_factory.mktemp(request.param)
    return train(request.param, directory), checks.stock(directory)


@pytest.fixture(scope="module")
def xlm_roberta(tmp_path_factory):
    import io

    import sentencepiece

    directory = tmp_path_factory.mktemp("xlm")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(checks.lines_of(checks.documents(50))), model_writer=model, vocab_size=1000, minloglevel=2
    )
    path = directory / "sentencepiece.bpe.model"
    path.write_bytes(model.getvalue())
    return tokenizers.load(directory), stock_of_model("XLMRobertaTokenizer", path)


def published(name, directory):
    """A published tokenizer, ours and transformers'."""
    import transformers

    data = checks.shared_data() / "tokenizers"
    if name.startswith("bert"):
        shutil.copy(data / f"bert/{name.replace(' ', '-base-')}-vocab.txt", directory / "vocab.txt")
        stock = transformers.BertTokenizer.from_pretrained(directory, do_lower_case=name == "bert uncased", split_special_tokens=True)
    elif name == "roberta":
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(data / "roberta" / file, directory)
        stock = transformers.RobertaTokenizer.from_pretrained(data / "roberta", split_special_tokens=True)
    else:
        shutil.copy(data / "albert/spiece.model", directory)
        stock = stock_of_model("AlbertTokenizer", directory / "spiece.model")
    return tokenizers.load(directory), stock


def rows_of(features, prefix=""):
    tower = features.towers[prefix]
    return [tower.ids[start:stop].tolist() for start, stop in zip(tower.bounds, tower.bounds[1:])]


def assert_equal_rows(features, expected, types):
    assert rows_of(features) == expected["input_ids"]
    lengths = features.towers[""].lengths
    padded = features.towers[""].padded(np.arange(len(lengths)), int(lengths.max()), features.pad)
    for row, length, ids, of_row in zip(padded["token_type_ids"], lengths, expected["input_ids"], expected["token_type_ids"], strict=True):
        assert row[:length].tolist() == (of_row if types else [0] * len(ids)) and not row[length:].any()
    for row, length in zip(padded["segment_ids"], lengths):
        assert row[:length].all() and not row[length:].any()


def assert_texts_and_pairs(ours, stock, lines, max_length=24):
    """Of all lengths, on both sides of the cut."""
    ids = list(map(str, range(len(lines))))
    options = {"max_length": max_length, "truncation": "longest_first", "return_token_type_ids": True}
    types = ours.parts.special["cls"] != "<s>"
    assert_equal_rows(encode(Examples("classification", ids, lines), ours, SINGLE, max_length), stock(lines, **options), types)
    for pairs in (lines[::-1], [line[:20] for line in lines], [line * 3 for line in lines]):
        features = encode(Examples("classification", ids, lines, pairs), ours, PAIR, max_length)
        assert_equal_rows(features, stock(lines, pairs, **options), types)
        whole = stock(lines, pairs, add_special_tokens=False)["input_ids"]
        added = len(stock([""], [""])["input_ids"][0])
        assert features.truncated == sum(len(row) > max_length - added for row in whole) > 0


def test_texts_and_pairs(pair_of_tokenizers, lines):
    assert_texts_and_pairs(*pair_of_tokenizers, lines)


def test_xlm_roberta(xlm_roberta, lines):
    assert_texts_and_pairs(*xlm_roberta, [line for line in lines if not line.isspace()])
    assert_windows(*xlm_roberta)


@pytest.mark.shared
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tokenizers(name, lines, tmp_path):
    ours, stock = published(name, tmp_path)
    assert_texts_and_pairs(ours, stock, lines, max_length=21)
    assert_windows(ours, stock)


def test_what_is_cut_of_pairs():
    """Against the definition: one token at a time from the longer one."""
    first, second = (array.reshape(-1) for array in np.mgrid[0:12, 0:12])
    for room in range(2, 16):
        for one, two, kept, kept_second in zip(first, second, *truncate_longest_first(first, second, room)):
            while one + two > room:
                one, two = (one - 1, two) if one > two else (one, two - 1)
            assert kept + kept_second == one + two and abs(kept - one) <= 1


def test_literal_special_tokens_are_text(pair_of_tokenizers):
    ours, _ = pair_of_tokenizers
    row = rows_of(encode(Examples("classification", ["0"], ["a [MASK] <mask> [SEP] </s>"]), ours, SINGLE, 64))[0]
    assert not set(row[1:-1]) & (set(ours.special.values()) - {ours.special["unk"]})
    context = "a [MASK] <mask> [SEP] </s> b"
    features = encode(Examples("span", ["0"], ["a"], [context], answers=[((27, "b"),)]), ours, SPAN, 64, doc_stride=2)
    row = rows_of(features)[0]
    assert row.count(ours.special["mask"]) == 0
    assert features.offsets[features.start_positions[0]].tolist()[1] == 28


def stock_for_words(ours, stock, directory):
    if ours.kind != "byte_bpe":
        return stock
    from transformers import RobertaTokenizer

    ours.save(directory)
    return RobertaTokenizer.from_pretrained(directory, add_prefix_space=True, split_special_tokens=True)


def test_words(pair_of_tokenizers, tmp_path):
    ours, stock = pair_of_tokenizers
    sentences = [line.split() for line in checks.lines_of(checks.documents(20)) if line.split()]
    sentences += [["unbelievably", "\x00", "his", "“x”", "他是"], ["e\u0301"], ["x" * 300, "y"]]
    labels = [np.arange(len(words), dtype=np.int32) for words in sentences]
    max_length = 20
    features = encode(Examples("tokens", list(map(str, range(len(sentences)))), words=sentences, labels=labels), ours, WORDS, max_length)
    expected = stock_for_words(ours, stock, tmp_path)(sentences, is_split_into_words=True, truncation=True, max_length=max_length)
    assert rows_of(features) == expected["input_ids"]
    bounds = features.towers[""].bounds
    cut = 0
    for number, words in enumerate(sentences):
        found, before = [], None
        for word in expected.word_ids(number):
            found.append(IGNORED if word is None or word == before else word)
            before = word
        of_row = slice(bounds[number], bounds[number + 1])
        assert features.labels[of_row].tolist() == found
        assert np.where(features.first_words[of_row] < 0, IGNORED, features.first_words[of_row]).tolist() == found
        cut += len(stock_ids := rows_of(features)[number]) == max_length and max(found) < len(words) - 1 and bool(stock_ids)
    assert features.truncated >= cut > 3
    assert encode(Examples("tokens", ["0"], words=[["a", "b"]]), ours, WORDS, 20).labels is None


def questions():
    """Passages of Python's documentation, each long, with answers at word boundaries, within words, and none."""
    passages = [text[:700] for text in checks.documents(60) if len(text) > 700 and "``" not in text and "''" not in text][:5]
    found = []
    for number, passage in enumerate(passages):
        words = passage.split()
        spans = [(begin, begin + 25) for begin in range(0, len(passage) - 30, 41)] + [(len(passage) - 30, len(passage) - 1), (1, 4)]
        spans = [(start + len(passage[start:stop]) - len(passage[start:stop].lstrip()), stop) for start, stop in spans]
        found += [(f"what of {words[0]}?", passage, ((start, passage[start:stop].strip()),)) for start, stop in spans]
        found.append((f"is there a {number}?", passage, ()))
    texts, pairs, answers = map(list, zip(*found))
    return Examples("span", list(map(str, range(len(texts)))), texts, pairs, answers=answers)


def assert_windows(ours, stock, max_length=64, doc_stride=20):
    examples = questions()
    features = encode(examples, ours, SPAN, max_length, doc_stride=doc_stride)
    expected = stock(
        examples.texts, examples.pairs, truncation="only_second", max_length=max_length, stride=doc_stride, return_overflowing_tokens=True,
        return_offsets_mapping=True, return_token_type_ids=True,
    )  # fmt: skip
    assert_equal_rows(features, expected, ours.parts.special["cls"] != "<s>")
    assert features.examples.tolist() == expected["overflow_to_sample_mapping"] and len(features) > 2 * len(examples)
    tower = features.towers[""]
    answered = set()
    for window, example in enumerate(features.examples):
        offsets = features.offsets[tower.bounds[window] : tower.bounds[window + 1]]
        is_passage = [part == 1 for part in expected.sequence_ids(window)]
        assert (offsets[:, 0] >= 0).tolist() == is_passage
        mine, theirs = offsets[is_passage], np.array(expected["offset_mapping"][window])[is_passage]
        assert mine.tolist() == theirs.tolist()
        start, end = features.start_positions[window], features.end_positions[window]
        begin, text = examples.answers[example][0] if examples.answers[example] else (-1, "")
        if not (mine[0][0] <= begin and begin + len(text) <= mine[-1][1]):
            assert start == end == 0
            continue
        answered.add(example)
        assert offsets[start][0] <= begin < offsets[start][1] and offsets[end][0] < begin + len(text) <= offsets[end][1]
    assert answered == {number for number, answers in enumerate(examples.answers) if answers}


def test_windows(pair_of_tokenizers):
    assert_windows(*pair_of_tokenizers)


def test_a_question_without_room_for_its_passage(pair_of_tokenizers):
    ours, _ = pair_of_tokenizers
    examples = Examples("span", ["short", "long"], ["a?", "what is this? " * 10], ["some text"] * 2, answers=[(), ()])
    with pytest.raises(TaskDataError, match="question long has .* tokens and leaves .* doc_stride=20"):
        encode(examples, ours, SPAN, 40, doc_stride=20)
    with pytest.raises(TaskDataError, match="max_length=4 leaves no room"):
        encode(examples, ours, SPAN, 4)


def test_towers_and_choices(pair_of_tokenizers):
    ours, stock = pair_of_tokenizers
    texts, pairs, negatives = ["first one", "second"], ["its friend", "another friend of it"], ["a stranger", "no"]
    task = TaskData("embedding", text_pair="pair", negative="negative", label=None)
    features = encode(Examples("embedding", ["0", "1"], texts, pairs, negatives), ours, task, 16)
    for prefix, column in (("", texts), ("pair_", pairs), ("negative_", negatives)):
        assert rows_of(features, prefix) == stock(column)["input_ids"]
    assert features.lengths().tolist() == [max(map(len, rows)) for rows in zip(*(rows_of(features, prefix) for prefix in features.towers))]
    choices = [("a", "b c", "d"), ("e", "f", "g h i j k")]
    task = TaskData("choice", choices=("x", "y", "z"))
    features = encode(Examples("choice", ["0", "1"], texts, choices=choices, labels=np.array([2, 0], np.int32)), ours, task, 16)
    flat = [choice for row in choices for choice in row]
    assert rows_of(features) == stock([text for text in texts for _ in range(3)], flat)["input_ids"]
    assert features.choices == 3 and len(features) == 2 and len(features.lengths()) == 2
