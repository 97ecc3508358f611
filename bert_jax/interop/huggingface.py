"""Hugging Face directories: writes our parameters as one, and reads one into our parameters.

Neither needs torch or transformers (a `pytorch_model.bin` needs torch). The export of a fine-tuned model is transformers' class for its task (`tasks`); that of
a pretrained one is the complete pretraining model: with NSP it is a
`BertForPreTraining`, without the family's `...ForMaskedLM`, and that class loads it without a remark. As with bert-base-uncased and
roberta-base, a narrower class (`AutoModel`, `BertForMaskedLM` on a model with NSP) loads all it has a place for and reports the heads it
leaves out as unexpected; only `AutoModel` on a model without NSP lacks weights, the pooler's, for that was never trained.
"""

import dataclasses
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import safetensors
import safetensors.numpy
import tokenizers

from bert_jax.interop import architectures, model_card, sentence_transformers, task_card, tasks, weights
from bert_jax.interop.architectures.architecture import Architecture
from bert_jax.interop.weights import Naming
from bert_jax.model.families import build_spec
from bert_jax.model.spec import AnySpec, EmbeddingSpec

WEIGHTS, INDEX, TORCH_WEIGHTS = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
CONFIG, README = "config.json", "README.md"
TOKENIZER_CONFIG = "tokenizer_config.json"
SENTENCEPIECE_FILES = ("spiece.model", "sentencepiece.bpe.model", "spm.model")
TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", *SENTENCEPIECE_FILES,
    TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
TOKENIZER_FORMS = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), *((name,) for name in SENTENCEPIECE_FILES))
PRODUCER = {"format": "pt", "producer": "bert_jax"}  # transformers asks for the format; the producer marks a directory as ours to overwrite


@dataclasses.dataclass(frozen=True)
class Imported:
    """A checkpoint as ours: parameters are float32 numpy arrays; tokenizer_dir is None if the directory has no tokenizer; task: of a fine-tuned model."""

    model_section: dict
    params: dict
    tokenizer_dir: pathlib.Path | None
    notes: list[str]
    task: tasks.Task | None = None


def export(
    params: dict, model_section: dict, tokenizer_dir: str | os.PathLike, directory: str | os.PathLike, *, card: dict | None = None, task: tasks.Task | None = None
) -> None:
    """Writes a directory that stock transformers loads: model.safetensors (float32), config.json, the tokenizer's files and a model card.

    card: facts and metrics of the run, for the model card. task: of a fine-tuned model. The directory appears whole or not at all. ValueError if it holds
    anything but an earlier export, if tokenizer and model do not fit, or if transformers has no class for the head.
    """
    directory, tokenizer_dir = pathlib.Path(directory), pathlib.Path(tokenizer_dir)
    architecture = architectures.architecture_of(model_section)
    spec, naming = _described(model_section, architecture, task)
    encoder = spec.encoder
    _check_overwrite(directory)
    files = [tokenizer_dir / name for name in TOKENIZER_FILES if (tokenizer_dir / name).is_file()]
    ids = _special_ids(tokenizer_dir, encoder.embedding.vocab_size)
    config, tensors = architectures.config_from_section(model_section, **ids), weights.to_tensors(params, spec, naming)
    if task is not None:
        config |= {"architectures": [tasks.model_class(architecture, task)], **architecture.to_config(spec, **ids), **tasks.config_of(architecture, task)}
        tensors |= {name: np.zeros((encoder.hidden_size,) * axes, np.float32) for name, axes in tasks.class_of(architecture, task).idle.items()}
    beside = weights.names_beside(spec, naming)

    directory.parent.mkdir(parents=True, exist_ok=True)
    new = directory.with_name(f".{directory.name}.{os.getpid()}.new")
    old = directory.with_name(f".{directory.name}.{os.getpid()}.old")
    new.mkdir()
    try:
        safetensors.numpy.save_file({name: tensor for name, tensor in tensors.items() if name not in beside}, new / WEIGHTS, metadata=PRODUCER)
        if beside:
            safetensors.numpy.save_file({name: tensors[name] for name in sorted(beside)}, new / weights.BESIDE_FILE, metadata=PRODUCER)
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for file in files:
            shutil.copyfile(file, new / file.name)
        _fit_tokenizer_config(new / TOKENIZER_CONFIG, encoder.embedding, encoder.embedding.max_positions if task is None else task.length)
        if task is not None and task.kind == "embedding":
            sentence_transformers.write(
                new, pooling=task.pooling, hidden_size=encoder.hidden_size, length=task.length, optional_pooler=architecture.optional_pooler
            )
        name, shown = directory.resolve().name, card or {}
        text = model_card.render(name, model_section, tensors, shown) if task is None else task_card.render(name, architecture, spec, task, tensors, shown)
        (new / README).write_text(text, encoding="utf-8")
        if directory.exists():  # a directory cannot replace a full one in one step
            os.replace(directory, old)
        os.replace(new, directory)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _described(section: dict, architecture: Architecture, task: tasks.Task | None) -> tuple[AnySpec, Naming]:
    return (build_spec(section), architecture.naming) if task is None else (task.spec(section), tasks.naming_of(architecture, task))


