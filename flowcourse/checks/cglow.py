"""What the answers to the problem set on conditional Glow must satisfy.

The mistakes are wrong on purpose. Their names are what a student reads.
"""

import math

import torch
from torch import Tensor, nn

from flowcourse.bijector import sum_event
from flowcourse.checks import close, equal, exercise
from flowcourse.coupling import cglow

# Topics that an answer may import, besides the modules that all topics share.
MAY_USE = ("change_of_variables", "likelihood", "nice", "realnvp", "dequantization", "glow")

CHAPTER = "book/coupling/cglow.md"


# 1. Conditional actnorm


class ActNormByHand:
    """The layer in pieces, so that each mistake changes one of them."""

    def __init__(self, net):
        self.net = net

    def generated(self, context):
        return self.net(context).chunk(2, dim=1)

    def squash(self, raw):
        return torch.tanh(raw)

    def parameters(self, x, context):
        raw, shift = self.generated(context)
        log_scale = self.squash(raw)
        return self.wide(log_scale), self.wide(shift), self.log_det(log_scale, x)

    def wide(self, v):
        return v[:, :, None, None]

    def log_det(self, log_scale, x):
        return math.prod(x.shape[2:]) * log_scale.sum(dim=1)

    def forward(self, x, context):
        s, b, log_det = self.parameters(x, context)
        return x * s.exp() + b, log_det

    def inverse(self, z, context):
        s, b, log_det = self.parameters(z, context)
        return (z - b) * (-s).exp(), -log_det


class OncePerChannel(ActNormByHand):
    def log_det(self, log_scale, x):
        return log_scale.sum(dim=1)


class AverageOfChannels(ActNormByHand):
    def log_det(self, log_scale, x):
        return math.prod(x.shape[2:]) * log_scale.mean(dim=1)


class OneLogDetForAll(ActNormByHand):
    def log_det(self, log_scale, x):
        return (math.prod(x.shape[2:]) * log_scale.sum()).expand(len(x))


class ScalesNotLogs(ActNormByHand):
    def log_det(self, log_scale, x):
        return math.prod(x.shape[2:]) * log_scale.exp().sum(dim=1)


class SameSignBack(ActNormByHand):
    def inverse(self, z, context):
        x, log_det = super().inverse(z, context)
        return x, -log_det


class FirstCondition(ActNormByHand):
    def generated(self, context):
        raw, shift = self.net(context[:1].expand_as(context)).chunk(2, dim=1)
        return raw, shift


class MeanOfConditions(ActNormByHand):
    def generated(self, context):
        raw, shift = self.net(context.mean(dim=0, keepdim=True).expand_as(context)).chunk(2, dim=1)
        return raw, shift


class NoTanh(ActNormByHand):
    def squash(self, raw):
        return raw


class ShiftFirst(ActNormByHand):
    def generated(self, context):
        raw, shift = super().generated(context)
        return shift, raw


class ScalesTheShift(ActNormByHand):
    def forward(self, x, context):
        s, b, log_det = self.parameters(x, context)
        return (x + b) * s.exp(), log_det

    def inverse(self, z, context):
        s, b, log_det = self.parameters(z, context)
        return z * (-s).exp() - b, -log_det


@exercise(
    "cglow.conditional_actnorm",
    read=f"{CHAPTER}#cglow-actnorm",
    hint="call the network once; what it returns has one row for each example, and every row is "
    "used at all pixels of its own example.",
)
class ConditionalActNorm:
    reference = cglow.ConditionalActNorm
    parts = {"z": 1, "log_det": 1, "x": 1, "inverse_log_det": 1, "extreme": 1}
    mistakes = {
        "log_det counts every channel once: at how many pixels is the scale applied?": (
            OncePerChannel
        ),
        "log_det averages over the channels: a determinant is a product of all scales": (
            AverageOfChannels
        ),
        "log_det adds up the whole batch: every example has a determinant of its own": (
            OneLogDetForAll
        ),
        "log_det adds the scales and not their logarithms": ScalesNotLogs,
        "inverse returns forward's log_det: what happens to a volume on the way back?": (
            SameSignBack
        ),
        "every example gets the scale and shift of the first condition": FirstCondition,
        "the conditions are averaged over the batch: whose scale does an example get then?": (
            MeanOfConditions
        ),
        "the raw scale goes into the exponential as it is: what does a strange condition do?": (
            NoTanh
        ),
        "the scale and the shift are exchanged: which half of the network's outputs is which?": (
            ShiftFirst
        ),
        "the shift is added before the scale, and so is scaled, too: read the formula again": (
            ScalesTheShift
        ),
    }

    def draw(rng):
        batch, channels = int(rng.integers(3, 6)), int(rng.integers(2, 5))
        height = int(rng.integers(2, 4))
        return {
            "x": rng.normal(size=(batch, channels, height, height + 2)),
            "context": rng.normal(size=(batch, 3)),
        }

    def probe(answer, x, context):
        from torch import nn

        channels = x.shape[1]
        net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2 * channels)).double()

        def extreme(condition):
            return 50 * net(condition)

        layer, far = answer(net), answer(extreme)
        return {
            "z": lambda: layer.forward(x.clone(), context)[0],
            "log_det": lambda: layer.forward(x.clone(), context)[1],
            "x": lambda: layer.inverse(x.clone(), context)[0],
            "inverse_log_det": lambda: layer.inverse(x.clone(), context)[1],
            "extreme": lambda: far.forward(x.clone(), context)[0],
        }


