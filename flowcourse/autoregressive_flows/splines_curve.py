r"""The curve of neural spline flows: in each bin a quotient of two parabolas that rises.

$$u = \frac{\theta^2 + a\,\theta(1 - \theta)}{1 + (a + b - 2)\,\theta(1 - \theta)},$$

with $\theta$ and $u$ the shares of the bin's width and height that lie behind, and $a$, $b$ the
slopes $du/d\theta$ at its two ends. Where $a + b = 2$ the denominator is 1 and this is a parabola;
where $a = b = 1$ it is a line. So the linear, the quadratic and the rational-quadratic spline are
one curve, and differ in what is asked of the conditioner.

Book: `book/autoregressive_flows/splines.md`. Source: Gregory & Delbourgo (1982); Durkan, Bekasov,
Murray & Papamakarios (2019), arXiv:1906.04032.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from flowcourse.bijector import Bijector, sum_event

__all__ = ["Bins", "Spline", "invert_rise", "knots", "rise", "spread"]

Numbers = Float[Tensor, "batch *event"]

# One bin


def rise(theta: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""The curve in the unit square, and the logarithm of its slope, with end slopes $a, b > 0$.

    $$u = \frac{\theta^2 + a t}{N}, \qquad
    \frac{du}{d\theta} = \frac{b\,\theta^2 + 2t + a\,(1 - \theta)^2}{N^2}, \qquad
    t = \theta(1 - \theta), \quad N = \theta^2 + (1 - \theta)^2 + (a + b)\,t.$$

    $N$ is the denominator $1 + (a + b - 2)\,t$, as a sum of positive terms: nothing cancels.

    Source: Durkan et al. (2019), eqs. 4 and 5.
    """
    rest = 1 - theta
    t = theta * rest
    below = theta**2 + rest**2 + (a + b) * t
    slope = b * theta**2 + 2 * t + a * rest**2
    return (theta**2 + a * t) / below, slope.log() - 2 * below.log()


def invert_rise(u: Tensor, a: Tensor, b: Tensor) -> Tensor:
    r"""The $\theta$ at which the curve has risen to $u$, without cancellation.

    With $p = a(1 - u)$ and $q = b u$ the equation is $(1 + q - p - 2u)\theta^2 + (p - q + 2u)\theta
    - u = 0$. Its discriminant is a sum of terms that are never negative,

    $$\Delta = (p - q)^2 + 4u(1 - u),$$

    and with $D = |p - q| + \sqrt\Delta$ the root in the unit interval is

    $$\theta = \frac{2u}{2u + D} \text{ where } p \ge q, \qquad
    \theta = \frac{D}{D + 2(1 - u)} \text{ where } p < q.$$

    Source: Durkan et al. (2019), eqs. 6-8, for the quadratic equation.
    """
    p, q = a * (1 - u), b * u
    early = p >= q
    gap = torch.where(early, p - q, q - p)  # not abs(p - q), which has no slope at 0
    d = gap + (gap**2 + 4 * u * (1 - u)).sqrt()
    return torch.where(early, 2 * u / (2 * u + d), d / (d + 2 * (1 - u)))


# All bins


class Bins(NamedTuple):
    """Knots of a spline, and its slopes at both ends of each bin; the bins are on axis 1.

    Attributes:
        x: knots, `(batch, bins + 1, *event)`, rising.
        z: what the knots go to, of the same shape.
        left: slope at the left end of each bin, `(batch, bins, *event)`, positive.
        right: slope at the right end; that of the next bin's left end, if the spline is smooth.
    """

    x: Tensor
    z: Tensor
    left: Tensor
    right: Tensor


def spread(raw: Tensor, bound: float, smallest: float) -> Tensor:
    r"""Knots from $-B$ to $B$ whose distances are a softmax over axis 1.

    Args:
        raw: `(batch, bins, *event)`, any numbers.
        bound: $B$.
        smallest: of the distances, as a share of $2B$.

    Returns:
        The knots, `(batch, bins + 1, *event)`.
    """
    share = smallest + (1 - smallest * raw.shape[1]) * raw.softmax(dim=1)
    return knots(bound * (2 * share.cumsum(dim=1)[:, :-1] - 1), bound)


def knots(inner: Tensor, bound: float) -> Tensor:
    """Put inner knots, on axis 1, between ends that are exactly at the bound."""
    end = inner.new_full((inner.shape[0], 1, *inner.shape[2:]), bound)
    return torch.cat([-end, inner, end], dim=1)


