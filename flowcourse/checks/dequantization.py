"""What the answers to the problem set on dequantization must satisfy.

The mistakes are wrong on purpose. Their names are what a student reads.
"""

import math

import numpy as np
import torch
from torch import Tensor

from flowcourse.bijector import sum_event
from flowcourse.checks import at_most, equal, exercise
from flowcourse.coupling.dequantization import VariationalDequantizer

# Topics that an answer may import, besides the modules that all topics share.
MAY_USE = ("change_of_variables", "likelihood", "nice", "realnvp")

CHAPTER = "book/coupling/dequantization.md"


# 1. Noise that stays in its cell


def add_noise(x: Tensor, u: Tensor) -> Tensor:
    x = x.to(u.dtype)
    return torch.minimum(x + u, torch.nextafter(x + 1, x))


@exercise(
    "dequantization.add_noise",
    read=f"{CHAPTER}#dequantization-cell",
    hint="compare the sum with x + 1 after it was rounded, and use a number below x + 1 where it "
    "got there; torch.nextafter gives the nearest one.",
)
class AddNoise:
    reference = add_noise
    parts = {"value": 1, "single": 1, "half": 1}
    compare = {"single": equal, "half": equal}
    mistakes = {
        "the sum is left as it was rounded: what is 255 + 0.999999 in single precision?": (
            lambda x, u: x.to(u.dtype) + u
        ),
        "the noise is shortened to be safe: then the ends of all cells stay empty": (
            lambda x, u: add_noise(x, 0.99 * u)
        ),
        "the noise is centred on the integer: which numbers does floor take to x?": (
            lambda x, u: x.to(u.dtype) + u - 0.5
        ),
        "the noise is kept below 1 by a fixed amount: which amount is enough in bfloat16?": (
            lambda x, u: x.to(u.dtype) + u.clamp(max=0.9999)
        ),
        "only the largest level is cut off: a sum may be rounded up in every cell": (
            lambda x, u: (x.to(u.dtype) + u).clamp(max=255.996)
        ),
        "the noise is gone: no draw leaves its cell, and the density is asked about integers": (
            lambda x, u: x.to(u.dtype) + 0 * u
        ),
    }

    def draw(rng):
        n = int(rng.integers(6, 12))
        return {
            "x": rng.integers(0, 250, size=(n, 3)),
            "u": rng.uniform(0.1, 0.99, size=(n, 3)),
            "bright": rng.integers(130, 255, size=(n, 3)),
            "near_one": 1 - rng.uniform(1e-7, 3e-6, size=(n, 3)),
        }

    def probe(answer, x, u, bright, near_one):
        import torch

        def cells(dtype):
            # 255 with the largest noise of the precision is always among them.
            levels = torch.cat([bright, torch.full_like(bright[:1], 255)])
            noise = torch.cat([near_one, torch.ones_like(near_one[:1])]).to(dtype)
            below_one = torch.nextafter(torch.ones_like(noise), torch.zeros_like(noise))
            return (answer(levels, torch.minimum(noise, below_one)).floor() - levels).double()

        return {
            "value": lambda: answer(x, u),
            "single": lambda: cells(torch.float32),
            "half": lambda: cells(torch.bfloat16),
        }


# 2. Bits per dimension, with every term


def score(x, u, log_q, log_density, levels, form):
    y, log_det = _preprocessed(x, u, levels, form)
    nats = log_density(y) + log_det - log_q
    return -nats / (x[0].numel() * math.log(2))


def _preprocessed(x, u, levels, form, reduce=sum_event):
    p = (x + u) / levels
    if form == "centred":
        return p - 0.5, reduce(torch.full_like(p, -math.log(levels)))
    p = 0.05 + 0.9 * p
    return torch.logit(p), reduce(math.log(0.9 / levels) - p.log() - torch.log1p(-p))


def _mean_event(terms):
    return terms.flatten(1).mean(dim=1)


def _score(x, u, log_q, log_density, levels, form, *, sign=-1, det=1.0, reduce=sum_event):
    y, log_det = _preprocessed(x, u, levels, form, reduce)
    nats = log_density(y) + det * log_det + sign * log_q
    return -nats / (x[0].numel() * math.log(2))


