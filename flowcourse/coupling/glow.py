r"""Glow: generative flow with invertible 1x1 convolutions.

A step of Glow is three maps, and a level of the model is a squeeze and many steps:

$$\text{actnorm: } s \odot (x + b), \qquad \text{1x1 convolution: } W x_{ij}, \qquad
  \text{coupling: } z_b = (x_b + t(x_a)) \odot \sigma(h(x_a) + 2).$$

Actnorm needs no batch, the convolution learns how channels are mixed, and the half that leaves at
each level has a prior that the other half predicts.

Book: `book/coupling/glow.md`. Source: Kingma & Dhariwal (2018), arXiv:1807.03039, and the program
released with it ("the code" below; the chapter lists where it differs from the paper).
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowcourse.bijector import Bijector, Compose, Inverse, sum_event
from flowcourse.coupling.dequantization import VariationalDequantizer, noise_flow, preprocess
from flowcourse.coupling.glow_step import (
    ActNorm,
    GlowCoupling,
    InvertibleConv,
    Net,
    Permutation,
    per_channel,
    reversal,
)
from flowcourse.coupling.realnvp import FactorOut, Squeeze
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.likelihood import DequantizedFlow
from flowcourse.nets import MLP

__all__ = [
    "ActNorm",
    "GlowCoupling",
    "GlowNet",
    "InvertibleConv",
    "Permutation",
    "SplitPrior",
    "TopPrior",
    "ZeroConv2d",
    "build",
    "reversal",
]

Coupling = Literal["affine", "exp", "additive"]
Mixing = Literal["conv", "direct", "shuffle", "reverse"]


# The conditioner


class ZeroConv2d(nn.Conv2d):
    r"""A 3x3 convolution that starts at 0, times a learned $e^{3\ell}$ for each channel out.

    The factor 3 makes $\ell$ learn faster. Source: Kingma & Dhariwal (2018), section 3.3; the code.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, kernel_size=3, padding=1)
        self.log_scale = nn.Parameter(torch.zeros(outputs))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch k h w"]:
        """Convolve and scale."""
        h = super().forward(x)
        return h * per_channel((3 * self.log_scale).exp(), h)


