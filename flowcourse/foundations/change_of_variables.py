r"""Elementwise bijectors and a dense linear map: the change of variables in its simplest forms.

In one dimension, a strictly monotone $f$ moves density as

$$p_X(x) = p_Z(f(x))\,|f'(x)|,$$

with the absolute value, because a decreasing $f$ reverses the order of the axis but cannot make a
density negative. In $n$ dimensions the slope becomes the Jacobian matrix and the absolute value
stays: $p_X(x) = p_Z(f(x))\,|\det J_f(x)|$.

| bijector | z = f(x) | domain | codomain | log slope |
| --- | --- | --- | --- | --- |
| `Affine` | $ax + b$ | reals | reals | $\log|a|$ |
| `Exp` | $e^x$ | reals | positive | $x$ |
| `Softplus` | $\log(1 + e^x)$ | reals | positive | $-\log(1 + e^{-x})$ |
| `Sigmoid` | $1/(1 + e^{-x})$ | reals | (0, 1) | $\log z + \log(1 - z)$ |
| `Logit` | $\log x - \log(1 - x)$ | (0, 1) | reals | $-\log x - \log(1 - x)$ |
| `Tanh` | $\tanh x$ | reals | (-1, 1) | $\log(1 - z^2)$ |
| `Power` | $x^p$ | positive | positive | $\log|p| + (p - 1)\log x$ |
| `CDF` | $F(x)$ | support of $F$ | (0, 1) | $\log p(x)$ |
| `Quantile` | $F^{-1}(x)$ | (0, 1) | support of $F$ | $-\log p(z)$ |

Two maps mix coordinates: `Linear` by a dense matrix, and `KnotheRosenblatt`, which turns a mixture
of Gaussians into the uniform cube and so carries out the existence theorem.

Book: `book/foundations/change_of_variables.md`.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from flowcourse.bijector import Bijector, Inverse, NoInverseError, sum_event

__all__ = [
    "CDF",
    "Affine",
    "Elementwise",
    "Exp",
    "KnotheRosenblatt",
    "Linear",
    "Logit",
    "Power",
    "Quantile",
    "Sigmoid",
    "Softplus",
    "Tanh",
]


def _buffer(value: Tensor | float) -> Tensor:
    """A number in the default dtype; a floating-point tensor keeps its own."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value
    return torch.as_tensor(value, dtype=torch.get_default_dtype())


class Elementwise(Bijector):
    r"""A scalar bijector applied to every coordinate.

    The Jacobian is diagonal, so $\log|\det J| = \sum_i \log|f'(x_i)|$. Subclasses give the map, its
    inverse and the logarithm of its absolute slope; both log-determinants follow.
    """

    def transform(self, x: Tensor) -> Tensor:
        """The map itself, coordinate by coordinate."""
        raise NotImplementedError(f"{type(self).__name__} must implement transform(x).")

    def invert(self, z: Tensor) -> Tensor:
        """The inverse map."""
        raise NotImplementedError(f"{type(self).__name__} must implement invert(z).")

    def log_slope(self, x: Tensor) -> Tensor:
        r"""$\log|f'(x_i)|$ for every coordinate, in nats."""
        raise NotImplementedError(f"{type(self).__name__} must implement log_slope(x).")

    def forward(self, x, context=None):
        return self.transform(x), sum_event(self.log_slope(x))

    def inverse(self, z, context=None):
        x = self.invert(z)
        return x, -sum_event(self.log_slope(x))


class Affine(Elementwise):
    r"""$z = a x + b$ with fixed $a \neq 0$; $\log|\det| = \sum_i \log|a_i|$.

    Args:
        shift: $b$, broadcast over the event.
        scale: $a$, any sign: a negative scale is a decreasing map.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor | float, scale: Tensor | float):
        super().__init__()
        self.register_buffer("shift", _buffer(shift))
        self.register_buffer("scale", _buffer(scale))
        if not self.scale.is_meta and (self.scale == 0).any():
            raise ValueError("Affine expects a non-zero scale: a zero scale cannot be inverted.")

    def transform(self, x):
        return x * self.scale + self.shift

    def invert(self, z):
        return (z - self.shift) / self.scale

    def log_slope(self, x):
        return self.scale.abs().log().expand_as(x)


class Exp(Elementwise):
    r"""$z = e^x$, from the reals to the positive numbers; $\log|f'(x)| = x$."""

    codomain = constraints.positive

    def transform(self, x):
        return x.exp()

    def invert(self, z):
        return z.log()

    def log_slope(self, x):
        return x


