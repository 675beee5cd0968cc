"""What the answers to the problem set on transformers and conditioners must satisfy.

The mistakes are wrong on purpose. Their names are what a student reads.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowcourse.autoregressive_flows.maf import (
    AffineTransformer,
    Autoregressive,
    MaskedConditioner,
)
from flowcourse.autoregressive_flows.transformers import SigmoidalTransformer, gauss_legendre
from flowcourse.bijector import Compose
from flowcourse.checks import at_most, close, equal, exercise
from flowcourse.checks.fitted import (
    AveragedCoordinates,
    Fitted,
    SubtractsTheLogDet,
    improved,
    trained_once,
)
from flowcourse.checks.held_out import at_points, mass
from flowcourse.coupling.flowpp_curve import mixture_logit
from flowcourse.flow import Flow, StandardNormal

# Topics that an answer may import, besides the modules that all topics share.
MAY_USE = ("likelihood", "nice", "realnvp")

CHAPTER = "book/autoregressive_flows/transformers.md"


# 1. A conic sum


def _conic(
    weights=lambda w: w,
    chain=lambda log_scale: -log_scale,
    line=lambda w0: w0,
    total=lambda w0, slopes: (w0 + slopes.sum(dim=1)).log(),
    unit=lambda x, mean, log_scale: (x[:, None] - mean) * torch.exp(-log_scale),
):
    def conic(x, w0, w, mean, log_scale):
        s = torch.sigmoid(unit(x, mean, log_scale))
        w = weights(w)
        slopes = w * s * (1 - s) * torch.exp(chain(log_scale))
        return w0 * x + (w * s).sum(dim=1), total(line(w0), slopes)

    return conic


@exercise(
    "transformers.conic",
    read=f"{CHAPTER}#transformers-conic",
    hint="differentiate term by term: the slope is a sum, and its logarithm is taken once.",
)
class Conic:
    reference = staticmethod(_conic())
    parts = {"z": 1, "log_slope": 2}
    mistakes = {
        "the slope lacks the factor exp(-l) of the chain rule": _conic(chain=torch.zeros_like),
        "the slope has the factor exp(l): x is divided by the scale": _conic(chain=lambda v: v),
        "the line has a slope, too": _conic(line=torch.zeros_like),
        "log_slope is the slope: take its logarithm": _conic(total=lambda a, b: a + b.sum(dim=1)),
        "log_slope is the sum of the logarithms: the slopes add up, and not their logarithms": (
            _conic(total=lambda a, b: a.log() + b.log().sum(dim=1))
        ),
        "the weights are normalized: a conic sum has any positive weights": _conic(
            weights=lambda w: w / w.sum(dim=1, keepdim=True)
        ),
        "x is divided by the scale before the centre is taken off": _conic(
            unit=lambda x, mean, log_scale: x[:, None] * torch.exp(-log_scale) - mean
        ),
    }

    def draw(rng):
        batch, k = int(rng.integers(4, 8)), int(rng.integers(3, 6))
        return {
            "x": 2 * rng.normal(size=batch),
            "w0": rng.uniform(0.2, 2, size=batch),
            "w": rng.uniform(0.3, 2, size=(batch, k)),
            "mean": rng.normal(size=(batch, k)),
            "log_scale": rng.uniform(-1.2, 0.8, size=(batch, k)),
        }

    def probe(answer, x, w0, w, mean, log_scale):
        def part(index):
            return lambda: answer(*(v.clone() for v in (x, w0, w, mean, log_scale)))[index]

        return {"z": part(0), "log_slope": part(1)}


# 2. One step of a deep sigmoidal flow


def sigmoidal(x, log_weight, mean, log_scale):
    return mixture_logit(x, log_weight, mean, log_scale)


def by_its_formula(x, log_weight, mean, log_scale):
    s = torch.sigmoid((x[:, None] - mean) * torch.exp(-log_scale))
    w = log_weight.exp()
    cdf, density = (w * s).sum(dim=1), (w * s * (1 - s) * torch.exp(-log_scale)).sum(dim=1)
    return cdf.log() - (1 - cdf).log(), density.log() - cdf.log() - (1 - cdf).log()


def kept_from_the_ends(x, log_weight, mean, log_scale):
    s = torch.sigmoid((x[:, None] - mean) * torch.exp(-log_scale))
    w = log_weight.exp()
    cdf = (w * s).sum(dim=1).clamp(1e-6, 1 - 1e-6)
    density = (w * s * (1 - s) * torch.exp(-log_scale)).sum(dim=1).clamp(min=1e-6)
    return cdf.log() - (1 - cdf).log(), density.log() - cdf.log() - (1 - cdf).log()


def _sigmoidal(slope=lambda density, below, above: density - below - above, scaled=True):
    def step(x, log_weight, mean, log_scale):
        u = (x[:, None] - mean) * torch.exp(-log_scale)
        below, above = F.logsigmoid(u), F.logsigmoid(-u)
        log_cdf = (log_weight + below).logsumexp(dim=1)
        log_survival = (log_weight + above).logsumexp(dim=1)
        terms = log_weight + below + above - (log_scale if scaled else 0)
        return log_cdf - log_survival, slope(terms.logsumexp(dim=1), log_cdf, log_survival)

    return step


def mean_of_logits(x, log_weight, mean, log_scale):
    _, log_slope = sigmoidal(x, log_weight, mean, log_scale)
    return (log_weight.exp() * (x[:, None] - mean) * torch.exp(-log_scale)).sum(dim=1), log_slope


@exercise(
    "transformers.sigmoidal",
    read=f"{CHAPTER}#transformers-sigmoidal",
    hint="1 minus the sum is a sum, too: of sigmoid(-u). Take the logarithm of each sum by "
    "logsumexp, and never form a sum that rounds to 0 or 1.",
)
class SigmoidalStep:
    reference = staticmethod(sigmoidal)
    parts = {"z": 1, "log_slope": 1, "far": 2, "gradient": 1}
    mistakes = {
        "far out the sum rounds to 0 or 1, and its logit is infinite": by_its_formula,
        "the sum is kept from 0 and 1 by a clamp: far out the curve is flat, and its log-slope is "
        "not that of the curve": kept_from_the_ends,
        "log_slope is the logarithm of the mixture's density: the logit has a slope, too": (
            _sigmoidal(slope=lambda density, below, above: density)
        ),
        "log F and log(1 - F) are added: the logit's slope is 1 / (F (1 - F)), so both are "
        "subtracted": _sigmoidal(slope=lambda density, below, above: density + below + above),
        "the slope lacks the factor exp(-l) of the chain rule": _sigmoidal(scaled=False),
        "z is the mean of the logits, which is a line: the logit is taken of the mean": (
            mean_of_logits
        ),
    }

    def draw(rng):
        batch, k = int(rng.integers(4, 8)), int(rng.integers(3, 6))
        logits = rng.normal(size=(batch, k))
        return {
            "x": 2 * rng.normal(size=batch),
            "far_x": rng.choice([-1, 1], size=batch) * rng.uniform(500, 1000, size=batch),
            "log_weight": logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)),
            "mean": rng.normal(size=(batch, k)),
            "log_scale": rng.uniform(-1.5, 0.5, size=(batch, k)),
        }

    def probe(answer, x, far_x, log_weight, mean, log_scale):
        import torch

        mixture = (log_weight, mean, log_scale)

        def far():
            return torch.stack(answer(far_x.clone(), *(v.clone() for v in mixture)))

        def gradient():
            place = far_x.clone().requires_grad_()
            z, log_slope = answer(place, *(v.clone() for v in mixture))
            return torch.autograd.grad((z + log_slope).sum(), place)[0]

        return {
            "z": lambda: answer(x.clone(), *(v.clone() for v in mixture))[0],
            "log_slope": lambda: answer(x.clone(), *(v.clone() for v in mixture))[1],
            "far": far,
            "gradient": gradient,
        }


# 3. Composition


class Deep:
    """Several steps, each with forward and inverse that return a value and a log-slope."""

    def __init__(self, steps):
        self.steps = list(steps)

    def forward(self, x):
        total = torch.zeros_like(x)
        for step in self.steps:
            x, log_slope = step.forward(x)
            total = total + log_slope
        return x, total

    def inverse(self, z):
        total = torch.zeros_like(z)
        for step in reversed(self.steps):
            z, log_slope = step.inverse(z)
            total = total + log_slope
        return z, total


class SlopesAtX(Deep):
    def forward(self, x):
        z, _ = super().forward(x)
        return z, sum(step.forward(x)[1] for step in self.steps)


class LastSlope(Deep):
    def forward(self, x):
        z, _ = super().forward(x)
        for step in self.steps[:-1]:
            x, _ = step.forward(x)
        return z, self.steps[-1].forward(x)[1]


class MultipliesLogSlopes(Deep):
    def forward(self, x):
        total = torch.ones_like(x)
        for step in self.steps:
            x, log_slope = step.forward(x)
            total = total * log_slope
        return x, total


class AddsSlopes(Deep):
    def forward(self, x):
        total = torch.zeros_like(x)
        for step in self.steps:
            x, log_slope = step.forward(x)
            total = total + log_slope.exp()
        return x, total.log()


class InverseInOrder(Deep):
    def inverse(self, z):
        total = torch.zeros_like(z)
        for step in self.steps:
            z, log_slope = step.inverse(z)
            total = total + log_slope
        return z, total


class InverseWithForwardsSign(Deep):
    def inverse(self, z):
        x, total = super().inverse(z)
        return x, -total


class Averages(Deep):
    def forward(self, x):
        found = [step.forward(x) for step in self.steps]
        z = sum(z for z, _ in found) / len(found)
        return z, (sum(log_slope.exp() for _, log_slope in found) / len(found)).log()


@exercise(
    "transformers.deep",
    read=f"{CHAPTER}#transformers-deep",
    hint="the chain rule: each slope is taken where its step is, at the output of the step before.",
)
class Composition:
    reference = Deep
    parts = {"z": 1, "log_slope": 2, "x": 1, "inverse_log_slope": 1}
    mistakes = {
        "all slopes are taken at x: the second step is at the first one's output": SlopesAtX,
        "log_slope is that of the last step": LastSlope,
        "log-slopes are multiplied: slopes are, and their logarithms add up": MultipliesLogSlopes,
        "slopes are added: that is the derivative of a sum, and not of a composition": AddsSlopes,
        "the inverse begins with the first step: which was the last on the way?": InverseInOrder,
        "the inverse's log-slope has the sign of forward's: the given inverses return their own": (
            InverseWithForwardsSign
        ),
        "this is the average of the steps, and not their composition": Averages,
    }

    def draw(rng):
        n = int(rng.integers(3, 5))
        return {
            "a": rng.uniform(0.4, 2.5, size=n),
            "b": rng.normal(size=n),
            "x": 2 * rng.normal(size=int(rng.integers(4, 8))),
        }

    def probe(answer, a, b, x):
        import torch

        class Given:
            """z = asinh(sinh(a x) + b), which increases."""

            def __init__(self, a, b):
                self.a, self.b = a, b

            def forward(self, x):
                shifted = (self.a * x).sinh() + self.b
                slope = self.a * (self.a * x).cosh() / (1 + shifted**2).sqrt()
                return torch.asinh(shifted), slope.log()

            def inverse(self, z):
                x = torch.asinh(z.sinh() - self.b) / self.a
                return x, -self.forward(x)[1]

        deep = answer([Given(*pair) for pair in zip(a, b, strict=True)])
        return {
            "z": lambda: deep.forward(x.clone())[0],
            "log_slope": lambda: deep.forward(x.clone())[1],
            "x": lambda: deep.inverse(x.clone())[0],
            "inverse_log_slope": lambda: deep.inverse(x.clone())[1],
        }


# 4. An integral of something positive


def _integral(
    factor=lambda x: x / 2,
    nodes=lambda t, x: x[:, None] * (t + 1) / 2,
    log_slope=lambda slope, x, g, z: slope(x[:, None])[:, 0].log(),
):
    def integral(x, slope, t, w):
        g = slope(nodes(t, x))
        z = factor(x) * (w * g).sum(dim=1)
        return z, log_slope(slope, x, g, z)

    return integral


@exercise(
    "transformers.integral",
    read=f"{CHAPTER}#transformers-integral",
    hint="substitute u = x (t + 1) / 2; what is du, also if x is negative?",
)
class Integral:
    reference = staticmethod(_integral())
    parts = {"z": 2, "log_slope": 1}
    mistakes = {
        "the factor du/dt = x / 2 is missing": _integral(factor=torch.ones_like),
        "the factor is x: the rule's interval [-1, 1] is 2 long": _integral(factor=lambda x: x),
        "the factor is |x| / 2: below 0 the integral from 0 to x is negative": _integral(
            factor=lambda x: x.abs() / 2
        ),
        "the nodes are those of [-x, x]: the integral begins at 0": _integral(
            nodes=lambda t, x: x[:, None] * t, factor=lambda x: x
        ),
        "the nodes are not moved to the interval from 0 to x": _integral(
            nodes=lambda t, x: t.expand(len(x), -1)
        ),
        "log_slope is that of the mean slope: the derivative of an integral is the integrand at "
        "its end": _integral(log_slope=lambda slope, x, g, z: (z / x).log()),
        "log_slope is the slope: take its logarithm": _integral(
            log_slope=lambda slope, x, g, z: slope(x[:, None])[:, 0]
        ),
        "log_slope is the logarithm of z": _integral(
            log_slope=lambda slope, x, g, z: z.abs().log()
        ),
    }

    def draw(rng):
        n = int(rng.integers(12, 24))
        places, weights = gauss_legendre(n)
        x = rng.choice([-1, 1], size=6) * rng.uniform(0.5, 2.5, size=6)
        x[:2] = np.abs(x[:2]) * [1, -1]
        return {
            "t": 2 * places - 1,
            "w": 2 * weights,
            "x": x,
            "a": rng.uniform(0.3, 1.2, size=3),
            "b": rng.normal(size=3),
        }

    def probe(answer, x, t, w, a, b):
        import torch

        def slope(u):
            """A positive function of a tensor of any shape, like a network's."""
            return (
                torch.nn.functional.softplus((a * torch.tanh(u[..., None] * a + b)).sum(-1)) + 0.1
            )

        return {
            "z": lambda: answer(x.clone(), slope, t.clone(), w.clone())[0],
            "log_slope": lambda: answer(x.clone(), slope, t.clone(), w.clone())[1],
        }


