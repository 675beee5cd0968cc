"""What the answers to the problem set on MAF must satisfy.

The mistakes are wrong on purpose. Their names are what a student reads.
"""

import math

import numpy as np
import torch
from torch import Tensor

from flowcourse.autoregressive_flows.maf import AffineTransformer, Autoregressive, MaskedConditioner
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
from flowcourse.coupling.glow import Permutation
from flowcourse.flow import Flow, StandardNormal

# Topics that an answer may import, besides the modules that all topics share.
MAY_USE = ("change_of_variables", "likelihood", "nice", "realnvp")

CHAPTER = "book/autoregressive_flows/maf.md"


def strictly_lower(rng, sizes: list[int]) -> np.ndarray:
    """A matrix whose row sees the columns of earlier blocks, each of them by a fair amount."""
    block = np.repeat(np.arange(len(sizes)), sizes)
    amount = rng.choice([-1, 1], size=(len(block), len(block))) * rng.uniform(
        0.5, 1.2, size=(len(block), len(block))
    )
    return np.where(block[:, None] > block[None, :], amount, 0.0)


# 1. One layer, in blocks


class Layer:
    """z = (x - mu) exp(-alpha), where mu and alpha of a block are functions of earlier blocks."""

    def __init__(self, net, sizes):
        self.net, self.sizes = net, sizes

    def passes(self, z):
        return len(self.sizes)

    def total(self, log_scale):
        return log_scale.sum(dim=1)

    def forward(self, x):
        shift, log_scale = self.net(x)
        return (x - shift) * torch.exp(-log_scale), -self.total(log_scale)

    def inverse(self, z):
        x, log_scale = torch.zeros_like(z), torch.zeros_like(z)
        for _ in range(self.passes(z)):
            shift, log_scale = self.net(x)
            x = z * torch.exp(log_scale) + shift
        return x, self.total(log_scale)


class OtherDirection(Layer):
    def __init__(self, net, sizes):
        super().__init__(lambda x: (net(x)[0], -net(x)[1]), sizes)


class SwappedLogDets(Layer):
    def total(self, log_scale):
        return -super().total(log_scale)


class MeanForSum(Layer):
    def total(self, log_scale):
        return log_scale.mean(dim=1)


class NotSummed(Layer):
    def total(self, log_scale):
        return log_scale


class ShiftsLast(Layer):
    def forward(self, x):
        shift, log_scale = self.net(x)
        return x * torch.exp(-log_scale) - shift, -self.total(log_scale)

    def inverse(self, z):
        x, log_scale = torch.zeros_like(z), torch.zeros_like(z)
        for _ in range(self.passes(z)):
            shift, log_scale = self.net(x)
            x = (z + shift) * torch.exp(log_scale)
        return x, self.total(log_scale)


class AsksTheLatent(Layer):
    def inverse(self, z):
        shift, log_scale = self.net(z)
        return z * torch.exp(log_scale) + shift, self.total(log_scale)


class OnePassTooFew(Layer):
    def passes(self, z):
        return len(self.sizes) - 1


class OnePassForEachDimension(Layer):
    def passes(self, z):
        return z.shape[1]


class AddsUpAllPasses(Layer):
    def inverse(self, z):
        x, log_det = torch.zeros_like(z), 0
        for _ in self.sizes:
            shift, log_scale = self.net(x)
            x, log_det = z * torch.exp(log_scale) + shift, log_det + self.total(log_scale)
        return x, log_det