def _noise_after_scaling(x, u, log_q, log_density, levels, form):
    return score(x, u * levels, log_q, log_density, levels, form)


def _only_the_lines_slope(x, u, log_q, log_density, levels, form):
    y, _ = _preprocessed(x, u, levels, form)
    slope = math.log((0.9 if form == "logit" else 1.0) / levels)
    nats = log_density(y) + x[0].numel() * slope - log_q
    return -nats / (x[0].numel() * math.log(2))


@exercise(
    "dequantization.score",
    read=f"{CHAPTER}#dequantization-preprocessing",
    hint="three terms in nats for each example: the density of y, the log-determinant from x + u "
    "to y, and minus log q; then the unit.",
)
class Score:
    reference = score
    parts = {"centred": 2, "logit": 2}
    mistakes = {
        "log q is left out: narrow noise then looks like a good model": (
            lambda *args: _score(*args, sign=0)
        ),
        "log q is added: is noise that is spread out rewarded or punished by the bound?": (
            lambda *args: _score(*args, sign=1)
        ),
        "the log-determinant is left out: y is not x + u": lambda *args: _score(*args, det=0.0),
        "the log-determinant has the wrong sign: the integers lie further apart than the y": (
            lambda *args: _score(*args, det=-1.0)
        ),
        "the log-determinant is the mean over the dimensions of an example": (
            lambda *args: _score(*args, reduce=_mean_event)
        ),
        "the logit's own slope is missing; only the straight line before it is counted": (
            _only_the_lines_slope
        ),
        "the noise is added after the division: it must stay inside the cell of one level": (
            _noise_after_scaling
        ),
        "256 levels are built in: these data have another number": (
            lambda x, u, log_q, log_density, levels, form: score(
                x, u, log_q, log_density, 256, form
            )
        ),
        "your value is in nats": lambda *args: score(*args) * math.log(2),
        "your value is per example, not per dimension": (
            lambda x, *args: score(x, *args) * x[0].numel()
        ),
        "your sign is that of a log-likelihood: more bits must mean a worse model": (
            lambda *args: -score(*args)
        ),
    }

    def draw(rng):
        shape = (int(rng.integers(3, 6)), *(int(n) for n in rng.integers(2, 4, size=3)))
        levels = int(rng.choice([8, 17, 32]))
        return {
            "x": rng.integers(0, levels // 2, size=shape).astype(float),
            # Small, so that noise which was added too late is not beyond the logit's reach.
            "u": rng.uniform(0.001, 0.014, size=shape),
            "log_q": rng.normal(4.0, 2.0, size=shape[0]),
            "slope": rng.normal(size=shape[1:]),
            "levels": levels,
        }

    def probe(answer, x, u, log_q, slope, levels):
        def log_density(y):
            return (slope * y - (y - 0.2) ** 2).flatten(1).sum(dim=1)

        return {
            "centred": lambda: answer(x, u, log_q, log_density, levels, "centred"),
            "logit": lambda: answer(x, u, log_q, log_density, levels, "logit"),
        }


# 3. Noise from a conditional flow


class Given(VariationalDequantizer):
    """The layer, with the base sample handed in and in pieces that a mistake can change."""

    def __init__(self, bijector, base, encoder, levels):
        torch.nn.Module.__init__(self)
        self.bijector, self.base, self.encoder, self.levels = bijector, base, encoder, levels

    def draw(self, epsilon, context):
        return self.bijector.inverse(epsilon, context)

    def inside(self, x, u):
        return torch.minimum(x + u, torch.nextafter(x + 1, x))

    def log_q(self, epsilon, u, log_det):
        return self.base.log_prob(epsilon) - log_det

    def noisy(self, x, epsilon):
        u, log_det = self.draw(epsilon, self.context(x))
        return self.inside(x, u), self.log_q(epsilon, u, log_det)


class AddsLogDet(Given):
    def log_q(self, epsilon, u, log_det):
        return self.base.log_prob(epsilon) + log_det


class BaseDensityOnly(Given):
    def log_q(self, epsilon, u, log_det):
        return self.base.log_prob(epsilon)


class LogDetOnly(Given):
    def log_q(self, epsilon, u, log_det):
        return -log_det


class BaseDensityOfTheNoise(Given):
    def log_q(self, epsilon, u, log_det):
        return self.base.log_prob(u) - log_det


class Negative(Given):
    def log_q(self, epsilon, u, log_det):
        return log_det - self.base.log_prob(epsilon)


class RawContext(Given):
    def context(self, x):
        return self.encoder(x)


class ContextFromZero(Given):
    def context(self, x):
        return self.encoder(x / (self.levels - 1))


class ContextByLevels(Given):
    def context(self, x):
        return self.encoder(2 * x / self.levels - 1)


class Detached(Given):
    def draw(self, epsilon, context):
        with torch.no_grad():
            return super().draw(epsilon, context)


class LeavesTheCell(Given):
    def inside(self, x, u):
        return x + u


class ReturnsTheNoise(Given):
    def inside(self, x, u):
        return u


@exercise(
    "dequantization.variational",
    read=f"{CHAPTER}#dequantization-variational",
    hint="inverse takes epsilon to u and tells by how much it stretches; what is stretched gets "
    "thinner.",
)
class Variational:
    reference = Given
    parts = {"y": 1, "log_q": 2, "gradient": 1, "inside": 1}
    compare = {"inside": equal}
    mistakes = {
        "log_det is added: if the map from epsilon to u shrinks a volume, is the noise denser or "
        "thinner there?": AddsLogDet,
        "log q is the density of epsilon: u lies elsewhere, and the map has a determinant": (
            BaseDensityOnly
        ),
        "log q lacks the density of epsilon under the base": LogDetOnly,
        "the base is asked about u: it is the density of epsilon": BaseDensityOfTheNoise,
        "this is minus log q: the bound subtracts it later": Negative,
        "the encoder is fed raw levels: scale them to [-1, 1]": RawContext,
        "the encoder is fed levels between 0 and 1: scale them to [-1, 1]": ContextFromZero,
        "the largest level does not become 1: there are levels - 1 steps from the first to the "
        "last": ContextByLevels,
        "no gradient comes through: the noise must be able to learn where to lie": Detached,
        "y leaves its cell where the noise rounds to 1": LeavesTheCell,
        "you returned u: asked is x + u": ReturnsTheNoise,
    }

    def draw(rng):
        levels = int(rng.integers(5, 40))
        batch = int(rng.integers(3, 6))
        return {
            "x": rng.integers(0, levels, size=(batch, 1, 4, 4)).astype(float),
            "epsilon": rng.normal(size=(batch, 1, 4, 4)),
            "levels": levels,
        }

    def probe(answer, x, epsilon, levels):
        import torch
        from torch import nn

        from flowcourse.bijector import Compose
        from flowcourse.coupling import realnvp
        from flowcourse.flow import StandardLogistic
        from flowcourse.foundations.change_of_variables import Logit

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(4, 2, kernel_size=3, padding=1)

            def forward(self, u, context):
                return self.conv(torch.cat([u, context], dim=1))

        couplings = [realnvp.AffineCoupling(Net(), realnvp.checkerboard(p), 1) for p in (0, 1)]
        bijector = Compose(Logit(), *couplings).double()
        encoder = nn.Conv2d(1, 3, kernel_size=3, padding=1).double()
        layer = answer(bijector, StandardLogistic(1, 4, 4).double(), encoder, levels)

        def gradient():
            y, _ = layer.noisy(x, epsilon)
            return torch.autograd.grad(y.sum(), encoder.weight)[0]

        def inside():
            far = torch.full_like(x, 1e4)
            return layer.noisy(x, far)[0].floor() - x + layer.noisy(x, -far)[0].floor() - x

        return {
            "y": lambda: layer.noisy(x, epsilon)[0],
            "log_q": lambda: layer.noisy(x, epsilon)[1],
            "gradient": gradient,
            "inside": inside,
        }


# 4. The best noise of all


def best_noise(x, v, mean, scale):
    low, high = torch.sigmoid((x - mean) / scale), torch.sigmoid((x + 1 - mean) / scale)
    t = torch.logit(low + v * (high - low))
    log_density = torch.log(torch.sigmoid(t) * torch.sigmoid(-t) / scale)
    return mean + scale * t - x, log_density - torch.log(high - low)


def _untruncated(x, v, mean, scale):
    t = torch.logit(v)
    return mean + scale * t - x, torch.log(torch.sigmoid(t) * torch.sigmoid(-t) / scale)


def _squeezed(x, v, mean, scale):
    """Noise of the whole line, pressed into the cell."""
    t = torch.logit(v)
    u = torch.sigmoid(mean + scale * t - x)
    slope = torch.log(torch.sigmoid(t) * torch.sigmoid(-t) / scale)
    return u, slope - torch.log(u * (1 - u))


def _with_log_q(change):
    def answer(x, v, mean, scale):
        u, log_q = best_noise(x, v, mean, scale)
        low, high = torch.sigmoid((x - mean) / scale), torch.sigmoid((x + 1 - mean) / scale)
        return u, change(log_q, torch.log(high - low), scale.log())

    return answer


@exercise(
    "dequantization.best_noise",
    read=f"{CHAPTER}#dequantization-gap",
    hint="cut the density to the cell and divide by its mass; then v is the distribution function "
    "of the result.",
)
class BestNoise:
    reference = best_noise
    parts = {"u": 2, "log_q": 1, "log_mass": 1}
    mistakes = {
        "your noise is uniform: the best noise is as uneven as the density in the cell": (
            lambda x, v, mean, scale: (v, torch.zeros_like(v))
        ),
        "your noise is drawn from the whole line: only what lies in the cell of x may come": (
            _untruncated
        ),
        "your noise is squeezed into the cell: that is some noise, but not p(u | x)": _squeezed,
        "log q is the density itself: inside the cell it has mass P(x), not 1": (
            _with_log_q(lambda log_q, log_mass, log_scale: log_q + log_mass)
        ),
        "log q is multiplied by the mass of the cell: what is cut off must be made up for": (
            _with_log_q(lambda log_q, log_mass, log_scale: log_q + 2 * log_mass)
        ),
        "the density of the logistic lacks its scale": (
            _with_log_q(lambda log_q, log_mass, log_scale: log_q + log_scale)
        ),
        "log q has the wrong sign": _with_log_q(lambda log_q, log_mass, log_scale: -log_q),
        "you returned x + u: asked is u": lambda x, v, mean, scale: (
            x + best_noise(x, v, mean, scale)[0],
            best_noise(x, v, mean, scale)[1],
        ),
        "your cell is centred on x: here x stands for [x, x + 1)": (
            lambda x, v, mean, scale: best_noise(x - 0.5, v, mean, scale)
        ),
    }

    def draw(rng):
        n = int(rng.integers(6, 12))
        mean = rng.uniform(2, 6, size=n)
        return {
            "x": (mean + rng.uniform(-1.5, 1.5, size=n)).round(),
            "v": rng.uniform(0.05, 0.95, size=n),
            "mean": mean,
            "scale": rng.uniform(0.3, 0.8, size=n),
        }

    def probe(answer, x, v, mean, scale):
        import torch
        import torch.nn.functional as F

        def log_mass():
            """With the best noise, every draw gives log P(x)."""
            u, log_q = answer(x, v, mean, scale)
            t = (x + u - mean) / scale
            return -F.softplus(t) - F.softplus(-t) - torch.log(scale) - log_q

        return {
            "u": lambda: answer(x, v, mean, scale)[0],
            "log_q": lambda: answer(x, v, mean, scale)[1],
            "log_mass": log_mass,
        }


# 5. Fewer bits


class Depth:
    """Between 8 bits and fewer."""

    @staticmethod
    def reduce(x, bits):
        return x // 2 ** (8 - bits)

    @staticmethod
    def expand(x, bits, u):
        step = 2 ** (8 - bits)
        return x * step + (u * step).floor().to(x.dtype)

    @staticmethod
    def code_length(bits_per_dim, bits):
        return bits_per_dim + 8 - bits

    @staticmethod
    def coarse(log_p, bits):
        return log_p.unflatten(-1, (2**bits, -1)).logsumexp(dim=-1)


class Rounds(Depth):
    @staticmethod
    def reduce(x, bits):
        return (x / 2 ** (8 - bits)).round().to(x.dtype)


class DividesByLevels(Depth):
    @staticmethod
    def reduce(x, bits):
        return x // 2**bits


class KeepsTheZeros(Depth):
    @staticmethod
    def reduce(x, bits):
        return x // 2 ** (8 - bits) * 2 ** (8 - bits)


class LowBits(Depth):
    @staticmethod
    def reduce(x, bits):
        return x % 2**bits


class AlwaysTheLowest(Depth):
    @staticmethod
    def expand(x, bits, u):
        return x * 2 ** (8 - bits)


class AlwaysTheMiddle(Depth):
    @staticmethod
    def expand(x, bits, u):
        return x * 2 ** (8 - bits) + 2 ** (8 - bits) // 2


class ForgetsTheLostBits(Depth):
    @staticmethod
    def code_length(bits_per_dim, bits):
        return bits_per_dim


class ScalesTheBits(Depth):
    @staticmethod
    def code_length(bits_per_dim, bits):
        return bits_per_dim * 8 / bits


class AddsTheKeptBits(Depth):
    @staticmethod
    def code_length(bits_per_dim, bits):
        return bits_per_dim + bits


class AveragesTheCells(Depth):
    @staticmethod
    def coarse(log_p, bits):
        cells = log_p.unflatten(-1, (2**bits, -1))
        return cells.logsumexp(dim=-1) - math.log(cells.shape[-1])


class SumsLogarithms(Depth):
    @staticmethod
    def coarse(log_p, bits):
        return log_p.unflatten(-1, (2**bits, -1)).sum(dim=-1)


class Interleaves(Depth):
    @staticmethod
    def coarse(log_p, bits):
        return log_p.unflatten(-1, (-1, 2**bits)).logsumexp(dim=-2)


@exercise(
    "dequantization.bit_depth",
    read=f"{CHAPTER}#dequantization-bits",
    hint="a 5-bit level stands for eight neighbouring 8-bit levels: write down which.",
)
class BitDepth:
    reference = Depth
    parts = {"reduce": 1, "expand": 1, "code_length": 1, "coarse": 2}
    compare = {"reduce": equal, "expand": equal}
    mistakes = {
        "reduce rounds to the nearest: then 255 becomes a level that does not exist": Rounds,
        "reduce divides by the number of levels: how many old levels share a new one?": (
            DividesByLevels
        ),
        "reduce sets the low bits to 0 and keeps the range: the new levels count up by 1": (
            KeepsTheZeros
        ),
        "reduce keeps the low bits: which of the bits carry the picture?": LowBits,
        "expand always returns the lowest of the levels: all of them are possible": AlwaysTheLowest,
        "expand always returns the middle of the levels: all of them are possible": AlwaysTheMiddle,
        "code_length forgets the bits that were cut off: someone has to send them, too": (
            ForgetsTheLostBits
        ),
        "code_length is scaled in proportion: the lost bits cost one bit each, whatever the rest "
        "costs": ScalesTheBits,
        "code_length adds the bits that were kept: which ones are still to be sent?": (
            AddsTheKeptBits
        ),
        "coarse takes the mean of the probabilities: disjoint events, so what becomes of them?": (
            AveragesTheCells
        ),
        "coarse adds up logarithms: that is the logarithm of a product": SumsLogarithms,
        "coarse joins levels that are far apart: neighbours share their high bits": Interleaves,
    }

    def draw(rng):
        bits = int(rng.choice([3, 5, 6]))
        shape = (3, 2, 4)
        x = rng.integers(0, 256, size=shape)
        x.flat[:2] = 255, 254
        return {
            "x": x,
            "few": rng.integers(1, 2**bits, size=shape),
            "u": rng.uniform(0.01, 0.99, size=shape),
            "bits_per_dim": rng.uniform(1, 3, size=3),
            "logits": rng.normal(size=(4, 256)),
            "bits": bits,
        }

    def probe(answer, x, few, u, bits_per_dim, logits, bits):
        log_p = logits.log_softmax(dim=-1)
        return {
            "reduce": lambda: answer.reduce(x, bits),
            "expand": lambda: answer.expand(few, bits, u),
            "code_length": lambda: answer.code_length(bits_per_dim, bits),
            "coarse": lambda: answer.coarse(log_p, bits),
        }


# 6. Predict: up, down or the same

PREDICTION = {
    "A": "up",
    "B": "same",
    "C": "up",
    "D": "up",
    "E": "same",
    "F": "same",
    "G": "down",
    "H": "up",
}


@exercise(
    "dequantization.predict",
    read=f"{CHAPTER}#dequantization-gap",
    hint="ask of each change whether it touches the density, the noise, or only the estimate.",
)
class Predict:
    reference = PREDICTION
    parts = {"noise": 3, "draws": 2, "data": 2, "walls": 1}
    compare = {part: equal for part in parts}
    mistakes = {
        "the bound belongs to a density and a noise: better noise lifts it": (
            PREDICTION | {"A": "same"}
        ),
        "P(x) is an integral of the density: it does not know which noise anyone uses": (
            PREDICTION | {"B": "up"}
        ),
        "without log q the value is the density where it is highest, and that exceeds the mean "
        "over the cell": PREDICTION | {"C": "down"},
        "with the best noise all weights are equal to P(x): what does their average do?": (
            PREDICTION | {"E": "up"}
        ),
        "the average over more draws is inside the logarithm: by Jensen, which way does that "
        "go?": PREDICTION | {"D": "down"},
        "a density and its log-determinant change together when the coordinates do": (
            PREDICTION | {"F": "up"}
        ),
        "a level that falls into two equally likely halves gives each half the probability": (
            PREDICTION | {"G": "same"}
        ),
        "noise beyond the cell collects mass that belongs to other levels": (
            PREDICTION | {"H": "down"}
        ),
    }

    def draw(rng):
        return {"mean": rng.uniform(1.1, 1.4), "scale": rng.uniform(0.15, 0.25)}

    def probe(answer, mean, scale):
        """The prediction minus what happens, in steps of up, same and down: all zeros if right."""
        import torch

        u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000

        def log_p(y):
            t = (y - mean) / scale
            return (
                torch.nn.functional.logsigmoid(t)
                + torch.nn.functional.logsigmoid(-t)
                - torch.log(torch.tensor(scale, dtype=torch.float64))
            )

        def mass(a, b):
            ends = (torch.tensor([a, b], dtype=torch.float64) - mean) / scale
            return torch.sigmoid(ends).diff().item()

        inside = log_p(1 + u)
        exact = torch.tensor(mass(1.0, 2.0)).log().item()
        best = (inside - exact).exp() / len(u)  # p(u | x) on the grid
        uniform_bound = inside.mean().item()
        best_bound = (best * (inside - (best * len(u)).log())).sum().item()

        def weighted(log_weights, k):
            groups = log_weights[torch.randint(len(log_weights), (k, 20_000))]
            return (groups.logsumexp(dim=0) - torch.tensor(float(k)).log()).mean().item()

        # Coordinates: y = logit(0.05 + 0.9 x / 4) has its own density and log-determinant.
        x = 1 + u
        p = 0.05 + 0.9 * x / 4
        log_det = (0.9 / 4 / (p * (1 - p))).log()
        in_logit_space = log_p(x) - log_det
        through_logit = (in_logit_space + log_det).mean().item()

        # Normal noise that knows nothing of the cell.
        wide = torch.distributions.Normal(
            torch.tensor(0.5, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
        )
        stray = wide.sample((200_000,))
        beyond = (log_p(1 + stray) - wide.log_prob(stray)).exp().mean().log().item()

        change = {
            "A": best_bound - uniform_bound,
            "B": 0.0,
            "C": (best * inside).sum().item() - exact,
            "D": weighted(inside, 16) - weighted(inside, 1),
            "E": best_bound - exact,
            "F": through_logit - uniform_bound,
            "G": torch.tensor(mass(1.0, 2.0) / 2).log().item() - exact,
            "H": beyond - exact,
        }
        names = {"down": -1, "same": 0, "up": 1}
        error = {
            k: names[answer[k]] - (0 if abs(d) < 1e-3 else 1 if d > 0 else -1)
            for k, d in change.items()
        }
        parts = {"noise": "ABC", "draws": "DE", "data": "FG", "walls": "H"}
        return {part: [error[k] for k in letters] for part, letters in parts.items()}


# 7. Train the noise

LEVELS, POINTS = 6, 2000
GAP = 0.03  # nats, on average over the levels; uniform noise has more than ten times that
_GRID = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS


def fit_noise(log_p, bins: int = 200):
    """p(u|x) by quadrature: a constant density in each of many bins."""
    return _table(lambda log_p_bins: log_p_bins, log_p, bins)


def _table(logits_of, log_p, bins: int = 200):
    """Noise that is constant in each bin, from logits for each level and bin."""
    middle = (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    levels = torch.arange(LEVELS, dtype=torch.float64)[:, None]
    log_q = logits_of(log_p(levels + middle)).log_softmax(dim=1) + math.log(bins)

    def evaluate(u, x):
        index = (u * bins).long().clamp(0, bins - 1)
        return log_q[x.long(), index]

    return evaluate


def _spiked(log_p_bins):
    best = log_p_bins.argmax(dim=1, keepdim=True)
    return torch.zeros_like(log_p_bins).scatter(1, best, 30.0)


def _not_normalised(log_p):
    return lambda u, x: log_p(x + u)


def _density_itself(log_p):
    log_q = fit_noise(log_p)
    return lambda u, x: log_q(u, x).exp()


@exercise(
    "dequantization.fit_noise",
    read=f"{CHAPTER}#dequantization-variational",
    hint="parametrise q by a table of logits, levels by bins; the bound's expectation is a sum "
    "over the bins, so no sampling is needed.",
)
class FitNoise:
    reference = staticmethod(fit_noise)
    parts = {"gap": 3, "mass": 1}
    compare = {
        "gap": at_most(GAP, "nats between the bound and log P"),
        "mass": at_most(0.01, "as the distance of the mass of q from 1"),
    }
    mistakes = {
        "your noise is uniform: that is where training starts": (
            lambda log_p: _table(lambda rows: 0 * rows, log_p)
        ),
        "your noise sits in one spot of each cell: log p alone was maximised, and log q was "
        "forgotten": lambda log_p: _table(_spiked, log_p),
        "your noise is the same for every level: it must depend on x": (
            lambda log_p: _table(lambda rows: rows.mean(0, keepdim=True).expand_as(rows), log_p)
        ),
        "your noise avoids what the density likes: the bound was minimised": (
            lambda log_p: _table(lambda rows: -rows, log_p)
        ),
        "your q is not a density on the cell: divide by the mass": _not_normalised,
        "your function returns q: asked is its logarithm": _density_itself,
    }

    def draw(rng):
        first, apart = rng.uniform(0.8, 2.2), rng.uniform(2.0, 2.4)
        return {
            "means": first + apart * np.arange(2.0),
            "scales": rng.uniform(0.15, 0.22, size=2),
            "weight": float(rng.uniform(0.3, 0.7)),
        }

    def probe(answer, means, scales, weight):
        import torch

        def log_p(y):
            t = (y.unsqueeze(-1) - means) / scales
            log_sigmoid = torch.nn.functional.logsigmoid
            parts = log_sigmoid(t) + log_sigmoid(-t) - scales.log()
            weights = torch.tensor([weight, 1 - weight], dtype=y.dtype)
            return (parts + weights.log()).logsumexp(dim=-1)

        log_q = answer(log_p)

        def on_the_grid():
            x = torch.arange(LEVELS, dtype=torch.float64)[:, None].expand(LEVELS, POINTS)
            return log_q(_GRID.expand(LEVELS, POINTS), x)

        return {"log_q": on_the_grid}

    def measure(evidence, means, scales, weight):
        def gap():
            log_q = evidence["log_q"].double().reshape(LEVELS, POINTS)
            x = torch.arange(LEVELS, dtype=torch.float64)[:, None]
            t = ((x + _GRID).unsqueeze(-1) - means) / scales
            parts = torch.sigmoid(t) * torch.sigmoid(-t) / scales
            p = parts @ torch.tensor([weight, 1 - weight], dtype=torch.float64)
            posterior = p / p.mean(dim=1, keepdim=True)
            # A density that is not one must not gain by it.
            log_q = log_q - log_q.exp().mean(dim=1, keepdim=True).log()
            return (log_q.exp() * (log_q - posterior.log())).mean(dim=1).mean()

        def mass():
            return (evidence["log_q"].double().exp().mean(dim=-1) - 1).abs().max()

        return {"gap": gap, "mass": mass}
