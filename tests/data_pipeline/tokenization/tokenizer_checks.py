"""What the tests of all kinds of tokenizers share: hard text, the stock tokenizer, and the comparisons."""

import itertools
import os
import random
import unicodedata
from pathlib import Path

import pytest
import tokenizers as hf_tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from data_pipeline.sources import embedded
from data_pipeline.tokenization import sentences

ODD_LINES = [
    "control \x00 \x01\x02 a\x0bb a\x0cb a\x1cb a\x1fb \x7f a\x85b \x1d \x85",
    "spaces a\xa0b a\u1680b a\u2003b a\u2028b a\u2029b a\u202fb a\u3000b\ta\rb \ufeffa a\u200bb a\u200db a\u2060b a\u180eb",
    "combining e\u0301 \u0301e a\u0327\u0301 \u1e9b\u0323 \u0130 I\u0307 \u01c4 \ufb01 ½ ² Σίσυφος ΟΔΟΣ ﬀ ŉ ẞ ß",
    "CJK 他是学生。我也是！かな カタカナ 한국어 \u115f 𠀀𪚥 a他b ﾊﾝｶｸ",
    "emoji 🙂👨\u200d👩\u200d👧 ❤\ufe0f 🇩🇪 a🙂b \U000e0041 👍🏽 1\ufe0f\u20e3",
    "RTL שלום עולם. مرحبا بالعالم؟ \u0600١٢ \u06dd a\u202bb\u202c עִבְרִית",
    "Mixed-case: don't, it's; \"quoted\" 'x' (a) [b] {c} <d> $5 €5 #tag @me a_b a+b=c ~x^y|z` \\ /usr/bin 3.14 1,000",
    "“curly” ‘quotes’ — dashes – … «guillemets» ¿qué? ¡sí! „unten“ 10°C §5 ©2020 µm ١٢٣ ४५",
    "special [MASK] [CLS]x[SEP] [mask] [PAD] [UNK] ##ing [unused1] <s> </s> <mask> <pad><unk> Ġ ▁ a▁b ▁▁ <|endoftext|>",
    "``TeX'' quotes ``'' 3, 3,000, (5), x,",
    "x" * 99 + " " + "y" * 100 + " " + "z" * 101 + " " + "é" * 101 + " " + "w" * 5000 + " " + "a.b" * 2000,
    "",
    " ",
    "   ",
    "\t \xa0 ",
    "  two  spaces   three    ",
    " \xa0 odd \t\r spaces\xa0 \u2003 around \u3000words\x0b ",
    "\ufffd replacement \ue000 private \U0010ffff unassigned \u0378 \ud7ff",
    "He left.Then 他来了。他走了。“好！”他说。 No？Yes.\xa0Next. \xa0Last!  End.  ",
]
# A literal special token, which transformers finds in SentencePiece's vocabulary; here text is text.
LITERAL_SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", "<mask>", "[CLS]", "[SEP]", "[MASK]")
LANGUAGES = [
    "Der Fluß führt in diesem Jahr wenig Wasser; die Schiffe (auch die kleinen) liegen still.",
    "¿Dónde está la biblioteca? L'été dernier, j'ai visité Besançon, n'est-ce pas?",
    "Якщо вода холодна, то п'ять хвилин — це вже забагато! Зажди-но…",
    "今日は天気がいいですね。東京へ行きます！「はい」と言った。",
    "他在北京大学学习。他的朋友说：“明天见。”然后走了。",
    "नमस्ते दुनिया। यह एक परीक्षण है, १२३।",
    "השועל החום המהיר. الثعلب البني السريع؟",
    "Đây là tiếng Việt, có dấu: ẩn, ữ. Çok güzel, değil mi? İstanbul'da.",
]


def documents(count: int = 250) -> list[str]:
    """Real English, with hard lines between."""
    return list(itertools.islice(embedded.documents(), count))


def lines_of(texts: list[str]) -> list[str]:
    return [line for text in texts for line in text.split("\n")]


