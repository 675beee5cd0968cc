"""Exercises of the problem set on the change of variables."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowcourse.bijector import sum_event
from flowcourse.checks import at_most, equal, exercise
from flowcourse.checks.held_out import at_points, mass, mesh
from flowcourse.foundations.change_of_variables import Softplus

MAY_USE = ()  # topics that an answer may import: this is the first one

CHAPTER = "book/foundations/change_of_variables.md#change-of-variables"


# --- 1. A decreasing map -------------------------------------------------------------------------


def inverse_weibull(x: Tensor, shape: float, scale: float) -> tuple[Tensor, Tensor]:
    """Log-density and CDF of X = scale * Z**(-1/shape), where Z is exponential."""
    z = (x / scale) ** -shape
    log_slope = math.log(shape / scale) - (shape + 1) * torch.log(x / scale)
    return -z + log_slope, torch.exp(-z)


def _decreasing(log_density=None, cdf=None):
    """A copy of the reference with one of its two results replaced."""

    def implementation(x, shape, scale):
        right = inverse_weibull(x, shape, scale)
        z = (x / scale) ** -shape
        slope = -shape / scale * (x / scale) ** (-shape - 1)
        return (
            right[0] if log_density is None else log_density(z, slope, shape, scale),
            right[1] if cdf is None else cdf(z),
        )

    return implementation


@exercise(
    "change_of_variables.decreasing_map",
    read=f"{CHAPTER}-line",
    hint="Write z = f(x) first. Is f increasing? Which event of Z is the event X <= x?",
)
class DecreasingMap:
    reference = inverse_weibull

    def draw(rng):
        return {
            "x": rng.uniform(0.8, 6.0, size=rng.integers(5, 12)),
            "shape": rng.uniform(1.3, 3.0),
            "scale": rng.uniform(1.5, 4.0),
        }

    def probe(answer, x, shape, scale):
        return {
            "log_density": lambda: answer(x.clone(), shape, scale)[0],
            "cdf": lambda: answer(x.clone(), shape, scale)[1],
        }

    parts = {"log_density": 2, "cdf": 1}

    mistakes = {
        "your log-density is NaN because you took the logarithm of the slope, and the slope of a "
        "decreasing map is negative: what must stand around it?": _decreasing(
            lambda z, slope, shape, scale: -z + torch.log(slope)
        ),
        "you subtracted log|dz/dx| instead of adding it: is your slope that of x -> z, or of "
        "z -> x?": _decreasing(lambda z, slope, shape, scale: -z - slope.abs().log()),
        "you returned the log-density of Z at z = f(x): where is the factor by which the map "
        "stretches?": _decreasing(lambda z, slope, shape, scale: -z),
        "your slope misses the factor 1/scale: did you differentiate with respect to x, or to "
        "x/scale?": _decreasing(lambda z, slope, shape, scale: -z + (slope.abs() * scale).log()),
        "you returned the density, not its logarithm: which of the two is asked for?": _decreasing(
            lambda z, slope, shape, scale: torch.exp(-z) * slope.abs()
        ),
        "your CDF falls from 1 to 0: for a decreasing map the event X <= x is the event Z >= f(x), "
        "so which side of F_Z do you need?": _decreasing(cdf=lambda z: 1 - torch.exp(-z)),
    }


# --- 2. A composition, seen from every stage -----------------------------------------------------


def density_path(bijectors, base_log_prob, x: Tensor) -> tuple[Tensor, Tensor]:
    """All stages h_0 = x, ..., h_K = z of a flow, and the log-density of each stage."""
    points, log_dets = [x], []
    for bijector in bijectors:
        z, log_det = bijector(points[-1])
        points.append(z)
        log_dets.append(log_det)
    densities = [base_log_prob(points[-1])]
    for log_det in reversed(log_dets):
        densities.append(densities[-1] + log_det)
    return torch.stack(points), torch.stack(densities[::-1])


def _path(rule, drop_data: bool = False):
    """A wrong implementation that knows all stages and log-dets and combines them by `rule`."""

    def implementation(bijectors, base_log_prob, x):
        points, log_dets = [x], []
        for bijector in bijectors:
            z, log_det = bijector(points[-1])
            points.append(z)
            log_dets.append(log_det)
        at_data = torch.stack([bijector(x)[1] for bijector in bijectors])
        base = torch.stack([base_log_prob(point) for point in points])
        return torch.stack(points[drop_data:]), rule(base, torch.stack(log_dets), at_data)

    return implementation


def _remaining(log_dets: Tensor) -> Tensor:
    zero = torch.zeros_like(log_dets[:1])
    return torch.cat([log_dets.flip(0).cumsum(0).flip(0), zero])


def _running(log_dets: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(log_dets[:1]), log_dets.cumsum(0)])


@exercise(
    "change_of_variables.density_path",
    read=f"{CHAPTER}-composition",
    hint="The flow that starts at h_k is the rest of the chain: bijectors k+1, ..., K.",
)
class DensityPath:
    reference = density_path

    def draw(rng):
        steps, dims, batch = rng.integers(3, 5), rng.integers(2, 4), rng.integers(4, 7)
        return {
            "x": rng.normal(size=(batch, dims)),
            "weights": rng.normal(size=(steps, dims, dims)) + 1.5 * np.eye(dims),
            "shifts": rng.normal(size=(steps, dims)),
        }

    def probe(answer, x, weights, shifts):
        from flowcourse.bijector import Bijector
        from flowcourse.flow import StandardLogistic

        class Stage(Bijector):
            """A linear map, then arcsinh: its log-determinant depends on the point."""

            def __init__(self, weight, shift):
                super().__init__()
                self.weight, self.shift = weight, shift

            def forward(self, x, context=None):
                y = x @ self.weight.T + self.shift
                log_det = torch.linalg.slogdet(self.weight).logabsdet
                return torch.asinh(y), log_det - 0.5 * torch.log1p(y**2).sum(dim=1)

        stages = [Stage(weight, shift) for weight, shift in zip(weights, shifts, strict=True)]
        base = StandardLogistic(x.shape[1])
        return {
            "points": lambda: answer(stages, base.log_prob, x.clone())[0],
            "data_density": lambda: answer(stages, base.log_prob, x.clone())[1][0],
            "densities": lambda: answer(stages, base.log_prob, x.clone())[1],
        }

    parts = {"points": 1, "data_density": 1, "densities": 2}

    mistakes = {
        "you subtracted the log-determinants: these bijectors run from data to latent, so do they "
        "raise or lower the density when they stretch?": _path(
            lambda base, log_dets, at_data: base[-1] - _remaining(log_dets)
        ),
        "you added the log-determinants passed so far: the density of h_k needs those that lie "
        "between h_k and the base. Which are they?": _path(
            lambda base, log_dets, at_data: base[-1] + _running(log_dets)
        ),
        "you evaluated every log-determinant at the data x: at which point does the k-th Jacobian "
        "stand?": _path(lambda base, log_dets, at_data: base[-1] + _remaining(at_data)),
        "you evaluated the base density at h_k: where does the chain from h_k end?": _path(
            lambda base, log_dets, at_data: base + _remaining(log_dets)
        ),
        "you gave every stage the density of the data: h_k is another variable, with a density of "
        "its own": _path(
            lambda base, log_dets, at_data: (base[-1] + log_dets.sum(0)).expand_as(base)
        ),
        "your points start after the first bijector: h_0 is the data itself, K + 1 stages in "
        "all": _path(
            lambda base, log_dets, at_data: (base[-1] + _remaining(log_dets))[1:], drop_data=True
        ),
    }


# --- 3. Softplus in the tails --------------------------------------------------------------------


def _softplus(**changes):
    """The reference with some of its methods' formulas replaced."""
    formulas = {
        "transform": lambda x: F.softplus(x, threshold=50),
        "invert": lambda z: z + torch.log(-torch.expm1(-z)),
        "log_det": lambda x: sum_event(F.logsigmoid(x)),
        "inverse_log_det": lambda x, z: -sum_event(F.logsigmoid(x)),
    } | changes

    class Spoiled:
        def forward(self, x):
            return formulas["transform"](x), formulas["log_det"](x)

        def inverse(self, z):
            x = formulas["invert"](z)
            return x, formulas["inverse_log_det"](x, z)

    return Spoiled


