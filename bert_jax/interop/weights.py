"""The weights of a model by their names in checkpoints, in both directions, from a table of rows.

Enters and leaves: our parameter tree (`nnx.to_pure_dict` of a model, layers stacked on the first axis) and flat dicts of arrays
as checkpoints hold them. A row is (path of ours, name there, kind); rows whose parameter a model lacks are passed over.
"""

import dataclasses
import functools
import math
import re
from types import MappingProxyType

import jax
import numpy as np
from flax import nnx, traverse_util

from bert_jax.model.depth import holders
from bert_jax.model.heads import build
from bert_jax.model.spec import AnySpec, TaskSpec

# Kinds, by what a checkpoint stores. Ours is [inputs..., outputs...] with the attention heads as axes of their own.
#   flat        one axis                                   vocabulary  without our padding rows
#   table       as ours                                    kernel      a matrix; one input axis of ours
#   from_heads  a matrix; two input axes of ours           classifier  a matrix; one input axis of ours, [outputs, inputs] in TensorFlow too
#   by_head     a matrix of several, head by head          convolution [taps, inputs, outputs] backwards
INPUT_AXES = {"kernel": 1, "from_heads": 2, "classifier": 1, "by_head": 1}
TORCH = ("kernel", "from_heads", "classifier")
Row = tuple[str, str, str]
BESIDE_FILE = "extra_weights.safetensors"  # of parts that no class of transformers has, beside its own weights


@dataclasses.dataclass(frozen=True)
class Naming:
    """The names of one sort of checkpoint.

    rows: of everything outside of the layers. layer: the prefix of a layer's names, with {layer}; layer_rows are relative to a layer. In a path of
    ours, (query|key|value) stands for several parameters that lie there in one matrix, their outputs one after another. prefix, inside: that
    of the encoder's weights, and the beginnings of names from which the classes without a head leave it out. needed: a weight left over under
    these names would change what the model computes, so it is refused; left over elsewhere, it is only noted. tied: a repeated weight -> the one
    that it is tied to. outputs_first: the kinds that are stored [outputs, inputs]. renamed: beginnings of older names -> today's. beside: parts of our models
    that no class of transformers has; their weights are in a file of their own.
    """

    rows: tuple[Row, ...]
    layer: str
    layer_rows: tuple[Row, ...]
    prefix: str
    inside: tuple[str, ...]
    needed: tuple[str, ...]
    tied: dict[str, str]
    outputs_first: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...] = ()
    beside: tuple[str, ...] = ()


