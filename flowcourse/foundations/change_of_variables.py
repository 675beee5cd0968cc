r"""Elementwise bijectors and a dense linear map: the change of variables in its simplest forms.

In one dimension, a strictly monotone $f$ moves density as

$$p_X(x) = p_Z(f(x))\,|f'(x)|,$$

with the absolute value, because a decreasing $f$ reverses the order of the axis but cannot make a
density negative. In $n$ dimensions the slope becomes the Jacobian matrix and the absolute value
stays: $p_X(x) = p_Z(f(x))\,|\det J_f(x)|$.

Book: `book/foundations/change_of_variables.md`.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from flowcourse.bijector import Bijector, sum_event

__all__ = [
    "CDF",
    "Affine",
    "Elementwise",
    "Exp",
    "Linear",
    "Logit",
    "Power",
    "Quantile",
    "Sigmoid",
    "Softplus",
    "Tanh",
]


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
        self.register_buffer("shift", torch.as_tensor(shift, dtype=torch.get_default_dtype()))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.get_default_dtype()))
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


class Logit(Elementwise):
    r"""$z = \log(x / (1 - x))$, from (0, 1) to the reals: the first map of RealNVP on pixels."""

    domain = constraints.unit_interval

    def transform(self, x):
        return torch.logit(x)

    def invert(self, z):
        return torch.sigmoid(z)

    def log_slope(self, x):
        return -torch.log(x) - torch.log1p(-x)

    def inverse(self, z, context=None):
        # From z, not from x = sigmoid(z), which may have rounded to 0 or 1.
        return torch.sigmoid(z), sum_event(F.logsigmoid(z) + F.logsigmoid(-z))


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
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.get_default_dtype()))

    @property
    def distribution(self) -> Distribution:
        """The distribution, built on the device and in the dtype of the buffers."""
        parameters = {name: getattr(self, name) for name in self.names}
        return self.family(**parameters, validate_args=False)

    def transform(self, x):
        return self.distribution.cdf(x)

    def invert(self, z):
        return self.distribution.icdf(z)

    def log_slope(self, x):
        return self.distribution.log_prob(x)


class Quantile(CDF):
    r"""$z = F^{-1}(x)$, from (0, 1): inverse transform sampling when $x$ is uniform."""

    domain = constraints.unit_interval
    codomain = constraints.real

    def transform(self, x):
        return self.distribution.icdf(x)

    def invert(self, z):
        return self.distribution.cdf(z)

    def log_slope(self, x):
        return -self.distribution.log_prob(self.distribution.icdf(x))

    def inverse(self, z, context=None):
        return self.invert(z), sum_event(self.distribution.log_prob(z))


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
