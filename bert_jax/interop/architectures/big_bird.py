"""BigBird (Zaheer et al. 2020, arXiv 2007.14062) as transformers has it: BERT but for its pooler's name.

In training, both choose the same random blocks, as the published code always does. Evaluating, transformers puts the first block in place of every random one
(`_bigbird_block_rand_mask_with_head`), so that it sees less of long inputs than the model was trained with, and after one short input it sees all of every
later one. `as_trained` undoes both.
"""

import dataclasses

from bert_jax.interop.architectures import bert
from bert_jax.interop.architectures.architecture import CLASSIFIER, Architecture, TaskClass, check_sizes, check_values, linear, task_classes
from bert_jax.model.spec import ModelSpec

NAMES = dataclasses.replace(
    bert.BERT_NAMES, rows=tuple((ours, theirs.replace("pooler.dense", "pooler"), kind) for ours, theirs, kind in bert.BERT_NAMES.rows)
)
REQUIRED_VALUES = {"attention_type": (None, "block_sparse"), "use_bias": (None, True), "rescale_embeddings": (None, False)}
SIZES = {"block_size": ("block_size", 64), "random_blocks": ("num_random_blocks", 3)}


def to_section(config: dict, nsp: bool, source: str) -> dict:
    check_values(config, REQUIRED_VALUES, source)
    sizes = {field: config.get(field, default) for field, default in SIZES.values()}
    check_sizes(sizes, sizes, source)
    return bert.to_section({"hidden_act": "gelu_new"} | config, nsp, source, family="bert") | {ours: sizes[field] for ours, (field, _) in SIZES.items()}


def to_config(spec: ModelSpec, *, pad: int, cls: int, sep: int) -> dict:
    attention = spec.encoder.attention
    return bert.to_config(spec, pad=pad, cls=cls, sep=sep, names_ends=True) | {
        "sep_token_id": sep,
        "attention_type": "block_sparse",
        "block_size": attention.block_size,
        "num_random_blocks": attention.random_blocks,
        "use_bias": True,
        "rescale_embeddings": False,
    }


def as_trained(model) -> None:
    """Before each input: blocks are sparse again, and the random ones chosen as in training. Dropout, which lies in other modules, stays off."""
    model.base_model.set_attention_type("block_sparse")
    for layer in model.base_model.encoder.layer:
        layer.attention.self.train()


POOLER = {"bert.pooler.weight": 2, "bert.pooler.bias": 1}
TASKS = task_classes(
    TaskClass(bert.ROBERTA_CLASSIFIER, idle=POOLER),
    TaskClass((*linear("pooler", "bert.pooler"), *CLASSIFIER)),
    TokenClassification=TaskClass(CLASSIFIER, idle=POOLER),
)

BIG_BIRD = Architecture(
    "BigBird", "big_bird", "BigBird", NAMES, to_config, to_section, optional_pooler=False, as_trained=as_trained,
    tasks={name: task for name, task in TASKS.items() if name != "QuestionAnswering"},
    without={"QuestionAnswering": "transformers' BigBirdForQuestionAnswering has another head, with a layer of the encoder's width before its scores"},
)  # fmt: skip