@exercise(
    "maf.layer",
    read=f"{CHAPTER}#maf-inverse",
    hint="start the inverse anywhere; which block is right after the first pass, and which after "
    "the second?",
)
class OneLayer:
    reference = Layer
    parts = {"z": 1, "log_det": 1, "x": 1, "inverse_log_det": 1, "passes_too_many": 1}
    compare = {"passes_too_many": equal}
    mistakes = {
        "forward multiplies by exp(alpha): forward maps data to noise, and e^alpha is the standard "
        "deviation of the data": OtherDirection,
        "your log_dets are the negatives of the expected ones: which direction is each for?": (
            SwappedLogDets
        ),
        "the log_det is the mean over the dimensions: the determinant is a product": MeanForSum,
        "the log_det has a number for each dimension: one for each example is asked for": NotSummed,
        "the shift is taken off after the division: then mu is no mean of x": ShiftsLast,
        "the inverse asks the network about z: mu and alpha are functions of x, also on the way "
        "back": AsksTheLatent,
        "the last block is still wrong: how many passes do K blocks need?": OnePassTooFew,
        "there is one pass for each dimension: a pass finds a whole block": OnePassForEachDimension,
        "the inverse's log_det adds up all passes: only the parameters at the solution count": (
            AddsUpAllPasses
        ),
    }

    def draw(rng):
        sizes = [int(n) for n in rng.permutation([1, 2, 3])] + [int(rng.integers(1, 3))]
        dims = sum(sizes)
        return {
            "sizes": sizes,
            "A": strictly_lower(rng, sizes),
            "scale": rng.uniform(0.4, 0.9, size=(2, dims)),
            "bias": rng.uniform(0.2, 0.5, size=(2, dims)),
            "x": rng.normal(size=(5, dims)),
        }

    def probe(answer, sizes, A, scale, bias, x):
        calls = []

        def net(x):
            calls.append(len(x))
            h = (x @ A.T).tanh()
            return scale[0] * h + bias[0], scale[1] * h + bias[1]

        layer = answer(net, list(sizes))

        def passes_too_many():
            calls.clear()
            layer.inverse(x.clone())
            return max(0, len(calls) - len(sizes))

        return {
            "z": lambda: layer.forward(x.clone())[0],
            "log_det": lambda: layer.forward(x.clone())[1],
            "x": lambda: layer.inverse(x.clone())[0],
            "inverse_log_det": lambda: layer.inverse(x.clone())[1],
            "passes_too_many": passes_too_many,
        }


# 2. A stack of layers


class Stack:
    """Layers with the order of the dimensions reversed between them, and a normal base."""

    def __init__(self, layers):
        self.layers = list(layers)

    def between(self, x):
        return x.flip(1)

    def between_inverse(self, z):
        return self.between(z)

    def forward(self, x):
        log_det = torch.zeros_like(x[:, 0])
        for k, layer in enumerate(self.layers):
            x = self.between(x) if k else x
            x, term = layer.forward(x)
            log_det = log_det + term
        return x, log_det

    def inverse(self, z):
        log_det = torch.zeros_like(z[:, 0])
        for k, layer in reversed(list(enumerate(self.layers))):
            z, term = layer.inverse(z)
            z = self.between_inverse(z) if k else z
            log_det = log_det + term
        return z, log_det

    def log_prob(self, x):
        z, log_det = self.forward(x)
        return -0.5 * (z**2 + math.log(2 * math.pi)).sum(dim=1) + log_det


class NeverReverses(Stack):
    def between(self, x):
        return x


class ReversesTheBatch(Stack):
    def between(self, x):
        return x.flip(0)


class ReversesAfterTheLast(Stack):
    def forward(self, x):
        z, log_det = super().forward(x)
        return z.flip(1), log_det

    def inverse(self, z):
        return super().inverse(z.flip(1))


class ForgetsToReverseBack(Stack):
    def between_inverse(self, z):
        return z


class InverseFromTheFirst(Stack):
    def inverse(self, z):
        log_det = torch.zeros_like(z[:, 0])
        for k, layer in enumerate(self.layers):
            z = self.between(z) if k else z
            z, term = layer.inverse(z)
            log_det = log_det + term
        return z, log_det


class LastLogDet(Stack):
    def forward(self, x):
        for k, layer in enumerate(self.layers):
            x = self.between(x) if k else x
            x, log_det = layer.forward(x)
        return x, log_det

    def inverse(self, z):
        for k, layer in reversed(list(enumerate(self.layers))):
            z, log_det = layer.inverse(z)
            z = self.between_inverse(z) if k else z
        return z, log_det