@exercise(
    "change_of_variables.softplus",
    read=f"{CHAPTER}-tails",
    hint="torch.nn.functional has softplus and logsigmoid; torch has expm1 and log1p.",
)
class SoftplusInTheTails:
    reference = Softplus

    def draw(rng):
        shape = rng.integers(2, 5, size=2)
        return {
            "x": rng.normal(0.0, 2.0, size=shape),
            "z": rng.uniform(0.05, 4.0, size=shape),
            "far": rng.uniform(750.0, 1500.0, size=4) * np.array([-1, 1, -1, 1]),
        }

    def probe(answer, x, z, far):
        softplus = answer()
        return {
            "z": lambda: softplus.forward(x.clone())[0],
            "log_det": lambda: softplus.forward(x.clone())[1],
            "x": lambda: softplus.inverse(z.clone())[0],
            "inverse_log_det": lambda: softplus.inverse(z.clone())[1],
            "tails": lambda: torch.cat(
                [
                    softplus.forward(far[:, None])[0][:, 0],
                    softplus.forward(far[:, None])[1],
                    softplus.inverse(far.abs()[:, None])[0][:, 0],
                ]
            ),
        }

    parts = {"z": 1, "log_det": 1, "x": 1, "inverse_log_det": 1, "tails": 1}

    mistakes = {
        "your formulas are right and overflow in the tails: exp(1000) is infinite in any floating-"
        "point type. Which function of torch computes log(1 + exp(x)) safely?": _softplus(
            transform=lambda x: torch.log(1 + torch.exp(x)),
            invert=lambda z: torch.log(torch.exp(z) - 1),
            log_det=lambda x: torch.log(torch.sigmoid(x)).sum(dim=1),
        ),
        "your map and its inverse are stable and your log-determinant is not: sigmoid(-1000) "
        "rounds to 0 before you take its logarithm": _softplus(
            log_det=lambda x: torch.log(torch.sigmoid(x)).sum(dim=1),
        ),
        "you summed the slopes and not their logarithms: what is the determinant of a diagonal "
        "matrix?": _softplus(
            log_det=lambda x: torch.sigmoid(x).sum(dim=1),
            inverse_log_det=lambda x, z: -torch.sigmoid(x).sum(dim=1),
        ),
        "you averaged over the coordinates: log|det| is a sum": _softplus(
            log_det=lambda x: F.logsigmoid(x).mean(dim=1),
            inverse_log_det=lambda x, z: -F.logsigmoid(x).mean(dim=1),
        ),
        "your inverse returns the log-determinant of forward: by what factor does the inverse "
        "stretch?": _softplus(inverse_log_det=lambda x, z: sum_event(F.logsigmoid(x))),
        "in inverse you evaluated the slope at z: the slope of softplus belongs to the point x "
        "where softplus is applied": _softplus(
            inverse_log_det=lambda x, z: -sum_event(F.logsigmoid(z))
        ),
        "your log_det has one number for each coordinate: one for each example is asked for, shape "
        "(batch,)": _softplus(
            log_det=lambda x: F.logsigmoid(x),
            inverse_log_det=lambda x, z: -F.logsigmoid(x),
        ),
    }