# 5. An integral of squares, in closed form


def squares_of(a: Tensor) -> Tensor:
    """The coefficients of the sum of squares, from degree 0 on."""
    n = a.shape[1]
    q = torch.zeros(2 * n - 1).to(a)
    for i in range(n):
        for j in range(n):
            q[i + j] += (a[:, i] * a[:, j]).sum()
    return q


def _squares(
    squares=squares_of,
    divide=lambda q: q / torch.arange(1, len(q) + 1).to(q),
    place=lambda q: F.pad(q, (1, 0)),
):
    def integral_of_squares(a):
        return place(divide(squares(a)))

    return integral_of_squares


def without_products(a):
    q = torch.zeros(2 * a.shape[1] - 1).to(a)
    q[::2] = (a**2).sum(dim=0)
    return q


def products_once(a):
    q = torch.zeros(2 * a.shape[1] - 1).to(a)
    for i in range(a.shape[1]):
        for j in range(i + 1):
            q[i + j] += (a[:, i] * a[:, j]).sum()
    return q


@exercise(
    "transformers.squares",
    read=f"{CHAPTER}#transformers-squares",
    hint="what adds to the power u^m are all products a_i a_j with i + j = m, in either order.",
)
class IntegralOfSquares:
    reference = staticmethod(_squares())
    parts = {"coefficients": 3}
    mistakes = {
        "only the coefficients are squared: (a + b u)^2 has a term 2 a b u": _squares(
            squares=without_products
        ),
        "each pair of coefficients is counted once: a_i a_j and a_j a_i are two": _squares(
            squares=products_once
        ),
        "the polynomials are added before they are squared: the square of a sum may vanish where "
        "no summand does": _squares(squares=lambda a: squares_of(a.sum(dim=0, keepdim=True))),
        "this is the sum of squares, not yet integrated": _squares(divide=lambda q: q),
        "u^m integrates to x^(m+1) / (m+1): you differentiated": _squares(
            divide=lambda q: q * torch.arange(1, len(q) + 1).to(q)
        ),
        "the coefficient of degree 0 is missing: the integral from 0 to 0 is 0": _squares(
            place=lambda q: q
        ),
        "the coefficients run from the highest degree to the lowest": _squares(
            place=lambda q: F.pad(q, (1, 0)).flip(0)
        ),
    }

    def draw(rng):
        return {"a": rng.normal(size=(int(rng.integers(2, 4)), int(rng.integers(3, 6))))}

    def probe(answer, a):
        return {"coefficients": lambda: answer(a.clone())}


