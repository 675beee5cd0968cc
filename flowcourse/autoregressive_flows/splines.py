r"""Neural spline flows: transformers that bend, with a formula in both directions.

A monotone spline rises from $(-B, -B)$ to $(B, B)$ over $K$ bins; outside it is the identity. A
conditioner chooses the knots and the slopes there. Such transformers go with any conditioner:
blocks of dimensions make couplings, single dimensions an autoregressive flow.

The curve is in `splines_curve`, angles are in `splines_circle`.

Book: `book/autoregressive_flows/splines.md`. Source: Durkan, Bekasov, Murray & Papamakarios (2019),
arXiv:1906.04032; Müller et al. (2019), arXiv:1808.03856, for the linear and quadratic splines.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F

from flowcourse.autoregressive_flows.linear import mixed
from flowcourse.autoregressive_flows.maf import Autoregressive, Flatten, MaskedConditioner
from flowcourse.autoregressive_flows.splines_circle import Angles, CircularSpline, torus
from flowcourse.autoregressive_flows.splines_curve import (
    Bins,
    Spline,
    invert_rise,
    knots,
    rise,
    spread,
)
from flowcourse.bijector import Bijector, Compose, Inverse
from flowcourse.coupling.dequantization import preprocess
from flowcourse.coupling.flowpp import Coupling
from flowcourse.coupling.glow import ActNorm, InvertibleConv, reversal
from flowcourse.coupling.realnvp import FactorOut, Squeeze
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.likelihood import DequantizedFlow
from flowcourse.nets import ResidualConvNet

__all__ = [
    "SPLINES",
    "Angles",
    "Bins",
    "CircularSpline",
    "LinearSpline",
    "QuadraticSpline",
    "RationalQuadraticSpline",
    "Spline",
    "build",
    "invert_rise",
    "rise",
    "spread",
    "torus",
]

# Transformers


class LinearSpline(Spline):
    """A line in each of $K$ bins of equal width: $K$ raw heights for each number.

    The slope jumps at the knots, and so does the density.

    Source: Müller et al. (2019), section 4.1.
    """

    @property
    def outputs(self):
        return self.bins

    def read(self, raw):
        z = spread(raw, self.bound, self.smallest)
        x = spread(torch.zeros_like(raw), self.bound, self.smallest)
        slope = z.diff(dim=1) / x.diff(dim=1)
        return Bins(x, z, slope, slope)


class QuadraticSpline(Spline):
    r"""A parabola in each bin: $K$ raw widths and $K - 1$ raw slopes for each number.

    The slope is a broken line through its values $v$ at the knots, 1 at both ends. A spline that
    ends at the height $B$ has slopes whose trapezoidal sum is $2B$: they are
    $v = s + (1 - s)\,r / A$ with $r > 0$ from the network, $s$ the smallest, and $A$ such that the
    end slopes are 1.

    Source: Müller et al. (2019), section 4.2; Durkan et al. (2019), section 3.1, for the tails.
    """

    least_bins = 2

    @property
    def outputs(self):
        return 2 * self.bins - 1

    def read(self, raw):
        x = spread(raw[:, : self.bins], self.bound, self.smallest)
        inner = F.softplus(raw[:, self.bins :]) + 1e-3
        share = x.diff(dim=1) / (2 * self.bound)
        # Area below the broken line: c (w_1 + w_K) / 2 from the ends' slope c, and this from the
        # others. It has to be c, so that the ends' share of the area is 1.
        middle = (inner * (share[:, :-1] + share[:, 1:]) / 2).sum(dim=1, keepdim=True)
        area = middle / (1 - (share[:, :1] + share[:, -1:]) / 2)
        inner = self.smallest + (1 - self.smallest) * inner / area
        one = torch.ones_like(area)
        slope = torch.cat([one, inner, one], dim=1)
        left, right = slope[:, :-1], slope[:, 1:]
        height = (share * (left + right)).cumsum(dim=1)[:, :-1]
        return Bins(x, knots(self.bound * (height - 1), self.bound), left, right)


class RationalQuadraticSpline(Spline):
    r"""A quotient of parabolas in each bin: $K$ raw widths, $K$ heights, $K - 1$ slopes.

    Widths and heights are a softmax, slopes a softplus, above the smallest; at both ends the slope
    is 1, so that the tails go on smoothly.

    Source: Durkan et al. (2019), section 3.1.
    """

    @property
    def outputs(self):
        return 3 * self.bins - 1

    def read(self, raw):
        widths, heights, slopes = raw.split([self.bins, self.bins, self.bins - 1], dim=1)
        inner = self.smallest + F.softplus(slopes)
        one = torch.ones_like(widths[:, :1])
        slope = torch.cat([one, inner, one], dim=1)
        return Bins(
            spread(widths, self.bound, self.smallest),
            spread(heights, self.bound, self.smallest),
            slope[:, :-1],
            slope[:, 1:],
        )


SPLINES: dict[str, type[Spline]] = {
    "linear": LinearSpline,
    "quadratic": QuadraticSpline,
    "rational_quadratic": RationalQuadraticSpline,
}

# The models


def build(
    event_shape: Sequence[int],
    levels: int | None,
    *,
    spline: str = "rational_quadratic",
    bins: int = 8,
    bound: float = 3.0,
    layers: int = 10,
    hidden: Sequence[int] = (256, 256),
    blocks: int | None = None,
    mixing: str = "lu",
    dropout: float = 0.0,
    preprocessing: Literal["centred", "logit"] = "logit",
    scales: int = 0,
    residual_blocks: int = 3,
) -> Flow | DequantizedFlow:
    """A neural spline flow, for vectors or for images.

    Args:
        event_shape: shape of one example.
        levels: number of levels of discrete data, or None for continuous data.
        spline: "linear", "quadratic" or "rational_quadratic".
        bins: of each spline.
        bound: outside of [-bound, bound] splines are the identity.
        layers: number of autoregressive layers, or of couplings of each scale.
        hidden: widths of the hidden layers of each conditioner; for images `(channels,)`.
        blocks: of dimensions: 2 for couplings, as many as dimensions by default.
        mixing: of vectors: "lu", learned matrices around the layers as in the paper, see
            `flowcourse.autoregressive_flows.linear.mixed`, or "reverse", the opposite order between
            layers.
        dropout: in the conditioners.
        preprocessing: of discrete data, see `flowcourse.coupling.dequantization.preprocess`.
        scales: of an image, each with a squeeze, and couplings with convolutional networks between
            Glow's actnorm and 1x1 convolution; half of the channels leave after each but the last.
            0 for examples flattened to vectors.
        residual_blocks: of each convolutional network.

    Raises:
        ValueError: an unknown spline or mixing, more blocks than dimensions, or scales for
            something that is no image.

    Source: Durkan et al. (2019), sections 5.1 (10 layers of 8 bins, bound 3) and 5.4 (images).
    """
    if spline not in SPLINES:
        raise ValueError(f"spline is one of {', '.join(SPLINES)}, not {spline!r}.")
    if mixing not in ("lu", "reverse"):
        raise ValueError(f"mixing is 'lu' or 'reverse', not {mixing!r}.")
    if scales and len(event_shape) != 3:
        raise ValueError(
            f"scales={scales} is for images (c, h, w), and examples are {tuple(event_shape)}: set "
            "scales=0."
        )
    transformer = SPLINES[spline](bins, bound)

    def scale(channels: int, remaining: int) -> Bijector:
        half = 2 * channels
        steps: list[Bijector] = [Squeeze()]
        for _ in range(layers):
            (width,) = hidden
            net = ResidualConvNet(half, width, transformer.outputs * half, residual_blocks, dropout)
            steps += [ActNorm(2 * half), InvertibleConv(2 * half), Coupling(net, transformer, 0)]
        if remaining > 1:
            steps.append(FactorOut(scale(half, remaining - 1)))
        return Compose(*steps, Inverse(Squeeze()))

    def vectors(dims: int) -> Bijector:
        def layer() -> Bijector:
            net = MaskedConditioner(
                dims, transformer.outputs, hidden, blocks=blocks, dropout=dropout
            )
            return Autoregressive(net, transformer)

        every = [layer() for _ in range(layers)]
        if mixing == "lu":
            steps = mixed(every, dims, "plu")
        else:
            steps = [step for one in every for step in (reversal(dims), one)][1:]
        return Compose(Flatten(event_shape), *steps, Inverse(Flatten(event_shape)))

    map_ = scale(event_shape[0], scales) if scales else vectors(math.prod(event_shape))
    if levels is not None:
        map_ = Compose(preprocess(levels, preprocessing), map_)
    flow = Flow(map_, StandardNormal(*event_shape))
    return flow if levels is None else DequantizedFlow(flow, levels)
