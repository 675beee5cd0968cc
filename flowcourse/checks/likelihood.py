"""Exercises of the problem set on likelihood, its units and its bounds."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

from flowcourse.bijector import sum_event
from flowcourse.checks import at_most, equal, exercise
from flowcourse.checks.held_out import at_points, mass

MAY_USE = ("change_of_variables",)

CHAPTER = "book/foundations/likelihood.md#likelihood"


# --- 1. Bits per dimension of rescaled data ------------------------------------------------------


def bits_of_scaled(log_density: Tensor, shape: tuple, levels: int, low: float, high: float):
    dims = math.prod(shape)
    log_cell = math.log((high - low) / levels)
    return -(log_density + dims * log_cell) / (dims * math.log(2))


@exercise(
    "likelihood.bits_of_scaled",
    read=f"{CHAPTER}-units",
    hint="P(x) is about the density of y times the volume of one cell: how long is a cell's side?",
)
class BitsOfScaled:
    reference = bits_of_scaled
    parts = {"integers": 1, "scaled": 2}
    mistakes = {
        "you forgot that rescaling changes the density: how many levels fit into a unit length of "
        "y?": lambda ll, shape, levels, low, high: -ll / (math.prod(shape) * math.log(2)),
        "the logarithm of the cell has the wrong sign: is the density of y higher or lower than "
        "that of x when y is squeezed into a short interval?": (
            lambda ll, shape, levels, low, high: bits_of_scaled(
                ll, shape, 1, 0, levels / (high - low)
            )
        ),
        "your value is in nats: what turns a natural logarithm into log2?": (
            lambda *args: bits_of_scaled(*args) * math.log(2)
        ),
        "your value is per image, not per dimension": (
            lambda ll, shape, *rest: bits_of_scaled(ll, shape, *rest) * math.prod(shape)
        ),
        "your D counts pixels; each channel of a pixel is a dimension of its own": (
            lambda ll, shape, *rest: bits_of_scaled(ll, shape[1:], *rest)
        ),
        "you used levels - 1: the integers 0..levels-1 with noise in [0, 1) fill how many cells?": (
            lambda ll, shape, levels, low, high: bits_of_scaled(ll, shape, levels - 1, low, high)
        ),
        "you counted the cell's length once; every dimension has been rescaled": (
            lambda ll, shape, levels, low, high: (
                -(ll + math.log((high - low) / levels)) / (math.prod(shape) * math.log(2))
            )
        ),
        "you returned the mean over the batch; asked is one value for each example": (
            lambda *args: bits_of_scaled(*args).mean()
        ),
        "your sign is that of a log-likelihood: more bits must mean a worse model": (
            lambda *args: -bits_of_scaled(*args)
        ),
    }

    def draw(rng):
        shape = rng.integers(2, 6, size=3)
        levels = int(rng.choice([8, 17, 32, 256]))
        low = rng.uniform(-1.5, 0.5)
        high = low + rng.uniform(0.5, 3.0)
        dims = int(shape.prod())
        integers = -dims * rng.uniform(1.0, 2.5, size=int(rng.integers(3, 7)))
        scaled = integers[::-1] + dims * math.log(levels / (high - low)) * rng.uniform(0.8, 1.2)
        return {
            "integers": integers,
            "scaled": scaled.copy(),
            "shape": shape,
            "levels": levels,
            "low": low,
            "high": high,
        }

    def probe(answer, integers, scaled, shape, levels, low, high):
        event = tuple(shape.tolist())
        return {
            "integers": lambda: answer(integers, event, levels, 0.0, float(levels)),
            "scaled": lambda: answer(scaled, event, levels, low, high),
        }


# --- 2. The dequantized lower bound --------------------------------------------------------------


class DequantizedModel:
    def __init__(self, log_density, levels: int):
        self.log_density, self.levels = log_density, levels

    def noisy(self, x: Tensor, u: Tensor) -> Tensor:
        return (x + u) / self.levels

    def log_bound(self, x: Tensor, u: Tensor) -> Tensor:
        dims = x[0].numel()
        return self.log_density(self.noisy(x, u)) - dims * math.log(self.levels)

    def recover(self, y: Tensor) -> Tensor:
        return (y * self.levels).floor().clamp(0, self.levels - 1).long()


class _OneLevelLess(DequantizedModel):
    def noisy(self, x, u):
        return (x + u) / (self.levels - 1)


class _NoiseAfterScaling(DequantizedModel):
    def noisy(self, x, u):
        return x / self.levels + u


class _NoJacobian(DequantizedModel):
    def log_bound(self, x, u):
        return self.log_density(self.noisy(x, u))


class _JacobianAdded(DequantizedModel):
    def log_bound(self, x, u):
        return self.log_density(self.noisy(x, u)) + x[0].numel() * math.log(self.levels)


class _JacobianOnce(DequantizedModel):
    def log_bound(self, x, u):
        return self.log_density(self.noisy(x, u)) - math.log(self.levels)


class _JacobianPerBatch(DequantizedModel):
    def log_bound(self, x, u):
        return self.log_density(self.noisy(x, u)) - x.numel() * math.log(self.levels)


class _Rounded(DequantizedModel):
    def recover(self, y):
        return (y * self.levels).round().clamp(0, self.levels - 1).long()


class _NotClamped(DequantizedModel):
    def recover(self, y):
        return (y * self.levels).floor().long()


class _RecoveredScaled(DequantizedModel):
    def recover(self, y):
        return super().recover(y) / self.levels


@exercise(
    "likelihood.dequantized_bound",
    read=f"{CHAPTER}-dequantization",
    hint="write p_x(x + u) = p_y(y) |dy/dx| for all D dimensions, and take the logarithm.",
)
class DequantizedBound:
    reference = DequantizedModel
    parts = {"noisy": 1, "log_bound": 2, "recover": 2}
    compare = {"recover": equal}
    mistakes = {
        "you divided by levels - 1: the largest level plus noise then leaves [0, 1)": _OneLevelLess,
        "you added the noise after dividing: it must stay inside the cell of one level": (
            _NoiseAfterScaling
        ),
        "your bound is that of the scaled data: what does dividing by levels do to the density of "
        "the integers?": _NoJacobian,
        "you added D log(levels): does stretching y back to x raise the density or lower it?": (
            _JacobianAdded
        ),
        "you subtracted log(levels) once: every dimension was divided": _JacobianOnce,
        "you counted the dimensions of the whole batch: D belongs to one example": (
            _JacobianPerBatch
        ),
        "you rounded to the nearest integer: with noise in [0, 1), which side of x does x + u lie "
        "on?": _Rounded,
        "some samples of a density leave the range: which levels should they become?": _NotClamped,
        "you returned scaled numbers: asked are the integer levels": _RecoveredScaled,
    }

    def draw(rng):
        shape = (int(rng.integers(4, 7)), *rng.integers(2, 4, size=3))
        levels = int(rng.integers(4, 30))
        return {
            "x": rng.integers(0, levels, size=shape),
            "u": rng.uniform(0.02, 0.98, size=shape),
            "samples": rng.uniform(-0.3, 1.3, size=shape),
            "slope": rng.normal(size=shape[1:]),
            "levels": levels,
        }

    def probe(answer, x, u, samples, slope, levels):
        def log_density(y):
            return (slope * y - 2 * (y - 0.4) ** 2).flatten(1).sum(dim=1)

        model = answer(log_density, levels)
        return {
            "noisy": lambda: model.noisy(x.clone(), u.clone()),
            "log_bound": lambda: model.log_bound(x.clone(), u.clone()),
            "recover": lambda: model.recover(samples.clone()),
        }


# --- 3. The importance-weighted bound ------------------------------------------------------------


def importance_weighted(log_weights: Tensor) -> Tensor:
    return torch.logsumexp(log_weights, dim=0) - math.log(log_weights.shape[0])


def _global_shift(log_weights: Tensor) -> Tensor:
    top = log_weights.max()
    return (log_weights - top).exp().mean(dim=0).log() + top


def _dead_draws_dropped(log_weights: Tensor) -> Tensor:
    alive = log_weights.isfinite().sum(dim=0)
    return torch.logsumexp(log_weights, dim=0) - alive.log()


@exercise(
    "likelihood.importance_weighted",
    read=f"{CHAPTER}-iw",
    hint="take the largest log-weight of each example out of the sum before you exponentiate.",
)
class ImportanceWeighted:
    reference = importance_weighted
    parts = {"value": 2, "extreme": 2, "dead_draws": 1}
    mistakes = {
        "you averaged the log-weights: that is the bound of a single draw. What must be averaged "
        "before the logarithm?": lambda w: w.mean(dim=0),
        "you summed the weights: K times the average is no bound": lambda w: w.logsumexp(dim=0),
        "you divided by the number of examples: how many draws are there?": (
            lambda w: w.logsumexp(dim=0) - math.log(w.shape[1])
        ),
        "you reduced over the examples: which axis holds the draws?": (
            lambda w: w.logsumexp(dim=1) - math.log(w.shape[1])
        ),
        "your weights overflow or underflow when they are exponentiated: how large can exp(800) "
        "be?": lambda w: w.exp().mean(dim=0).log(),
        "you took the largest weight out and did not put it back": (
            lambda w: (w - w.amax(dim=0)).exp().mean(dim=0).log()
        ),
        "you kept the largest weight only: the others count, too": (
            lambda w: w.amax(dim=0) - math.log(len(w))
        ),
        "you shifted all examples by one common maximum: an example with small weights still "
        "underflows": _global_shift,
        "draws of weight zero count among the K draws: you divided by the others only": (
            _dead_draws_dropped
        ),
    }

    def draw(rng):
        draws = int(rng.integers(5, 12))
        batch = draws + int(rng.integers(2, 6))
        moderate = rng.normal(-3.0, 1.5, size=(draws, batch))
        offsets = rng.uniform(1000, 4000, size=batch) * rng.permutation(
            [(-1) ** i for i in range(batch)]
        )
        dead = rng.normal(-3.0, 1.5, size=(draws, batch))
        dead[rng.permutation(draws)[: int(rng.integers(1, draws - 2))]] = -math.inf
        return {"moderate": moderate, "extreme": moderate[::-1] + offsets, "dead": dead}

    def probe(answer, moderate, extreme, dead):
        return {
            "value": lambda: answer(moderate.clone()),
            "extreme": lambda: answer(extreme.clone()),
            "dead_draws": lambda: answer(dead.clone()),
        }


# --- 4. An exact probability from a CDF ----------------------------------------------------------


def discretized_logistic(x: Tensor, mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    left, right = (x - mean) / scale, (x + 1 - mean) / scale
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): nothing cancels.
    inside = F.logsigmoid(right) + F.logsigmoid(-left) + torch.log(-torch.expm1(-1 / scale))
    ends = torch.where(x == 0, F.logsigmoid(right), F.logsigmoid(-left))
    return torch.where((x == 0) | (x == levels - 1), ends, inside)


def _with_tails(inside, x, left, right, levels):
    """A cell's log-probability, with everything beyond the range given to the two end cells."""
    ends = torch.where(x == 0, F.logsigmoid(right), F.logsigmoid(-left))
    return torch.where((x == 0) | (x == levels - 1), ends, inside)


