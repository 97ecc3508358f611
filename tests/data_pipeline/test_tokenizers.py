import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import embedded, sentences, tokenizers, wordpiece
from data_pipeline.tokenizers import TokenizerError

ODD_LINES = [
    "control \x00 \x01\x02 a\x0bb a\x0cb a\x1cb a\x1fb \x7f a\x85b \x1d \x85",
    "spaces a\xa0b a\u1680b a\u2003b a\u2028b a\u2029b a\u202fb a\u3000b\ta\rb \ufeffa a\u200bb a\u200db a\u2060b a\u180eb",
    "combining e\u0301 \u0301e a\u0327\u0301 \u1e9b\u0323 \u0130 I\u0307 \u01c4 \ufb01 ½ ² Σίσυφος ΟΔΟΣ ﬀ ŉ ẞ ß",
    "CJK 他是学生。我也是！かな カタカナ 한국어 \u115f 𠀀𪚥 a他b ﾊﾝｶｸ",
    "emoji 🙂👨\u200d👩\u200d👧 ❤\ufe0f 🇩🇪 a🙂b \U000e0041",
    "Mixed-case: don't, it's; \"quoted\" 'x' (a) [b] {c} <d> $5 €5 #tag @me a_b a+b=c ~x^y|z` \\ /usr/bin 3.14 1,000",
    "“curly” ‘quotes’ — dashes – … «guillemets» ¿qué? ¡sí! „unten“ 10°C §5 ©2020 µm ١٢٣ ४५",
    "special [MASK] [CLS]x[SEP] [mask] [PAD] [UNK] ##ing [unused1] <s> </s>",
    "x" * 99 + " " + "y" * 100 + " " + "z" * 101 + " " + "é" * 101 + " " + "w" * 5000 + " " + "a.b" * 2000,
    "",
    " ",
    "  two  spaces   three    ",
    "\ufffd replacement \ue000 private \U0010ffff unassigned \u0378 \ud7ff",
]


def reference(directory):
    from transformers import AutoTokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # split_special_tokens: a literal "[MASK]" is text, in ours always.
    return AutoTokenizer.from_pretrained(directory, model_max_length=10**9, split_special_tokens=True)


def assert_equal_ids(tokenizer, expected, lines):
    found, ends = tokenizer.encode_sentences(lines)
    start = 0
    for line, end, ids in zip(lines, ends, expected(lines, add_special_tokens=False)["input_ids"], strict=True):
        assert found[start:end].tolist() == ids, ascii(line)
        start = end


@pytest.fixture(scope="module")
def documents():
    return list(itertools.islice(embedded.documents(), 250))


