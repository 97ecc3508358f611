"""Proof of an export: stock transformers loads it, and every layer and head is compared with our model on real sentences in float32."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from bert_jax.interop import architectures, tasks
from bert_jax.interop.tasks import Task
from bert_jax.model.encoder import Encoder
from bert_jax.model.families import build_spec
from bert_jax.model.heads import build
from bert_jax.model.pooling import pool
from bert_jax.model.spec import TOKEN_KINDS, AnySpec, EncoderSpec, TaskSpec

SCORES, TOKEN_SCORES, VECTORS = "scores", "token scores", "vectors"
OF_ROWS = ("NSP logits", SCORES, VECTORS)  # one for each row; others have one for each token


class VerifyError(Exception):
    """The export does not compute what the model computes, or cannot be loaded as it should; `report` if outputs were compared."""

    def __init__(self, message: str, report: "VerifyReport | None" = None):
        super().__init__(message)
        self.report = report


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One output: the largest absolute difference over all real tokens, and the largest absolute value of transformers' output."""

    name: str
    difference: float
    magnitude: float


@dataclasses.dataclass(frozen=True)
class VerifyReport:
    """Comparisons in the order of computation: embeddings, layers, the heads' logits. `str()` is a table."""

    comparisons: tuple[Comparison, ...]
    tolerance: float
    rows: int
    tokens: int

    @property
    def first_off(self) -> Comparison | None:
        return next((one for one in self.comparisons if not one.difference <= self.tolerance), None)  # NaN is off

    def __str__(self) -> str:
        lines = [f"{'output':<12}  {'max |difference|':>16}  {'max |value|':>11}"]
        for one in self.comparisons:
            off = "" if one.difference <= self.tolerance else "  over the tolerance"
            lines.append(f"{one.name:<12}  {one.difference:>16.2e}  {one.magnitude:>11.3g}{off}")
        return "\n".join([*lines, f"{self.rows} rows, {self.tokens} tokens, tolerance {self.tolerance:g}"])


def verify(
    directory: str | os.PathLike, params: dict, model_section: dict, texts: list[str], *, task: Task | None = None, tolerance: float = 1e-4
) -> VerifyReport:
    """Compares the exported directory with (params, model_section) on the texts, alone and in pairs, padded, each with one token masked.

    task: of a fine-tuned model. tolerance: largest absolute difference of any hidden state or logit. Raises VerifyError naming what does not load, or the
    first output that is off.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise VerifyError(f"verification needs torch and transformers ({error}): pip install 'bert-jax[torch]'") from None
    if len(texts) < 2:
        raise ValueError(f"verify got {len(texts)} texts; give at least 2, for single sentences and pairs")
    directory, spec = pathlib.Path(directory), build_spec(model_section) if task is None else task.spec(model_section)
    _check_config(directory, spec, task)
    architecture = architectures.architecture_of(model_section)
    model_class = getattr(transformers, architecture.model_class(spec) if task is None else tasks.model_class(architecture, task))
    model, loading = model_class.from_pretrained(
        directory,
        output_loading_info=True,
        attn_implementation="eager",
        dtype=torch.float32,
        local_files_only=True,
        ignore_mismatched_sizes=True,  # so that they are reported with the rest
        **({"add_pooling_layer": False} if task is not None and task.kind == "embedding" and architecture.optional_pooler else {}),
    )
    problems = {kind: sorted(map(str, found)) for kind, found in loading.items() if found}
    if problems:
        listed = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(found)}" for kind, found in problems.items())
        raise VerifyError(f"{model_class.__name__} does not load {directory} whole: {listed}. Export the model again")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    vocab_size = spec.encoder.embedding.vocab_size
    if len(tokenizer) > vocab_size:
        raise VerifyError(f"the tokenizer in {directory} has {len(tokenizer)} tokens, the model {vocab_size}; export the model again")

    model.eval()
    encoder = _sentence_encoder(directory) if task is not None and task.kind == "embedding" else None
    pairs = list(zip(texts, texts[1:] + texts[:1]))
    collected: dict[str, list[tuple[float, float]]] = {}
    rows = tokens = 0
    for inputs, extra in ((texts, 0), (pairs, 8)):  # two padded lengths; the second with padding in every row
        encoded = _encode(tokenizer, inputs, extra, spec)
        architecture.as_trained(model)
        with torch.no_grad():
            given = encoded | architecture.more_inputs(spec, encoded["input_ids"])
            given = {name: torch.from_numpy(array) for name, array in given.items()}
            outputs = model(**{name: tensor[:, None] if task is not None and task.kind == "choice" else tensor for name, tensor in given.items()}, output_hidden_states=True)
            heads = _heads(architecture, spec, outputs) if encoder is None else {VECTORS: encoder(given)["sentence_embedding"].numpy()}
        theirs = _named([state.numpy()[:, : encoded["input_ids"].shape[1]] for state in outputs.hidden_states], heads)
        ours = _named(*our_outputs(params, spec, encoded))
        real = encoded["attention_mask"].astype(bool)  # at padding, attention has nothing to attend to and the two models differ freely
        rows, tokens = rows + len(real), tokens + int(real.sum())
        for name, reference in theirs.items():
            difference, reference = np.abs(ours[name] - reference), np.abs(reference)
            if name not in OF_ROWS:
                difference, reference = difference[real], reference[real]
            collected.setdefault(name, []).append((difference.max(), reference.max()))
    comparisons = tuple(Comparison(name, *(float(value) for value in np.max(found, axis=0))) for name, found in collected.items())
    report = VerifyReport(comparisons, tolerance, rows, tokens)
    if report.first_off is not None:
        one = report.first_off
        raise VerifyError(
            f"the export in {directory} does not compute what the model computes; the first output that is off is {one.name}, "
            f"by {one.difference:.2e} (tolerance {tolerance:g}). Export the model again\n{report}",
            report,
        )
    return report


def _heads(architecture: architectures.Architecture, spec: AnySpec, outputs) -> dict[str, np.ndarray]:
    """What transformers' model says, under the names of `_every_logit`."""
    if not isinstance(spec, TaskSpec):
        return {name: outputs[output].numpy() for name, output in architecture.logits(spec).items()}
    if spec.kind == "span":
        return {TOKEN_SCORES: np.stack([outputs.start_logits.numpy(), outputs.end_logits.numpy()], axis=-1)}
    return {TOKEN_SCORES if spec.kind in TOKEN_KINDS else SCORES: outputs.logits.numpy()}


