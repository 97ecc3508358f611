"""Every format gives the same examples, and a bad row is named by its file and line."""

import dataclasses
import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from data_pipeline.sources.reading import CorpusError
from data_pipeline.tasks.examples import read_examples
from data_pipeline.tasks.task_data import TaskData, TaskDataError
from tests.data_pipeline.tokenization.tokenizer_checks import shared_data

ROWS = [
    {"a": "It's good.", "b": 'He said "yes", twice.', "label": "pos"},
    {"a": "", "b": "Zürich, 他是学生 🙂", "label": "neg"},
    {"a": "third", "b": "a\\b", "label": "pos"},
]
PAIR = TaskData("classification", text="a", text_pair="b")


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


def csv_cell(text):
    return '"' + text.replace('"', '""') + '"'


def in_format(directory, format, rows):
    """A file of rows, whose values are text but in JSON and tables."""
    path = directory / f"rows.{format}"
    names = list(rows[0])
    if format == "csv":
        return write(path, "".join(",".join(map(csv_cell, line)) + "\r\n" for line in (names, *(row.values() for row in rows))))
    if format == "tsv":
        return write(path, "".join("\t".join(line) + "\n" for line in (names, *(row.values() for row in rows))))
    if format == "jsonl":
        return write(path, "".join(json.dumps(row | {"more": [1]}) + "\n" for row in rows))
    if format == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    else:
        table = pyarrow.Table.from_pylist(rows)
        if format == "parquet":
            pyarrow.parquet.write_table(table, path)
        else:
            with pyarrow.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table)
    return str(path)


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "jsonl.gz", "parquet", "arrow"])
def test_formats(tmp_path, format):
    examples = read_examples(in_format(tmp_path, format, ROWS), PAIR)
    assert examples.texts == [row["a"] for row in ROWS] and examples.pairs == [row["b"] for row in ROWS]
    assert examples.label_names == ("neg", "pos") and examples.labels.tolist() == [1, 0, 1] and examples.labels.dtype == np.int32
    assert examples.ids == ["0", "1", "2"] and len(examples) == 3


def test_csv_cells_may_hold_lines_and_tsv_quotes_are_characters(tmp_path):
    path = write(tmp_path / "a.csv", '\ufefftext,label\n"two\nlines, and ""quotes""",1\n\nplain,0\n')
    assert read_examples(path, TaskData("classification")).texts == ['two\nlines, and "quotes"', "plain"]
    path = write(tmp_path / "a.tsv", '\ufefftext\tlabel\nbuilt - up " " area\t1\n"open\t0\n')
    assert read_examples(path, TaskData("classification")).texts == ['built - up " " area', '"open']
    path = write(tmp_path / "cola.tsv", "gj04\t1\t\tThe sailors rode.\ngj04\t0\t*\tThe book wrote.\n")
    examples = read_examples(path, TaskData("classification", text="3", label="-3", has_header=False))
    assert examples.texts == ["The sailors rode.", "The book wrote."] and examples.labels.tolist() == [1, 0]


def test_several_files_are_read_in_order(tmp_path):
    for number in range(3):
        write(tmp_path / f"part{number}.jsonl", json.dumps({"text": f"t{number}", "label": 0}) + "\n")
    assert read_examples(str(tmp_path / "part*.jsonl"), TaskData("classification")).texts == ["t0", "t1", "t2"]