class Softplus(Elementwise):
    r"""$z = \log(1 + e^x)$: positive like `Exp`, but linear for large $x$: no overflow."""

    codomain = constraints.positive

    def transform(self, x):
        # The default threshold replaces softplus by the identity above 20, which costs 2e-9.
        return F.softplus(x, threshold=50)

    def invert(self, z):
        return z + torch.log(-torch.expm1(-z))

    def log_slope(self, x):
        return F.logsigmoid(x)


class Sigmoid(Elementwise):
    r"""$z = 1/(1 + e^{-x})$, from the reals to (0, 1); $\log f'(x) = \log z + \log(1 - z)$.

    The slope is computed from $x$, as $-\mathrm{softplus}(x) - \mathrm{softplus}(-x)$, because
    $1 - z$ rounds to 0 long before $x$ is extreme.
    """

    codomain = constraints.unit_interval

    def transform(self, x):
        return torch.sigmoid(x)

    def invert(self, z):
        return torch.logit(z)

    def log_slope(self, x):
        return F.logsigmoid(x) + F.logsigmoid(-x)


class Logit(Inverse):
    r"""$z = \log(x / (1 - x))$, from (0, 1) to the reals: the first map of RealNVP on pixels."""

    def __init__(self):
        super().__init__(Sigmoid())


class Tanh(Elementwise):
    r"""$z = \tanh x$; $\log f'(x) = 2(\log 2 - x - \mathrm{softplus}(-2x))$: tails are stable."""

    codomain = constraints.interval(-1.0, 1.0)

    def transform(self, x):
        return torch.tanh(x)

    def invert(self, z):
        return torch.atanh(z)

    def log_slope(self, x):
        return 2 * (math.log(2) - x - F.softplus(-2 * x, threshold=50))


class Power(Elementwise):
    r"""$z = x^p$ on the positive numbers; $\log|f'(x)| = \log|p| + (p - 1)\log x$.

    A negative $p$ is decreasing: the case in which a forgotten absolute value shows.
    """

    domain = constraints.positive
    codomain = constraints.positive

    def __init__(self, exponent: float):
        super().__init__()
        if exponent == 0:
            raise ValueError("Power expects a non-zero exponent: x**0 is constant.")
        self.exponent = exponent

    def transform(self, x):
        return x**self.exponent

    def invert(self, z):
        return z ** (1 / self.exponent)

    def log_slope(self, x):
        return math.log(abs(self.exponent)) + (self.exponent - 1) * torch.log(x)


class CDF(Elementwise):
    r"""$z = F(x)$: the probability integral transform; $\log F'(x) = \log p(x)$.

    If $x$ has the density of `family`, then $z$ is uniform on (0, 1).

    Args:
        family: a univariate `torch.distributions` class with `cdf` and `icdf`, such as `Normal`.
        parameters: its parameters, by name.

    >>> z, log_det = CDF(torch.distributions.Normal, loc=0.0, scale=1.0)(torch.zeros(1, 1))
    >>> z.item()
    0.5
    """

    codomain: constraints.Constraint = constraints.unit_interval

    def __init__(self, family: Callable[..., Distribution], **parameters: float | Tensor):
        super().__init__()
        self.family = family
        self.names = tuple(parameters)
        for name, value in parameters.items():
            self.register_buffer(name, _buffer(value))
        self.domain = cast(constraints.Constraint, self.distribution.support)

    @property
    def distribution(self) -> Distribution:
        """The distribution, built on the device and in the dtype of the buffers."""
        parameters = {name: getattr(self, name) for name in self.names}
        return self.family(**parameters, validate_args=False)

    def transform(self, x):
        return self.distribution.cdf(x)

    def invert(self, z):
        try:
            return self.distribution.icdf(z)
        except NotImplementedError as error:
            name = type(self.distribution).__name__
            raise NoInverseError(
                f"torch.distributions.{name} has a cdf but no icdf, so CDF cannot be inverted: "
                "choose a family with an icdf, or solve F(x) = z by bisection."
            ) from error

    def log_slope(self, x):
        return self.distribution.log_prob(x)


class Quantile(Inverse):
    r"""$z = F^{-1}(x)$, from (0, 1): inverse transform sampling when $x$ is uniform.

    Args:
        family: as for `CDF`.
        parameters: as for `CDF`.
    """

    def __init__(self, family: Callable[..., Distribution], **parameters: float | Tensor):
        super().__init__(CDF(family, **parameters))