# 6. A solver that knows when it has failed


def _solve(
    iterations=200,
    low=-1.0,
    high=1.0,
    doublings=80,
    both=True,
    nearer=lambda value, z: value < z,
    refuse=True,
):
    def solve(f, z):
        bottom, top = torch.full_like(z, low), torch.full_like(z, high)
        for _ in range(doublings):
            below, above = f(bottom) <= z, f(top) >= z
            if (below & above).all():
                break
            bottom = torch.where(below, bottom, 2 * bottom) if both else bottom
            top = torch.where(above, top, 2 * top)
        else:
            if refuse:
                raise ValueError("no bracket")
        for _ in range(iterations):
            middle = (bottom + top) / 2
            left = nearer(f(middle), z)
            bottom, top = torch.where(left, middle, bottom), torch.where(left, top, middle)
        return (bottom + top) / 2

    return solve


@exercise(
    "transformers.solve",
    read=f"{CHAPTER}#transformers-roots",
    hint="double both ends until f has passed z on either side, and give up after a hundred "
    "doublings; a comparison with NaN is False.",
)
class Solve:
    reference = staticmethod(_solve())
    parts = {"near": 1, "far": 2, "refused": 2}
    compare = {"near": close(1e-8), "far": close(1e-8), "refused": equal}
    mistakes = {
        "the bracket is fixed: a root may lie anywhere": _solve(low=-10, high=10, doublings=0),
        "only the upper end is moved: roots below the lower one are missed": _solve(
            both=False, refuse=False
        ),
        "too few halvings: ten of them leave a thousandth of the bracket": _solve(iterations=10),
        "the wrong half is kept: where f is below z, the root lies above": _solve(
            nearer=lambda value, z: value >= z
        ),
        "something is returned where there is no root: falling and bounded curves and NaN are "
        "errors": _solve(refuse=False),
        "the bracket ends at a thousand: a curve that rises slowly needs more": _solve(
            doublings=10
        ),
    }

    def draw(rng):
        return {
            "a": float(rng.uniform(0.3, 2)),
            "b": float(rng.uniform(1, 3)),
            "z": 3 * rng.normal(size=(2, 4)),
            "far_z": rng.choice([-1, 1], size=5) * rng.uniform(14, 19, size=5),
        }

    def probe(answer, a, b, z, far_z):
        import math

        import torch

        def refused(f):
            try:
                answer(f, z.clone())
            except (ValueError, ArithmeticError):
                return 1
            return 0

        def counts():
            falling, bounded, broken = (lambda x: -a * x), torch.tanh, (lambda x: x * math.nan)
            return torch.tensor([refused(f) for f in (falling, bounded, broken)])

        return {
            "near": lambda: answer(lambda x: a * x + torch.tanh(b * x), z.clone()),
            # Relative to the size of the root, which is that of exp(|z|).
            "far": lambda: answer(torch.asinh, far_z.clone()) / torch.sinh(far_z),
            "refused": counts,
        }