@pytest.mark.parametrize(
    ("name", "content", "task", "words"),
    [
        ("a.csv", "a,b,label\nx,y,0\nx,y\n", PAIR, "a.csv, line 3: 2 columns where the first line has 3"),
        ("a.csv", 'a,b,label\nx,y,0\n"x\nz",y,0\n"x","y"z,0\n', PAIR, "a.csv, line 5: broken CSV"),
        ("a.csv", 'a,b,label\nx,y,0\n"x,y,0\nx,y,0\n', PAIR, "a.csv, line 3: broken CSV"),
        ("a.csv", "a,label\nx,0\n", PAIR, "a.csv, line 1: no column 'b'; the header has .a, label."),
        ("a.csv", "a,b,b,label\n", PAIR, "names a column twice"),
        ("a.tsv", "x\ty\n", TaskData("classification", text="0", label="2", has_header=False), "line 1: no column '2'; it has 2 columns"),
        ("a.csv", "a,b,label\n", PAIR, "holds no example"),
        ("a.csv", "a,b,label\nx,y,\n", PAIR, "a.csv, line 2: the label in 'label' is ''"),
        (
            "a.csv",
            "a,b,label\nx,y,c\n",
            dataclasses.replace(PAIR, label_names=("d", "e")),
            "line 2: the label 'c' .* is not known; known are d, e",
        ),
        ("a.jsonl", '{"text": "x", "label": 0}\n{"text": "x", "label": 0\n', TaskData("classification"), "a.jsonl, line 2: broken JSON"),
        (
            "a.jsonl",
            '{"text": "x", "label": 0}\n\n{"text": "x"}\n',
            TaskData("classification"),
            "line 3: no column 'label'; there is 'text'",
        ),
        ("a.jsonl", '{"text": 5, "label": 0}\n', TaskData("classification"), "line 1: 'text' is 5; it must be text"),
        ("a.jsonl", '{"text": "\\ud800", "label": 0}\n', TaskData("classification"), "no valid Unicode at character 0"),
        (
            "a.jsonl",
            '{"text": "x", "label": 0}\n{"text": "x", "label": null}\n',
            TaskData("classification"),
            "line 2: no label, where other",
        ),
        ("a.jsonl", "[1]\n", TaskData("classification"), "no object"),
        ("a.jsonl", '{"text": "x", "label": [0]}\n', TaskData("classification"), r"the label in 'label' is \[0\]"),
        ("a.jsonl", '{"text": "x", "label": "nan"}\n', TaskData("regression"), "the label is 'nan'; it must be a number"),
        ("a.jsonl", '{"text": "x", "label": "good"}\n', TaskData("regression"), "line 1: the label is 'good'"),
        ("a.jsonl", '{"text": "x", "label": 3}\n', TaskData("multilabel"), "'label' is 3; it must be a list"),
        (
            "a.jsonl",
            '{"text": "x", "label": 0, "n": 1}\n' * 2,
            TaskData("classification", id="n"),
            "line 2: the id 1 stands here for the second",
        ),
        ("a.conll", "EU B-ORG\nrejects O\n\nGerman\n", TaskData("tokens"), "a.conll, line 4: 1 columns where the lines before have 2"),
        ("a.conll", "EU B-ORG\n", TaskData("tokens", tags="2"), "line 1: no column '2'"),
        ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}\n', TaskData("tokens"), "1 labels in 'tags' for 2 words"),
        ("a.jsonl", '{"text": "x", "c": ["a", "b"], "label": 2}\n', TaskData("choice", choices=("c",)), "it must be a number from 0 to 1"),
        ("a.jsonl", '{"text": "x", "c": ["a"], "label": 0}\n', TaskData("choice", choices=("c",)), "1 choices"),
        (
            "a.json",
            '{"data": [{"paragraphs": [{"context": "x", "qas": [{"id": "q1"}]}]}]}',
            "span",
            "question q1: not as SQuAD's .*'question'",
        ),
        ("a.json", '{"data": [', "span", "a.json: broken JSON"),
        ("a.dat", "x", TaskData("classification"), "its name does not tell its format"),
    ],
)
def test_a_bad_row_is_named(tmp_path, name, content, task, words):
    task = TaskData("span", text="question", text_pair="context", label="answers", id="id") if task == "span" else task
    with pytest.raises(TaskDataError, match=words):
        read_examples(write(tmp_path / name, content), task)


def test_broken_bytes_are_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,label\nx,0\n\xff,1\n")
    with pytest.raises(TaskDataError, match="a.csv, line 3, byte 0: not UTF-8"):
        read_examples(str(tmp_path / "a.csv"), TaskData("classification"))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x", "label": 0}\n' * 1000)[:40])
    with pytest.raises(TaskDataError, match="a.jsonl.gz: cut short or damaged"):
        read_examples(str(tmp_path / "a.jsonl.gz"), TaskData("classification"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1nothing")
    with pytest.raises(TaskDataError, match="a.parquet: no Parquet file"):
        read_examples(str(tmp_path / "a.parquet"), TaskData("classification"))
    with pytest.raises(TaskDataError, match="is not a file"):
        read_examples(str(tmp_path / "b.csv"), TaskData("classification"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "classify"}, "kind='classify' is unknown"),
        ({"kind": "classification", "format": "xml"}, "format='xml' is unknown"),
        ({"kind": "span"}, "needs text_pair"),
        ({"kind": "choice"}, "the columns of the choices"),
        ({"kind": "ranking", "text_pair": "p", "negative": "n"}, "has no negative"),
        ({"kind": "classification", "format": "squad"}, "does not hold data"),
        ({"kind": "classification", "label_names": ("a", "a")}, "must be different names"),
    ],
)
def test_columns_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(TaskDataError, match=words):
        TaskData(**settings)


def test_classes_are_numbered_by_name_and_whole_numbers_by_size(tmp_path):
    path = write(tmp_path / "a.jsonl", "".join(json.dumps({"text": "x", "label": label}) + "\n" for label in (10, 9, 10, -1, 2.0)))
    examples = read_examples(path, TaskData("classification"))
    assert examples.label_names == ("-1", "2", "9", "10") and examples.labels.tolist() == [3, 2, 3, 0, 1]
    again = read_examples(path, TaskData("classification", label_names=("10", "9", "2", "-1", "5")))
    assert again.labels.tolist() == [0, 1, 0, 3, 2]
    assert read_examples(path, TaskData("classification", label=None)).labels is None


