"""The training state, and the one way to make it: shapes first, then shardings, then arrays. Init, restore and planning share it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from bert_jax.model.heads import DetectionModel, PretrainingModel, build
from bert_jax.model.spec import AnySpec, TaskSpec
from bert_jax.sharding import constrain, partition_spec, replicated, shard_over_data
from bert_jax.training.bad_steps import Remembering, nothing_usual
from bert_jax.training.trained import EVERYTHING, Trained

Tree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """All that training changes. step: int32 scalar, the number of updates done; params: nested dict of float32 arrays."""

    step: jax.Array
    params: Tree
    opt_state: Tree


def saved_trees(state: TrainState) -> dict[str, Tree]:
    """What a checkpoint holds of a state, or of an abstract one, by name: `params`, `opt_state` and, where relative limits of bad steps need it, `usual`."""
    if isinstance(state.opt_state, Remembering):
        return {"params": state.params, "opt_state": state.opt_state.optimizer, "usual": state.opt_state.usual}
    return {"params": state.params, "opt_state": state.opt_state}


def state_of(step: int, trees: dict[str, Tree], abstract: TrainState) -> TrainState:
    """The state of `saved_trees`. Of a run that had no relative limits before, nothing is usual yet."""
    opt_state = trees["opt_state"]
    if isinstance(abstract.opt_state, Remembering):
        usual = trees.get("usual") or jax.device_put(nothing_usual(), shardings_of(abstract.opt_state.usual))
        opt_state = Remembering(opt_state, usual)
    return TrainState(jax.device_put(np.int32(step), abstract.step.sharding), trees["params"], opt_state)


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """A model without its arrays. params: nested dict of ShapeDtypeStruct; axes: the same tree with logical axis names. trained: which of them are."""

    spec: AnySpec
    graphdef: nnx.GraphDef
    params: Tree
    axes: Tree
    trained: Trained = EVERYTHING

    def init(self, key: jax.Array) -> Tree:
        """Parameters by the published initialisation (truncated normal of std 0.02, zero biases, unit norms)."""
        return nnx.to_pure_dict(nnx.split(build(self.spec, rngs=nnx.Rngs(params=key)))[1])

    def model(self, params: Tree) -> PretrainingModel | DetectionModel:
        """Under a mesh, embeddings and heads are gathered over `fsdp` here, and their gradients are whole; layers where their scan comes to them.

        Left to itself the compiler looks tokens up in each piece of the table, and moves activations instead.
        """

        def whole(axes, param):
            if axes[0] == "layers" or "embed" not in axes:
                return param
            return constrain(param, tuple("hidden" if axis == "embed" else axis for axis in axes))

        return nnx.merge(self.graphdef, jax.tree.map(whole, self.axes, params, is_leaf=lambda node: isinstance(node, tuple)))

    @property
    def num_params(self) -> int:
        """Parameters of the model as published, without the padding of the vocabulary."""
        return self._count(self.axes, self.params)

    @property
    def num_trained(self) -> int:
        """Those of them that are trained."""
        return self._count(self.trained.names(self.axes), self.trained.of(self.params))

    def _count(self, axes: Tree, params: Tree) -> int:
        embedding = self.spec.encoder.embedding
        return sum(
            leaf.size // embedding.padded_vocab_size * embedding.vocab_size if "vocab" in names else leaf.size
            for names, leaf in zip(jax.tree.leaves(axes, is_leaf=lambda node: isinstance(node, tuple)), jax.tree.leaves(params), strict=True)
        )


def make_blueprint(spec: AnySpec) -> Blueprint:
    graphdef, state = nnx.split(nnx.eval_shape(lambda: build(spec, rngs=nnx.Rngs(params=0))))
    axes = jax.tree.map(lambda leaf: leaf.get_metadata("axes"), state, is_leaf=lambda node: isinstance(node, nnx.Variable))
    return Blueprint(spec, graphdef, nnx.to_pure_dict(state), nnx.to_pure_dict(axes))


def param_shardings(blueprint: Blueprint, mesh: Mesh) -> Tree:
    return jax.tree.map(lambda axes: NamedSharding(mesh, partition_spec(axes)), blueprint.axes, is_leaf=lambda node: isinstance(node, tuple))


def abstract_params(blueprint: Blueprint, mesh: Mesh, *, zero1: bool = False) -> Tree:
    """Parameters as ShapeDtypeStructs that carry their shardings. zero1: as a TrainState has them, cut over `data` too if all of them are trained."""

    def place(leaf, sharding):
        return _place(leaf, shard_over_data(sharding, leaf.shape) if zero1 and blueprint.trained == EVERYTHING else sharding)

    return jax.tree.map(place, blueprint.params, param_shardings(blueprint, mesh))


def _place(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def abstract_state(blueprint: Blueprint, tx: optax.GradientTransformation, mesh: Mesh, *, zero1: bool = False) -> TrainState:
    """A TrainState of ShapeDtypeStructs that carry their shardings; moments, of what is trained, are sharded as their parameters and, with zero1, over `data` too, as are
    the parameters themselves where all are trained: `whole_params` gathers what a step computes with.

    Moments of another shape than their parameter's (Adafactor's factors, one row or column per matrix) are small and lie on every device.
    """
    params = abstract_params(blueprint, mesh, zero1=zero1)
    trained = blueprint.trained.of(abstract_params(blueprint, mesh))
    cut = jax.tree.map(lambda leaf: shard_over_data(leaf.sharding, leaf.shape) if zero1 else leaf.sharding, trained)
    opt_state = jax.eval_shape(tx.init, trained)

    def masked(node):  # where an optimizer of some parameters (Muon's) has none of another's moments
        return isinstance(node, optax.MaskedNode)

    def moment_sharding(moment, param, sharding):
        if masked(moment):
            return moment
        return sharding if moment.shape == param.shape else replicated(mesh)

    opt_shardings = optax.tree.map_params(
        tx, moment_sharding, opt_state, trained, cut, transform_non_params=lambda _: replicated(mesh), is_leaf=masked
    )

    return TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh)),
        params=params,
        opt_state=jax.tree.map(_place, opt_state, opt_shardings),
    )


def shardings_of(abstract: Tree) -> Tree:
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def update_shardings(abstract: TrainState, trained: Trained = EVERYTHING) -> Tree:
    """Where gradients and updates are computed, a tree like the trained parameters: with ZeRO-1, which shows in the moments, cut over `data`."""
    if trained == EVERYTHING:
        return shardings_of(abstract.params)
    zero1 = any("data" in jax.tree.leaves(tuple(leaf.sharding.spec)) for leaf in jax.tree.leaves(abstract.opt_state))
    return jax.tree.map(lambda leaf: shard_over_data(leaf.sharding, leaf.shape) if zero1 else leaf.sharding, trained.of(abstract.params))


def whole_params(blueprint: Blueprint, params: Tree, mesh: Mesh, dtype: str) -> Tree:
    """Parameters of a TrainState, gathered over `data`, float32; the matrices of layers in `dtype`, the compute's, in which all that they are used for is computed: they are most of what travels.

    Not where their gradients are sums, over layers that share them or over the towers of an embedding model. (DeBERTa's shared projections are used twice, and that sum is rounded.)
    """
    spec = blueprint.spec
    shared = spec.encoder.layer_groups is not None or isinstance(spec, TaskSpec) and spec.kind == "embedding"

    def whole(path, param, axes, sharding):
        if axes[0] == "layers" and path[-1].key == "kernel" and not shared:
            param = param.astype(dtype)
        return jax.lax.with_sharding_constraint(param, sharding)

    return jax.tree.map_with_path(whole, params, blueprint.axes, param_shardings(blueprint, mesh))


def init_state(blueprint: Blueprint, tx: optax.GradientTransformation, abstract: TrainState, key: jax.Array) -> TrainState:
    """A fresh state, each array made where it lives."""

    def init(key):
        params = blueprint.init(key)
        return TrainState(jnp.int32(0), params, tx.init(blueprint.trained.of(params)))

    # Runs once and is mostly random bits, which take LLVM seven times as long to optimise as to run unoptimised (24 s against 3 s here).
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(init, out_shardings=shardings_of(abstract), compiler_options=quick)(key)


def state_from_params(params: Tree, tx: optax.GradientTransformation, abstract: TrainState, trained: Trained = EVERYTHING) -> TrainState:
    """A state at step 0 from given parameters, with a fresh optimizer state."""

    def init(params):
        return TrainState(jnp.int32(0), params, tx.init(trained.of(params)))

    return jax.jit(init, out_shardings=shardings_of(abstract), donate_argnums=0)(params)
