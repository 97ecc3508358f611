"""What a model is, as frozen dataclasses that are validated where they are made.

A spec holds numbers and names only; `families` makes specs from published sizes, `encoder.py` and `heads.py` build modules from them.
"""

import dataclasses

from bert_jax.model.adapter_spec import AdapterSpec

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")  # gelu is the exact erf form, gelu_tanh the approximation (Hugging Face: gelu_new)
VOCAB_MULTIPLE = 128  # rows of the embedding table are padded to this, for tiling and sharding; padding never enters the softmax
REMAT = ("none", "elementwise", "dots", "full")
ATTENTION = ("xla", "pallas")
POOLER_ACTIVATIONS = ("tanh", *ACTIVATIONS)
POOLINGS = ("cls", "mean", "max")
TOKEN_KINDS = ("tokens", "span")  # a score for every token
TASK_KINDS = ("classification", "multilabel", "regression", *TOKEN_KINDS, "choice", "ranking", "embedding")


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

    max_positions: tokens in the longest input. type_vocab_size: 0 for no table of token types. position_offset: row of the position table
    that the first token of an input has; RoBERTa's rows begin at the id of the padding token plus one. positions: "learned", "sinusoidal" (a
    fixed table times one learned number; Hua et al. 2022, arXiv 2202.10447) or "none", where attention itself tells positions apart.
    size: width of the tables if it is not the hidden size, to which a projection then leads (Lan et al. 2019, section 3.1). norm: whether the
    sum is normalised. shared: tables and norm are another encoder's, which is given when this one is run; only the projection is its own. added: the
    rows of the token table, at first 0, are added to those of another encoder's, which is given when this one is run and gets no gradient from it
    (He et al. 2021, arXiv 2111.09543, section 3.2).
    """

    vocab_size: int
    max_positions: int
    type_vocab_size: int
    position_offset: int = 0
    positions: str = "learned"
    size: int | None = None
    norm: bool = True
    shared: bool = False
    added: bool = False

    def __post_init__(self):
        _positive(self, "vocab_size", "max_positions")
        _one_of(self, "positions", ("learned", "sinusoidal", "none"))
        for name in ("position_offset", "type_vocab_size"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 0:
                raise ValueError(f"EmbeddingSpec.{name} is {getattr(self, name)!r}; it must be an integer, 0 or more")
        if self.size is not None:
            _positive(self, "size")
        if self.shared and self.added:
            raise ValueError("EmbeddingSpec is both shared and added; tables are another encoder's, or are added to another encoder's")

    @property
    def position_rows(self) -> int:
        return self.max_positions + self.position_offset

    @property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


@dataclasses.dataclass(frozen=True)
class NormSpec:
    """Layer normalisation, or "rms", which divides by the root of the mean square (Zhang & Sennrich 2019)."""

    eps: float
    kind: str = "layer"
    bias: bool = True

    def __post_init__(self):
        _one_of(self, "kind", ("layer", "rms"))
        if self.eps <= 0:
            raise ValueError(f"NormSpec.eps is {self.eps!r}; it must be above 0 (BERT: 1e-12)")


@dataclasses.dataclass(frozen=True)
class RopeSpec:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864), the two halves of a head rotated against one another."""

    base: float

    def __post_init__(self):
        if self.base <= 1:
            raise ValueError(f"RopeSpec.base is {self.base!r}; it must be above 1 (Su et al.: 10000)")


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Self-attention. dropout: on the probabilities. bias: on the four projections. alibi: scores fall with distance, by a slope for each head
    (Press et al. 2022, in its symmetric form). window: keys that a query sees, itself and window / 2 on either side; None: all. key_bias: False leaves
    the keys' projection without one.
    """

    num_heads: int
    head_dim: int
    dropout: float
    bias: bool = True
    rope: RopeSpec | None = None
    alibi: bool = False
    window: int | None = None
    key_bias: bool = True

    def __post_init__(self):
        _positive(self, "num_heads", "head_dim")
        _rate(self, "dropout")
        if self.rope is not None and self.head_dim % 2:
            raise ValueError(f"AttentionSpec.head_dim is {self.head_dim}; rotary positions need an even one")
        if self.window is not None and (not isinstance(self.window, int) or self.window < 2 or self.window % 2):
            raise ValueError(f"AttentionSpec.window is {self.window!r}; it must be an even number of keys, 2 or more, or None")

    def is_plain(self, length: int) -> bool:
        """Whether at this length queries see the keys of one projection that the window lets them, and no others, by contents and ALiBi's bias alone."""
        return True

    def keys_seen(self, length: int) -> float:
        """By a token at this length, on average, but for what the ends of the row cut off a window."""
        return length if self.window is None else min(length, self.window + 1)

    def more_weights(self, hidden_size: int) -> int:
        """Entries of matrices that are applied to every token, besides the four projections'."""
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DisentangledSpec(AttentionSpec):
    """Scores between contents and relative positions, besides those between contents (He et al. 2020, arXiv 2006.03654, section 3.1).

    max_distance: tokens, up to which distances are told apart; farther ones count as that far. buckets: for distances on either side; the nearer half has one
    each, the others share them by their logarithm up to max_distance; None: each distance has its own. shared_projections: positions are projected by the
    kernels of the contents' queries and keys, instead of by two of their own. norm: the table of relative positions is normalised.
    """

    max_distance: int
    buckets: int | None = None
    shared_projections: bool = False
    norm: bool = False

    def __post_init__(self):
        super().__post_init__()
        _positive(self, "max_distance")
        if self.rope is not None or self.alibi or self.window is not None:
            raise ValueError("DisentangledSpec tells positions apart in all of a document by itself; it goes with neither rope nor alibi nor window")
        if self.buckets is not None:
            _positive(self, "buckets")
            if self.buckets < 4 or self.max_distance < self.buckets // 2 + 2:
                raise ValueError(
                    f"DisentangledSpec.buckets is {self.buckets}; it must be 4 or more, and half of it less than max_distance {self.max_distance} by 2 or more"
                )

    @property
    def span(self) -> int:
        """Distances, or buckets of them, that are told apart on either side; the table has twice as many rows."""
        return self.max_distance if self.buckets is None else self.buckets

    def is_plain(self, length: int) -> bool:
        return False

    def keys_seen(self, length: int) -> float:
        """And rows of relative positions."""
        return length + 2 * min(self.span, length)


