"""A pretrained model's encoder with a head for a downstream task: what stands before the classifier is the family's, as its authors fine-tuned it."""

from bert_jax.model.families import build_spec
from bert_jax.model.spec import PoolerSpec, TaskSpec

BERT_POOLER = PoolerSpec("tanh")  # Devlin et al. 2018, section 4; trained before with next-sentence prediction
ROBERTA_POOLER = PoolerSpec("tanh", drop_first=True)  # fairseq's RobertaClassificationHead
POOLERS: dict[str, PoolerSpec] = {
    "roberta": ROBERTA_POOLER,
    "xlm_roberta": ROBERTA_POOLER,
    "xlm_roberta_xl": ROBERTA_POOLER,
    "longformer": ROBERTA_POOLER,
    "distilbert": PoolerSpec("relu"),
    "electra": PoolerSpec("gelu", drop_first=True),
    "electra_generator": PoolerSpec("gelu", drop_first=True),
    "electra_discriminator": PoolerSpec("gelu", drop_first=True),
    "big_bird": PoolerSpec("gelu_tanh", drop_first=True),
    "modernbert": PoolerSpec("gelu", bias=False, norm=True, every_token=True, source="mlm_head.transform"),
    "deberta": PoolerSpec("gelu"),
    "deberta_v2": PoolerSpec("gelu"),
    "deberta_v3": PoolerSpec("gelu"),
}


def task_spec(model: dict, *, kind: str, outputs: int, pooling: str = "cls", dropout: float = 0.1) -> TaskSpec:
    """The spec for a config's `model` section and a task. Families without an entry in POOLERS have BERT's pooler."""
    return TaskSpec(build_spec(model).encoder, kind, outputs, pooling, POOLERS.get(model["family"], BERT_POOLER), dropout)
