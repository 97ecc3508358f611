"""The first parameters of a fine-tuning run: a pretrained encoder, its pooler where it has one, and a fresh head; what is added to the encoder's layers is fresh too."""

import jax
import numpy as np
from flax import traverse_util

from bert_jax.training.state import Blueprint, Tree
from launch.load_model import LoadedModel


def start_params(pretrained: LoadedModel, blueprint: Blueprint, key: jax.Array) -> Tree:
    """Parameters of the blueprint, whose spec is a TaskSpec. key: what the head, and what is added to layers, are drawn from."""
    given = traverse_util.flatten_dict({"encoder": pretrained.params["encoder"]} | pretrained_pooler(pretrained, blueprint))
    given = jax.tree.map(np.array, given)  # copies, bound to no device: a workdir's model lies on one, and training gives away what it starts from

    def fresh(key: jax.Array) -> Tree:
        return {path: leaf for path, leaf in traverse_util.flatten_dict(blueprint.init(key)).items() if path not in given}

    return traverse_util.unflatten_dict(given | jax.jit(fresh)(key))


def pretrained_pooler(pretrained: LoadedModel, blueprint: Blueprint) -> Tree:
    """The layer before the classifier from where the family's pretraining has it (`PoolerSpec.source`), or from a head of the same form; nothing where
    there is neither."""
    pooler, params = blueprint.spec.pooler, pretrained.params
    if pooler is None or "pooler" not in blueprint.params:
        return {}
    if pretrained.task is not None:
        same = pretrained.blueprint.spec.pooler == pooler
        return {name: params[name] for name in ("pooler", "pooler_norm") if same and name in params}
    if pooler.source is None:
        return {}
    *above, name = pooler.source.split(".")
    beside = params
    for part in above:
        beside = beside.get(part, {})
    if name not in beside:
        return {}
    return {"pooler": beside[name]} | ({"pooler_norm": beside["norm"]} if pooler.norm else {})
