"""The one config system: ml_collections files and `--config.FIELD=VALUE` overrides, checked against the fields of a `Schema`.

A config must hold exactly the schema's fields (the `model` section: those of its family; `schedule` and `optimizer`: those of
their name). The resolved config is plain JSON in the workdir.
"""

import ast
import difflib
import importlib.util
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from launch.fields import ADDED, CHANGES_WITH_PHASE, FREE_TO_CHANGE, LENGTHS, PHASE_FIELDS, PRETRAINING, Schema


class ConfigError(ValueError):
    """A config cannot be used; the message names the field, the value and the fix."""


# Whatever lies beside one of these came with somebody's weights.
MODEL_FILES = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "bert_model.ckpt.index"}


def load(path: str, overrides: list[str], schema: Schema = PRETRAINING) -> dict[str, Any]:
    """The resolved config of a file with `config.FIELD=VALUE` overrides, as a nested dict of plain values."""
    config = _run_file(_find(path, schema.folder))
    flat = _flatten(config.to_dict())
    _check_fields(flat, path, schema)
    length: int | str | None = None
    for override in overrides:
        field, separator, text = override.partition("=")
        field = field.removeprefix("config.")
        if not separator:
            raise ConfigError(f"--{override}: write --config.FIELD=VALUE")
        value = parse(field, text, schema)
        *sections, name = field.split(".")
        if sections[:1] == ["phases"]:
            set_in_phase(config.phases, field, value)
            continue
        if field == "steps":
            length = value
            if isinstance(value, str):  # what the file computes from the steps is left as it is
                continue
        node = config
        for section in sections:
            if section not in node:
                raise ConfigError(f"--config.{field}: {path} has no section `{section}`; take a config that has, such as configs/distilbert_base.py for a distillation")
            node = node[section]
        with node.ignore_type():  # checked here, with better words
            node[name] = value
    resolved = config.to_dict()
    if isinstance(length, str):
        resolved["steps"] = length
    overridden = {override.partition("=")[0].removeprefix("config.") for override in overrides}
    for section, (named_by, _) in schema.named_sections.items():
        if f"{section}.{named_by}" in overridden:
            stated = {field.partition(".")[2] for field in overridden if field.startswith(f"{section}.")}
            resolved[section] = drop_unused(section, resolved[section], stated, schema)
    _check_fields(_flatten(resolved), path, schema)
    return resolved


def drop_unused(section: str, values: dict[str, Any], stated: Iterable[str], schema: Schema = PRETRAINING) -> dict[str, Any]:
    """The values of a named section whose name was changed: without what only the old name uses, but with the fields in `stated`."""
    chosen = values[schema.named_sections[section][0]]
    return {name: value for name, value in values.items() if name in stated or not _unused(f"{section}.{name}", chosen, schema)}


def _unused(field: str, chosen: str, schema: Schema) -> str | None:
    """Why the field has no use where its section's name is `chosen`; None if it has. ConfigError if there is no such name."""
    section, _, name = field.partition(".")
    named_by, names = schema.named_sections[section]
    if chosen not in names:
        raise ConfigError(f"{section}.{named_by} is {chosen!r}; known: {', '.join(names)}")
    return None if name in (named_by, *names[chosen]) else f"{section}.{named_by}={chosen} takes {', '.join(names[chosen])}"


def set_in_phase(phases: list[dict], field: str, value: Any) -> None:
    """Sets "phases.NUMBER.FIELD" of a config's list of phases."""
    _, number, *sections, name = field.split(".")
    if int(number) >= len(phases):
        raise ConfigError(f"--config.{field}: the config has {len(phases)} phases" + (f", 0 to {len(phases) - 1}" if phases else ""))
    node = phases[int(number)]
    for section in sections:
        node = node.setdefault(section, {})
    node[name] = value


