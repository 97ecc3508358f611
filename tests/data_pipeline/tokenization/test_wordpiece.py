import os

import numpy as np
import pytest

from data_pipeline.tokenization import tokenizers
from data_pipeline.tokenization.tokenizers import TokenizerError
from tests.data_pipeline.tokenization import tokenizer_checks as checks

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def documents():
    return checks.documents()


@pytest.fixture(scope="module", params=["uncased", "cased"])
def trained(request, documents, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    tokenizer, coverage = tokenizers.train(documents, directory, vocab_size=3000, lowercase=request.param == "uncased")
    return directory, tokenizer, coverage


def test_trained_files_load_in_transformers_with_equal_ids(trained, documents):
    directory, tokenizer, _ = trained
    stock = checks.stock(directory)
    assert stock.is_fast and type(stock).__name__ in ("BertTokenizer", "BertTokenizerFast")
    assert stock.vocab_size == tokenizer.vocab_size == 3000
    assert [stock.pad_token_id, stock.unk_token_id, stock.cls_token_id, stock.sep_token_id, stock.mask_token_id] == [0, 1, 2, 3, 4]
    assert stock.mask_token_id == tokenizer.special["mask"] and stock.mask_token == tokenizer.mask_token
    assert stock("a b")["input_ids"][0] == tokenizer.special["cls"]
    assert {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"} <= set(os.listdir(directory))
    checks.assert_equal_ids(tokenizer, stock, checks.lines_of(documents))
    assert tokenizers.load(directory).hash == tokenizer.hash


def test_odd_text_has_equal_ids(trained):
    directory, tokenizer, _ = trained
    stock = checks.stock(directory)
    checks.assert_equal_ids(tokenizer, stock, checks.ODD_LINES)
    checks.assert_equal_ids(tokenizer, stock, checks.random_lines(3000))
    checks.assert_equal_ids(tokenizer, stock, ["line\nends \n inside", "\n", "next"])


def test_splitting_into_sentences_changes_no_token(trained, documents):
    checks.assert_splitting_changes_nothing(trained[1], [*documents[:60], *checks.ODD_LINES, *checks.random_lines(1000, seed=1)])


def test_text_never_becomes_a_special_token(trained):
    _, tokenizer, _ = trained
    ids = tokenizer.encode("[MASK] the [CLS] [SEP] [PAD] x[MASK]y")
    assert not set(ids.tolist()) & {tokenizer.special[name] for name in ("mask", "cls", "sep", "pad")}
    # The library's own encoding, which training code may call, agrees.
    assert tokenizer.hf.encode("[MASK] the", add_special_tokens=False).ids == tokenizer.encode("[MASK] the").tolist()


def test_word_starts_decoding_and_surfaces(trained):
    _, tokenizer, _ = trained
    ids, _, is_word_start = tokenizer.encode_sentences(["unbelievably hyperparameterization"])
    assert is_word_start.dtype == bool and is_word_start.sum() == 2 and len(ids) > 2
    assert tokenizer.decode(ids) == "unbelievably hyperparameterization"
    assert tokenizer.encode("a").dtype == np.int32
    surfaces = [tokenizer.surface(token) for token in ids]
    assert [not continues for _, continues in surfaces] == is_word_start.tolist()
    assert "".join(text if continues else f" {text}" for text, continues in surfaces) == " unbelievably hyperparameterization"
    assert tokenizer.surface(tokenizer.special["mask"]) == ("[MASK]", False)


def test_words_are_those_of_berts_own_pre_tokenizer(trained):
    checks.assert_word_starts(trained[1], [line.replace("``", "`") for line in checks.LANGUAGES])


def test_coverage_counts_words_and_unknowns(trained):
    _, tokenizer, coverage = trained
    assert coverage.documents == 250 and 1.0 < coverage.tokens_per_word < 2.5 and coverage.unknown_share < 0.01
    unknown = tokenizers.coverage(tokenizer, ["the 他 of ☃"])
    assert (unknown.words, unknown.unknown) == (4, 2) and str(unknown).endswith("50.0000% of words are [UNK]")


def bare(directory, words):
    directory.mkdir(exist_ok=True)
    (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    return directory


def test_bare_vocabularies(tmp_path):
    lower = tokenizers.load(bare(tmp_path / "lower", ["[unused0]", *SPECIAL, "hello", "##s"]))
    assert lower.encode("Hellos").tolist() == [6, 7] and lower.special["pad"] == 1
    upper = tokenizers.load(bare(tmp_path / "upper", [*SPECIAL, "hello", "Hello", "##s"]))
    assert upper.encode("Hellos").tolist() == [6, 7]
    (tmp_path / "upper" / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert tokenizers.load(tmp_path / "upper").encode("Hellos").tolist() == [5, 7]
    assert tokenizers.load(tmp_path / "upper").hash != upper.hash
    # Stores of earlier versions hold this hash.
    assert lower.hash == HASH_OF_LOWER


HASH_OF_LOWER = "ac3848ea51fb58ebaf937da60cb4276aa0c00672e71249ec7da8a172f9256c61"


def test_the_largest_ids_are_told_from_sentence_marks(tmp_path):
    for size in (65535, 65536, 65537):
        tokenizer = tokenizers.load(bare(tmp_path / str(size), [*SPECIAL, *(f"w{number}" for number in range(size - 5))]))
        ids, ends, _ = tokenizer.encode_sentences([f"w{size - 6} w0", f"w{size - 6}"])
        assert ids.tolist() == [size - 1, 5, size - 1] and ends.tolist() == [2, 3]


def test_unusable_vocabularies_are_refused(tmp_path):
    for missing in SPECIAL:
        directory = bare(tmp_path / "lacking", [word for word in SPECIAL if word != missing] + ["hello"])
        with pytest.raises(TokenizerError, match=f"has no \\{missing}"):
            tokenizers.load(directory)
    with pytest.raises(TokenizerError, match="'hello' more than once"):
        tokenizers.load(bare(tmp_path / "twice", [*SPECIAL, "hello", "hello"]))


@pytest.mark.shared
@pytest.mark.parametrize("every", [50, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", ["uncased", "cased"])
def test_published_vocabularies_give_equal_ids_on_reference_text(case, every, tmp_path):
    data = checks.shared_data()
    bare(tmp_path / "bare", []).joinpath("vocab.txt").write_bytes((data / f"tokenizers/bert/bert-base-{case}-vocab.txt").read_bytes())
    tokenizer = tokenizers.load(tmp_path / "bare")
    tokenizer.save(tmp_path / "saved")
    stock = checks.stock(tmp_path / "saved")
    checks.assert_equal_on_shared_text(tokenizer, stock, every)
    checks.assert_equal_ids(tokenizer, stock, checks.ODD_LINES)
