r"""NICE: non-linear independent components estimation.

An additive coupling layer leaves half of the coordinates alone and shifts the other half by any
function of the first:

$$z_a = x_a, \qquad z_b = x_b + m(x_a).$$

Its inverse subtracts what was added, whatever $m$ is, and its Jacobian is triangular with ones on
the diagonal: $\log|\det| = 0$. Couplings preserve volume; a last diagonal scale lets the model as a
whole change it.

Book: `book/coupling/nice.md`. Source: Dinh, Krueger & Bengio (2014), arXiv:1410.8516.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowcourse.bijector import Bijector, Compose
from flowcourse.flow import Flow, StandardLogistic, StandardNormal
from flowcourse.foundations.change_of_variables import Affine
from flowcourse.foundations.likelihood import DequantizedFlow
from flowcourse.nets import MLP

__all__ = ["AdditiveCoupling", "DiagonalScale", "build", "merge", "split"]


def split(x: Tensor, parity: int) -> tuple[Tensor, Tensor]:
    """Cut a flattened event into the coordinates that pass and those that change.

    Args:
        x: shape `(batch, *event)`, any event; coordinates count in row-major order.
        parity: 0 passes the even coordinates, 1 the odd ones.
    """
    flat = x.flatten(start_dim=1)
    return flat[:, parity::2], flat[:, 1 - parity :: 2]


def merge(passed: Tensor, changed: Tensor, parity: int, shape: torch.Size) -> Tensor:
    """Undo `split`: put both halves back in their places and restore the event's shape."""
    flat = passed.new_empty(shape).flatten(start_dim=1)
    flat[:, parity::2] = passed
    flat[:, 1 - parity :: 2] = changed
    return flat.reshape(shape)


class AdditiveCoupling(Bijector):
    r"""$z_b = x_b + m(x_a)$: volume-preserving, $\log|\det| = 0$.

    Args:
        net: $m$, from `(batch, passed)` to `(batch, changed)`; it need not be invertible.
        parity: which coordinates pass unchanged, the even ones (0) or the odd ones (1).

    Source: Dinh et al. (2014), eqs. 5-8 and section 3.2.
    """

    def __init__(self, net: nn.Module, parity: int):
        super().__init__()
        self.net = net
        self.parity = parity

    def forward(self, x, context=None):
        passed, changed = split(x, self.parity)
        z = merge(passed, changed + self.net(passed), self.parity, x.shape)
        return z, x.new_zeros(x.shape[0])

    def inverse(self, z, context=None):
        passed, changed = split(z, self.parity)
        x = merge(passed, changed - self.net(passed), self.parity, z.shape)
        return x, z.new_zeros(z.shape[0])


class DiagonalScale(Bijector):
    r"""$z_i = e^{s_i} x_i$ with learned $s$; $\log|\det| = \sum_i s_i$, the same for every example.

    Source: Dinh et al. (2014), section 3.3.
    """

    def __init__(self, event_shape: Sequence[int]):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(*event_shape))

    def forward(self, x: Float[Tensor, "batch *event"], context: Tensor | None = None):
        return x * self.log_scale.exp(), self.log_scale.sum().expand(x.shape[0])

    def inverse(self, z: Float[Tensor, "batch *event"], context: Tensor | None = None):
        return z * (-self.log_scale).exp(), -self.log_scale.sum().expand(z.shape[0])


def build(
    event_shape: Sequence[int],
    levels: int | None,
    *,
    couplings: int = 4,
    hidden: int = 1000,
    depth: int = 5,
    dropout: float = 0.0,
    prior: Literal["logistic", "normal"] = "logistic",
) -> Flow | DequantizedFlow:
    """NICE for data of one shape; the defaults are the paper's configuration for MNIST.

    Args:
        event_shape: shape of one example.
        levels: number of levels of discrete data, or None for continuous data.
        couplings: number of additive couplings, with alternating halves.
        hidden: width of the conditioners' hidden layers.
        depth: number of hidden layers.
        dropout: in the conditioners.
        prior: the base density.

    Returns:
        A `DequantizedFlow` for discrete data, scaled to [0, 1) first; a `Flow` otherwise.

    Source: Dinh et al. (2014), section 4 and table 1 (MNIST: 4 couplings, 5 x 1000, logistic).
    """
    dims = math.prod(event_shape)
    if dims < 2:
        raise ValueError(f"NICE couples halves of an example and needs 2 or more, got {dims}.")
    halves = (dims + 1) // 2, dims // 2  # even coordinates, odd coordinates
    layers: list[Bijector] = [] if levels is None else [Affine(shift=0.0, scale=1 / levels)]
    for k in range(couplings):
        parity = k % 2
        net = MLP(halves[parity], [hidden] * depth, halves[1 - parity], dropout)
        layers.append(AdditiveCoupling(net, parity))
    layers.append(DiagonalScale(event_shape))
    base = {"logistic": StandardLogistic, "normal": StandardNormal}[prior](*event_shape)
    flow = Flow(Compose(*layers), base)
    return flow if levels is None else DequantizedFlow(flow, levels)