def load(directory: str | os.PathLike, *, key: jax.Array, with_task: bool = False) -> Imported:
    """Reads a BertForPreTraining, or the MaskedLM or Model class of a known family, from safetensors, whole or sharded, or pytorch_model.bin.

    Heads that the checkpoint lacks are initialised from `key`; the notes say which, and what else is not as stored. with_task: a fine-tuned model is read as
    that, with its task's head; otherwise as a pretrained one. FileNotFoundError or ValueError name the file or weight, what was found and the fix.
    """
    directory = pathlib.Path(directory)
    if not (directory / CONFIG).is_file():
        raise FileNotFoundError(f"{directory / CONFIG} is missing; give the directory of a Hugging Face model (config.json and {WEIGHTS})")
    source = str(directory / CONFIG)
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not JSON: {error}; fetch it again") from None
    architecture = architectures.ARCHITECTURES[architectures.family_of(config, source=source)]
    tensors = _canonical(_read_weights(directory), architecture.naming)
    config = architecture.completed(config, tensors)
    section = architectures.section_from_config(config, nsp=weights.has_nsp(tensors, architecture.naming), source=source)
    task = tasks.task_of(config, architecture, directory, dropout=section["dropout"], length=_longest(directory, section)) if with_task else None
    if task is not None:
        tensors = {name: array for name, array in tensors.items() if name not in tasks.class_of(architecture, task).idle}
    params, notes = weights.from_tensors(tensors, *_described(section, architecture, task), key)
    has_tokenizer = any(all((directory / name).is_file() for name in form) for form in TOKENIZER_FORMS)
    return Imported(section, params, directory if has_tokenizer else None, notes, task)


def _longest(directory: pathlib.Path, section: dict) -> int:
    """Tokens of the longest input that the tokenizer makes and the model takes."""
    path = directory / TOKENIZER_CONFIG
    try:
        stated = json.loads(path.read_text(encoding="utf-8")).get("model_max_length") if path.is_file() else None
    except (ValueError, RecursionError, AttributeError) as error:
        raise ValueError(f"{path} is not a JSON object: {error}; fetch it again") from None
    return min(stated, section["max_positions"]) if type(stated) is int and stated > 0 else section["max_positions"]


def _check_overwrite(directory: pathlib.Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise ValueError(f"cannot export to {directory}: it is a file; choose another directory")
    found = {path.name for path in directory.iterdir()}
    foreign = sorted(found - {WEIGHTS, weights.BESIDE_FILE, CONFIG, README, *TOKENIZER_FILES, *sentence_transformers.FILES})
    if found and (foreign or not _is_export(directory)):
        what = f"it holds {', '.join(foreign[:5])}" if foreign else "it is not an earlier export of bert_jax"
        raise ValueError(f"cannot export to {directory}: {what}; choose an empty or new directory, or remove this one")


def _is_export(directory: pathlib.Path) -> bool:
    try:
        with safetensors.safe_open(directory / WEIGHTS, "numpy") as file:
            return file.metadata() == PRODUCER
    except (OSError, safetensors.SafetensorError):
        return False


def _special_ids(tokenizer_dir: pathlib.Path, vocab_size: int) -> dict[str, int]:
    """The ids of the tokens pad, cls and sep, after checking that every id of the tokenizer has a row in the model."""
    path = tokenizer_dir / "tokenizer.json"
    if path.is_file():
        tokens = tokenizers.Tokenizer.from_file(str(path)).get_vocab()
    elif (tokenizer_dir / "vocab.txt").is_file():
        lines = (tokenizer_dir / "vocab.txt").read_text(encoding="utf-8").split("\n")
        tokens = {token: index for index, token in enumerate(lines) if token}
    else:
        raise FileNotFoundError(f"{tokenizer_dir} has neither tokenizer.json nor vocab.txt; give the tokenizer of the training run")
    if max(tokens.values()) >= vocab_size:
        raise ValueError(
            f"the tokenizer in {tokenizer_dir} has ids up to {max(tokens.values())}, but the model has vocab_size {vocab_size}; "
            "give the tokenizer that the model was trained with"
        )
    special = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]"}  # where no file names them, as beside a bare vocab.txt
    for file in ("special_tokens_map.json", TOKENIZER_CONFIG):
        stated = json.loads((tokenizer_dir / file).read_text(encoding="utf-8")) if (tokenizer_dir / file).is_file() else {}
        for role in special:
            token = stated.get(f"{role}_token") or special[role]
            special[role] = token["content"] if isinstance(token, dict) else token
    missing = [token for token in special.values() if token not in tokens]
    if missing:
        raise ValueError(f"the tokenizer in {tokenizer_dir} has no {', '.join(missing)}, which an export needs")
    return {role: tokens[token] for role, token in special.items()}