def parse(field: str, text: str, schema: Schema = PRETRAINING) -> Any:
    """The value of a field from the command line, of the field's type."""
    kind, meaning = _known(field, schema)
    if kind is list:
        raise ConfigError(f"--config.{field}: change a phase's field instead, such as --config.phases.0.steps=1000, or write a config file")
    try:
        if kind is str:
            return text
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if kind is tuple:
            parts = [part.strip() for part in text.split(",") if part.strip()]
            try:
                return tuple(float(part) for part in parts)
            except ValueError:
                return tuple(parts)
        value = ast.literal_eval(text.replace("_", "")) if kind is int else float(text)
        if kind is int and isinstance(value, float) and value.is_integer():  # 1e6
            value = int(value)
        if type(value) is not kind:
            raise ValueError
        return value
    except (ValueError, SyntaxError, KeyError):
        if is_length(field):
            return text  # read where batch size, length and data are known
        example = {int: "12", float: "0.01", bool: "true", tuple: "bias,norm"}[kind]
        raise ConfigError(f"--config.{field}={text}: expected {kind.__name__}, such as {example} ({meaning})") from None


def is_length(field: str) -> bool:
    """Whether the field, "phases.NUMBER.FIELD" included, is one of LENGTHS."""
    return (field.split(".", 2)[2] if field.startswith("phases.") else field) in LENGTHS


def _known(field: str, schema: Schema) -> tuple[type, str]:
    """The type and meaning of a field, "phases.NUMBER.FIELD" included; ConfigError if there is no such field."""
    if field in schema.fields:
        return schema.fields[field]
    phase, number, inner = field.partition(".")[0], *(field.split(".", 2)[1:] + ["", ""])[:2]
    if phase == "phases" and "phases" in schema.fields and number.isdecimal() and inner:
        if inner in PHASE_FIELDS:
            return PHASE_FIELDS[inner]
        if inner.startswith(CHANGES_WITH_PHASE):
            return _known(inner, schema)
        raise ConfigError(f"{field}: a phase has {', '.join(PHASE_FIELDS)} and may change {', '.join(CHANGES_WITH_PHASE)}, but not {inner!r}")
    near = difflib.get_close_matches(field, schema.fields, n=3, cutoff=0.5)
    last = [name for name in schema.fields if name.split(".")[-1] == field.split(".")[-1] and name not in near]
    hint = f"; did you mean {' or '.join(near + last)}?" if near + last else ""
    raise ConfigError(f"config has no field {field!r}{hint} (`bert-jax {schema.command} --help` lists all)")


