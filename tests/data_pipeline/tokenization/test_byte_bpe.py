import json
import os

import pytest

from data_pipeline.tokenization import tokenizers
from data_pipeline.tokenization.tokenizers import TokenizerError
from tests.data_pipeline.tokenization import tokenizer_checks as checks


@pytest.fixture(scope="module")
def documents():
    return checks.documents()


@pytest.fixture(scope="module")
def trained(documents, tmp_path_factory):
    directory = tmp_path_factory.mktemp("byte_bpe")
    spaces = ["a  b   c \t  d\xa0 \xa0 e \r\r  f "] * 30  # for merges across white space
    tokenizer, coverage = tokenizers.train([*documents, *checks.LANGUAGES * 3, *spaces], directory, "byte_bpe", vocab_size=3000)
    return directory, tokenizer, coverage


def test_trained_files_load_in_transformers_with_equal_ids(trained, documents):
    directory, tokenizer, coverage = trained
    stock = checks.stock(directory)
    assert type(stock).__name__ in ("RobertaTokenizer", "RobertaTokenizerFast") and stock.vocab_size == tokenizer.vocab_size == 3000
    assert [stock.cls_token_id, stock.pad_token_id, stock.sep_token_id, stock.unk_token_id, stock.mask_token_id] == [0, 1, 2, 3, 4]
    assert tokenizer.special == {"cls": 0, "pad": 1, "sep": 2, "unk": 3, "mask": 4} and tokenizer.mask_token == "<mask>"
    assert tokenizer.special_ids == (0, 1, 2, 3, 4)
    assert stock("a", "b")["input_ids"][:1] == [0] and stock("a", "b")["input_ids"].count(2) == 3
    assert {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"} <= set(os.listdir(directory))
    checks.assert_equal_ids(tokenizer, stock, checks.lines_of(documents))
    assert coverage.unknown == 0 and 1 < coverage.tokens_per_word < 2


def test_hard_text_has_equal_ids_and_nothing_is_lost(trained):
    directory, tokenizer, _ = trained
    stock = checks.stock(directory)
    lines = [*checks.ODD_LINES, *checks.LANGUAGES, *checks.random_lines(3000), "line\nends \n inside", "\n", "next"]
    checks.assert_equal_ids(tokenizer, stock, lines)
    for line in lines:
        ids = tokenizer.encode(line)
        assert tokenizer.decode(ids) == line and not set(ids.tolist()) & set(tokenizer.special_ids)


def test_a_prefix_space(trained, tmp_path):
    _, tokenizer, _ = trained
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"add_prefix_space": True}))
    prefixed = tokenizers.load(tmp_path)
    assert prefixed.hash != tokenizer.hash
    assert prefixed.encode("the end").tolist() == tokenizer.encode(" the end").tolist()
    checks.assert_equal_ids(prefixed, checks.stock(tmp_path), [*checks.ODD_LINES, *checks.random_lines(300)])
    prefixed.save(tmp_path)
    assert tokenizers.load(tmp_path).hash == prefixed.hash


def test_splitting_into_sentences_changes_no_token(trained, documents):
    lines = [*checks.lines_of(documents[:60]), *checks.ODD_LINES, *checks.LANGUAGES, *checks.random_lines(2000, seed=1)]
    checks.assert_splitting_changes_nothing(trained[1], lines)


def test_word_starts_agree_with_the_librarys_offsets(trained, documents):
    checks.assert_word_starts(trained[1], [*checks.LANGUAGES, *checks.lines_of(documents[:20]), *checks.ODD_LINES[3:8]])


def test_surfaces(trained):
    _, tokenizer, _ = trained
    ids = tokenizer.encode("the snow, 他 left")
    surfaces = [tokenizer.surface(token) for token in ids]
    assert surfaces[0] == ("the", True) and surfaces[-1] == ("left", False) and (",", False) in surfaces
    assert "".join(text for text, _ in surfaces).replace("␣", "") == "thesnow,<E4><BB><96>left"
    assert tokenizer.surface(tokenizer.special["mask"]) == ("<mask>", False)


def test_broken_files_are_refused(trained, tmp_path):
    _, tokenizer, _ = trained
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    merges = (tmp_path / "merges.txt").read_text()
    for name, content, words in [
        ("merges.txt", merges + "a b c\n", r"line \d+: 'a b c' is not two tokens"),
        ("merges.txt", merges + "zq qz\n", "'zq qz' is not two tokens"),
        ("vocab.json", json.dumps({token: number for token, number in vocabulary.items() if token != "<mask>"}), "has no <mask>"),
        ("vocab.json", json.dumps({token.replace("Ā", "<0>"): number for token, number in vocabulary.items()}), "lacks bytes .0x00"),
        ("tokenizer_config.json", '{"tokenizer_class": "CLIPTokenizer"}', "CLIPTokenizer does not cut words as RoBERTa"),
    ]:
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(content)
        with pytest.raises(TokenizerError, match=words):
            tokenizers.load(tmp_path)
        (tmp_path / name).write_text(before)
    tokenizers.load(tmp_path)


@pytest.mark.shared
@pytest.mark.parametrize("every", [50, pytest.param(1, marks=pytest.mark.slow)])
def test_roberta_gives_equal_ids_on_reference_text(every, tmp_path):
    published = checks.shared_data() / "tokenizers/roberta"
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((published / name).read_bytes())
    tokenizer = tokenizers.load(tmp_path)
    assert tokenizer.hash == tokenizers.load(published).hash and tokenizer.vocab_size == 50265
    assert tokenizer.special == {"cls": 0, "pad": 1, "sep": 2, "unk": 3, "mask": 50264}
    assert tokenizer.special_ids == (0, 1, 2, 3, 50260, 50261, 50262, 50263, 50264)
    from transformers import RobertaTokenizer

    reference = RobertaTokenizer.from_pretrained(published, split_special_tokens=True)
    checks.assert_equal_on_shared_text(tokenizer, reference, every)
    checks.assert_equal_ids(tokenizer, reference, [*checks.ODD_LINES, *checks.LANGUAGES, *checks.random_lines(500)])
    checks.assert_word_starts(tokenizer, checks.LANGUAGES)
