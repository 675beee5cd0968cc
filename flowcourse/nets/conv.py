"""A residual convolutional network."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from flowcourse.nets.mlp import zero_init

__all__ = ["ResidualConvNet"]


class ResidualBlock(nn.Module):
    """ReLU, 3x3 convolution, ReLU, dropout, 3x3 convolution, plus the input."""

    def __init__(self, channels: int, dropout: float, conv):
        super().__init__()
        self.first = conv(channels, channels)
        self.second = conv(channels, channels)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        h = self.first(F.relu(x))
        return x + self.second(self.dropout(F.relu(h)))


class ResidualConvNet(nn.Module):
    """The conditioner of an image coupling: same height and width out as in.

    Args:
        inputs: channels in.
        hidden: channels of every residual block.
        outputs: channels out; the last convolution starts at zero.
        blocks: number of residual blocks.
        dropout: probability of dropping a whole feature map in training.
        normalize_weights: weight normalization of the hidden convolutions, as in RealNVP.

    Source: Dinh et al. (2017), section 3.3 (residual networks with weight normalization).
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        blocks: int,
        dropout: float = 0.0,
        normalize_weights: bool = False,
    ):
        super().__init__()

        def conv(channels_in: int, channels_out: int) -> nn.Module:
            layer = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)
            return weight_norm(layer) if normalize_weights else layer

        self.head = conv(inputs, hidden)
        self.blocks = nn.Sequential(*(ResidualBlock(hidden, dropout, conv) for _ in range(blocks)))
        self.tail = zero_init(nn.Conv2d(hidden, outputs, kernel_size=1))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch k h w"]:
        """Apply the network."""
        return self.tail(F.relu(self.blocks(self.head(x))))