@dataclasses.dataclass(frozen=True)
class MlpSpec:
    """gated: the activation of one projection times another (Shazeer 2020, arXiv 2002.05202). up_bias, down_bias: of the projections."""

    intermediate_size: int
    activation: str
    gated: bool = False
    up_bias: bool = True
    down_bias: bool = True

    def __post_init__(self):
        _positive(self, "intermediate_size")
        _one_of(self, "activation", ACTIVATIONS)


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """Embeddings and `num_layers` blocks.

    pattern: the attention of successive layers, repeated over the depth; they differ in reach and positions, not in their parameters. Empty: each layer
    has `attention`. pre_norm: norms stand before attention and MLP instead of after the residual sum (Xiong et al. 2020), and one more at
    the end. first_norm: False leaves the attention of a pre-norm's first layer without one, as the embeddings are normalised already.
    layer_groups: layers share the parameters of that many groups (Lan et al. 2019, section 3.1); None: each has its own.
    dropout: after the embeddings, the attention output and the MLP. initializer_range: standard deviation of the truncated normal.
    convolution: taps of a convolution of the embeddings, which is added to the first layer's output (DeBERTa-v2-xlarge); 0: none.
    adapter: what every layer has besides, to be trained instead of it.
    """

    embedding: EmbeddingSpec
    hidden_size: int
    num_layers: int
    attention: AttentionSpec
    mlp: MlpSpec
    norm: NormSpec
    dropout: float
    initializer_range: float
    pattern: tuple[AttentionSpec, ...] = ()
    pre_norm: bool = False
    first_norm: bool = True
    layer_groups: int | None = None
    convolution: int = 0
    adapter: AdapterSpec | None = None

    def __post_init__(self):
        _positive(self, "hidden_size", "num_layers")
        _rate(self, "dropout")
        if self.initializer_range <= 0:
            raise ValueError(f"EncoderSpec.initializer_range is {self.initializer_range!r}; it must be above 0 (BERT: 0.02)")
        if not self.first_norm and not self.pre_norm:
            raise ValueError("EncoderSpec.first_norm is False, but only a pre-norm encoder can do without the first norm")
        if self.layer_groups is not None:
            _positive(self, "layer_groups")
            if self.num_layers % self.layer_groups or len(self.kinds) > 1 or self.first_layers:
                raise ValueError(f"EncoderSpec.layer_groups is {self.layer_groups}; {self.num_layers} layers of one kind must divide into the groups")
        if self.convolution and (self.convolution < 0 or self.convolution % 2 == 0 or self.pre_norm):
            raise ValueError(f"EncoderSpec.convolution is {self.convolution}; it must be an odd number of taps, or 0, and stands in an encoder with norms after its parts")
        for kind in self.kinds:
            same = dataclasses.replace(kind, rope=self.attention.rope, window=self.attention.window, alibi=self.attention.alibi)
            if same != self.attention:
                raise ValueError(f"EncoderSpec.pattern has {kind}, which differs from {self.attention} in more than reach and positions")

    @property
    def kinds(self) -> tuple[AttentionSpec, ...]:
        """The attention of successive layers; layer i has number i modulo their number."""
        return self.pattern or (self.attention,)

    @property
    def first_layers(self) -> int:
        """Layers at the beginning that are held apart, so that those after them are whole repetitions of the pattern with the same parameters."""
        apart = 0 if self.first_norm and not self.convolution else 1
        return apart + (self.num_layers - apart) % len(self.kinds)

    @property
    def token_weights(self) -> int:
        """Entries of the matrices that are applied to every token."""
        return self.num_layers * self.layer_weights + (self.embedding.size or 0) * self.hidden_size + self.convolution * self.hidden_size**2

    @property
    def layer_weights(self) -> int:
        """Entries of one layer's matrices, as far as they are applied to every token."""
        inner = self.attention.num_heads * self.attention.head_dim
        more = self.attention.more_weights(self.hidden_size)
        return 4 * self.hidden_size * inner + (3 if self.mlp.gated else 2) * self.hidden_size * self.mlp.intermediate_size + more

    def attended(self, length: int) -> float:
        """Keys that a token sees at this length (`AttentionSpec.keys_seen`), summed over the layers."""
        return sum(self.kinds[layer % len(self.kinds)].keys_seen(length) for layer in range(self.num_layers))


