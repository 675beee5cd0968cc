"""What the answers to the problem set on linear flows must satisfy.

The mistakes are wrong on purpose. Their names are what a student reads.
"""

import math

import numpy as np
import torch
from torch.linalg import solve_triangular

from flowcourse.autoregressive_flows import linear
from flowcourse.checks import equal, exercise

# Topics that an answer may import, besides the modules that all topics share.
MAY_USE = ("change_of_variables", "likelihood", "nice", "realnvp", "dequantization", "glow")

CHAPTER = "book/autoregressive_flows/linear.md"


# 1. Mirrors


class MirrorsReference:
    def __init__(self, vectors):
        self.layer = linear.Householder(vectors.shape[1], len(vectors)).to(vectors)
        self.layer.vectors.data = vectors

    def forward(self, x):
        return self.layer(x)

    def inverse(self, z):
        return self.layer.inverse(z)

    def sign(self):
        return (-1) ** len(self.layer.vectors)


class Mirrors:
    """The mirrors one by one, so that each mistake changes one thing."""

    def __init__(self, vectors):
        self.vectors = vectors

    def one(self, v, x):
        return x - 2 * (x @ v)[:, None] * v / (v @ v)

    def all(self, vectors, x):
        for v in vectors:
            x = self.one(v, x)
        return x

    def log_det(self, x):
        return x.new_zeros(len(x))

    def forward(self, x):
        return self.all(self.vectors, x), self.log_det(x)

    def inverse(self, z):
        return self.all(self.vectors.flip(0), z), -self.log_det(z)

    def sign(self):
        return (-1) ** len(self.vectors)


class SupposesUnitVectors(Mirrors):
    def one(self, v, x):
        return x - 2 * (x @ v)[:, None] * v


class DividesByTheLength(Mirrors):
    def one(self, v, x):
        return x - 2 * (x @ v)[:, None] * v / v.norm()


class Projects(Mirrors):
    def one(self, v, x):
        return x - (x @ v)[:, None] * v / (v @ v)


class SameOrderBack(Mirrors):
    def inverse(self, z):
        return self.all(self.vectors, z), self.log_det(z)


class LastMirrorFirst(Mirrors):
    def all(self, vectors, x):
        return super().all(vectors.flip(0), x)


class LogOfTheSign(Mirrors):
    def log_det(self, x):
        return x.new_full((len(x),), float(self.sign())).log()


class SignAsLogDet(Mirrors):
    def log_det(self, x):
        return x.new_full((len(x),), float(self.sign()))


class NeverMirrors(Mirrors):
    def sign(self):
        return 1


class AlwaysMirrors(Mirrors):
    def sign(self):
        return -1


class AllFromTheStart(Mirrors):
    def all(self, vectors, x):
        return x - sum(2 * (x @ v)[:, None] * v / (v @ v) for v in vectors)


@exercise(
    "linear.mirrors",
    read=f"{CHAPTER}#linear-householder",
    hint="a mirror sends its own vector to the other side and leaves what is perpendicular to it; "
    "two of them do not commute.",
)
class MirrorsExercise:
    reference = MirrorsReference
    parts = {"z": 1, "log_det": 1, "x": 1, "inverse_log_det": 1, "sign": 1}
    mistakes = {
        "v is taken for a unit vector: a mirror depends on its direction only": SupposesUnitVectors,
        "the projection is divided by the length of v, not by its square": DividesByTheLength,
        "x is projected onto the mirror's plane: how far must it go to reach the other side?": (
            Projects
        ),
        "the inverse takes the mirrors in the order of forward: the last one is undone first": (
            SameOrderBack
        ),
        "the last mirror comes first: which one stands next to x in H_k ... H_1 x?": (
            LastMirrorFirst
        ),
        "log_det is the logarithm of the determinant with its sign, and NaN for an odd number": (
            LogOfTheSign
        ),
        "log_det is the determinant: where is the logarithm of its size?": SignAsLogDet,
        "the sign is always +1: what does one mirror do to a left hand?": NeverMirrors,
        "the sign is always -1: what do two mirrors do to a left hand?": AlwaysMirrors,
        "every mirror sees the original x: the second sees what the first has made of it": (
            AllFromTheStart
        ),
    }

    def draw(rng):
        dims = int(rng.integers(4, 7))
        return {
            "odd": 2 * rng.normal(size=(3, dims)),
            "even": 2 * rng.normal(size=(2, dims)),
            "x": rng.normal(size=(5, dims)),
        }

    def probe(answer, odd, even, x):
        import torch

        layer, other = answer(odd.clone()), answer(even.clone())
        return {
            "z": lambda: layer.forward(x.clone())[0],
            "log_det": lambda: layer.forward(x.clone())[1],
            "x": lambda: layer.inverse(x.clone())[0],
            "inverse_log_det": lambda: layer.inverse(x.clone())[1],
            "sign": lambda: torch.as_tensor([float(layer.sign()), float(other.sign())]),
        }