# 7. Which of them are transformers?

KINDS = ("transformer", "not onto", "not increasing")
WHICH = {
    "A": "not increasing",  # x + (-x)
    "B": "transformer",  # x + tanh(x)
    "C": "not onto",  # sigmoid(x) + 3 sigmoid(2x - 1)
    "D": "not increasing",  # x - 2 tanh(x)
    "E": "transformer",  # logit of a convex sum of sigmoids
    "F": "not onto",  # softplus(x)
    "G": "not onto",  # integral of exp(-u^2)
    "H": "transformer",  # integral of 0.1 + (1 - u)^2
    "I": "not increasing",  # integral of 1 - 2 exp(-u^2)
    "J": "transformer",  # 3 softplus(x) - softplus(-x)
}


@exercise(
    "transformers.which",
    read=f"{CHAPTER}#transformers-counter",
    hint="look at the sign of the derivative, and then at the limits at both ends.",
)
class Which:
    reference = WHICH
    parts = {"increasing": 2, "onto": 2}
    compare = {"increasing": equal, "onto": equal}
    mistakes = {
        "a sum of monotone maps is taken for monotone: A and D add one that rises and one that "
        "falls": WHICH | {"A": "transformer", "D": "transformer"},
        "whatever increases is taken for onto: C and G are bounded, F is bounded below": WHICH
        | dict.fromkeys("CFG", "transformer"),
        "softplus is unbounded above only: what about minus infinity?": WHICH
        | {"F": "transformer"},
        "an integral increases where its integrand is positive: that of I is not, near 0": WHICH
        | {"I": "transformer"},
        "a sum of bounded functions is bounded, and E is the logit of one: the logit's limits are "
        "infinite": WHICH | {"E": "not onto"},
        "a minus sign does not make a map fall: -softplus(-x) increases": WHICH
        | {"J": "not increasing"},
    }

    def draw(rng):
        return {"letters": "".join(rng.permutation(list(WHICH)))}

    def probe(answer, letters):
        import torch

        def says(kind):
            return lambda: torch.tensor([int(answer[letter] == kind) for letter in letters])

        return {"increasing": says("not increasing"), "onto": says("not onto")}


