"""What is minimised. An objective gives sums and weights, never means, so that gradient accumulation and global means are exact.

`weights(batch)` depends on the batch alone: a step takes the weights of the whole global batch first, and each micro-batch then contributes
its loss sums divided by them.
"""

import dataclasses

import jax
import jax.numpy as jnp

from bert_jax.model.heads import PretrainingModel
from bert_jax.model.spec import Compute


@dataclasses.dataclass(frozen=True)
class MaskedLm:
    """Masked language modelling and, if `pairs` names one, a loss on the order of the two segments; their mean losses are added.

    pairs: "nsp", next-sentence prediction (Devlin et al. 2018, appendix A.2), "sop", sentence-order prediction (Lan et al. 2019, section 3.1), or
    None. Both are read off the model's pair head; labels come from the batch field `nsp_labels` or `sop_labels`.
    """

    pairs: str | None

    def __post_init__(self):
        if self.pairs not in (None, "nsp", "sop"):
            raise ValueError(f"MaskedLm.pairs is {self.pairs!r}; known: nsp, sop, None")

    def weights(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Float32 scalars: the number of terms in each loss."""
        weights = {"mlm": batch["mlm_weights"].sum()}
        return weights | {self.pairs: jnp.float32(batch[f"{self.pairs}_labels"].shape[0])} if self.pairs else weights

    def sums(
        self, model: PretrainingModel, batch: dict[str, jax.Array], *, key: jax.Array | None, compute: Compute
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """(loss sums, counts of right predictions), float32 scalars under the same names as `weights`."""
        logits = model(batch, key=key, compute=compute)
        losses, right = {}, {}
        weights, targets = batch["mlm_weights"], batch["mlm_targets"]
        losses["mlm"] = (cross_entropy(logits["mlm"], targets) * weights).sum()
        right["mlm"] = ((logits["mlm"].argmax(-1) == targets) * weights).sum()
        if self.pairs:
            labels = batch[f"{self.pairs}_labels"]
            losses[self.pairs] = cross_entropy(logits["nsp"], labels).sum()
            right[self.pairs] = (logits["nsp"].argmax(-1) == labels).sum().astype(jnp.float32)
        return losses, right


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """float32 logits [..., v], integer targets [...] -> float32 [...], in nats."""
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def total_loss(losses: dict[str, jax.Array], weights: dict[str, jax.Array]) -> jax.Array:
    """The sum of the mean losses; a loss without terms counts as 0."""
    return sum(losses[name] / jnp.maximum(weights[name], 1.0) for name in losses)


def ratios(losses: dict, right: dict, weights: dict) -> dict[str, tuple]:
    """Metrics as (numerator, denominator) pairs, to be added up over batches and divided once."""
    metrics = {f"{name}_loss": (losses[name], weights[name]) for name in losses}
    return metrics | {f"{name}_accuracy": (right[name], weights[name]) for name in right}