# --- 4. Debug: a logit bijector ------------------------------------------------------------------


def _squeezed_logit(log_det, invert=None, inverse_log_det=None):
    """`log_det(y, width)` is summed by the caller; `y` is the squeezed pixel."""

    class SqueezedLogit:
        def __init__(self, alpha):
            self.alpha, self.width = alpha, 1 - 2 * alpha

        def forward(self, x):
            y = self.alpha + self.width * x
            return torch.log(y) - torch.log1p(-y), log_det(y, self.width)

        def inverse(self, z):
            y = torch.sigmoid(z)
            x = (y - self.alpha) / self.width if invert is None else invert(y)
            negative = -log_det(y, self.width)
            return x, negative if inverse_log_det is None else inverse_log_det(y, self.width)

    return SqueezedLogit


def _logit_terms(y: Tensor, width: float) -> Tensor:
    return math.log(width) - torch.log(y) - torch.log1p(-y)


@exercise(
    "change_of_variables.debug_logit",
    read=f"{CHAPTER}-elementwise",
    hint="Differentiate z = logit(alpha + width * x) by the chain rule: two factors, two logs.",
)
class DebugLogit:
    reference = _squeezed_logit(lambda y, width: sum_event(_logit_terms(y, width)))

    def draw(rng):
        shape = (rng.integers(3, 6), rng.integers(2, 6))
        return {
            "alpha": rng.uniform(0.02, 0.15),
            "x": rng.uniform(0.05, 0.95, size=shape),
            "z": rng.normal(0.0, 1.0, size=shape),
        }

    def probe(answer, alpha, x, z):
        logit = answer(alpha)
        return {
            # The map itself was right from the start: it earns nothing alone, and must stay right.
            "forward": lambda: torch.cat(
                [logit.forward(x.clone())[0].flatten(), logit.forward(x.clone())[1]]
            ),
            "x": lambda: logit.inverse(z.clone())[0],
            "inverse_log_det": lambda: logit.inverse(z.clone())[1],
        }

    parts = {"forward": 1, "x": 1, "inverse_log_det": 1}

    mistakes = {
        "this is the code as it was handed out: compare its log_det with autograd's at one "
        "point": _squeezed_logit(
            lambda y, width: sum_event(torch.log(y) + torch.log1p(-y)),
            invert=lambda y: y,
            inverse_log_det=lambda y, width: sum_event(torch.log(y) + torch.log1p(-y)),
        ),
        "your slope is that of the logit alone: by what factor is x squeezed before?": (
            _squeezed_logit(lambda y, width: -sum_event(torch.log(y) + torch.log1p(-y)))
        ),
        "you counted the squeeze once for each example: it acts on every coordinate": (
            _squeezed_logit(
                lambda y, width: math.log(width) - sum_event(torch.log(y) + torch.log1p(-y))
            )
        ),
        "your slope is that of the sigmoid, 1/f' instead of f': the logit stretches near 0 and 1, "
        "so what sign has log f' there?": _squeezed_logit(
            lambda y, width: sum_event(math.log(width) + torch.log(y) + torch.log1p(-y))
        ),
        "your inverse returns the log-determinant of forward: the inverse undoes the stretching, "
        "so what is its sign?": _squeezed_logit(
            lambda y, width: sum_event(_logit_terms(y, width)),
            inverse_log_det=lambda y, width: sum_event(_logit_terms(y, width)),
        ),
        "your inverse stops at the sigmoid: which step of forward is not undone yet?": (
            _squeezed_logit(lambda y, width: sum_event(_logit_terms(y, width)), invert=lambda y: y)
        ),
    }


