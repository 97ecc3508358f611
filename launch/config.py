"""The one config system: ml_collections files, `--config.FIELD=VALUE` overrides, and a table of every field with its type and meaning.

A config must hold exactly the fields of `ALL_FIELDS` (the `model` section: those of its family; `schedule` and `optimizer`: those of
their name). The resolved config is plain JSON in the workdir.
"""

import ast
import dataclasses
import difflib
import importlib.util
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from bert_jax.model.families import FAMILY_FIELDS
from bert_jax.training.named_fields import OPTIMIZERS, SCHEDULES


class ConfigError(ValueError):
    """A config cannot be used; the message names the field, the value and the fix."""


FIELDS: dict[str, tuple[type, str]] = {
    "seed": (int, "of initialisation, data order, masking and dropout"),
    "steps": (int, "optimizer updates in the whole run, or a length such as '500M tokens', '2M sequences' or '3 epochs'; 0 with phases, whose steps add up"),
    "phases": (list, "stretches of the run, each a dict of the fields that it changes; empty: one. See docs/training.md"),
    "batch_size": (int, "sequences per update, over all devices"),
    "batch_ramp.start": (int, "sequences per update at the beginning of the phase, from which they grow to batch_size; 0: batch_size from the first step"),
    "batch_ramp.over": (int, "steps of smaller batches, or their length such as '50B tokens', or '60%' of the phase"),
    "batch_ramp.sizes": (int, "sizes before batch_size, evenly apart, each for as many steps"),
    "accumulate": (int, "micro-batches per update; changes memory, not results"),
    "length": (int, "tokens per sequence, special tokens included"),
    "log_every": (int, "steps between log lines"),
    "data.path": (str, "a token store (bert-jax prepare), several parted by commas (a mixture), or recorded batches (bert-jax record)"),
    "data.weights": (tuple, "of the stores of a mixture, such as 0.7,0.3; empty: by data.alpha"),
    "data.alpha": (float, "stores are sampled by tokens^alpha: 1 by size, 0.7 as multilingual BERT, 0.3 as XLM-R"),
    "data.sequences": (str, "segment_pairs (BERT), sentence_order (ALBERT), full_sentences (RoBERTa), document_sentences or packed_documents"),
    "data.short_seq_prob": (float, "share of segment pairs with a random shorter target length"),
    "data.duplicates": (int, "passes over the corpus with different pairs before they repeat (BERT's dupe_factor)"),
    "masking.choice": (str, "tokens, whole_words, ngrams:3 (ALBERT, DeBERTa) or spans:0.2:10 (SpanBERT)"),
    "masking.rate": (float, "share of tokens to predict"),
    "masking.end_rate": (float, "to which the rate goes linearly over the phase's steps; 0: the rate stays"),
    "masking.predictions": (int, "prediction slots per sequence, at least rate x length"),
    "masking.mask_share": (float, "share of chosen tokens replaced by [MASK]"),
    "masking.random_share": (float, "share of chosen tokens replaced by a random token; the rest stays"),
    "compute.dtype": (str, "of activations: float32 or bfloat16; parameters stay float32"),
    "compute.remat": (str, "recomputed in the backward pass: none, elementwise (norms, activations, dropout), dots (attention too) or full"),
    "compute.unroll": (int, "layers per iteration of the layer scan"),
    "compute.attention": (str, "xla, pallas (a TPU kernel; where it cannot take the shapes, xla) or auto: pallas on TPUs from v4 on, xla elsewhere"),
    "optimizer.name": (str, ", ".join(OPTIMIZERS)),
    "optimizer.b1": (float, "decay of the first moment"),
    "optimizer.b2": (float, "decay of the second moment"),
    "optimizer.eps": (float, "added to the root of the second moment"),
    "optimizer.momentum": (float, "of muon's matrices"),
    "optimizer.decay_exponent": (float, "adafactor's second moment decays with 1 - step^-decay_exponent"),
    "optimizer.weight_decay": (float, "decoupled, times the learning rate"),
    "optimizer.clip_norm": (float, "largest global gradient norm; 0 turns clipping off"),
    "optimizer.exclude": (tuple, "parts of parameter paths without decay and trust ratio"),
    "optimizer.layer_decay": (float, "the learning rate's factor per layer away from the heads; 1 is none"),
    "schedule.name": (str, ", ".join(SCHEDULES)),
    "schedule.peak": (float, "learning rate at the end of the warmup"),
    "schedule.warmup_steps": (int, "steps of linear warmup, or their length such as '3B tokens', or '6%' of the phase"),
    "schedule.total_steps": (int, "steps, or their length, at which the decay reaches its end; 0: the phase's steps"),
    "schedule.end": (float, "learning rate at the end"),
    "schedule.decay_from": (str, "of linear and polynomial: warmup (Hugging Face) or start (google-research/bert)"),
    "schedule.power": (float, "of polynomial"),
    "schedule.decay_steps": (int, "of wsd: the last steps of total_steps, or their length, in which the rate falls"),
    "schedule.start": (float, "of triangle: learning rate at step 0"),
    "eval.every": (int, "steps between evaluations; 0: only at the end"),
    "eval.sequences": (int, "held-out sequences, the same every time"),
    "eval.batch_size": (int, "sequences per evaluation batch, over all devices"),
    "checkpoint.every": (int, "steps between checkpoints; 0: only at the end"),
    "checkpoint.minutes": (float, "since the last checkpoint, after which there is one at the next log line; 0: only by steps"),
    "checkpoint.keep": (int, "newest checkpoints retained, at least 2"),
    "checkpoint.keep_every": (int, "steps whose multiples are saved and kept for ever; 0: none"),
    "checkpoint.keep_best": (str, "a held-out metric, such as mlm_loss, by which the best checkpoint with an evaluation at its step is kept; empty: none"),
    "bad_steps.loss": (float, "above which an update is skipped; 0: only where loss or gradients are not finite"),
    "bad_steps.grad_norm": (float, "norm of the gradient, before clipping, above which an update is skipped; 0: only where it is not finite"),
    "bad_steps.loss_times": (float, "times the running average of about 100 good steps' loss above which an update is skipped, from the 20th on; 0: no such limit"),
    "bad_steps.grad_norm_times": (float, "the same of the gradient's norm"),
    "bad_steps.in_a_row": (int, "skipped updates after which the run goes back to its last checkpoint, and on behind them; 0: never"),
    "mesh.data": (int, "devices along the data axis; -1: all that remain"),
    "mesh.fsdp": (int, "devices that share each parameter and its optimizer state; they split the batch too"),
    "mesh.tensor": (int, "devices that share heads, MLP and vocabulary"),
    "mesh.zero1": (bool, "the optimizer's state and update are cut over data too (ZeRO-1); changes memory, not results"),
}

