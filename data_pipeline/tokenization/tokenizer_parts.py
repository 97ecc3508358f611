"""What every kind of tokenizer is made of, and its files.

Enters: a directory. Leaves: the JSON and the special tokens that are read from it, and the files that are written.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import tokenizers as hf_tokenizers

ROLES = ("pad", "unk", "cls", "sep", "mask")


class TokenizerError(ValueError):
    """A tokenizer cannot be trained, read or used; the message names the file and the fix."""


class Encoder(Protocol):
    """Text -> ids, with the tokens of the whole line whatever sentences it is given in. `library` encodes whole lines, with offsets."""

    library: hf_tokenizers.Tokenizer

    def encode_sentences(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids [T] (uint16 or uint32) of all sentences in a row, int64 [S] exclusive ends, and bool [T]: the token begins a word."""

    def encode_continuation(self, text: str) -> np.ndarray:
        """Ids [T] of text in the middle of a line: no beginning of a word is added in front of it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """A tokenizer of one kind.

    `special` maps each of ROLES to its token; `extra_special` are further ids that no text becomes (control pieces, fillers).
    `definition` is JSON and holds everything that can change an id. `files` are those of the Hugging Face layout, but for tokenizer.json.
    """

    kind: str
    hf: hf_tokenizers.Tokenizer
    encoder: Encoder
    special: dict[str, str]
    extra_special: list[int]
    definition: list
    surface: Callable[[int], tuple[str, bool]]
    files: dict[str, bytes]


def finish_library(hf: hf_tokenizers.Tokenizer) -> None:
    """Text is text: no truncation, no padding, and special tokens are split like other words."""
    hf.no_truncation()
    hf.no_padding()
    hf.encode_special_tokens = True


def vocabulary_in_order(hf: hf_tokenizers.Tokenizer) -> list[str]:
    ids = hf.get_vocab()
    if sorted(ids.values()) != list(range(len(ids))):
        raise TokenizerError(f"the tokenizer's ids are not 0 to {len(ids) - 1} without gaps")
    return sorted(ids, key=ids.__getitem__)


def read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} holds no JSON object")
    return content


def read_config(directory: Path) -> dict:
    """tokenizer_config.json over special_tokens_map.json, special tokens as plain strings.

    `tokenizer_class` is without "Fast"; where it is not given, it follows from the model_type of config.json, as in AutoTokenizer.
    """
    config: dict = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            config |= read_json(directory / name)
    config = {name: value["content"] if isinstance(value, dict) and "content" in value else value for name, value in config.items()}
    class_of = {"albert": "AlbertTokenizer", "xlm-roberta": "XLMRobertaTokenizer", "deberta-v2": "DebertaV2Tokenizer"}
    if not config.get("tokenizer_class") and (directory / "config.json").is_file():
        config["tokenizer_class"] = class_of.get(read_json(directory / "config.json").get("model_type"))
    config["tokenizer_class"] = (config.get("tokenizer_class") or "").removesuffix("Fast")
    return config


def special_tokens(config: dict, defaults: dict[str, str]) -> dict[str, str]:
    return {role: config.get(f"{role}_token") or token for role, token in defaults.items()}


def check_special(path: Path, special: dict[str, str], vocabulary: set[str], family: str) -> None:
    missing = [token for token in special.values() if token not in vocabulary]
    if missing:
        raise TokenizerError(f"{path} has no {', '.join(missing)}; a {family} tokenizer needs {', '.join(special.values())}")


def check_added_tokens(path: Path, content: dict, known: set[str]) -> None:
    """content: of tokenizer.json. Added tokens are cut out of the text before it is normalised, which no encoder here does."""
    extra = [token["content"] for token in content.get("added_tokens", []) if token["content"] not in known]
    if extra:
        raise TokenizerError(f"{path} has added tokens ({', '.join(map(repr, extra[:5]))}), which are not supported; remove them")


def read_library(path: Path, content: dict | None = None) -> hf_tokenizers.Tokenizer:
    """tokenizer.json as the library reads it; `content` in place of the file's."""
    try:
        return hf_tokenizers.Tokenizer.from_str(json.dumps(content) if content else path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{path} is not a tokenizer that this version of `tokenizers` reads: {error}") from None


def config_files(tokenizer_class: str, special: dict[str, str], **settings) -> dict[str, bytes]:
    """tokenizer_config.json and special_tokens_map.json."""
    named = {f"{role}_token": token for role, token in special.items()}
    return {
        "special_tokens_map.json": to_json(named),
        "tokenizer_config.json": to_json({"tokenizer_class": tokenizer_class, **settings, "model_max_length": 512, **named}),
    }


def to_json(content: dict) -> bytes:
    return f"{json.dumps(content, indent=2)}\n".encode()


def write_files(directory: Path, files: dict[str, bytes]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        temporary = directory / f"{name}.tmp"
        temporary.write_bytes(content)
        os.replace(temporary, directory / name)