# 2. A convolution whose weights are generated


class ConvReference(nn.Module):
    """The layer of the chapter, with the order of the numbers that the exercise states."""

    def __init__(self, net, channels):
        super().__init__()
        self.layer = cglow.ConditionalConv1x1(net, channels)

    def weight(self, context):
        return self.layer.weight(context)[0]

    def forward(self, x, context):
        return self.layer(x, context)

    def inverse(self, z, context):
        return self.layer.inverse(z, context)


class ConvByHand:
    """The same layer in pieces."""

    def __init__(self, net, channels):
        self.net, self.channels = net, channels

    def diagonal(self, raw):
        return torch.tanh(raw).exp()

    def places(self):
        row, column = torch.tril_indices(self.channels, self.channels, -1)
        return (row, column), (column, row)

    def factors(self, context):
        c = self.channels
        raw = self.net(context)
        pairs = c * (c - 1) // 2
        diagonal, below, above = raw.split([c, pairs, pairs], dim=1)
        lower = torch.eye(c).to(raw).repeat(len(raw), 1, 1)
        upper = torch.diag_embed(self.diagonal(diagonal))
        under, over = self.places()
        lower[:, under[0], under[1]] = torch.tanh(below)
        upper[:, over[0], over[1]] = torch.tanh(above)
        return lower, upper

    def weight(self, context):
        lower, upper = self.factors(context)
        return lower @ upper

    def log_det(self, weight, x):
        return math.prod(x.shape[2:]) * torch.linalg.slogdet(weight)[1]

    def apply(self, weight, x):
        return torch.einsum("bij,bjhw->bihw", weight, x)

    def forward(self, x, context):
        weight = self.weight(context)
        return self.apply(weight, x), self.log_det(weight, x)

    def undo(self, weight):
        return torch.linalg.inv(weight)

    def inverse(self, z, context):
        weight = self.weight(context)
        return self.apply(self.undo(weight), z), -self.log_det(weight, z)


class OncePerImage(ConvByHand):
    def log_det(self, weight, x):
        return torch.linalg.slogdet(weight)[1]


class DeterminantOfTheFirst(ConvByHand):
    def log_det(self, weight, x):
        return super().log_det(weight, x)[:1].expand(len(x))


class ForgetsTheLog(ConvByHand):
    def log_det(self, weight, x):
        return math.prod(x.shape[2:]) * torch.linalg.det(weight)


class UpperTimesLower(ConvByHand):
    def weight(self, context):
        lower, upper = self.factors(context)
        return upper @ lower


class UpperByRows(ConvByHand):
    def places(self):
        under, _ = super().places()
        row, column = torch.triu_indices(self.channels, self.channels, 1)
        return under, (row, column)


class DiagonalMayVanish(ConvByHand):
    def diagonal(self, raw):
        return torch.tanh(raw)


class DiagonalWithoutTanh(ConvByHand):
    def diagonal(self, raw):
        return raw.exp()


class MatrixFromTheRight(ConvByHand):
    def apply(self, weight, x):
        return torch.einsum("bji,bjhw->bihw", weight, x)


class OneMatrixForAll(ConvByHand):
    def weight(self, context):
        weight = super().weight(context)
        return weight[:1].expand_as(weight)


class TransposedBack(ConvByHand):
    def undo(self, weight):
        return weight.mT


