"""What the answers to the problem set on Glow must satisfy.

The mistakes are wrong on purpose. Their names are what a student reads.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowcourse.bijector import Compose, sum_event
from flowcourse.checks import at_most, equal, exercise
from flowcourse.checks.compare import close
from flowcourse.checks.fitted import (
    AveragedCoordinates,
    Fitted,
    SubtractsTheLogDet,
    trained_once,
)
from flowcourse.checks.held_out import at_points, mass
from flowcourse.coupling import glow
from flowcourse.flow import Flow, StandardNormal
from flowcourse.nets import MLP

# Topics that an answer may import, besides the modules that all topics share.
MAY_USE = ("change_of_variables", "likelihood", "nice", "realnvp", "dequantization")

CHAPTER = "book/coupling/glow.md"


# 1. Actnorm


class ByHand(nn.Module):
    """The layer in pieces, so that each mistake changes one of them."""

    def __init__(self, channels):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(False))

    def statistics(self, x):
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
        return mean, torch.where(variance > 1e-16, variance.sqrt(), 1.0)

    def start(self, x):
        mean, deviation = self.statistics(x)
        self.shift.data, self.log_scale.data = -mean, -deviation.log()

    def needs_start(self):
        return self.training and not self.initialized

    def positions(self, x):
        return x.shape[2] * x.shape[3]

    def log_det(self, x):
        return (self.positions(x) * self.log_scale.sum()).expand(len(x))

    def move(self, x):
        return (x + self.shift) * self.log_scale.exp()

    def forward(self, x):
        if self.needs_start():
            self.start(x)
            self.initialized.fill_(True)
        return self.move(x), self.log_det(x)

    def inverse(self, z):
        return z * (-self.log_scale).exp() - self.shift, -self.log_det(z)


class CountsEachChannelOnce(ByHand):
    def positions(self, x):
        return 1


class CountsTheBatch(ByHand):
    def positions(self, x):
        return len(x) * super().positions(x)


class NegativeLogDet(ByHand):
    def log_det(self, x):
        return -super().log_det(x)


class NormalizesPixels(ByHand):
    def statistics(self, x):
        variance, mean = torch.var_mean(x, dim=0, correction=0, keepdim=True)
        return mean, torch.where(variance > 1e-16, variance.sqrt(), 1.0)

    def positions(self, x):
        return 1


class StartsWithEveryBatch(ByHand):
    def needs_start(self):
        return self.training


class ForgetsWhenSaved(ByHand):
    def __init__(self, channels):
        super().__init__(channels)
        del self.initialized
        self.initialized = torch.tensor(False)


class DividesByZero(ByHand):
    def statistics(self, x):
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
        return mean, variance.sqrt()


class DividesByTheVariance(ByHand):
    def statistics(self, x):
        mean, deviation = super().statistics(x)
        return mean, deviation.square()


class ShiftsAfterScaling(ByHand):
    def move(self, x):
        return x * self.log_scale.exp() + self.shift

    def inverse(self, z):
        return (z - self.shift) * (-self.log_scale).exp(), -self.log_det(z)


@exercise(
    "glow.actnorm",
    read=f"{CHAPTER}#glow-actnorm",
    hint="a buffer says whether the first batch has been seen; buffers are saved and loaded with "
    "the parameters.",
)
class ActNorm:
    reference = glow.ActNorm
    parts = {
        "z": 1,
        "log_det": 1,
        "later_z": 1,
        "x": 1,
        "inverse_log_det": 1,
        "constant_channel": 1,
        "loaded": 1,
    }
    # Wide enough for a guard such as adding 1e-6 to the deviation.
    compare = {part: close(1e-4) for part in parts}
    mistakes = {
        "log_det counts each channel once: how many numbers of one example does a channel scale?": (
            CountsEachChannelOnce
        ),
        "log_det grows with the batch: it is that of one example": CountsTheBatch,
        "your log_dets are the negatives of the expected ones: which direction is each for?": (
            NegativeLogDet
        ),
        "every pixel has a mean and a scale of its own: statistics are of a channel, over the "
        "batch and all positions": NormalizesPixels,
        "every batch in training starts the layer again: then it is batch normalization, and "
        "examples depend on each other": StartsWithEveryBatch,
        "a loaded layer starts again with the next batch: what in its state says that it has been "
        "started?": ForgetsWhenSaved,
        "a constant channel gives NaN: what is 0 divided by 0?": DividesByZero,
        "the channel is divided by its variance: which power of the scale has variance 1?": (
            DividesByTheVariance
        ),
        "the mean is subtracted after the scaling: of what is it the mean?": ShiftsAfterScaling,
    }

    def draw(rng):
        channels, h, w = (int(n) for n in rng.integers([2, 2, 2], [5, 5, 5]))
        shape = (channels, 1, 1)
        spread, centre = rng.uniform(1.5, 4, size=shape), rng.normal(size=shape)
        ramp = rng.normal(size=(channels, h, w))  # pixels of one channel have different means
        batch = centre + spread * (rng.normal(size=(12, channels, h, w)) + ramp)
        flat = batch.copy()
        flat[:, 0] = float(rng.choice([0.0, rng.normal()]))
        return {"batch": batch, "flat": flat, "x": rng.normal(size=(5, channels, h, w))}

    def probe(answer, batch, flat, x):
        def fresh():
            return answer(x.shape[1]).double().train()

        layer = fresh()
        z, log_det = layer.forward(batch.clone())

        def loaded():
            other = fresh()
            other.load_state_dict(layer.state_dict())
            return other.train().forward(x.clone())[0]

        return {
            "z": lambda: z,
            "log_det": lambda: log_det,
            "later_z": lambda: layer.forward(x.clone())[0],
            "x": lambda: layer.inverse(x.clone())[0],
            "inverse_log_det": lambda: layer.inverse(x.clone())[1],
            "constant_channel": lambda: fresh().forward(flat.clone())[0],
            "loaded": loaded,
        }


# 2. The invertible 1x1 convolution


class ConvReference(nn.Module):
    """The layer with a given matrix."""

    def __init__(self, weight):
        super().__init__()
        self.layer = glow.InvertibleConv(len(weight), "direct").to(weight)
        self.layer.matrix.data = weight

    def forward(self, x):
        return self.layer(x)

    def inverse(self, z):
        return self.layer.inverse(z)


class ConvByHand:
    def __init__(self, weight):
        self.weight = weight

    def mix(self, matrix, x):
        return torch.einsum("ij,bjhw->bihw", matrix, x)

    def one_position(self):
        return torch.linalg.slogdet(self.weight)[1]

    def positions(self, x):
        return x.shape[2] * x.shape[3]

    def forward(self, x):
        log_det = self.positions(x) * self.one_position()
        return self.mix(self.weight, x), log_det.expand(len(x))

    def inverse(self, z):
        log_det = -self.positions(z) * self.one_position()
        return self.mix(self.weight.inverse(), z), log_det.expand(len(z))


class OnePosition(ConvByHand):
    def positions(self, x):
        return 1


class CountsChannelsToo(ConvByHand):
    def positions(self, x):
        return x[0].numel()


class NegativeConv(ConvByHand):
    def one_position(self):
        return -super().one_position()


class WithoutAbs(ConvByHand):
    def one_position(self):
        return self.weight.det().log()


class SignForLogarithm(ConvByHand):
    def one_position(self):
        return torch.linalg.slogdet(self.weight)[0]


class WithoutLogarithm(ConvByHand):
    def one_position(self):
        return self.weight.det().abs()


class Transposed(ConvByHand):
    def mix(self, matrix, x):
        return super().mix(matrix.T, x)


class AddsTheInput(ConvByHand):
    def mix(self, matrix, x):
        return x + super().mix(matrix, x)

    def inverse(self, z):
        x = z - super().mix(self.weight.inverse(), z)
        return x, super().inverse(z)[1]


class TransposeForInverse(ConvByHand):
    def inverse(self, z):
        return self.mix(self.weight.T, z), super().inverse(z)[1]


class SameBothWays(ConvByHand):
    def inverse(self, z):
        x, log_det = super().inverse(z)
        return x, -log_det


@exercise(
    "glow.invertible_conv",
    read=f"{CHAPTER}#glow-conv",
    hint="write the Jacobian of an image with two positions as a matrix of blocks.",
)
class InvertibleConv:
    reference = ConvReference
    parts = {"z": 1, "log_det": 2, "x": 1, "inverse_log_det": 1}
    mistakes = {
        "log_det is that of one position: how often does W stand on the Jacobian's diagonal?": (
            OnePosition
        ),
        "log_det counts the channels as well: W mixes them all at once": CountsChannelsToo,
        "your log_dets are the negatives of the expected ones": NegativeConv,
        "log_det is NaN where W mirrors, as half of all rotations do: volumes have no sign": (
            WithoutAbs
        ),
        "log_det is the sign of the determinant: slogdet returns two things": SignForLogarithm,
        "log_det is the determinant's size times the positions: where is the logarithm?": (
            WithoutLogarithm
        ),
        "W is transposed: output channel i is the sum over j of W[i, j] times input channel j": (
            Transposed
        ),
        "forward adds x to W x: does W^-1 undo that?": AddsTheInput,
        "the inverse multiplies by the transpose: for which matrices is that the inverse?": (
            TransposeForInverse
        ),
        "inverse returns forward's log_det: what happens to a volume on the way back?": (
            SameBothWays
        ),
    }

    def draw(rng):
        channels, h, w = (int(n) for n in rng.integers([2, 2, 2], [6, 5, 5]))
        rotation, _ = np.linalg.qr(rng.normal(size=(channels, channels)))
        weight = rotation * rng.uniform(1.2, 2.5, size=channels)
        if np.linalg.det(weight) > 0:
            weight[[0, 1]] = weight[[1, 0]]
        return {"weight": weight, "x": rng.normal(size=(4, channels, h, w))}

    def probe(answer, weight, x):
        layer = answer(weight.clone())
        return {
            "z": lambda: layer.forward(x.clone())[0],
            "log_det": lambda: layer.forward(x.clone())[1],
            "x": lambda: layer.inverse(x.clone())[0],
            "inverse_log_det": lambda: layer.inverse(x.clone())[1],
        }


# 3. The matrix as a product


class Product:
    """W = P (lower + I) (upper + diag(sign exp(log_s))), of which only triangles count."""

    @staticmethod
    def split(weight):
        permutation, lower, upper = torch.linalg.lu(weight)
        diagonal = upper.diagonal()
        return permutation, lower.tril(-1), upper.triu(1), diagonal.sign(), diagonal.abs().log()

    @staticmethod
    def assemble(permutation, lower, upper, sign, log_s):
        left = lower.tril(-1) + torch.eye(len(sign)).to(lower)
        return permutation @ left @ (upper.triu(1) + torch.diag(sign * log_s.exp()))

    @staticmethod
    def log_det(log_s, height, width):
        return height * width * log_s.sum()

    @staticmethod
    def solve(permutation, lower, upper, sign, log_s, z):
        right = upper.triu(1) + torch.diag(sign * log_s.exp())
        half = torch.linalg.solve_triangular(
            lower.tril(-1), permutation.T @ z.T, upper=False, unitriangular=True
        )
        return torch.linalg.solve_triangular(right, half, upper=True).T


def _wrong_product(left=None, right=None, order=None):
    """Assembled, and solved, with another left or right factor or in another order."""

    def factors(permutation, lower, upper, sign, log_s):
        a = lower.tril(-1) + torch.eye(len(sign)).to(lower)
        b = upper.triu(1) + torch.diag(sign * log_s.exp())
        a = left(lower) if left else a
        b = right(upper, sign, log_s) if right else b
        return (order or (lambda p, a, b: p @ a @ b))(permutation, a, b)

    class Wrong(Product):
        @staticmethod
        def assemble(*parts):
            return factors(*parts)

        @staticmethod
        def solve(*parts_and_z):
            *parts, z = parts_and_z
            return torch.linalg.solve(factors(*parts), z.T).T

    return Wrong


class ForgetsPositions(Product):
    @staticmethod
    def log_det(log_s, height, width):
        return log_s.sum()


class SumsTheScales(Product):
    @staticmethod
    def log_det(log_s, height, width):
        return height * width * log_s.exp().sum()


class SignInTheLogarithm(Product):
    @staticmethod
    def split(weight):
        *rest, sign, _ = Product.split(weight)
        diagonal = torch.linalg.lu(weight)[2].diagonal()
        return *rest, sign, diagonal.log()


class PermutesInsteadOfUndoing(Product):
    @staticmethod
    def solve(permutation, *rest):
        return Product.solve(permutation.T, *rest)


@exercise(
    "glow.plu",
    read=f"{CHAPTER}#glow-plu",
    hint="torch.linalg.lu gives the three factors; its L has ones on the diagonal, and the "
    "diagonal of its U holds sign and size of each scale.",
)
class Plu:
    reference = Product
    parts = {"rebuilt": 1, "weight": 1, "log_det": 1, "x": 1}
    mistakes = {
        "all entries of lower and upper count: after a step of the optimizer they are no "
        "triangles, unless something keeps them so": _wrong_product(
            left=lambda low: low + torch.eye(len(low)).to(low),
            right=lambda up, sign, log_s: up + torch.diag(sign * log_s.exp()),
        ),
        "lower has no ones on its diagonal: then W is singular": _wrong_product(
            left=lambda low: low.tril(-1) + 1e-12 * torch.eye(len(low)).to(low)
        ),
        "the sign of the diagonal is lost: a matrix that mirrors cannot be written so": (
            _wrong_product(right=lambda up, sign, log_s: up.triu(1) + torch.diag(log_s.exp()))
        ),
        "log_s is taken for the diagonal itself: it is its logarithm": _wrong_product(
            right=lambda up, sign, log_s: up.triu(1) + torch.diag(sign * log_s)
        ),
        "the upper factor comes first: which one does the input meet first in P L U x?": (
            _wrong_product(order=lambda p, a, b: p @ b @ a)
        ),
        "the permutation comes last: P stands on the left": _wrong_product(
            order=lambda p, a, b: a @ b @ p
        ),
        "log_det is that of one position": ForgetsPositions,
        "log_det sums the scales: the determinant is their product": SumsTheScales,
        "the logarithm of a negative diagonal entry is NaN: keep sign and size apart": (
            SignInTheLogarithm
        ),
        "solve applies P where it should undo it: what is the inverse of a permutation matrix?": (
            PermutesInsteadOfUndoing
        ),
    }

    def draw(rng):
        channels = int(rng.integers(4, 7))
        order = rng.permutation(channels)
        while (order[order] == np.arange(channels)).all():  # P and its inverse must differ
            order = rng.permutation(channels)
        sign = rng.choice([-1.0, 1.0], size=channels)
        sign[:2] = 1, -1
        weight = rng.normal(size=(channels, channels)) + 2 * np.eye(channels)[order]
        # A mirror image has an odd number of negative entries on the diagonal, so one at least.
        permutation, _, upper = (p.numpy() for p in torch.linalg.lu(torch.from_numpy(weight)))
        if (np.diag(upper) > 0).all():
            weight = -weight
        return {
            "weight": weight,
            "permutation": np.eye(channels)[order],
            "lower": 0.5 * rng.normal(size=(channels, channels)),
            "upper": 0.5 * rng.normal(size=(channels, channels)),
            "sign": sign,
            "log_s": rng.uniform(0.2, 0.8, size=channels),
            "z": rng.normal(size=(5, channels)),
            "height": int(rng.integers(2, 6)),
            "width": int(rng.integers(2, 6)),
        }

    def probe(answer, weight, permutation, lower, upper, sign, log_s, z, height, width):
        import torch

        parts = (permutation, lower, upper, sign, log_s)

        def rebuilt():
            p, low, up, signs, logs = (torch.as_tensor(v) for v in answer.split(weight.clone()))
            left = low.tril(-1) + torch.eye(len(signs)).to(low)
            return p @ left @ (up.triu(1) + torch.diag(signs * logs.exp()))

        return {
            "rebuilt": rebuilt,
            "weight": lambda: answer.assemble(*parts),
            "log_det": lambda: torch.as_tensor(answer.log_det(log_s, height, width)),
            "x": lambda: answer.solve(*parts, z.clone()),
        }


# 4. The prior of the half that leaves


class PriorReference(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.layer = glow.SplitPrior(net)

    def forward(self, x):
        return self.layer(x)

    def inverse(self, z):
        return self.layer.inverse(z)

    def sample(self, kept, noise, temperature):
        return self.layer.inverse(torch.cat([kept, temperature * noise], dim=1))[0]


class PriorByHand:
    def __init__(self, net):
        self.net = net

    def halves(self, x):
        return x.chunk(2, dim=1)

    def join(self, kept, done):
        return torch.cat([kept, done], dim=1)

    def prior(self, kept):
        return self.net(kept).chunk(2, dim=1)

    def log_det(self, log_scale):
        return -sum_event(log_scale)

    def forward(self, x):
        kept, done = self.halves(x)
        mean, log_scale = self.prior(kept)
        return self.join(kept, (done - mean) * (-log_scale).exp()), self.log_det(log_scale)

    def inverse(self, z):
        kept, done = self.halves(z)
        mean, log_scale = self.prior(kept)
        return self.join(kept, mean + done * log_scale.exp()), -self.log_det(log_scale)

    def draw(self, mean, log_scale, noise, temperature):
        return mean + temperature * log_scale.exp() * noise

    def sample(self, kept, noise, temperature):
        return self.join(kept, self.draw(*self.prior(kept), noise, temperature))


class PositiveLogDet(PriorByHand):
    def log_det(self, log_scale):
        return sum_event(log_scale)


class LogVariance(PriorByHand):
    def prior(self, kept):
        mean, log_scale = super().prior(kept)
        return mean, log_scale / 2


class Multiplies(PriorByHand):
    def prior(self, kept):
        mean, log_scale = super().prior(kept)
        return mean, -log_scale


class OtherHalfLeaves(PriorByHand):
    def halves(self, x):
        done, kept = x.chunk(2, dim=1)
        return kept, done

    def join(self, kept, done):
        return torch.cat([done, kept], dim=1)

    def sample(self, kept, noise, temperature):
        return PriorByHand.sample(PriorByHand(self.net), kept, noise, temperature)


class ScalesTheMeanToo(PriorByHand):
    def draw(self, mean, log_scale, noise, temperature):
        return temperature * (mean + log_scale.exp() * noise)


class ScalesTheLogarithm(PriorByHand):
    def draw(self, mean, log_scale, noise, temperature):
        return mean + (temperature * log_scale).exp() * noise


class ForgetsTemperature(PriorByHand):
    def draw(self, mean, log_scale, noise, temperature):
        return mean + log_scale.exp() * noise


class TemperatureOfTheVariance(PriorByHand):
    def draw(self, mean, log_scale, noise, temperature):
        return mean + math.sqrt(temperature) * log_scale.exp() * noise


@exercise(
    "glow.split_prior",
    read=f"{CHAPTER}#glow-prior",
    hint="a normal variable is its mean plus its deviation times a standard normal one; "
    "temperature is a factor of the last.",
)
class SplitPrior:
    reference = PriorReference
    parts = {"z": 1, "log_det": 1, "x": 1, "inverse_log_det": 1, "sample": 2}
    mistakes = {
        "your log_dets are the negatives of the expected ones: does dividing by a large deviation "
        "shrink or grow a volume?": PositiveLogDet,
        "the network's output is taken for a logarithm of the variance: it is that of the "
        "deviation": LogVariance,
        "forward multiplies by the deviation and inverse divides: which of them standardizes?": (
            Multiplies
        ),
        "the wrong half leaves: the first half stays, and predicts the second": OtherHalfLeaves,
        "temperature scales the mean as well: at temperature 0 a sample is the most likely half, "
        "not 0": ScalesTheMeanToo,
        "temperature multiplies the logarithm of the deviation: at 0 the deviation would be 1": (
            ScalesTheLogarithm
        ),
        "temperature is not used": ForgetsTemperature,
        "temperature multiplies the variance: Glow's T multiplies the deviation": (
            TemperatureOfTheVariance
        ),
    }

    def draw(rng):
        channels, h, w = (int(n) for n in rng.integers([1, 2, 2], [4, 4, 4]))
        return {
            "x": rng.normal(size=(4, 2 * channels, h, w)),
            "noise": rng.normal(size=(4, channels, h, w)),
            "temperature": float(rng.uniform(0.3, 0.8)),
        }

    def probe(answer, x, noise, temperature):
        from torch import nn

        half = x.shape[1] // 2
        net = nn.Conv2d(half, 2 * half, kernel_size=3, padding=1).double()
        layer = answer(net)
        return {
            "z": lambda: layer.forward(x.clone())[0],
            "log_det": lambda: layer.forward(x.clone())[1],
            "x": lambda: layer.inverse(x.clone())[0],
            "inverse_log_det": lambda: layer.inverse(x.clone())[1],
            "sample": lambda: layer.sample(x[:, :half].clone(), noise.clone(), temperature),
        }


# 5. Debug a step


class Step:
    """One step of Glow, as the code computes it."""

    def __init__(self, shift, log_scale, weight, net):
        self.shift, self.log_scale, self.weight, self.net = shift, log_scale, weight, net

    def mix(self, weight, x):
        return F.conv2d(x, weight[:, :, None, None])

    def fixed_terms(self, x):
        one = self.log_scale.sum() + torch.linalg.slogdet(self.weight)[1]
        return x.shape[2] * x.shape[3] * one

    def scale_and_shift(self, passed):
        t, h = self.net(passed).chunk(2, dim=1)
        return torch.sigmoid(h + 2), t

    def move(self, free, scale, t):
        return (free + t) * scale

    def move_back(self, free, scale, t):
        return free / scale - t

    def forward(self, x):
        y = self.mix(self.weight, (x + self.shift) * self.log_scale.exp())
        passed, free = y.chunk(2, dim=1)
        scale, t = self.scale_and_shift(passed)
        z = torch.cat([passed, self.move(free, scale, t)], dim=1)
        return z, self.fixed_terms(x) + sum_event(scale.log())

    def undo(self, y):
        return self.mix(self.weight.inverse(), y) * (-self.log_scale).exp() - self.shift

    def inverse(self, z):
        passed, free = z.chunk(2, dim=1)
        scale, t = self.scale_and_shift(passed)
        y = torch.cat([passed, self.move_back(free, scale, t)], dim=1)
        return self.undo(y), -self.fixed_terms(z) - sum_event(scale.log())


class ActnormCountedOnce(Step):
    def fixed_terms(self, x):
        conv = x.shape[2] * x.shape[3] * torch.linalg.slogdet(self.weight)[1]
        return self.log_scale.sum() + conv


class ScalesFirst(Step):
    def move(self, free, scale, t):
        return free * scale + t


class UndoesInForwardsOrder(Step):
    def undo(self, y):
        return self.mix(self.weight.inverse(), y * (-self.log_scale).exp() - self.shift)


class OnceAndScale(ActnormCountedOnce, ScalesFirst):
    pass


class OnceAndOrder(ActnormCountedOnce, UndoesInForwardsOrder):
    pass


class ScaleAndOrder(ScalesFirst, UndoesInForwardsOrder):
    pass


class StepAsHandedOut(OnceAndScale, UndoesInForwardsOrder):
    pass


class ChangesTheConvention(ScalesFirst):
    def move_back(self, free, scale, t):
        return (free - t) / scale


class AllCountedOnce(Step):
    def fixed_terms(self, x):
        return self.log_scale.sum() + torch.linalg.slogdet(self.weight)[1]


@exercise(
    "glow.debug_step",
    read=f"{CHAPTER}#glow-coupling",
    hint="three lines are wrong: check log_det against autograd for each of the three maps alone, "
    "then invert step by step.",
)
class DebugStep:
    reference = Step
    parts = {"z": 1, "log_det": 2, "x": 1, "inverse_log_det": 1}
    mistakes = {
        "the step still does what it did as handed out": StepAsHandedOut,
        "actnorm's term is counted for one position only": ActnormCountedOnce,
        "forward computes y s + t, and the inverse undoes (y + t) s": ScalesFirst,
        "the inverse undoes actnorm before the convolution: what was done last on the way there?": (
            UndoesInForwardsOrder
        ),
        "the inverse is right; actnorm's term is counted once, and forward computes y s + t": (
            OnceAndScale
        ),
        "forward's z is right; actnorm's term is counted once, and the inverse undoes actnorm too "
        "early": OnceAndOrder,
        "actnorm's term is right; forward computes y s + t, and the inverse undoes actnorm too "
        "early": ScaleAndOrder,
        "both directions are those of y s + t now: the statement asks for (y + t) s": (
            ChangesTheConvention
        ),
        "now the convolution's term is counted for one position as well": AllCountedOnce,
    }

    def draw(rng):
        half, h, w = (int(n) for n in rng.integers([1, 2, 2], [4, 5, 5]))
        channels = 2 * half
        rotation, _ = np.linalg.qr(rng.normal(size=(channels, channels)))
        return {
            "x": rng.normal(size=(4, channels, h, w)),
            "shift": rng.normal(size=(channels, 1, 1)),
            "log_scale": rng.uniform(0.2, 0.9, size=(channels, 1, 1)),
            "weight": rotation * rng.uniform(1.2, 2.0, size=channels),
        }

    def probe(answer, x, shift, log_scale, weight):
        from torch import nn

        half = x.shape[1] // 2
        net = nn.Conv2d(half, 2 * half, kernel_size=3, padding=1).double()
        layer = answer(shift, log_scale, weight, net)
        return {
            "z": lambda: layer.forward(x.clone())[0],
            "log_det": lambda: layer.forward(x.clone())[1],
            "x": lambda: layer.inverse(x.clone())[0],
            "inverse_log_det": lambda: layer.inverse(x.clone())[1],
        }


# 6. Count what goes where


def account(
    channels,
    height,
    width,
    scales,
    steps,
    *,
    grow=4,
    keep=2,
    last=1,
    power=2,
    share=None,
    times=None,
):
    """What leaves at each scale, and what is mixed there; the options make it wrong."""
    leaves, mixed = [], []
    c = channels
    for k in range(scales):
        c, height, width = grow * c, height // 2, width // 2
        mixed.append(c)
        final = k == scales - 1
        leaves.append([c // last if final else c // keep, height, width])
        c = c // keep if keep > 1 else c
    entries = sum(m**power for m in mixed) * (steps if times is None else times)
    return {
        "leaves": leaves,
        "mixed": mixed,
        "entries": entries,
        "last_share": 2.0 ** (1 - scales) if share is None else share(scales),
    }


def _account(**options):
    return lambda *sizes: account(*sizes, **options)


@exercise(
    "glow.account",
    read=f"{CHAPTER}#glow-multiscale",
    hint="follow a 3 x 32 x 32 image with a pencil: squeeze, steps, half leaves, squeeze, ...",
)
class Account:
    reference = staticmethod(account)
    parts = {"leaves": 2, "mixed": 1, "entries": 1, "last_share": 1}
    compare = {"leaves": equal, "mixed": equal, "entries": equal, "last_share": close()}
    mistakes = {
        "all channels go on to the next scale: half of them leave": _account(keep=1),
        "at the last scale only half leaves: where does the other half go?": _account(last=2),
        "a squeeze doubles the channels: how many pixels become one position?": _account(grow=2),
        "entries counts the matrices of one step": _account(times=1),
        "entries counts rows: how many entries has a matrix of c channels?": _account(power=1),
        "the last scale's share is halved once too often: it keeps both of its halves": _account(
            share=lambda n: 2.0**-n
        ),
        "every scale is given the same share: the first takes half of all numbers": _account(
            share=lambda n: 1 / n
        ),
        "the last scale's share shrinks by four: a squeeze moves numbers, and only the split takes "
        "some away": _account(share=lambda n: 4.0 ** (1 - n)),
    }

    def draw(rng):
        scales = int(rng.integers(3, 5))
        h, w = (int(n) * 2**scales for n in rng.integers(1, 4, size=2))
        return {
            "channels": int(rng.integers(1, 4)),
            "height": h,
            "width": w,
            "scales": scales,
            "steps": int(rng.integers(2, 40)),
        }

    def probe(answer, channels, height, width, scales, steps):
        import torch

        found = answer(channels, height, width, scales, steps)
        integers = {name: torch.as_tensor(found[name]) for name in ("leaves", "mixed", "entries")}
        return {**integers, "last_share": float(found["last_share"])}


# 7. Interpolate


def interpolate(encode, decode, start, end, n):
    first, last = encode(start[None]), encode(end[None])
    weights = torch.linspace(0, 1, n).to(start)
    frames = [
        decode([torch.lerp(a, b, weight) for a, b in zip(first, last, strict=True)])
        for weight in weights
    ]
    return torch.cat(frames)


def _frames(latents, n, *, weights=None):
    """Decode one list of latents for each weight."""

    def answer(encode, decode, start, end, n):
        first, last = encode(start[None]), encode(end[None])
        steps = torch.linspace(0, 1, n).to(start) if weights is None else weights(n).to(start)
        return torch.cat([decode(latents(first, last, weight)) for weight in steps])

    return answer


def _all_scales(first, last, weight):
    return [torch.lerp(a, b, weight) for a, b in zip(first, last, strict=True)]


def _only_the_last(first, last, weight):
    return [*first[:-1], torch.lerp(first[-1], last[-1], weight)]


def _others_at_zero(first, last, weight):
    return [*(0 * z for z in first[:-1]), torch.lerp(first[-1], last[-1], weight)]


def _only_the_first(first, last, weight):
    return [torch.lerp(first[0], last[0], weight), *first[1:]]


def _in_pixels(encode, decode, start, end, n):
    return torch.stack([torch.lerp(start, end, weight) for weight in torch.linspace(0, 1, n)])


@exercise(
    "glow.interpolate",
    read=f"{CHAPTER}#glow-interpolation",
    hint="an image is all of its latents, those that left early too; the first and the last frame "
    "must be the given images.",
)
class Interpolate:
    reference = staticmethod(interpolate)
    parts = {"first": 1, "last": 1, "between": 2}
    mistakes = {
        "only the last scale's latents move, and all others stay those of the first image: the "
        "last frame is not the second image": _frames(_only_the_last, 0),
        "the latents that left early are set to zero: even the first frame is not the first "
        "image": _frames(_others_at_zero, 0),
        "only the first scale's latents move": _frames(_only_the_first, 0),
        "the frames are mixtures of pixels: go through the latents": _in_pixels,
        "the frames run from the second image to the first": _frames(
            _all_scales, 0, weights=lambda n: torch.linspace(1, 0, n)
        ),
        "the ends are missing: n frames include both images": _frames(
            _all_scales, 0, weights=lambda n: torch.linspace(0, 1, n + 2)[1:-1]
        ),
        "the last frame is missing: n frames have n - 1 steps between them": _frames(
            _all_scales, 0, weights=lambda n: torch.arange(n) / n
        ),
    }

    def draw(rng):
        return {
            "images": rng.normal(size=(2, 1, 4, 4)),
            "strength": float(rng.uniform(0.8, 1.5)),
            "n": int(rng.integers(4, 8)),
        }

    def probe(answer, images, strength, n):
        """Two scales: eight numbers leave after the first one, and move the rest."""
        import torch
        import torch.nn.functional as F
        from torch import nn

        first, second = (nn.Conv2d(2, 2, kernel_size=3, padding=1).double() for _ in range(2))

        def encode(x):
            kept, done = F.pixel_unshuffle(x, 2).chunk(2, dim=1)
            done = done * (strength * first(kept).tanh()).exp() + kept**3
            return [done, (kept + second(done)) * (strength * second(done).tanh()).exp()]

        def decode(latents):
            done, kept = latents
            kept = kept * (-strength * second(done).tanh()).exp() - second(done)
            done = (done - kept**3) * (-strength * first(kept).tanh()).exp()
            return F.pixel_shuffle(torch.cat([kept, done], dim=1), 2)

        frames = answer(encode, decode, images[0].clone(), images[1].clone(), n)
        return {
            "first": lambda: frames[0],
            "last": lambda: frames[-1],
            "between": lambda: frames[1:-1],
        }


# 8. Train on points far away

# The true density scores 1.00 nats in these units; the reference reaches 1.12 to 1.22.
LIMIT = 1.4


def strip(rng: np.random.Generator, n: int, angle: float) -> np.ndarray:
    """Points on two crescents, in units of their own: centre 0 and width about 1."""
    turn = np.pi * rng.uniform(size=n)
    which = rng.integers(2, size=n)
    x = np.where(which == 0, np.cos(turn), 1 - np.cos(turn)) - 0.5
    y = np.where(which == 0, np.sin(turn), 0.5 - np.sin(turn)) - 0.25
    points = np.stack([x, y], axis=1) + 0.1 * rng.standard_normal((n, 2))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ rotation.T


def axes_of(centre: Tensor, width: float) -> list[Tensor]:
    """The grid on which an answer is asked for its density."""
    return [c + width * torch.linspace(-4, 4, 241, dtype=torch.float64) for c in centre.double()]


class Unstarted(glow.ActNorm):
    """Without the initialization: shift 0 and scale 1."""

    def initialize(self, x):
        self.initialized.fill_(True)


def train(
    data: Tensor,
    steps: int = 250,
    *,
    norm: type[glow.ActNorm] = glow.ActNorm,
    mix: bool = True,
    flow_type: type[Flow] = Fitted,
    sign: int = -1,
) -> Flow:
    layers: list = []
    for _ in range(8):
        mixing = glow.InvertibleConv(2) if mix else glow.Permutation(torch.arange(2))
        layers += [norm(2), mixing, glow.GlowCoupling(MLP(1, [32, 32], 2), "affine")]
    layers.append(norm(2))
    flow = flow_type(Compose(*layers), StandardNormal(2)).double()
    flow.log_prob(data)
    parameters = list(flow.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.01, total_steps=steps, pct_start=0.2
    )
    for _ in range(steps):
        batch = data[torch.randint(len(data), (256,))]
        loss = sign * flow.log_prob(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return flow.eval()


def fit_by(**options):
    return trained_once(train, **options)


@exercise(
    "glow.train_flow",
    read=f"{CHAPTER}#glow-far-away",
    hint="eight steps of actnorm, rotation and coupling, with networks of two hidden layers of 32 "
    "units, and 300 steps of Adam; show the model all data once before you make the optimizer.",
)
class TrainFlow:
    reference = staticmethod(fit_by())
    parts = {"held_out_nll": 3, "mass": 1}
    compare = {"held_out_nll": at_most(LIMIT, "nats"), "mass": close(0.1)}
    mistakes = {
        "actnorm was not initialized from the data, which lie far from the origin and close "
        "together: how long does it take to go there?": fit_by(steps=50, norm=Unstarted),
        "nothing mixes the coordinates, and the first one never changes: what density does it "
        "have?": fit_by(steps=50, mix=False),
        "training stopped before it had begun: were the parameters of the networks in the "
        "optimizer?": fit_by(steps=2),
        "the loss goes down while the likelihood does, too: which of them should fall?": fit_by(
            steps=8, sign=1
        ),
        "the log-determinant is subtracted, and the mass is far from 1: which direction is "
        "log_det for?": fit_by(steps=20, flow_type=SubtractsTheLogDet),
        "log_prob is averaged over the coordinates, and its mass is not 1: what is the density of "
        "independent coordinates?": fit_by(steps=50, flow_type=AveragedCoordinates),
    }

    def draw(rng):
        angle, width = rng.uniform(0, 2 * np.pi), float(rng.uniform(0.02, 0.05))
        centre = rng.choice([-1, 1], size=2) * rng.uniform(5, 10, size=2)
        return {
            "centre": centre,
            "width": width,
            **{name: centre + width * strip(rng, 2000, angle) for name in ("data", "test")},
        }

    def probe(answer, data, centre, width):
        import torch

        flow = answer(data.clone())
        axes = [c + width * torch.linspace(-4, 4, 241, dtype=torch.float64) for c in centre]
        points = torch.cartesian_prod(*axes)

        def log_p():
            with torch.no_grad():
                return flow.log_prob(points.to(data)).double()

        return {"log_p": log_p}

    def measure(evidence, test, centre, width):
        axes = axes_of(centre, width)

        def held_out_nll():
            # In units of the width, so that the limit is the same for every draw; and one stray
            # point must not decide, so none counts for more than 20 nats.
            nats = -at_points(evidence["log_p"], axes, test) - 2 * math.log(width)
            return nats.clamp(max=20).mean()

        return {"held_out_nll": held_out_nll, "mass": lambda: mass(evidence["log_p"], axes)}