# 2. Rotations from a skew matrix


def _rotation(skew=None, exponential=None, cayley=None):
    """A rotation with one step done otherwise."""

    def antisymmetric(raw):
        lower = raw.tril(-1)
        return lower - lower.T

    def by_solve(a):
        identity = torch.eye(len(a)).to(a)
        return torch.linalg.solve(identity + a, identity - a)

    def rotation(raw, kind):
        a = (skew or antisymmetric)(raw)
        if kind == "exp":
            return (exponential or torch.linalg.matrix_exp)(a)
        return (cayley or by_solve)(a)

    return rotation


def _cayley_without_inverse(a):
    identity = torch.eye(len(a)).to(a)
    return (identity + a) @ (identity - a)


def _cayley_of_one_sign(a):
    identity = torch.eye(len(a)).to(a)
    return torch.linalg.solve(identity + a, identity + a)


def _cayley_transposed(a):
    identity = torch.eye(len(a)).to(a)
    return torch.linalg.solve(identity - a, identity + a)


class RotationReference:
    def __new__(cls, raw, kind):
        layer = linear.Orthogonal(len(raw), kind).to(raw)
        layer.raw.data = raw
        return layer.weight.detach()


@exercise(
    "linear.rotation",
    read=f"{CHAPTER}#linear-rotations",
    hint="first make A with A^T = -A; check Q^T Q = I before you look at anything else.",
)
class Rotation:
    reference = RotationReference
    parts = {"exp": 1, "cayley": 1, "exp_gram": 1, "cayley_gram": 1, "angle": 1}
    mistakes = {
        "A is symmetric: lower + lower^T; a symmetric matrix stretches": _rotation(
            skew=lambda raw: raw.tril(-1) + raw.tril(-1).T
        ),
        "all of raw is used as it is: it is not skew": _rotation(skew=lambda raw: raw),
        "raw - raw^T uses the entries above the diagonal, too: they play no role here": _rotation(
            skew=lambda raw: raw - raw.T
        ),
        "A has the sign of the upper triangle: the rotation goes the other way round": _rotation(
            skew=lambda raw: raw.tril(-1).T - raw.tril(-1)
        ),
        "the exponential is taken entry by entry: what is the power series of a matrix?": _rotation(
            exponential=torch.exp
        ),
        "the exponential's series stops after the first power: I + A is not orthogonal": _rotation(
            exponential=lambda a: torch.eye(len(a)).to(a) + a
        ),
        "Cayley multiplies by I + A where it should divide": _rotation(
            cayley=_cayley_without_inverse
        ),
        "Cayley's factors are the same, and cancel": _rotation(cayley=_cayley_of_one_sign),
        "Cayley's factors have changed places: Q is transposed": _rotation(
            cayley=_cayley_transposed
        ),
    }

    def draw(rng):
        dims = int(rng.integers(3, 6))
        return {"raw": 0.6 * rng.normal(size=(dims, dims)), "turn": float(rng.uniform(0.3, 1.2))}

    def probe(answer, raw, turn):
        import torch

        plane = torch.tensor([[0.0, 0.0], [turn, 0.0]], dtype=raw.dtype)

        def gram(kind):
            q = answer(raw.clone(), kind)
            return q.T @ q

        return {
            "exp": lambda: answer(raw.clone(), "exp"),
            "cayley": lambda: answer(raw.clone(), "cayley"),
            "exp_gram": lambda: gram("exp"),
            "cayley_gram": lambda: gram("cayley"),
            # By how much it turns the plane: sine and cosine.
            "angle": lambda: torch.stack(
                [answer(plane.clone(), kind)[:, 0] for kind in ("exp", "cayley")]
            ),
        }


