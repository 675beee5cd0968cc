"""What the answers to the problem set on PixelCNN++ must satisfy.

The mistakes are wrong on purpose. Their names are what a student reads.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flowcourse.autoregressive import pixelcnnpp
from flowcourse.checks import at_most, close, equal, exercise
from flowcourse.checks.fitted import trained_once
from flowcourse.foundations.likelihood import bits_per_dim

# Topics that an answer may import, besides the modules that all topics share.
MAY_USE = (
    "change_of_variables",
    "likelihood",
    "nice",
    "realnvp",
    "nade",
    "made",
    "pixelrnn",
    "pixelcnn",
)

CHAPTER = "book/autoregressive/pixelcnnpp.md"


# 1. The mass of a bin


def log_mass(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    return pixelcnnpp.discretized_logistic(2 * x / (levels - 1) - 1, mean, log_scale, levels)


def _by_difference(
    x, mean, log_scale, levels, *, half=None, edges=True, floor=0.0, inverse=True, scaled=True
):
    """The definition, with one thing wrong; in float32 it is wrong in the tails as it stands."""
    half = 1 / (levels - 1) if half is None else half
    value = 2 * x / (levels - 1) - 1 if scaled else x.to(mean.dtype)
    factor = torch.exp(-log_scale if inverse else log_scale)
    upper = torch.sigmoid((value + half - mean) * factor)
    lower = torch.sigmoid((value - half - mean) * factor)
    if edges:
        upper = torch.where(x == levels - 1, 1.0, upper)
        lower = torch.where(x == 0, 0.0, lower)
    return (upper - lower).clamp(min=floor).log()


def _stable_with(half_of_levels):
    """The stable formula with another half width."""

    def wrong(x, mean, log_scale, levels):
        half = half_of_levels(levels)
        value = 2 * x / (levels - 1) - 1
        upper = (value + half - mean) * torch.exp(-log_scale)
        lower = (value - half - mean) * torch.exp(-log_scale)
        inner = F.logsigmoid(upper) + F.logsigmoid(-lower)
        inner = inner + torch.log(-torch.expm1(-2 * half * torch.exp(-log_scale)))
        inner = torch.where(x == 0, F.logsigmoid(upper), inner)
        return torch.where(x == levels - 1, F.logsigmoid(-lower), inner)

    return wrong


def without_edges(x, mean, log_scale, levels):
    half = 1 / (levels - 1)
    value = 2 * x / (levels - 1) - 1
    upper = (value + half - mean) * torch.exp(-log_scale)
    lower = (value - half - mean) * torch.exp(-log_scale)
    width = 2 * half * torch.exp(-log_scale)
    return F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-width))


def density_times_width(x, mean, log_scale, levels):
    z = (2 * x / (levels - 1) - 1 - mean) * torch.exp(-log_scale)
    return F.logsigmoid(z) + F.logsigmoid(-z) - log_scale + math.log(2 / (levels - 1))


@exercise(
    "pixelcnnpp.log_mass",
    read=f"{CHAPTER}#pixelcnnpp-stable",
    hint="write the mass of an inner bin as a product of three factors, none of which is a "
    "difference of numbers close to each other; then take the logarithm of each.",
)
class LogMass:
    reference = log_mass
    parts = {"inner": 1, "edges": 1, "tails": 2, "gradient": 1}
    mistakes = {
        "the first and the last level have bins of finite width: where does the rest of the mass "
        "go, and what do all levels sum to?": without_edges,
        "the bins are 2 / levels wide: from -1 to 1, with levels on both ends, how many gaps are "
        "there?": _stable_with(lambda levels: 1 / levels),
        "the bins are twice as wide as the distance between two levels, so that they overlap: what "
        "is half of that distance?": _stable_with(lambda levels: 2 / (levels - 1)),
        "this is the density in the middle of the bin, times its width: an approximation, which "
        "fails when the logistic is narrower than the bin": density_times_width,
        "log(a - b) in single precision: both sigmoids round to the same number, and the "
        "logarithm of 0 is -inf": _by_difference,
        "the mass is held above 1e-12: the value there is not the logistic's, and no gradient "
        "tells the mean to come nearer": lambda *a: _by_difference(*a, floor=1e-12),
        "the distance is multiplied by the scale: a narrow logistic has a small scale": (
            lambda *a: _by_difference(*a, inverse=False)
        ),
        "the levels are not scaled: mean and scale are given for levels from -1 to 1": (
            lambda *a: _by_difference(*a, scaled=False)
        ),
    }

    def draw(rng):
        n, levels = 12, int(rng.choice([9, 17, 64, 256]))
        return {
            "levels": levels,
            "x": rng.integers(1, levels - 1, size=n),
            "mean": rng.uniform(-0.9, 0.9, size=n),
            "log_scale": rng.uniform(-1.5, 0.5, size=n),
            "far_mean": rng.uniform(0.5, 0.9, size=n).astype("float32"),
            "far_log_scale": rng.uniform(-6.5, -5.0, size=n).astype("float32"),
        }

    def probe(answer, levels, x, mean, log_scale, far_mean, far_log_scale):
        import torch

        ends = torch.arange(len(x)) % 2 * (levels - 1)
        # Levels from the darkest quarter under bright means, and the other way round.
        dark = torch.arange(len(x)) % max(levels // 4, 2) + 1
        bright = levels - 1 - dark

        def tails(mean, log_scale):
            return torch.cat(
                [answer(dark, mean, log_scale, levels), answer(bright, -mean, log_scale, levels)]
            )

        def gradient():
            leaves = [far_mean.clone().requires_grad_(), far_log_scale.clone().requires_grad_()]
            return torch.stack(torch.autograd.grad(tails(*leaves).sum(), leaves))

        return {
            "inner": lambda: answer(x, mean, log_scale, levels),
            "edges": lambda: answer(ends, mean, log_scale, levels),
            "tails": lambda: tails(far_mean, far_log_scale),
            "gradient": gradient,
        }


# 2. The mixture, in bits


def mixture_bits(logits: Tensor, log_masses: Tensor) -> Tensor:
    log_p = (logits.log_softmax(dim=1) + log_masses).logsumexp(dim=1)
    return bits_per_dim(-log_p.flatten(1).sum(dim=1), log_p[0].numel())


def averaged_logarithms(logits, log_masses):
    log_p = (logits.softmax(dim=1) * log_masses).sum(dim=1)
    return bits_per_dim(-log_p.flatten(1).sum(dim=1), log_p[0].numel())


def weights_of_any_sum(logits, log_masses):
    log_p = (logits + log_masses).logsumexp(dim=1)
    return bits_per_dim(-log_p.flatten(1).sum(dim=1), log_p[0].numel())


def weights_over_the_rows(logits, log_masses):
    log_p = (logits.log_softmax(dim=2) + log_masses).logsumexp(dim=1)
    return bits_per_dim(-log_p.flatten(1).sum(dim=1), log_p[0].numel())


def mixture_of_images(logits, log_masses):
    whole = (logits.log_softmax(dim=1) + log_masses).flatten(2).sum(dim=2)
    return bits_per_dim(-whole.logsumexp(dim=1), log_masses[0, 0].numel())


def by_exponentials(logits, log_masses):
    log_p = (logits.softmax(dim=1) * log_masses.exp()).sum(dim=1).log()
    return bits_per_dim(-log_p.flatten(1).sum(dim=1), log_p[0].numel())


def in_nats(logits, log_masses):
    return mixture_bits(logits, log_masses) * math.log(2)


def of_the_whole_image(logits, log_masses):
    return mixture_bits(logits, log_masses) * log_masses[0, 0].numel()


@exercise(
    "pixelcnnpp.mixture_bits",
    read=f"{CHAPTER}#pixelcnnpp-mixture",
    hint="a mixture is a weighted sum of probabilities, for each pixel; torch.logsumexp sums what "
    "is given by its logarithm.",
)
class MixtureBits:
    reference = mixture_bits
    parts = {"bits": 2, "improbable": 1, "one_component": 1}
    mistakes = {
        "the logarithms are averaged: that is a lower bound, by Jensen; which of the two is "
        "averaged, the probability or its logarithm?": averaged_logarithms,
        "the weights do not sum to 1: logits become log-weights by log_softmax": weights_of_any_sum,
        "the weights sum to 1 over the rows of the image: over which axis are the "
        "components?": weights_over_the_rows,
        "one component is chosen for the whole image: each pixel has a mixture of its own": (
            mixture_of_images
        ),
        "exp underflows for improbable pixels, and the logarithm of 0 is -inf": by_exponentials,
        "this is in nats: by what do you divide to get bits?": in_nats,
        "these are the bits of the whole image: bits per dimension are asked for": (
            of_the_whole_image
        ),
    }

    def draw(rng):
        batch, k = int(rng.integers(2, 5)), int(rng.integers(3, 6))
        size = (batch, k, *(int(n) for n in rng.integers(2, 5, size=2)))
        return {
            "logits": 2 * rng.normal(size=size),
            "log_masses": -rng.gamma(2.0, 2.0, size=size),
            "improbable": -rng.uniform(900, 2000, size=size),
        }

    def probe(answer, logits, log_masses, improbable):
        return {
            "bits": lambda: answer(logits, log_masses),
            "improbable": lambda: answer(logits, improbable),
            "one_component": lambda: answer(logits[:, :1], log_masses[:, :1]),
        }


# 3. The colours of a pixel


def _bins(levels):
    """Log-masses of the definition, for moderate values in double precision; what answers use."""

    def log_mass(x, mean, log_scale):
        half, scale = 1 / (levels - 1), log_scale.exp()
        above = torch.where(x > 1 - half, 1.0, torch.sigmoid((x + half - mean) / scale))
        below = torch.where(x < half - 1, 0.0, torch.sigmoid((x - half - mean) / scale))
        return (above - below).log()

    return log_mass


class ColourMixture:
    """One pixel: `logits (batch, k)`, all other parameters `(batch, k, 3)`."""

    def squash(self, coefficients):
        return coefficients.tanh()

    def __init__(self, logits, means, log_scales, coefficients, log_mass):
        self.log_weights = logits.log_softmax(dim=1)
        self.means, self.log_scales = means, log_scales
        self.coefficients = self.squash(coefficients)
        self.log_mass = log_mass

    def shifted(self, x):
        """Means `(batch, k, 3)`, given the colours `(batch, 3)`."""
        red, green = x[:, None, 0], x[:, None, 1]
        a, b, c = self.coefficients.unbind(dim=2)
        zero = torch.zeros_like(a)
        return self.means + torch.stack([zero, a * red, b * red + c * green], dim=2)

    def log_prob(self, x):
        colours = self.log_mass(x[:, None], self.shifted(x), self.log_scales)
        return (self.log_weights + colours.sum(dim=2)).logsumexp(dim=1)

    def weights_given(self, red):
        first = self.log_mass(red[:, None], self.means[..., 0], self.log_scales[..., 0])
        return (self.log_weights + first).log_softmax(dim=1)

    def green(self, red, every):
        mean = self.shifted(red[:, None].expand(-1, 3))[:, :, 1]
        scale = self.log_scales[:, :, 1]
        masses = self.log_mass(every, mean[..., None], scale[..., None])
        return (self.weights_given(red)[..., None] + masses).logsumexp(dim=1)


class FreeCoefficients(ColourMixture):
    def squash(self, coefficients):
        return coefficients


class FollowsTheMean(ColourMixture):
    def shifted(self, x):
        red, green = self.means[..., 0], self.means[..., 1]
        a, b, c = self.coefficients.unbind(dim=2)
        green = green + a * red
        return torch.stack([red, green, self.means[..., 2] + b * red + c * green], dim=2)


class ExchangedCoefficients(ColourMixture):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.coefficients = self.coefficients[:, :, [0, 2, 1]]


class GreenFromBlue(ColourMixture):
    def shifted(self, x):
        a, b, c = self.coefficients.unbind(dim=2)
        red, green, blue = (x[:, None, i] for i in range(3))
        zero = torch.zeros_like(a)
        return self.means + torch.stack([b * green + c * blue, a * blue, zero], dim=2)


class OneMixtureForEachColour(ColourMixture):
    def log_prob(self, x):
        colours = self.log_mass(x[:, None], self.shifted(x), self.log_scales)
        return (self.log_weights[..., None] + colours).logsumexp(dim=1).sum(dim=1)

    def weights_given(self, red):
        return self.log_weights


class WeightsAsBefore(ColourMixture):
    def weights_given(self, red):
        return self.log_weights


class JointOfBoth(ColourMixture):
    def weights_given(self, red):
        first = self.log_mass(red[:, None], self.means[..., 0], self.log_scales[..., 0])
        return self.log_weights + first


@exercise(
    "pixelcnnpp.colours",
    read=f"{CHAPTER}#pixelcnnpp-colour",
    hint="write P(R, G, B) as one sum over the components first; P(G | R) is a ratio of two such "
    "sums.",
)
class Colours:
    reference = ColourMixture
    parts = {"log_prob": 2, "green": 2}
    mistakes = {
        "the coefficients are used as they come: a hyperbolic tangent keeps them between -1 and "
        "1": FreeCoefficients,
        "the means follow the mean of red, and not the value that red has in this pixel": (
            FollowsTheMean
        ),
        "the two coefficients of blue are exchanged: their order is (G, R), (B, R), (B, G)": (
            ExchangedCoefficients
        ),
        "the colours are taken in the order blue, green, red: which one comes first?": (
            GreenFromBlue
        ),
        "each colour has chosen a component for itself: all three share one": (
            OneMixtureForEachColour
        ),
        "green is mixed with the weights from before red was known: what does red say about the "
        "component?": WeightsAsBefore,
        "this is the joint probability of red and green: divide by that of red": JointOfBoth,
    }

    def draw(rng):
        batch, k, levels = int(rng.integers(3, 6)), int(rng.integers(2, 5)), 17
        parameters = {
            name: scale * rng.normal(size=(batch, k, 3)) - shift
            for name, scale, shift in (
                ("means", 0.5, 0.0),
                ("log_scales", 0.3, 1.5),
                ("coefficients", 1.0, 0.0),
            )
        }
        x = rng.integers(levels, size=(batch, 3))
        return {"x": x, "logits": rng.normal(size=(batch, k)), "levels": levels, **parameters}

    def probe(answer, x, logits, levels, means, log_scales, coefficients):
        import torch

        every = torch.linspace(-1, 1, levels, dtype=torch.float64)
        pixel = answer(logits, means, log_scales, coefficients, _bins(levels))
        return {
            "log_prob": lambda: pixel.log_prob(every[x]),
            "green": lambda: pixel.green(every[x[:, 0]], every),
        }


# 4. Debug the first layer of the two streams


def _doubled(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], dim=1))


def _down(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 1, -1))


def _right(x: Tensor) -> Tensor:
    return F.pad(x, (1, -1, 0, 0))


def _layer(vertical=_down, above=_down, left=_right, nonlinearity=_doubled):
    """The first layer with its shifts and its nonlinearity."""

    def first_layer(x, rows, row, column):
        v = F.conv2d(F.pad(vertical(x), (1, 1, 1, 0)), rows)
        h = F.conv2d(F.pad(above(x), (1, 1, 0, 0)), row)
        h = h + F.conv2d(F.pad(left(x), (0, 0, 1, 0)), column)
        return nonlinearity(v), nonlinearity(h)

    return first_layer


def _unshifted(x: Tensor) -> Tensor:
    return x


@exercise(
    "pixelcnnpp.debug_streams",
    read=f"{CHAPTER}#pixelcnnpp-streams",
    hint="ask autograd on which pixels one output depends, for each stream and each term alone.",
)
class DebugStreams:
    reference = _layer()
    parts = {"vertical": 2, "horizontal": 2, "sees": 1}
    compare = {"sees": equal}
    mistakes = {
        "the layer still does what it did as handed out": _layer(
            vertical=_unshifted,
            left=lambda x: x.roll(1, dims=3),
            above=lambda x: F.pad(x, (0, 0, -1, 1)),
            nonlinearity=lambda x: torch.cat([F.elu(x), -F.elu(x)], dim=1),
        ),
        "the vertical stream sees its own row, and so the pixel itself and those to its right": (
            _layer(vertical=_unshifted)
        ),
        "the vertical stream is shifted by two rows: the row just above is never seen": _layer(
            vertical=lambda x: _down(_down(x))
        ),
        "the horizontal stream looks at the row below where it should look at the row above": (
            _layer(above=lambda x: F.pad(x, (0, 0, -1, 1)))
        ),
        "the horizontal stream sees its own pixel: the image must move to the right first": (
            _layer(left=_unshifted)
        ),
        "roll brings the last column back on the left side: what a shift moves in is zero": (
            _layer(left=lambda x: x.roll(1, dims=3))
        ),
        "the second half is minus the ELU of x: it should be the ELU of minus x, or it says "
        "nothing new": _layer(nonlinearity=lambda x: torch.cat([F.elu(x), -F.elu(x)], dim=1)),
        "the halves are exchanged: x comes first, then minus x": _layer(
            nonlinearity=lambda x: F.elu(torch.cat([-x, x], dim=1))
        ),
    }

    def draw(rng):
        height, width = (int(n) for n in rng.integers(4, 7, size=2))
        f = int(rng.integers(2, 4))
        return {
            "x": rng.normal(size=(2, 1, height, width)),
            "rows": rng.normal(size=(f, 1, 2, 3)),
            "row": rng.normal(size=(f, 1, 1, 3)),
            "column": rng.normal(size=(f, 1, 2, 1)),
        }

    def probe(answer, x, rows, row, column):
        import torch

        def sees():
            image = x[:1].clone().requires_grad_()
            patterns = []
            for stream in answer(image, rows, row, column):
                middle = stream[0, :, 2, 2].sum()
                (slope,) = torch.autograd.grad(middle, image, retain_graph=True)
                patterns.append((slope[0, 0] != 0).long())
            return torch.stack(patterns)

        return {
            "vertical": lambda: answer(x, rows, row, column)[0],
            "horizontal": lambda: answer(x, rows, row, column)[1],
            "sees": sees,
        }


# 5. Predict who depends on whom

DEPENDS = {
    "A": True,
    "B": False,
    "C": True,
    "D": False,
    "E": False,
    "F": False,
    "G": True,
    "H": True,
    "I": False,
}


@exercise(
    "pixelcnnpp.predict_dependence",
    read=f"{CHAPTER}#pixelcnnpp-colour",
    hint="there are three ways in: the network, the coefficients, and what earlier colours say "
    "about the component.",
)
class PredictDependence:
    reference = DEPENDS
    parts = {"colours": 3, "network": 2}
    compare = {"colours": equal, "network": equal}
    mistakes = {
        "the colours of a pixel do see each other, although the network sees whole pixels only: "
        "how do the means of green come about?": DEPENDS | {"A": False, "C": False},
        "with several components red tells green something even if all coefficients are 0: "
        "what?": DEPENDS | {"C": False},
        "a single component with coefficients 0 is a product of three distributions": DEPENDS
        | {"D": True},
        "given green, what is left of red in the mean of blue if its own coefficient is 0, and "
        "there is nothing to choose between?": DEPENDS | {"E": True},
        "the order inside of a pixel is red, green, blue: red is drawn before green is known": (
            DEPENDS | {"B": True}
        ),
        "the scales come from the network, which has not seen this pixel: only the means are "
        "shifted": DEPENDS | {"F": True},
        "the vertical stream sees rows above to both sides: this is the blind spot that it "
        "mends": DEPENDS | {"G": False},
        "a pixel to the right in the same row comes later": DEPENDS | {"I": True},
    }

    def draw(rng):
        return {"x": rng.uniform(-0.9, 0.9, size=(1, 3, 4, 4)), "seed": int(rng.integers(2**31))}

    def probe(answer, x, seed):
        """The prediction minus what autograd finds in a random model: all zeros if right."""
        import torch

        from flowcourse.nets.streams import TwoStreams

        torch.manual_seed(seed)
        streams = TwoStreams(3, filters=4, blocks=1, stages=1, dropout=0.0, classes=0).double()
        weight = torch.randn(50, 4).double()
        log_mass, every = _bins(17), torch.linspace(-1, 1, 17).double()
        row, column = 2, 1
        features = streams(x.requires_grad_())[0, :, row, column]

        def depends(value, source):
            (slope,) = torch.autograd.grad(value, x, retain_graph=True, allow_unused=True)
            return slope is not None and bool(slope[0][source] != 0)

        def parameters(components):
            return (weight @ features)[: 10 * components].reshape(components, 10)

        def distribution(colour, components=5, kept=(1.0, 1.0, 1.0)):
            """A random combination of the log-probabilities of one colour of the pixel."""
            logits, means, scales, coefficients = parameters(components).split([1, 3, 3, 3], dim=1)
            a, b, c = (coefficients.tanh() * torch.tensor(kept).double()).unbind(dim=1)
            red, green, _ = x[0, :, row, column]
            means = means + torch.stack([0 * a, a * red, b * red + c * green], dim=1)
            scales = scales.tanh() - 1
            log_weights = logits[:, 0]
            for earlier in range(colour):
                value = x[0, earlier, row, column]
                term = log_mass(value, means[:, earlier], scales[:, earlier])
                log_weights = log_weights + term
            masses = log_mass(every, means[:, colour, None], scales[:, colour, None])
            joint = (log_weights[:, None] + masses).logsumexp(dim=0)
            return (joint.log_softmax(dim=0) * torch.randn(17).double()).sum()

        here = (row, column)
        found = {
            "A": depends(distribution(1), (0, *here)),
            "B": depends(distribution(0), (1, *here)),
            "C": depends(distribution(1, kept=(0, 0, 0)), (0, *here)),
            "D": depends(distribution(1, 1, kept=(0, 0, 0)), (0, *here)),
            "E": depends(distribution(2, 1, kept=(1, 0, 1)), (0, *here)),
            "F": depends(parameters(5)[:, 4:7].sum(), (0, *here)),
            "G": depends(distribution(0), (2, 1, 3)),
            "H": depends(distribution(0), (1, 2, 0)),
            "I": depends(distribution(0), (0, 2, 2)),
        }

        def wrong(letters):
            return [int(bool(answer[letter])) - int(found[letter]) for letter in letters]

        return {"colours": lambda: wrong("ABCDE"), "network": lambda: wrong("FGHI")}


# 6. Fit a mixture to intensities

LEVELS = 256
# The reference reached 5.99 to 6.14 bits on 15 seeds, and up to 6.26 with ten components; a
# histogram of the same 200 numbers, with one added to each count, 6.50 to 6.68.
LIMIT = 6.3


class Intensities:
    """Log-probabilities of levels under a fitted mixture."""

    def __init__(self, table: Tensor):
        self.table = table.detach()

    def log_prob(self, x: Tensor) -> Tensor:
        return self.table[x]


def _histogram(x: Tensor) -> Intensities:
    counts = torch.bincount(x, minlength=LEVELS).double() + 1
    return Intensities((counts / counts.sum()).log())


def fit_mixture(
    x: Tensor, *, components: int = 4, steps: int = 200, log_mass=log_mass, unit: float = 1.0
) -> Intensities:
    if components == 0:
        return _histogram(x)
    logits = torch.zeros(components, 1, dtype=torch.float64, requires_grad=True)
    quantiles = (torch.arange(components).double() + 0.5) / components
    scaled = 2 * x.double() / (LEVELS - 1) - 1
    means = scaled.quantile(quantiles)[:, None].requires_grad_()
    log_scales = torch.full((components, 1), -2.5, dtype=torch.float64, requires_grad=True)
    leaves = [logits, means, log_scales]
    optimizer = torch.optim.Adam(leaves, lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    every = torch.arange(LEVELS)
    counts = torch.bincount(x, minlength=LEVELS).double() / len(x)

    def table():
        masses = log_mass(every, means, log_scales, LEVELS)
        return (logits.log_softmax(dim=0) + masses).logsumexp(dim=0)

    for _ in range(steps):
        optimizer.zero_grad()
        loss = -(counts * table()).sum()
        loss.backward()
        optimizer.step()
        schedule.step()
    return Intensities(unit * table())


def fit_by(**options):
    return trained_once(fit_mixture, **options)


@exercise(
    "pixelcnnpp.fit_intensities",
    read=f"{CHAPTER}#pixelcnnpp-softmax",
    hint="four components, started at quantiles of the data, and 200 steps of Adam on their means, "
    "log-scales and weights are enough.",
)
class FitIntensities:
    reference = staticmethod(fit_by())
    parts = {"held_out_bits": 2, "mass": 1}
    compare = {"held_out_bits": at_most(LIMIT, "bits"), "mass": close(1e-6)}
    mistakes = {
        "every level has a free probability of its own: what do 200 numbers say about a level "
        "that none of them has?": fit_by(components=0),
        "one logistic has one mode: the intensities have more": fit_by(components=1),
        "the density in the middle of the bin is no probability of the bin: near the ends and for "
        "narrow components the sum over the levels is not 1": fit_by(
            log_mass=density_times_width, steps=60
        ),
        "the mass beyond the first and the last bin is lost: the sum over the levels is below 1": (
            fit_by(log_mass=without_edges, steps=60)
        ),
        "log_prob is in bits: nats are asked for, and exp of it must sum to 1": fit_by(
            unit=1 / math.log(2), steps=60
        ),
    }

    def draw(rng):
        low, high = rng.uniform(70, 100), rng.uniform(160, 190)

        def sample(n):
            kind = rng.choice(3, size=n, p=[0.25, 0.4, 0.35])
            centre = [-20.0, low, high]
            width = [8.0, 10.0, 5.0]
            values = rng.logistic([centre[k] for k in kind], [width[k] for k in kind])
            return values.round().clip(0, LEVELS - 1).astype("int64")

        return {"x": sample(200), "test": sample(4000)}

    def probe(answer, x):
        import torch

        fitted = answer(x.clone())
        return {"log_p": lambda: fitted.log_prob(torch.arange(256))}

    def measure(evidence, test):
        def held_out_bits():
            return -evidence["log_p"][test].mean() / math.log(2)

        def mass():
            return evidence["log_p"].exp().sum()

        return {"held_out_bits": held_out_bits, "mass": mass}