def under(ours: str, theirs: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Rows with the prefixes in front."""
    return tuple((ours + path, theirs + name, kind) for path, name, kind in rows)


@dataclasses.dataclass(frozen=True)
class Weight:
    """Parameters of ours (one, or several that are stored in one) and how a checkpoint holds them."""

    paths: tuple[str, ...]
    names: tuple[str, ...]  # one, or one per layer of a stack
    kind: str
    shape: tuple[int, ...]  # ours, of one layer and one path
    stored_shape: tuple[int, ...]
    outputs_first: bool
    stacked: bool

    @property
    def part(self) -> str:
        return self.paths[0].split(".")[0]

    def to_ours(self, array: np.ndarray) -> list[np.ndarray]:
        """A stored array of `stored_shape` -> float32 of `shape`, one for each path; padding rows of the vocabulary are zero."""
        array = array.astype(np.float32)
        if self.kind == "vocabulary":
            return [np.pad(array, [(0, self.shape[0] - array.shape[0])] + [(0, 0)] * (array.ndim - 1))]
        array = array.T if self.outputs_first else array
        if self.kind == "by_head":
            array = array.reshape(*self.shape[:2], len(self.paths), -1).swapaxes(1, 2)
            return [np.ascontiguousarray(array[:, part]) for part in range(len(self.paths))]
        parts = np.split(array, len(self.paths), axis=-1)
        return [part.reshape(self.shape) for part in parts]

    def to_stored(self, arrays: list[np.ndarray]) -> np.ndarray:
        """The inverse of `to_ours`; padding rows are dropped."""
        if self.kind == "vocabulary":
            return np.ascontiguousarray(arrays[0][: self.stored_shape[0]], np.float32)
        if self.kind in INPUT_AXES:
            inputs = math.prod(self.shape[: INPUT_AXES[self.kind]])
            if self.kind == "by_head":
                arrays = [np.stack(arrays, axis=2)]
            arrays = [array.reshape(inputs, -1) for array in arrays]
        array = np.concatenate(arrays, axis=-1)
        array = array.T if self.outputs_first else array.reshape(self.stored_shape)
        return np.ascontiguousarray(array, np.float32)


@functools.lru_cache
def shapes(spec: AnySpec) -> MappingProxyType[str, tuple[int, ...]]:
    """Of all parameters, by their paths."""
    model = nnx.eval_shape(lambda: build(spec, rngs=nnx.Rngs(params=0)))
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.split(model)[1]), sep=".")
    return MappingProxyType({path: leaf.shape for path, leaf in flat.items()})


def weights(spec: AnySpec, naming: Naming) -> list[Weight]:
    """The table for one model and one sort of checkpoint."""
    ours = dict(shapes(spec))
    table = [_weight(path, (name,), kind, ours, spec, naming, stacked=False) for path, name, kind in naming.rows]
    for prefix, layers, stacked in holders(spec):
        for path, name, kind in naming.layer_rows:
            names = tuple(naming.layer.format(layer=layer) + name for layer in layers)
            table.append(_weight(prefix + path, names, kind, ours, spec, naming, stacked=stacked))
    if ours:
        raise ValueError(f"no row names the parameters {_listed(list(ours))}; add them to the family's file in bert_jax/interop/architectures")
    return [weight for weight in table if weight is not None]


def _weight(path: str, names: tuple[str, ...], kind: str, ours: dict, spec: AnySpec, naming: Naming, *, stacked: bool) -> Weight | None:
    several = re.search(r"\((.*)\)", path)
    paths = tuple(path.replace(several[0], one) for one in several[1].split("|")) if several else (path,)
    if not names or not all(one in ours for one in paths):
        return None
    shapes = {ours.pop(one)[int(stacked) :] for one in paths}
    (shape,) = shapes
    outputs_first = kind in naming.outputs_first
    stored = shape
    if kind == "vocabulary":
        stored = (spec.encoder.embedding.vocab_size, *shape[1:])
    elif kind == "flat":
        stored = (len(paths) * math.prod(shape),)
    elif kind in INPUT_AXES:
        stored = (math.prod(shape[: INPUT_AXES[kind]]), len(paths) * math.prod(shape[INPUT_AXES[kind] :]))
        stored = stored[::-1] if outputs_first else stored
    elif kind == "convolution":
        stored = shape[::-1]
    return Weight(paths, names, kind, shape, stored, outputs_first, stacked)


def to_tensors(params: dict, spec: AnySpec, naming: Naming) -> dict[str, np.ndarray]:
    """Our parameters -> a checkpoint's names and float32 arrays. Tied weights are not repeated."""
    flat = traverse_util.flatten_dict(params, sep=".")
    tensors = {}
    for weight in weights(spec, naming):
        arrays = [np.asarray(flat.pop(path)) for path in weight.paths]
        for index, name in enumerate(weight.names):
            tensors[name] = weight.to_stored([array[index] if weight.stacked else array for array in arrays])
    if flat:
        raise ValueError(f"parameters {', '.join(flat)} are not part of the model section; is `nsp` in it as it was trained?")
    return tensors


def names_beside(spec: AnySpec, naming: Naming) -> set[str]:
    """The names that belong into the file beside the class's own."""
    return {name for weight in weights(spec, naming) if weight.part in naming.beside for name in weight.names} if naming.beside else set()


def has_nsp(tensors: dict[str, np.ndarray], naming: Naming) -> bool:
    """Whether a checkpoint becomes a model with pooler and pair head: it has the head, or it is an encoder with a pooler and no MLM head."""
    held = {path.split(".")[0] for path, name, _ in naming.rows if name in tensors}
    return "nsp_head" in held or ("pooler" in held and "mlm_head" not in held)


def from_tensors(tensors: dict[str, np.ndarray], spec: AnySpec, naming: Naming, key: jax.Array) -> tuple[dict, list[str]]:
    """A checkpoint's arrays -> (parameters as float32 numpy arrays, notes for the reader).

    A pretraining head that is wholly absent is initialised from `key` and noted. ValueError names what is missing from the encoder or from a head, what
    has the wrong shape or dtype, and what is left over in the encoder.
    """
    flat: dict[str, np.ndarray] = {}
    absent: dict[str, list[str]] = {}
    found: set[str] = set()
    paths: dict[str, list[str]] = {}
    unused = dict(tensors)
    for weight in weights(spec, naming):
        paths.setdefault(weight.part, []).extend(weight.paths)
        missing = [name for name in weight.names if name not in tensors]
        if len(missing) < len(weight.names):
            found.add(weight.part)
        if missing:
            absent.setdefault(weight.part, []).extend(missing)
            continue
        layers = [weight.to_ours(_checked(unused.pop(name), name, weight)) for name in weight.names]
        for path, arrays in zip(weight.paths, zip(*layers)):
            flat[path] = np.stack(arrays) if weight.stacked else arrays[0]
    for part, names in absent.items():
        if part == "encoder" or part in found or isinstance(spec, TaskSpec):
            raise ValueError(
                f"the checkpoint lacks {len(names)} weights of the {part}: {_listed(names)}. It is damaged, or its config does not "
                "describe it; fetch it again, or correct the config (num_hidden_layers)"
            )
    refused = [name for name in unused if name.startswith(naming.needed)]
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


def _initial(spec: AnySpec, paths: list[str], key: jax.Array) -> dict[str, np.ndarray]:
    def chosen(key: jax.Array) -> dict[str, jax.Array]:
        flat = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.split(build(spec, rngs=nnx.Rngs(params=key)))[1]), sep=".")
        return {path: flat[path] for path in paths}

    return jax.device_get(jax.jit(chosen)(key)) if paths else {}  # compiled, so that only the chosen ones are drawn


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