# 3. The layer W = Q R


class QRReference:
    def __init__(self, vectors, upper, log_scale):
        self.layer = linear.QRLinear(vectors.shape[1], len(vectors)).to(vectors)
        self.layer[0].upper.data, self.layer[0].log_scale.data = upper, log_scale
        self.layer[1].vectors.data = vectors

    def forward(self, x):
        return self.layer(x)

    def inverse(self, z):
        return self.layer.inverse(z)


class QRByHand:
    def __init__(self, vectors, upper, log_scale):
        self.vectors, self.upper, self.log_scale = vectors, upper, log_scale

    def triangle(self):
        return self.upper.triu(1) + torch.diag(self.log_scale.exp())

    def mirrors(self, x, backwards=False):
        return Mirrors(self.vectors).all(self.vectors.flip(0) if backwards else self.vectors, x)

    def one(self):
        return self.log_scale.sum()

    def forward(self, x):
        return self.mirrors(x @ self.triangle().T), self.one().expand(len(x))

    def inverse(self, z):
        y = self.mirrors(z, backwards=True)
        return self.solve(y), -self.one().expand(len(z))

    def solve(self, y):
        return torch.linalg.solve(self.triangle(), y.T).T


class QRCountsEntries(QRByHand):
    def triangle(self):
        return self.upper + torch.diag(self.log_scale.exp())


class QRKeepsTheDiagonal(QRByHand):
    def triangle(self):
        return self.upper.triu() + torch.diag(self.log_scale.exp())


class QRTakesTheLog(QRByHand):
    def triangle(self):
        return self.upper.triu(1) + torch.diag(self.log_scale)


class QRSumsScales(QRByHand):
    def one(self):
        return self.log_scale.exp().sum()


class QRNegative(QRByHand):
    def one(self):
        return -super().one()


class QROtherOrder(QRByHand):
    def forward(self, x):
        return self.mirrors(x) @ self.triangle().T, self.one().expand(len(x))

    def inverse(self, z):
        return self.mirrors(self.solve(z), backwards=True), -self.one().expand(len(z))


class QRTransposed(QRByHand):
    def forward(self, x):
        return self.mirrors(x @ self.triangle()), self.one().expand(len(x))

    def inverse(self, z):
        y = self.mirrors(z, backwards=True)
        return torch.linalg.solve(self.triangle().T, y.T).T, -self.one().expand(len(z))


class QRInverseForward(QRByHand):
    def inverse(self, z):
        return self.mirrors(self.solve(z), backwards=True), -self.one().expand(len(z))


class QRPerExample(QRByHand):
    def forward(self, x):
        z, log_det = super().forward(x)
        return z, log_det * len(x)

    def inverse(self, z):
        x, log_det = super().inverse(z)
        return x, log_det * len(z)


