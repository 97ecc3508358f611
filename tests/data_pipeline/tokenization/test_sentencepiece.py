import io
import json
import os
import re
import unicodedata

import pytest
import sentencepiece

from data_pipeline.tokenization import sentencepiece_proto, tokenizers
from data_pipeline.tokenization.tokenizers import TokenizerError
from tests.data_pipeline.tokenization import tokenizer_checks as checks


@pytest.fixture(scope="module")
def documents():
    return checks.documents()


@pytest.fixture(scope="module", params=["unigram", "bpe", "cased unigram"])
def trained(request, documents, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param.replace(" ", "_"))
    *cased, algorithm = request.param.split()
    texts = [*documents[:150], *checks.LANGUAGES * 3]
    tokenizer, coverage = tokenizers.train(texts, directory, f"sentencepiece_{algorithm}", vocab_size=2000, lowercase=not cased)
    return directory, tokenizer, coverage


def test_trained_files_load_in_transformers_with_equal_ids(trained, documents):
    directory, tokenizer, coverage = trained
    stock = checks.stock(directory)
    assert type(stock).__name__.startswith("AlbertTokenizer" if tokenizer.kind.endswith("unigram") else ("Tokenizers", "PreTrained"))
    assert stock.vocab_size == tokenizer.vocab_size == 2000
    assert [stock.pad_token_id, stock.unk_token_id, stock.cls_token_id, stock.sep_token_id, stock.mask_token_id] == [0, 1, 2, 3, 4]
    assert tokenizer.special == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4} and tokenizer.mask_token == "[MASK]"
    assert stock("a", "b")["input_ids"][:1] == [2] and stock("a", "b")["input_ids"].count(3) == 2
    assert {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model"} <= set(os.listdir(directory))
    checks.assert_equal_ids(tokenizer, stock, checks.lines_of(documents))
    assert 1 < coverage.tokens_per_word < 3 and coverage.unknown_share < 0.02


def test_the_file_is_an_ordinary_sentencepiece_model(trained):
    """With SentencePiece itself; the normalisation that ALBERT does before it changes nothing in this text."""
    directory, tokenizer, _ = trained
    library = sentencepiece.SentencePieceProcessor(model_file=str(directory / "spiece.model"))
    assert [library.id_to_piece(number) for number in range(5)] == ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    text = "the value of this object is returned by the method. it's a (short) list, or none."
    assert tokenizer.encode(text).tolist() == library.encode(text)


def test_hard_text_has_equal_ids(trained):
    directory, tokenizer, _ = trained
    lines = [*checks.ODD_LINES, *checks.LANGUAGES, *checks.random_lines(3000), "line\nends \n inside", "\n", "next"]
    checks.assert_equal_ids(tokenizer, checks.stock(directory), lines, but_for=checks.LITERAL_SPECIAL)


def test_splitting_into_sentences_changes_no_token(trained, documents):
    lines = [*checks.lines_of(documents[:60]), *checks.ODD_LINES, *checks.LANGUAGES, *checks.random_lines(2000, seed=1)]
    checks.assert_splitting_changes_nothing(trained[1], lines)


def test_word_starts_agree_with_the_librarys_offsets(trained, documents):
    english = [line for line in checks.lines_of(documents[:20]) if "``" not in line and "''" not in line]
    lines = [line.replace("…", "..") for line in [*checks.LANGUAGES, *english]]
    checks.assert_word_starts(trained[1], lines)


def test_text_that_goes_on_in_a_line_has_no_beginning_of_a_word(trained):
    _, tokenizer, _ = trained
    for text in ("return value, list", "(none). the end", "他 a"):
        whole = tokenizer.encode(f"x {text}").tolist()
        assert tokenizer.encode(text, continues=True).tolist() != tokenizer.encode(text).tolist()
        assert tokenizer.decode(tokenizer.encode(text, continues=True)) == tokenizer.decode(tokenizer.encode(text))
        again = tokenizer.encode(text).tolist()
        assert tokenizer.encode(f" {text}", continues=True).tolist() == again == whole[-len(again) :]
    assert tokenizer.encode("", continues=True).tolist() == []


def test_surfaces(trained):
    _, tokenizer, _ = trained
    surfaces = [tokenizer.surface(token) for token in tokenizer.encode("the values (none)")]
    assert surfaces[0] == ("the", False) and not any(text.startswith("▁") for text, _ in surfaces)
    assert "".join(text for text, _ in surfaces).replace("␣", "") == "thevalues(none)"
    assert tokenizer.surface(4) == ("[MASK]", False)


@pytest.fixture(scope="module")
def xlm_roberta(documents, tmp_path_factory):
    """A model as fairseq's: <unk>, <s>, </s> first, case and accents kept."""
    directory = tmp_path_factory.mktemp("xlm")
    model = io.BytesIO()
    texts = [*checks.lines_of(documents[:80]), *checks.LANGUAGES * 5]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=model, vocab_size=1500, minloglevel=2)
    (directory / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    return directory


def stock_of_model(name: str, path):
    """transformers' tokenizer from the pieces of a model: its own reader of such files needs a newer protobuf than TensorFlow's."""
    import transformers
    from transformers.convert_slow_tokenizer import XLMRobertaConverter

    model = sentencepiece_proto.read(path)
    pieces = model.pieces
    if name == "XLMRobertaTokenizer":
        pieces = XLMRobertaConverter.convert_from_spm(vocab=pieces)["vocab"]
    if name == "AlbertTokenizer":  # as its published tokenizer.json
        pieces = [(piece, score - 100 if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit() else score) for piece, score in pieces]
    return getattr(transformers, name)(vocab=pieces, _spm_precompiled_charsmap=model.charsmap or None, split_special_tokens=True)


def test_xlm_roberta(xlm_roberta, documents, tmp_path):
    tokenizer = tokenizers.load(xlm_roberta)
    size = tokenizer.vocab_size
    assert tokenizer.special == {"cls": 0, "pad": 1, "sep": 2, "unk": 3, "mask": size - 1} and size == 1502
    reference = stock_of_model("XLMRobertaTokenizer", xlm_roberta / "sentencepiece.bpe.model")
    tokenizer.save(tmp_path)
    stock = checks.stock(tmp_path)
    assert type(stock).__name__.startswith("XLMRobertaTokenizer")
    for other in (reference, stock):
        lines = [*checks.ODD_LINES, *checks.LANGUAGES, *checks.random_lines(1000), *checks.lines_of(documents[:40])]
        checks.assert_equal_ids(tokenizer, other, lines, but_for=checks.LITERAL_SPECIAL)
        assert other("a", "b")["input_ids"].count(2) == 3
    again = tokenizers.load(tmp_path)
    assert again.hash == tokenizer.hash and again.special == tokenizer.special
    checks.assert_splitting_changes_nothing(tokenizer, [*checks.ODD_LINES, *checks.LANGUAGES, *checks.random_lines(500, seed=1)])
    checks.assert_word_starts(tokenizer, [line.replace("…", "..") for line in checks.LANGUAGES])


def test_deberta(documents, tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(checks.lines_of(documents[:80])), model_writer=model, vocab_size=1500, minloglevel=2,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]",
    )  # fmt: skip
    (tmp_path / "spm.model").write_bytes(model.getvalue())
    tokenizer = tokenizers.load(tmp_path)
    assert tokenizer.special == {"pad": 0, "cls": 1, "sep": 2, "unk": 3, "mask": 1500} and tokenizer.vocab_size == 1501
    tokenizer.save(tmp_path)
    reference = stock_of_model("DebertaV2Tokenizer", tmp_path / "spm.model")
    stock = checks.stock(tmp_path)
    assert type(stock).__name__.startswith("DebertaV2Tokenizer")
    lines = [*checks.ODD_LINES, *checks.LANGUAGES, *checks.random_lines(1000), *checks.lines_of(documents[:40])]
    special = [*checks.LITERAL_SPECIAL, "[UNK]", "[PAD]"]
    for other in (reference, stock):
        checks.assert_equal_ids(tokenizer, other, lines, but_for=special)
    assert tokenizers.load(tmp_path).hash == tokenizer.hash
    checks.assert_splitting_changes_nothing(tokenizer, lines)


