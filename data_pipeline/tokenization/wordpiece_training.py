"""WordPiece training with the `tokenizers` library, made repeatable. Enters: documents. Leaves: a vocabulary."""

from collections import Counter
from collections.abc import Iterable

import tokenizers as hf_tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from data_pipeline.tokenization.tokenizer_parts import TokenizerError
from data_pipeline.tokenization.wordpiece import CONTINUATION, SPECIAL_TOKENS

_ALPHABET = 1000  # distinct characters kept, as in tokenizers' BertWordPieceTokenizer


def train_vocabulary(documents: list[str], vocab_size: int, lowercase: bool) -> list[str]:
    """The vocabulary in id order.

    Left to itself the library numbers characters in the order of a hash table, so ties between merges fall differently in every process.
    Here words are counted first and the continuing characters are numbered through the list of special tokens.
    """
    words: Counter[str] = Counter()
    for document in documents:
        words.update(document.split(" "))
    normalize = normalizers.BertNormalizer(lowercase=lowercase).normalize_str
    pre_tokenize = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    pieces: Counter[str] = Counter()
    for word, count in words.items():
        for piece, _ in pre_tokenize(normalize(word)):
            pieces[piece] += count
    if not pieces:
        raise TokenizerError("there is no text to train a tokenizer on; check --input")

    characters: Counter[str] = Counter()
    for piece, count in pieces.items():
        for character in piece:
            characters[character] += count
    by_frequency = sorted(characters, key=lambda character: (-characters[character], character))
    kept = set(by_frequency[:_ALPHABET])
    pieces = Counter({piece: count for piece, count in pieces.items() if kept.issuperset(piece)})
    alphabet = set().union(*pieces)
    continuing = sorted({CONTINUATION + character for piece in pieces for character in piece[1:]})
    smallest = len(SPECIAL_TOKENS) + len(alphabet) + len(continuing)
    if vocab_size < smallest:
        raise TokenizerError(f"vocab_size {vocab_size} is too small: special tokens and the text's characters alone need {smallest}")

    trained = hf_tokenizers.Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS["unk"]))
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*SPECIAL_TOKENS.values(), *continuing],
        continuing_subword_prefix=CONTINUATION,
        show_progress=False,
    )
    trained.train_from_iterator(repeated(pieces), trainer)
    ids = trained.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def repeated(pieces: Counter[str]) -> Iterable[str]:
    """The library takes text, not counts."""
    for piece in sorted(pieces):
        count = pieces[piece]
        for start in range(0, count, 1000):
            yield " ".join([piece] * min(1000, count - start))