@exercise(
    "cglow.generated_convolution",
    read=f"{CHAPTER}#cglow-conv",
    hint="build L and U for the whole batch, one matrix each; the diagonal of U alone decides "
    "the determinant.",
)
class GeneratedConvolution:
    reference = ConvReference
    parts = {"weight": 2, "z": 1, "log_det": 1, "x": 1, "inverse_log_det": 1}
    mistakes = {
        "log_det is that of one pixel: the matrix is applied at how many?": OncePerImage,
        "every example gets the log_det of the first one's matrix": DeterminantOfTheFirst,
        "log_det is the determinant times the pixels: where is its logarithm?": ForgetsTheLog,
        "the factors are multiplied as U L: the formula says L U": UpperTimesLower,
        "the numbers above the diagonal are filled in row by row: they are stated as those below "
        "it, with row and column exchanged": UpperByRows,
        "the diagonal of U is tanh, which may be 0 or negative: what is the matrix's inverse "
        "then?": DiagonalMayVanish,
        "the diagonal of U is exp of the raw numbers: what bounds it?": DiagonalWithoutTanh,
        "the pixel is multiplied by the transposed matrix: which index is summed?": (
            MatrixFromTheRight
        ),
        "every example gets the matrix of the first condition": OneMatrixForAll,
        "the inverse uses the transposed matrix: that undoes a rotation only": TransposedBack,
    }

    def draw(rng):
        # Up to three channels, the entries above the diagonal come by rows in either order.
        batch, channels = int(rng.integers(3, 6)), int(rng.integers(4, 6))
        return {
            "x": rng.normal(size=(batch, channels, int(rng.integers(2, 4)), 3)),
            "context": rng.normal(size=(batch, 3)),
        }

    def probe(answer, x, context):
        from torch import nn

        channels = x.shape[1]
        net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, channels**2)).double()
        net[2].weight.data *= 2
        layer = answer(net, channels)
        return {
            "weight": lambda: layer.weight(context),
            "z": lambda: layer.forward(x.clone(), context)[0],
            "log_det": lambda: layer.forward(x.clone(), context)[1],
            "x": lambda: layer.inverse(x.clone(), context)[0],
            "inverse_log_det": lambda: layer.inverse(x.clone(), context)[1],
        }


# 3. Predict: what may depend on what?

VERDICT = dict(A=True, B=True, C=False, D=True, E=False, F=True, G=False, H=True, I=False, J=True)


def but(wrong: str) -> dict[str, bool]:
    """The verdicts, with some of them turned around."""
    return {letter: value != (letter in wrong) for letter, value in VERDICT.items()}