@exercise(
    "linear.qr_layer",
    read=f"{CHAPTER}#linear-products",
    hint="the input meets R first; on the way back, Q is undone first.",
)
class QRLayer:
    reference = QRReference
    parts = {"z": 1, "log_det": 1, "x": 1, "inverse_log_det": 1}
    mistakes = {
        "all entries of upper count: what a gradient has put below the diagonal plays no role": (
            QRCountsEntries
        ),
        "the diagonal of upper is added to e^l: the log-determinant knows nothing of it": (
            QRKeepsTheDiagonal
        ),
        "log_scale is taken for the diagonal itself: it is its logarithm": QRTakesTheLog,
        "log_det sums the scales: the determinant is their product": QRSumsScales,
        "your log_dets are the negatives of the expected ones": QRNegative,
        "Q comes before R: in Q R x the input meets R first": QROtherOrder,
        "R is transposed: rows of x are multiplied by R^T from the right": QRTransposed,
        "the inverse undoes R before Q: what was done last on the way there?": QRInverseForward,
        "log_det grows with the batch: it is that of one example": QRPerExample,
    }

    def draw(rng):
        dims = int(rng.integers(3, 6))
        return {
            "vectors": rng.normal(size=(int(rng.integers(2, dims + 1)), dims)),
            "upper": 0.4 * rng.normal(size=(dims, dims)),
            "log_scale": rng.uniform(0.2, 0.8, size=dims),
            "x": rng.normal(size=(4, dims)),
        }

    def probe(answer, vectors, upper, log_scale, x):
        layer = answer(vectors.clone(), upper.clone(), log_scale.clone())
        return {
            "z": lambda: layer.forward(x.clone())[0],
            "log_det": lambda: layer.forward(x.clone())[1],
            "x": lambda: layer.inverse(x.clone())[0],
            "inverse_log_det": lambda: layer.inverse(x.clone())[1],
        }


# 4. The determinant of a large matrix


def _both(sign, log):
    """A function that returns two things for one matrix."""
    return lambda w: (sign(w), log(w))


def _right_sign(w):
    return torch.linalg.slogdet(w)[0]


def _right_log(w):
    return torch.linalg.slogdet(w)[1]


@exercise(
    "linear.log_abs_det",
    read=f"{CHAPTER}#linear-overflow",
    hint="a product of a few hundred numbers leaves the range of floating point: add logarithms.",
)
class LogAbsDet:
    reference = torch.linalg.slogdet
    parts = {"large": 1, "small": 1, "mirror": 1, "sign": 1, "triangular": 1}
    mistakes = {
        "the determinant itself is computed, and over- or underflows": _both(
            _right_sign, lambda w: torch.linalg.det(w).abs().log()
        ),
        "the logarithm of the determinant with its sign is taken: NaN for a mirror": _both(
            _right_sign, lambda w: torch.linalg.det(w).log()
        ),
        "NaN where the determinant is negative: torch.logdet is for positive ones": _both(
            _right_sign, torch.logdet
        ),
        "the diagonal of W is used: that is right for triangular matrices only": _both(
            _right_sign, lambda w: w.diagonal().abs().log().sum()
        ),
        "the logarithm is to the base 2: nats are asked for": _both(
            _right_sign, lambda w: _right_log(w) / math.log(2)
        ),
        "the sign is always +1": _both(lambda w: torch.ones(()).to(w), _right_log),
        "the logarithm is divided by the number of dimensions": _both(
            _right_sign, lambda w: _right_log(w) / len(w)
        ),
        "the logarithm comes first and the sign second": _both(_right_log, _right_sign),
        "the log-determinant of W^T W is twice that of W": _both(
            _right_sign, lambda w: 2 * _right_log(w)
        ),
    }

    def draw(rng):
        dims = int(rng.integers(180, 220))

        def matrix(dims, sign):
            """Random, with a determinant of one sign: chance decides no points."""
            found = rng.normal(size=(dims, dims))
            if np.linalg.slogdet(found).sign != sign:
                found[[0, 1]] = found[[1, 0]]
            return found

        return {
            "large": 30 * matrix(dims, 1),
            "small": 1e-4 * matrix(dims, 1),
            "mirror": matrix(4, -1),
            "triangular": np.triu(rng.normal(size=(5, 5)), 1) - np.diag(rng.uniform(1, 3, size=5)),
        }

    def probe(answer, large, small, mirror, triangular):
        import torch

        def log(w):
            return lambda: torch.as_tensor(answer(w.clone())[1])

        def signs():
            found = [answer(w.clone())[0] for w in (mirror, triangular, mirror @ mirror)]
            return torch.stack([torch.as_tensor(float(s)) for s in found])

        return {
            "large": log(large),
            "small": log(small),
            "mirror": log(mirror),
            "sign": signs,
            "triangular": log(triangular),
        }


