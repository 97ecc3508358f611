"""What holds for every kind of tokenizer."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.tokenization import tokenizers, word_cache
from data_pipeline.tokenization.tokenizers import TokenizerError
from tests.data_pipeline.tokenization import tokenizer_checks as checks

KINDS = tuple(tokenizers.DEFAULT_VOCAB_SIZES)


@pytest.fixture(scope="module")
def documents():
    return checks.documents()


@pytest.fixture(scope="module")
def trained(documents, tmp_path_factory):
    """Kind -> directory."""
    directories = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, directory in directories.items():
        tokenizers.train(documents[:100], directory, kind, vocab_size=1500)
    return directories


def test_a_directory_without_tokenizer_json_is_the_same_tokenizer(trained, tmp_path):
    for kind, directory in trained.items():
        tokenizer = tokenizers.load(directory)
        assert tokenizer.kind == kind
        bare = tmp_path / kind
        tokenizer.save(bare)
        (bare / "tokenizer.json").unlink()
        again = tokenizers.load(bare)
        assert (again.hash, again.special, again.special_ids) == (tokenizer.hash, tokenizer.special, tokenizer.special_ids)
        again.save(bare)
        assert {path.name: path.read_bytes() for path in bare.iterdir()} == {path.name: path.read_bytes() for path in directory.iterdir()}


def test_every_kind_has_a_hash_of_its_own_that_changes_with_the_vocabulary(trained, documents, tmp_path):
    hashes = {kind: tokenizers.load(directory).hash for kind, directory in trained.items()}
    others = {kind: tokenizers.train(documents[100:150], tmp_path / kind, kind, vocab_size=1500)[0].hash for kind in KINDS}
    assert len({*hashes.values(), *others.values()}) == 2 * len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_cache_changes_nothing(trained, documents, monkeypatch, kind):
    sentences = [*checks.lines_of(documents[:100]), *checks.ODD_LINES]
    expected = tokenizers.load(trained[kind]).encode_sentences(sentences)
    monkeypatch.setattr(word_cache, "CACHE_WORDS", 50)
    monkeypatch.setattr(word_cache, "CACHE_WORD_LENGTH", 6)
    fresh = tokenizers.load(trained[kind])
    for ours, theirs in zip(fresh.encode_sentences(sentences), expected):
        assert (ours == theirs).all()
    assert len(fresh.parts.encoder._words) <= 52


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_may_come_in_any_portions(trained, documents, kind):
    tokenizer = tokenizers.load(trained[kind])
    lines = [*checks.lines_of(documents[:10]), "", "", *checks.ODD_LINES]
    ids, ends, starts = tokenizer.encode_sentences(lines)
    assert ids.dtype == np.uint16 and ends.dtype == np.int64 and starts.dtype == bool
    one_by_one = [tokenizer.encode_sentences([line]) for line in lines]
    assert np.concatenate([part[0] for part in one_by_one]).tolist() == ids.tolist()
    assert np.concatenate([part[2] for part in one_by_one]).tolist() == starts.tolist()
    assert np.cumsum([len(part[0]) for part in one_by_one]).tolist() == ends.tolist()
    assert [len(part) for part in tokenizer.encode_sentences([])] == [0, 0, 0]


TRAIN = """
import itertools, sys
from data_pipeline.sources import embedded
from data_pipeline.tokenization import tokenizers
documents = list(itertools.islice(embedded.documents(), 60))
for kind in tokenizers.DEFAULT_VOCAB_SIZES:
    tokenizers.train(documents[:: int(sys.argv[2])], f"{sys.argv[1]}/{kind}", kind, vocab_size=1200)
"""


def test_training_gives_the_same_files_in_every_process_and_document_order(tmp_path):
    for seed, order in (("1", "1"), ("2", "-1")):
        command = [sys.executable, "-c", TRAIN, str(tmp_path / seed), order]
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[3])}
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for path in sorted((tmp_path / "1").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "2" / path.relative_to(tmp_path / "1")).read_bytes(), path
    assert {path.name for path in (tmp_path / "2").iterdir()} == set(KINDS)


def test_the_training_sample_is_bounded_and_independent_of_order(documents):
    for size in (20_000, 50_000, 100_000):
        sample = tokenizers._sample(iter(documents), size)
        assert size / 2 < sum(map(len, sample)) <= size
        assert sample == tokenizers._sample(reversed(documents), size)
    assert sum(map(len, tokenizers._sample(["word " * 1_000_000], 100_000))) > 50_000


@pytest.mark.parametrize("kind", KINDS)
def test_training_errors(tmp_path, documents, kind):
    with pytest.raises(TokenizerError, match=r"vocab_size \d+ is too small: .* need \d+"):
        tokenizers.train(documents, tmp_path, kind, vocab_size=50)
    with pytest.raises(TokenizerError, match="no text"):
        tokenizers.train(["\x00 \u200b"] if kind == "wordpiece" else [], tmp_path, kind)


def test_unknown_kinds_and_settings_are_refused(tmp_path, documents):
    with pytest.raises(TokenizerError, match="known kinds: wordpiece, byte_bpe, sentencepiece_unigram, sentencepiece_bpe"):
        tokenizers.train(documents, tmp_path, kind="bpe")
    with pytest.raises(TokenizerError, match="keeps case"):
        tokenizers.train(documents, tmp_path, kind="byte_bpe", lowercase=True)


def test_directories_without_a_tokenizer_are_refused(tmp_path):
    with pytest.raises(TokenizerError, match="is not a directory"):
        tokenizers.load(tmp_path / "absent")
    with pytest.raises(TokenizerError, match="has none of tokenizer.json, vocab.txt, .*spm.model"):
        tokenizers.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="not valid JSON"):
        tokenizers.load(tmp_path)


REFUSED = {
    "wordpiece": [
        ({"normalizer": None}, "its normalizer is None"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer is Whitespace"),
        ({"model": {"type": "WordLevel"}}, "its model is WordLevel"),
    ],
    "byte_bpe": [
        ({"normalizer": {"type": "NFC"}}, "its normalizer is NFC"),
        ({"pre_tokenizer": {"type": "Split"}}, "its pre_tokenizer is Split"),
        ({"pre_tokenizer": {"type": "ByteLevel", "use_regex": False}}, "use_regex is False"),
    ],
    "sentencepiece_unigram": [({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer is Whitespace")],
}


def test_tokenizers_of_other_kinds_are_refused(tmp_path, trained):
    for kind, cases in REFUSED.items():
        good = json.loads((trained[kind] / "tokenizer.json").read_text())
        mask = tokenizers.load(trained[kind]).mask_token
        vocabulary = good["model"]["vocab"]
        if isinstance(vocabulary, dict):
            without = {token: number for token, number in vocabulary.items() if token != mask}
            cases = [*cases, ({"model": good["model"] | {"vocab": vocabulary | {"far": 9999}}}, "without gaps")]
        else:
            without = [entry for entry in vocabulary if entry[0] != mask]
        url = {"id": 1500, "content": "<url>", "special": False}
        cases = [
            *cases,
            ({"model": good["model"] | {"vocab": without}, "added_tokens": []}, f"has no .*{re.escape(mask)}"),
            ({"added_tokens": [*good["added_tokens"], url]}, "added tokens .'<url>'"),
        ]
        for change, words in cases:
            (tmp_path / "tokenizer.json").write_text(json.dumps(good | change))
            with pytest.raises(TokenizerError, match=words):
                tokenizers.load(tmp_path)