@dataclasses.dataclass(frozen=True)
class MlmHeadSpec:
    """From hidden states to scores of the vocabulary: a dense layer with activation and norm (`transform`), and the token table transposed.

    bias: of the dense layer. decoder_bias: of the scores.
    """

    activation: str
    transform: bool = True
    bias: bool = True
    decoder_bias: bool = True

    def __post_init__(self):
        _one_of(self, "activation", ACTIVATIONS)


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """An encoder with pretraining heads: masked language modelling always, one for sentence pairs if `nsp`.

    mask_decoder: tokens are predicted from the input of the last layer, which is run twice on it, with queries to which absolute positions are added
    at first (He et al. 2020, arXiv 2006.03654, section 3.2: the enhanced mask decoder). pooler: True for a model that has the layer before the pair head even without that, as transformers' BigBird.
    """

    encoder: EncoderSpec
    mlm_head: MlmHeadSpec
    nsp: bool
    mask_decoder: bool = False
    pooler: bool = False

    def __post_init__(self):
        encoder = self.encoder
        if self.mask_decoder and (self.nsp or encoder.pre_norm or encoder.layer_groups or encoder.pattern or encoder.num_layers == encoder.first_layers):
            raise ValueError("ModelSpec.mask_decoder needs a stack of layers of one kind, each with parameters of its own and norms after its parts, and no sentence-pair head")
        if self.mask_decoder and (not isinstance(encoder.attention, DisentangledSpec) or encoder.embedding.positions != "none"):
            raise ValueError("ModelSpec.mask_decoder needs an encoder with disentangled attention, whose input lacks absolute positions")

    @property
    def encoders(self) -> tuple[EncoderSpec, ...]:
        """All that a training step runs."""
        return (dataclasses.replace(self.encoder, num_layers=self.encoder.num_layers + 1) if self.mask_decoder else self.encoder,)

    @property
    def prediction_weights(self) -> int:
        """Entries of the head's matrices that are applied to each predicted token."""
        embedding = self.encoder.embedding
        return (embedding.size or self.encoder.hidden_size) * ((self.encoder.hidden_size if self.mlm_head.transform else 0) + embedding.vocab_size)

    @property
    def token_weights(self) -> int:
        """Entries of the head's matrices that are applied to every token."""
        return 0


