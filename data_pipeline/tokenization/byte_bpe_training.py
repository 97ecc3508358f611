"""Byte-level BPE training with the `tokenizers` library. Enters: documents. Leaves: a vocabulary and merges."""

import json
from collections import Counter

import tokenizers as hf_tokenizers
from tokenizers import models, pre_tokenizers, trainers

from data_pipeline.tokenization.byte_bpe import SPECIAL_TOKENS
from data_pipeline.tokenization.tokenizer_parts import TokenizerError
from data_pipeline.tokenization.word_cache import count_words
from data_pipeline.tokenization.wordpiece_training import repeated

_ROLES = ("cls", "pad", "sep", "unk", "mask")  # RoBERTa's order; its <mask>, which stands last, comes fifth here


def train(documents: list[str], vocab_size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token -> id, and the merges in order.

    The library sorts bytes and breaks ties by id, so the same counts of words always give the same merges.
    """
    special = [SPECIAL_TOKENS[role] for role in _ROLES]
    smallest = len(special) + 256
    if vocab_size < smallest:
        raise TokenizerError(f"vocab_size {vocab_size} is too small: special tokens and the 256 bytes alone need {smallest}")
    pre_tokenize = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    pieces: Counter[str] = Counter()
    for word, count in count_words(documents).items():
        for piece, _ in pre_tokenize(word):
            pieces[piece] += count
    if not pieces:
        raise TokenizerError("there is no text to train a tokenizer on; check --input")
    trained = hf_tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # GPT-2's characters for bytes are never white space
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(repeated(pieces), trainer)
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]
