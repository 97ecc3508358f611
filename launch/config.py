"""The one config system: ml_collections files, `--config.FIELD=VALUE` overrides, and a table of every field with its type and meaning.

A config must hold exactly the fields of `FIELDS` (the `model` section: those of its family). The resolved config is plain JSON in the workdir.
"""

import ast
import difflib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict


class ConfigError(ValueError):
    """A config cannot be used; the message names the field, the value and the fix."""


FIELDS: dict[str, tuple[type, str]] = {
    "seed": (int, "of initialisation, data order, masking and dropout"),
    "steps": (int, "optimizer updates in the whole run"),
    "batch_size": (int, "sequences per update, over all devices"),
    "accumulate": (int, "micro-batches per update; changes memory, not results"),
    "length": (int, "tokens per sequence, special tokens included"),
    "log_every": (int, "steps between log lines"),
    "dropout_rng": (str, "JAX random generator of dropout: threefry2x32 or rbg"),
    "data.path": (str, "a token store (bert-jax prepare) or recorded batches (bert-jax record)"),
    "data.sequences": (str, "segment_pairs (BERT) or full_sentences (RoBERTa)"),
    "data.short_seq_prob": (float, "share of segment pairs with a random shorter target length"),
    "data.duplicates": (int, "passes over the corpus with different pairs before they repeat (BERT's dupe_factor)"),
    "masking.rate": (float, "share of tokens to predict"),
    "masking.predictions": (int, "prediction slots per sequence, at least rate x length"),
    "masking.mask_share": (float, "share of chosen tokens replaced by [MASK]"),
    "masking.random_share": (float, "share of chosen tokens replaced by a random token; the rest stays"),
    "compute.dtype": (str, "of activations: float32 or bfloat16; parameters stay float32"),
    "compute.remat": (str, "recomputed in the backward pass: none, dots (all but matmuls) or full"),
    "compute.unroll": (int, "layers per iteration of the layer scan"),
    "optimizer.name": (str, "adamw, adamw_bert, lamb_v1 or lamb_nvidia"),
    "optimizer.b1": (float, "decay of the first moment"),
    "optimizer.b2": (float, "decay of the second moment"),
    "optimizer.eps": (float, "added to the root of the second moment"),
    "optimizer.weight_decay": (float, "decoupled, times the learning rate"),
    "optimizer.clip_norm": (float, "largest global gradient norm; 0 turns clipping off"),
    "optimizer.exclude": (tuple, "parts of parameter paths without decay and trust ratio"),
    "schedule.peak": (float, "learning rate at the end of the warmup"),
    "schedule.warmup_steps": (int, "steps of linear warmup"),
    "schedule.total_steps": (int, "steps at which the decay reaches its end"),
    "schedule.power": (float, "of the polynomial decay; 1 is linear"),
    "schedule.end": (float, "learning rate at the end"),
    "schedule.decay_from": (str, "warmup (Hugging Face) or start (google-research/bert)"),
    "eval.every": (int, "steps between evaluations; 0: only at the end"),
    "eval.sequences": (int, "held-out sequences, the same every time"),
    "eval.batch_size": (int, "sequences per evaluation batch, over all devices"),
    "checkpoint.every": (int, "steps between checkpoints; 0: only at the end"),
    "checkpoint.keep": (int, "newest checkpoints retained"),
    "mesh.data": (int, "devices along the data axis; -1: all that remain"),
    "mesh.fsdp": (int, "devices that share each parameter and its optimizer state"),
    "mesh.tensor": (int, "devices that share heads, MLP and vocabulary"),
}

MODEL_FIELDS: dict[str, tuple[type, str]] = {
    "model.family": (str, "bert"),
    "model.vocab_size": (int, "0: the tokenizer's"),
    "model.hidden_size": (int, "width"),
    "model.num_layers": (int, "depth"),
    "model.num_heads": (int, "attention heads"),
    "model.intermediate_size": (int, "width of the MLP"),
    "model.max_positions": (int, "rows of the position table"),
    "model.type_vocab_size": (int, "rows of the token-type table"),
    "model.activation": (str, "gelu (erf), gelu_tanh or relu"),
    "model.norm_eps": (float, "epsilon of the layer norms"),
    "model.dropout": (float, "after embeddings, attention output and MLP"),
    "model.attention_dropout": (float, "on attention probabilities"),
    "model.initializer_range": (float, "standard deviation of the truncated normal"),
    "model.nsp": (bool, "a next-sentence head beside the MLM head"),
}

ALL_FIELDS = FIELDS | MODEL_FIELDS
# What a run may change between its stops without becoming another run.
FREE_TO_CHANGE = ("log_every", "eval.", "checkpoint.", "mesh.", "data.path")


