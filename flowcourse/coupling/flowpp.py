r"""Flow++: couplings by the distribution function of a mixture, with attention inside.

An affine coupling stretches every pixel by one factor. Here a pixel goes through a curve of its
own, the distribution function of a mixture of logistics, back to the reals by the logit, and only
then through a scale and a shift; a network of the other half chooses them all:

$$z = e^{s}\,\operatorname{logit}\Bigl(\sum_k \pi_k\,\sigma\bigl((x - \mu_k)\,e^{-l_k}\bigr)\Bigr)
   + t$$

The curve has no inverse in closed form, but it rises, and a root finder inverts it.

Book: `book/coupling/flowpp.md`. Source: Ho, Chen, Srinivas, Duan & Abbeel (2019), arXiv:1902.00275,
and the program released with it.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowcourse.bijector import Bijector, Compose, Inverse, sum_event
from flowcourse.coupling.dequantization import VariationalDequantizer
from flowcourse.coupling.glow import ActNorm, InvertibleConv
from flowcourse.coupling.realnvp import Squeeze, preprocess
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.change_of_variables import Sigmoid
from flowcourse.foundations.likelihood import DequantizedFlow
from flowcourse.nets.attention import AttentionNet, ConvEncoder
from flowcourse.nets.symmetry import SYMMETRIES, random_symmetry, turned

__all__ = [
    "AffineCurve",
    "Checkerboard",
    "Coupling",
    "Halves",
    "MixtureCurve",
    "NoConvergenceError",
    "TurnedFlow",
    "build",
    "invert_mixture",
    "mixture_logit",
]

# The program's floor is e^-7. The ceiling keeps a very wide component from being flat in float32.
LOG_SCALES = (-7.0, 7.0)

Parameter = Float[Tensor, "batch k *event"]


# The curve


def mixture_logit(
    x: Float[Tensor, "batch *event"], log_weight: Parameter, mean: Parameter, log_scale: Parameter
) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, "batch *event"]]:
    r"""$z = \operatorname{logit} F(x)$ with $F = \sum_k \pi_k\,\sigma((x - \mu_k)\,e^{-l_k})$.

    In the tails $F$ rounds to 0 or 1, so it is never formed: with the survival function
    $S = 1 - F$, which is a mixture as well, and the density $f$,

    $$z = \log F - \log S, \qquad \log\frac{dz}{dx} = \log f - \log F - \log S,$$

    and each of the three logarithms is a log-sum-exp over components.

    Args:
        x: where, coordinate by coordinate.
        log_weight: $\log \pi_k$, normalized over axis 1, the components.
        mean: $\mu_k$.
        log_scale: $l_k$.

    Returns:
        $z$, and $\log dz/dx$ in nats.

    Source: Ho et al. (2019), eqs. 14 and 15.
    """
    u = (x.unsqueeze(1) - mean) * torch.exp(-log_scale)
    below = F.logsigmoid(u)
    above = below - u  # log sigmoid(-u)
    log_cdf = (log_weight + below).logsumexp(dim=1)
    log_survival = (log_weight + above).logsumexp(dim=1)
    log_density = (log_weight + below + above - log_scale).logsumexp(dim=1)
    return log_cdf - log_survival, log_density - log_cdf - log_survival


class NoConvergenceError(ArithmeticError):
    """Raised by the root finder when it has not reached its tolerance."""


def invert_mixture(
    z: Float[Tensor, "batch *event"],
    log_weight: Parameter,
    mean: Parameter,
    log_scale: Parameter,
    tolerance: float | None = None,
    max_iterations: int = 200,
) -> Float[Tensor, "batch *event"]:
    r"""The $x$ with $\operatorname{logit} F(x) = z$, by Newton steps kept inside a bracket.

    Component $k$ alone reaches $z$ at $\mu_k + e^{l_k} z$. Below the smallest of these points every
    component has less mass than it should, above the largest every one has more: the root lies
    between them. Each evaluation moves one end of the bracket. A Newton step that would leave the
    bracket, or follow one that did not halve it, gives way to bisection.

    Gradients pass by the implicit function theorem.

    Args:
        z: what the curve shall reach.
        log_weight: see `mixture_logit`, and so for `mean` and `log_scale`.
        mean: see there.
        log_scale: see there.
        tolerance: of $x$, relative to $\max(1, |x|)$: the last step, or the bracket, is at most
            this long. By default 4 units of rounding of the dtype.
        max_iterations: evaluations of the curve after which to give up.

    Raises:
        NoConvergenceError: some coordinate has not reached the tolerance.

    Source: Ho et al. (2019), section 3.2 (bisection).
    """
    if tolerance is None:
        tolerance = 4 * torch.finfo(z.dtype).eps
    with torch.no_grad():
        found = _root(z, log_weight, mean, log_scale, tolerance, max_iterations)
    # Changes nothing but the gradient: dx = (dz - the curve's own change) / slope.
    there, log_slope = mixture_logit(found, log_weight, mean, log_scale)
    residual = there - z
    return found - (residual - residual.detach()) * torch.exp(-log_slope).detach()


def _root(z, log_weight, mean, log_scale, tolerance, max_iterations):
    alone = mean + log_scale.exp() * z.unsqueeze(1)
    low, high = alone.amin(dim=1), alone.amax(dim=1)
    x = (log_weight.exp() * alone).sum(dim=1).clamp(low, high)
    halved = torch.ones_like(z, dtype=torch.bool)
    for _ in range(max_iterations):
        there, log_slope = mixture_logit(x, log_weight, mean, log_scale)
        width = high - low
        low, high = torch.where(there < z, x, low), torch.where(there < z, high, x)
        newton = x - (there - z) * torch.exp(-log_slope)
        inside = (newton >= low) & (newton <= high) & halved
        following = torch.where(inside, newton, low + (high - low) / 2)
        halved = 2 * (high - low) <= width
        allowed = tolerance * following.abs().clamp(min=1)
        done = ((following - x).abs() <= allowed) | (high - low <= allowed)
        x = following
        if not z.is_meta and done.all():
            return x
    if z.is_meta:
        return x
    raise NoConvergenceError(
        f"After {max_iterations} iterations, {(~done).sum().item()} of {done.numel()} roots are "
        f"not known to {tolerance:.1e}; the widest bracket is {(high - low).max().item():.1e}. "
        "Allow more iterations or a larger tolerance; NaN means that a network returned NaN."
    )


class MixtureCurve(Bijector):
    r"""$z = e^s \operatorname{logit} F(x) + t$ in every coordinate; the context holds parameters.

    Args:
        components: of the mixture.
        tolerance: see `invert_mixture`.

    The context is `(batch, outputs * channels, h, w)`: for each channel the raw scale, of which
    $s$ is the hyperbolic tangent, the shift, and the mixture's logits, means and log-scales.

    Source: Ho et al. (2019), section 3.2; the bounded scale is the program's.
    """

    def __init__(self, components: int, tolerance: float | None = None):
        super().__init__()
        self.components = components
        self.tolerance = tolerance
        self.outputs = 2 + 3 * components

    def _read(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        k = self.components
        # Under bf16-mixed the network's answers are short; the mixture is not computed with them.
        every = context.to(x.dtype).unflatten(1, (self.outputs, -1))
        raw, shift, logits, mean, log_scale = every.split([1, 1, k, k, k], dim=1)
        mixture = [logits.log_softmax(dim=1), mean, log_scale.clamp(*LOG_SCALES)]
        return raw[:, 0].tanh(), shift[:, 0], mixture

    def forward(self, x, context=None):
        s, t, mixture = self._read(x, context)
        z, log_slope = mixture_logit(x, *mixture)
        return z * s.exp() + t, sum_event(log_slope + s)

    def inverse(self, z, context=None):
        s, t, mixture = self._read(z, context)
        x = invert_mixture((z - t) * (-s).exp(), *mixture, tolerance=self.tolerance)
        _, log_slope = mixture_logit(x, *mixture)
        return x, -sum_event(log_slope + s)


class AffineCurve(Bijector):
    """$z = e^s x + t$ in every coordinate, without the mixture: the ablation.

    The context is `(batch, outputs * channels, h, w)`, as that of `MixtureCurve`.
    """

    outputs = 2

    def _read(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = context.to(x.dtype).chunk(2, dim=1)
        return raw.tanh(), shift

    def forward(self, x, context=None):
        s, t = self._read(x, context)
        return x * s.exp() + t, sum_event(s)

    def inverse(self, z, context=None):
        s, t = self._read(z, context)
        return (z - t) * (-s).exp(), -sum_event(s)


# Halves of an image


class Checkerboard(Bijector):
    """Sort the two colours of a checkerboard into two halves of the channels.

    `(c, h, w)` becomes `(2c, h, w / 2)`: first the pixels whose row + column is even, row by row,
    then the others. A permutation, so log|det| = 0. A network then works on one half alone, at half
    the cost of a masked image. (The released program sorts even and odd columns.)
    """

    def forward(self, x, context=None):
        if x.shape[3] % 2:
            raise ValueError(f"Checkerboard expects an even width and got {x.shape[3]}.")
        even, odd = self._swap(*x.unflatten(3, (-1, 2)).unbind(dim=4))
        return torch.cat([even, odd], dim=1), x.new_zeros(x.shape[0])

    def inverse(self, z, context=None):
        x = torch.stack(self._swap(*z.chunk(2, dim=1)), dim=4).flatten(3)
        return x, z.new_zeros(z.shape[0])

    @staticmethod
    def _swap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """In every second row, exchange the two: even columns and pixels of even row + column."""
        second = torch.arange(a.shape[2], device=a.device)[:, None] % 2 == 1
        return torch.where(second, b, a), torch.where(second, a, b)


class Halves(Bijector):
    """A bijector for the first half of the channels and one for the second."""

    def __init__(self, first: Bijector, second: Bijector):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x, context=None):
        a, b = x.chunk(2, dim=1)
        (a, log_det_a), (b, log_det_b) = self.first(a, context), self.second(b, context)
        return torch.cat([a, b], dim=1), log_det_a + log_det_b

    def inverse(self, z, context=None):
        a, b = z.chunk(2, dim=1)
        (a, log_det_a), (b, log_det_b) = (
            self.first.inverse(a, context),
            self.second.inverse(b, context),
        )
        return torch.cat([a, b], dim=1), log_det_a + log_det_b


class Coupling(Bijector):
    """One half of the channels passes, and chooses through a network the other half's curves.

    Args:
        net: maps the half that passes, and the context if one is given, to `curve.outputs` numbers
            for each channel of the other half.
        curve: an elementwise bijector whose context is what the network returns.
        parity: 0 where the first half passes, 1 where the second does.

    Source: Ho et al. (2019), section 3.2; Dinh et al. (2017), eqs. 4 and 5.
    """

    def __init__(self, net: nn.Module, curve: Bijector, parity: int):
        super().__init__()
        self.net, self.curve, self.parity = net, curve, parity

    def forward(self, x, context=None):
        return self._apply_to_half(x, context, self.curve)

    def inverse(self, z, context=None):
        return self._apply_to_half(z, context, self.curve.inverse)

    def _apply_to_half(self, x, context, move):
        halves = list(x.chunk(2, dim=1))
        passed = halves[self.parity]
        chosen = self.net(passed) if context is None else self.net(passed, context)
        halves[1 - self.parity], log_det = move(halves[1 - self.parity], chosen)
        return torch.cat(halves, dim=1), log_det


# The model


class TurnedFlow(DequantizedFlow):
    """A model of square images that in training sees some of them turned or mirrored.

    The flow is told which of the eight symmetries an image has gone through, as if that were its
    class, so it need not confuse them. Images as they are get scored and sampled.

    Args:
        flow: see `DequantizedFlow`; its context is one of 8 classes for each example.
        levels: see there.
        dequantizer: see there.
        turn: how often an image is turned or mirrored in training.

    Source: Jun et al. (2020), section 3.
    """

    def __init__(self, flow: Flow, levels: int, dequantizer: nn.Module | None, turn: float):
        super().__init__(flow, levels, dequantizer)
        self.turn = turn

    def forward(self, x, context=None):
        if context is None:
            context = random_symmetry(x, self.turn if self.training else 0.0)
        return super().forward(turned(x, context), context)

    def sample(self, n, temperature=1.0, context=None):
        if context is None:
            context = torch.zeros(n, dtype=torch.int64, device=self.flow.base.anchor.device)
        return super().sample(n, temperature, context)


class _HalvesEncoder(nn.Module):
    """Features of an image at the size of its halves."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.halves, self.net = Checkerboard(), net

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch k h half_w"]:
        return self.net(self.halves(x)[0])