# 8. The map that universality is about


def _rosenblatt(
    weights=lambda first, log_weight: (first + log_weight).softmax(dim=1),
    base=True,
    to_normal=True,
    sign=1,
    scale_of=lambda scale: scale,
):
    def rosenblatt(x, log_weight, mean, scale):
        scale = scale_of(scale)
        u = (x[:, None] - mean) / scale
        log_n = -0.5 * u**2 - scale.log() - 0.5 * math.log(2 * math.pi)
        prior = log_weight.exp().expand(len(x), -1)
        second = weights(log_n[:, :, 0], log_weight)
        cdf = torch.stack([(w * torch.special.ndtr(u[:, :, d])).sum(dim=1)
                           for d, w in enumerate((prior, second))], dim=1)  # fmt: skip
        log_p = sum(
            (w * log_n[:, :, d].exp()).sum(dim=1).log() for d, w in enumerate((prior, second))
        )
        z = torch.special.ndtri(cdf)
        log_base = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(dim=1)
        return (z if to_normal else cdf), sign * (log_p - (log_base if base else 0))

    return rosenblatt


def from_the_other_side(x, log_weight, mean, scale):
    z, log_det = _rosenblatt()(x.flip(1), log_weight, mean.flip(1), scale.flip(1))
    return z.flip(1), log_det