def load(path: str, overrides: list[str]) -> dict[str, Any]:
    """The resolved config of a file with `config.FIELD=VALUE` overrides, as a nested dict of plain values."""
    config = _run_file(_find(path))
    flat = _flatten(config.to_dict())
    _check_fields(flat, path)
    for override in overrides:
        field, separator, text = override.partition("=")
        field = field.removeprefix("config.")
        if not separator:
            raise ConfigError(f"--{override}: write --config.FIELD=VALUE")
        _known(field)
        node = config
        *sections, name = field.split(".")
        for section in sections:
            node = node[section]
        with node.ignore_type():  # checked here, with better words
            node[name] = parse(field, text)
    return config.to_dict()


def parse(field: str, text: str) -> Any:
    """The value of a field from the command line, of the field's type."""
    kind = ALL_FIELDS[field][0]
    try:
        if kind is str:
            return text
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if kind is tuple:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        value = ast.literal_eval(text.replace("_", "")) if kind is int else float(text)
        if kind is int and isinstance(value, float) and value.is_integer():  # 1e6
            value = int(value)
        if type(value) is not kind:
            raise ValueError
        return value
    except (ValueError, SyntaxError, KeyError):
        example = {int: "12", float: "0.01", bool: "true", tuple: "bias,norm"}[kind]
        raise ConfigError(f"--config.{field}={text}: expected {kind.__name__}, such as {example} ({ALL_FIELDS[field][1]})") from None


def _known(field: str) -> None:
    if field in ALL_FIELDS:
        return
    near = difflib.get_close_matches(field, ALL_FIELDS, n=3, cutoff=0.5)
    last = [name for name in ALL_FIELDS if name.split(".")[-1] == field.split(".")[-1] and name not in near]
    hint = f"; did you mean {' or '.join(near + last)}?" if near + last else ""
    raise ConfigError(f"config has no field {field!r}{hint} (`bert-jax pretrain --help` lists all)")


def _check_fields(flat: dict[str, Any], path: str) -> None:
    try:
        for field, value in flat.items():
            _known(field)
            kind = ALL_FIELDS[field][0]
            fits = isinstance(value, (list, tuple)) if kind is tuple else type(value) is kind or (kind is float and type(value) is int)
            if not fits:
                raise ConfigError(f"{field} is {value!r}; expected {kind.__name__} ({ALL_FIELDS[field][1]})")
        missing = [field for field in ALL_FIELDS if field not in flat]
        if missing:
            raise ConfigError(f"lacks {', '.join(missing)}; configs/bert_base.py shows every field")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _find(path: str) -> Path:
    """A local file, or the name of a config that came with the package."""
    if Path(path).is_file():
        return Path(path)
    import configs

    shipped = Path(configs.__file__).parent
    named = shipped / f"{Path(path).name.removesuffix('.py')}.py"
    if named.is_file() and Path(path).parent in (Path("."), Path("configs")):
        return named
    names = sorted(file.stem for file in shipped.glob("*.py") if file.stem != "__init__")
    raise ConfigError(f"--config={path}: no such file. Configs that come with bert_jax: {', '.join(names)}")


def _run_file(path: Path) -> ConfigDict:
    spec = importlib.util.spec_from_file_location("bert_jax_config", path)
    if spec is None:
        raise ConfigError(f"--config={path}: a config is a Python file with a function get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # a config is code: whatever it raises (ml_collections checks types as fields are set) is its author's to mend
        raise ConfigError(f"--config={path}: {type(error).__name__}: {error}") from None
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"--config={path}: get_config() returned {type(config).__name__}, not an ml_collections ConfigDict")
    return config


def write_json(path: Path, value: Any) -> None:
    """By temporary name, then rename."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None


def read_run_config(workdir: Path) -> dict[str, Any]:
    """The config.json of a workdir, checked field by field."""
    path = workdir / "config.json"
    if not path.is_file():
        raise ConfigError(f"{workdir} has no config.json: it is not the workdir of a pretraining run")
    config = read_json(path)
    _check_fields(_flatten(config), str(path))
    return config


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Fields whose change makes another run, as "field: old -> new"."""
    before, after = _flatten(old), _flatten(new)
    plain = lambda value: list(value) if isinstance(value, tuple) else value  # noqa: E731
    return [
        f"{field}: {before.get(field)!r} -> {after.get(field)!r}"
        for field in sorted(before.keys() | after.keys())
        if plain(before.get(field)) != plain(after.get(field)) and not field.startswith(FREE_TO_CHANGE)
    ]


def describe_fields() -> str:
    """The table of all fields, for --help."""
    return "\n".join(f"  {field:<26} {kind.__name__:<6} {meaning}" for field, (kind, meaning) in ALL_FIELDS.items())