MODEL_FIELDS: dict[str, tuple[type, str]] = {
    "model.family": (str, ", ".join(FAMILY_FIELDS)),
    "model.vocab_size": (int, "0: the tokenizer's"),
    "model.hidden_size": (int, "width"),
    "model.num_layers": (int, "depth"),
    "model.num_heads": (int, "attention heads"),
    "model.intermediate_size": (int, "width of the MLP"),
    "model.embedding_size": (int, "of ALBERT and ELECTRA: width of the embedding tables, from which a projection leads to hidden_size"),
    "model.layer_groups": (int, "of ALBERT: groups of layers that share their parameters"),
    "model.max_distance": (int, "of DeBERTa: tokens, up to which distances are told apart (transformers' max_relative_positions)"),
    "model.position_buckets": (int, "of DeBERTa-v2 and v3: logarithmic buckets of distances on either side"),
    "model.input_positions": (bool, "of DeBERTa: absolute positions in the input (transformers' position_biased_input)"),
    "model.mask_decoder": (bool, "of DeBERTa: the enhanced mask decoder, by which absolute positions enter where masked tokens are predicted"),
    "model.convolution": (int, "of DeBERTa-v2: taps of the convolution beside the first layer (the xlarge models': 3); 0: none"),
    "model.generator_hidden_size": (int, "of ELECTRA: width of the generator, which shares the embedding tables"),
    "model.generator_layers": (int, "of ELECTRA and DeBERTa-v3: depth of the generator"),
    "model.generator_heads": (int, "attention heads of the generator"),
    "model.generator_intermediate_size": (int, "width of the generator's MLP"),
    "model.detection_weight": (float, "of the loss on replaced tokens of ELECTRA and DeBERTa-v3, beside the generator's (published: 50)"),
    "model.max_positions": (int, "tokens in the longest sequence; transformers' max_position_embeddings without the offset"),
    "model.position_offset": (int, "of RoBERTa and XLM-R: the tokenizer's padding id + 1, from which positions count (fairseq: 2)"),
    "model.global_every": (int, "of ModernBERT: every so-manyth layer, from the first, sees the whole document"),
    "model.window": (int, "keys that a token sees around it, in every layer (Longformer) or in the others (ModernBERT)"),
    "model.global_tokens": (int, "of Longformer: tokens of a row, at most, that see and are seen by their whole document: the batch's, or each document's first; 0: none"),
    "model.block_size": (int, "of BigBird: tokens of a block"),
    "model.random_blocks": (int, "of BigBird: blocks that each block sees besides those beside it, the first and the last"),
    "model.rope_base": (float, "of the rotary positions of layers that see the whole document; a phase may change it"),
    "model.local_rope_base": (float, "of the rotary positions of layers with a window"),
    "model.type_vocab_size": (int, "rows of the token-type table"),
    "model.activation": (str, "gelu (erf), gelu_tanh or relu"),
    "model.norm_eps": (float, "epsilon of the layer norms"),
    "model.dropout": (float, "after embeddings, attention output and MLP"),
    "model.attention_dropout": (float, "on attention probabilities"),
    "model.initializer_range": (float, "standard deviation of the truncated normal"),
    "model.nsp": (bool, "a sentence-pair head beside the MLM head: next sentence, or sentence order with data.sequences=sentence_order"),
}

