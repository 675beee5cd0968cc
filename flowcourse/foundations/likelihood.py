r"""The objective: maximum likelihood, its units, and the bound for discrete data.

A density model trains on the negative log-likelihood in nats; image models are compared in bits per
dimension; and a density says something about *discrete* data only through a dequantizer,

$$\log P(x) = \log \int_{[0,1)^D} p(x+u)\,du
   \;\ge\; \mathbb{E}_{u \sim q(\cdot|x)}\left[\log p(x+u) - \log q(u|x)\right].$$

Book: `book/foundations/likelihood.md`.
"""

import math
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flowcourse.discrete import require_levels
from flowcourse.flow import Flow

__all__ = [
    "DequantizedFlow",
    "UniformDequantizer",
    "bits_per_dim",
    "forward_kl",
    "importance_weighted_bound",
    "reverse_kl",
]

LogProb = Float[Tensor, " batch"]


def bits_per_dim(nll_nats, dims: int):
    r"""Convert a negative log-likelihood in nats per example to bits per dimension.

    $$\mathrm{bits/dim} = \frac{-\log p(x)}{D \ln 2}$$

    Args:
        nll_nats: nats per example, a number, array or tensor. For discrete data it must be the
            likelihood of the integers themselves: a model of rescaled data carries the rescaling
            in its log-determinant (the well-known "+ log2 256").
        dims: the number of dimensions of one example, all axes multiplied.

    Source: the units of Theis et al. (2016), section 3.1.

    >>> bits_per_dim(math.log(256), 1)  # uniform 8-bit noise
    8.0
    """
    if dims < 1:
        raise ValueError(f"bits_per_dim expects a positive number of dimensions and got {dims}.")
    return nll_nats / (dims * math.log(2))


def importance_weighted_bound(log_weights: Float[Tensor, "draws batch"]) -> LogProb:
    r"""$\log \frac{1}{K}\sum_k w_k$ for each example, in nats.

    A tighter bound than the mean of $\log w_k$, by the concavity of the logarithm.

    Its expectation grows with the number of draws $K$ and tends to $\log P(x)$.

    Source: Burda et al. (2016), eq. 8 and theorem 1.
    """
    return torch.logsumexp(log_weights, dim=0) - math.log(log_weights.shape[0])


def forward_kl(log_p: Callable, log_q: Callable, samples_of_p: Tensor) -> Tensor:
    r"""Monte Carlo estimate of $D(p\|q) = \mathbb{E}_p[\log p - \log q]$, in nats.

    Minimising it over $q$ is maximum likelihood: only $-\mathbb{E}_p[\log q]$ depends on $q$.
    """
    return (log_p(samples_of_p) - log_q(samples_of_p)).mean()


def reverse_kl(log_q: Callable, log_p: Callable, samples_of_q: Tensor) -> Tensor:
    r"""Monte Carlo estimate of $D(q\|p) = \mathbb{E}_q[\log q - \log p]$, in nats.

    `log_p` may lack its normalising constant $\log C$; then the estimate is too small by that
    constant, and the minimiser is unchanged.
    """
    return (log_q(samples_of_q) - log_p(samples_of_q)).mean()


class UniformDequantizer(nn.Module):
    r"""$y = x + u$ with $u \sim U[0, 1)^D$, so that $\lfloor y \rfloor = x$.

    Source: Uria et al. (2013); Theis et al. (2016), section 3.1.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, LogProb]:
        r"""Add noise to integers.

        Args:
            x: integer levels, in a floating-point dtype, shape `(batch, *event)`.

        Returns:
            The noisy data, and $\log q(u|x) = 0$ nats for each example: the term that the
            dequantizer owes the bound.
        """
        y = x + torch.rand_like(x)
        # In float32, 255 + u rounds up to 256 for seven draws in a million; in bfloat16, for half.
        return torch.where(y < x + 1, y, x), x.new_zeros(x.shape[0])


class DequantizedFlow(nn.Module):
    r"""A model of discrete data: a flow on noisy data, with a dequantizer.

    Args:
        flow: a density over $[0, \text{levels})^D$ and around, with any rescaling inside its
            bijector.
        levels: the data take values 0, ..., levels - 1.
        dequantizer: adds noise in [0, 1) and returns its own term of the bound.

    Where the flow is conditional, `context` has one condition for each example.

    Every likelihood of this model is a **bound**; `kind` says so.

    Source: Theis et al. (2016), section 3.1; Ho et al. (2019), section 3.1.
    """

    kind = "bound"
    # Whether every call needs a context: a label, or the condition of a pair, see `context_for`.
    class_conditional = False
    needs_conditions = False

    def __init__(self, flow: Flow, levels: int, dequantizer: nn.Module | None = None):
        super().__init__()
        if levels < 2:
            raise ValueError(f"DequantizedFlow expects at least two levels and got {levels}.")
        self.flow = flow
        self.levels = levels
        self.dequantizer = UniformDequantizer() if dequantizer is None else dequantizer

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one example."""
        return self.flow.event_shape

    def forward(self, x: Tensor, context: Tensor | None = None) -> LogProb:
        r"""One draw of the lower bound on $\log P(x)$, in nats: what training maximises."""
        y, log_q = self.dequantizer(self._check(x))
        return self.flow.log_prob(y, context) - log_q

    def log_prob(self, x: Tensor, draws: int = 1, context: Tensor | None = None) -> LogProb:
        r"""A lower bound on $\log P(x)$ in nats; importance-weighted over `draws` noise samples."""
        if draws < 1:
            raise ValueError(f"Expected one noise draw or more and got draws={draws}.")
        return importance_weighted_bound(torch.stack([self(x, context) for _ in range(draws)]))

    def bits_per_dim(self, x: Tensor, draws: int = 1, context: Tensor | None = None) -> LogProb:
        r"""An upper bound on $-\log_2 P(x) / D$ for each example; tighter with more draws."""
        return bits_per_dim(-self.log_prob(x, draws, context), math.prod(self.event_shape))

    @torch.no_grad()
    def sample(
        self, n: int, temperature: float = 1.0, context: Tensor | None = None
    ) -> Int[Tensor, "n *event"]:
        """Draw integers: samples of the flow, floored and clipped to the range of the data.

        Warns where numbers overflowed on the way and left none to clip: those become level 0.
        """
        y = self.flow.sample(n, context, temperature)
        if not y.is_meta and (lost := y.isnan().flatten(1).any(dim=1).sum()):
            warnings.warn(
                f"{lost} of {n} samples hold NaN, shown as level 0: the inverse overflowed. It "
                "does so where training has not been; a temperature below 1 makes it rarer.",
                stacklevel=2,
            )
        return y.nan_to_num(nan=0.0).floor().clamp(0, self.levels - 1).to(torch.int64)

    def _check(self, x: Tensor) -> Tensor:
        parameter = next(self.parameters(), self.flow.base.anchor)
        x = require_levels(x, self.levels)
        return x if x.is_floating_point() else x.to(parameter.dtype)
