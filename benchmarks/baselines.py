r"""What a flow has to beat on digits: models that fit in seconds, from uniform noise to a softmax.

    python -m benchmarks.baselines          write book/results/baselines.json, under a minute

Two kinds of model, in the book's vocabulary:

- *exact*: `Autoregressive` and its subclasses, each a table or a linear map of conditional
  probabilities $P(x_i \mid x_{<i})$, whose product is $P(x)$;
- *bound*: flows of one to three maps from this package, seen through uniform dequantization.

All see an image as a vector in raster order. Constants such as the strength of a penalty were
chosen by training on the first 1,200 images and validating on the next 300; the models are then
fitted to all 1,500.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Normal, constraints

from flowcourse import data
from flowcourse.autoregressive_flows.linear import whitening
from flowcourse.bijector import Compose
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.change_of_variables import Affine, Elementwise, Quantile
from flowcourse.foundations.likelihood import DequantizedFlow, bits_per_dim
from flowcourse.results import write_records
from flowcourse.training import evaluate
from flowcourse.training.runs import versions

__all__ = [
    "BASELINES",
    "Autoregressive",
    "LinearSoftmax",
    "PixelCopula",
    "fit_copula_flow",
    "fit_diagonal_gaussian",
    "fit_full_gaussian",
    "fit_linear_softmax",
    "fit_neighbour",
    "fit_pixel_histogram",
    "fit_uniform",
    "measure",
]

Images = Int[Tensor, "batch dims"]


class Autoregressive(nn.Module):
    r"""An exact model of integers: $\log P(x) = \sum_i \log P(x_i \mid x_{<i})$.

    This base class looks the conditionals up: `table[i, v, w]` is $\log P(x_i = w)$ given that
    pixel `parent[i]` has level `v`. Where `parent[i]` is -1 the row `v` plays no role.

    Args:
        table: log-probabilities, shape `(dims, levels, levels)`.
        parent: for each pixel an earlier one, or -1 for none.
    """

    kind = "exact"
    table: Tensor
    parent: Tensor

    def __init__(self, table: Float[Tensor, "dims levels levels"], parent: Int[Tensor, " dims"]):
        super().__init__()
        self.register_buffer("table", table)
        self.register_buffer("parent", parent)
        self.dims, self.levels = table.shape[0], table.shape[-1]

    def log_conditionals(self, x: Images) -> Float[Tensor, "batch dims levels"]:
        """Log-probability of every level of every pixel, given the pixels before it."""
        given = torch.where(self.parent < 0, 0, x[:, self.parent.clamp(min=0)])
        return self.table[torch.arange(self.dims, device=x.device), given]

    def log_prob(self, x: Images, draws: int = 1) -> Float[Tensor, " batch"]:
        """Exact log-probability in nats; nothing is drawn, so `draws` plays no role."""
        index = x.long().unsqueeze(-1)
        return self.log_conditionals(x.long()).gather(2, index).squeeze(-1).sum(dim=1)

    def bits_per_dim(self, x: Images, draws: int = 1) -> Float[Tensor, " batch"]:
        """Exact -log2 P(x) / D for each example."""
        return bits_per_dim(-self.log_prob(x), self.dims)

    @torch.no_grad()
    def sample(self, n: int) -> Int[Tensor, "n dims"]:
        """Draw pixel after pixel, each given those before it."""
        x = torch.zeros(n, self.dims, dtype=torch.int64, device=self.parent.device)
        for i in range(self.dims):
            x[:, i] = torch.multinomial(self.log_conditionals(x)[:, i].exp(), 1).squeeze(1)
        return x


class LinearSoftmax(Autoregressive):
    """Each pixel's levels by multinomial logistic regression on the pixels before it."""

    def __init__(self, dims: int, levels: int):
        nn.Module.__init__(self)
        self.dims, self.levels = dims, levels
        self.weight = nn.Parameter(torch.zeros(dims, levels, dims))
        self.bias = nn.Parameter(torch.zeros(dims, levels))
        self.register_buffer("parent", torch.arange(dims))  # tells `sample` the device

    @property
    def active_weight(self) -> Float[Tensor, "dims levels dims"]:
        """The weights, with those that would look at a pixel itself or ahead set to zero."""
        return self.weight * torch.ones_like(self.weight[:, 0]).tril(-1).unsqueeze(1)

    def log_conditionals(self, x):
        features = x.to(self.weight.dtype) / (self.levels - 1)
        logits = F.linear(features, self.active_weight.flatten(0, 1), self.bias.flatten())
        return logits.unflatten(1, (self.dims, self.levels)).log_softmax(dim=-1)


