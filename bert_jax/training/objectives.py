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
    None. Both are read off the model's pair head; labels come from the batch field `nsp_labels` or `sop_labels`. mask_id: the id of [MASK]; with it the
    accuracy is also told apart by what stands at the predicted place: the mask, a random token, or the token itself, kept.
    """

    pairs: str | None
    mask_id: int | None = None

    def __post_init__(self):
        if self.pairs not in (None, "nsp", "sop"):
            raise ValueError(f"MaskedLm.pairs is {self.pairs!r}; known: nsp, sop, None")

    def weights(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Float32 scalars: the number of terms in each loss and accuracy."""
        weights = {"mlm": batch["mlm_weights"].sum()} | {name: kind.sum() for name, kind in self._kinds(batch).items()}
        return weights | {self.pairs: jnp.float32(batch[f"{self.pairs}_labels"].shape[0])} if self.pairs else weights

    def sums(
        self, model: PretrainingModel, batch: dict[str, jax.Array], *, key: jax.Array | None, compute: Compute
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """(loss sums, counts of right predictions), float32 scalars under names of `weights`."""
        logits = model(batch, key=key, compute=compute)
        losses, right = {}, {}
        weights, targets = batch["mlm_weights"], batch["mlm_targets"]
        losses["mlm"] = (cross_entropy(logits["mlm"], targets) * weights).sum()
        hits = logits["mlm"].argmax(-1) == targets
        right["mlm"] = (hits * weights).sum()
        right |= {name: (hits * kind).sum() for name, kind in self._kinds(batch).items()}
        if self.pairs:
            labels = batch[f"{self.pairs}_labels"]
            losses[self.pairs] = cross_entropy(logits["nsp"], labels).sum()
            right[self.pairs] = (logits["nsp"].argmax(-1) == labels).sum().astype(jnp.float32)
        return losses, right

    def _kinds(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """float32 [b, p] each: which predictions are of a masked, a replaced and a kept token."""
        if self.mask_id is None:
            return {}
        shown = jnp.take_along_axis(batch["input_ids"], batch["mlm_positions"], axis=1)
        masked, kept = shown == self.mask_id, shown == batch["mlm_targets"]
        kinds = {"mlm_masked": masked, "mlm_random": ~masked & ~kept, "mlm_kept": kept}
        return {name: kind * batch["mlm_weights"] for name, kind in kinds.items()}


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
