"""Rematerialisation (Chen et al. 2016, arXiv 1604.06174): what the forward pass keeps for the gradients, by name, and what the backward pass computes anew.

With `elementwise` a block keeps the results of its projections with their biases, what attention found, the sums on the residual path and the statistics of norms: from these,
all else is elementwise, and fused into what reads it.
"""

from collections.abc import Callable

import jax
from jax.ad_checkpoint import checkpoint_name

KEPT, ATTENDED = "kept", "attended"
_names = jax.checkpoint_policies.save_only_these_names
POLICIES = {"elementwise": _names(KEPT, ATTENDED), "dots": _names(KEPT), "full": None}


def kept(x: jax.Array, name: str = KEPT) -> jax.Array:
    """x itself, of any shape, which the policies know by the name."""
    return checkpoint_name(x, name)


def rematerialised(step: Callable, remat: str, *, in_loop: bool) -> Callable:
    """step, whose gradients compute anew what `remat` says (`Compute.remat`).

    in_loop: its forward and backward passes are loops of their own, between which compilers cannot merge equal computations. Elsewhere a barrier keeps them from undoing the
    rematerialisation, before which all that was kept must be read, sliced and copied.
    """
    return step if remat == "none" else jax.checkpoint(step, prevent_cse=not in_loop, policy=POLICIES[remat])
