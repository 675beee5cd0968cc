r"""Increasing curves with few parameters: conic sums, logits of mixtures, integrals of squares.

Book: `book/autoregressive_flows/transformers.md`. Source: Huang, Krueger, Lacoste & Courville
(2018), arXiv:1804.00779; Jaini, Selby & Yu (2019), arXiv:1905.02325; Papamakarios et al. (2021),
arXiv:1912.02762, section 3.1.1.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flowcourse.autoregressive_flows.maf import AffineTransformer, Parameters, Vectors
from flowcourse.bijector import Bijector, sum_event
from flowcourse.coupling.flowpp_curve import invert_mixture, mixture_logit
from flowcourse.coupling.flowpp_root import invert

__all__ = [
    "ConicTransformer",
    "Read",
    "Repeated",
    "RootTransformer",
    "SigmoidalTransformer",
    "SquaresTransformer",
]

Read = tuple[Tensor, ...]  # what a curve makes of its raw parameters
Raw = Float[Tensor, "batch outputs dims"]


def bounded(raw: Tensor) -> Tensor:
    """Logarithms of weights and scales, so that none of them overflows."""
    return AffineTransformer.bound * torch.tanh(raw / AffineTransformer.bound)


def sigmoids(mean: Raw, log_scale: Raw) -> tuple[Tensor, Tensor]:
    """Centres and log-scales of K sigmoids, which start side by side from -2 to 2, 4/K wide."""
    k = mean.shape[1]
    # In the middle of K equal intervals.
    start = (torch.arange(k, dtype=mean.dtype, device=mean.device) + 0.5) * (4 / k) - 2
    return mean + start.unsqueeze(1), bounded(log_scale + math.log(4 / k))


class RootTransformer(Bijector):
    r"""A transformer whose inverse is looked for: subclasses say what the curve is.

    A transformer is a bijector of vectors whose context holds `outputs` parameters for each number,
    `(batch, outputs * dims)`, the first of all numbers first.

    The inverse is exact to 4 units of rounding of $x$, or of $z$ where the curve is flat; gradients
    pass by the implicit function theorem.

    Attributes:
        outputs: parameters of each number.
    """

    outputs: int

    def read(self, raw: Raw) -> Read:
        """What the curve needs, from raw parameters, which may be any numbers."""
        raise NotImplementedError(f"{type(self).__name__} must implement read(raw).")

    def curve(self, x: Vectors, read: Read) -> tuple[Vectors, Vectors]:
        """Heights and log-slopes, in nats."""
        raise NotImplementedError(f"{type(self).__name__} must implement curve(x, read).")

    def solve(self, z: Vectors, read: Read) -> Vectors:
        """Where the curve is z; raises NoConvergenceError. Here the bracket is looked for."""
        return invert(lambda x: self.curve(x, read), z, torch.zeros_like(z))

    def unfold(self, x: Vectors, context: Parameters) -> Raw:
        """The parameters of each number along axis 1, in the dtype of the numbers."""
        return context.to(x.dtype).unflatten(1, (self.outputs, -1))

    def forward(self, x, context=None):
        z, log_slope = self.curve(x, self.read(self.unfold(x, context)))
        return z, sum_event(log_slope)

    def inverse(self, z, context=None):
        read = self.read(self.unfold(z, context))
        x = self.solve(z, read)
        return x, -sum_event(self.curve(x, read)[1])


class ConicTransformer(RootTransformer):
    r"""$z = t + w_0 x + \sum_k w_k\,\sigma\bigl((x - \mu_k)\,e^{-l_k}\bigr)$ with all $w > 0$.

    A sum of increasing functions with positive weights increases. The sigmoids are bounded, so it
    is the line that makes the sum onto, and that gives the inverse its bracket: the sum of sigmoids
    lies between 0 and $W = \sum_k w_k$, hence $x$ between $(z - t - W)/w_0$ and $(z - t)/w_0$.

    Args:
        units: sigmoids.

    Source: Papamakarios et al. (2021), section 3.1.1 (conic combinations).
    """

    def __init__(self, units: int):
        super().__init__()
        self.outputs = 2 + 3 * units
        self.units = units

    def read(self, raw):
        k = self.units
        shift, log_line, log_weight, mean, log_scale = raw.split([1, 1, k, k, k], dim=1)
        # Before training, the sigmoids rise by 4 in all, as their centres do.
        log_weight = bounded(log_weight) + math.log(4 / k)
        return shift[:, 0], bounded(log_line[:, 0] - 1), log_weight, *sigmoids(mean, log_scale)

    def curve(self, x, read):
        shift, log_line, log_weight, mean, log_scale = read
        u = (x.unsqueeze(1) - mean) * torch.exp(-log_scale)
        below = F.logsigmoid(u)
        rise = (log_weight + below).exp().sum(dim=1)
        log_slopes = log_weight - log_scale + below + (below - u)
        log_slope = torch.logaddexp(log_line, log_slopes.logsumexp(dim=1))
        return shift + log_line.exp() * x + rise, log_slope

    def solve(self, z, read):
        shift, log_line, log_weight, *_ = read
        with torch.no_grad():
            high = (z - shift) * torch.exp(-log_line)
            low = high - log_weight.exp().sum(dim=1) * torch.exp(-log_line)
        return invert(lambda x: self.curve(x, read), z, (low + high) / 2, (low, high))


class SigmoidalTransformer(RootTransformer):
    r"""$z = \operatorname{logit} \sum_k w_k\,\sigma((x - \mu_k)\,e^{-l_k})$ with $\sum_k w_k = 1$.

    The curve of Flow++, in the logarithmic scale throughout. Of bounded functions a convex sum
    stays in (0, 1), and the logit takes that to the reals: onto without a line.

    Repeated, this is the deep sigmoidal flow of the paper. There $a x + b$ stands for
    $(x - \mu)\,e^{-l}$, with $a > 0$ by a softplus.

    Args:
        units: sigmoids.

    Source: Huang et al. (2018), section 3.1; Ho et al. (2019), eqs. 14 and 15, for the logarithms.
    """

    def __init__(self, units: int):
        super().__init__()
        self.outputs = 3 * units

    def read(self, raw):
        logits, mean, log_scale = raw.chunk(3, dim=1)
        return logits.log_softmax(dim=1), *sigmoids(mean, log_scale)

    def curve(self, x, read):
        return mixture_logit(x, *read)

    def solve(self, z, read):
        return invert_mixture(z, *read)


class SquaresTransformer(RootTransformer):
    r"""$z = t + \int_0^x \bigl(s + \sum_k p_k(u)^2\bigr) du$ with polynomials $p_k$ of one degree.

    A polynomial that is positive everywhere is a sum of two squares. Its integral is in closed
    form: with $p_k(u) = \sum_i a_{ki} (u/c)^i$ the sum of squares has the coefficients
    $q_m = \sum_k \sum_{i+j=m} a_{ki} a_{kj}$, and the integral is
    $c \sum_m q_m (x/c)^{m+1} / (m + 1)$.
    The floor $s$ keeps the slope from vanishing where all $p_k$ do.

    Args:
        units: coefficients of each polynomial, one more than its degree.
        polynomials: how many squares.
        scale: $c$, so that powers of the data stay near 1.
        smallest: the floor $s$.

    Source: Jaini et al. (2019), sum-of-squares polynomials; without floor there.
    """

    def __init__(
        self, units: int, *, polynomials: int = 2, scale: float = 2.0, smallest: float = 1e-2
    ):
        super().__init__()
        self.outputs = 1 + polynomials * units
        self.polynomials, self.scale, self.smallest = polynomials, scale, smallest

    def read(self, raw):
        a = raw[:, 1:].unflatten(1, (self.polynomials, -1))
        # The first starts at 1, and so does the slope.
        one = torch.zeros_like(a[:1, :, :, :1])
        one[:, 0, 0] = 1
        return raw[:, 0], a + one

    def curve(self, x, read):
        shift, a = read
        n = a.shape[2]
        u = x.unsqueeze(1) / self.scale
        squares = (_polynomial(a.movedim(2, 0), u) ** 2).sum(dim=1)
        # products[i, j] adds to the coefficient of degree i + j; under bf16-mixed, a matrix product
        # would be a short one.
        products = (a.unsqueeze(2) * a.unsqueeze(3)).sum(dim=1).permute(1, 2, 0, 3)
        q = [products.flip(0).diagonal(m - n + 1).sum(dim=-1) for m in range(2 * n - 1)]
        mean_slope = _polynomial([c / (m + 1) for m, c in enumerate(q)], u[:, 0])
        return shift + x * (self.smallest + mean_slope), (self.smallest + squares).log()


def _polynomial(coefficients, u: Tensor) -> Tensor:
    """Horner's rule, from the coefficient of degree 0 on."""
    value = torch.zeros_like(u)
    for c in reversed(list(coefficients)):
        value = value * u + c
    return value


class Repeated(Bijector):
    """The same transformer several times, each time with parameters of its own.

    Increasing functions of increasing functions increase; log-slopes add up.

    Args:
        transformer: what is repeated.
        steps: how often.

    Source: Huang et al. (2018), section 3.1 (deep sigmoidal flow).
    """

    def __init__(self, transformer: AffineTransformer | RootTransformer, steps: int):
        super().__init__()
        self.transformer, self.steps = transformer, steps
        self.outputs = steps * transformer.outputs

    def forward(self, x, context=None):
        log_det = x.new_zeros(x.shape[0])
        for parameters in context.chunk(self.steps, dim=1):
            x, term = self.transformer(x, parameters)
            log_det = log_det + term
        return x, log_det

    def inverse(self, z, context=None):
        log_det = z.new_zeros(z.shape[0])
        for parameters in reversed(context.chunk(self.steps, dim=1)):
            z, term = self.transformer.inverse(z, parameters)
            log_det = log_det + term
        return z, log_det
