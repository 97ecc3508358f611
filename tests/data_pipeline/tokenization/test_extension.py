"""Further words in a WordPiece tokenizer: old ids stay, new words are one token, stock transformers agrees."""

import re
from collections import Counter
from pydoc_data.topics import topics

import pytest
import transformers

from data_pipeline.tokenization import tokenizers
from data_pipeline.tokenization.extension import extend

GENERAL = [topics[name] for name in ("assert", "comparisons", "import")]
DOMAIN = [topics[name] for name in ("try", "with", "class", "customization", "typesmapping")]
WORDS = 40


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return tokenizers.train(GENERAL, tmp_path_factory.mktemp("old"), vocab_size=500)[0]


@pytest.fixture(scope="module")
def extension(old):
    return extend(old, DOMAIN, WORDS)


def test_old_ids_and_special_tokens_stay(old, extension):
    new = extension.tokenizer
    assert [new.hf.id_to_token(number) for number in range(old.vocab_size)] == [old.hf.id_to_token(number) for number in range(old.vocab_size)]
    assert new.vocab_size == old.vocab_size + WORDS and new.special == old.special and new.special_ids == old.special_ids and new.hash != old.hash
    common = " ".join(word for word in re.findall("[a-z]+", GENERAL[0].lower()) if len(old.encode(word)) == 1)
    assert new.encode(common).tolist() == old.encode(common).tolist()


def test_the_most_frequent_words_that_were_cut_are_added(old, extension):
    counts = Counter(re.findall(r"[a-z]+", " ".join(DOMAIN).lower()))
    cut = {word: count for word, count in counts.items() if len(old.encode(word)) > 1}
    plain = [word for word in extension.words if word.isascii() and word.isalpha()]
    assert len(plain) > WORDS // 2 and all(word in cut for word in plain)
    fewest = min(cut[word] for word in plain)
    assert not [word for word, count in cut.items() if count > fewest + 5 and word not in extension.words]
    for number, word in enumerate(extension.words, old.vocab_size):
        assert len(old.encode(word)) > 1 and extension.tokenizer.encode(word).tolist() == [number]
    assert extension.after < 0.97 * extension.before


def test_the_order_of_documents_changes_nothing(old, extension):
    again = extend(old, DOMAIN[::-1], WORDS)
    assert again.words == extension.words and again.tokenizer.hash == extension.tokenizer.hash


def test_it_is_kept_and_stock_transformers_gives_the_same_ids(old, extension, tmp_path):
    extension.tokenizer.save(tmp_path)
    kept, theirs = tokenizers.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert kept.hash == extension.tokenizer.hash and len(theirs) == kept.vocab_size
    for text in DOMAIN:
        ids = extension.tokenizer.encode(text).tolist()
        assert kept.encode(text).tolist() == ids == theirs(text, add_special_tokens=False)["input_ids"]
        assert ids.count(old.special["unk"]) == old.encode(text).tolist().count(old.special["unk"])  # no word became unknown


def test_what_cannot_be_extended_is_refused_in_words(old, tmp_path):
    byte_bpe, _ = tokenizers.train(GENERAL, tmp_path / "bpe", kind="byte_bpe", vocab_size=400)
    for arguments, words in (((byte_bpe, DOMAIN, 5), "merges or scores"), ((old, DOMAIN, 0), "give 1 or more"), ((old, ["the the of"], 5), "fits as it is")):
        with pytest.raises(tokenizers.TokenizerError, match=words):
            extend(*arguments)
