r"""RealNVP: real-valued non-volume-preserving transformations.

An affine coupling scales as well as shifts, so the volume may change from place to place:

$$z_a = x_a, \qquad z_b = x_b \odot e^{s(x_a)} + t(x_a), \qquad \log|\det| = \sum_j s_j(x_a).$$

On images the halves are a checkerboard or half of the channels; squeezing trades space for
channels; and half of the variables leave the flow at every scale.

Book: `book/coupling/realnvp.md`. Source: Dinh, Sohl-Dickstein & Bengio (2017), arXiv:1605.08803.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import constraints

from flowcourse.bijector import Bijector, Compose, Inverse, sum_event
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.change_of_variables import Affine, Logit
from flowcourse.foundations.likelihood import DequantizedFlow
from flowcourse.nets import MLP, ResidualConvNet

__all__ = [
    "AffineCoupling",
    "BatchNorm",
    "FactorOut",
    "Squeeze",
    "alternating",
    "build",
    "channelwise",
    "checkerboard",
    "preprocess",
]

Mask = Callable[[Tensor], Tensor]
Net = Callable[..., Tensor]  # usually an nn.Module, whose parameters then train with the flow


def alternating(parity: int) -> Mask:
    """A mask for vectors: 1 where a coordinate's index has this parity (it passes unchanged)."""

    def mask(x: Float[Tensor, "batch dim"]) -> Float[Tensor, " dim"]:
        index = torch.arange(x.shape[1], device=x.device)
        return (index % 2 == parity).to(x.dtype)

    return mask


def checkerboard(parity: int) -> Mask:
    """A mask for images: 1 where row + column has this parity.

    Source: Dinh et al. (2017), section 3.4 and figure 3.
    """

    def mask(x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "1 h w"]:
        row = torch.arange(x.shape[2], device=x.device)[:, None]
        column = torch.arange(x.shape[3], device=x.device)
        return ((row + column) % 2 == parity).to(x.dtype)[None]

    return mask


def channelwise(parity: int) -> Mask:
    """A mask for images: 1 in the first half of the channels (parity 0) or the second (1)."""

    def mask(x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "c 1 1"]:
        first = torch.arange(x.shape[1], device=x.device) < x.shape[1] // 2
        return (first if parity == 0 else ~first).to(x.dtype)[:, None, None]

    return mask


class AffineCoupling(Bijector):
    r"""$z = x \odot e^{s} + t$ where the mask is 0; the other coordinates pass and decide.

    The scale is bounded, $s = \alpha \tanh(\cdot)$ with a learned $\alpha$ for each channel, so
    that no input can overflow the exponential.

    Args:
        net: maps the masked input (and the context, if one is given) to `2 * channels` channels,
            the raw scale and the shift.
        mask: 1 where a coordinate passes unchanged.
        channels: size of axis 1 of the data.
        shift_first: compute $(x + t)\,e^{s}$, as the authors' code does, instead of the paper's
            $x\,e^{s} + t$. The log-determinant is the same.

    Source: Dinh et al. (2017), eqs. 4-8 and section 3.7 (the bounded scale).
    """

    def __init__(self, net: Net, mask: Mask, channels: int, shift_first: bool = False):
        super().__init__()
        self.net = net
        self.mask = mask
        self.shift_first = shift_first
        self.scale_bound = nn.Parameter(torch.ones(channels))

    def _scale_and_shift(self, passed: Tensor, free: Tensor, context: Tensor | None):
        h = self.net(passed) if context is None else self.net(passed, context)
        raw, shift = h.chunk(2, dim=1)
        bound = self.scale_bound.reshape(-1, *[1] * (raw.dim() - 2))
        return bound * torch.tanh(raw) * free, shift * free

    def forward(self, x, context=None):
        mask = self.mask(x)
        s, t = self._scale_and_shift(x * mask, 1 - mask, context)
        z = (x + t) * s.exp() if self.shift_first else x * s.exp() + t
        return z, sum_event(s)

    def inverse(self, z, context=None):
        mask = self.mask(z)
        s, t = self._scale_and_shift(z * mask, 1 - mask, context)
        x = z * (-s).exp() - t if self.shift_first else (z - t) * (-s).exp()
        return x, -sum_event(s)


