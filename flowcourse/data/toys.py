r"""Points in the plane with a known density: the data on which a flow's score can be judged.

Every toy is standardised by its *population* mean and standard deviation, axis by axis, so each
has mean 0 and variance 1 exactly, and a Gaussian fitted to it scores $1 + \ln 2\pi = 2.8379$ nats.
Where a toy below is described, its raw coordinates are meant.

The true log-density is a torch function of any dtype and device, through which gradients flow.
The entropy is the integral $-\int p \ln p$, computed on a grid in float64.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from flowcourse.data.dataset import Dataset
from flowcourse.data.toy import Toy

__all__ = ["TOYS", "Checkerboard", "Circles", "EightGaussians", "Moons", "Pinwheel", "load_toy"]


@dataclass(frozen=True)
class Moons(Toy):
    r"""Two interleaved half circles of radius 1, blurred.

    The upper arc is $(\cos t, \sin t)$ and the lower one $(1 - \cos t, 1/2 - \sin t)$, with $t$
    uniform on $[0, \pi]$ (`sklearn.datasets.make_moons` spaces $t$ evenly instead).
    """

    noise: float = 0.1

    mean = (0.5, 0.25)

    @property
    def sd(self):
        return math.sqrt(3 / 4 + self.noise**2), math.sqrt(9 / 16 - 1 / math.pi + self.noise**2)

    @property
    def box(self):
        margin = 9 * self.noise
        return (-1 - margin, 2 + margin), (-0.5 - margin, 1 + margin)

    def draw(self, n, rng):
        t = rng.uniform(0, math.pi, n)
        upper = np.stack([np.cos(t), np.sin(t)], axis=1)
        x = np.where(rng.random((n, 1)) < 0.5, upper, np.array([1, 0.5]) - upper)
        return x + self.noise * rng.standard_normal((n, 2))

    def raw_log_density(self, x):
        # The lower arc is the upper one turned by half a circle about (1/2, 1/4).
        turned = x.new_tensor([1, 0.5]) - x
        both = torch.logaddexp(self._log_density_of_upper(x), self._log_density_of_upper(turned))
        return both - math.log(2)

    def _log_density_of_upper(self, x):
        r"""Log of $\frac1\pi\int_0^\pi \mathcal{N}(x; (\cos t, \sin t), \sigma^2 I)\,dt$."""
        # The integrand is a bump about as wide as the noise. The nodes lie at most 0.4 of it apart,
        # where Gauss-Legendre quadrature has converged to rounding error.
        t, log_weight = (x.new_tensor(a) for a in _gauss_legendre(math.ceil(13 / self.noise)))
        t = math.pi * t
        distance2 = (x[..., :1] - t.cos()) ** 2 + (x[..., 1:] - t.sin()) ** 2
        exponent = log_weight - distance2 / (2 * self.noise**2)
        return exponent.logsumexp(dim=-1) - math.log(2 * math.pi * self.noise**2)


@lru_cache
def _gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes on the unit interval and the logarithms of their weights."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (nodes + 1) / 2, np.log(weights / 2)


@dataclass(frozen=True)
class Circles(Toy):
    r"""Two concentric circles of radius 1 and 1/2, blurred.

    A circle of radius $R$ blurred by noise $\sigma$ has at distance $r$ the density
    $\frac{1}{2\pi\sigma^2} e^{-(r^2 + R^2) / 2\sigma^2} I_0(rR / \sigma^2)$, with the modified
    Bessel function $I_0$: in the radius, Rice's distribution.
    """

    noise: float = 0.05

    radii = (1.0, 0.5)

    @property
    def sd(self):
        one = math.sqrt(5 / 16 + self.noise**2)
        return one, one

    @property
    def box(self):
        reach = 1 + 9 * self.noise
        return (-reach, reach), (-reach, reach)

    def draw(self, n, rng):
        angle = rng.uniform(0, 2 * math.pi, n)
        radius = rng.choice(self.radii, n)
        x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return x + self.noise * rng.standard_normal((n, 2))

    def raw_log_density(self, x):
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        radii = r.new_tensor(self.radii)
        # i0e(u) = exp(-u) I0(u), so that neither factor overflows.
        rings = torch.special.i0e(r * radii / self.noise**2).log()
        rings = rings - (r - radii) ** 2 / (2 * self.noise**2)
        return rings.logsumexp(dim=-1) - math.log(2 * 2 * math.pi * self.noise**2)


@dataclass(frozen=True)
class EightGaussians(Toy):
    """Eight round Gaussians, centred on a circle of radius 1."""

    noise: float = 0.1

    @property
    def sd(self):
        one = math.sqrt(1 / 2 + self.noise**2)
        return one, one

    @property
    def box(self):
        reach = 1 + 9 * self.noise
        return (-reach, reach), (-reach, reach)

    def draw(self, n, rng):
        angle = 2 * math.pi / 8 * rng.integers(8, size=n)
        centre = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return centre + self.noise * rng.standard_normal((n, 2))

    def raw_log_density(self, x):
        angle = 2 * math.pi / 8 * torch.arange(8, device=x.device, dtype=x.dtype)
        distance2 = (x[..., :1] - angle.cos()) ** 2 + (x[..., 1:] - angle.sin()) ** 2
        exponent = -distance2 / (2 * self.noise**2)
        return exponent.logsumexp(dim=-1) - math.log(8 * 2 * math.pi * self.noise**2)


@dataclass(frozen=True)
class Pinwheel(Toy):
    r"""Five Gaussian arms, twisted into a spiral.

    The arms point outwards: standard deviation 0.3 along, `noise` across, centred at distance 1.
    Then each point $v$ is turned about the origin by the angle $|v|^2 / 2$. A rotation by an angle
    that depends on the distance alone keeps areas, so the density of a point is that of the
    point before the twist. (The widely used recipe turns by $e^{v_1} / 4$ with $v_1$ the position
    along the arm, which does not keep areas.)
    """

    noise: float = 0.1

    arms, along, twist = 5, 0.3, 0.5

    @property
    def sd(self):
        one = math.sqrt((1 + self.along**2 + self.noise**2) / 2)
        return one, one

    @property
    def box(self):
        reach = 1 + 9 * max(self.along, self.noise)
        return (-reach, reach), (-reach, reach)

    @property
    def grid_step(self):
        # The twist makes the arms thinner the further out they are.
        return min(self.along, self.noise) / 5

    def draw(self, n, rng):
        v = np.array([1, 0]) + np.array([self.along, self.noise]) * rng.standard_normal((n, 2))
        arm = 2 * math.pi / self.arms * rng.integers(self.arms, size=n)
        angle = arm + self.twist * (v**2).sum(axis=1)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([cos * v[:, 0] - sin * v[:, 1], sin * v[:, 0] + cos * v[:, 1]], axis=1)

    def raw_log_density(self, x):
        arm = 2 * math.pi / self.arms * torch.arange(self.arms, device=x.device, dtype=x.dtype)
        # Turn back by each arm's angle and by the twist: shape (*batch, arms).
        angle = arm + self.twist * (x**2).sum(dim=-1, keepdim=True)
        cos, sin, x0, x1 = angle.cos(), angle.sin(), x[..., :1], x[..., 1:]
        v0, v1 = cos * x0 + sin * x1, cos * x1 - sin * x0
        exponent = -(((v0 - 1) / self.along) ** 2 + (v1 / self.noise) ** 2) / 2
        return exponent.logsumexp(dim=-1) - math.log(
            self.arms * 2 * math.pi * self.along * self.noise
        )


@dataclass(frozen=True)
class Checkerboard(Toy):
    r"""Uniform on the eight dark squares of a 4x4 board of side 4; there is no noise.

    Outside the dark squares the log-density is $-\infty$; inside it is flat, its gradient 0.
    """

    noise: float = 0.0

    def __post_init__(self):
        if self.noise != 0:
            raise ValueError(f"checkerboard has no noise, so noise={self.noise} means nothing.")

    @property
    def sd(self):
        return math.sqrt(4 / 3), math.sqrt(4 / 3)

    @property
    def box(self):
        return (-2.0, 2.0), (-2.0, 2.0)

    def draw(self, n, rng):
        row, column = rng.integers(4, size=n), rng.integers(2, size=n)
        corner = np.stack([2 * column + row % 2, row], axis=1) - 2
        # The small margin keeps rounding to float32 from pushing a point over the edge.
        return corner + rng.uniform(1e-6, 1 - 1e-6, (n, 2))

    def raw_log_density(self, x):
        dark = (x.floor().sum(dim=-1) % 2 == 0) & (x.abs() < 2).all(dim=-1)
        return (0 * x.sum(dim=-1) - math.log(8)).masked_fill(~dark, -math.inf)

    @property
    def entropy_nats(self) -> float:
        """Logarithm of the dark squares' standardised area, in nats."""
        return math.log(8 / math.prod(self.sd))