def test_multilabel_and_numbers(tmp_path):
    lists = write(tmp_path / "a.jsonl", "".join(json.dumps({"text": "x", "label": labels}) + "\n" for labels in (["b", "a"], [], ["c"])))
    text = write(tmp_path / "a.csv", 'text,label\nx,"b, a"\nx,""\nx,c\n')
    for path in (lists, text):
        examples = read_examples(path, TaskData("multilabel"))
        assert examples.label_names == ("a", "b", "c") and examples.labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
        assert examples.labels.dtype == np.float32
    path = write(tmp_path / "b.csv", "text,other,label\nx,y,2.5\nx,z,-1\n")
    for kind in ("regression", "ranking", "embedding"):
        examples = read_examples(path, TaskData(kind, text_pair="other"))
        assert examples.labels.tolist() == [2.5, -1] and examples.labels.dtype == np.float32 and examples.pairs == ["y", "z"]
    classes = read_examples(path, TaskData("embedding", text_pair="other", label_type="class"))
    assert classes.labels.tolist() == [1, 0] and classes.label_names == ("-1", "2.5")
    triplets = read_examples(path, TaskData("embedding", text="text", text_pair="other", negative="label", label=None))
    assert triplets.negatives == ["2.5", "-1"] and triplets.labels is None


def test_choices(tmp_path):
    path = write(tmp_path / "a.csv", "start,s2,e0,e1,e2,right\nHe ran.,Then he,fell,sang,ate,2\nShe sat.,She,a,b,c,0\n")
    task = TaskData("choice", text="start", text_pair="s2", choices=("e0", "e1", "e2"), label="right")
    examples = read_examples(path, task)
    assert examples.choices[0] == ("Then he fell", "Then he sang", "Then he ate") and examples.labels.tolist() == [2, 0]
    rows = [{"q": "x", "options": ["a", "b"], "answer": "B"}, {"q": "x", "options": ["a", "b"], "answer": "A"}]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    examples = read_examples(path, TaskData("choice", text="q", choices=("options",), label="answer", label_names=("A", "B")))
    assert examples.choices == [("a", "b")] * 2 and examples.labels.tolist() == [1, 0]


def test_conll(tmp_path):
    text = "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\n\nPeter NNP I-NP B-PER\n"
    path = write(tmp_path / "train.txt", text)
    examples = read_examples(path, TaskData("tokens"))
    assert examples.words == [["EU", "rejects"], ["Peter"]] and examples.label_names == ("B-ORG", "B-PER", "O")
    assert [labels.tolist() for labels in examples.labels] == [[0, 2], [1]]
    assert read_examples(path, TaskData("tokens", tags="1")).label_names == ("NNP", "VBZ")
    assert read_examples(path, TaskData("tokens", tags=None)).labels is None
    path = write(tmp_path / "pos.tsv", "a b\tX\n\u00a0\tY\n")  # words may hold spaces where tabs part the columns
    assert read_examples(path, TaskData("tokens")).words == [["a b", "\u00a0"]]


def squad_file(path, questions, context="Zürich lies in Switzerland."):
    qas = [{"id": name, "question": "where?", "answers": answers, "is_impossible": not answers} for name, answers in questions]
    return write(path, json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]}))