def _check_fields(flat: dict[str, Any], path: str, schema: Schema) -> None:
    try:
        for field, value in flat.items():
            check_value(field, value, schema)
        unstated = schema.optional if schema.optional and not any(field.startswith(schema.optional) for field in flat) else ()
        wanted = [field for field in schema.fields if not (unstated and field.startswith(unstated))]
        missing = [field for field in wanted if field not in flat and not (field == "phases" and any(name.startswith("phases.") for name in flat))]
        for field in schema.fields:
            section = field.partition(".")[0]
            chosen = flat.get(f"{section}.{schema.named_sections[section][0]}") if section in schema.named_sections else None
            if chosen is not None and (reason := _unused(field, chosen, schema)):
                if field in flat:
                    raise ConfigError(f"{field} is set, but {reason}; take it out")
                missing.remove(field)
        if missing:
            raise ConfigError(f"lacks {', '.join(missing)} ({schema.fields[missing[0]][1]}); `bert-jax {schema.command} --help` lists all fields")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def check_value(field: str, value: Any, schema: Schema = PRETRAINING) -> None:
    """ConfigError unless there is such a field and the value is of its type, and a number that machines count with."""
    kind, meaning = _known(field, schema)
    fits = isinstance(value, (list, tuple)) if kind in (tuple, list) else type(value) is kind or (kind is float and type(value) is int)
    if not fits and not (is_length(field) and isinstance(value, str)):
        raise ConfigError(f"{field} is {value!r}; expected {kind.__name__} ({meaning})")
    if kind is list and value:  # a list of dicts was taken apart into its fields
        raise ConfigError(f"{field} is {value!r}; expected a list of dicts ({meaning})")
    if kind is tuple and any(type(item) not in (str, int, float) for item in value):
        raise ConfigError(f"{field} is {value!r}; expected a list of words or numbers ({meaning})")
    if type(value) in (int, float) and not abs(value) < 2**63:  # nan is below nothing
        raise ConfigError(f"{field} is {value!r}; expected a finite number of usual size ({meaning})")


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    if not isinstance(config, dict) or any(not isinstance(name, str) or "." in name for name in config):
        raise ConfigError("a config is a table of fields, whose sections are tables of their own; a name has no dot")
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        elif name == "phases" and value and all(isinstance(phase, dict) for phase in value):
            flat |= _flatten({str(number): phase for number, phase in enumerate(value)}, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _find(path: str, folder: str) -> Path:
    """A local file, or the name of a config that came with the package. What comes with somebody's weights is refused: a config is code."""
    if Path(path).is_file():
        return _trusted(Path(path))
    import configs

    shipped = Path(configs.__file__).parent / folder
    named = shipped / f"{Path(path).name.removesuffix('.py')}.py"
    if named.is_file() and Path(path).parent in (Path("."), Path("configs") / folder):
        return named
    names = sorted(file.stem for file in shipped.glob("*.py") if file.stem != "__init__")
    raise ConfigError(f"--config={path}: no such file. Configs that come with bert_jax: {', '.join(names)}")


def _trusted(path: Path) -> Path:
    beside = {entry.name for entry in path.resolve().parent.iterdir()}
    if beside & MODEL_FILES or any((parent / "commit.json").is_file() for parent in path.resolve().parents):
        raise ConfigError(
            f"--config={path} lies in a checkpoint or a model's directory, and a config is code, which is never run from there; if you trust it, copy it elsewhere"
        )
    return path


def _run_file(path: Path) -> ConfigDict:
    if path.suffix != ".py":
        raise ConfigError(f"--config={path}: a config is a Python file with a function get_config(); its name ends in .py")
    spec = importlib.util.spec_from_file_location("bert_jax_config", path)
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
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None


def read_run_config(workdir: Path, schema: Schema = PRETRAINING) -> dict[str, Any]:
    """The config.json of a workdir, checked field by field."""
    path = workdir / "config.json"
    if not path.is_file():
        raise ConfigError(f"{workdir} has no config.json: it is not the workdir of a run of `bert-jax {schema.command}`")
    config = read_json(path)
    try:
        flat = _flatten(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    for field, value in ADDED.items():
        section, _, name = field.rpartition(".")
        if field not in flat and field in schema.fields and isinstance(within := config.setdefault(section, {}) if section else config, dict):
            flat[field] = within[name] = value
    _check_fields(flat, str(path), schema)
    return config


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Fields whose change makes another run, as "field: old -> new"."""
    before, after = _flatten(old), _flatten(new)
    plain = lambda value: list(value) if isinstance(value, tuple) else value  # noqa: E731
    return [
        f"{field}: {plain(before.get(field))!r} -> {plain(after.get(field))!r}"
        for field in sorted(before.keys() | after.keys())
        if plain(before.get(field)) != plain(after.get(field)) and not field.startswith(FREE_TO_CHANGE)
    ]


def fields_of(config: dict[str, Any], schema: Schema = PRETRAINING) -> list[tuple[str, Any, str]]:
    """(field, value, meaning) of a resolved config, those of its phases included."""
    return [(field, value, _known(field, schema)[1]) for field, value in _flatten(config).items()]


def describe_fields(schema: Schema = PRETRAINING) -> str:
    """The table of all fields, for --help."""
    return "\n".join(f"  {field:<26} {kind.__name__:<6} {meaning}" for field, (kind, meaning) in schema.fields.items() if field == "teacher.path" or not field.startswith("teacher."))