# --- 5. Predict: order six maps ------------------------------------------------------------------


@exercise(
    "change_of_variables.predict_volume",
    read=f"{CHAPTER}-determinants",
    hint="Write each Jacobian at the origin as a 2 x 2 matrix. A rotation and a shear have det 1.",
)
class PredictVolume:
    reference = ("C", "E", "D", "B", "A", "F")

    def draw(rng):
        return {"asked": "".join(rng.permutation(list("ABCDEF")))}

    def probe(answer, asked):
        order = list(answer)
        return {
            "shrinks": [order.index(letter) < order.index("D") for letter in asked],
            "order": [order.index(letter) for letter in asked],
        }

    parts = {"shrinks": 1, "order": 2}
    compare = {"shrinks": equal, "order": equal}

    mistakes = {
        "you ordered from the most expanding to the most shrinking: the statement asks for the "
        "other direction": ("F", "A", "B", "D", "E", "C"),
        "you counted one coordinate's slope only: A, C and E act on both coordinates, so how many "
        "logarithms are added?": ("C", "E", "D", "A", "B", "F"),
        "you took the shear for a stretch: D moves points far, and what does it do to the area of "
        "a square?": ("C", "E", "B", "A", "D", "F"),
        "you used the determinant of v v^T, which is 0, for F: the map adds it to the identity. "
        "What does the determinant lemma say?": ("F", "C", "E", "D", "B", "A"),
        "you put E lowest because its slope is negative: what of the determinant measures "
        "volume?": ("E", "C", "D", "B", "A", "F"),
    }