# Of `model`: those that change how it is trained, not which arrays it has or what it computes.
NOT_STRUCTURE = ("dropout", "attention_dropout", "initializer_range", "detection_weight")

# Sections of a config that distils, which states both whole; any other has neither.
DISTILLATION = ("distillation.", "teacher.")
DISTILLATION_FIELDS: dict[str, tuple[type, str]] = {
    "distillation.layers": (tuple, "numbers of the teacher's layers, from 0, that the student's begin as, with embeddings and heads; empty: fresh weights"),
    "distillation.temperature": (float, "by which logits of both are divided before the softmax (DistilBERT: 2)"),
    "distillation.soft_weight": (float, "of the divergence from the teacher's distribution (DistilBERT: 5); 0: not computed"),
    "distillation.mlm_weight": (float, "of the student's own MLM loss (DistilBERT: 2)"),
    "distillation.cosine_weight": (float, "of 1 - cosine between the last hidden states (DistilBERT: 1); 0: not computed"),
    "distillation.targets": (str, "where distributions are compared: real (every real token) or masked (the predicted ones)"),
    "teacher.path": (str, "a workdir or a Hugging Face directory; read at every start. The section's other fields are those of `model` that say which arrays it has"),
} | {field.replace("model.", "teacher.", 1): about for field, about in MODEL_FIELDS.items() if field.partition(".")[2] not in NOT_STRUCTURE}
TEACHERS = {family: ("path", *(name for name in names if name not in NOT_STRUCTURE)) for family, names in FAMILY_FIELDS.items()}

# Fields of a phase alone, and those that a phase may change.
PHASE_FIELDS: dict[str, tuple[type, str]] = {
    "name": (str, "of the phase, for logs and the report"),
    "opt_state": (str, "of the optimizer at the phase's start: keep, restart (moments kept, step count 0) or reset"),
}
# Of `model`: those that no parameter's shape or place depends on.
MODEL_FIELDS_OF_PHASES = ("dropout", "attention_dropout", "rope_base", "local_rope_base", "window", "global_tokens")
CHANGES_WITH_PHASE = (
    "steps", "batch_size", "batch_ramp.", "accumulate", "length", "data.", "masking.", "schedule.", "compute.", "bad_steps.",
    *(f"model.{name}" for name in MODEL_FIELDS_OF_PHASES),
)
# Numbers of steps that may also be said in other units (`training.durations`); `phases_of` gives them as numbers.
LENGTHS = ("steps", "batch_ramp.over", "schedule.warmup_steps", "schedule.total_steps", "schedule.decay_steps")

ALL_FIELDS = FIELDS | MODEL_FIELDS | DISTILLATION_FIELDS
# Sections of which one field, the name, decides which others a config states: section -> that field; name -> its fields.
NAMED_SECTIONS = {
    "model": ("family", FAMILY_FIELDS), "schedule": ("name", SCHEDULES), "optimizer": ("name", OPTIMIZERS), "teacher": ("family", TEACHERS),
}


@dataclasses.dataclass(frozen=True)
class Schema:
    """The fields of one sort of config. named_sections: as above. command: that lists the fields. folder: of the configs that come with the package, in `configs`.
    optional: beginnings of fields that a config states all of or none."""

    fields: dict[str, tuple[type, str]]
    named_sections: dict[str, tuple[str, dict[str, tuple[str, ...]]]]
    command: str
    folder: str = ""
    optional: tuple[str, ...] = ()


PRETRAINING = Schema(ALL_FIELDS, NAMED_SECTIONS, "pretrain", optional=DISTILLATION)

# Whatever lies beside one of these came with somebody's weights.
MODEL_FILES = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "bert_model.ckpt.index"}
# What a run may change between its stops without becoming another run.
FREE_TO_CHANGE = ("log_every", "eval.", "checkpoint.", "mesh.", "data.path", "teacher.path")

# Fields that runs of earlier versions do not state, and what those did.
ADDED = {"bad_steps.loss_times": 0.0, "bad_steps.grad_norm_times": 0.0}


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
        section, _, name = field.partition(".")
        if field not in flat and isinstance(config.get(section), dict):
            flat[field] = config[section][name] = value
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