@exercise(
    "cglow.what_may_depend_on_what",
    read=f"{CHAPTER}#cglow-condition",
    hint="ask of each layer: do its scales depend on the numbers that they scale? A derivative "
    "with respect to x is no entry of the Jacobian.",
)
class WhatMayDependOnWhat:
    reference = VERDICT
    parts = {"elementwise": 2, "coupling": 2, "convolution": 1}
    compare = {"elementwise": equal, "coupling": equal, "convolution": equal}
    mistakes = {
        "every formula counts as right: may a scale depend on the value that it scales?": but(
            "CEGI"
        ),
        "a condition counts as forbidden: no derivative with respect to x enters the "
        "determinant": but("ABDFHJ"),
        "the mean of a channel counts as if it were given: it changes with every pixel that is "
        "scaled by it": but("CE"),
        "a shift counts as harmless: one that depends on the pixels that it moves changes "
        "volumes": but("I"),
        "a matrix that depends on what it multiplies counts as a linear map": but("G"),
        "a mask that x chooses counts as forbidden: for a given x it is a mask like any other": (
            but("H")
        ),
        "the largest pixel of x counts as forbidden: must a function of x be smooth, or "
        "invertible?": but("B"),
    }

    def draw(rng):
        return {"y": rng.normal(size=(2, 2, 2)), "x": rng.normal(size=(2, 2, 2))}

    def probe(answer, y, x):
        """The verdict against what autograd says of each layer: all zeros if right."""
        import torch
        from torch.func import jacrev

        s, t = torch.tanh(x), x.flip(0)

        def actnorm(log_scale, shift=0.0):
            log_scale = log_scale.reshape(-1, 1, 1).expand(2, 2, 2)
            return (lambda v: v * log_scale.exp() + shift), log_scale.sum()

        def of_y(v):
            return torch.tanh(v.mean(dim=(1, 2))).reshape(2, 1, 1)

        def matrix(v):
            low = torch.stack([torch.tensor([1.0, 0.0]).to(v), torch.stack([v[0], 1 + 0 * v[0]])])
            up = torch.stack([torch.stack([v[1].exp(), v[2]]), torch.stack([0 * v[0], v[3].exp()])])
            return low @ up

        def mix(weight, v):
            return torch.einsum("ij,jhw->ihw", weight, v)

        def coupled(log_scale):
            return lambda v: torch.stack([v[0], v[1] * log_scale(v).exp() + t[0]])

        board = (torch.arange(2)[:, None] + torch.arange(2) + int(x.sum() > 0)) % 2
        first = torch.tanh(x.flatten()[:4])
        layers = {
            "A": actnorm(torch.tanh(x.mean(dim=(1, 2))), t),
            "B": actnorm(torch.tanh(x.amax(dim=(1, 2)))),
            "C": (lambda v: v * of_y(v).exp(), 4 * of_y(y).sum()),
            "D": (coupled(lambda v: s[0] * torch.tanh(v[0])), (s[0] * torch.tanh(y[0])).sum()),
            "E": (
                coupled(lambda v: s[0] * torch.tanh(v[1].mean())),
                (s[0] * torch.tanh(y[1].mean())).sum(),
            ),
            "F": (lambda v: mix(matrix(first), v), 4 * (first[1] + first[3])),
            "G": (
                lambda v: mix(matrix(torch.tanh(v[0].flatten())), v),
                4 * torch.tanh(y[0].flatten())[[1, 3]].sum(),
            ),
            "H": (lambda v: v * (s * board).exp() + t * board, (s * board).sum()),
            "I": (lambda v: v + v.mean(dim=(1, 2), keepdim=True), torch.zeros(()).to(y)),
            "J": (lambda v: (v - t) * (-s).exp(), -s.sum()),
        }

        def wrong(letters):
            found = []
            for letter in letters:
                f, claimed = layers[letter]
                truth = torch.linalg.slogdet(jacrev(f)(y).reshape(8, 8)).logabsdet
                found.append(bool(answer[letter]) != bool((truth - claimed).abs() < 1e-9))
            return found

        return {
            "elementwise": lambda: wrong("ABCIJ"),
            "coupling": lambda: wrong("DEH"),
            "convolution": lambda: wrong("FG"),
        }


# 4. Debug: bits of y given x


def conditional_bits(
    log_prob,
    y: Tensor,
    x: Tensor,
    noise: Tensor,
    levels: int,
    *,
    condition_noise: float = 0,
    rescaled: float = 1,
    every_pixel: bool = False,
    nats: bool = False,
    sign: int = 1,
) -> Tensor:
    """Bits per predicted pixel; the options are the mistakes."""
    scaled = (y + noise) / levels
    log_p = log_prob(scaled, (x + condition_noise * noise) / levels)
    dims = y[0].numel()
    log_p = log_p - rescaled * sign * dims * math.log(levels)
    return -log_p / ((dims + every_pixel * x[0].numel()) * (1 if nats else math.log(2)))


def bits_with(**mistake):
    """The function with a mistake in it."""

    def answer(log_prob, y, x, noise, levels):
        return conditional_bits(log_prob, y, x, noise, levels, **mistake)

    return answer


