"""What makes a Hugging Face directory one of sentence-transformers: which vector stands for a sentence, and the longest input.

The files name their modules as the library's first releases did, which all later ones read.
"""

import json
import pathlib
from typing import Any

MODULES, TRANSFORMER, POOLING = "modules.json", "sentence_bert_config.json", "1_Pooling"
CROSS_ENCODER = {"activation_fn": "torch.nn.modules.linear.Identity"}  # of config.json: scores are the logits of "relevant", as `bert-jax rank` prints them
MODES = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens"}
OTHER_MODES = ("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken")
FILES = (MODULES, TRANSFORMER, POOLING, "config_sentence_transformers.json")


def write(directory: pathlib.Path, *, pooling: str, hidden_size: int, length: int, optional_pooler: bool) -> None:
    """Adds the library's files. optional_pooler: whether transformers' model without heads makes a pooler unless told otherwise."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": POOLING, "type": "sentence_transformers.models.Pooling"},
    ]
    arguments = {"model_args": {"add_pooling_layer": False}} if optional_pooler else {}
    (directory / POOLING).mkdir()
    _write(directory / MODULES, modules)
    _write(directory / TRANSFORMER, {"max_seq_length": length, "do_lower_case": False} | arguments)
    _write(directory / POOLING / "config.json", {"word_embedding_dimension": hidden_size} | {field: kind == pooling for kind, field in MODES.items()})


def is_encoder(directory: pathlib.Path) -> bool:
    """Whether it is a SentenceTransformer's (a cross-encoder has no pooling)."""
    return (directory / MODULES).is_file() and (directory / POOLING / "config.json").is_file()


def read(directory: pathlib.Path) -> tuple[str, int | None]:
    """(which vector stands for a sentence, tokens of the longest input or None). ValueError if the directory does more than one of our models can."""
    modules = _read(directory / MODULES, list)
    names = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules if isinstance(module, dict)]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(f"{directory / MODULES} has the modules {', '.join(names)}; only encoders can be imported of a Transformer and a Pooling")
    path = directory / POOLING / "config.json"
    config = _read(path, dict)
    stated = config.get("pooling_mode")
    kinds = [kind for kind, field in MODES.items() if config.get(field) is True] if stated is None else [stated]
    if len(kinds) != 1 or kinds[0] not in MODES or any(config.get(field) for field in OTHER_MODES):
        raise ValueError(f"{path} states {config}; only encoders can be imported with one pooling of {', '.join(MODES)}")
    length = _read(directory / TRANSFORMER, dict).get("max_seq_length") if (directory / TRANSFORMER).is_file() else None
    return kinds[0], length if type(length) is int and length > 0 else None


def _write(path: pathlib.Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _read(path: pathlib.Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}; fetch it again") from None
    if not isinstance(value, kind):
        raise ValueError(f"{path} holds {type(value).__name__}, not {kind.__name__}; fetch it again")
    return value
