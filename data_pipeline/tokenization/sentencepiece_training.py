"""SentencePiece training with the `sentencepiece` library. Enters: documents. Leaves: the bytes of a spiece.model."""

import io
import re
from collections import Counter

from data_pipeline.tokenization.sentencepiece_model import LAYOUTS, SPACE, training_normalizer
from data_pipeline.tokenization.tokenizer_parts import TokenizerError
from data_pipeline.tokenization.word_cache import count_words

_COVERAGE = 0.99995  # of the text's characters; rarer ones become <unk>, as ALBERT's published spiece.model says of itself
_LONGEST_WORD = 1000  # characters, below the trainer's own limit of 4,192 bytes
_THREADS = 16  # fixed: the trainer's sums depend on it


def train(documents: list[str], vocab_size: int, algorithm: str, lowercase: bool) -> bytes:
    """algorithm: "unigram" or "bpe". Ids 0 to 4 are ALBERT's: <pad>, <unk>, [CLS], [SEP], [MASK].

    The trainer gets each word once with its count, sorted, so the same counts always give the same file.
    """
    try:
        import sentencepiece
    except ImportError:
        raise ImportError("training SentencePiece needs sentencepiece: pip install sentencepiece") from None
    normalize = training_normalizer(lowercase).normalize_str
    words: Counter[str] = Counter()
    for word, count in count_words(documents).items():
        for part in normalize(word).replace("\0", "").replace(SPACE, " ").split():
            if len(part) <= _LONGEST_WORD:
                words[part] += count
    if not words:
        raise TokenizerError("there is no text to train a tokenizer on; check --input")
    special = LAYOUTS["AlbertTokenizer"].special
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"{word}\t{words[word]}" for word in sorted(words)),
            input_format="tsv",
            model_writer=model,
            model_type=algorithm,
            vocab_size=vocab_size,
            hard_vocab_limit=False,  # a small text gives a smaller vocabulary
            character_coverage=_COVERAGE,
            normalization_rule_name="nmt_nfkc",
            byte_fallback=False,
            pad_id=0, unk_id=1, bos_id=-1, eos_id=-1,
            pad_piece=special["pad"], unk_piece=special["unk"],
            control_symbols=[special[role] for role in ("cls", "sep", "mask")],
            num_threads=_THREADS,
            minloglevel=2,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        smallest = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
        if smallest:
            why = f"vocab_size {vocab_size} is too small: special tokens and the text's characters alone need {smallest.group(1)}"
            raise TokenizerError(why) from None
        raise TokenizerError(f"sentencepiece cannot train on this text: {str(error).strip()}") from None
    return model.getvalue()