class PixelCopula(Elementwise):
    r"""$z_i = F_i(x_i)$ with the piecewise linear CDF of pixel $i$, from $[0, L)$ to $(0, 1)$.

    Between two integers the CDF rises by the probability of the lower one, so that its slope there
    is that probability: followed by a uniform base, this flow is the per-pixel histogram.

    Args:
        probabilities: of each level, for each pixel, all positive; shape `(dims, levels)`.
    """

    codomain = constraints.unit_interval
    cumulative: Tensor

    def __init__(self, probabilities: Float[Tensor, "dims levels"]):
        super().__init__()
        cumulative = F.pad(probabilities.cumsum(dim=1), (1, 0))
        self.register_buffer("cumulative", cumulative / cumulative[:, -1:])
        self.domain = constraints.interval(0.0, float(probabilities.shape[1]))

    def transform(self, x):
        level, low, mass = self._segment(x.floor())
        return low + mass * (x - level)

    def invert(self, z):
        level = torch.searchsorted(self.cumulative, z.T.contiguous(), right=True).T - 1
        level, low, mass = self._segment(level.to(z.dtype))
        return level + (z - low) / mass

    def log_slope(self, x):
        return self._segment(x.floor())[2].log()

    def _segment(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The level clamped to the range, the CDF at its left end, and its probability."""
        level = level.clamp(0, self.cumulative.shape[1] - 2)
        index = level.long().T
        low = self.cumulative.gather(1, index).T
        return level, low, self.cumulative.gather(1, index + 1).T - low


def counts(x: Images, levels: int) -> Float[Tensor, "dims levels"]:
    """How often each pixel takes each level."""
    return F.one_hot(x.long(), levels).sum(dim=0).double()


def fit_uniform(train: Images, levels: int) -> Autoregressive:
    """Every level equally probable, whatever the data: log2(levels) bits per dimension."""
    table = torch.full((train.shape[1], levels, levels), -math.log(levels), dtype=torch.float64)
    return Autoregressive(table, torch.full((train.shape[1],), -1))


def fit_pixel_histogram(train: Images, levels: int, alpha: float = 1.0) -> Autoregressive:
    """Independent pixels; `alpha` is added to each count (Laplace smoothing)."""
    smooth = counts(train, levels) + alpha
    table = (smooth / smooth.sum(dim=1, keepdim=True)).log()
    none = torch.full((train.shape[1],), -1)
    return Autoregressive(table.unsqueeze(1).expand(-1, levels, -1).contiguous(), none)


def fit_neighbour(
    train: Images, levels: int, which: str, width: int = 8, strength: float = 30.0
) -> Autoregressive:
    """Each pixel given its left or its upper neighbour; at that border, given the other one.

    A row of the table is the histogram of the examples with that neighbour, to which `strength`
    further examples are added that follow the pixel's own histogram.
    """
    dims = train.shape[1]
    row, column = torch.arange(dims) // width, torch.arange(dims) % width
    left = torch.where(column > 0, torch.arange(dims) - 1, -1)
    upper = torch.where(row > 0, torch.arange(dims) - width, -1)
    first, second = (left, upper) if which == "left" else (upper, left)
    parent = torch.where(first >= 0, first, second)

    prior = fit_pixel_histogram(train, levels).table.exp()
    given = F.one_hot(train[:, parent.clamp(min=0)].long(), levels).double()
    joint = torch.einsum("ndv,ndw->dvw", given, F.one_hot(train.long(), levels).double())
    joint = torch.where((parent >= 0).reshape(-1, 1, 1), joint, 0.0) + strength * prior
    return Autoregressive((joint / joint.sum(dim=2, keepdim=True)).log(), parent)


def fit_linear_softmax(
    train: Images, levels: int, penalty: float = 1.0, iterations: int = 100
) -> LinearSoftmax:
    """Maximum likelihood with a penalty of `penalty / 2` times the squared weights: convex."""
    model = LinearSoftmax(train.shape[1], levels)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=iterations, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = -model.log_prob(train).sum() + penalty / 2 * model.active_weight.square().sum()
        (total / len(train)).backward()
        return total / len(train)

    optimizer.step(loss)  # type: ignore[arg-type]
    return model.eval()


def fit_diagonal_gaussian(train: Images, levels: int) -> DequantizedFlow:
    """Independent normal pixels; noise of variance 1/12 is part of the data."""
    mean = train.double().mean(dim=0) + 0.5
    sd = (train.double().var(dim=0, correction=0) + 1 / 12).sqrt()
    return _dequantized(Affine(shift=-mean / sd, scale=1 / sd), levels=levels, dims=len(mean))


def fit_full_gaussian(train: Images, levels: int) -> DequantizedFlow:
    """One normal density over all pixels: the best linear flow."""
    mean = train.double().mean(dim=0) + 0.5
    noise = torch.eye(len(mean), dtype=torch.float64) / 12
    covariance = train.T.double().cov(correction=0) + noise
    return _dequantized(whitening(mean, covariance), levels=levels, dims=len(mean))


def fit_copula_flow(
    train: Images, levels: int, alpha: float = 0.5, shrinkage: float = 0.05, draws: int = 8
) -> DequantizedFlow:
    r"""A Gaussian copula: pixel CDF, then normal quantile, then one normal over all pixels.

    Args:
        train: integers, `(n, dims)`.
        levels: number of levels.
        alpha: added to each count of a pixel's histogram.
        shrinkage: how much of the identity is mixed into the covariance of the latents.
        draws: how many noisy copies of the data the covariance is estimated from.
    """
    smooth = counts(train, levels) + alpha
    copula = PixelCopula(smooth / smooth.sum(dim=1, keepdim=True))
    probit = Quantile(Normal, loc=0.0, scale=1.0).double()
    copies = train.double().repeat(draws, 1)
    z = Compose(copula, probit)(copies + torch.rand_like(copies))[0]
    independent = torch.eye(z.shape[1]).to(z)
    covariance = (1 - shrinkage) * z.T.cov(correction=0) + shrinkage * independent
    linear = whitening(z.mean(dim=0), covariance)
    return _dequantized(copula, probit, linear, levels=levels, dims=z.shape[1])


def _dequantized(*maps, levels: int, dims: int) -> DequantizedFlow:
    return DequantizedFlow(Flow(Compose(*maps), StandardNormal(dims)), levels).double().eval()


Fit = Callable[[Images, int], nn.Module]

# Each with its number of free parameters, for D pixels of L levels.
BASELINES: dict[str, tuple[Fit, Callable[[int, int], int]]] = {
    "uniform": (fit_uniform, lambda d, v: 0),
    "diagonal Gaussian": (fit_diagonal_gaussian, lambda d, v: 2 * d),
    "full Gaussian": (fit_full_gaussian, lambda d, v: d + d * (d + 1) // 2),
    "pixel histogram": (fit_pixel_histogram, lambda d, v: d * (v - 1)),
    "left neighbour": (
        lambda train, levels: fit_neighbour(train, levels, "left"),
        lambda d, v: (v - 1) * (1 + (d - 1) * v),
    ),
    "upper neighbour": (
        lambda train, levels: fit_neighbour(train, levels, "upper"),
        lambda d, v: (v - 1) * (1 + (d - 1) * v),
    ),
    "Gaussian copula flow": (
        fit_copula_flow,
        lambda d, v: d * (v - 1) + d + d * (d + 1) // 2,
    ),
    "linear softmax": (fit_linear_softmax, lambda d, v: d * v + d * (d - 1) // 2 * v),
}


def measure(name: str, train: Images, test: Images, levels: int, seed: int = 0) -> dict[str, Any]:
    """Fit one baseline and evaluate it: a record as in the other files of `book/results`.

    The plain bound averages 8 noise draws for each test image; the importance-weighted one uses 64.
    """
    fit, parameters = BASELINES[name]
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = fit(train, levels)
    seconds = time.perf_counter() - started
    result = evaluate(model, test, repeats=8, draws=64, seed=seed)
    return {
        "topic": "baselines",
        "variant": name,
        "data": "digits",
        "seed": seed,
        "bits_per_dim": result.bits_per_dim,
        "bits_per_dim_iw": result.bits_per_dim_iw,
        "draws": result.draws,
        "standard_error": result.standard_error,
        "kind": result.kind,
        "parameters": parameters(train.shape[1], levels),
        "seconds": round(seconds, 1),
        "device": "cpu",
        "command": "python -m benchmarks.baselines",
        "versions": versions(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "checkpoint": None,
    }


def main() -> None:
    """Measure all baselines on digits, print them and write the results file."""
    digits = data.load("digits")
    train, test = digits.train.flatten(1), digits.test.flatten(1)
    assert digits.levels is not None
    records = []
    for name in BASELINES:
        records.append(measure(name, train, test, digits.levels))
        value, error, weighted = (
            records[-1][key] for key in ("bits_per_dim", "standard_error", "bits_per_dim_iw")
        )
        tighter = f", importance-weighted {weighted:.3f}" if weighted else ""
        print(f"{name:22} {value:.3f} ± {error:.3f} bits/dim, {records[-1]['kind']}{tighter}")
    print("in", write_records("baselines", records))


if __name__ == "__main__":
    main()