class Squeeze(Bijector):
    """Trade space for channels: `(c, h, w)` to `(4c, h/2, w/2)`; a permutation, so log|det| = 0.

    Source: Dinh et al. (2017), section 3.6.
    """

    def forward(self, x, context=None):
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(
                f"Squeeze expects an even height and width and got {x.shape[2]}x{x.shape[3]}: "
                "pad the images, or use fewer scales."
            )
        z = rearrange(x, "b c (h i) (w j) -> b (c i j) h w", i=2, j=2)
        return z, x.new_zeros(x.shape[0])

    def inverse(self, z, context=None):
        x = rearrange(z, "b (c i j) h w -> b c (h i) (w j)", i=2, j=2)
        return x, z.new_zeros(z.shape[0])


class FactorOut(Bijector):
    """Send the second half of the channels straight to the latent; transform the first half.

    The factored-out half keeps its place, so a multi-scale flow maps an image to a latent of the
    same shape, and its base stays a single density.

    Source: Dinh et al. (2017), section 3.6, eqs. 13-16.
    """

    def __init__(self, inner: Bijector):
        super().__init__()
        self.inner = inner

    def forward(self, x, context=None):
        kept, done = x.chunk(2, dim=1)
        kept, log_det = self.inner(kept, context)
        return torch.cat([kept, done], dim=1), log_det

    def inverse(self, z, context=None):
        kept, done = z.chunk(2, dim=1)
        kept, log_det = self.inner.inverse(kept, context)
        return torch.cat([kept, done], dim=1), log_det