@exercise(
    "transformers.rosenblatt",
    read=f"{CHAPTER}#transformers-universal",
    hint="the distribution of x_2 given x_1 is a mixture, too; its weights say which component x_1 "
    "came from. The density is that of z times the determinant.",
)
class Rosenblatt:
    reference = staticmethod(_rosenblatt())
    parts = {"z_1": 1, "z_2": 2, "log_det": 2}
    compare = {"z_1": close(1e-6), "z_2": close(1e-6), "log_det": close(1e-6)}
    mistakes = {
        "x_2 is given the weights of the whole mixture: that is its marginal distribution": (
            _rosenblatt(weights=lambda first, log_weight: log_weight.exp().expand(len(first), -1))
        ),
        "the weights given x_1 forget those of the mixture: Bayes' rule has a prior": _rosenblatt(
            weights=lambda first, log_weight: first.softmax(dim=1)
        ),
        "the map ends uniform on (0, 1): the normal quantile is missing": _rosenblatt(
            to_normal=False, base=False
        ),
        "log_det is log p(x): that is for a uniform base; subtract the normal log-density of z": (
            _rosenblatt(base=False)
        ),
        "log_det has the sign of the other direction": _rosenblatt(sign=-1),
        "scale is read as a variance": _rosenblatt(scale_of=torch.sqrt),
        "x_2 comes first and x_1 is given x_2": from_the_other_side,
    }

    def draw(rng):
        k = int(rng.integers(2, 4))
        weights = rng.uniform(0.5, 2, size=k)
        return {
            "x": rng.normal(size=(6, 2)),
            "log_weight": np.log(weights / weights.sum()),
            "mean": 1.2 * rng.normal(size=(k, 2)),
            "scale": rng.uniform(0.6, 1.4, size=(k, 2)),
        }

    def probe(answer, x, log_weight, mean, scale):
        def found():
            return answer(x.clone(), log_weight.clone(), mean.clone(), scale.clone())

        return {
            "z_1": lambda: found()[0][:, 0],
            "z_2": lambda: found()[0][:, 1],
            "log_det": lambda: found()[1],
        }