def test_the_config_decides_case_and_layout(trained, tmp_path):
    directory, tokenizer, _ = trained
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    changed = config | {"do_lower_case": not config["do_lower_case"], "keep_accents": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(changed))
    other = tokenizers.load(tmp_path)
    assert other.hash != tokenizer.hash
    assert (other.encode("THE").tolist() == other.encode("the").tolist()) == changed["do_lower_case"]
    assert other.encode("thé").tolist() == other.encode("the").tolist()
    other.save(tmp_path)
    checks.assert_equal_ids(other, checks.stock(tmp_path), checks.ODD_LINES, but_for=checks.LITERAL_SPECIAL)


def test_unusable_models_are_refused(tmp_path, documents, xlm_roberta):
    path = tmp_path / "spiece.model"
    lines = checks.lines_of(documents[:40])

    def trained_with(**options):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, vocab_size=700, minloglevel=2, hard_vocab_limit=False, **options
        )
        return model.getvalue()

    for content, words in [
        (b"no model", "spiece.model is not a SentencePiece model"),
        (b"", "it has 0 pieces"),
        ((xlm_roberta / "sentencepiece.bpe.model").read_bytes(), r"has no <pad>, \[CLS\], \[SEP\], \[MASK\]; a AlbertTokenizer"),
        (trained_with(byte_fallback=True), "byte_fallback true"),
        (trained_with(treat_whitespace_as_suffix=True), "treat_whitespace_as_suffix true"),
        (trained_with(add_dummy_prefix=False), "add_dummy_prefix false"),
        (trained_with(model_type="char"), "model_type char"),
    ]:
        path.write_bytes(content)
        with pytest.raises(TokenizerError, match=words):
            tokenizers.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5TokenizerFast"}')
    path.write_bytes((xlm_roberta / "sentencepiece.bpe.model").read_bytes())
    with pytest.raises(TokenizerError, match="T5Tokenizer is not supported"):
        tokenizers.load(tmp_path)


