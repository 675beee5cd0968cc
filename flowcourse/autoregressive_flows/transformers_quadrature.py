r"""Quadrature on the unit interval, and a map that is the integral of a positive network.

Book: `book/autoregressive_flows/transformers.md`. Source: Wehenkel & Louppe (2019),
arXiv:1908.05164.
"""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowcourse.autoregressive_flows.maf import Parameters, Vectors
from flowcourse.autoregressive_flows.transformers_curve import Read, RootTransformer
from flowcourse.coupling.glow_step import full_precision

__all__ = ["RULES", "IntegralTransformer", "clenshaw_curtis", "gauss_legendre"]


@lru_cache
def gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in (0, 1) and weights of the rule that is exact for polynomials of degree 2n - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (nodes + 1) / 2, weights / 2


@lru_cache
def clenshaw_curtis(n: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Nodes $(1 - \cos \pi i/(n-1))/2$ in [0, 1] and weights; exact for degree n - 1, n odd.

    The integrand is a sum of cosines of $\theta$, $t = (1 - \cos\theta)/2$, by the values at the
    nodes, and only the even ones have an integral that is not 0.

    Raises:
        ValueError: n is even or below 3.
    """
    if n < 3 or n % 2 == 0:
        raise ValueError(f"The Clenshaw-Curtis rule here has 3, 5, 7, ... nodes, not {n}.")
    steps = n - 1
    theta = math.pi * np.arange(n) / steps
    even = np.arange(0, n, 2)
    share = np.where((even == 0) | (even == steps), 1.0, 2.0) / (1.0 - even**2)
    weights = np.cos(np.outer(theta, even)) @ share / steps
    weights[[0, -1]] /= 2
    return (1 - np.cos(theta)) / 2, weights


RULES = {"gauss_legendre": gauss_legendre, "clenshaw_curtis": clenshaw_curtis}


class IntegralTransformer(RootTransformer):
    r"""$z = t + \int_0^x g(u; h)\,du$, where $g$ is a network whose answers are positive.

    The integral is $x \sum_i w_i\, g(x u_i; h)$ with the nodes $u_i$ and weights $w_i$ of a rule on
    the unit interval: the factor is $x$ and not $|x|$, so that the sign is right below 0. The slope
    is $g(x; h)$ itself. So $z$ has the rule's error and the log-slope has none; where the rule is
    too coarse the two do not belong to one map, see `error`.

    The network is the same for all numbers, $g = s + \operatorname{softplus}(\text{net}(u, h))$,
    with `units` numbers $h$ for each from the conditioner. The floor $s$ makes the map onto the
    reals. Networks are smooth (tanh): a kink would cost the rule its order. It is computed in the
    precision of $x$ also under bf16-mixed.

    Args:
        units: numbers for each $x$ that the network is told, besides the shift.
        hidden: width of the network's two hidden layers.
        nodes: of the rule.
        rule: "gauss_legendre", or "clenshaw_curtis" as in the paper.
        smallest: the floor $s$.

    Source: Wehenkel & Louppe (2019); their network ends in ELU + 1, without floor.
    """

    def __init__(
        self,
        units: int,
        *,
        hidden: int = 24,
        nodes: int = 16,
        rule: str = "gauss_legendre",
        smallest: float = 1e-2,
    ):
        super().__init__()
        self.outputs = 1 + units
        self.rule, self.nodes, self.smallest = RULES[rule], nodes, smallest
        self.of_x, self.of_h = nn.Linear(1, hidden), nn.Linear(units, hidden, bias=False)
        self.rest = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def read(self, raw):
        shift, h = raw[:, 0], raw[:, 1:].movedim(1, -1)
        with full_precision(raw):
            return shift, self.of_h(h)

    def curve(self, x, read):
        return self._integrate(x, read, self.nodes)

    def integrand(
        self, u: Float[Tensor, "*any nodes"], told: Float[Tensor, "*any hidden"]
    ) -> Float[Tensor, "*any nodes"]:
        """The slope at several places of each number, from what the network is told of it."""
        with full_precision(u):
            h = self.rest(torch.tanh(self.of_x(u.unsqueeze(-1)) + told.unsqueeze(-2))).squeeze(-1)
        # Started at a slope near 1.
        return self.smallest + F.softplus(h + math.log(math.e - 1))

    def error(self, x: Vectors, context: Parameters) -> Vectors:
        """An estimate of the error of z: its difference from the rule with about twice as many."""
        read = self.read(self.unfold(x, context))
        twice = self._integrate(x, read, 2 * self.nodes - 1)[0]
        return (self.curve(x, read)[0] - twice).abs()

    def _integrate(self, x: Tensor, read: Read, nodes: int) -> tuple[Tensor, Tensor]:
        shift, told = read
        places, weights = (x.new_tensor(values) for values in self.rule(nodes))
        # The last place is x itself, for the slope.
        u = x.unsqueeze(-1) * torch.cat([places, places.new_ones(1)])
        g = self.integrand(u, told)
        return shift + x * (g[..., :-1] * weights).sum(dim=-1), g[..., -1].log()