def _difference(x, mean, scale, levels, floor=0.0):
    left, right = (x - mean) / scale, (x + 1 - mean) / scale
    cell = torch.sigmoid(right) - torch.sigmoid(left)
    return _with_tails(cell.clamp(min=floor).log(), x, left, right, levels)


def _centred(x, mean, scale, levels):
    return discretized_logistic(x, mean + 0.5, scale, levels)


def _midpoint(x, mean, scale, levels):
    z = (x + 0.5 - mean) / scale
    return F.logsigmoid(z) + F.logsigmoid(-z) - scale.log()


def _no_tails(x, mean, scale, levels):
    left, right = (x - mean) / scale, (x + 1 - mean) / scale
    return F.logsigmoid(right) + F.logsigmoid(-left) + torch.log(-torch.expm1(-1 / scale))


def _unit_cell(x, mean, scale, levels):
    left = (x - mean) / scale
    right = left + 1
    inside = F.logsigmoid(right) + F.logsigmoid(-left) + math.log(-math.expm1(-1))
    return _with_tails(inside, x, left, right, levels)


@exercise(
    "likelihood.discretized_logistic",
    read=f"{CHAPTER}-dequantization",
    hint="show that s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)), where s is the sigmoid.",
)
class DiscretizedLogistic:
    reference = discretized_logistic
    parts = {"inside": 2, "ends": 1, "far": 2}
    mistakes = {
        "far from the mean both CDFs round to the same number, and the logarithm of their "
        "difference is -inf: can you write it as a product?": _difference,
        "a floor under the probability hides the underflow: every far level costs the same, "
        "however far": lambda x, mean, scale, levels: _difference(x, mean, scale, levels, 1e-12),
        "your cell is centred on x: here x stands for the interval [x, x + 1)": _centred,
        "you returned the log-density in the middle of the cell, not the log-probability of the "
        "cell": _midpoint,
        "the two end cells must take the tails, or the probabilities do not sum to one": _no_tails,
        "you returned the probability: asked is its logarithm": (
            lambda *args: discretized_logistic(*args).exp()
        ),
        "your cell is one scale wide: in units of the scale, how wide is a cell of length 1?": (
            _unit_cell
        ),
        "your value is in bits; asked are nats": (
            lambda *args: discretized_logistic(*args) / math.log(2)
        ),
    }

    def draw(rng):
        n, levels = int(rng.integers(6, 12)), int(rng.integers(12, 40))
        scale = rng.uniform(0.5, 0.8, size=n)
        return {
            "x": rng.integers(1, levels - 1, size=n),
            "mean": rng.uniform(3, levels - 3, size=n),
            "scale": rng.uniform(1.3, 3.0, size=n),
            "ends": rng.permutation([0, levels - 1] * 3),
            "end_mean": rng.uniform(0, levels, size=6),
            "end_scale": rng.uniform(1.3, 3.0, size=6),
            "levels": levels,
            "far": 2000 + rng.choice([-1, 1], size=n) * rng.integers(700, 1500, size=n),
            "far_scale": scale,
        }

    def probe(answer, x, mean, scale, ends, end_mean, end_scale, levels, far, far_scale):
        return {
            "inside": lambda: answer(x.clone(), mean.clone(), scale.clone(), levels),
            "ends": lambda: answer(ends.clone(), end_mean.clone(), end_scale.clone(), levels),
            "far": lambda: answer(
                far.clone(), far_scale.new_full(far.shape, 2000.0), far_scale.clone(), 4000
            ),
        }


