r"""Splines for angles, and flows on a torus.

A circular spline is a rational-quadratic spline from $[-\pi, \pi]$ to itself whose slopes at both
ends agree, and then a turn: seen on the circle it has no beginning and no end.

Book: `book/autoregressive_flows/splines.md`. Source: Rezende, Papamakarios, Racanière, Albergo,
Kanwar, Shanahan & Cranmer (2020), arXiv:2002.02428, section 2.1.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints

from flowcourse.autoregressive_flows.maf import (
    Autoregressive,
    Conditioner,
    MaskedConditioner,
    equal_blocks,
)
from flowcourse.autoregressive_flows.splines_curve import Bins, Spline, spread
from flowcourse.bijector import Bijector, Compose, sum_event
from flowcourse.coupling.glow import reversal
from flowcourse.flow import Flow, StandardUniform
from flowcourse.foundations.change_of_variables import Affine

__all__ = ["Angles", "CircularSpline", "torus", "wrapped"]

CIRCLE = constraints.interval(-math.pi, math.pi)


def wrapped(angle: Tensor) -> Tensor:
    r"""The same angle in $[-\pi, \pi]$."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


class CircularSpline(Spline):
    r"""A smooth one-to-one map of the circle for each angle, in radians.

    Raw parameters of each angle: the turn, $K$ widths, $K$ heights and $K$ slopes, of which the
    first is also the slope at the end. Every bijection of the circle that keeps the sense of
    rotation has such a form up to the number of bins: where $-\pi$ goes is the turn.

    Args:
        bins: how many, $K$.
        smallest: see `Spline`.

    Source: Rezende et al. (2020), section 2.1.2.
    """

    domain = codomain = CIRCLE

    def __init__(self, bins: int = 8, smallest: float = 1e-3):
        super().__init__(bins, math.pi, smallest)

    @property
    def outputs(self):
        return 1 + 3 * self.bins

    def read(self, raw):
        _, widths, heights, slopes = raw.split([1, *3 * [self.bins]], dim=1)
        slope = self.smallest + F.softplus(slopes)
        return Bins(
            spread(widths, self.bound, self.smallest),
            spread(heights, self.bound, self.smallest),
            slope,
            slope.roll(-1, dims=1),
        )

    def forward(self, x, context=None):
        raw = self._raw(x, context)
        z, log_slope = self._with_tails(wrapped(x), raw, inverse=False)
        return wrapped(z + raw[:, 0]), sum_event(log_slope)

    def inverse(self, z, context=None):
        raw = self._raw(z, context)
        x, log_slope = self._with_tails(wrapped(z - raw[:, 0]), raw, inverse=True)
        return x, -sum_event(log_slope)


class Angles(Conditioner):
    r"""A masked network that sees angles by cosine and sine, and so has no seam at $\pm\pi$.

    Args:
        dims: number of angles.
        outputs: parameters of each.
        hidden: widths of the hidden layers.

    Source: Rezende et al. (2020), section 2.3.
    """

    def __init__(self, dims: int, outputs: int, hidden: Sequence[int]):
        super().__init__(equal_blocks(dims, dims))
        # Each angle is a block of two numbers; of their parameters, the first one's are used.
        self.net = MaskedConditioner(2 * dims, outputs, hidden, blocks=dims)

    def forward(self, x: Float[Tensor, "batch dims"], context=None):
        points = torch.stack([x.cos(), x.sin()], dim=2).flatten(1)
        return self.net(points, context)[:, ::2]


def torus(dims: int, *, layers: int = 2, bins: int = 8, hidden: Sequence[int] = (64, 64)) -> Flow:
    """An autoregressive flow of angles, in radians, whose base is uniform on the torus.

    Args:
        dims: number of angles.
        layers: number of autoregressive layers, each in the opposite order of the one before.
        bins: of each circular spline.
        hidden: widths of the hidden layers of each conditioner.

    Source: Rezende et al. (2020), section 2.3.
    """
    steps: list[Bijector] = []
    for layer in range(layers):
        if layer:
            steps.append(reversal(dims))
        transformer = CircularSpline(bins)
        conditioner = Angles(dims, transformer.outputs, hidden)
        steps.append(Autoregressive(conditioner, transformer))
    steps.append(Affine(shift=0.5, scale=1 / (2 * math.pi)))
    flow = Flow(Compose(*steps), StandardUniform(dims))
    flow.bijector.domain = CIRCLE
    return flow
