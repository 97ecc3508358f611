"""A tokenizer with further words of a domain's text. Enters: a WordPiece tokenizer and documents. Leaves: the words to add, and the tokenizer that has them.

What a model learnt of the old ids stays good: they keep their tokens, and new words are numbered after them. Where a new row of a table may begin is
`bert_jax.interop.vocabulary`'s affair.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable

from data_pipeline.tokenization import wordpiece
from data_pipeline.tokenization.tokenizer_parts import TokenizerError
from data_pipeline.tokenization.tokenizers import Tokenizer, tokenizer_of

LEAST = 2  # occurrences of a word that is added


@dataclasses.dataclass(frozen=True)
class Extension:
    """words: those added, in the order of their ids. before, after: tokens that the text has with the old tokenizer and with this one."""

    tokenizer: Tokenizer
    words: list[str]
    before: int
    after: int

    def __str__(self) -> str:
        return f"{len(self.words):,} words added, ids {self.tokenizer.vocab_size - len(self.words):,} to {self.tokenizer.vocab_size - 1:,}: {self.before:,} tokens of text are now {self.after:,}"


def extend(tokenizer: Tokenizer, documents: Iterable[str], count: int) -> Extension:
    """Adds the `count` most frequent words of the documents that are cut into several pieces; fewer if there are not so many that occur twice.

    A word is what BERT's pre-tokenizer makes of normalised text: a run of letters and digits. Words of equal frequency come in alphabetical order, whatever that of the
    documents. TokenizerError for a tokenizer of another kind, or if there is nothing to add.
    """
    if tokenizer.kind != "wordpiece":
        raise TokenizerError(
            f"a {tokenizer.kind} tokenizer cannot be given further words: its pieces follow from merges or scores that were learnt together. Train one on both texts with "
            "`bert-jax tokenizer`, or go on with the tokenizer as it is"
        )
    if count < 1:
        raise TokenizerError(f"{count} words are to be added; give 1 or more")
    words = count_words(tokenizer, documents)
    lengths = {word: len(tokenizer.encode(word)) for word in words}
    cut = sorted((word for word, times in words.items() if lengths[word] > 1 and times >= LEAST), key=lambda word: (-words[word], word))[:count]
    if not cut:
        raise TokenizerError("no word of the text occurs twice and is cut into several pieces: the tokenizer fits as it is")
    extended = tokenizer_of(wordpiece.with_words(tokenizer.parts, cut))
    before, after = (sum(times * own(word) for word, times in words.items()) for own in (lengths.__getitem__, lambda word: len(extended.encode(word))))
    return Extension(extended, cut, before, after)


def count_words(tokenizer: Tokenizer, documents: Iterable[str]) -> Counter[str]:
    spaced: Counter[str] = Counter()
    for document in documents:
        spaced.update(document.split(" "))
    normalize, pre_tokenize = tokenizer.hf.normalizer.normalize_str, tokenizer.hf.pre_tokenizer.pre_tokenize_str
    words: Counter[str] = Counter()
    for text, times in spaced.items():
        for word, _ in pre_tokenize(normalize(text)):
            words[word] += times
    return words