def _sentence_encoder(directory: pathlib.Path) -> Callable:
    try:
        import sentence_transformers
    except ImportError as error:
        raise VerifyError(f"verification of an encoder of sentences needs sentence-transformers ({error}): pip install sentence-transformers") from None
    return sentence_transformers.SentenceTransformer(str(directory), device="cpu", local_files_only=True).eval()


def _check_config(directory: pathlib.Path, spec: AnySpec, task: Task | None) -> None:
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        section = architectures.section_from_config(config, nsp=spec.nsp, source=str(path))
        exported, held = build_spec(section), None
        if task is not None:
            held = tasks.task_of(config, architectures.architecture_of(section), directory, dropout=task.dropout, length=task.length)
            exported = exported if held is None else held.spec(section)
    except (OSError, ValueError) as error:
        raise VerifyError(f"{directory} is not an export of this model: {error}") from None
    if exported != spec or held != task:
        raise VerifyError(f"{path} describes {exported}{_of(held)}, but the model is {spec}{_of(task)}; export the model again")


def _of(task: Task | None) -> str:
    return "" if task is None else f" for {task}"


def _encode(tokenizer, inputs: list, extra: int, spec: AnySpec) -> dict[str, np.ndarray]:
    """input_ids, attention_mask and, if the model tells them apart, token_type_ids, [rows, longest row + extra]; each row's middle is masked."""
    max_positions, has_types = spec.encoder.embedding.max_positions, spec.encoder.embedding.type_vocab_size > 1
    longest = max(len(ids) for ids in tokenizer(inputs, truncation=True, max_length=max_positions)["input_ids"])
    encoded = tokenizer(
        inputs,
        truncation=True,
        padding="max_length",
        max_length=min(longest + extra, max_positions),
        return_token_type_ids=has_types,
        return_special_tokens_mask=True,
        return_tensors="np",
    )
    for ids, special in zip(encoded["input_ids"], encoded.pop("special_tokens_mask")):
        ordinary = np.flatnonzero(special == 0)
        if len(ordinary):
            ids[ordinary[len(ordinary) // 2]] = tokenizer.mask_token_id
    return {name: np.asarray(array, np.int64) for name, array in encoded.items()}


def our_outputs(params: dict, spec: AnySpec, encoded: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(hidden states [layers + 1, rows, length, hidden], what the heads say of them, by name and without the vocabulary's padding), float32."""
    batch = {"input_ids": np.asarray(encoded["input_ids"], np.int32)}
    batch["token_type_ids"] = np.asarray(encoded.get("token_type_ids", np.zeros_like(batch["input_ids"])), np.int32)
    batch["segment_ids"] = np.asarray(encoded["attention_mask"], np.int32)
    with jax.default_matmul_precision("highest"):  # accelerators round float32 products to fewer bits by default
        states = _hidden_states(spec.encoder)(params["encoder"], batch)
        return jax.device_get((states, _every_logit(spec)(params, states[-1], batch["segment_ids"])))


@functools.lru_cache
def _hidden_states(spec: EncoderSpec) -> Callable:
    graphdef = nnx.split(nnx.eval_shape(lambda: Encoder(spec, rngs=nnx.Rngs(params=0))))[0]
    return jax.jit(lambda params, batch: nnx.merge(graphdef, params).hidden_states(batch))


@functools.lru_cache
def _every_logit(spec: AnySpec) -> Callable:
    graphdef = nnx.split(nnx.eval_shape(lambda: build(spec, rngs=nnx.Rngs(params=0))))[0]

    def logits(params: dict, hidden: jax.Array, segment_ids: jax.Array) -> dict[str, jax.Array]:
        model = nnx.merge(graphdef, params)
        if isinstance(spec, TaskSpec):
            if spec.kind == "embedding":
                return {VECTORS: pool(hidden, segment_ids, spec.pooling)}
            return {TOKEN_SCORES if spec.kind in TOKEN_KINDS else SCORES: model.scores(hidden, segment_ids)}
        heads = model.every_logit(hidden)
        return heads | {name: heads[name][..., : spec.encoder.embedding.vocab_size] for name in heads.keys() & {"MLM logits"}}

    return jax.jit(logits)


def _named(states: list[np.ndarray] | np.ndarray, heads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"embeddings": states[0]} | {f"layer {index}": state for index, state in enumerate(states[1:])} | heads
