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

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowcourse.bijector import Bijector, Compose, Inverse
from flowcourse.coupling.dequantization import VariationalDequantizer
from flowcourse.coupling.flowpp_curve import (
    AffineCurve,
    MixtureCurve,
    NoConvergenceError,
    invert_mixture,
    mixture_logit,
)
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

    def __init__(self, net: Callable[..., Tensor], curve: Bijector, parity: int):
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
            context = torch.zeros(len(x), dtype=torch.int64, device=x.device)
            if self.training:
                context = random_symmetry(x, self.turn)
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
    dequantizer: str = "variational",
    coupling: str = "mixture",
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
        ValueError: examples that are no images, an unknown choice, halves of an odd number of
            channels, or images to be turned that are not square.

    The released programs state their numbers of parameters, and these are ours for CIFAR-10:

    | | program | here |
    | --- | --- | --- |
    | all of it | 31,443,440 | 31,365,152 |
    | uniform noise, 104 filters | 32,324,408 | 32,270,552 |
    | affine, 108 filters | 32,045,708 | 31,967,420 |
    | no attention | 31,443,440 | 31,365,152 |

    The networks agree to the last number. Their actnorm has a scale and a shift for each number of
    an image and ours for each channel: 79,872 against 288 parameters, with learned noise. Their 1x1
    convolution is a plain matrix and ours its PLU form: 1,152 against 2,448, of which the zeros of
    the triangles never change.

    Where this differs otherwise: the program sorts even and odd columns and calls that a
    checkerboard, sets its convolutions up from the first batch, and shows the networks where a
    place is in the attention only.

    The programs for ImageNet are not quite this model, and the sizes below, counted layer by layer,
    are all of the difference from the numbers that they state:

    | | 32 x 32 | 64 x 64, 5 bits |
    | --- | --- | --- |
    | here | 157,239,204 | 64,995,392 |
    | twice as many channels before the last convolution of a network | +11,176,704 | +9,434,880 |
    | gains of weight normalization | +354,438 | |
    | actnorm for each number of an image, here for each channel | +128,628 | +390,096 |
    | attention and layer norm where an image is encoded | +59,648 | +320 |
    | no 1x1 convolutions | -2,898 | -395,688 |
    | no attention in the dequantizer | | -935,040 |
    | program | 168,955,724 | 73,489,960 |

    Source: Ho et al. (2019), section 4, and the released program.
    """
    if dequantizer not in ("variational", "uniform"):
        raise ValueError(f"dequantizer is 'variational' or 'uniform', not {dequantizer!r}.")
    if coupling not in ("mixture", "affine"):
        raise ValueError(f"coupling is 'mixture' or 'affine', not {coupling!r}.")
    if len(event_shape) != 3:
        raise ValueError(f"Flow++ expects images (c, h, w) and got {tuple(event_shape)}.")

    def step(
        channels: int, size: tuple[int, int], parity: int, depth: int, context: int = 0
    ) -> list[Bijector]:
        half, odd = divmod(channels, 2)
        if odd:
            raise ValueError(f"{channels} channels have no halves: squeeze first.")
        curve = MixtureCurve(components) if coupling == "mixture" else AffineCurve()
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

    def on_checkerboards(
        n: int, channels: int, size: tuple[int, int], depth: int, context: int = 0
    ) -> list[Bijector]:
        narrow = (size[0], size[1] // 2)
        steps = (step(2 * channels, narrow, k % 2, depth, context) for k in range(n))
        return [Checkerboard(), *(layer for s in steps for layer in s), Inverse(Checkerboard())]

    channels, height, width = event_shape
    size = (height, width)
    if turn and (levels is None or height != width):
        raise ValueError(
            f"turn={turn} needs square images of discrete levels, and these are {height} x {width} "
            f"with levels={levels}: set turn=0."
        )
    noise = None
    if dequantizer == "variational" and levels is not None:
        q = on_checkerboards(noise_couplings, channels, size, noise_blocks, encoder_filters)
        noise = VariationalDequantizer(
            Flow(Inverse(Compose(*q, Sigmoid())), StandardNormal(*event_shape)),
            _HalvesEncoder(ConvEncoder(2 * channels, encoder_filters, encoder_blocks, dropout)),
            levels=levels,
        )
    layers: list[Bijector] = [] if levels is None else [preprocess(levels)]
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
            raise ValueError(f"layout has checkerboard, channels and squeeze, not {kind!r}.")
    layers += [Inverse(Squeeze()) for kind in layout if kind == "squeeze"]
    flow = Flow(Compose(*layers), StandardNormal(*event_shape))
    if levels is None:
        return flow
    return TurnedFlow(flow, levels, noise, turn) if turn else DequantizedFlow(flow, levels, noise)