def _through(y: Tensor, bins: Bins, inverse: bool) -> tuple[Tensor, Tensor]:
    """Follow the spline from `y` on its x axis to its z axis, or back; no `y` may lie outside.

    Returns:
        Where it leads, and the logarithm of the slope $dz/dx$ there.
    """
    before, after = (bins.z, bins.x) if inverse else (bins.x, bins.z)
    # The number of inner knots that y has passed: a bin that exists, whatever y is.
    index = (before[:, 1:-1] <= y.unsqueeze(1)).sum(dim=1, keepdim=True)

    def here(values: Tensor) -> Tensor:
        return values.gather(1, index).squeeze(1)

    size, goal_size = here(before.diff(dim=1)), here(after.diff(dim=1))
    secant = size / goal_size if inverse else goal_size / size
    a, b = here(bins.left) / secant, here(bins.right) / secant
    # Rounding keeps this within [0, 1]: y and the knots around it are in order, and so are their
    # distances from the left one.
    share = (y - here(before)) / size
    theta = invert_rise(share, a, b) if inverse else share
    u, log_slope = rise(theta, a, b)
    return here(after) + goal_size * (theta if inverse else u), log_slope + secant.log()


# Transformers


class Spline(Bijector):
    r"""A monotone spline on $[-B, B]$ for each number, and the identity outside.

    The context holds raw parameters, any numbers: `(batch, outputs * dims)`, or `(batch, outputs *
    channels, h, w)` for images, first the first parameter of all, then the second.

    Subclasses say how many parameters they ask for (`outputs`), and what bins these make (`read`).

    Args:
        bins: how many, $K$.
        bound: $B$.
        smallest: share of the interval that a bin has at least, in width and in height, and the
            least slope at a knot. A bin of no width would divide by zero.

    Raises:
        ValueError: no bins, an interval of no length, or bins that do not fit in it.
    """

    least_bins = 1

    def __init__(self, bins: int = 8, bound: float = 3.0, smallest: float = 1e-3):
        super().__init__()
        if bins < self.least_bins or not bound > 0:
            raise ValueError(
                f"{type(self).__name__} has bins >= {self.least_bins} and bound > 0, not "
                f"bins={bins} and bound={bound}."
            )
        if not 0 < smallest * bins < 1:
            raise ValueError(
                f"{bins} bins of at least {smallest} of the interval do not fit in it: smallest is "
                f"above 0 and below 1 / bins = {1 / bins:g}."
            )
        self.bins, self.bound, self.smallest = bins, bound, smallest

    @property
    def outputs(self) -> int:
        """Parameters for each number."""
        raise NotImplementedError(f"{type(self).__name__} must say how many outputs it needs.")

    def read(self, raw: Float[Tensor, "batch outputs *event"]) -> Bins:
        """The bins that raw parameters stand for."""
        raise NotImplementedError(f"{type(self).__name__} must implement read(raw).")

    def _raw(self, like: Numbers, context: Tensor | None) -> Tensor:
        if context is None or context.shape[1] != self.outputs * like.shape[1]:
            got = "none" if context is None else f"shape {tuple(context.shape)}"
            raise ValueError(
                f"{type(self).__name__} of {self.bins} bins expects {self.outputs} parameters for "
                f"each of {like.shape[1]} numbers, {self.outputs * like.shape[1]} on axis 1 of the "
                f"context, and got {got}: give the conditioner outputs={self.outputs}."
            )
        # Networks may answer in bfloat16; the flow itself is never computed in it.
        return context.to(like.dtype).unflatten(1, (self.outputs, -1))

    def forward(self, x, context=None):
        z, log_slope = self._with_tails(x, self._raw(x, context), inverse=False)
        return z, sum_event(log_slope)

    def inverse(self, z, context=None):
        x, log_slope = self._with_tails(z, self._raw(z, context), inverse=True)
        return x, -sum_event(log_slope)

    def _with_tails(self, y: Numbers, raw: Tensor, inverse: bool) -> tuple[Numbers, Numbers]:
        # The spline sees only what is inside. Its values outside would be thrown away below, but
        # not their gradients: 0 times infinity is NaN.
        inside = y.clamp(-self.bound, self.bound)
        there, log_slope = _through(inside, self.read(raw), inverse)
        tail = y != inside
        return torch.where(tail, y, there), log_slope.masked_fill(tail, 0)