class SubtractsItsLogDet(Stack):
    def log_prob(self, x):
        z, log_det = self.forward(x)
        return -0.5 * (z**2 + math.log(2 * math.pi)).sum(dim=1) - log_det


class WithoutTheConstant(Stack):
    def log_prob(self, x):
        z, log_det = self.forward(x)
        return -0.5 * (z**2).sum(dim=1) + log_det


class OneConstant(Stack):
    def log_prob(self, x):
        z, log_det = self.forward(x)
        return -0.5 * (z**2).sum(dim=1) - 0.5 * math.log(2 * math.pi) + log_det


@exercise(
    "maf.stack",
    read=f"{CHAPTER}#maf-stack",
    hint="write forward as a chain of maps; the inverse is the chain of their inverses from the "
    "last to the first, reversals included.",
)
class StackedLayers:
    reference = Stack
    parts = {"z": 1, "log_det": 1, "x": 1, "inverse_log_det": 1, "log_prob": 1}
    mistakes = {
        "the order is never reversed: then the first dimension never sees another one": (
            NeverReverses
        ),
        "the batch is reversed, not the dimensions: which axis is which?": ReversesTheBatch,
        "the order is reversed after the last layer, too: it is asked for between layers": (
            ReversesAfterTheLast
        ),
        "the inverse does not undo the reversals": ForgetsToReverseBack,
        "the inverse goes from the first layer to the last: which map was applied last?": (
            InverseFromTheFirst
        ),
        "the log_det is that of one layer: what is the determinant of a product?": LastLogDet,
        "log_prob subtracts the log_det: forward is the direction from data to noise": (
            SubtractsItsLogDet
        ),
        "log_prob lacks the constant of the normal density": WithoutTheConstant,
        "log_prob has the constant of one normal density: there are D of them": OneConstant,
    }

    def draw(rng):
        dims = int(rng.integers(3, 6))
        return {
            "A": np.stack([strictly_lower(rng, [1] * dims) for _ in range(3)]),
            "s": rng.uniform(0.2, 0.6, size=(3, dims)),
            "x": rng.normal(size=(int(rng.integers(4, 8)), dims)),
        }

    def probe(answer, A, s, x):
        import torch

        class Given:
            """A layer that is triangular, with a scale that depends on what came before."""

            def __init__(self, A, s):
                self.A, self.s = A, s

            def parameters(self, x):
                h = (x @ self.A.T).tanh()
                return h, self.s + 0.3 * h

            def forward(self, x):
                shift, log_scale = self.parameters(x)
                return (x - shift) * (-log_scale).exp(), -log_scale.sum(dim=1)

            def inverse(self, z):
                x = torch.zeros_like(z)
                for _ in range(z.shape[1]):
                    shift, log_scale = self.parameters(x)
                    x = z * log_scale.exp() + shift
                return x, log_scale.sum(dim=1)

        flow = answer([Given(*pair) for pair in zip(A, s, strict=True)])
        return {
            "z": lambda: flow.forward(x.clone())[0],
            "log_det": lambda: flow.forward(x.clone())[1],
            "x": lambda: flow.inverse(x.clone())[0],
            "inverse_log_det": lambda: flow.inverse(x.clone())[1],
            "log_prob": lambda: flow.log_prob(x.clone()),
        }


# 3. A Gaussian as a linear layer


def linear_layer(mean, covariance):
    """A, b and alpha of x = A x + b + exp(alpha) z, with A strictly lower triangular."""
    factor = torch.linalg.cholesky(covariance)
    scale = factor.diagonal()
    identity = torch.eye(len(mean)).to(mean)
    A = identity - scale[:, None] * torch.linalg.inv(factor)
    return A, mean - A @ mean, scale.log()


