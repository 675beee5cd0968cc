"""A multilayer perceptron."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["MLP", "zero_init"]


def zero_init(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Set a layer's weight and bias to 0, so that the coupling it drives starts as the identity.

    Source: Kingma & Dhariwal (2018), section 3.3.
    """
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """Linear layers with ReLU between them; the last one starts at zero.

    Args:
        inputs: width of the input.
        hidden: widths of the hidden layers.
        outputs: width of the output.
        dropout: probability of dropping a hidden unit in training.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, dropout: float = 0.0):
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            inputs = width
        self.layers = nn.Sequential(*layers, zero_init(nn.Linear(inputs, outputs)))

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """Apply the network."""
        return self.layers(x)
