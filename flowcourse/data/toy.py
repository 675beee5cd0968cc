r"""What a toy is: a density on the plane that can be drawn from, evaluated and integrated."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Pair", "Toy"]

Pair = tuple[float, float]


@dataclass(frozen=True)
class Toy:
    """A density on the plane.

    Subclasses state their raw coordinates: `mean` and `sd` of the population, `box` (a range for
    each axis outside which there is nothing to integrate), `draw` and `raw_log_density`.

    Args:
        noise: standard deviation of the Gaussian noise, in raw coordinates.

    Raises:
        ValueError: noise is outside 0.02..0.5, where the integrals here are accurate and quick.
    """

    noise: float = 0.1

    mean = (0.0, 0.0)

    def __post_init__(self):
        if not 0.02 <= self.noise <= 0.5:
            raise ValueError(
                f"{type(self).__name__} takes a noise in 0.02..0.5, not {self.noise}: below, the "
                "integral for the entropy is slow; above, only a blur is left."
            )

    @property
    def sd(self) -> Pair:
        """Population standard deviation of each raw axis."""
        raise NotImplementedError

    @property
    def box(self) -> tuple[Pair, Pair]:
        """Raw range of each axis that holds all but a negligible part of the mass."""
        raise NotImplementedError

    @property
    def grid_step(self) -> float:
        """Raw spacing at which sums over a grid equal integrals (see `entropy_nats`)."""
        return self.noise / 2

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """`n` independent raw points, float64 `(n, 2)`."""
        raise NotImplementedError

    def raw_log_density(self, x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
        """Log-density in raw coordinates, in nats."""
        raise NotImplementedError

    def sample(self, n: int, rng: np.random.Generator) -> Float[Tensor, "{n} 2"]:
        """`n` independent points in standardised coordinates, float32."""
        points = (self.draw(n, rng) - self.mean) / self.sd
        return torch.from_numpy(points).float()

    def log_density(self, z: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
        r"""Log-density of standardised points, in nats: $\ln p_{raw}(m + s z) + \ln s_1 s_2$.

        Raises:
            ValueError: the points are not floating-point numbers with a last axis of 2.
        """
        if not z.is_floating_point() or z.shape[-1:] != (2,):
            raise ValueError(
                f"Expected floating-point points of shape (..., 2) and got {z.dtype} of shape "
                f"{tuple(z.shape)}."
            )
        x = z * z.new_tensor(self.sd) + z.new_tensor(self.mean)
        return self.raw_log_density(x) + math.log(math.prod(self.sd))

    @property
    def entropy_nats(self) -> float:
        """Entropy in standardised coordinates, in nats, to about 1e-6."""
        return _entropy_on_grid(self)


@lru_cache
def _entropy_on_grid(toy: Toy) -> float:
    # For a smooth density that vanishes at the border, a plain sum over a grid converges faster
    # than any power of the spacing (trapezoidal rule), so no better rule is needed.
    axes = [torch.arange(low, high, toy.grid_step, dtype=torch.float64) for low, high in toy.box]
    cell = toy.grid_step**2 / math.prod(toy.sd)
    total = 0.0
    for x0 in axes[0].split(8):  # a few columns at a time, to bound the memory
        points = torch.cartesian_prod(x0, axes[1])
        log_p = toy.log_density((points - points.new_tensor(toy.mean)) / points.new_tensor(toy.sd))
        total -= (log_p.exp() * log_p).sum().item() * cell
    return total