@pytest.fixture(scope="module", params=["uncased", "cased"])
def trained(request, documents, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    tokenizer, coverage = tokenizers.train(documents, directory, vocab_size=3000, lowercase=request.param == "uncased")
    return directory, tokenizer, coverage


def test_trained_files_load_in_transformers_with_equal_ids(trained, documents):
    directory, tokenizer, _ = trained
    stock = reference(directory)
    assert stock.is_fast and type(stock).__name__ in ("BertTokenizer", "BertTokenizerFast")
    assert stock.vocab_size == tokenizer.vocab_size == 3000
    assert [stock.pad_token_id, stock.unk_token_id, stock.cls_token_id, stock.sep_token_id, stock.mask_token_id] == [0, 1, 2, 3, 4]
    assert stock.mask_token_id == tokenizer.special["mask"]
    assert stock("a b")["input_ids"][0] == tokenizer.special["cls"]
    assert {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"} <= set(os.listdir(directory))
    lines = [line for document in documents for line in document.split("\n")]
    assert_equal_ids(tokenizer, stock, lines)
    assert tokenizers.load(directory).hash == tokenizer.hash


def test_odd_text_has_equal_ids(trained):
    directory, tokenizer, _ = trained
    stock = reference(directory)
    assert_equal_ids(tokenizer, stock, ODD_LINES)
    generator = random.Random(0)
    characters = sorted(set("".join(ODD_LINES))) + ["a", " ", "the", ".", "ing"] * 20
    lines = ["".join(generator.choices(characters, k=generator.randint(0, 60))) for _ in range(3000)]
    assert_equal_ids(tokenizer, stock, lines)
    assert_equal_ids(tokenizer, stock, ["line\nends \n inside", "\n", "next"])


def test_splitting_into_sentences_changes_no_token(trained, documents):
    _, tokenizer, _ = trained
    for text in [*documents[:60], *ODD_LINES]:
        whole = tokenizer.encode(text.replace("\n", " "))
        parts = tokenizer.encode_sentences(sentences.split(text))[0]
        assert whole.tolist() == parts.tolist(), ascii(text[:200])


def test_a_full_cache_changes_nothing(trained, documents, monkeypatch):
    _, tokenizer, _ = trained
    expected = tokenizer.encode_sentences(documents)
    monkeypatch.setattr(wordpiece, "CACHE_WORDS", 50)
    monkeypatch.setattr(wordpiece, "CACHE_WORD_LENGTH", 6)
    fresh = tokenizers.load(trained[0])
    for ours, theirs in zip(fresh.encode_sentences(documents), expected):
        assert (ours == theirs).all()
    assert len(fresh.encoder._words) <= 52


def test_text_never_becomes_a_special_token(trained):
    _, tokenizer, _ = trained
    ids = tokenizer.encode("[MASK] the [CLS] [SEP] [PAD] x[MASK]y")
    assert not set(ids.tolist()) & {tokenizer.special[name] for name in ("mask", "cls", "sep", "pad")}
    # The library's own encoding, which training code may call, agrees.
    assert tokenizer.hf.encode("[MASK] the", add_special_tokens=False).ids == tokenizer.encode("[MASK] the").tolist()


def test_word_starts_and_decoding(trained):
    _, tokenizer, _ = trained
    ids = tokenizer.encode("unbelievably hyperparameterization")
    assert tokenizer.is_word_start.dtype == bool and tokenizer.is_word_start.shape == (3000,)
    assert tokenizer.is_word_start[ids].sum() == 2 and len(ids) > 2
    assert tokenizer.decode(ids) == "unbelievably hyperparameterization"
    assert tokenizer.encode("a").dtype == np.int32


def test_coverage_counts_words_and_unknowns(trained):
    _, tokenizer, coverage = trained
    assert coverage.documents == 250 and 1.0 < coverage.tokens_per_word < 2.5 and coverage.unknown_share < 0.01
    unknown = tokenizers.coverage(tokenizer, ["the 他 of ☃"])
    assert (unknown.words, unknown.unknown) == (4, 2)


TRAIN = """
import itertools, sys
from data_pipeline import embedded, tokenizers
documents = list(itertools.islice(embedded.documents(), 60))
print(tokenizers.train(documents[:: int(sys.argv[2])], sys.argv[1], vocab_size=1500)[0].hash)
"""


def test_training_gives_the_same_files_in_every_process_and_document_order(tmp_path):
    hashes = []
    for seed, order in (("1", "1"), ("2", "-1")):
        command = [sys.executable, "-c", TRAIN, str(tmp_path / seed), order]
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        hashes.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert hashes[0] == hashes[1]
    for name in os.listdir(tmp_path / "1"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_the_training_sample_is_bounded_and_independent_of_order(documents):
    for size in (20_000, 50_000, 100_000):
        sample = tokenizers._sample(iter(documents), size)
        assert size / 2 < sum(map(len, sample)) <= size
        assert sample == tokenizers._sample(reversed(documents), size)
    assert sum(map(len, tokenizers._sample(["word " * 1_000_000], 100_000))) > 50_000


def test_training_errors(tmp_path, documents):
    with pytest.raises(TokenizerError, match="known kinds: wordpiece"):
        tokenizers.train(documents, tmp_path, kind="bpe")
    with pytest.raises(TokenizerError, match="too small"):
        tokenizers.train(documents, tmp_path, vocab_size=50)
    with pytest.raises(TokenizerError, match="no text"):
        tokenizers.train(["\x00 \u200b"], tmp_path)


def bare(directory, words):
    directory.mkdir(exist_ok=True)
    (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    return directory


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_bare_vocabularies(tmp_path):
    lower = tokenizers.load(bare(tmp_path / "lower", ["[unused0]", *SPECIAL, "hello", "##s"]))
    assert lower.encode("Hellos").tolist() == [6, 7] and lower.special["pad"] == 1
    upper = tokenizers.load(bare(tmp_path / "upper", [*SPECIAL, "hello", "Hello", "##s"]))
    assert upper.encode("Hellos").tolist() == [6, 7]
    (tmp_path / "upper" / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert tokenizers.load(tmp_path / "upper").encode("Hellos").tolist() == [5, 7]
    assert tokenizers.load(tmp_path / "upper").hash != upper.hash


def test_the_largest_ids_are_told_from_sentence_marks(tmp_path):
    for size in (65535, 65536, 65537):
        tokenizer = tokenizers.load(bare(tmp_path / str(size), [*SPECIAL, *(f"w{number}" for number in range(size - 5))]))
        ids, ends = tokenizer.encode_sentences([f"w{size - 6} w0", f"w{size - 6}"])
        assert ids.tolist() == [size - 1, 5, size - 1] and ends.tolist() == [2, 3]


def test_unusable_tokenizers_are_refused(tmp_path, trained):
    for missing in SPECIAL:
        directory = bare(tmp_path / "lacking", [word for word in SPECIAL if word != missing] + ["hello"])
        with pytest.raises(TokenizerError, match=f"has no \\{missing}"):
            tokenizers.load(directory)
    with pytest.raises(TokenizerError, match="'hello' more than once"):
        tokenizers.load(bare(tmp_path / "twice", [*SPECIAL, "hello", "hello"]))
    with pytest.raises(TokenizerError, match="is not a directory"):
        tokenizers.load(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokenizerError, match="neither tokenizer.json nor vocab.txt"):
        tokenizers.load(tmp_path / "empty")

    good = json.loads((trained[0] / "tokenizer.json").read_text())
    vocabulary = {token: number for token, number in good["model"]["vocab"].items() if token != "[MASK]"}
    for change, words in [
        ({"model": good["model"] | {"type": "BPE"}}, "its model is BPE"),
        ({"normalizer": None}, "its normalizer is None"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer is Whitespace"),
        ({"model": good["model"] | {"vocab": vocabulary}}, r"has no \[MASK\]"),
        ({"model": good["model"] | {"vocab": good["model"]["vocab"] | {"far": 9999}}}, "without gaps"),
        ({"added_tokens": [*good["added_tokens"], {"id": 3000, "content": "<url>"}]}, "added tokens .'<url>'"),
    ]:
        (tmp_path / "empty" / "tokenizer.json").write_text(json.dumps(good | change))
        with pytest.raises(TokenizerError, match=words):
            tokenizers.load(tmp_path / "empty")
    (tmp_path / "empty" / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="not valid JSON"):
        tokenizers.load(tmp_path / "empty")


@pytest.mark.shared
@pytest.mark.parametrize("every", [50, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", ["uncased", "cased"])
def test_published_vocabularies_give_equal_ids_on_reference_text(case, every, tmp_path):
    root = os.environ.get("BERT_JAX_SHARED")
    if not root:
        pytest.skip("BERT_JAX_SHARED is not set")
    data = Path(root) / "data"
    bare(tmp_path / "bare", []).joinpath("vocab.txt").write_bytes((data / f"tokenizers/bert/bert-base-{case}-vocab.txt").read_bytes())
    tokenizer = tokenizers.load(tmp_path / "bare")
    tokenizer.save(tmp_path / "saved")
    stock = reference(tmp_path / "saved")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    paths = sorted([*data.glob("multilingual/*.txt"), *data.glob("text/**/*.txt")])
    assert paths
    for path in paths:
        assert_equal_ids(tokenizer, stock, path.read_text().split("\n")[::every] or [""])
    assert_equal_ids(tokenizer, stock, ODD_LINES)