def random_lines(count: int, seed: int = 0) -> list[str]:
    """Characters of the odd lines, of all of Unicode, combining marks and white space, in random order."""
    generator = random.Random(seed)
    odd = sorted(set("".join(ODD_LINES))) + ["a", " ", "the", ".", "ing", " The", "'s", "``", "3,000,", "▁"] * 10
    assigned = [chr(code) for code in range(32, 0x30000) if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")]
    marks = [character for character in assigned if unicodedata.category(character)[0] == "M"]
    marks += list("\u0340\u0344\u0600\u06dd\u200d\ufe0f")
    spaces = list(" \t\r\x0b\x0c\x1c\x85\xa0\u1680\u2003\u2028\u202f\u3000\u200b") * 20
    pools = [odd, odd, assigned, marks + odd * 2 + spaces, [*spaces, "a", "b", "."]]
    return ["".join(generator.choices(generator.choice(pools), k=generator.randint(0, 50))) for _ in range(count)]


def stock(directory):
    """transformers' tokenizer of a directory; split_special_tokens: a literal "[MASK]" is text, in ours always."""
    from transformers import AutoTokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return AutoTokenizer.from_pretrained(directory, model_max_length=10**9, split_special_tokens=True)


def assert_equal_ids(tokenizer, reference, lines, but_for: tuple[str, ...] = ()):
    """Our ids are the reference's, line by line; lines that hold one of `but_for` have no special token in ours instead."""
    found, ends, is_word_start = tokenizer.encode_sentences(lines)
    assert len(found) == len(is_word_start) == (ends[-1] if len(ends) else 0)
    start = 0
    for line, end, ids in zip(lines, ends, reference(lines, add_special_tokens=False)["input_ids"], strict=True):
        if any(token in line for token in but_for):
            assert not set(found[start:end].tolist()) & (set(tokenizer.special_ids) - {tokenizer.special["unk"]})
        else:
            assert found[start:end].tolist() == ids, ascii(line)
        start = end


def assert_splitting_changes_nothing(tokenizer, lines):
    for line in lines:
        line = line.replace("\n", " ")
        whole, _, whole_starts = tokenizer.encode_sentences([line])
        split = sentences.split(line)
        ids, ends, starts = tokenizer.encode_sentences(split)
        assert ids.tolist() == whole.tolist() and starts.tolist() == whole_starts.tolist(), ascii(split)
        assert len(ends) == len(split) and (ends[:-1] <= ends[1:]).all() and (not split or ends[-1] == len(ids))


def bert_words(text: str) -> list[tuple[int, int]]:
    """Where BERT's own normalizer and pre-tokenizer see words, as offsets in the text."""
    cutter = hf_tokenizers.Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    cutter.normalizer = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False)
    cutter.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return cutter.encode(text).offsets


def assert_word_starts(tokenizer, lines):
    """Against the library's offsets: a token begins a word if it is the first to reach a word of BERT's. For text that stays as it is."""
    library = hf_tokenizers.Tokenizer.from_str(tokenizer.hf.to_str())
    library.post_processor = None  # it would trim the offsets
    for line in lines:
        ids, _, is_word_start = tokenizer.encode_sentences([line])
        encoding = library.encode(line, add_special_tokens=False)
        assert encoding.ids == ids.tolist()
        begins = {len(line[:start].rstrip()) for start, _ in bert_words(line)}
        expected = []
        before = -1
        for start, _ in encoding.offsets:
            start = len(line[:start].rstrip())  # white space belongs to the word after it
            expected.append(start in begins and start != before)
            before = start
        assert is_word_start.tolist() == expected, (ascii(line), encoding.tokens, is_word_start.astype(int).tolist(), expected)


def shared_data() -> Path:
    root = os.environ.get("BERT_JAX_SHARED")
    if not root:
        pytest.skip("BERT_JAX_SHARED is not set")
    return Path(root) / "data"


def assert_equal_on_shared_text(tokenizer, reference, every: int):
    """Ids, and the tokens of sentences, on every `every`-th line of the reference texts."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    data = shared_data()
    paths = sorted([*data.glob("multilingual/*.txt"), *data.glob("text/**/*.txt")])
    assert paths
    for path in paths:
        lines = path.read_text().split("\n")[::every] or [""]
        assert_equal_ids(tokenizer, reference, lines)
        split = [sentence for line in lines for sentence in sentences.split(line)]
        assert tokenizer.encode_sentences(split)[0].tolist() == tokenizer.encode_sentences(lines)[0].tolist()
