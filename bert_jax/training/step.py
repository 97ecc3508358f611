"""The update and the evaluation of one batch, as pure functions under plain `jax.jit`."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax.model.spec import Compute
from bert_jax.sharding import batch_sharding, constrain, is_mapped, over_data, replicated
from bert_jax.training.bad_steps import Limits, without_bad
from bert_jax.training.norms import norm_metrics
from bert_jax.training.objectives import Objective, ratios, total_loss
from bert_jax.training.schedules import Schedule
from bert_jax.training.state import Blueprint, TrainState, Tree, shardings_of, update_shardings, whole_params


def make_train_step(
    blueprint: Blueprint,
    objective: Objective,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    compute: Compute,
    abstract: TrainState,
    mesh: Mesh,
    *,
    accumulate: int = 1,
    first_step: int = 0,
    limits: Limits | None = None,
    frozen: tuple[Tree, ...] = (),
) -> Callable:
    """`train_step(state, batch, key, *frozen) -> (state, metrics)`, compiled, donating the state.

    accumulate: the batch is worked through in that many micro-batches; the update is that of the whole batch. first_step: where the
    schedule's step 0 lies. metrics: name -> (numerator, denominator). limits: beyond which a step changes nothing but `state.step`; None: every update is made.
    What the blueprint's `trained` leaves out has neither gradient nor moments, and its bits stay. frozen: trees of ShapeDtypeStructs with shardings, of what the objective reads and nothing trains (a teacher's parameters).
    """

    part = blueprint.trained
    pieces = update_shardings(abstract, part)
    compute = dataclasses.replace(compute, untrained_layers=part.layers)
    tx = optax.with_extra_args_support(tx)

    def of_micro_batch(batch, params, weights, key, *frozen):
        def loss_of(trained):
            losses, right = objective.sums(blueprint.model(part.put_into(params, trained)), batch, *frozen, key=key, compute=compute)
            return total_loss(losses, weights, objective.scales), (losses, right)

        (_, sums), grads = jax.value_and_grad(loss_of, has_aux=True)(part.of(params))
        return grads if is_mapped() else jax.lax.with_sharding_constraint(grads, pieces), sums

    def of_batch(batch, params, weights, key, *frozen):
        """(gradients of what is trained, sums of losses and of right predictions)."""
        if accumulate == 1:
            return of_micro_batch(batch, params, weights, key, *frozen)

        def add(total, indexed):
            index, micro = indexed
            of_this = of_micro_batch(micro, params, weights, jax.random.fold_in(key, index), *frozen)
            return jax.tree.map(jnp.add, total, of_this), None

        micros = jax.tree.map(lambda field: split_batch(field, accumulate), batch)
        first = jax.tree.map(lambda field: field[0], micros)
        shapes = jax.eval_shape(of_micro_batch, first, params, weights, key, *frozen)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)), shapes)
        (grads, sums), _ = jax.lax.scan(add, zeros, (jnp.arange(accumulate), micros))
        if is_mapped():  # what now travels does so in the type in which it was computed
            grads = jax.tree.map(lambda leaf, shape: leaf.astype(shape.dtype), grads, shapes[0])
        return grads, sums

    # Where the mesh is data alone, each device adds up the gradients of its own rows, and they travel once a step; else when and how the compiler decides.
    gradients = over_data(of_batch, mesh, pieces) if mesh.shape["data"] == mesh.size > 1 else of_batch

    def train_step(state: TrainState, batch: dict[str, jax.Array], key: jax.Array, *frozen: Tree):
        key = jax.random.fold_in(key, state.step)
        weights = objective.weights(batch)
        grads, (losses, right) = gradients(batch, whole_params(blueprint, state.params, mesh, compute.dtype), weights, key, *frozen)
        params = jax.lax.with_sharding_constraint(part.of(state.params), pieces)
        grads = jax.tree.map(lambda leaf, param: leaf.astype(param.dtype), grads, params)
        report: dict[str, jax.Array] = {}
        loss = total_loss(losses, weights, objective.scales)
        updates, opt_state = tx.update(grads, state.opt_state, params, report=report, loss=loss)
        rate = schedule(state.step - first_step)
        updates = optax.tree.scale(-rate, updates)
        new_params = jax.lax.with_sharding_constraint(optax.apply_updates(params, updates), pieces)
        one = jnp.float32(1)
        metrics = ratios(losses, right, weights) | {"loss": (loss, one), "learning_rate": (rate, one)}
        metrics |= norm_metrics(grads, updates, params, blueprint.axes, report.get("trust_ratios"))
        if limits is not None:
            grad_norm = metrics["grad_norm"][0]
            good = limits.good(loss, grad_norm, report.get("usual"))
            new_params, opt_state = jax.tree.map(lambda new, old: jnp.where(good, new, old), (new_params, opt_state), (params, state.opt_state))
            metrics = without_bad(metrics, good, loss, grad_norm)
        return TrainState(state.step + 1, part.put_into(state.params, new_params), opt_state), metrics

    shardings = shardings_of(abstract)
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh), replicated(mesh), *map(shardings_of, frozen)),
        out_shardings=(shardings, replicated(mesh)),
    )


def split_batch(field: jax.Array, count: int) -> jax.Array:
    """[b, ...] -> [count, b/count, ...]; micro-batch i takes rows i, i + count, ..., so that every device keeps its own rows."""
    micros = field.reshape(field.shape[0] // count, count, *field.shape[1:]).swapaxes(0, 1)
    return constrain(micros, ("micro_batches", "batch", *["length"] * (field.ndim - 1)))


def make_eval_step(blueprint: Blueprint, objective: Objective, compute: Compute, abstract_params, mesh: Mesh) -> Callable:
    """`eval_step(params, batch) -> metrics` without dropout; metrics: name -> (numerator, denominator)."""

    def eval_step(params, batch):
        whole = whole_params(blueprint, params, mesh, compute.dtype)
        losses, right = objective.sums(blueprint.model(whole), batch, key=None, compute=compute)
        return ratios(losses, right, objective.weights(batch))

    return jax.jit(eval_step, in_shardings=(shardings_of(abstract_params), batch_sharding(mesh)), out_shardings=replicated(mesh))