# --- 5. Predict: five numbers for one model, and four fits of one target -------------------------

PREDICTION = {
    "order": ["E", "B", "D", "C", "A"],
    "forward": "R",
    "reverse": "P",
    "mean_p": "P",
}


@exercise(
    "likelihood.predict",
    read=f"{CHAPTER}-kl",
    hint="for the order, think of each number as bits spent; for the fits, ask under whose samples "
    "the average is taken, and where its integrand is infinite.",
)
class Predict:
    reference = PREDICTION
    parts = {"bounds": 2, "floor": 1, "forward": 1, "reverse": 1, "mean_p": 1}
    compare = {part: equal for part in parts}
    mistakes = {
        "more draws make the upper bound on the bits smaller, not larger: where does it end?": (
            PREDICTION | {"order": ["E", "B", "D", "A", "C"]}
        ),
        "no model spends fewer bits than the entropy of the data, on average": (
            PREDICTION | {"order": ["E", "D", "B", "C", "A"]}
        ),
        "your order is the reverse: a bound on log P from below is a bound on the bits from "
        "above": PREDICTION | {"order": ["A", "C", "D", "B", "E"]},
        "forgetting log2(levels) makes the number too good: it is the density of data squeezed "
        "into [0, 1)": PREDICTION | {"order": ["B", "D", "C", "A", "E"]},
        "you exchanged the two divergences: which of them takes its samples from the data?": (
            PREDICTION | {"forward": "P", "reverse": "R"}
        ),
        "the mean of p is largest where the tallest bump of the target gets all the mass: "
        "covering everything is what log p asks for": PREDICTION | {"mean_p": "R"},
        "a fit between the bumps puts its mass where the target has next to none": (
            PREDICTION | {"reverse": "S"}
        ),
    }

    def draw(rng):
        return {
            "mean": rng.uniform(1.6, 2.4),
            "sd": rng.uniform(0.6, 0.8),
            "weight": rng.uniform(0.6, 0.75),
            "distance": rng.uniform(2.5, 3.5),
        }

    def probe(answer, mean, sd, weight, distance):
        """How far each prediction is from what comes out: all zeros if right."""
        import torch
        from torch.distributions import Normal

        # Four levels, a normal density, and data that are not quite the model's.
        density, level = Normal(mean, sd), torch.arange(4.0, dtype=torch.float64)
        probability = density.cdf(level + 1) - density.cdf(level)
        data = 0.7 * probability / probability.sum() + 0.3 / 4
        u = torch.rand(8, 5000, 4, dtype=torch.float64)
        log_p = density.log_prob(level + u)
        nats = {
            "A": -data @ log_p.mean(dim=(0, 1)),
            "B": -data @ data.log(),
            "C": -data @ (log_p.logsumexp(dim=0) - math.log(8)).mean(dim=0),
            "D": -data @ probability.log(),
        }
        nats["E"] = nats["A"] - math.log(4)
        true = sorted(nats, key=lambda letter: nats[letter])
        order = list(answer["order"])
        bounds = [letter for letter in order if letter in "ACD"]

        x = torch.linspace(-12, 12, 2001, dtype=torch.float64)
        heavy, light = Normal(-distance / 2, 0.5), Normal(distance / 2, 0.5)
        p = weight * heavy.log_prob(x).exp() + (1 - weight) * light.log_prob(x).exp()
        centre = (0.5 - weight) * distance
        width = math.sqrt(0.25 + weight * (1 - weight) * distance**2)
        fits = {"P": heavy, "Q": light, "R": Normal(centre, width), "S": Normal(0.0, 0.5)}
        log_q = {letter: fit.log_prob(x) for letter, fit in fits.items()}
        forward = min(fits, key=lambda k: (p * (p.log() - log_q[k])).sum())
        reverse = min(fits, key=lambda k: (log_q[k].exp() * (log_q[k] - p.log())).sum())
        mean_p = max(fits, key=lambda k: (p * log_q[k].exp()).sum())
        return {
            "bounds": [bounds.index(k) - i for i, k in enumerate(k for k in true if k in "ACD")],
            "floor": [order.index(k) - true.index(k) for k in "BE"],
            "forward": ord(answer["forward"]) - ord(forward),
            "reverse": ord(answer["reverse"]) - ord(reverse),
            "mean_p": ord(answer["mean_p"]) - ord(mean_p),
        }


