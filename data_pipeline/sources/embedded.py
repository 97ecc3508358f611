"""The embedded corpus: real English prose that every installation holds, for trying things out without a download.

Enters: nothing. Leaves: documents made of the standard library's help topics, the descriptions of installed packages, and the docstrings of
.py files (a document per file), which are read as text and never imported. The text depends on what is installed, never on chance.
"""

import inspect
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

NAME = "embedded"
MAX_CHARACTERS = 4_000_000  # of prose, so that reading takes seconds where many packages are installed
MIN_DOCUMENT = 300  # characters

_MAX_PER_PACKAGE = 600_000
_MIN_DOCSTRING = 400  # characters
_OPENING = re.compile("[A-Z`*\"'(]")
_ENDINGS = {".", ":", "?", "!"}
_ROLE = re.compile(r":[a-z:]+:`~?([^`<]+?)(?: ?<[^`]*>)?`")
_LINK = re.compile(r"!?\[([^\]]+)\]\([^)]*\)|`([^`<]+) <[^`]*>`_+")
_QUOTE = re.compile(r"[`*]+|(?<=\w)::(?=\s|$)")
_NOT_PROSE = re.compile(r">>>|[{}\\|=<>#^~]|https?://|\w+\(\w*|^\s*(?:\.\.|:|@|\[|-|\*|\d+\.|def |class |import |from )", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*[,;:.!?)\"']*")


def documents() -> Iterator[str]:
    """Documents of one paragraph per line, without repeated paragraphs, in a fixed order."""
    seen: set[str] = set()
    total = 0
    for package_texts in _packages():
        taken = 0
        for texts in package_texts:
            paragraphs = dict.fromkeys(paragraph for text in texts for paragraph in prose(text) if paragraph not in seen)
            document = "\n".join(paragraphs)
            if len(document) < MIN_DOCUMENT:
                continue
            seen.update(paragraphs)
            yield document
            taken += len(document)
            total += len(document)
            if taken > _MAX_PER_PACKAGE:
                break
        if total > MAX_CHARACTERS:
            return


def prose(text: str) -> list[str]:
    """The paragraphs of a docstring or README that are English sentences, unwrapped, without markup; not code, tables and lists."""
    paragraphs = []
    for block in inspect.cleandoc(text).split("\n\n"):
        if len(block) < 60 or "\n " in block or not _OPENING.match(block) or block.rstrip("\"')`*")[-1:] not in _ENDINGS:
            continue
        block = _QUOTE.sub("", _LINK.sub(r"\1\2", _ROLE.sub(r"\1", block)))
        if _NOT_PROSE.search(block):
            continue
        words = block.split()
        plain = sum(1 for word in words if _WORD.fullmatch(word))
        if len(words) >= 10 and plain >= 0.85 * len(words):
            paragraphs.append(" ".join(words))
    return paragraphs


def _packages() -> Iterator[Iterator[list[str]]]:
    """Per source, the raw texts of each document: the help topics, the packages' descriptions, the standard library, every package."""
    from pydoc_data.topics import topics

    yield ([topics[name]] for name in sorted(topics))
    paths = sysconfig.get_paths()
    sites = sorted({Path(paths["purelib"]), Path(paths["platlib"])})
    for site in sites:
        # METADATA is a mail message: headers, an empty line, the description.
        yield ([_read(path).partition("\n\n")[2]] for path in sorted(site.glob("*.dist-info/METADATA")))
    library = Path(paths["stdlib"])
    yield map(_docstrings, sorted(path for path in library.rglob("*.py") if not {"site-packages", "dist-packages"} & set(path.parts)))
    for site in sites:
        for package in sorted(path for path in site.glob("*") if (path / "__init__.py").is_file()):
            yield map(_docstrings, sorted(package.rglob("*.py")))


def _docstrings(path: Path) -> list[str]:
    """The long triple-quoted strings that begin a line. Code that a stray quotation mark lets in is not prose, so it is dropped later."""
    if {"test", "tests", "testing", "_vendor"} & set(path.parts) or path.name.startswith("test_"):
        return []
    chunks = _read(path).split('"""')
    return [
        inside
        for before, inside in zip(chunks[0::2], chunks[1::2])
        if len(inside) >= _MIN_DOCSTRING and before.rpartition("\n")[2].strip() in {"", "r"}
    ]


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:  # an unreadable or vanished file of some package is no concern of the user's
        return ""