# --- 6. The generalised quantile -----------------------------------------------------------------


def quantile(values: Tensor, probabilities: Tensor, y: Tensor) -> Tensor:
    """inf{x : F(x) >= y} for a discrete distribution on increasing values."""
    return values[torch.searchsorted(probabilities.cumsum(0), y)]


def _quantile(index):
    def implementation(values, probabilities, y):
        return values[index(probabilities.cumsum(0), y).clamp(0, len(values) - 1)]

    return implementation


@exercise(
    "change_of_variables.quantile",
    read=f"{CHAPTER}-pit",
    hint="Draw F as a staircase. At height y, which is the leftmost x whose stair is not below y?",
)
class GeneralisedQuantile:
    reference = quantile

    def draw(rng):
        atoms = rng.integers(3, 7)
        # Sixteenths: sums are exact in floating point, so that a step is hit exactly.
        sixteenths = rng.multinomial(16 - 2 * atoms, np.full(atoms, 1 / atoms)) + 2
        steps = np.cumsum(sixteenths) / 16
        return {
            "values": 10 * rng.choice([-1, 1]) + np.cumsum(rng.uniform(0.5, 3.0, size=atoms)),
            "probabilities": sixteenths / 16,
            "between": rng.permutation(np.concatenate([steps - 1 / 32, steps - 3 / 32])),
            "steps": rng.permutation(steps),
        }

    def probe(answer, values, probabilities, between, steps):
        return {
            "between": lambda: answer(values.clone(), probabilities.clone(), between.clone()),
            "steps": lambda: answer(values.clone(), probabilities.clone(), steps.clone()),
        }

    parts = {"between": 2, "steps": 1}

    mistakes = {
        "you took the infimum over F(x) <= y: that set reaches down to the smallest value whatever "
        "y is. Which inequality makes the infimum move with y?": _quantile(
            lambda cumulative, y: torch.zeros_like(y, dtype=torch.long)
        ),
        "you took the largest value with F(x) <= y: between two steps that is one atom too low": (
            _quantile(lambda cumulative, y: torch.searchsorted(cumulative, y, right=True) - 1)
        ),
        "you asked for F(x) > y: where y equals a step exactly, you moved on to the next atom": (
            _quantile(lambda cumulative, y: torch.searchsorted(cumulative, y, right=True))
        ),
        "you returned the position of the atom, not its value": (
            lambda values, probabilities, y: torch.searchsorted(probabilities.cumsum(0), y)
        ),
        "you interpolated between the atoms: a discrete variable takes no value in between": (
            lambda values, probabilities, y: torch.from_numpy(
                np.interp(y.numpy(), probabilities.cumsum(0).numpy(), values.numpy())
            )
        ),
    }


# --- 7. The Knothe-Rosenblatt map of a correlated Gaussian ---------------------------------------


