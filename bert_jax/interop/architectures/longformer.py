"""Longformer (Beltagy et al. 2020, arXiv 2004.05150) as transformers has it: RoBERTa under another prefix, with projections for global tokens."""

import dataclasses

import numpy as np

from bert_jax.interop.architectures import bert
from bert_jax.interop.architectures.architecture import CLASSIFIER, Architecture, TaskClass, check_sizes, linear, task_classes
from bert_jax.model.spec import ModelSpec

GLOBAL = {"query": "query_global", "key": "key_global", "value": "value_global"}  # ours and theirs, within a layer's attention
GLOBAL_ROWS = tuple(
    (f"attention.{name}.{ours}", f"attention.self.{name}.{theirs}", kind)
    for name in ("query_global", "key_global", "value_global")
    for ours, theirs, kind in (("kernel", "weight", "kernel"), ("bias", "bias", "flat"))
)


def _renamed(name: str) -> str:
    return name.replace("roberta.", "longformer.", 1)


NAMES = dataclasses.replace(
    bert.ROBERTA_NAMES,
    rows=tuple((ours, _renamed(theirs), kind) for ours, theirs, kind in bert.ROBERTA_NAMES.rows),
    layer=_renamed(bert.ROBERTA_NAMES.layer),
    layer_rows=(*bert.LAYER_ROWS, *GLOBAL_ROWS),
    prefix="longformer.",
    needed=tuple(map(_renamed, bert.ROBERTA_NAMES.needed)),
    tied={name: _renamed(original) for name, original in bert.ROBERTA_NAMES.tied.items()},
)


def to_section(config: dict, nsp: bool, source: str) -> dict:
    section = bert.to_section(config, nsp, source, family="roberta")
    windows = config.get("attention_window", 512)
    windows = windows if isinstance(windows, list) and windows else [windows]
    check_sizes({"attention_window": windows[0]}, ["attention_window"], source)
    if set(windows) != {windows[0]}:
        raise ValueError(f"{source}: attention_window is {windows}; only models with one window in all layers can be imported")
    return section | {"window": windows[0], "global_tokens": config.get("global_tokens", 0)}


def to_config(spec: ModelSpec, *, pad: int, cls: int, sep: int) -> dict:
    """`global_tokens` is ours; transformers is told which they are with every input (global_attention_mask)."""
    attention = spec.encoder.attention
    return bert.to_config(spec, pad=pad, cls=cls, sep=sep, names_ends=True) | {
        "sep_token_id": sep,
        "attention_window": [attention.window] * spec.encoder.num_layers,
        "global_tokens": attention.global_tokens,
        "onnx_export": False,
    }


def global_tokens(spec: ModelSpec, input_ids: np.ndarray) -> dict[str, np.ndarray]:
    """The input by which transformers is told what is global in rows of one document each, as our model chooses by itself: the first token, or nothing."""
    return {"global_attention_mask": (np.cumsum(np.ones_like(input_ids), axis=1) <= min(spec.encoder.attention.global_tokens, 1)).astype(np.int64)}


TASKS = task_classes(
    TaskClass(bert.ROBERTA_CLASSIFIER, dropout=None), TaskClass((*linear("pooler", "longformer.pooler.dense"), *CLASSIFIER), dropout=None)
)  # fmt: skip
REMARK = (
    "Unless it is given a `global_attention_mask`, this class marks tokens as global by itself, and others than this model was trained with; {marked}, as in the "
    "example."
)  # fmt: skip
REMARKS = {
    "QuestionAnswering": REMARK.format(marked="give it one of zeros"),
    "MultipleChoice": REMARK.format(marked="give it one with a 1 at the first token of each choice"),
}
LONGFORMER = Architecture("Longformer", "longformer", "Longformer", NAMES, to_config, to_section, more_inputs=global_tokens, tasks=TASKS, remarks=REMARKS)