# 9. A recurrent conditioner


class Recurrent:
    """z = (x - mu) exp(-alpha), where mu and alpha are written before the cell reads x."""

    def __init__(self, cell, write, start):
        self.cell, self.write, self.start = cell, write, start

    def states(self, x):
        state = self.start.expand(len(x), -1)
        states = [state]
        for d in range(x.shape[1] - 1):
            state = self.cell(x[:, d : d + 1], state)
            states.append(state)
        return torch.stack(states, dim=1)

    def forward(self, x):
        shift, log_scale = self.write(self.states(x)).unbind(dim=2)
        return (x - shift) * torch.exp(-log_scale), -log_scale.sum(dim=1)

    def inverse(self, z):
        state, found = self.start.expand(len(z), -1), []
        for d in range(z.shape[1]):
            if d:
                state = self.cell(found[-1], state)
            shift, log_scale = self.write(state).unbind(dim=1)
            found.append((z[:, d] * torch.exp(log_scale) + shift)[:, None])
        return torch.cat(found, dim=1)


class SeesItself(Recurrent):
    def states(self, x):
        state, states = self.start.expand(len(x), -1), []
        for d in range(x.shape[1]):
            state = self.cell(x[:, d : d + 1], state)
            states.append(state)
        return torch.stack(states, dim=1)


class ForgetsAll(Recurrent):
    def states(self, x):
        start = self.start.expand(len(x), -1)
        later = [self.cell(x[:, d : d + 1], start) for d in range(x.shape[1] - 1)]
        return torch.stack([start, *later], dim=1)


class StartsWithZero(Recurrent):
    """Feeds a zero first, as if there were a number before the first."""

    def states(self, x):
        return SeesItself.states(self, torch.cat([0 * x[:, :1], x[:, :-1]], dim=1))


class ReadsTheNoise(Recurrent):
    def inverse(self, z):
        shift, log_scale = self.write(self.states(z)).unbind(dim=2)
        return z * torch.exp(log_scale) + shift


class StartsAnew(Recurrent):
    """Runs the cell from the start again for each number."""

    def inverse(self, z):
        x = torch.zeros_like(z)
        for d in range(z.shape[1]):
            shift, log_scale = self.write(self.states(x)).unbind(dim=2)
            now = z * torch.exp(log_scale) + shift
            x = torch.cat([x[:, :d], now[:, d : d + 1], x[:, d + 1 :]], dim=1)
        return x


class OtherSign(Recurrent):
    def forward(self, x):
        z, log_det = super().forward(x)
        return z, -log_det


@exercise(
    "transformers.recurrent",
    read=f"{CHAPTER}#transformers-recurrent",
    hint="first write, then read: the parameters of x_d come from the state before the cell has "
    "seen x_d.",
)
class RecurrentLayer:
    reference = Recurrent
    parts = {"z": 1, "log_det": 1, "x": 1, "steps_too_many": 1}
    compare = {"steps_too_many": equal}
    mistakes = {
        "the cell reads x_d before the parameters of x_d are written: they may not depend on it": (
            SeesItself
        ),
        "every number is read by a fresh state: what came before the last number is forgotten": (
            ForgetsAll
        ),
        "a zero is fed first: the first parameters are written from the start itself": (
            StartsWithZero
        ),
        "the inverse lets the cell read z: on both ways it reads x": ReadsTheNoise,
        "the inverse runs the cell from the start for each number: keep the state": StartsAnew,
        "the log_det has the sign of the other direction": OtherSign,
    }

    def draw(rng):
        n = int(rng.integers(3, 5))
        return {
            "x": rng.normal(size=(4, int(rng.integers(4, 7)))),
            "start": rng.normal(size=n),
            "A": rng.normal(size=(n, n)),
            "b": rng.normal(size=n),
            "W": 0.5 * rng.normal(size=(n, 2)),
        }

    def probe(answer, x, start, A, b, W):
        steps = []

        def cell(number, state):
            steps.append(len(number))
            return (state @ A + number * b).tanh()

        def write(state):
            return state @ W

        layer = answer(cell, write, start.clone())

        def steps_too_many():
            steps.clear()
            layer.inverse(x.clone())
            return max(0, len(steps) - x.shape[1])

        return {
            "z": lambda: layer.forward(x.clone())[0],
            "log_det": lambda: layer.forward(x.clone())[1],
            "x": lambda: layer.inverse(x.clone()),
            "steps_too_many": steps_too_many,
        }