def _rosenblatt(
    slope=lambda s1, s2, rho: rho * s2 / s1,
    spread=lambda s2, rho: s2 * math.sqrt(1 - rho**2),
    log_det=lambda e1, e2, d1, d2: _log_normal(e1) + _log_normal(e2) - math.log(d1 * d2),
    uniform: bool = True,
    condition_on_u: bool = False,
    inverse_sign: int = -1,
):
    """The conditional CDFs of a 2-D Gaussian; each argument spoils one step when it is given."""
    to_uniform = torch.special.ndtr if uniform else lambda e: e
    from_uniform = torch.special.ndtri if uniform else lambda u: u

    class Rosenblatt:
        def __init__(self, mean, covariance):
            self.m1, self.m2 = mean.tolist()
            self.s1, s2 = covariance.diagonal().sqrt().tolist()
            rho = covariance[0, 1].item() / (self.s1 * s2)
            self.slope, self.spread = slope(self.s1, s2, rho), spread(s2, rho)

        def forward(self, x):
            e1 = (x[:, 0] - self.m1) / self.s1
            e2 = (x[:, 1] - self.m2 - self.slope * (x[:, 0] - self.m1)) / self.spread
            u = to_uniform(torch.stack([e1, e2], dim=1))
            return u, log_det(e1, e2, self.s1, self.spread)

        def inverse(self, u):
            e1, e2 = from_uniform(u).unbind(dim=1)
            x1 = self.m1 + self.s1 * e1
            known = u[:, 0] if condition_on_u else x1
            x2 = self.m2 + self.slope * (known - self.m1) + self.spread * e2
            x = torch.stack([x1, x2], dim=1)
            return x, inverse_sign * log_det(e1, e2, self.s1, self.spread)

    return Rosenblatt


def _log_normal(e: Tensor) -> Tensor:
    return -0.5 * e**2 - 0.5 * math.log(2 * math.pi)


@exercise(
    "change_of_variables.rosenblatt",
    read=f"{CHAPTER}-existence",
    hint="Given x1, the second coordinate is Gaussian too: what are its mean and its variance?",
)
class Rosenblatt:
    reference = _rosenblatt()

    def draw(rng):
        s1, s2 = rng.uniform(0.5, 0.9), rng.uniform(1.2, 2.0)
        covariance = rng.choice([-1, 1]) * rng.uniform(0.4, 0.8) * s1 * s2
        return {
            "mean": rng.normal(size=2),
            "covariance": np.array([[s1**2, covariance], [covariance, s2**2]]),
            "x": rng.normal(size=(rng.integers(4, 9), 2)),
            "u": rng.uniform(0.05, 0.95, size=(rng.integers(4, 9), 2)),
        }

    def probe(answer, mean, covariance, x, u):
        rosenblatt = answer(mean, covariance)
        return {
            "u": lambda: rosenblatt.forward(x.clone())[0],
            "log_det": lambda: rosenblatt.forward(x.clone())[1],
            "x": lambda: rosenblatt.inverse(u.clone())[0],
            "inverse_log_det": lambda: rosenblatt.inverse(u.clone())[1],
        }

    parts = {"u": 1, "log_det": 1, "x": 1, "inverse_log_det": 1}

    mistakes = {
        "you used the marginal CDF of the second coordinate: the map needs the CDF of x2 given "
        "x1": _rosenblatt(slope=lambda s1, s2, rho: 0.0, spread=lambda s2, rho: s2),
        "your conditional mean is right and your conditional spread is the marginal one: how much "
        "of the variance of x2 does x1 explain?": _rosenblatt(spread=lambda s2, rho: s2),
        "your regression slope is the correlation: that holds for standardised coordinates. Which "
        "factor brings the units of x2 over x1?": _rosenblatt(slope=lambda s1, s2, rho: rho),
        "you whitened x and stopped: independent normals are not uniform. Which map is "
        "missing?": _rosenblatt(
            uniform=False, log_det=lambda e1, e2, d1, d2: 0 * e1 - math.log(d1 * d2)
        ),
        "your log_det has the scales only: what is the slope of the normal CDF?": _rosenblatt(
            log_det=lambda e1, e2, d1, d2: 0 * e1 - math.log(d1 * d2)
        ),
        "in inverse you conditioned on u1: the second coordinate depends on x1, which you have "
        "just computed": _rosenblatt(condition_on_u=True),
        "your inverse returns the log-determinant of forward: it should be its negative": (
            _rosenblatt(inverse_sign=1)
        ),
    }


# --- 8. Experiment: fit a flow -------------------------------------------------------------------


