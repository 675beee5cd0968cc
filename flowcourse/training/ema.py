r"""The exponential moving average of the weights: what is validated, saved and sampled from."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage:
    r"""Averages the parameters: $\bar w \leftarrow \beta_t \bar w + (1 - \beta_t) w_t$.

    The decay starts low and rises to its final value, $\beta_t = \min(\beta, (1 + t)/(10 + t))$ at
    update $t = 0, 1, \dots$, so that a short run does not keep its initial weights. Buffers, such
    as running means, are averages already or constants, and are taken as they are.

    Args:
        model: whose parameters to follow.
        decay: $\beta$; 0 keeps the weights of the last update.

    Source: Polyak & Juditsky (1992) for averaging.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self.decay = decay
        # Tied parameters are kept under each of their names, as `state_dict` keeps them.
        self.parameters: dict[str, Tensor] = {
            name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=False)
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, p in self.model.named_parameters(remove_duplicate=False):
            self.parameters[name].lerp_(p, 1 - decay)

    @torch.no_grad()
    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Put back saved averages."""
        for name, average in self.parameters.items():
            average.copy_(parameters[name])

    def weights(self) -> dict[str, Tensor]:
        """The state of the averaged model: averaged parameters and the model's own buffers."""
        return {**self.model.state_dict(), **self.parameters}