class BatchNorm(Bijector):
    r"""Batch normalization as a bijector: $z = (x - \mu)/\sqrt{\sigma^2 + \epsilon}$ per channel.

    $$\log|\det| = -\tfrac{1}{2} \cdot \text{positions} \cdot \sum_c \log(\sigma_c^2 + \epsilon)$$

    In training, $\mu$ and $\sigma^2$ are the batch's own, so examples depend on each other and the
    value is not a density of single examples; running averages are collected on the way, and in
    `eval` mode they make this a fixed affine map. There are no learned scale and shift: the
    couplings around it have them.

    Args:
        channels: size of axis 1; statistics are taken over all other axes.
        momentum: weight of the newest batch in the running averages.
        epsilon: keeps a constant channel from dividing by zero.

    Source: Dinh et al. (2017), section 3.7 and appendix E.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, epsilon: float = 1e-5):
        super().__init__()
        self.momentum = momentum
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def _update(self, x: Tensor) -> tuple[Tensor, Tensor]:
        axes = [0, *range(2, x.dim())]
        variance, mean = torch.var_mean(x, dim=axes, correction=0)
        with torch.no_grad():
            self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
            self.variance.lerp_(variance.to(self.variance.dtype), self.momentum)
        return mean, variance

    def _broadcast(self, statistic: Tensor, x: Tensor) -> Tensor:
        return statistic.reshape(1, -1, *[1] * (x.dim() - 2))

    def _log_det(self, variance: Tensor, x: Tensor) -> Tensor:
        positions = math.prod(x.shape[2:])
        log_det = -0.5 * positions * torch.log(variance + self.epsilon).sum()
        return log_det.expand(x.shape[0])

    def forward(self, x, context=None):
        mean, variance = self._update(x) if self.training else (self.mean, self.variance)
        scale = torch.rsqrt(variance + self.epsilon)
        z = (x - self._broadcast(mean, x)) * self._broadcast(scale, x)
        return z, self._log_det(variance, x)

    def inverse(self, z, context=None):
        if self.training:
            raise RuntimeError(
                "BatchNorm inverts with its running averages, which differ from the batch "
                "statistics that training uses: call .eval() before sampling."
            )
        scale = torch.sqrt(self.variance + self.epsilon)
        x = z * self._broadcast(scale, z) + self._broadcast(self.mean, z)
        return x, -self._log_det(self.variance, z)


def preprocess(
    levels: int, form: Literal["code", "paper"] = "code", alpha: float | Tensor = 0.05
) -> Bijector:
    r"""Squash levels into the open unit interval, then apply the logit.

    `"code"` maps $[0, \text{levels}]$ to $[\alpha, 1 - \alpha]$, as the authors' program does.
    `"paper"` is the printed $\alpha + (1 - \alpha)x/\text{levels}$, which reaches 1, where the
    logit is infinite.

    Source: Dinh et al. (2017), section 4.1; the program released with it.
    """
    width = {"code": 1 - 2 * alpha, "paper": 1 - alpha}[form]
    squashed = Compose(Affine(shift=alpha, scale=width / levels), Logit())
    squashed.domain = constraints.interval(0, levels)  # where both maps together are defined
    return squashed


def build(
    event_shape: Sequence[int],
    levels: int | None,
    *,
    scales: int = 2,
    couplings: int = 3,
    final_couplings: int = 4,
    hidden: int = 32,
    growth: int = 2,
    blocks: int = 4,
    dropout: float = 0.0,
    batch_norm: bool = True,
    normalize_weights: bool = True,
    preprocessing: Literal["code", "paper"] = "code",
    shift_first: bool = False,
) -> Flow | DequantizedFlow:
    """RealNVP for images `(c, h, w)` or vectors `(d,)`.

    Args:
        event_shape: shape of one example.
        levels: number of levels of discrete data, or None for continuous data.
        scales: number of scales of an image; the last one does not squeeze.
        couplings: per scale, this many checkerboard and this many channel couplings; for vectors,
            the number of couplings in all.
        final_couplings: checkerboard couplings of the last scale.
        hidden: channels of the conditioners at the first scale (width of the MLP for vectors).
        growth: factor by which they grow from one scale to the next.
        blocks: residual blocks of each conditioner (hidden layers of the MLP for vectors).
        dropout: in the conditioners.
        batch_norm: put a `BatchNorm` after each coupling.
        normalize_weights: weight normalization in the conditioners.
        preprocessing: see `preprocess`.
        shift_first: see `AffineCoupling`.

    Source: Dinh et al. (2017), sections 3.6 and 4.1.
    """

    def step(net: nn.Module, mask: Mask, channels: int) -> list[Bijector]:
        coupling = AffineCoupling(net, mask, channels, shift_first)
        return [coupling, BatchNorm(channels)] if batch_norm else [coupling]

    def steps(n: int, channels: int, width: int, mask: Callable[[int], Mask]) -> list[Bijector]:
        layers: list[Bijector] = []
        for k in range(n):
            net = ResidualConvNet(channels, width, 2 * channels, blocks, dropout, normalize_weights)
            layers += step(net, mask(k % 2), channels)
        return layers

    def scale(channels: int, width: int, remaining: int) -> Bijector:
        if remaining == 1:
            return Compose(*steps(final_couplings, channels, width, checkerboard))
        return Compose(
            *steps(couplings, channels, width, checkerboard),
            Squeeze(),
            *steps(couplings, 4 * channels, growth * width, channelwise),
            FactorOut(scale(2 * channels, growth * width, remaining - 1)),
            Inverse(Squeeze()),
        )

    layers: list[Bijector] = [] if levels is None else [preprocess(levels, preprocessing)]
    if len(event_shape) == 3:
        layers.append(scale(event_shape[0], hidden, scales))
    elif len(event_shape) == 1:
        (dims,) = event_shape
        for k in range(couplings):
            net = MLP(dims, [hidden] * blocks, 2 * dims, dropout)
            layers += step(net, alternating(k % 2), dims)
    else:
        raise ValueError(
            f"RealNVP expects images (c, h, w) or vectors (d,) and got {tuple(event_shape)}: "
            "reshape each example to one of the two."
        )
    flow = Flow(Compose(*layers), StandardNormal(*event_shape))
    return flow if levels is None else DequantizedFlow(flow, levels)
