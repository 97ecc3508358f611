"""The name table: every parameter beside its names in checkpoints, used in both directions.

Enters and leaves: our parameter tree (`nnx.to_pure_dict` of a PretrainingModel, layers stacked on the first axis) and flat dicts of arrays
as checkpoints hold them. The models are those of Devlin et al. 2018 (arXiv 1810.04805), sections 3 and 3.1. A naming is
"bert" or "roberta", of transformers' models with these prefixes (XLM-R's is RoBERTa's), or "tensorflow", of google-research/bert.
"""

import dataclasses
import math

import jax
import numpy as np
from flax import nnx, traverse_util

from bert_jax.model.heads import PretrainingModel
from bert_jax.model.spec import ModelSpec

# Kinds, by what a checkpoint stores. Ours is [inputs..., outputs...] with the attention heads as axes of their own.
#   flat        one axis                                   vocabulary  without our padding rows
#   table       as ours                                    kernel      a matrix; one input axis of ours
#   from_heads  a matrix; two input axes of ours           classifier  a matrix; one input axis of ours, [outputs, inputs] in TensorFlow too
INPUT_AXES = {"kernel": 1, "from_heads": 2, "classifier": 1}
TORCH = ("kernel", "from_heads", "classifier")
OUTPUTS_FIRST = {"bert": TORCH, "roberta": TORCH, "tensorflow": ("classifier",)}
NAMINGS = tuple(OUTPUTS_FIRST)  # in the order of the columns of ROWS


def _under(prefixes: tuple[str, str, str, str], rows: tuple) -> tuple:
    """Rows with the prefixes in front; one of four columns has the same name under both of transformers' prefixes."""
    full = (row if len(row) == 5 else (row[0], row[1], *row[1:]) for row in rows)
    return tuple((*map("".join, zip(prefixes, row)), row[4]) for row in full)


EMBED = ("encoder.embed.", "bert.embeddings.", "roberta.embeddings.", "bert/embeddings/")
EMBED_ROWS = (
    ("tokens.embedding", "word_embeddings.weight", "word_embeddings", "vocabulary"),
    ("positions.embedding", "position_embeddings.weight", "position_embeddings", "table"),
    ("token_types.embedding", "token_type_embeddings.weight", "token_type_embeddings", "table"),
    ("norm.scale", "LayerNorm.weight", "LayerNorm/gamma", "flat"),
    ("norm.bias", "LayerNorm.bias", "LayerNorm/beta", "flat"),
)
LAYER = ("encoder.layers.", "bert.encoder.layer.{layer}.", "roberta.encoder.layer.{layer}.", "bert/encoder/layer_{layer}/")
LAYER_ROWS = (
    ("attention.query.kernel", "attention.self.query.weight", "attention/self/query/kernel", "kernel"),
    ("attention.query.bias", "attention.self.query.bias", "attention/self/query/bias", "flat"),
    ("attention.key.kernel", "attention.self.key.weight", "attention/self/key/kernel", "kernel"),
    ("attention.key.bias", "attention.self.key.bias", "attention/self/key/bias", "flat"),
    ("attention.value.kernel", "attention.self.value.weight", "attention/self/value/kernel", "kernel"),
    ("attention.value.bias", "attention.self.value.bias", "attention/self/value/bias", "flat"),
    ("attention.output.kernel", "attention.output.dense.weight", "attention/output/dense/kernel", "from_heads"),
    ("attention.output.bias", "attention.output.dense.bias", "attention/output/dense/bias", "flat"),
    ("attention_norm.scale", "attention.output.LayerNorm.weight", "attention/output/LayerNorm/gamma", "flat"),
    ("attention_norm.bias", "attention.output.LayerNorm.bias", "attention/output/LayerNorm/beta", "flat"),
    ("mlp.up.kernel", "intermediate.dense.weight", "intermediate/dense/kernel", "kernel"),
    ("mlp.up.bias", "intermediate.dense.bias", "intermediate/dense/bias", "flat"),
    ("mlp.down.kernel", "output.dense.weight", "output/dense/kernel", "kernel"),
    ("mlp.down.bias", "output.dense.bias", "output/dense/bias", "flat"),
    ("mlp_norm.scale", "output.LayerNorm.weight", "output/LayerNorm/gamma", "flat"),
    ("mlp_norm.bias", "output.LayerNorm.bias", "output/LayerNorm/beta", "flat"),
)
MLM_HEAD = ("mlm_head.", "cls.predictions.", "lm_head.", "cls/predictions/")
MLM_HEAD_ROWS = (
    ("transform.kernel", "transform.dense.weight", "dense.weight", "transform/dense/kernel", "kernel"),
    ("transform.bias", "transform.dense.bias", "dense.bias", "transform/dense/bias", "flat"),
    ("norm.scale", "transform.LayerNorm.weight", "layer_norm.weight", "transform/LayerNorm/gamma", "flat"),
    ("norm.bias", "transform.LayerNorm.bias", "layer_norm.bias", "transform/LayerNorm/beta", "flat"),
    ("bias", "bias", "bias", "output_bias", "vocabulary"),
)
ROWS = (
    *_under(EMBED, EMBED_ROWS),
    *_under(LAYER, LAYER_ROWS),
    *_under(MLM_HEAD, MLM_HEAD_ROWS),
    ("pooler.kernel", "bert.pooler.dense.weight", None, "bert/pooler/dense/kernel", "kernel"),
    ("pooler.bias", "bert.pooler.dense.bias", None, "bert/pooler/dense/bias", "flat"),
    ("nsp_head.kernel", "cls.seq_relationship.weight", None, "cls/seq_relationship/output_weights", "classifier"),
    ("nsp_head.bias", "cls.seq_relationship.bias", None, "cls/seq_relationship/output_bias", "flat"),
)
NSP_PARTS = ("pooler", "nsp_head")
# Left over under these names, a weight would change what the model computes, so it is refused; left over elsewhere, it is only noted.
NEEDED = {
    "bert": ("bert.embeddings.", "bert.encoder.", "cls."),
    "roberta": ("roberta.embeddings.", "roberta.encoder.", "lm_head."),
    "tensorflow": ("bert/embeddings/", "bert/encoder/", "cls/"),
}