def _fit(columns=lambda x: x.log(), log_prob=None, independent: bool = False):
    """Maximum likelihood in closed form: whiten `columns(x)`; `log_prob(normal, x)` combines."""

    def fit(x):
        y = columns(x).double()
        covariance = y.T.cov(correction=0)
        if independent:
            covariance = covariance.diagonal().diag()
        normal = torch.distributions.MultivariateNormal(y.mean(dim=0), covariance)
        logs = torch.linalg.slogdet(covariance).logabsdet

        def density(x):
            value = normal.log_prob(columns(x).double())
            jacobian = x.double().log().sum(dim=1)
            return value - jacobian if log_prob is None else log_prob(value, jacobian, logs)

        return density

    return fit


def _log_axes(train):
    """Axes of a grid for log x, wide enough for all the mass."""
    logs = train.double().log()
    middle, width = logs.mean(dim=0), 7 * logs.std(dim=0)
    steps = torch.linspace(-1, 1, 241, dtype=torch.float64)
    return [middle[i] + width[i] * steps for i in range(2)]


@exercise(
    "change_of_variables.fit",
    read=f"{CHAPTER}-experiment",
    hint="Compose log and a linear map; the loss is -(log p_Z(z) + both log-determinants).",
)
class FitFlow:
    reference = _fit()

    def draw(rng):
        spread = rng.uniform(0.6, 0.9, size=2)
        correlation = rng.choice([-1, 1]) * rng.uniform(0.6, 0.85)
        lower = np.array(
            [[spread[0], 0.0], [spread[1] * correlation, spread[1] * np.sqrt(1 - correlation**2)]]
        )
        noise = rng.normal(size=(3000, 2))
        logs = rng.uniform(0.3, 0.6, size=2) + noise @ lower.T
        entropy_like = 0.5 * (noise**2).sum(axis=1) + np.log(2 * np.pi) + logs.sum(axis=1)
        nll_nats = entropy_like + np.log(lower[0, 0] * lower[1, 1])
        x = np.exp(logs).astype(np.float32)
        return {"train": x[:1000], "test": x[1000:], "true_nll_nats": nll_nats[1000:].mean()}

    def probe(answer, train):
        with torch.enable_grad():
            log_prob = answer(train.clone())
        return {"log_p": lambda: log_prob(mesh(_log_axes(train)).exp().to(train))}

    def measure(evidence, train, test, true_nll_nats):
        axes = _log_axes(train)

        def mass_error():
            # The integral over all x, after the substitution x = exp(t).
            return (mass(evidence["log_p"] + mesh(axes).sum(dim=1), axes) - 1).abs()

        def gap_nats():
            # Two-sided: a score far better than the truth's is no density's.
            return (at_points(evidence["log_p"], axes, test.log()).mean() + true_nll_nats).abs()

        return {"gap_nats": gap_nats, "mass_error": mass_error}

    parts = {"gap_nats": 2, "mass_error": 1}
    compare = {
        "gap_nats": at_most(0.05, "nats from the true density"),
        "mass_error": at_most(0.05, "(distance of the total mass from 1)"),
    }

    mistakes = {
        "your function returns the density of log x: the logarithm's own slope, 1/x in each "
        "coordinate, is missing": _fit(log_prob=lambda normal, jacobian, logs: normal),
        "you added sum(log x): the slope of the logarithm is 1/x, so what is the sign of its "
        "log?": _fit(log_prob=lambda normal, jacobian, logs: normal + jacobian),
        "your two coordinates are independent: a diagonal map cannot remove their "
        "correlation": _fit(independent=True),
        "you left out log|det W| of the linear map: your total mass is not 1": _fit(
            log_prob=lambda normal, jacobian, logs: normal + 0.5 * logs - jacobian
        ),
        "you divided by the number of coordinates: a log-density is a sum over them": _fit(
            log_prob=lambda normal, jacobian, logs: (normal - jacobian) / 2
        ),
        "you fitted a Gaussian to x itself: where is the elementwise map that makes positive data "
        "live on the whole line?": _fit(
            columns=lambda x: x, log_prob=lambda normal, jacobian, logs: normal
        ),
    }