def factor_itself(mean, covariance):
    factor = torch.linalg.cholesky(covariance)
    A = factor.tril(-1)
    return A, mean - A @ mean, factor.diagonal().log()


def factor_over_its_diagonal(mean, covariance):
    factor = torch.linalg.cholesky(covariance)
    A = (factor / factor.diagonal()).tril(-1)
    return A, mean - A @ mean, factor.diagonal().log()


def wrong_sign(mean, covariance):
    A, _, alpha = linear_layer(mean, covariance)
    return -A, mean + A @ mean, alpha


def mean_for_intercept(mean, covariance):
    A, _, alpha = linear_layer(mean, covariance)
    return A, mean, alpha


def log_variance(mean, covariance):
    A, b, alpha = linear_layer(mean, covariance)
    return A, b, 2 * alpha


def marginal_deviation(mean, covariance):
    A, b, _ = linear_layer(mean, covariance)
    return A, b, covariance.diagonal().sqrt().log()


def not_the_logarithm(mean, covariance):
    A, b, alpha = linear_layer(mean, covariance)
    return A, b, alpha.exp()


def later_dimensions_first(mean, covariance):
    A, b, alpha = linear_layer(mean.flip(0), covariance.flip(0, 1))
    return A.flip(0, 1), b.flip(0), alpha.flip(0)


@exercise(
    "maf.gaussian",
    read=f"{CHAPTER}#maf-one-layer",
    hint="x = m + L z with the Cholesky factor L of the covariance; multiply by the inverse of L, "
    "then divide row d by its diagonal entry.",
)
class GaussianAsLayer:
    reference = staticmethod(linear_layer)
    parts = {"A": 2, "b": 1, "alpha": 1}
    mistakes = {
        "A is the lower part of the Cholesky factor: that says how x depends on earlier z, and A "
        "how it depends on earlier x": factor_itself,
        "A is the Cholesky factor over its diagonal: you divided, but did not invert": (
            factor_over_its_diagonal
        ),
        "A has the wrong sign: on which side of the equation does it stand?": wrong_sign,
        "b is the mean: what is the mean of A x + b?": mean_for_intercept,
        "alpha is the logarithm of a variance: z is multiplied by e^alpha": log_variance,
        "alpha belongs to the marginal of x_d: it is the deviation of x_d given the earlier ones": (
            marginal_deviation
        ),
        "alpha is the standard deviation, not its logarithm": not_the_logarithm,
        "A is upper triangular: every dimension looks at the later ones": later_dimensions_first,
    }

    def draw(rng):
        dims = int(rng.integers(3, 6))
        spread = np.diag(rng.uniform(1.5, 3, size=dims)) + strictly_lower(rng, [1] * dims)
        mean = rng.choice([-1, 1], size=dims) * rng.uniform(1, 2, size=dims)
        return {"mean": mean, "covariance": spread @ spread.T}

    def probe(answer, mean, covariance):
        def found(index):
            return lambda: answer(mean.clone(), covariance.clone())[index]

        return {"A": found(0), "b": found(1), "alpha": found(2)}


# 4. Predict the number of passes

# The smallest number of passes after which x is right, and how many dimensions are after one pass.
PASSES = {
    "A": (6, 1),
    "B": (3, 2),
    "C": (2, 3),
    "D": (1, 6),
    "E": (4, 1),
    "F": (2, 3),
    "G": (5, 2),
}


