"""A pretrained model's encoder with a head for a downstream task: what stands before the classifier is the family's, as its authors fine-tuned it."""

import dataclasses

from bert_jax.model.families import build_spec
from bert_jax.model.long_spec import GlobalTokensSpec
from bert_jax.model.spec import TOKEN_KINDS, EncoderSpec, PoolerSpec, TaskSpec

BERT_POOLER = PoolerSpec("tanh")  # Devlin et al. 2018, section 4; trained before with next-sentence prediction
ROBERTA_POOLER = PoolerSpec("tanh", drop_first=True, source=None)  # fairseq's RobertaClassificationHead
ELECTRA_POOLER = PoolerSpec("gelu", drop_first=True, source=None)
DEBERTA_POOLER = PoolerSpec("gelu", source=None)
POOLERS: dict[str, PoolerSpec] = {
    "roberta": ROBERTA_POOLER,
    "xlm_roberta": ROBERTA_POOLER,
    "xlm_roberta_xl": ROBERTA_POOLER,
    "longformer": ROBERTA_POOLER,
    "distilbert": PoolerSpec("relu", source=None),
    "electra": ELECTRA_POOLER,
    "electra_generator": ELECTRA_POOLER,
    "electra_discriminator": ELECTRA_POOLER,
    "big_bird": PoolerSpec(None, drop_first=True, source=None),
    "modernbert": PoolerSpec("gelu", bias=False, norm=True, every_token=True, source="mlm_head.transform"),
    "deberta": DEBERTA_POOLER,
    "deberta_v2": DEBERTA_POOLER,
    "deberta_v3": DEBERTA_POOLER,
    "deberta_v3_discriminator": DEBERTA_POOLER,
}
CHOICE_POOLERS: dict[str, PoolerSpec] = {  # where transformers' class for multiple choice has another than that for classification
    **dict.fromkeys(("roberta", "xlm_roberta", "xlm_roberta_xl", "longformer", "big_bird"), BERT_POOLER),
    **dict.fromkeys(("electra", "electra_generator", "electra_discriminator"), dataclasses.replace(ELECTRA_POOLER, drop_first=False)),
}


def task_spec(model: dict, *, kind: str, outputs: int, pooling: str = "cls", dropout: float = 0.1) -> TaskSpec:
    """The spec for a config's `model` section and a task. Families without an entry in POOLERS have BERT's pooler."""
    poolers = POOLERS | CHOICE_POOLERS if kind == "choice" else POOLERS
    return TaskSpec(task_encoder(build_spec(model).encoder, kind), kind, outputs, pooling, poolers.get(model["family"], BERT_POOLER), dropout)


def task_encoder(encoder: EncoderSpec, kind: str) -> EncoderSpec:
    """The encoder with what a task asks of it: where some tokens can be global, the one that a classifier reads is (Beltagy et al. 2020, section 5)."""
    attention = encoder.attention
    if not isinstance(attention, GlobalTokensSpec) or kind in (*TOKEN_KINDS, "embedding") or attention.global_tokens:
        return encoder
    return dataclasses.replace(encoder, attention=dataclasses.replace(attention, global_tokens=1))
