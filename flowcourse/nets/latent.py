"""Between images and a few numbers: down by convolutions of stride 2, and up again."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["LatentToMaps", "MapsToLatent"]


def _quarter(size: int) -> int:
    """The side of a map after two convolutions of stride 2."""
    return (size + 3) // 4


class MapsToLatent(nn.Sequential):
    """Convolutions of stride 1, 2 and 2 with ReLU, dropout, and a linear layer.

    Args:
        event_shape: channels, height and width.
        hidden: feature maps.
        outputs: numbers out.
        dropout: probability of dropping a feature, before the linear layer.
    """

    def __init__(self, event_shape: Sequence[int], hidden: int, outputs: int, dropout: float = 0.0):
        channels, height, width = event_shape
        super().__init__(
            nn.Conv2d(channels, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(hidden * _quarter(height) * _quarter(width), outputs),
        )


class LatentToMaps(nn.Module):
    """A linear layer, then two enlargements by nearest neighbours, each with a convolution.

    Args:
        inputs: numbers in.
        hidden: feature maps, inside and out.
        size: height and width of the maps that come out.
    """

    def __init__(self, inputs: int, hidden: int, size: tuple[int, int]):
        super().__init__()
        height, width = size
        small = (hidden, _quarter(height), _quarter(width))
        self.net = nn.Sequential(
            nn.Linear(inputs, math.prod(small)),
            nn.ReLU(),
            nn.Unflatten(1, small),
            nn.Upsample(((height + 1) // 2, (width + 1) // 2)),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Upsample((height, width)),
            nn.Conv2d(hidden, hidden, 3, padding=1),
        )

    def forward(self, z: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch hidden h w"]:
        """Apply the network."""
        return self.net(z)