@dataclasses.dataclass(frozen=True)
class Weight:
    """One parameter of ours and how a checkpoint of one naming holds it."""

    path: str
    names: tuple[str, ...]  # one, or one per layer
    kind: str
    shape: tuple[int, ...]  # ours, of one layer
    stored_shape: tuple[int, ...]
    outputs_first: bool
    stacked: bool

    @property
    def part(self) -> str:
        return self.path.split(".")[0]

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """A stored array of `stored_shape` -> float32 of `shape`; padding rows of the vocabulary are zero."""
        array = array.astype(np.float32)
        if self.kind == "vocabulary":
            return np.pad(array, [(0, self.shape[0] - array.shape[0])] + [(0, 0)] * (array.ndim - 1))
        return (array.T if self.outputs_first else array).reshape(self.shape)

    def to_stored(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `to_ours`; padding rows are dropped."""
        if self.kind == "vocabulary":
            array = array[: self.stored_shape[0]]
        array = array.reshape(self.stored_shape[::-1]).T if self.outputs_first else array.reshape(self.stored_shape)
        return np.ascontiguousarray(array, np.float32)


def weights(spec: ModelSpec, naming: str) -> list[Weight]:
    """The table for one model and one of NAMINGS."""
    model = nnx.eval_shape(lambda: PretrainingModel(spec, rngs=nnx.Rngs(params=0)))
    ours = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.split(model)[1]), sep=".")
    table = []
    for path, *columns, kind in ROWS:
        if path.split(".")[0] in NSP_PARTS and not spec.nsp:
            continue
        name = columns[NAMINGS.index(naming)]
        stacked = path.startswith(LAYER[0])
        shape = ours.pop(path).shape[int(stacked) :]
        outputs_first = kind in OUTPUTS_FIRST[naming]
        stored = shape
        if kind == "vocabulary":
            stored = (spec.encoder.embedding.vocab_size, *shape[1:])
        elif kind == "flat":
            stored = (math.prod(shape),)
        elif kind in INPUT_AXES:
            stored = (math.prod(shape[: INPUT_AXES[kind]]), math.prod(shape[INPUT_AXES[kind] :]))
            stored = stored[::-1] if outputs_first else stored
        names = tuple(name.format(layer=layer) for layer in range(spec.encoder.num_layers if stacked else 1))
        table.append(Weight(path, names, kind, shape, stored, outputs_first, stacked))
    if ours:
        raise ValueError(f"the name table has no row for the parameters {', '.join(ours)}; add them to bert_jax/interop/names.py")
    return table


def to_tensors(params: dict, spec: ModelSpec, naming: str) -> dict[str, np.ndarray]:
    """Our parameters -> transformers' names and float32 arrays. The decoder's weight and bias are tied there and are not repeated."""
    flat = traverse_util.flatten_dict(params, sep=".")
    tensors = {}
    for weight in weights(spec, naming):
        array = np.asarray(flat.pop(weight.path))
        layers = array if weight.stacked else array[None]
        tensors |= {name: weight.to_stored(layer) for name, layer in zip(weight.names, layers, strict=True)}
    if flat:
        raise ValueError(f"parameters {', '.join(flat)} are not part of the model section; is `nsp` in it as it was trained?")
    return tensors


def has_nsp(tensors: dict[str, np.ndarray], naming: str) -> bool:
    """Whether a checkpoint becomes a model with pooler and NSP head: it has the head, or it is an encoder with a pooler and no MLM head."""
    held = {path.split(".")[0] for path, *columns, _ in ROWS if columns[NAMINGS.index(naming)] in tensors}
    return "nsp_head" in held or ("pooler" in held and "mlm_head" not in held)


def from_tensors(tensors: dict[str, np.ndarray], spec: ModelSpec, naming: str, key: jax.Array) -> tuple[dict, list[str]]:
    """A checkpoint's arrays -> (parameters as float32 numpy arrays, notes for the reader).

    A head that is wholly absent is initialised from `key` and noted. ValueError names what is missing from the encoder or from a head, what
    has the wrong shape or dtype, and what is left over in the encoder.
    """
    flat: dict[str, np.ndarray] = {}
    absent: dict[str, list[str]] = {}
    found: set[str] = set()
    paths: dict[str, list[str]] = {}
    unused = dict(tensors)
    for weight in weights(spec, naming):
        paths.setdefault(weight.part, []).append(weight.path)
        missing = [name for name in weight.names if name not in tensors]
        if len(missing) < len(weight.names):
            found.add(weight.part)
        if missing:
            absent.setdefault(weight.part, []).extend(missing)
            continue
        arrays = [weight.to_ours(_checked(unused.pop(name), name, weight)) for name in weight.names]
        flat[weight.path] = np.stack(arrays) if weight.stacked else arrays[0]
    for part, names in absent.items():
        if part == "encoder" or part in found:
            raise ValueError(
                f"the checkpoint lacks {len(names)} weights of the {part}: {_listed(names)}. It is damaged, or its config does not "
                "describe it; fetch it again, or correct the config (num_hidden_layers)"
            )
    refused = [name for name in unused if name.startswith(NEEDED[naming])]
    if refused:
        raise ValueError(
            f"the checkpoint has weights that this model has no place for: {_listed(refused)}. Its config does not describe it "
            "(num_hidden_layers?), or it is a model of another kind"
        )
    notes = [f"{part}: initialised from the key, for the checkpoint lacks {', '.join(names)}" for part, names in absent.items()]
    flat |= _initial(spec, [path for part in absent for path in paths[part]], key)
    narrow = sorted({str(array.dtype) for name, array in tensors.items() if name not in unused} - {"float32"})
    if narrow:
        notes.append(f"weights stored as {', '.join(narrow)} were converted to float32")
    if unused:
        notes.append(f"left out, for a pretraining model has no place for them: {', '.join(unused)}")
    return traverse_util.unflatten_dict(flat, sep="."), notes


def _checked(array: np.ndarray, name: str, weight: Weight) -> np.ndarray:
    if array.shape != weight.stored_shape:
        raise ValueError(
            f"weight {name} has shape {list(array.shape)}, but the config asks for {list(weight.stored_shape)}; correct the config's "
            "sizes, or fetch the checkpoint again"
        )
    if array.dtype.name not in ("float64", "float32", "float16", "bfloat16"):
        raise ValueError(f"weight {name} is {array.dtype}; expected a floating-point type (a quantised checkpoint cannot be imported)")
    return array


def _initial(spec: ModelSpec, paths: list[str], key: jax.Array) -> dict[str, np.ndarray]:
    def chosen(key: jax.Array) -> dict[str, jax.Array]:
        flat = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.split(PretrainingModel(spec, rngs=nnx.Rngs(params=key)))[1]), sep=".")
        return {path: flat[path] for path in paths}

    return jax.device_get(jax.jit(chosen)(key)) if paths else {}  # compiled, so that only the chosen ones are drawn


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
