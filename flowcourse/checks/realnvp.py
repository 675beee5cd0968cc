"""What the answers to the problem set on RealNVP must satisfy.

The mistakes are wrong on purpose. Their names are what a student reads.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowcourse.bijector import Compose, sum_event
from flowcourse.checks import at_most, close, equal, exercise
from flowcourse.coupling import nice, realnvp
from flowcourse.data.toys import Moons
from flowcourse.flow import Flow, StandardNormal

# Topics that an answer may import, besides the modules that all topics share.
MAY_USE = ("change_of_variables", "likelihood", "nice")

CHAPTER = "book/coupling/realnvp.md"


# 1. Affine coupling


class AffineReference(nn.Module):
    """The layer with a given mask and a given bound of the scale."""

    def __init__(self, net, mask, bound):
        super().__init__()
        self.layer = realnvp.AffineCoupling(net, lambda x: mask, channels=1).to(mask)
        self.layer.scale_bound.data.fill_(bound)

    def forward(self, x):
        return self.layer(x)

    def inverse(self, z):
        return self.layer.inverse(z)


class ByHand:
    """The same layer in pieces, so that each mistake changes one of them."""

    def __init__(self, net, mask, bound):
        self.net, self.mask, self.bound = net, mask, bound

    def outputs(self, x):
        return self.net(x * self.mask).chunk(2, dim=1)

    def squash(self, raw):
        return self.bound * torch.tanh(raw)

    def scale_and_shift(self, x):
        raw, shift = self.outputs(x)
        return self.squash(raw) * (1 - self.mask), shift * (1 - self.mask)

    def log_det(self, s):
        return sum_event(s)

    def forward(self, x):
        s, t = self.scale_and_shift(x)
        return x * s.exp() + t, self.log_det(s)

    def inverse(self, z):
        s, t = self.scale_and_shift(z)
        return (z - t) * (-s).exp(), self.log_det(-s)


class NegativeLogDet(ByHand):
    def log_det(self, s):
        return -sum_event(s)


class MeanLogDet(ByHand):
    def log_det(self, s):
        return s.flatten(start_dim=1).mean(dim=1)


class LogDetOfScales(ByHand):
    def log_det(self, s):
        return sum_event((1 - self.mask) * s.exp())


class SumsOneAxis(ByHand):
    def log_det(self, s):
        return s.sum(dim=1)


class CountsEveryScale(ByHand):
    def _all(self, x):
        return sum_event(self.squash(self.outputs(x)[0]))

    def forward(self, x):
        return super().forward(x)[0], self._all(x)

    def inverse(self, z):
        return super().inverse(z)[0], -self._all(z)


class SameLogDetBothWays(ByHand):
    def inverse(self, z):
        x, log_det = super().inverse(z)
        return x, -log_det


class Unbounded(ByHand):
    def squash(self, raw):
        return raw


class Clamped(ByHand):
    def squash(self, raw):
        return raw.clamp(-self.bound, self.bound)


class BoundInside(ByHand):
    def squash(self, raw):
        return torch.tanh(self.bound * raw)


class ShiftComesFirst(ByHand):
    def outputs(self, x):
        shift, raw = super().outputs(x)
        return raw, shift


class SeesEverything(ByHand):
    def outputs(self, x):
        return self.net(x).chunk(2, dim=1)


class WrongHalf(ByHand):
    def __init__(self, net, mask, bound):
        super().__init__(net, 1 - mask, bound)


class UndoneInTheWrongOrder(ByHand):
    def inverse(self, z):
        s, t = self.scale_and_shift(z)
        return z * (-s).exp() - t, self.log_det(-s)


@exercise(
    "realnvp.affine_coupling",
    read=f"{CHAPTER}#realnvp-coupling",
    hint="compute s and t once, zero where the mask is 1; then z, x and both log_dets are one "
    "line each.",
)
class AffineCoupling:
    reference = AffineReference
    parts = {
        "z": 1,
        "log_det": 1,
        "x": 1,
        "inverse_log_det": 1,
        "image_log_det": 1,
        "saturated": 1,
    }
    mistakes = {
        "your log_dets are the negatives of the expected ones: which direction is each for?": (
            NegativeLogDet
        ),
        "log_det is the mean of s: a determinant is a product, so what is its logarithm?": (
            MeanLogDet
        ),
        "log_det is the sum of exp(s): the diagonal holds exp(s), and what is the logarithm of a "
        "product of those?": LogDetOfScales,
        "log_det of an image keeps its height and width: how many determinants has one example?": (
            SumsOneAxis
        ),
        "log_det counts the scales of the coordinates that pass, too: what stands on the diagonal "
        "there?": CountsEveryScale,
        "inverse returns forward's log_det: what happens to a volume on the way back?": (
            SameLogDetBothWays
        ),
        "the raw scale goes into the exponential as it is: what does exp(1000) give?": Unbounded,
        "the scale is clipped at the bound: where it is clipped, can training still move it?": (
            Clamped
        ),
        "the bound multiplies inside tanh: between which values does s lie then?": BoundInside,
        "the scale and the shift are exchanged: which half of the network's outputs is the raw "
        "scale?": ShiftComesFirst,
        "the network is fed coordinates that change: can the inverse, which does not have them "
        "yet, compute the same scale?": SeesEverything,
        "the wrong coordinates pass: a 1 in the mask means that a coordinate stays as it is": (
            WrongHalf
        ),
        "the inverse divides first and subtracts then: what was done last on the way forward?": (
            UndoneInTheWrongOrder
        ),
    }

    def draw(rng):
        import numpy as np

        batch, dims = int(rng.integers(3, 6)), int(rng.integers(4, 8))
        mask = rng.permutation(np.arange(dims) % 2).astype(float)
        row, column = np.indices((4, 6))
        return {
            "x": rng.normal(size=(batch, dims)),
            "mask": mask,
            "image": rng.normal(size=(batch, 2, 4, 6)),
            "image_mask": ((row + column + int(rng.integers(2))) % 2)[None].astype(float),
            "bound": float(rng.choice([rng.uniform(0.3, 0.8), rng.uniform(1.3, 2.0)])),
        }

    def probe(answer, x, mask, image, image_mask, bound):
        from torch import nn

        dims = x.shape[1]
        net = nn.Sequential(nn.Linear(dims, 16), nn.Tanh(), nn.Linear(16, 2 * dims)).double()
        net[2].weight.data *= 6  # so that some of the scales come near their bound
        conv = nn.Conv2d(2, 4, kernel_size=3, padding=1).double()

        def extreme(masked):
            return 1e4 * net(masked)

        layer = answer(net, mask, bound)
        return {
            "z": lambda: layer.forward(x.clone())[0],
            "log_det": lambda: layer.forward(x.clone())[1],
            "x": lambda: layer.inverse(x.clone())[0],
            "inverse_log_det": lambda: layer.inverse(x.clone())[1],
            "image_log_det": lambda: answer(conv, image_mask, bound).forward(image.clone())[1],
            "saturated": lambda: answer(extreme, mask, bound).forward(x.clone())[0],
        }


# 2. Checkerboard and squeeze


class Layout:
    """Where the pixels of an image go."""

    @staticmethod
    def checkerboard(parity, height, width):
        return realnvp.checkerboard(parity)(torch.zeros(1, 1, height, width))[0]

    @staticmethod
    def squeeze(x):
        return realnvp.Squeeze()(x)[0]

    @staticmethod
    def unsqueeze(z):
        return realnvp.Squeeze().inverse(z)[0]


def _fold(x: Tensor, order: str) -> Tensor:
    """Squeeze with the new channels in another order of (c)hannel, row (i) and column (j)."""
    from einops import rearrange

    return rearrange(x, f"b c (h i) (w j) -> b ({' '.join(order)}) h w", i=2, j=2)


def _unfold(z: Tensor, order: str) -> Tensor:
    from einops import rearrange

    return rearrange(z, f"b ({' '.join(order)}) h w -> b c (h i) (w j)", i=2, j=2)


class OtherParity(Layout):
    @staticmethod
    def checkerboard(parity, height, width):
        return Layout.checkerboard(1 - parity, height, width)


class Stripes(Layout):
    @staticmethod
    def checkerboard(parity, height, width):
        column = torch.arange(width).expand(height, width)
        return (column % 2 == parity).float()


class EverySecondPixel(Layout):
    @staticmethod
    def checkerboard(parity, height, width):
        index = torch.arange(height * width).reshape(height, width)
        return (index % 2 == parity).float()


class Reshapes(Layout):
    @staticmethod
    def squeeze(x):
        b, c, h, w = x.shape
        return x.reshape(b, 4 * c, h // 2, w // 2)

    @staticmethod
    def unsqueeze(z):
        b, c, h, w = z.shape
        return z.reshape(b, c // 4, 2 * h, 2 * w)


class Quadrants(Layout):
    @staticmethod
    def squeeze(x):
        from einops import rearrange

        return rearrange(x, "b c (i h) (j w) -> b (c i j) h w", i=2, j=2)

    @staticmethod
    def unsqueeze(z):
        from einops import rearrange

        return rearrange(z, "b (c i j) h w -> b c (i h) (j w)", i=2, j=2)


class PositionBeforeChannel(Layout):
    @staticmethod
    def squeeze(x):
        return _fold(x, "ijc")

    @staticmethod
    def unsqueeze(z):
        from einops import rearrange

        return rearrange(z, "b (i j c) h w -> b c (h i) (w j)", i=2, j=2)


class RowsAndColumnsExchanged(Layout):
    @staticmethod
    def squeeze(x):
        return _fold(x, "cji")

    @staticmethod
    def unsqueeze(z):
        return _unfold(z.reshape(z.shape), "cji") if False else _exchange(z)


def _exchange(z: Tensor) -> Tensor:
    from einops import rearrange

    return rearrange(z, "b (c j i) h w -> b c (h i) (w j)", i=2, j=2)