@exercise(
    "cglow.debug_conditional_bits",
    read=f"{CHAPTER}#cglow-bits",
    hint="only y is random, so only y is dequantized, rescaled at a cost, and counted.",
)
class DebugConditionalBits:
    reference = bits_with()
    parts = {"bits": 2, "of_other_levels": 1, "linear": 1}
    mistakes = {
        "the condition gets noise, too: only what has a density needs it": bits_with(
            condition_noise=1
        ),
        "the rescaling by the number of levels is not paid for: what is its log-determinant?": (
            bits_with(rescaled=0)
        ),
        "the rescaling is paid for with the wrong sign": bits_with(sign=-1),
        "the bits are shared out among the pixels of x as well: x is given, and costs nothing": (
            bits_with(every_pixel=True)
        ),
        "these are nats per dimension": bits_with(nats=True),
        "one of the three lines is still wrong: the condition gets noise, and its pixels are "
        "counted": bits_with(condition_noise=1, every_pixel=True),
        "one of the three lines is mended and two are not: the rescaling is free, and the pixels "
        "of x are counted": bits_with(rescaled=0, every_pixel=True),
    }

    def draw(rng):
        batch, height = int(rng.integers(3, 6)), int(rng.integers(2, 4))
        levels = int(rng.choice([4, 17, 32]))
        shape, other = (batch, 1, height, 4), (batch, 3, 2 * height, 4)
        return {
            "y": rng.integers(levels, size=shape).astype(float),
            "x": rng.integers(levels, size=shape).astype(float),
            "wide": rng.integers(levels, size=other).astype(float),
            "noise": rng.random(shape),
            "levels": levels,
        }

    def probe(answer, y, x, wide, noise, levels):
        def log_prob(v, context):
            middle = context.flatten(1).mean(dim=1)[:, None, None, None]
            return -((v - middle) ** 2 / 0.1).flatten(1).sum(dim=1)

        def linear(v, context):
            return ((v - 0.3) * context).flatten(1).sum(dim=1)

        small = wide[:, :1, : y.shape[2]]

        return {
            "bits": lambda: answer(log_prob, y, x, noise, levels),
            "of_other_levels": lambda: answer(log_prob, y, small, noise, 2 * levels),
            "linear": lambda: answer(linear, y, x, noise, levels),
        }


# 5. Several completions


class Completions:
    """How to complete a picture several times, and to show where the completions differ."""

    @staticmethod
    def draw(sample, x, draws):
        flat = sample(x.repeat(draws, *[1] * (x.dim() - 1)))
        return flat.reshape(draws, len(x), *flat.shape[1:])

    @staticmethod
    def mean(completions):
        return completions.mean(dim=0)

    @staticmethod
    def spread(completions):
        return completions.std(dim=0, correction=0)


class InterleavedThenCut(Completions):
    @staticmethod
    def draw(sample, x, draws):
        flat = sample(x.repeat_interleave(draws, dim=0))
        return flat.reshape(draws, len(x), *flat.shape[1:])


class DrawnOnce(Completions):
    @staticmethod
    def draw(sample, x, draws):
        once = sample(x)
        return once.expand(draws, *once.shape)


class ConditionsFirst(Completions):
    @staticmethod
    def draw(sample, x, draws):
        return Completions.draw(sample, x, draws).transpose(0, 1)


class MeanOverConditions(Completions):
    @staticmethod
    def mean(completions):
        return completions.mean(dim=1)


class MeanOfEachPicture(Completions):
    @staticmethod
    def mean(completions):
        return completions.flatten(2).mean(dim=2).mean(dim=0)


class SpreadOverConditions(Completions):
    @staticmethod
    def spread(completions):
        return completions.std(dim=1, correction=0)


class SpreadWithinThePicture(Completions):
    @staticmethod
    def spread(completions):
        return completions.mean(dim=0).flatten(1).std(dim=1, correction=0)


class VarianceForDeviation(Completions):
    @staticmethod
    def spread(completions):
        return completions.var(dim=0, correction=0)


@exercise(
    "cglow.completions",
    read=f"{CHAPTER}#cglow-samples",
    hint="write the shape beside every line: (draws, n, c, h, w). Which axis do you average over?",
)
class SeveralCompletions:
    reference = Completions
    parts = {"completions": 2, "mean": 1, "spread": 1}
    mistakes = {
        "the copies of a condition stand side by side, and are cut as if they stood one batch "
        "after the other": InterleavedThenCut,
        "one completion is shown many times: each draw needs noise of its own": DrawnOnce,
        "the conditions come first: the result's shape is (draws, n, ...)": ConditionsFirst,
        "the mean is taken over the conditions: which axis holds the draws?": MeanOverConditions,
        "the mean is one number for a picture: the prediction is a picture": MeanOfEachPicture,
        "the spread compares different conditions: which axis holds the draws?": (
            SpreadOverConditions
        ),
        "the spread is that of the pixels of one picture: compare the draws of a pixel": (
            SpreadWithinThePicture
        ),
        "the spread is a variance: take its root": VarianceForDeviation,
    }

    def draw(rng):
        n, draws = int(rng.integers(3, 6)), int(rng.integers(6, 9))
        return {
            "x": rng.normal(size=(n, 1, 2, 3)),
            "draws": draws,
            "completions": rng.normal(size=(draws, n, 1, 3, 2)),
        }

    def probe(answer, x, draws, completions):
        import torch

        seen = {}

        def sample(context):
            """The k-th completion of a condition is the condition plus k, whoever asks first."""
            rows = []
            for row in context:
                key = row.numpy().tobytes()
                seen[key] = seen.get(key, -1) + 1
                rows.append(row + seen[key])
            return torch.stack(rows)

        return {
            "completions": lambda: answer.draw(sample, x, draws),
            "mean": lambda: answer.mean(completions),
            "spread": lambda: answer.spread(completions),
        }