TOYS: dict[str, type[Toy]] = {
    "moons": Moons,
    "circles": Circles,
    "pinwheel": Pinwheel,
    "checkerboard": Checkerboard,
    "eight_gaussians": EightGaussians,
}


def load_toy(
    name: str, n: int = 10_000, n_test: int = 10_000, seed: int = 0, noise: float | None = None
) -> Dataset:
    """Draw independent points of a toy, with its density and entropy.

    Args:
        name: a key of `TOYS`.
        n: number of train points.
        n_test: number of test points; they depend neither on `n` nor on the train points.
        seed: the same seed gives the same points.
        noise: raw standard deviation of the noise; the toy's own when left out.

    Raises:
        ValueError: a size is below 1, the seed is negative, or the noise makes no sense.

    >>> moons = load_toy("moons", n=3)
    >>> moons.train.shape, moons.log_density(moons.train).shape
    (torch.Size([3, 2]), torch.Size([3]))
    """
    if min(n, n_test) < 1 or seed < 0:
        raise ValueError(
            f"{name} takes n >= 1, n_test >= 1 and seed >= 0, not n={n}, n_test={n_test} and "
            f"seed={seed}."
        )
    toy = TOYS[name]() if noise is None else TOYS[name](noise=noise)
    return Dataset(
        name=name,
        train=toy.sample(n, np.random.default_rng([seed, 0])),
        test=toy.sample(n_test, np.random.default_rng([seed, 1])),
        levels=None,
        event_shape=(2,),
        license="none needed: drawn at random",
        attribution="none needed: drawn at random",
        entropy_nats=toy.entropy_nats,
        log_density=toy.log_density,
    )
