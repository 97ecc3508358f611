"""What benchmarks/comparison.py trains and sets side by side: arms, the sizes of their models and budgets, and the tables. Plain data.

An arm is one way to pretrain. It is trained once per seed and may stand in several tables.
"""

import dataclasses

LENGTH = 64
VOCABULARY = 8_192
EVALUATION_RATE = 0.15  # whatever an arm was trained with
EVALUATION_ROWS = 2_048
FEW_EVERY = 200  # the text "few" is every 200th document of the training text


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every arm of a size gets.

    config: a module of configs/, for its model. initializer_range: in place of the config's; wide, as in configs/quickstart.py,
    where the model is small and the rate high. tokens: real ones (no padding) per update.
    """

    config: str
    initializer_range: float
    steps: int
    peak: float
    tokens: int

    @property
    def warmup_steps(self) -> int:
        return self.steps // 10


BUDGETS = {
    "mini": Budget("bert_mini", initializer_range=0.02, steps=1_500, peak=5e-4, tokens=500),
    "tiny": Budget("bert_tiny", initializer_range=0.06, steps=900, peak=2e-3, tokens=500),
    "bare": Budget("quickstart", initializer_range=0.06, steps=900, peak=2e-3, tokens=500),  # BERT-tiny's size, without dropout
}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to pretrain: BERT, with next-sentence prediction if `sequences` are segment pairs.

    text: "train", or "few", a small part of it that the run passes over many times. mask_draws: 0 draws masks anew in every epoch; n
    repeats the batches of the first n epochs, as a recording of them does.
    """

    name: str
    label: str
    size: str
    framework: str = "bert_jax"
    sequences: str = "full_sentences"
    rate: float = 0.15
    text: str = "train"
    mask_draws: int = 0

    @property
    def nsp(self) -> bool:
        return self.sequences == "segment_pairs"


ARMS = {
    arm.name: arm
    for arm in (
        Arm("mini_bert_jax", "bert_jax", "mini", sequences="segment_pairs"),
        Arm("mini_transformers", "transformers + torch", "mini", framework="transformers", sequences="segment_pairs"),
        Arm("tiny_bert_jax", "bert_jax", "tiny", sequences="segment_pairs"),
        Arm("tiny_transformers", "transformers + torch", "tiny", framework="transformers", sequences="segment_pairs"),
        Arm("tiny", "full sentences, 15 % masked", "bare"),
        Arm("tiny_pairs", "segment pairs with NSP", "bare", sequences="segment_pairs"),
        Arm("tiny_30", "30 % masked", "bare", rate=0.3),
        Arm("tiny_few", "dynamic: new masks in every epoch", "bare", text="few"),
        Arm("tiny_few_static", "static: the masks of the first two epochs, repeated", "bare", text="few", mask_draws=2),
    )
}
GROUPS = (
    ("mini_bert_jax", "mini_transformers"), ("tiny_bert_jax", "tiny_transformers"),
    ("tiny",), ("tiny_pairs",), ("tiny_30",), ("tiny_few",), ("tiny_few_static",),
)  # fmt: skip
"""In this order; arms of a group are trained together, in turns, on the same batches."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Arms side by side. views: which rows of the held-out text they are measured on. timed: a table of step times as well."""

    title: str
    arms: tuple[str, ...]
    views: tuple[str, ...]
    timed: bool = False


TABLES = {
    "mini": Table("BERT-mini: bert_jax, transformers + torch", ("mini_bert_jax", "mini_transformers"), ("segment_pairs",), timed=True),
    "tiny": Table("BERT-tiny: bert_jax, transformers + torch", ("tiny_bert_jax", "tiny_transformers"), ("segment_pairs",), timed=True),
    "sequences": Table("Full sentences and segment pairs", ("tiny", "tiny_pairs"), ("full_sentences", "segment_pairs")),
    "rate": Table("15 % and 30 % masked", ("tiny", "tiny_30"), ("full_sentences",)),
    "masks": Table("Dynamic and static masks", ("tiny_few", "tiny_few_static"), ("full_sentences",)),
}
VIEWS = {"full_sentences": "full sentences", "segment_pairs": "segment pairs"}