@pytest.mark.shared
@pytest.mark.parametrize("every", [50, pytest.param(1, marks=pytest.mark.slow)])
def test_albert_gives_equal_ids_on_reference_text(every, tmp_path):
    path = tmp_path / "spiece.model"
    path.write_bytes((checks.shared_data() / "tokenizers/albert/spiece.model").read_bytes())
    tokenizer = tokenizers.load(tmp_path)
    assert tokenizer.vocab_size == 30000 and tokenizer.special == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    reference = stock_of_model("AlbertTokenizer", path)
    checks.assert_equal_on_shared_text(tokenizer, reference, every)
    lines = [*checks.ODD_LINES, *checks.LANGUAGES, *checks.random_lines(500)]
    checks.assert_equal_ids(tokenizer, reference, lines, but_for=checks.LITERAL_SPECIAL)
    tokenizer.save(tmp_path)
    checks.assert_equal_ids(tokenizer, checks.stock(tmp_path), lines, but_for=checks.LITERAL_SPECIAL)
    assert [tokenizer.surface(token)[0] for token in tokenizer.encode("in 1990, and")] == ["in", "1990", ",", "and"]


@pytest.mark.shared
def test_albert_gives_the_ids_of_sentencepiece_itself(tmp_path):
    """Behind ALBERT's own preparation (google-research/albert, tokenization.py), on lines where it parts no comma from a digit."""
    path = tmp_path / "spiece.model"
    path.write_bytes((checks.shared_data() / "tokenizers/albert/spiece.model").read_bytes())
    tokenizer = tokenizers.load(tmp_path)
    original = sentencepiece.SentencePieceProcessor(model_file=str(path))
    compared = 0
    for line in (checks.shared_data() / "text/wikipedia/wiki.txt").read_text().split("\n")[:2000]:
        prepared = unicodedata.normalize("NFKD", " ".join(line.split()).replace("``", '"').replace("''", '"'))
        prepared = "".join(character for character in prepared if not unicodedata.combining(character)).lower()
        if not any(re.search(r"\d,$", piece) for piece in original.encode(prepared, out_type=str)):
            assert tokenizer.encode(line).tolist() == original.encode(prepared), line
            compared += 1
    assert compared > 1000


@pytest.mark.shared
@pytest.mark.parametrize("every", [50, pytest.param(1, marks=pytest.mark.slow)])
def test_xlm_roberta_gives_equal_ids_on_reference_text(every, tmp_path):
    data = checks.shared_data()
    model = io.BytesIO()
    texts = (line for path in sorted(data.glob("multilingual/*.valid.txt")) for line in path.read_text().split("\n"))
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=texts, model_writer=model, vocab_size=4000, minloglevel=2)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    reference = stock_of_model("XLMRobertaTokenizer", tmp_path / "sentencepiece.bpe.model")
    checks.assert_equal_on_shared_text(tokenizers.load(tmp_path), reference, every)