# 10. Train one layer whose conditional has two peaks

# Nats above the true density's score: the reference reaches 0.03, a line 0.6.
LIMIT = 0.12
NOISE = 0.3
AXES = [torch.linspace(-8, 8, 321, dtype=torch.float64)] * 2


def bends(first):
    """Where the two branches are: at plus and minus this."""
    return 1.5 + 0.7 * np.sin(2 * first)


def train(
    data: Tensor,
    steps: int = 300,
    *,
    units: int = 6,
    flow_type: type[Flow] = Fitted,
    sign: int = -1,
) -> Flow:
    curve = SigmoidalTransformer(units) if units else AffineTransformer()
    net = MaskedConditioner(2, curve.outputs, [32, 32], activation=torch.tanh)
    flow = flow_type(Compose(Autoregressive(net, curve)), StandardNormal(2)).double()
    return improved(flow, data, steps, sign)


def fit_by(**options):
    return trained_once(train, **options)


@exercise(
    "transformers.train",
    read=f"{CHAPTER}#transformers-chart",
    hint="one layer is enough: a network of 32 tanh units that answers with six sigmoids, and 300 "
    "steps of Adam with rate 0.01.",
)
class TrainCurve:
    reference = staticmethod(fit_by())
    parts = {"above_truth": 3, "mass": 1}
    compare = {"above_truth": at_most(LIMIT, "nats"), "mass": close(0.05)}
    mistakes = {
        "with lines the conditional stays normal, and it has two peaks": fit_by(units=0),
        "one sigmoid is a line: the logit undoes it": fit_by(units=1),
        "training stopped before it had begun": fit_by(steps=2),
        "the likelihood falls: the loss is its negative": fit_by(steps=5, sign=1),
        "the log-determinant is subtracted, and the mass is far from 1": fit_by(
            steps=20, flow_type=SubtractsTheLogDet
        ),
        "log_prob is averaged over the coordinates, and its mass is not 1": fit_by(
            steps=60, flow_type=AveragedCoordinates
        ),
    }

    def draw(rng):
        def branches(n):
            first = rng.normal(size=n)
            second = rng.choice([-1, 1], size=n) * bends(first) + NOISE * rng.normal(size=n)
            return np.stack([first, second], axis=1)

        return {"data": branches(3000), "test": branches(3000)}

    def probe(answer, data):
        import torch

        flow = answer(data.clone())
        axis = torch.linspace(-8, 8, 321, dtype=torch.float64)
        points = torch.cartesian_prod(axis, axis)

        def log_p():
            with torch.no_grad():
                return flow.log_prob(points.to(data)).double()

        return {"log_p": log_p}

    def measure(evidence, test):
        first, second = test.unbind(dim=1)
        centre = torch.from_numpy(bends(first.numpy()))
        distance = torch.stack([second - centre, second + centre]) / NOISE
        log_true = -0.5 * first**2 + (-0.5 * distance**2).logsumexp(dim=0)
        log_true = log_true - math.log(2 * NOISE) - math.log(2 * math.pi)

        def above_truth():
            # One stray point must not decide: none counts for more than 20 nats.
            nats = -at_points(evidence["log_p"], AXES, test)
            return (nats.clamp(max=20) + log_true).mean()

        return {"above_truth": above_truth, "mass": lambda: mass(evidence["log_p"], AXES)}