class GlowNet(nn.Module):
    """The conditioner: 3x3, 1x1 and 3x3 convolution, actnorm and ReLU after the first two.

    The code gives its 3x3 convolutions one more input channel, which marks the padding around the
    image. It is left out here, as in other programs and in the counts that papers print.

    Args:
        inputs: channels in.
        hidden: channels of the hidden layers.
        outputs: channels out; they start at zero.
        dropout: probability of dropping a whole feature map in training.

    Source: Kingma & Dhariwal (2018), section 5 and the code.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, dropout: float = 0.0):
        super().__init__()
        self.first = nn.Conv2d(inputs, hidden, kernel_size=3, padding=1, bias=False)
        self.second = nn.Conv2d(hidden, hidden, kernel_size=1, bias=False)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=0.05)
        self.first_norm, self.second_norm = ActNorm(hidden), ActNorm(hidden)
        self.dropout = nn.Dropout2d(dropout)
        self.last = ZeroConv2d(hidden, outputs)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch k h w"]:
        """Apply the network."""
        h = F.relu(self.first_norm(self.first(x))[0])
        h = F.relu(self.second_norm(self.second(h))[0])
        return self.last(self.dropout(h))


# Priors, as maps to a standard normal


class SplitPrior(Bijector):
    r"""$z_b = (x_b - \mu(x_a))\,e^{-\ell(x_a)}$: the half that leaves, given the half that stays.

    A normal prior $\mathcal{N}(\mu(x_a), e^{2\ell(x_a)})$ of the second half, written as a map to
    the standard normal: all noise of the model is then standard, and one temperature scales it.

    Args:
        net: maps the first half of the channels to $\mu$ and $\ell$ of the second half.

    Source: Kingma & Dhariwal (2018), the code (`split2d_prior`).
    """

    def __init__(self, net: Net):
        super().__init__()
        self.net = net

    def forward(self, x, context=None):
        kept, done = x.chunk(2, dim=1)
        mean, log_scale = self.net(kept).to(x.dtype).chunk(2, dim=1)
        return torch.cat([kept, (done - mean) * (-log_scale).exp()], dim=1), -sum_event(log_scale)

    def inverse(self, z, context=None):
        kept, done = z.chunk(2, dim=1)
        mean, log_scale = self.net(kept).to(z.dtype).chunk(2, dim=1)
        return torch.cat([kept, done * log_scale.exp() + mean], dim=1), sum_event(log_scale)


class TopPrior(Bijector):
    r"""$z = (x - \mu)\,e^{-\ell}$ per channel, with $\mu$ and $\ell$ of each class.

    Args:
        channels: size of axis 1.
        classes: number of classes, whose labels are then the context, integers of shape
            `(batch,)`; None for one prior for all.

    Source: Kingma & Dhariwal (2018), the code (`prior`). There a convolution of zeros stands in
    the place of the parameters; only its bias and scale can matter.
    """

    def __init__(self, channels: int, classes: int | None = None):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(classes or 1, 2 * channels))
        self.classes = classes

    def _of(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.classes is None:
            rows: Tensor = self.table
        elif labels is None or labels.shape != (len(x),):
            found = "none" if labels is None else f"shape {tuple(labels.shape)}"
            raise ValueError(
                f"A model of {self.classes} classes expects context=labels, integers of shape "
                f"({len(x)},), and got {found}."
            )
        else:
            rows = F.embedding(labels, self.table)
        mean, log_scale = rows.reshape(len(rows), -1, *[1] * (x.dim() - 2)).chunk(2, dim=1)
        return mean.expand_as(x), log_scale.expand_as(x)

    def forward(self, x, context=None):
        mean, log_scale = self._of(x, context)
        return (x - mean) * (-log_scale).exp(), -sum_event(log_scale)

    def inverse(self, z, context=None):
        mean, log_scale = self._of(z, context)
        return z * log_scale.exp() + mean, sum_event(log_scale)


# The model


def mixing(kind: str, channels: int) -> Bijector:
    """What comes between two couplings: a 1x1 convolution or a fixed permutation."""
    if kind == "shuffle":
        return Permutation(torch.randperm(channels))
    if kind == "reverse":
        return reversal(channels)
    return InvertibleConv(channels, "plu" if kind == "conv" else kind)


def build(
    event_shape: Sequence[int],
    levels: int | None,
    *,
    scales: int = 3,
    steps: int = 32,
    hidden: int = 512,
    coupling: Coupling = "affine",
    permutation: Mixing = "conv",
    dropout: float = 0.0,
    learned_prior: bool = True,
    classes: int | None = None,
    preprocessing: Literal["centred", "logit"] = "centred",
    dequantizer: Literal["uniform", "variational"] = "uniform",
    noise_couplings: int = 4,
    noise_hidden: int = 16,
) -> Flow | DequantizedFlow:
    """Glow for images `(c, h, w)` or vectors `(d,)`; the defaults are the paper's for CIFAR-10.

    Args:
        event_shape: shape of one example.
        levels: number of levels of discrete data, or None for continuous data.
        scales: the paper's L; every scale squeezes, and all but the last factor out half of their
            channels. Vectors have one scale.
        steps: the paper's K, the steps of each scale.
        hidden: channels of the conditioners (width of their two hidden layers for vectors).
        coupling: see `GlowCoupling`.
        permutation: `conv` for the 1x1 convolution as a PLU product, `direct` for the plain
            matrix, `shuffle` for a fixed random order, `reverse` for the opposite order.
        dropout: in the conditioners.
        learned_prior: learn the priors of the halves that leave, and of the last scale's channels.
        classes: number of classes, if the prior of the last scale is that of an example's class;
            the labels are the model's context.
        preprocessing: of discrete data: `centred` as in the code, or RealNVP's `logit`, see
            `flowcourse.coupling.dequantization.preprocess`.
        dequantizer: of discrete data: `uniform` noise, as in the paper, or `variational` noise
            from a flow that sees the image.
        noise_couplings: couplings of that flow.
        noise_hidden: channels of their networks.

    Source: Kingma & Dhariwal (2018), sections 3 and 5; the code.
    """

    def step(channels: int, net: nn.Module) -> list[Bijector]:
        return [ActNorm(channels), mixing(permutation, channels), GlowCoupling(net, coupling)]

    def outputs(changed: int) -> int:
        return changed if coupling == "additive" else 2 * changed

    def top(channels: int) -> list[Bijector]:
        return [TopPrior(channels, classes)] if learned_prior or classes is not None else []

    def scale(channels: int, remaining: int) -> Bijector:
        half = 2 * channels
        layers: list[Bijector] = [Squeeze()]
        for _ in range(steps):
            layers += step(2 * half, GlowNet(half, hidden, outputs(half), dropout))
        if remaining == 1:
            layers += top(2 * half)
        else:
            layers += [SplitPrior(ZeroConv2d(half, 2 * half))] if learned_prior else []
            layers.append(FactorOut(scale(half, remaining - 1)))
        return Compose(*layers, Inverse(Squeeze()))

    layers: list[Bijector] = [] if levels is None else [preprocess(levels, preprocessing)]
    if len(event_shape) == 3:
        layers.append(scale(event_shape[0], scales))
    elif len(event_shape) == 1 and event_shape[0] > 1:
        (dims,) = event_shape
        passed = (dims + 1) // 2
        for _ in range(steps):
            net = MLP(passed, [hidden] * 2, outputs(dims - passed), dropout)
            layers += step(dims, net)
        layers += top(dims)
    else:
        raise ValueError(
            f"Glow expects images (c, h, w) or vectors (d,) of two numbers or more and got "
            f"{tuple(event_shape)}: reshape each example to one of the two."
        )
    flow = Flow(Compose(*layers), StandardNormal(*event_shape))
    model: Flow | DequantizedFlow = flow
    if levels is not None:
        noise = None
        if dequantizer == "variational":
            channels = event_shape[0]
            q = noise_flow(event_shape, channels, couplings=noise_couplings, hidden=noise_hidden)
            noise = VariationalDequantizer(q, levels=levels)
        model = DequantizedFlow(flow, levels, noise)
    model.class_conditional = classes is not None
    return model