def test_squad(tmp_path):
    task = TaskData("span", text="question", text_pair="context", label="answers", id="id")
    questions = [("q1", [{"text": "in Switzerland", "answer_start": 12}, {"text": "Switzerland", "answer_start": 15}]), ("q2", [])]
    examples = read_examples(squad_file(tmp_path / "a.json", questions), task)
    assert examples.ids == ["q1", "q2"] and examples.answers == [((12, "in Switzerland"), (15, "Switzerland")), ()]
    flat = [
        {
            "id": name,
            "question": "where?",
            "context": "Zürich lies in Switzerland.",
            "answers": {key: [answer[key] for answer in answers] for key in ("text", "answer_start")},
        }
        for name, answers in questions
    ]
    again = read_examples(write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in flat)), task)
    assert again.answers == examples.answers and again.pairs == examples.pairs
    for answers, words in (
        (
            [{"text": "Switzerland", "answer_start": 14}],
            "question q1: the answer 'Switzerland' is not at its answer_start 14, where .* ' Switzerlan'",
        ),
        ([{"text": "S", "answer_start": "15"}], "question q1: the answer"),
        ([{"text": "S"}], "question q1: not as SQuAD's files are .no 'answer_start'"),
    ):
        with pytest.raises(TaskDataError, match=words):
            read_examples(squad_file(tmp_path / "b.json", [("q1", answers)]), task)
    with pytest.raises(TaskDataError, match="the id 'q1' stands here for the second time"):
        read_examples(squad_file(tmp_path / "c.json", [("q1", []), ("q1", [])]), task)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """TensorFlow data sets like GLUE's, CoNLL's and SQuAD's, the first also as array_record."""
    import tensorflow_datasets as tfds

    data_dir = tmp_path_factory.mktemp("tensorflow_datasets")
    pair = {"s1": tfds.features.Text(), "s2": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["yes", "no"]), "idx": np.int32}
    tags = tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-X"]))
    answers = tfds.features.Sequence({"text": tfds.features.Text(), "answer_start": np.int32})
    sets = {
        "pairs": (
            pair,
            [{"s1": f"a{i}", "s2": "é", "label": i % 2, "idx": i} for i in range(9)],
            [{"s1": "b", "s2": "c", "label": -1, "idx": i} for i in range(2)],
        ),
        "tagged": ({"tokens": tfds.features.Sequence(tfds.features.Text()), "tags": tags}, [{"tokens": ["a", "é"], "tags": [0, 1]}], []),
        "questions": (
            {"id": tfds.features.Text(), "question": tfds.features.Text(), "context": tfds.features.Text(), "answers": answers},
            [{"id": "q", "question": "?", "context": "é bc", "answers": {"text": ["bc"], "answer_start": [2]}}], [],
        ),
    }  # fmt: skip
    for name, (features, train, test) in sets.items():
        for file_format in ("tfrecord", "array_record") if name == "pairs" else ("tfrecord",):
            tfds.dataset_builders.store_as_tfds_dataset(
                name=name, config=file_format, version="1.0.0", data_dir=data_dir, features=tfds.features.FeaturesDict(features),
                split_datasets={split: list(enumerate(rows)) for split, rows in (("train", train), ("test", test)) if rows},
                file_format=file_format, disable_shuffling=True,
                download_config=tfds.download.DownloadConfig(num_shards=2 if name == "pairs" else 1, try_download_gcs=False),
            )  # fmt: skip
    return data_dir


def test_tensorflow_data_sets(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(prepared))
    task = TaskData("classification", text="s1", text_pair="s2", id="idx")
    for file_format in ("tfrecord", "array_record"):
        examples = read_examples(f"tfds:pairs/{file_format}:train", task)
        assert examples.texts == [f"a{number}" for number in range(9)] and set(examples.pairs) == {"é"}
        assert examples.label_names == ("yes", "no") and examples.labels.tolist() == [number % 2 for number in range(9)]
        assert examples.ids == [str(number) for number in range(9)]
    assert read_examples("pairs/tfrecord:train[2:4]", dataclasses.replace(task, format="tfds")).texts == ["a2", "a3"]
    assert read_examples(f"tfds:{prepared}/pairs/tfrecord/1.0.0:test", task).labels is None
    tagged = read_examples("tfds:tagged/tfrecord:train", TaskData("tokens"))
    assert tagged.words == [["a", "é"]] and tagged.label_names == ("O", "B-X") and tagged.labels[0].tolist() == [0, 1]
    span = TaskData("span", text="question", text_pair="context", label="answers", id="id")
    assert read_examples("tfds:questions/tfrecord:train", span).answers == [((2, "bc"),)]
    with pytest.raises(TaskDataError, match="no column 'sentence'; pairs/tfrecord has 'idx', 'label', 's1', 's2'"):
        read_examples("tfds:pairs/tfrecord:train", TaskData("classification", text="sentence"))
    with pytest.raises(CorpusError, match="tfds build"):
        read_examples("tfds:glue/sst2:train", task)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("path", "task", "count", "classes"),
    [
        ("banking77/train.csv", TaskData("classification", label="category"), 10_003, 77),
        ("nli_conjnli/conj_dev.tsv", TaskData("classification", text="Premise", text_pair="Hypothesis", label="Label"), 623, 3),
        ("mr_sentences/dev.jsonl", TaskData("classification"), 1066, 2),
        ("pos_ewt/dev.tsv", TaskData("tokens"), 2001, 17),
        ("ner_wikigold/wikigold.conll.txt", TaskData("tokens"), 1696, 5),
        ("squad2_cs224n/split-dev.json", TaskData("span", text="question", text_pair="context", label="answers", id="id"), None, None),
        ("ir_squad/queries.jsonl", TaskData("classification", id="_id", label=None), 2910, None),
    ],
)
def test_published_files(path, task, count, classes):
    examples = read_examples(str(shared_data() / "tasks" / path), task)
    assert count in (None, len(examples)) and (classes is None or len(examples.label_names) == classes)