class Linear(Bijector):
    r"""$z = W x + b$ with a dense matrix; $\log|\det W|$ by LU factorisation, $O(D^3)$.

    Args:
        dims: $D$; the event is a vector of this length.

    Raises:
        RuntimeError: on inversion, when training has made $W$ singular.
    """

    def __init__(self, dims: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(dims, dims)))
        self.bias = nn.Parameter(torch.zeros(dims))

    def forward(self, x: Float[Tensor, "batch dim"], context: Tensor | None = None):
        log_det = torch.linalg.slogdet(self.weight).logabsdet
        return x @ self.weight.T + self.bias, log_det.expand(x.shape[0])

    def inverse(self, z: Float[Tensor, "batch dim"], context: Tensor | None = None):
        log_det = -torch.linalg.slogdet(self.weight).logabsdet
        x = torch.linalg.solve(self.weight, (z - self.bias).T).T
        return x, log_det.expand(z.shape[0])


class KnotheRosenblatt(Bijector):
    r"""From a mixture of Gaussians to the uniform cube, by conditional CDFs.

    $$u_d = F(x_d \mid x_1, \dots, x_{d-1}) = \sum_k w_k(x_{<d})\, \Phi(\varepsilon_{kd}),$$

    where $\varepsilon_k = L_k^{-1}(x - \mu_k)$ whitens component $k$, whose covariance is
    $L_k L_k^\top$, and $w_k(x_{<d})$ is its posterior weight given the coordinates before $d$.
    Each $u_d$ depends on $x_1, \dots, x_d$ only, so the Jacobian is triangular with the conditional
    densities on its diagonal, and $\log|\det J| = \log p(x)$: the density itself.

    Args:
        weights: $w$, shape `(components,)`, positive; they are divided by their sum.
        means: $\mu$, shape `(components, dims)`.
        lower: $L$, shape `(components, dims, dims)`, lower triangular with a positive diagonal.

    Source: Rosenblatt (1952); Knothe (1957).
    """

    codomain = constraints.unit_interval

    weights: Tensor
    means: Tensor
    lower: Tensor

    def __init__(
        self,
        weights: Float[Tensor, " components"],
        means: Float[Tensor, "components dim"],
        lower: Float[Tensor, "components dim dim"],
    ):
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("means", means)
        self.register_buffer("lower", lower)

    def forward(self, x: Float[Tensor, "batch dim"], context: Tensor | None = None):
        epsilon, log_joint = self._components(x)
        weights = log_joint[..., :-1].softmax(dim=1)
        u = (weights * torch.special.ndtr(epsilon)).sum(dim=1)
        return u, log_joint[..., -1].logsumexp(dim=1)

    def inverse(self, z: Float[Tensor, "batch dim"], context: Tensor | None = None):
        x = torch.zeros_like(z)
        for d in range(z.shape[1]):
            x = torch.cat([x[:, :d], self._solve(x, z[:, d : d + 1], d), x[:, d + 1 :]], dim=1)
        return x, -self(x)[1]

    def _components(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""$\varepsilon$, `(batch, K, D)`, and $\log w_k p_k(x_{\le d})$, `(batch, K, D + 1)`."""
        centred = (x.unsqueeze(1) - self.means).unsqueeze(-1)
        epsilon = torch.linalg.solve_triangular(self.lower, centred, upper=False).squeeze(-1)
        scales = self.lower.diagonal(dim1=-2, dim2=-1)
        terms = -0.5 * epsilon**2 - 0.5 * math.log(2 * math.pi) - scales.log()
        prior = (self.weights / self.weights.sum()).log().unsqueeze(-1).expand_as(terms[..., :1])
        return epsilon, torch.cat([prior, terms], dim=-1).cumsum(dim=-1)

    def _solve(self, x: Tensor, u: Tensor, d: int) -> Tensor:
        """The coordinate `d` at which the conditional CDF is `u`, `(batch, 1)`, by bisection."""
        epsilon, log_joint = self._components(x)
        weights = log_joint[..., d].softmax(dim=1)
        scales = self.lower[:, d, d]
        means = x[:, d : d + 1] - scales * epsilon[..., d]

        def excess(t: Tensor) -> Tensor:
            return (weights * torch.special.ndtr((t - means) / scales)).sum(1, keepdim=True) - u

        # The quantile of a mixture lies between the quantiles of its components.
        quantiles = (means + scales * torch.special.ndtri(u)).detach()
        low, high = quantiles.amin(1, keepdim=True), quantiles.amax(1, keepdim=True)
        for _ in range(64):
            middle = (low + high) / 2
            below = excess(middle) < 0
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        # Bisection has no gradient; the implicit function theorem gives it: -d excess / density.
        densities = torch.exp(-0.5 * ((middle - means) / scales) ** 2) / scales
        density = (weights * densities).sum(1, keepdim=True) / math.sqrt(2 * math.pi)
        residual = excess(middle)
        return middle - (residual - residual.detach()) / density.detach()