CIFAR10 = ["checkerboard"] * 4 + ["squeeze"] + ["channels"] * 2 + ["checkerboard"] * 3


def build(
    event_shape: Sequence[int],
    levels: int | None,
    *,
    dequantizer: Literal["variational", "uniform"] = "variational",
    coupling: Literal["mixture", "affine"] = "mixture",
    attention: bool = True,
    layout: Sequence[str] = CIFAR10,
    filters: int = 96,
    blocks: int = 10,
    components: int = 32,
    heads: int = 4,
    dropout: float = 0.2,
    noise_couplings: int = 4,
    noise_blocks: int = 2,
    encoder_filters: int = 32,
    encoder_blocks: int = 3,
    turn: float = 0.0,
) -> Flow | DequantizedFlow:
    """Flow++ for images; the defaults are the paper's model for CIFAR-10.

    Args:
        event_shape: `(channels, height, width)`.
        levels: number of levels of discrete data, or None for continuous data.
        dequantizer: "variational", noise from a flow, or "uniform".
        coupling: "mixture", or "affine" without the mixture's distribution function.
        attention: whether the networks attend; without, they have a pointwise MLP instead.
        layout: what the flow consists of: couplings of "checkerboard" halves or of halves of the
            "channels", and "squeeze".
        filters: channels of the networks.
        blocks: blocks of each network of the flow.
        components: of each mixture.
        heads: of the attention.
        dropout: in the networks.
        noise_couplings: checkerboard couplings of the dequantizer.
        noise_blocks: blocks of each of its networks.
        encoder_filters: channels of the network that tells the dequantizer about the image.
        encoder_blocks: its gated convolutions.
        turn: see `TurnedFlow`; 0 for images as they are.

    Raises:
        ValueError: examples that are no images, or an unknown choice.

    Source: Ho et al. (2019), section 4, and the released program.
    """
    if len(event_shape) != 3:
        raise ValueError(f"Flow++ expects images (c, h, w) and got {tuple(event_shape)}.")

    def step(channels: int, size: tuple[int, int], parity: int, depth: int, context: int = 0):
        half = channels // 2
        curve = {"mixture": MixtureCurve(components), "affine": AffineCurve()}[coupling]
        net = AttentionNet(
            half,
            curve.outputs * half,
            size,
            filters=filters,
            blocks=depth,
            heads=heads,
            context=context,
            classes=SYMMETRIES if turn and not context else 0,
            attention=attention,
            dropout=dropout,
        )
        mix = Halves(InvertibleConv(half), InvertibleConv(half))
        return [ActNorm(channels), mix, Coupling(net, curve, parity)]

    def on_checkerboards(n: int, channels: int, size: tuple[int, int], depth: int, context=0):
        narrow = (size[0], size[1] // 2)
        steps = (step(2 * channels, narrow, k % 2, depth, context) for k in range(n))
        return [Checkerboard(), *(layer for s in steps for layer in s), Inverse(Checkerboard())]

    channels, *size = event_shape
    size = tuple(size)
    noise = None
    if dequantizer == "variational" and levels is not None:
        layers = on_checkerboards(noise_couplings, channels, size, noise_blocks, encoder_filters)
        noise = VariationalDequantizer(
            Flow(Inverse(Compose(*layers, Sigmoid())), StandardNormal(*event_shape)),
            _HalvesEncoder(ConvEncoder(2 * channels, encoder_filters, encoder_blocks, dropout)),
            levels=levels,
        )
    layers = [] if levels is None else [preprocess(levels)]
    for kind, group in groupby(layout):
        n = len(list(group))
        if kind == "squeeze":
            layers += [Squeeze() for _ in range(n)]
            channels, size = channels * 4**n, (size[0] // 2**n, size[1] // 2**n)
        elif kind == "checkerboard":
            layers += on_checkerboards(n, channels, size, blocks)
        elif kind == "channels":
            layers += [layer for k in range(n) for layer in step(channels, size, k % 2, blocks)]
        else:
            raise ValueError(f"layout: expected checkerboard, channels or squeeze, got {kind!r}.")
    layers += [Inverse(Squeeze()) for kind in layout if kind == "squeeze"]
    flow = Flow(Compose(*layers), StandardNormal(*event_shape))
    if levels is None:
        return flow
    return TurnedFlow(flow, levels, noise, turn) if turn else DequantizedFlow(flow, levels, noise)