@dataclasses.dataclass(frozen=True)
class DetectionSpec:
    """An encoder that tells for each token whether it was replaced (Clark et al. 2020, section 2), and the generator that replaces tokens.

    activation: of the detection head. generator: its encoder shares the tables of `encoder`, or the tokens of `encoder` are added to its own; None: an
    encoder that is no longer trained so. loss_weight: of the detection loss, beside the generator's own.
    """

    encoder: EncoderSpec
    activation: str
    generator: ModelSpec | None
    loss_weight: float

    def __post_init__(self):
        _one_of(self, "activation", ACTIVATIONS)
        if self.loss_weight <= 0:
            raise ValueError(f"DetectionSpec.loss_weight is {self.loss_weight!r}; it must be above 0 (ELECTRA: 50)")
        if self.generator is None:
            return
        ours, theirs = self.encoder.embedding, self.generator.encoder.embedding
        widths = [tables.size or encoder.hidden_size for tables, encoder in ((ours, self.encoder), (theirs, self.generator.encoder))]
        plain = [dataclasses.replace(tables, shared=False, added=False, size=None) for tables in (ours, theirs)]
        if theirs.shared == ours.added or plain[0] != plain[1] or widths[0] != widths[1]:
            raise ValueError(f"DetectionSpec.generator has the embeddings {theirs}, which cannot be those of {ours}")

    @property
    def nsp(self) -> bool:
        return False

    @property
    def encoders(self) -> tuple[EncoderSpec, ...]:
        return (self.encoder,) if self.generator is None else (self.encoder, *self.generator.encoders)

    @property
    def prediction_weights(self) -> int:
        return 0 if self.generator is None else self.generator.prediction_weights

    @property
    def token_weights(self) -> int:
        return self.encoder.hidden_size * (self.encoder.hidden_size + 1)


@dataclasses.dataclass(frozen=True)
class PoolerSpec:
    """A dense layer with activation, and norm if `norm`, between a sequence's vector and its classifier.

    activation: None for that of the encoder's MLPs. drop_first: dropout before the layer too. every_token: the layer stands before classifiers of tokens as
    well (ModernBERT). source: the pretrained layer that it goes on from, a path of parameters, if the checkpoint has it; with `norm` the norm beside that
    layer too; None: it begins afresh.
    """

    activation: str | None
    bias: bool = True
    norm: bool = False
    drop_first: bool = False
    every_token: bool = False
    source: str | None = "pooler"

    def __post_init__(self):
        if self.activation is not None:
            _one_of(self, "activation", POOLER_ACTIVATIONS)


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """An encoder for a downstream task (Devlin et al. 2018, section 4).

    kind: of TASK_KINDS. outputs: of the classifier: classes, labels or tags; "span" has 2, start and end; "choice", "ranking" and "regression" have 1, and
    "embedding" 1 where training has no classifier. pooling: which vector stands for a sequence, of POOLINGS. pooler: None if the classifier follows that vector at once. dropout: before the classifier.
    """

    encoder: EncoderSpec
    kind: str
    outputs: int
    pooling: str
    pooler: PoolerSpec | None
    dropout: float

    def __post_init__(self):
        _positive(self, "outputs")
        _rate(self, "dropout")
        _one_of(self, "kind", TASK_KINDS)
        _one_of(self, "pooling", POOLINGS)
        fixed = {"span": 2, "choice": 1, "ranking": 1, "regression": 1}.get(self.kind, self.outputs)
        if self.outputs != fixed:
            raise ValueError(f"TaskSpec.outputs is {self.outputs}; a task of kind {self.kind} has {fixed}")

    @property
    def nsp(self) -> bool:
        return False

    @property
    def encoders(self) -> tuple[EncoderSpec, ...]:
        return (self.encoder,)

    @property
    def prediction_weights(self) -> int:
        return 0

    @property
    def token_weights(self) -> int:
        return self.encoder.hidden_size * self.outputs if self.kind in TOKEN_KINDS else 0


AnySpec = ModelSpec | DetectionSpec | TaskSpec


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model is run; changes speed, memory and rounding, never what is computed.

    dtype: of activations and matmuls (parameters, softmax, norm statistics and loss stay float32). remat: what the backward pass
    recomputes: nothing, what is elementwise (activations, dropout), attention too, or everything (`remat.py`). unroll: layers per iteration of the scan. attention: "xla", plain operations, or
    "pallas", the TPU kernel where it takes the shapes (`kernels.fits`). untrained_layers: the lowest, with the embeddings below them, that have no gradient:
    they are run as one that trains nothing runs them.
    """

    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1
    attention: str = "xla"
    untrained_layers: int = 0

    def __post_init__(self):
        _one_of(self, "dtype", ("float32", "bfloat16"))
        _one_of(self, "remat", REMAT)
        _one_of(self, "attention", ATTENTION)
        _positive(self, "unroll")
