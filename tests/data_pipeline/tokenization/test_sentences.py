import itertools
import random
import time

import pytest

from data_pipeline.sources import embedded
from data_pipeline.tokenization import sentences

ODD = list(".?!\"'()[]“”‘’ \t\r\x0b\x0c\x1c\x1f\x85\xa0\u200b\u2028\u2029\u3000。！？«»„…\u0301\u00ad🙂")
ODD += ["A", "b", "é", "1", ". ", "Mr. ", "e.g. "]


def test_sentences_hold_every_character():
    for document in itertools.islice(embedded.documents(), 400):
        assert "".join(sentences.split(document)) == document.replace("\n", "")


@pytest.mark.parametrize("language", ["en", "de", "zh", "no-such"])
def test_odd_characters_are_neither_lost_nor_a_crash(language):
    generator = random.Random(0)
    for _ in range(5000):
        line = "".join(generator.choices(ODD, k=generator.randint(0, 40)))
        assert "".join(sentences.split(line, language)) == line


def test_boundaries():
    text = 'Dr. Smith went to Washington, D.C. on Jan. 5. He met Mr. J. R. Jones. "Where are you going?" he asked. It cost $3.50.'
    text += "\nA title\nEnd"
    assert [sentence.strip() for sentence in sentences.split(text)] == [
        "Dr. Smith went to Washington, D.C. on Jan. 5.",
        "He met Mr. J. R. Jones.",
        '"Where are you going?" he asked.',
        "It cost $3.50.",
        "A title",
        "End",
    ]


def test_white_space_between_sentences_goes_to_the_front():
    assert sentences.split(" One.  Two. \nThree. ") == [" One.", "  Two. ", "Three. "]
    chinese = sentences.split("他来了。他走了。 好！\n他来了。", "zh")
    assert chinese == ["他来了。", "他走了。", " 好！", "他来了。"]
    assert [type(sentence) is sentences.Continuation for sentence in chinese] == [False, True, False, False]
    assert [type(sentence) is sentences.Continuation for sentence in sentences.split("One.\xa0Two. Three.")] == [False, True, False]
    assert sentences.split("   ") == ["   "]
    assert sentences.split("One.\u3000") == ["One.\u3000"]


def test_what_no_tokenizer_cuts_is_not_cut():
    assert sentences.split("x" * 25_000) == ["x" * 25_000]
    assert len(sentences.split("其" + "他。" * 25_000)) > 2


def test_long_lines_take_bounded_time():
    line = "「a。" * 50_000
    started = time.process_time()
    assert "".join(sentences.split(line)) == line
    assert time.process_time() - started < 8  # in one piece the library needs more than 10 s


def test_cut_prefers_white_space():
    text = "some words " * 50
    pieces = sentences.cut(text, 100)
    assert "".join(pieces) == text
    assert all(len(piece) <= 100 and piece.endswith(" ") for piece in pieces)
    assert sentences.cut("x" * 250, 100) == ["x" * 100, "x" * 100, "x" * 50]