# 6. One step of the chain


class Chain:
    """The proposal, and the logarithm of the probability to accept it (before it is cut at 0)."""

    half, power = 0.5, 2

    @classmethod
    def propose(cls, v, slope, epsilon, noise):
        return v + cls.half * epsilon**cls.power * slope + epsilon * noise

    @classmethod
    def log_q(cls, to, source, slope, epsilon):
        mean = source + 0.5 * epsilon**2 * slope
        return -sum_event((to - mean) ** 2) / (2 * epsilon**2)

    @classmethod
    def log_accept(cls, v, new, log_pi, log_pi_new, slope, slope_new, epsilon):
        back = cls.log_q(v, new, slope_new, epsilon)
        there = cls.log_q(new, v, slope, epsilon)
        return log_pi_new - log_pi + back - there


class NoHalf(Chain):
    half = 1.0


class EpsilonOnce(Chain):
    power = 1


class DownTheSlope(Chain):
    half = -0.5


class NoNoise(Chain):
    @classmethod
    def propose(cls, v, slope, epsilon, noise):
        return v + 0.5 * epsilon**2 * slope


class Symmetric(Chain):
    @classmethod
    def log_accept(cls, v, new, log_pi, log_pi_new, slope, slope_new, epsilon):
        return log_pi_new - log_pi


class WayAndBackExchanged(Chain):
    @classmethod
    def log_accept(cls, v, new, log_pi, log_pi_new, slope, slope_new, epsilon):
        back = cls.log_q(v, new, slope_new, epsilon)
        there = cls.log_q(new, v, slope, epsilon)
        return log_pi_new - log_pi + there - back


class OldSlopeBack(Chain):
    @classmethod
    def log_accept(cls, v, new, log_pi, log_pi_new, slope, slope_new, epsilon):
        return super().log_accept(v, new, log_pi, log_pi_new, slope, slope, epsilon)


class OldOverNew(Chain):
    @classmethod
    def log_accept(cls, v, new, log_pi, log_pi_new, slope, slope_new, epsilon):
        return super().log_accept(v, new, log_pi_new, log_pi, slope, slope_new, epsilon)


@exercise(
    "cglow.langevin",
    read=f"{CHAPTER}#cglow-inpainting",
    hint="write log q(to | from) once, as a function; the ratio needs it in both directions.",
)
class Langevin:
    reference = Chain
    parts = {"proposal": 1, "log_accept": 2}
    mistakes = {
        "the slope is not halved: the drift is epsilon squared over two": NoHalf,
        "the drift has epsilon in the place of its square": EpsilonOnce,
        "the drift goes downhill: the density should rise": DownTheSlope,
        "there is no noise: this is gradient ascent, and ends in a mode": NoNoise,
        "the proposal counts as symmetric: the slope makes the way back differ from the way "
        "there": Symmetric,
        "the way there and the way back are exchanged: which of them is in the numerator?": (
            WayAndBackExchanged
        ),
        "the way back starts with the old slope: at the new state the slope is another": (
            OldSlopeBack
        ),
        "the densities are divided the wrong way round: is a better state accepted?": OldOverNew,
    }
    compare = {"log_accept": close(1e-8)}

    def draw(rng):
        shape = (int(rng.integers(3, 6)), 1, 2, 3)
        return {
            "v": rng.normal(size=shape),
            "noise": rng.normal(size=shape),
            "width": rng.uniform(0.5, 2.0, size=shape),
            "epsilon": float(rng.uniform(0.3, 0.8)),
        }

    def probe(answer, v, noise, width, epsilon):
        def slope(state):
            return -state / width**2

        def log_pi(state):
            return -(state**2 / width**2 / 2).flatten(1).sum(dim=1)

        new = v + epsilon * noise
        return {
            "proposal": lambda: answer.propose(v, slope(v), epsilon, noise),
            "log_accept": lambda: answer.log_accept(
                v, new, log_pi(v), log_pi(new), slope(v), slope(new), epsilon
            ),
        }
