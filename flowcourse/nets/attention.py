r"""The network of Flow++: gated convolutions and self-attention, for maps of features.

A block adds two gated parts to its input and normalizes after each: a convolution, which looks at
neighbours, and multi-head self-attention, in which every place looks at all places. So one block
sees the whole image, where convolutions would need as many layers as the image is wide.

Source: Ho, Chen, Srinivas, Duan & Abbeel (2019), section 3.3, and the program released with it.
"""

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from flowcourse.nets.streams import concat_elu

__all__ = ["AttentionNet", "ConvEncoder", "GatedAttention", "GatedConv", "GatedMLP"]

Map = Float[Tensor, "batch channels h w"]


def gate(h: Float[Tensor, "batch two_channels h w"]) -> Map:
    """The first half of the channels, each times a number in (0, 1) that the second half gives."""
    value, gate = h.chunk(2, dim=1)
    return value * gate.sigmoid()


class ChannelNorm(nn.Module):
    """Layer normalization of the channels of each place by itself, with learned gain and bias.

    Source: Ba, Kiros & Hinton (2016), eq. 4.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Map) -> Map:
        """Mean 0 and variance 1 over the channels, then gain and bias."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class GatedConv(nn.Module):
    """The input plus a gated residual: a 3x3 convolution, then one that gives values and gates.

    Args:
        channels: in and out.
        context: channels of a second input, 0 for none.
        kernel: of the second convolution.
        dropout: probability of dropping a number between the convolutions.

    Source: the gated residual block of Salimans et al. (2017), as the released program has it.
    """

    def __init__(self, channels: int, context: int = 0, kernel: int = 1, dropout: float = 0.0):
        super().__init__()
        self.first = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.context = nn.Conv2d(2 * context, channels, 1) if context else None
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Conv2d(2 * channels, 2 * channels, kernel, padding=kernel // 2)

    def forward(self, x: Map, context: Float[Tensor, "batch c h w"] | None = None) -> Map:
        """Apply the block; `context` has the height and width of `x`."""
        h = self.first(concat_elu(x))
        if self.context is not None and context is not None:
            h = h + self.context(concat_elu(context))
        return x + gate(self.second(self.dropout(concat_elu(h))))


class GatedAttention(nn.Module):
    r"""The input plus gated multi-head self-attention over all places of the map.

    Of each place, queries $q$, keys $k$ and values $v$ are linear functions, and a head answers

    $$\sum_j \mathrm{softmax}_j\!\left(q_i \cdot k_j / \sqrt{d}\right) v_j$$

    Args:
        channels: in and out; a multiple of `heads`.
        heads: number of heads; each has `channels / heads` numbers.
        dropout: probability of dropping one of the answers.

    Source: Vaswani et al. (2017), eq. 1; Ho et al. (2019), section 3.3.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels={channels} cannot be divided among heads={heads}.")
        self.heads = heads
        self.project = nn.Conv2d(channels, 3 * channels, 1)
        self.dropout = nn.Dropout(dropout)
        self.answer = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, x: Map, position: Float[Tensor, "channels h w"]) -> Map:
        """Apply the block; `position` tells the places apart."""
        h = self.project(x + position)
        q, k, v = rearrange(h, "b (three n d) h w -> three b n (h w) d", three=3, n=self.heads)
        found = F.scaled_dot_product_attention(q, k, v)
        found = rearrange(found, "b n (h w) d -> b (n d) h w", h=x.shape[2])
        return x + gate(self.answer(self.dropout(found)))


class GatedMLP(nn.Module):
    """What stands in for `GatedAttention` without attention: each place sees itself only.

    As many parameters; the largest of three linear functions takes the place of the answer.

    Source: the ablation of the released program.
    """

    def __init__(self, channels: int, dropout: float = 0.0):
        super().__init__()
        self.project = nn.Conv2d(channels, 3 * channels, 1)
        self.dropout = nn.Dropout(dropout)
        self.answer = nn.Conv2d(channels, 2 * channels, 1)

    def forward(self, x: Map, position: Float[Tensor, "channels h w"]) -> Map:
        """Apply the block; `position` tells the places apart."""
        h = self.project(x + position).unflatten(1, (3, -1)).amax(dim=1)
        return x + gate(self.answer(self.dropout(h)))


class Block(nn.Module):
    """A gated convolution and gated attention, each followed by layer normalization."""

    def __init__(self, channels: int, context: int, heads: int, attention: bool, dropout: float):
        super().__init__()
        self.conv = GatedConv(channels, context, dropout=dropout)
        self.norm = ChannelNorm(channels)
        self.mix = (
            GatedAttention(channels, heads, dropout) if attention else GatedMLP(channels, dropout)
        )
        self.norm_mixed = ChannelNorm(channels)

    def forward(self, x: Map, position: Tensor, context: Tensor | None) -> Map:
        x = self.norm(self.conv(x, context))
        return self.norm_mixed(self.mix(x, position))


class AttentionNet(nn.Module):
    """The conditioner of Flow++: same height and width out as in.

    Args:
        inputs: channels in.
        outputs: channels out.
        size: height and width of the maps, for which it learns one vector of each place.
        filters: channels inside.
        blocks: number of blocks.
        heads: of the attention.
        context: channels of a second input, 0 for none.
        classes: number of classes, 0 for none; the second input is then the label of each example.
        attention: False puts a `GatedMLP` in the place of attention.
        dropout: probability of dropping a number inside each residual, in training.

    Source: Ho et al. (2019), section 3.3, and the released program.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: tuple[int, int],
        *,
        filters: int,
        blocks: int,
        heads: int = 4,
        context: int = 0,
        classes: int = 0,
        attention: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.position = nn.Parameter(0.01 * torch.randn(filters, *size))
        self.head = nn.Conv2d(inputs, filters, 3, padding=1)
        self.classes = nn.Embedding(classes, filters) if classes else None
        self.blocks = nn.ModuleList(
            Block(filters, context, heads, attention, dropout) for _ in range(blocks)
        )
        self.tail = nn.Conv2d(filters, outputs, 3, padding=1)
        # Small, and not zero: equal components of a mixture would get equal gradients for ever.
        with torch.no_grad():
            self.tail.weight.mul_(0.1)
        nn.init.zeros_(cast(Tensor, self.tail.bias))

    def forward(
        self,
        x: Float[Tensor, "batch inputs h w"],
        context: Float[Tensor, "batch c h w"] | Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch outputs h w"]:
        """Apply the network."""
        # The channels of a place side by side: normalization and attention read them so.
        h = self.head(x.contiguous(memory_format=torch.channels_last)) + self.position
        if self.classes is not None:
            h, context = h + self.classes(context)[:, :, None, None], None
        for block in self.blocks:
            h = block(h, self.position, context)
        return self.tail(h)


class ConvEncoder(nn.Module):
    """Features of an image for others to be conditioned on: a few gated convolutions.

    Args:
        inputs: channels in.
        filters: channels out.
        blocks: number of gated blocks.
        dropout: see `GatedConv`.

    Source: the dequantizer of the released program.
    """

    def __init__(self, inputs: int, filters: int = 32, blocks: int = 3, dropout: float = 0.0):
        super().__init__()
        self.head = nn.Conv2d(inputs, filters, 3, padding=1)
        self.blocks = nn.Sequential(
            *(GatedConv(filters, kernel=3, dropout=dropout) for _ in range(blocks))
        )

    def forward(self, x: Float[Tensor, "batch inputs h w"]) -> Float[Tensor, "batch filters h w"]:
        """Apply the network."""
        return self.blocks(self.head(x))