# --- 6. Debug: the loss of a mixture -------------------------------------------------------------


def mixture_nll(x: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    components = sum_event_last(Normal(means, log_scales.exp()).log_prob(x.unsqueeze(1)))
    return -torch.logsumexp(log_weights + components, dim=1).mean()


def sum_event_last(terms: Tensor) -> Tensor:
    """Sum the coordinates of `(batch, components, dims)`."""
    return sum_event(terms.flatten(0, 1)).unflatten(0, terms.shape[:2])


def _components(x, means, log_scales):
    return Normal(means, log_scales.exp()).log_prob(x.unsqueeze(1))


def _handed_out(x, log_weights, means, log_scales):
    density = _components(x, means, log_scales).mean(dim=2).exp()
    return -(log_weights.exp() * density).sum(dim=1).mean().log()


def _still_underflows(x, log_weights, means, log_scales):
    density = _components(x, means, log_scales).sum(dim=2).exp()
    return -(log_weights.exp() * density).sum(dim=1).log().mean()


def _clamped(x, log_weights, means, log_scales):
    density = _components(x, means, log_scales).sum(dim=2).exp()
    return -(log_weights.exp() * density).sum(dim=1).clamp(min=1e-30).log().mean()


def _log_of_mean(x, log_weights, means, log_scales):
    log_p = torch.logsumexp(log_weights + _components(x, means, log_scales).sum(dim=2), dim=1)
    return math.log(len(x)) - torch.logsumexp(log_p, dim=0)


def _mean_over_dims(x, log_weights, means, log_scales):
    log_p = log_weights + _components(x, means, log_scales).mean(dim=2)
    return -torch.logsumexp(log_p, dim=1).mean()


def _sum_over_batch(x, log_weights, means, log_scales):
    return mixture_nll(x, log_weights, means, log_scales) * len(x)


def _mean_of_logs(x, log_weights, means, log_scales):
    return -(log_weights.exp() * _components(x, means, log_scales).sum(dim=2)).sum(dim=1).mean()


def _equal_weights(x, log_weights, means, log_scales):
    even = torch.full_like(log_weights, -math.log(len(log_weights)))
    return mixture_nll(x, even, means, log_scales)


@exercise(
    "likelihood.debug_mixture",
    read=f"{CHAPTER}-underflow",
    hint="there are three faults: one in a unit, one in the order of two operations, one in the "
    "arithmetic.",
)
class DebugMixture:
    reference = mixture_nll
    parts = {"value": 2, "far": 2, "gradient": 1}
    mistakes = {
        "this is the function as it was handed out: compare it with -mean_n log p(x_n), symbol by "
        "symbol": _handed_out,
        "right near the data, and infinite far away: exp underflows before the logarithm sees it": (
            _still_underflows
        ),
        "a floor under p makes the loss finite and its gradient zero: a far point no longer pulls "
        "on anything": _clamped,
        "you take the logarithm of the mean of p over the batch: which of the two is maximum "
        "likelihood?": _log_of_mean,
        "the coordinates of one example are averaged: what does independence say about their "
        "log-densities?": _mean_over_dims,
        "you summed over the batch: the loss is asked per example": _sum_over_batch,
        "you averaged the log-densities of the components: a mixture averages the densities": (
            _mean_of_logs
        ),
        "your components have equal weights": _equal_weights,
    }

    def draw(rng):
        components, dims = int(rng.integers(2, 5)), int(rng.integers(3, 6))
        weights = rng.dirichlet([2.0] * components) * 0.8 + 0.2 / components
        return {
            "x": rng.normal(size=(int(rng.integers(5, 9)), dims)),
            "far": rng.normal(size=(4, dims)) + 60.0 * rng.choice([-1, 1], size=(4, 1)),
            "log_weights": rng.permutation([*(weights * [1.5] + [0.1] * components)]),
            "means": rng.normal(size=(components, dims)),
            "log_scales": rng.normal(0.0, 0.3, size=(components, dims)),
        }

    def probe(answer, x, far, log_weights, means, log_scales):
        import torch

        log_weights = torch.log_softmax(4 * log_weights, dim=0)

        def gradient():
            moved = means.clone().requires_grad_()
            loss = answer(torch.cat([x, far]), log_weights, moved, log_scales)
            return torch.autograd.grad(loss, moved)[0]

        return {
            "value": lambda: answer(x.clone(), log_weights, means, log_scales),
            "far": lambda: answer(far.clone(), log_weights, means, log_scales),
            "gradient": gradient,
        }


# --- 7. Experiment: fit a density by maximum likelihood ------------------------------------------


def fit_density(train: Tensor, components: int = 5, steps: int = 60):
    """Expectation maximisation of a mixture of normals, started at the quantiles."""
    start = (torch.arange(components).to(train) + 0.5) / components
    means, weights = train.quantile(start), torch.ones_like(start) / components
    scales = torch.full_like(start, train.std().item() / components)
    for _ in range(steps):
        log_joint = weights.log() + Normal(means, scales).log_prob(train.unsqueeze(1))
        share = log_joint.softmax(dim=1)
        mass = share.sum(dim=0)
        weights, means = mass / len(train), (share * train.unsqueeze(1)).sum(dim=0) / mass
        variance = (share * (train.unsqueeze(1) - means) ** 2).sum(dim=0) / mass
        scales = variance.sqrt().clamp(min=0.05 * train.std().item())

    def log_density(x: Tensor) -> Tensor:
        joint = weights.log() + Normal(means, scales).log_prob(x.unsqueeze(-1))
        return torch.logsumexp(joint, dim=-1)

    return log_density


def _one_normal(train):
    return Normal(train.mean(), train.std()).log_prob


def _kernel(train, width):
    def log_density(x):
        log_p = Normal(train, width * train.std()).log_prob(x.unsqueeze(-1))
        return torch.logsumexp(log_p, dim=-1) - math.log(len(train))

    return log_density


def _maximised_mean_of_p(train):
    means = train.quantile(torch.linspace(0.1, 0.9, 3).to(train)).requires_grad_()
    log_scales = torch.zeros_like(means).requires_grad_()
    logits = torch.zeros_like(means).requires_grad_()
    optimizer = torch.optim.Adam([means, log_scales, logits], lr=0.1)

    def log_density(x):
        joint = logits.log_softmax(dim=0) + Normal(means, log_scales.exp()).log_prob(
            x.unsqueeze(-1)
        )
        return torch.logsumexp(joint, dim=-1)

    for _ in range(50):
        optimizer.zero_grad()
        (-log_density(train).exp().mean()).backward()
        optimizer.step()
    return lambda x: log_density(x).detach()


def _weights_not_normalised(train):
    log_density = fit_density(train)
    return lambda x: log_density(x) + math.log(5)


def _density_itself(train):
    log_density = fit_density(train)
    return lambda x: log_density(x).exp()


def _negative(train):
    log_density = fit_density(train)
    return lambda x: -log_density(x)


EXCESS_NATS = 0.05
# Fine enough for the narrowest spikes: whether they pass must not be luck.
_AXIS = torch.linspace(-15, 15, 15_001, dtype=torch.float64)


@exercise(
    "likelihood.fit_density",
    read=f"{CHAPTER}-overfitting",
    hint="three to five normal components with weights from a softmax, means started at different "
    "places, and a few hundred steps on the mean of log p.",
)
class FitDensity:
    reference = fit_density
    parts = {"held_out": 3, "normalised": 2}
    compare = {
        "held_out": at_most(EXCESS_NATS, "nats above the true density"),
        "normalised": at_most(0.01, "as the distance of the integral from 1"),
    }
    mistakes = {
        "one normal cannot have several bumps: what does its density look like between them?": (
            _one_normal
        ),
        "your density remembers the training points one by one: it is too narrow for points that "
        "it has not seen": lambda train: _kernel(train, 1e-3),
        "your density is smoothed so much that the bumps run into each other": (
            lambda train: _kernel(train, 1.0)
        ),
        "you maximised the mean of p, which forgets all but the tallest bump": (
            _maximised_mean_of_p
        ),
        "your density does not integrate to 1: are the weights normalised?": (
            _weights_not_normalised
        ),
        "your function returns the density: asked is its logarithm": _density_itself,
        "your function returns the negative log-density: mind the sign": _negative,
    }

    def draw(rng):
        weights = rng.permutation([0.25, 0.35, 0.4])
        means = rng.permutation([-4.0, 0.0, 4.0]) + rng.uniform(-0.5, 0.5, size=3)
        scales = rng.uniform(0.4, 0.9, size=3)
        chosen = rng.choice(3, p=weights, size=2000)
        points = rng.normal(means[chosen], scales[chosen])
        return {
            "train": points[:1000],
            "test": points[1000:],
            "weights": weights,
            "means": means,
            "scales": scales,
        }

    def probe(answer, train):
        log_density = answer(train)
        return {"log_p": lambda: log_density(_AXIS.to(train))}

    def measure(evidence, test, weights, means, scales):
        def held_out():
            joint = weights.log() + Normal(means, scales).log_prob(test.unsqueeze(1))
            found = at_points(evidence["log_p"], [_AXIS], test.unsqueeze(1))
            return (torch.logsumexp(joint, dim=1) - found).mean()

        def normalised():
            return (mass(evidence["log_p"], [_AXIS]) - 1).abs()

        return {"held_out": held_out, "normalised": normalised}
