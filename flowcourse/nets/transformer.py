"""A causal transformer: every position of a sequence sees itself and the positions before it.

Layers are attention and a pointwise network, each behind a layer normalization and beside a path
that goes straight through. What a position was asked for and answered, its keys and values, never
changes when later positions come: kept, they let a sampler compute one position at a time, at the
cost of one position.

Source: Vaswani et al. (2017), section 3.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["CausalAttention", "CausalTransformer", "Kept"]

Sequence = Float[Tensor, "batch positions width"]
# Keys and values of the positions before, by the layer that made them.
Kept = dict[nn.Module, tuple[Tensor, Tensor]]


class CausalAttention(nn.Module):
    r"""Multi-head attention of each position to itself and those before it.

    Of each position, queries $q$, keys $k$ and values $v$ are linear functions of the normalized
    input, and a head answers

    $$\sum_{j \le i} \mathrm{softmax}_j\!\left(q_i \cdot k_j / \sqrt{d}\right) v_j$$

    Args:
        width: numbers at each position, in and out; a multiple of `heads`.
        heads: number of heads; each has `width / heads` numbers.

    Source: Vaswani et al. (2017), eq. 1.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} cannot be divided among heads={heads}.")
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.answer = nn.Linear(width, width)

    def forward(self, h: Sequence, kept: Kept | None = None) -> Sequence:
        """Apply the layer to a whole sequence, or to the one position after those in `kept`."""
        projected = self.project(self.norm(h))
        q, k, v = rearrange(projected, "b s (three n d) -> three b n s d", three=3, n=self.heads)
        if kept is not None:
            if self in kept:
                k, v = (torch.cat(pair, dim=2) for pair in zip(kept[self], (k, v), strict=True))
            kept[self] = k, v
        found = F.scaled_dot_product_attention(q, k, v, is_causal=kept is None)
        return self.answer(rearrange(found, "b n s d -> b s (n d)"))


class CausalTransformer(nn.Module):
    """Layers of causal attention, each followed by a network for each position by itself.

    Args:
        width: numbers at each position, in and out.
        layers: of attention.
        heads: of each attention.
        expansion: hidden units of the pointwise networks, for each number of the width.
        dropout: probability of dropping a number that is added to the straight path.

    Source: Vaswani et al. (2017), section 3; with normalization first, as in Zhai et al. (2025).
    """

    def __init__(
        self, width: int, layers: int, heads: int, *, expansion: int = 4, dropout: float = 0.0
    ):
        super().__init__()
        self.attend = nn.ModuleList(CausalAttention(width, heads) for _ in range(layers))
        self.think = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, expansion * width),
                nn.GELU(),
                nn.Linear(expansion * width, width),
            )
            for _ in range(layers)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Sequence, kept: Kept | None = None) -> Sequence:
        """Apply all layers.

        Args:
            h: a whole sequence; or, with `kept`, the one position that comes next.
            kept: keys and values of the positions before, to which those of `h` are added; begin
                with an empty dict. None for a whole sequence.

        Raises:
            ValueError: several positions at once together with `kept`.
        """
        if kept is not None and h.shape[1] != 1:
            raise ValueError(
                f"With kept keys and values, positions come one by one, and here are {h.shape[1]}: "
                "pass h[:, i : i + 1], or kept=None for the whole sequence."
            )
        for attend, think in zip(self.attend, self.think, strict=True):
            h = h + self.dropout(attend(h, kept))
            h = h + self.dropout(think(h))
        return h
