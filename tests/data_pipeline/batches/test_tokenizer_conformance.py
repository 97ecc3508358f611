"""Every kind of tokenizer with every choice of tokens to predict: the same properties, on real text prepared with a tokenizer trained here."""

import pydoc_data.topics

import pytest

from data_pipeline.batches.masking import MaskingSpec
from data_pipeline.preparation.prepare import prepare
from data_pipeline.stores.store import TokenStore
from data_pipeline.tokenization import tokenizers
from tests.data_pipeline.batches.masking_conformance import check_masking, gather

CHOICES = ("tokens", "whole_words", "ngrams:3", "spans:0.2:10")
SEQUENCES = {"tokens": "full_sentences", "whole_words": "segment_pairs", "ngrams:3": "sentence_order", "spans:0.2:10": "packed_documents"}


@pytest.fixture(scope="module", params=tokenizers.DEFAULT_VOCAB_SIZES)
def store(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    text = "\n\n".join(" ".join(topic.split()) for topic in pydoc_data.topics.topics.values())
    (root / "topics.txt").write_text(text, encoding="utf-8")
    tokenizers.train(text.split("\n\n"), root / "tokenizer", kind=request.param, vocab_size=1500)
    prepare(root / "topics.txt", root / "tokenizer", root / "store", workers=1, holdout=0.0, progress=False)
    return TokenStore(root / "store")


@pytest.mark.parametrize("choice", CHOICES)
def test_choices_keep_their_properties(store, choice):
    check_masking(store, MaskingSpec(predictions=20, choice=choice), kind=SEQUENCES[choice])
    check_masking(store, MaskingSpec(predictions=40, rate=0.3, mask_share=1.0, random_share=0.0, choice=choice), length=64)


def test_words_of_several_tokens_are_letters_and_digits(store):
    """What the bits hold together is what a reader does: a token continues a word where it begins with a letter or digit behind another."""
    tokenizer = tokenizers.load(store.tokenizer_dir)
    rows = gather(store, 64, "full_sentences", most=50)
    words: list[list[str]] = []
    for token, starts in zip(rows.input_ids.ravel().tolist(), rows.word_starts.ravel().tolist()):
        if starts:
            words.append([])
        if token not in store.special_ids:
            words[-1].append(tokenizer.surface(token)[0])
    several = [pieces for pieces in words if len(pieces) > 1 and pieces[0] != "␣"]  # SentencePiece: a space alone belongs to what follows
    assert len(words) > 1500 and len(several) > 100
    wrong = [pieces for pieces in several if not (pieces[0][-1].isalnum() and all(piece[0].isalnum() for piece in pieces[1:]))]
    assert not wrong, wrong[:20]
