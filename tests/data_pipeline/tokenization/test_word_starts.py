import unicodedata

from data_pipeline.tokenization.word_starts import continues_word, word_starts
from tests.data_pipeline.tokenization import tokenizer_checks as checks


def starts(*tokens: str | bytes) -> str:
    found = word_starts([token if isinstance(token, bytes) else token.encode() for token in tokens])
    return "".join("^" if start else "." for start in found)


def test_words():
    assert starts("un", "believ", "able", " words") == "^..^"
    assert starts("don", "'t", " go", ".") == "^^^^"
    assert starts("it", "'", "s") == "^^^"
    assert starts(" (", "b", "c", ")") == "^^.^"
    assert starts("3", ",", "000", "th") == "^^^."
    assert starts("a", " ", "b", "  c") == "^^.^"  # white space belongs to the word after it
    assert starts("a", " ", " b", "\t", "\n", " ") == "^^^^^^"
    assert starts(" ", "他", "们", "x", "y") == "^.^^."
    assert starts("e", "\u0301", "a", "☃", "x") == "^...."
    assert starts(".", "..", "\n", "x", '."', "y") == "^^^.^^"
    assert starts("\u3000", "他", "\xa0", ".") == "^.^."
    assert starts("한", "국", "か", "な") == "^..."
    assert starts() == "" and starts("x") == "^"


def test_a_token_that_begins_inside_a_character_continues():
    snow, person = "☃".encode(), "他".encode()
    assert starts("a", b" " + snow[:1], snow[1:2], snow[2:], person[:2], person[2:], "b") == "^^..^.^"
    assert starts(person[:1], person[1:], "é".encode()[:1], "é".encode()[1:] + b"t") == "^.^."


def test_every_character_is_taken_as_by_berts_own_pre_tokenizer():
    """Each between two letters: one word, three, or two with white space between. The library lacks Unicode's newest punctuation."""
    characters = [chr(code) for code in range(0x30000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    text = " ".join(f"a{character}b" for character in characters)
    begins = {start for start, _ in checks.bert_words(text)}
    wrong = []
    position = 0
    for character in characters:
        expected = [position + offset in begins for offset in range(3)]
        if character.isspace() and character not in "\x1c\x1d\x1e\x1f":
            expected = [True, True, False]  # the white space begins the word after it
            assert position + 2 in begins
        if word_starts(["a".encode(), character.encode(), b"b"]) != expected:
            wrong.append(character)
        position += 4
    moved = [character for character in wrong if unicodedata.category(character)[0] != "P"]
    assert len(characters) > 130_000 and len(wrong) < 200 and len(moved) < 5, [f"{ord(character):x}" for character in moved]


def test_a_token_alone():
    assert [continues_word(token.encode()) for token in ("ing", "9", "é")] == [True] * 3
    assert [continues_word(token.encode()) for token in (" the", ".", "他", " ", "'s", "")] == [False] * 6
    assert continues_word("é".encode()[:1])
