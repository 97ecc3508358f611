"""What LoRA learnt, as a directory that Hugging Face's PEFT loads over the same pretrained model: adapter_config.json and adapter_model.safetensors.

Neither torch nor peft is needed. The head's parameters leave with it (PEFT's `modules_to_save`), for the pretrained model has none.
"""

import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import safetensors.numpy
from flax import traverse_util

from bert_jax.interop import architectures, tasks, weights
from bert_jax.interop.huggingface import PRODUCER
from bert_jax.interop.weights import Weight
from bert_jax.model.adapter_spec import LoraSpec
from bert_jax.model.adapters import LORA

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."  # of PEFT's names


def export_adapter(params: dict, model_section: dict, task: tasks.Task, lora: LoraSpec, directory: str | os.PathLike) -> None:
    """params: with LoRA's beside their kernels. The directory appears whole or not at all. ValueError if it holds anything, or if transformers has no class
    for the head."""
    directory = pathlib.Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"cannot export an adapter to {directory}: it is there and not empty; choose a new directory")
    tensors, ranks, saved = adapter_tensors(params, model_section, task, lora)
    config = {
        "peft_type": "LORA", "task_type": None, "inference_mode": True, "base_model_name_or_path": None, "bias": "none", "lora_dropout": 0.0, "fan_in_fan_out": False,
        "r": lora.rank, "lora_alpha": lora.alpha, "target_modules": list(ranks), "modules_to_save": saved,
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != lora.rank},
        "alpha_pattern": {name: lora.scale * rank for name, rank in ranks.items() if rank != lora.rank},
    }  # fmt: skip
    directory.parent.mkdir(parents=True, exist_ok=True)
    new = directory.with_name(f".{directory.name}.{os.getpid()}.new")
    new.mkdir()
    try:
        safetensors.numpy.save_file(tensors, new / WEIGHTS, metadata=PRODUCER)
        (new / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(new, directory)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def adapter_tensors(params: dict, model_section: dict, task: tasks.Task, lora: LoraSpec) -> tuple[dict[str, np.ndarray], dict[str, int], list[str]]:
    """(arrays by PEFT's names, rank of each changed module of transformers' model, the head's modules).

    Where transformers has several of our matrices in one, the changes stand beside one another in one of so many times the rank."""
    architecture, spec = architectures.architecture_of(model_section), task.spec(model_section)
    naming = tasks.naming_of(architecture, task)
    flat = {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(params, sep=".").items()}
    bare = naming.prefix if task.kind == "embedding" else ""  # the class without a head has no prefix
    tensors, ranks, saved = {}, {}, []
    for weight in weights.weights(spec, naming):
        if weight.part != "encoder":
            saved += [name.rpartition(".")[0] for name in weight.names]
            continue
        changed = [f"{path.removesuffix('kernel')}{LORA}." for path in weight.paths]
        if not any(f"{path}a" in flat for path in changed):
            continue
        for index, name in enumerate(weight.names):
            pairs = [tuple(_layer(flat.get(path + part), index, weight) for part in "ab") for path in changed]
            module = name.removesuffix(".weight").removeprefix(bare)
            a, b = _stored(weight, pairs, lora.rank)
            tensors |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
            ranks[module] = len(a)
    saved = list(dict.fromkeys(saved))
    without_changes = {path: leaf for path, leaf in flat.items() if LORA not in path.split(".")}
    plain = weights.to_tensors(traverse_util.unflatten_dict(without_changes, sep="."), spec, naming)
    tensors |= {PREFIX + name: array for name, array in plain.items() if name.rpartition(".")[0] in saved}
    return tensors, ranks, saved


def _layer(leaf: np.ndarray | None, index: int, weight: Weight) -> np.ndarray | None:
    return leaf[index] if leaf is not None and weight.stacked else leaf


def _stored(weight: Weight, pairs: list[tuple[np.ndarray | None, np.ndarray | None]], rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(A [rank, inputs], B [outputs, rank]) of one module. pairs: ours of each matrix that it holds, None where it has no change."""
    held = [number for number, (a, _) in enumerate(pairs) if a is not None]
    total = rank * len(held)
    outward = [np.zeros((total, *weight.shape[weights.INPUT_AXES[weight.kind] :]), np.float32) for _ in pairs]
    for place, number in enumerate(held):
        outward[number][place * rank : (place + 1) * rank] = pairs[number][1]
    a = np.concatenate([pairs[number][0].reshape(-1, rank) for number in held], axis=1).T
    kind = weight.kind if weight.kind == "by_head" else "kernel"
    as_matrix = dataclasses.replace(weight, kind=kind, shape=outward[0].shape, stored_shape=(weight.stored_shape[0], total), outputs_first=True)
    return np.ascontiguousarray(a, np.float32), as_matrix.to_stored(outward)