# 5. The normal density in closed form


class WhiteningReference:
    def __new__(cls, x):
        layer = linear.whitening(x.mean(dim=0), x.T.cov(correction=0))
        return layer.weight.detach(), layer.bias.detach()


def _fit(weight=None, bias=None, correction=0):
    """A fit with one step done otherwise."""

    def by_cholesky(covariance):
        return torch.linalg.inv(torch.linalg.cholesky(covariance))

    def fit(x):
        w = (weight or by_cholesky)(x.T.cov(correction=correction))
        mean = x.mean(dim=0)
        return w, (bias or (lambda w, mean: -w @ mean))(w, mean)

    return fit


@exercise(
    "linear.whitening",
    read=f"{CHAPTER}#linear-whitening",
    hint="the density of z = W x + b has the covariance (W^T W)^-1, whatever rotation W holds.",
)
class Whitening:
    reference = WhiteningReference
    parts = {"covariance": 1, "mean": 1, "nats": 2}
    mistakes = {
        "the covariance is divided by n - 1: maximum likelihood divides by n": _fit(correction=1),
        "W is the Cholesky factor itself: it makes the data, and its inverse undoes them": _fit(
            torch.linalg.cholesky
        ),
        "W is the transposed inverse: then W Sigma W^T is not the identity": _fit(
            lambda s: torch.linalg.inv(torch.linalg.cholesky(s)).T
        ),
        "W is the Cholesky factor of the inverse covariance: K K^T is not K^T K": _fit(
            lambda s: torch.linalg.cholesky(torch.linalg.inv(s))
        ),
        "W is the inverse covariance: its square root was asked for": _fit(torch.linalg.inv),
        "the covariances between columns are left out": _fit(
            lambda s: torch.diag(s.diagonal().rsqrt())
        ),
        "there is no shift: the data do not lie around the origin": _fit(
            bias=lambda w, mean: torch.zeros_like(mean)
        ),
        "the shift is minus the mean: it is added after W": _fit(bias=lambda w, mean: -mean),
        "the shift has the wrong sign": _fit(bias=lambda w, mean: w @ mean),
    }

    def draw(rng):
        dims = int(rng.integers(2, 5))
        mixing = rng.normal(size=(dims, dims)) + 2 * np.eye(dims)
        return {"x": rng.normal(size=(12, dims)) @ mixing.T + rng.uniform(1, 3, size=dims)}

    def probe(answer, x):
        import math

        import torch

        weight, bias = answer(x.clone())

        def nats():
            z = x @ weight.T + bias
            log_det = torch.linalg.slogdet(weight)[1]
            normal = -0.5 * (z**2 + math.log(2 * math.pi)).sum(dim=1)
            return -(normal + log_det).mean()

        return {
            "covariance": lambda: torch.linalg.inv(weight.T @ weight),
            "mean": lambda: -torch.linalg.solve(weight, bias),
            "nats": nats,
        }


# 6. What a family reaches


