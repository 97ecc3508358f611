"""The attention of encoders for long inputs: of a window with global tokens (Longformer), and of blocks, some of them random (BigBird)."""

import dataclasses

from bert_jax.model.spec import AttentionSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlobalTokensSpec(AttentionSpec):
    """A window, and tokens that see and are seen by their whole document (Beltagy et al. 2020, arXiv 2004.05150, section 3.1), with projections of their own.

    global_tokens: the most of a row. Which they are, the batch says (`global_tokens`), or else the first token of each document is one; 0: there are none.
    """

    global_tokens: int

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.global_tokens, int) or self.global_tokens < 0:
            raise ValueError(f"GlobalTokensSpec.global_tokens is {self.global_tokens!r}; it must be an integer, 0 or more")
        if self.window is None or self.alibi or self.rope is not None:
            raise ValueError("GlobalTokensSpec needs a window, and its scores do not depend on positions: set window, and neither alibi nor rope")

    def is_plain(self, length: int) -> bool:
        return not self.global_tokens

    def keys_seen(self, length: int) -> float:
        """With what the global tokens see, over all tokens."""
        return min(length, super().keys_seen(length) + self.global_tokens) + self.global_tokens

    def more_weights(self, hidden_size: int) -> int:
        """Keys and values for the global tokens are projected from every token."""
        return 2 * hidden_size * self.num_heads * self.head_dim if self.global_tokens else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockSparseSpec(AttentionSpec):
    """Blocks of `block_size` queries that see the blocks beside them, the first, the last and `random_blocks` others, which differ between layers and heads; the
    first and the last see all (Zaheer et al. 2020, arXiv 2007.14062, appendix D). Short inputs see everything.

    longest: of the model's inputs, which the published choice of random blocks depends on.
    """

    block_size: int
    random_blocks: int
    longest: int

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.block_size, int) or self.block_size < 1:
            raise ValueError(f"BlockSparseSpec.block_size is {self.block_size!r}; it must be a positive integer (BigBird: 64)")
        if not isinstance(self.random_blocks, int) or self.random_blocks < 0:
            raise ValueError(f"BlockSparseSpec.random_blocks is {self.random_blocks!r}; it must be an integer, 0 or more (BigBird: 3)")
        if self.window is not None or self.alibi or self.rope is not None:
            raise ValueError("BlockSparseSpec takes neither window nor alibi nor rope: its blocks are its window")

    def is_plain(self, length: int) -> bool:
        """Whether an input is too short to leave blocks out, with room for the choice of random ones."""
        return length <= (5 + 2 * self.random_blocks) * self.block_size

    def keys_seen(self, length: int) -> float:
        if self.is_plain(length):
            return length
        blocks = -(-length // self.block_size)
        inner = (blocks - 2) * (5 + self.random_blocks) - 2  # the second block has the first beside it, the last but one the last
        return (inner * self.block_size + 2 * length) / blocks