def _fit_tokenizer_config(path: pathlib.Path, tables: EmbeddingSpec, length: int) -> None:
    """Tells transformers' tokenizer how long an input may be, and to make token types only if the model has a table for more than one."""
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    inputs = ["input_ids", *(["token_type_ids"] if tables.type_vocab_size > 1 else []), "attention_mask"]
    config.pop("auto_map", None)  # somebody's tokenizer may name code with it
    config |= {"model_max_length": length, "model_input_names": inputs}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _read_weights(directory: pathlib.Path) -> dict[str, np.ndarray]:
    if (directory / WEIGHTS).is_file():
        beside = directory / weights.BESIDE_FILE
        return (_read_safetensors(beside) if beside.is_file() else {}) | _read_safetensors(directory / WEIGHTS)
    if (directory / INDEX).is_file():
        tensors: dict[str, np.ndarray] = {}
        for file in _indexed_files(directory / INDEX):
            if not (directory / file).is_file():
                raise FileNotFoundError(f"{directory / INDEX} names {file}, which is missing; fetch the whole checkpoint")
            tensors |= _read_safetensors(directory / file)
        return tensors
    if (directory / TORCH_WEIGHTS).is_file():
        return _read_torch(directory / TORCH_WEIGHTS)
    raise FileNotFoundError(f"{directory} has none of {WEIGHTS}, {INDEX}, {TORCH_WEIGHTS}; fetch the weights in one of these forms")


def _indexed_files(path: pathlib.Path) -> list[str]:
    """The files of a checkpoint in parts, sorted; ValueError for an index that names anything but files beside it."""
    try:
        files = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no index of weights ({type(error).__name__}: {error}); fetch it again") from None
    for file in files:
        if not isinstance(file, str) or not file.isprintable() or pathlib.PurePath(file).name != file:
            raise ValueError(f"{path} names the file {file!r}; expected plain names in the same directory")
    return sorted(files)


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); fetch it again") from None
    except (AttributeError, KeyError, TypeError) as error:  # a type of numbers that numpy lacks
        raise ValueError(f"{path} holds weights of a type that cannot be read ({error}); a quantised checkpoint cannot be imported") from None


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise ImportError(f"reading {path} needs torch: pip install 'bert-jax[torch]', or save the model as safetensors") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a cut file, or a pickle of something else than weights: torch's own words would recommend to run it
        raise ValueError(
            f"{path} is cut short, or holds more than weights ({type(error).__name__}), and what else it holds is never run; fetch it again, or take the model's "
            "safetensors"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided for name, tensor in state.items()):
        raise ValueError(f"{path} holds something else than a dict of tensors by name; give the model's own weights, such as its state_dict")
    # numpy has no bfloat16 that torch knows of
    return {name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy() for name, tensor in state.items()}


def _canonical(tensors: dict[str, np.ndarray], naming: Naming) -> dict[str, np.ndarray]:
    """Older names and the encoder-only layout -> today's names of the pretraining class; tied copies are checked and dropped."""
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        tensors = {name.replace(old, new): array for name, array in tensors.items()}
    for old, new in naming.renamed:
        tensors = {new + name.removeprefix(old) if name.startswith(old) else name: array for name, array in tensors.items()}
    if not any(name.startswith(naming.prefix) for name in tensors):
        tensors = {f"{naming.prefix}{name}" if name.startswith(naming.inside) else name: array for name, array in tensors.items()}
    tensors.pop(f"{naming.prefix}embeddings.position_ids", None)  # a buffer of older releases: 0, 1, 2, ...
    for name, original in naming.tied.items():
        array = tensors.pop(name, None)
        if array is None:
            continue
        if name.endswith(".bias"):  # some releases hold it under the decoder's name only
            tensors.setdefault(original, array)
        if original in tensors and not np.array_equal(array, tensors[original]):
            raise ValueError(f"weight {name} differs from {original}; only models whose decoder is tied to the embeddings can be imported")
    return tensors
