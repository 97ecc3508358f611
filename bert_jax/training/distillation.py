"""A student learns from a teacher (Sanh et al. 2019, arXiv 1910.01108, section 2; transformers' research project `distillation`).

Enters: both models' parameters, of which the teacher's are an argument of the step that nothing trains; leaves: three losses. `student_params` makes the
student's first parameters of some of the teacher's layers.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import traverse_util

from bert_jax.model.depth import layers_of, outside_layers, with_layers
from bert_jax.model.heads import PretrainingModel
from bert_jax.model.spec import AnySpec, Compute, ModelSpec
from bert_jax.training.metrics import model_flops
from bert_jax.training.objectives import MaskedLm
from bert_jax.training.state import Blueprint, Tree

TARGETS = ("real", "masked")


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Soft targets, the student's own masked language modelling, and the direction of the last hidden states; their means, each times its weight, are added.

    soft: the divergence of the student's distribution over the vocabulary from the teacher's, both at `temperature`, times its square (Hinton et al. 2015, section
    2). It is taken at every real token (targets "real", as the published script does unless told otherwise) or at the predicted ones ("masked").
    cosine: 1 - cosine of the angle between the two encoders' outputs, at every real token. A loss of weight 0 is not computed.

    The teacher reads the same masked batch, without dropout and without gradient. Logits exist for as many positions at a time as there are prediction slots.
    """

    own: MaskedLm
    student: ModelSpec
    teacher: Blueprint
    temperature: float
    soft_weight: float
    mlm_weight: float
    cosine_weight: float
    targets: str

    def __post_init__(self):
        for name, spec in (("student", self.student), ("teacher", self.teacher.spec)):
            if not isinstance(spec, ModelSpec):
                raise ValueError(f"the {name} is no masked language model, and only these can be distilled")
        if self.temperature <= 0:
            raise ValueError(f"distillation.temperature is {self.temperature}; it must be above 0 (DistilBERT: 2)")
        if self.targets not in TARGETS:
            raise ValueError(f"distillation.targets is {self.targets!r}; known: {', '.join(TARGETS)}")
        if min(self.soft_weight, self.mlm_weight, self.cosine_weight) < 0 or self.soft_weight + self.cosine_weight == 0:
            raise ValueError("distillation: weights are 0 or more, and one of soft_weight and cosine_weight is above 0 (DistilBERT: 5, 2, 1)")
        ours, theirs = (spec.encoder.embedding.vocab_size for spec in (self.student, self.teacher.spec))
        if ours != theirs:
            raise ValueError(f"the student has a vocabulary of {ours} entries and the teacher of {theirs}; both must have the same")
        ours, theirs = self.student.encoder.hidden_size, self.teacher.spec.encoder.hidden_size
        if ours != theirs and self.cosine_weight:
            raise ValueError(f"the student's hidden size is {ours}, the teacher's {theirs}, and distillation.cosine_weight compares them; set it to 0")

    @property
    def pairs(self) -> str | None:
        return self.own.pairs

    @property
    def scales(self) -> dict[str, float]:
        return {"soft": self.soft_weight, "mlm": self.mlm_weight, "cosine": self.cosine_weight}

    def weights(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        real = (batch["segment_ids"] > 0).sum().astype(jnp.float32)
        soft = real if self.targets == "real" else batch["mlm_weights"].sum()
        return self.own.weights(batch) | ({"soft": soft} if self.soft_weight else {}) | ({"cosine": real} if self.cosine_weight else {})

    def extra_flops(self, length: int, predictions: int) -> float:
        """Of one sequence, beside the student's own forward and backward pass: the teacher's forward pass, and both heads where soft targets are."""
        compared = 0 if not self.soft_weight else length if self.targets == "real" else predictions
        own = 6 * compared * self.student.prediction_weights if self.targets == "real" else 0
        return model_flops(self.teacher.spec, length, compared) / 3 + own

    def sums(
        self, model: PretrainingModel, batch: dict[str, jax.Array], teacher: Tree, *, key: jax.Array | None, compute: Compute
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """As MaskedLm's. teacher: its parameters."""
        taught_by = self.teacher.model(teacher)
        taught = taught_by.encoder(batch, key=None, compute=compute, decoder=taught_by.mask_decoder)
        hidden = model.encoder(batch, key=key, compute=compute, decoder=model.mask_decoder)
        logits = {"mlm": model.mlm_logits(hidden, batch["mlm_positions"])} | ({"nsp": model.nsp_logits(hidden)} if model.nsp else {})
        losses, right = self.own.sums_of(logits, batch)
        if self.soft_weight:

            def add(total, chosen):
                positions, counted = chosen
                apart = divergence(taught_by.mlm_logits(taught, positions), model.mlm_logits(hidden, positions), self.temperature)
                return total + (apart * counted).sum(), None

            losses["soft"], _ = jax.lax.scan(jax.checkpoint(add), jnp.float32(0), self._chosen(batch))
        if self.cosine_weight:
            losses["cosine"] = ((1.0 - cosine(hidden, taught)) * (batch["segment_ids"] > 0)).sum()
        return losses, right

    def _chosen(self, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(int32 positions, which of them count), [parts, b, p] each, where logits are compared."""
        if self.targets == "masked":
            return batch["mlm_positions"][None], batch["mlm_weights"][None]
        (rows, length), slots = batch["segment_ids"].shape, batch["mlm_positions"].shape[1]
        parts = -(-length // slots)
        positions = jnp.arange(parts * slots).reshape(parts, 1, slots)
        real = jnp.pad(batch["segment_ids"] > 0, ((0, 0), (0, parts * slots - length))).reshape(rows, parts, slots).swapaxes(0, 1)
        return jnp.broadcast_to(jnp.minimum(positions, length - 1), real.shape), real


def divergence(wanted: jax.Array, given: jax.Array, temperature: float) -> jax.Array:
    """Kullback-Leibler divergence of softmax(given / T) from softmax(wanted / T), times T^2: float32 logits [..., v] -> float32 [...], in nats."""
    wanted, given = (jax.nn.log_softmax(logits / temperature) for logits in (wanted, given))
    return temperature**2 * (jnp.exp(wanted) * (wanted - given)).sum(-1)


def cosine(one: jax.Array, other: jax.Array) -> jax.Array:
    """[..., d] each -> float32 [...]; the small number is torch's CosineEmbeddingLoss's."""
    one, other = one.astype(jnp.float32), other.astype(jnp.float32)
    squares = [jnp.square(each).sum(-1) + 1e-12 for each in (one, other)]
    return (one * other).sum(-1) * jax.lax.rsqrt(squares[0] * squares[1])


def student_params(fresh: Tree, spec: AnySpec, teacher: Tree, teacher_spec: AnySpec, layers: tuple[int, ...]) -> Tree:
    """The student's `fresh` parameters with the teacher's in their place: of its layers those with the numbers `layers`, in this order, and embeddings and heads where
    both have them. (Published for DistilBERT: layers 0, 2, 4, 7, 9, 11.) ValueError if layers or shapes do not fit."""
    depth, height = spec.encoder.num_layers, teacher_spec.encoder.num_layers
    if len(layers) != depth or not all(0 <= layer < height for layer in layers):
        raise ValueError(f"distillation.layers is {list(layers)}; give one number below {height}, a layer of the teacher, for each of the student's {depth} layers")
    own, given = outside_layers(fresh, spec), outside_layers(teacher, teacher_spec)
    shared = {name: leaf for name, leaf in given.items() if name in own}
    taken = [layers_of(teacher, teacher_spec)[layer] for layer in layers]
    for theirs, ours in ((shared, own), *zip(taken, layers_of(fresh, spec))):
        for name, leaf in theirs.items():
            if name in ours and ours[name].shape != leaf.shape:
                raise ValueError(
                    f"the student's {name} has shape {list(ours[name].shape)}, the teacher's {list(leaf.shape)}; give both the same sizes, or set "
                    "distillation.layers to nothing for a student of fresh weights"
                )
    flat = traverse_util.flatten_dict(fresh, sep=".") | shared
    return with_layers(traverse_util.unflatten_dict(flat, sep="."), spec, taken)