def _reach(lu=None, exp=None, cayley=None, mirrors=None):
    """Answers about an orthogonal matrix, one of them found otherwise."""

    def leading(w):
        return all(torch.linalg.det(w[:k, :k]).abs() > 1e-9 for k in range(1, len(w) + 1))

    def rotates(w):
        return bool(torch.linalg.det(w) > 0)

    def without_half_turn(w):
        plus = torch.eye(len(w)).to(w) + w
        return rotates(w) and bool(torch.linalg.svdvals(plus)[-1] > 1e-9)

    def rank(w):
        return int((torch.linalg.svdvals(w - torch.eye(len(w)).to(w)) > 1e-9).sum())

    def reach(w):
        return {
            "lu": (lu or leading)(w),
            "exp": (exp or rotates)(w),
            "cayley": (cayley or without_half_turn)(w),
            "mirrors": (mirrors or rank)(w),
        }

    return reach


def _times_minus_one(w):
    return int((torch.linalg.eigvals(w) + 1).abs().lt(1e-6).sum())


@exercise(
    "linear.reach",
    read=f"{CHAPTER}#linear-reach",
    hint="Cayley divides by I + Q on the way back from Q to A; a mirror changes what lies along "
    "one direction, so k of them leave D - k directions as they are.",
)
class Reach:
    reference = _reach()
    parts = {"lu": 1, "exp": 1, "cayley": 1, "mirrors": 2}
    compare = dict.fromkeys(parts, equal)
    mistakes = {
        "exp reaches mirror images: the determinant of e^A is e to the trace of A": _reach(
            exp=lambda w: True
        ),
        "exp misses half turns: in the plane, which angle is one?": _reach(
            exp=lambda w: _reach()(w)["cayley"]
        ),
        "cayley reaches half turns: try to solve for A": _reach(
            cayley=lambda w: bool(torch.linalg.det(w) > 0)
        ),
        "cayley looks for -1 on the diagonal: an eigenvalue need not stand there": _reach(
            cayley=lambda w: bool(torch.linalg.det(w) > 0 and w.diagonal().min() > -1 + 1e-9)
        ),
        "mirrors is always the number of dimensions: that is enough, not what is needed": _reach(
            mirrors=len
        ),
        "mirrors counts eigenvalues -1: a rotation by another angle needs two": _reach(
            mirrors=_times_minus_one
        ),
        "lu asks for nothing but a determinant: a pivot may be 0 before the end": _reach(
            lu=lambda w: bool(torch.linalg.det(w).abs() > 1e-9)
        ),
        "lu asks for a diagonal without zeros: the second pivot is not the second entry": _reach(
            lu=lambda w: bool((w.diagonal().abs() > 1e-9).all())
        ),
    }

    def draw(rng):
        dims = 4
        identity = np.eye(dims)

        def rotation(k):
            q, _ = np.linalg.qr(rng.normal(size=(k, k)))
            return q if np.linalg.det(q) > 0 else q[[1, 0, *range(2, k)]]

        def turned(block):
            """A block of the plane, seen in random coordinates."""
            basis = rotation(dims)
            inner = identity.copy()
            inner[:2, :2] = block
            return basis @ inner @ basis.T

        angle = rng.uniform(0.5, 2.5)
        plane = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        swap = identity[[1, 0, 2, 3]]
        # Its first two rows and columns are singular, and its diagonal has no zero.
        h = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
        generic = rotation(dims)
        matrices = [
            generic,
            generic @ np.diag([1.0, 1, 1, -1]),
            turned(plane),
            turned(-np.eye(2)),
            np.diag([-1.0, -1, 1, 1]),
            swap,
            identity[[1, 0, 3, 2]],
            h,
            identity,
        ]
        order = rng.permutation(len(matrices))
        return {"matrices": np.stack(matrices)[order]}

    def probe(answer, matrices):
        import torch

        def part(name, kind):
            return lambda: torch.tensor([kind(answer(w.clone())[name]) for w in matrices])

        return {
            "lu": part("lu", bool),
            "exp": part("exp", bool),
            "cayley": part("cayley", bool),
            "mirrors": part("mirrors", int),
        }


# 7. Debug a layer


