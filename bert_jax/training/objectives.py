"""What is minimised. An objective gives sums and weights, never means, so that gradient accumulation and global means are exact.

`weights(batch)` depends on the batch alone: a step takes the weights of the whole global batch first, and each micro-batch then contributes
its loss sums divided by them.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from bert_jax.model.dropout import uniform
from bert_jax.model.heads import DetectionModel, PretrainingModel
from bert_jax.model.spec import AnySpec, Compute, DetectionSpec


@dataclasses.dataclass(frozen=True)
class MaskedLm:
    """Masked language modelling and, if `pairs` names one, a loss on the order of the two segments; their mean losses are added.

    pairs: "nsp", next-sentence prediction (Devlin et al. 2018, appendix A.2), "sop", sentence-order prediction (Lan et al. 2019, section 3.1), or
    None. Both are read off the model's pair head; labels come from the batch field `nsp_labels` or `sop_labels`. mask_id: the id of [MASK]; with it the
    accuracy is also told apart by what stands at the predicted place: the mask, a random token, or the token itself, kept.
    """

    pairs: str | None
    mask_id: int | None = None
    scales: ClassVar[dict[str, float]] = {}  # of the mean losses in their sum, where they are not 1

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
        return self.sums_of(model(batch, key=key, compute=compute), batch)

    def sums_of(self, logits: dict[str, jax.Array], batch: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
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


@dataclasses.dataclass(frozen=True)
class ReplacedTokenDetection:
    """A generator predicts masked tokens, and the encoder finds those of its samples that differ from the text (Clark et al. 2020, arXiv 2003.10555,
    section 2). loss_weight: of the detection loss, a mean over all real tokens.

    A sample is the largest of logits plus Gumbel noise; no gradient flows through it. A sample that is the original counts as original. `sums` gives
    beside the counts the pairs `detection_recall`, of replaced tokens, and `detection_precision`, of tokens that seem replaced.
    """

    loss_weight: float
    mask_id: int | None = None

    @property
    def pairs(self) -> None:
        return None

    @property
    def scales(self) -> dict[str, float]:
        return {"detection": self.loss_weight}

    def weights(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return self._generator.weights(batch) | {"detection": (batch["segment_ids"] > 0).sum().astype(jnp.float32)}

    def sums(
        self, model: DetectionModel, batch: dict[str, jax.Array], *, key: jax.Array | None, compute: Compute
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array | tuple[jax.Array, jax.Array]]]:
        """As MaskedLm's. key=None: no dropout, and the same noise for every batch."""
        generator_key, sample_key, encoder_key = (None, jax.random.key(0), None) if key is None else jax.random.split(key, 3)
        logits = model(batch, key=generator_key, compute=compute)
        losses, right = self._generator.sums_of(logits, batch)
        sampled = sample(logits["mlm"], sample_key)
        seen, replaced = put_in(batch, sampled)
        scores = model.detection_logits(seen, key=encoder_key, compute=compute)
        real, flagged = batch["segment_ids"] > 0, scores > 0
        count = lambda marked: (marked & real).sum().astype(jnp.float32)  # noqa: E731
        losses["detection"] = (optax.sigmoid_binary_cross_entropy(scores, replaced) * real).sum()
        right["detection"] = count(flagged == replaced)
        found = count(flagged & replaced)
        return losses, right | {"detection_recall": (found, count(replaced)), "detection_precision": (found, count(flagged))}

    @property
    def _generator(self) -> MaskedLm:
        return MaskedLm(None, self.mask_id)


def sample(logits: jax.Array, key: jax.Array) -> jax.Array:
    """float32 logits [..., v] -> int32 [...], drawn from their softmax (Gumbel 1954); without gradient.

    The noise is a function of key and place, as dropout's masks are: it is never stored, and the same however the batch lies on devices."""
    noise = -jnp.log(-jnp.log(uniform(key, logits.shape, seeded=logits.ndim - 1)))
    return (jax.lax.stop_gradient(logits) + noise).argmax(-1).astype(jnp.int32)


def put_in(batch: dict[str, jax.Array], tokens: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
    """(the batch with `tokens` [b, p] at its prediction slots, bool [b, l]: where they differ from the original)."""
    ids = batch["input_ids"]
    places = jnp.where(batch["mlm_weights"] > 0, batch["mlm_positions"], ids.shape[1])  # unused slots: beyond the end, and dropped
    put = jax.vmap(lambda row, at, values: row.at[at].set(values, mode="drop"))
    return batch | {"input_ids": put(ids, places, tokens)}, put(jnp.zeros(ids.shape, bool), places, tokens != batch["mlm_targets"])


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """float32 logits [..., v], integer targets [...] -> float32 [...], in nats."""
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


Objective = MaskedLm | ReplacedTokenDetection


def objective_of(spec: AnySpec, pairs: str | None, mask_id: int | None) -> Objective:
    """What a model of this spec is trained for. ValueError if it lacks what that takes."""
    if isinstance(spec, DetectionSpec):
        if spec.generator is None:
            raise ValueError("a model of this family has no generator to train it with: pretrain the family electra, or fine-tune this one")
        return ReplacedTokenDetection(spec.loss_weight, mask_id)
    return MaskedLm(pairs, mask_id)


def total_loss(losses: dict[str, jax.Array], weights: dict[str, jax.Array], scales: dict[str, float]) -> jax.Array:
    """The sum of the mean losses, each times its scale; a loss without terms counts as 0."""
    return sum(scales.get(name, 1.0) * losses[name] / jnp.maximum(weights[name], 1.0) for name in losses)


def ratios(losses: dict, right: dict, weights: dict) -> dict[str, tuple]:
    """Metrics as (numerator, denominator) pairs, to be added up over batches and divided once."""
    metrics = {f"{name}_loss": (losses[name], weights[name]) for name in losses}
    for name, count in right.items():
        metrics |= {name: count} if isinstance(count, tuple) else {f"{name}_accuracy": (count, weights[name])}
    return metrics