@exercise(
    "maf.predict_passes",
    read=f"{CHAPTER}#maf-inverse",
    hint="draw an arrow from j to d where x_d depends on x_j; a pass makes right what depends only "
    "on what is right already.",
)
class PredictPasses:
    reference = PASSES
    parts = {"needed": 3, "after_one": 2}
    compare = {"needed": equal, "after_one": equal}
    mistakes = {
        "every layer is given D passes: D are always enough, and the fewest are asked for": {
            name: (6, right) for name, (_, right) in PASSES.items()
        },
        "you count one pass less: the first block has parameters too, and a pass finds it": {
            name: (needed - 1, right) for name, (needed, right) in PASSES.items()
        },
        "in E, F and G you count all arrows: only the longest chain of them matters, and one pass "
        "for what it starts from": PASSES | {"E": (5, 1), "F": (3, 3), "G": (4, 2)},
        "in G two dimensions depend on nothing, and the first pass finds both": (
            PASSES | {"G": (5, 1)}
        ),
        "after one pass you count what is still wrong: asked is what is right": {
            name: (needed, 6 - right) for name, (needed, right) in PASSES.items()
        },
        "you take the blocks' size for their number": (
            PASSES | {"A": (1, 1), "B": (2, 2), "C": (3, 3), "D": (6, 6)}
        ),
    }

    def draw(rng):
        return {"seed": int(rng.integers(2**31))}

    def probe(answer, seed):
        """The prediction minus what passes with fresh weights do: all zeros if right."""
        import torch

        arrows = {
            "A": {(d, j) for d in range(6) for j in range(d)},
            "B": {(d, j) for d in range(6) for j in range(6) if d // 2 > j // 2},
            "C": {(d, j) for d in range(6) for j in range(6) if d // 3 > j // 3},
            "D": set(),
            "E": {(1, 0), (2, 0), (3, 1), (4, 2), (5, 3)},
            "F": {(1, 0), (3, 2), (5, 4)},
            "G": {(1, 0), (3, 1), (4, 3), (5, 4)},
        }
        generator = torch.Generator().manual_seed(seed)

        def measured(which):
            weight = torch.zeros(6, 6, dtype=torch.float64)
            for d, j in arrows[which]:
                sign = 2 * int(torch.randint(2, (), generator=generator)) - 1
                weight[d, j] = sign * (0.5 + torch.rand((), generator=generator))
            x = torch.randn(6, generator=generator, dtype=torch.float64)
            z = (x - weight @ x) * torch.exp(-0.3 * torch.tanh(weight @ x))
            found = torch.randn(6, generator=generator, dtype=torch.float64)
            right = []
            while not right or right[-1] < 6:
                h = weight @ found
                found = z * torch.exp(0.3 * torch.tanh(h)) + h
                right.append(int(((found - x).abs() < 1e-9).sum()))
            return len(right), right[0]

        truth = {which: measured(which) for which in sorted(arrows)}

        def off_by(index):
            return lambda: [int(answer[w][index]) - truth[w][index] for w in sorted(truth)]

        return {"needed": off_by(0), "after_one": off_by(1)}


# 5. The incremental inverse


class Incremental:
    """One hidden layer with sorted units; each is computed when all it sees is known."""

    def hidden(self, d, x, h, W, b, ends, g):
        start = ends[d - 1] if d else 0
        new = slice(start, ends[d])
        return torch.cat([h[:, :start], g(x[:, :d] @ W[new, :d].T + b[new])], dim=1)

    def seen(self, d, ends):
        return ends[d]

    def move(self, z, shift, log_scale):
        return z * torch.exp(log_scale) + shift

    def split(self, dims):
        return 0, dims

    def log_det(self, log_scales):
        return torch.stack(log_scales, dim=1).sum(dim=1)

    def __call__(self, z, W, b, V, c, ends, g):
        dims = z.shape[1]
        x, h, log_scales = torch.zeros_like(z), z[:, :0], []
        first, second = self.split(dims)
        for d in range(dims):
            h = self.hidden(d, x, h, W, b, ends, g)
            seen = self.seen(d, ends)
            shift, log_scale = (
                h[:, :seen] @ V[row, :seen] + c[row] for row in (first + d, second + d)
            )
            x = torch.cat(
                [x[:, :d], self.move(z[:, d], shift, log_scale)[:, None], x[:, d + 1 :]], 1
            )
            log_scales.append(log_scale)
        return x, self.log_det(log_scales)


class EveryUnitAtEveryStep(Incremental):
    def hidden(self, d, x, h, W, b, ends, g):
        degree = torch.tensor([next(m for m, e in enumerate(ends) if i < e) for i in range(len(b))])
        keep = (degree[:, None] > torch.arange(x.shape[1])[None, :]).to(W)
        return g(x @ (W * keep).T + b)


class AllKnownUnitsAtEveryStep(Incremental):
    def hidden(self, d, x, h, W, b, ends, g):
        degree = torch.tensor([next(m for m, e in enumerate(ends) if i < e) for i in range(len(b))])
        keep = (degree[:, None] > torch.arange(x.shape[1])[None, :]).to(W)
        return g(x @ (W * keep)[: ends[d]].T + b[: ends[d]])


class UnitsOnceAtTheStart(Incremental):
    def hidden(self, d, x, h, W, b, ends, g):
        return g(x @ W.T + b) if d == 0 else h


class OneDegreeTooFew(Incremental):
    def seen(self, d, ends):
        return ends[d - 1] if d else 0


class NoMasks(Incremental):
    def hidden(self, d, x, h, W, b, ends, g):
        return g(x @ W.T + b)

    def seen(self, d, ends):
        return ends[-1]


class NewUnitsSeeOnlyTheNewest(Incremental):
    def hidden(self, d, x, h, W, b, ends, g):
        start = ends[d - 1] if d else 0
        new, last = slice(start, ends[d]), slice(max(d - 1, 0), d)
        return torch.cat([h[:, :start], g(x[:, last] @ W[new, last].T + b[new])], dim=1)


class ForwardFormula(Incremental):
    def move(self, z, shift, log_scale):
        return (z - shift) * torch.exp(-log_scale)


class NegativeLogDet(Incremental):
    def log_det(self, log_scales):
        return -super().log_det(log_scales)


class ScalesFirst(Incremental):
    def split(self, dims):
        return dims, 0


@exercise(
    "maf.incremental",
    read=f"{CHAPTER}#maf-incremental",
    hint="when x_0, ..., x_{d-1} are known, which rows of W belong to units that nobody has "
    "computed yet, and which columns do they see?",
)
class IncrementalInverse:
    reference = Incremental()
    parts = {"x": 2, "log_det": 1, "units": 2}
    compare = {"units": equal}
    mistakes = {
        "every unit is computed at every step: all that changes is what became known in between": (
            EveryUnitAtEveryStep()
        ),
        "units that were computed before are computed again: they are final": (
            AllKnownUnitsAtEveryStep()
        ),
        "all units are computed at the start, when nothing is known": UnitsOnceAtTheStart(),
        "the output of a dimension does not see the units of its own degree: they know only what "
        "comes before it": OneDegreeTooFew(),
        "the weights are used as they are: the entries beyond a unit's degree are no part of the "
        "network": NoMasks(),
        "a new unit sees only the newest dimension: its row has a column for each one before": (
            NewUnitsSeeOnlyTheNewest()
        ),
        "x is computed by the formula for z: solve it for x": ForwardFormula(),
        "the log_det is the negative of the expected one: it is asked for the inverse": (
            NegativeLogDet()
        ),
        "shift and log-scale are exchanged: the shifts come first in V": ScalesFirst(),
    }

    def draw(rng):
        dims = int(rng.integers(4, 7))
        counts = rng.integers(2, 4, size=dims)
        counts[0] = int(rng.integers(0, 2)) * 2  # units that see nothing
        units = int(counts.sum())
        return {
            "z": rng.normal(size=(5, dims)),
            "W": rng.normal(size=(units, dims)),
            "b": rng.normal(size=units),
            "V": 0.4 * rng.normal(size=(2 * dims, units)),
            "c": rng.uniform(0.2, 0.5, size=2 * dims),
            "ends": [int(n) for n in np.cumsum(counts)],
        }

    def probe(answer, z, W, b, V, c, ends):
        computed = []

        def g(h):
            computed.append(h.numel())
            return h.tanh()

        def run(index):
            return lambda: answer(
                z.clone(), W.clone(), b.clone(), V.clone(), c.clone(), list(ends), g
            )[index]

        def units():
            computed.clear()
            run(0)()
            return sum(computed) / len(z)

        return {"x": run(0), "log_det": run(1), "units": units}


# 6. Debug


class Whole:
    """Layers, each followed by batch normalization with stored statistics, orders reversed."""

    def __init__(self, nets, means, variances, epsilon):
        self.nets, self.means = nets, means
        self.variances = [v + epsilon for v in variances]

    def normalize(self, k, x):
        return (x - self.means[k]) / self.variances[k].sqrt()

    def of_norm(self, k):
        return -0.5 * self.variances[k].log().sum()

    def invert(self, net, z):
        x = torch.zeros_like(z)
        for _ in range(z.shape[1]):
            shift, log_scale = net(x)
            x = z * log_scale.exp() + shift
        return x

    def between(self, x):
        return x.flip(1)

    def forward(self, x):
        log_det = torch.zeros_like(x[:, 0])
        for k, net in enumerate(self.nets):
            x = self.between(x) if k else x
            shift, log_scale = net(x)
            x = self.normalize(k, (x - shift) * (-log_scale).exp())
            log_det = log_det - log_scale.sum(dim=1) + self.of_norm(k)
        return x, log_det

    def inverse(self, z):
        for k in reversed(range(len(self.nets))):
            z = self.invert(self.nets[k], z * self.variances[k].sqrt() + self.means[k])
            z = self.between(z) if k else z
        return z

    def log_prob(self, x):
        z, log_det = self.forward(x)
        return -0.5 * (z**2 + math.log(2 * math.pi)).sum(dim=1) + log_det


class BatchStatistics(Whole):
    def normalize(self, k, x):
        return (x - x.mean(dim=0)) / x.var(dim=0).sqrt()


class NormWithWrongSign(Whole):
    def of_norm(self, k):
        return -super().of_norm(k)


class DeviationForVariance(Whole):
    def of_norm(self, k):
        return 2 * super().of_norm(k)


class StopsBeforeTheLast(Whole):
    def invert(self, net, z):
        x = torch.zeros_like(z)
        for _ in range(z.shape[1] - 1):
            shift, log_scale = net(x)
            x = z * log_scale.exp() + shift
        return x


class LeavesTheNormIn(Whole):
    def inverse(self, z):
        for k in reversed(range(len(self.nets))):
            z = self.invert(self.nets[k], z) * self.variances[k].sqrt() + self.means[k]
            z = self.between(z) if k else z
        return z


class AsHandedOut(BatchStatistics, NormWithWrongSign, StopsBeforeTheLast, LeavesTheNormIn):
    pass


@exercise(
    "maf.debug",
    read=f"{CHAPTER}#maf-batch-norm",
    hint="score one example alone and in its batch; compare the log_det with automatic "
    "differentiation; send x forward and back.",
)
class Debug:
    reference = Whole
    parts = {"z": 1, "log_det": 1, "x": 1, "log_prob": 1}
    mistakes = {
        "the model still does what it did as handed out": AsHandedOut,
        "the normalization looks at the batch: a density of one example may not depend on others": (
            BatchStatistics
        ),
        "the normalization's log_det has the wrong sign: it divides by the deviation": (
            NormWithWrongSign
        ),
        "the normalization's log_det counts variances: a deviation is their square root": (
            DeviationForVariance
        ),
        "the inverse of a layer stops one pass early": StopsBeforeTheLast,
        "the inverse undoes the layer first and then its normalization: which came last?": (
            LeavesTheNormIn
        ),
    }

    def draw(rng):
        dims = int(rng.integers(3, 5))
        return {
            "A": np.stack([strictly_lower(rng, [1] * dims) for _ in range(3)]),
            "means": rng.normal(size=(3, dims)),
            "variances": rng.uniform(1.5, 3, size=(3, dims)),
            "x": rng.normal(size=(6, dims)),
        }

    def probe(answer, A, means, variances, x):
        def masked(matrix):
            return lambda x: ((x @ matrix.T).tanh(), 0.3 * (x @ matrix.T).tanh() + 0.2)

        def model():
            return answer([masked(a) for a in A], list(means), list(variances), 1e-5)

        return {
            "z": lambda: model().forward(x.clone())[0],
            "log_det": lambda: model().forward(x.clone())[1],
            "x": lambda: model().inverse(x.clone()),
            "log_prob": lambda: model().log_prob(x.clone()),
        }


# 7. Train on an arrowhead whose second coordinate was drawn first

# Nats above the entropy: the reference reaches 0.05, one layer 0.35.
LIMIT = 0.15
NOISE = 0.7
AXES = [torch.linspace(-11, 11, 221, dtype=torch.float64)] * 2


def train(
    data: Tensor,
    steps: int = 300,
    *,
    layers: int = 3,
    reverse: bool = True,
    flow_type: type[Flow] = Fitted,
    sign: int = -1,
) -> Flow:
    chain: list = []
    for layer in range(layers):
        if layer and reverse:
            chain.append(Permutation(torch.arange(2).flip(0)))
        net = MaskedConditioner(2, 2, [32, 32], activation=torch.tanh)
        chain.append(Autoregressive(net, AffineTransformer()))
    flow = flow_type(Compose(*chain), StandardNormal(2)).double()
    return improved(flow, data, steps, sign)


def fit_by(**options):
    return trained_once(train, **options)


@exercise(
    "maf.train",
    read=f"{CHAPTER}#maf-stack",
    hint="three or four layers with the order reversed between them, networks of 32 tanh units, "
    "and 300 steps of Adam with rate 0.01.",
)
class TrainMaf:
    reference = staticmethod(fit_by())
    parts = {"above_entropy": 3, "mass": 1}
    compare = {"above_entropy": at_most(LIMIT, "nats"), "mass": close(0.05)}
    mistakes = {
        "one layer in the order x_0, x_1 is not enough: given x_0, how many peaks has x_1?": (
            fit_by(layers=1)
        ),
        "several layers without a reversal are no better than one: what happens to x_0?": (
            fit_by(reverse=False, steps=150)
        ),
        "training stopped before it had begun": fit_by(steps=2),
        "the likelihood falls: the loss is its negative": fit_by(steps=8, sign=1),
        "the log-determinant is subtracted, and the mass is far from 1": fit_by(
            steps=20, flow_type=SubtractsTheLogDet
        ),
        "log_prob is averaged over the coordinates, and its mass is not 1": fit_by(
            steps=60, flow_type=AveragedCoordinates
        ),
    }

    def draw(rng):
        side = float(rng.choice([-1, 1]))

        def arrowhead(n):
            second = 2 * rng.normal(size=n)
            first = side * (np.abs(second) - 1.5) + NOISE * rng.normal(size=n)
            return np.stack([first, second], axis=1)

        return {"data": arrowhead(3000), "test": arrowhead(3000)}

    def probe(answer, data):
        import torch

        flow = answer(data.clone())
        axis = torch.linspace(-11, 11, 221, dtype=torch.float64)
        points = torch.cartesian_prod(axis, axis)

        def log_p():
            with torch.no_grad():
                return flow.log_prob(points.to(data)).double()

        return {"log_p": log_p}

    def measure(evidence, test):
        entropy = 1 + math.log(2 * math.pi) + math.log(2 * NOISE)

        def above_entropy():
            # One stray point must not decide: none counts for more than 20 nats.
            nats = -at_points(evidence["log_p"], AXES, test)
            return nats.clamp(max=20).mean() - entropy

        return {"above_entropy": above_entropy, "mass": lambda: mass(evidence["log_p"], AXES)}