class Layer:
    """P L (U + diag(sign e^l)) for vectors, by factors."""

    def __init__(self, order, lower, upper, sign, log_scale):
        self.order, self.lower, self.upper = order, lower, upper
        self.sign, self.log_scale = sign, log_scale

    def factors(self):
        left = self.lower.tril(-1) + torch.eye(len(self.sign)).to(self.lower)
        return left, self.upper.triu(1) + torch.diag(self.sign * self.log_scale.exp())

    def log_det(self, x):
        return self.log_scale.sum().expand(len(x))

    def forward(self, x):
        left, right = self.factors()
        return (x @ right.T @ left.T)[:, self.order], self.log_det(x)

    def undo(self, z):
        return z[:, self.order.argsort()]

    def inverse(self, z):
        left, right = self.factors()
        half = solve_triangular(left, self.undo(z).T, upper=False)
        return solve_triangular(right, half, upper=True).T, -self.log_det(z)


class KeepsAllOfUpper(Layer):
    def factors(self):
        left, _ = super().factors()
        return left, self.upper + torch.diag(self.sign * self.log_scale.exp())


class LogOfSigned(Layer):
    def log_det(self, x):
        return (self.sign * self.log_scale).sum().expand(len(x))


class PermutesAgain(Layer):
    def undo(self, z):
        return z[:, self.order]


class UpperAndSign(KeepsAllOfUpper, LogOfSigned):
    pass


class UpperAndOrder(KeepsAllOfUpper, PermutesAgain):
    pass


class SignAndOrder(LogOfSigned, PermutesAgain):
    pass


class AsHandedOut(KeepsAllOfUpper, LogOfSigned, PermutesAgain):
    pass


class SwapsFactors(Layer):
    def forward(self, x):
        left, right = self.factors()
        return (x @ left.T @ right.T)[:, self.order], self.log_det(x)


@exercise(
    "linear.debug_layer",
    read=f"{CHAPTER}#linear-products",
    hint="three lines are wrong: compare z with the product of the three matrices, log_det with "
    "slogdet of that product, and send z back.",
)
class DebugLayer:
    reference = Layer
    parts = {"z": 1, "log_det": 2, "x": 1, "inverse_log_det": 1}
    mistakes = {
        "the layer still does what it did as handed out": AsHandedOut,
        "all of upper counts in one direction, and its triangle in the other": KeepsAllOfUpper,
        "log_det multiplies the log-scales by the signs: a volume has no sign": LogOfSigned,
        "the inverse permutes once more: what undoes an order?": PermutesAgain,
        "the permutation is undone; all of upper counts, and log_det has signs in it": UpperAndSign,
        "log_det is right; all of upper counts, and the inverse permutes once more": UpperAndOrder,
        "z is right; log_det has signs in it, and the inverse permutes once more": SignAndOrder,
        "now L comes before U: in P L U x the input meets U first": SwapsFactors,
    }

    def draw(rng):
        dims = int(rng.integers(4, 7))
        order = rng.permutation(dims)
        while (order[order] == np.arange(dims)).all():  # the order and its inverse must differ
            order = rng.permutation(dims)
        sign = rng.choice([-1.0, 1.0], size=dims)
        sign[:2] = 1, -1
        return {
            "order": order,
            "lower": 0.5 * rng.normal(size=(dims, dims)),
            "upper": 0.5 * rng.normal(size=(dims, dims)),
            "sign": sign,
            "log_scale": rng.uniform(0.2, 0.8, size=dims),
            "x": rng.normal(size=(5, dims)),
        }

    def probe(answer, order, lower, upper, sign, log_scale, x):
        layer = answer(order, lower.clone(), upper.clone(), sign.clone(), log_scale.clone())
        return {
            "z": lambda: layer.forward(x.clone())[0],
            "log_det": lambda: layer.forward(x.clone())[1],
            "x": lambda: layer.inverse(x.clone())[0],
            "inverse_log_det": lambda: layer.inverse(x.clone())[1],
        }
