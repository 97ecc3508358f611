"""What a model is, as frozen dataclasses that are validated where they are made.

A spec holds numbers and names only; `families.py` makes specs from published sizes, `encoder.py` and `heads.py` build modules from them.
"""

import dataclasses

ACTIVATIONS = ("gelu", "gelu_tanh", "relu")  # gelu is the exact erf form, gelu_tanh the approximation (Hugging Face: gelu_new)
VOCAB_MULTIPLE = 128  # rows of the embedding table are padded to this, for tiling and sharding; padding never enters the softmax
REMAT = ("none", "dots", "full")


def _positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{type(owner).__name__}.{name} is {value!r}; it must be a positive integer")


def _rate(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{type(owner).__name__}.{name} is {value!r}; it must be at least 0 and below 1")


def _one_of(owner: object, name: str, known: tuple[str, ...]) -> None:
    if getattr(owner, name) not in known:
        raise ValueError(f"{type(owner).__name__}.{name} is {getattr(owner, name)!r}; known: {', '.join(known)}")


@dataclasses.dataclass(frozen=True)
class EmbeddingSpec:
    """Token, position and token-type tables, summed (Devlin et al. 2018, section 3).

    max_positions: tokens in the longest input. position_offset: row of the position table that the first token of an input has; RoBERTa's
    rows begin at the id of the padding token plus one.
    """

    vocab_size: int
    max_positions: int
    type_vocab_size: int
    position_offset: int = 0

    def __post_init__(self):
        _positive(self, "vocab_size", "max_positions", "type_vocab_size")
        if not isinstance(self.position_offset, int) or self.position_offset < 0:
            raise ValueError(f"EmbeddingSpec.position_offset is {self.position_offset!r}; it must be an integer, 0 or more")

    @property
    def position_rows(self) -> int:
        return self.max_positions + self.position_offset

    @property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    num_heads: int
    head_dim: int
    dropout: float  # on the attention probabilities

    def __post_init__(self):
        _positive(self, "num_heads", "head_dim")
        _rate(self, "dropout")


@dataclasses.dataclass(frozen=True)
class MlpSpec:
    intermediate_size: int
    activation: str

    def __post_init__(self):
        _positive(self, "intermediate_size")
        _one_of(self, "activation", ACTIVATIONS)


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    embedding: EmbeddingSpec
    hidden_size: int
    num_layers: int
    attention: AttentionSpec
    mlp: MlpSpec
    norm_eps: float
    dropout: float  # after the embeddings, the attention output and the MLP
    initializer_range: float  # standard deviation of the truncated normal

    def __post_init__(self):
        _positive(self, "hidden_size", "num_layers")
        _rate(self, "dropout")
        if self.norm_eps <= 0:
            raise ValueError(f"EncoderSpec.norm_eps is {self.norm_eps!r}; it must be above 0 (BERT: 1e-12)")
        if self.initializer_range <= 0:
            raise ValueError(f"EncoderSpec.initializer_range is {self.initializer_range!r}; it must be above 0 (BERT: 0.02)")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """An encoder with pretraining heads: masked language modelling always, next-sentence prediction if `nsp`."""

    encoder: EncoderSpec
    nsp: bool


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model is run; changes speed, memory and rounding, never what is computed.

    dtype: of activations and matmuls (parameters, softmax, norm statistics and loss stay float32). remat: what the backward pass
    recomputes: nothing, all but the matmuls, or everything. unroll: layers per iteration of the scan.
    """

    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1

    def __post_init__(self):
        _one_of(self, "dtype", ("float32", "bfloat16"))
        _one_of(self, "remat", REMAT)
        _positive(self, "unroll")
