r"""The curve of Flow++: the logit of the distribution function of a mixture of logistics.

$$z = \log F(x) - \log(1 - F(x)), \qquad
F(x) = \sum_k \pi_k\,\sigma\bigl((x - \mu_k)\,e^{-l_k}\bigr)$$

It rises from minus to plus infinity and has a closed form; its inverse is left to a root finder.

Book: `book/coupling/flowpp.md`. Source: Ho, Chen, Srinivas, Duan & Abbeel (2019), section 3.2.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flowcourse.bijector import Bijector, sum_event
from flowcourse.coupling.flowpp_root import NoConvergenceError, invert

__all__ = ["AffineCurve", "MixtureCurve", "NoConvergenceError", "invert_mixture", "mixture_logit"]

# The program's floor is e^-7. The ceiling keeps a very wide component from being flat in float32.
LOG_SCALES = (-7.0, 7.0)

Parameter = Float[Tensor, "batch k *event"]
Mixture = tuple[Tensor, Tensor, Tensor]  # log-weights, means, log-scales


def mixture_logit(
    x: Float[Tensor, "batch *event"], log_weight: Parameter, mean: Parameter, log_scale: Parameter
) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, "batch *event"]]:
    r"""$z = \operatorname{logit} F(x)$ with $F = \sum_k \pi_k\,\sigma((x - \mu_k)\,e^{-l_k})$.

    In the tails $F$ rounds to 0 or 1, so it is never formed: with the survival function
    $S = 1 - F$, which is a mixture as well, and the density $f$,

    $$z = \log F - \log S, \qquad \log\frac{dz}{dx} = \log f - \log F - \log S,$$

    and each of the three logarithms is a log-sum-exp over components.

    Args:
        x: where, coordinate by coordinate.
        log_weight: $\log \pi_k$, normalized over axis 1, the components.
        mean: $\mu_k$.
        log_scale: $l_k$.

    Returns:
        $z$, and $\log dz/dx$ in nats.

    Source: Ho et al. (2019), eqs. 14 and 15.
    """
    u = (x.unsqueeze(1) - mean) * torch.exp(-log_scale)
    below = F.logsigmoid(u)
    above = below - u  # log sigmoid(-u)
    log_cdf = (log_weight + below).logsumexp(dim=1)
    log_survival = (log_weight + above).logsumexp(dim=1)
    log_density = (log_weight + below + above - log_scale).logsumexp(dim=1)
    return log_cdf - log_survival, log_density - log_cdf - log_survival


def invert_mixture(
    z: Float[Tensor, "batch *event"],
    log_weight: Parameter,
    mean: Parameter,
    log_scale: Parameter,
    tolerance: float | None = None,
    max_iterations: int = 200,
) -> Float[Tensor, "batch *event"]:
    r"""The $x$ with $\operatorname{logit} F(x) = z$, by `flowpp_root.invert` from a known bracket.

    Component $k$ alone reaches $z$ at $\mu_k + e^{l_k} z$. Below the smallest of these points every
    component has less mass than it should, above the largest every one has more: the root lies
    between them.

    Args:
        z: what the curve shall reach.
        log_weight: see `mixture_logit`, and so for `mean` and `log_scale`.
        mean: see there.
        log_scale: see there.
        tolerance: see `flowpp_root.invert`, and so for `max_iterations`.
        max_iterations: see there.

    Raises:
        NoConvergenceError: some coordinate has not reached the tolerance.

    Source: Ho et al. (2019), section 3.2 (bisection).
    """
    with torch.no_grad():
        alone = mean + log_scale.exp() * z.unsqueeze(1)
        low, high = alone.amin(dim=1), alone.amax(dim=1)
        guess = (log_weight.exp() * alone).sum(dim=1).clamp(low, high)
    return invert(
        lambda x: mixture_logit(x, log_weight, mean, log_scale),
        z,
        guess,
        (low, high),
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


class MixtureCurve(Bijector):
    r"""$z = e^s \operatorname{logit} F(x) + t$ in every coordinate; the context holds parameters.

    Args:
        components: of the mixture.
        tolerance: see `invert_mixture`.

    The context is `(batch, outputs * channels, h, w)`: for each channel the raw scale, of which
    $s$ is the hyperbolic tangent, the shift, and the mixture's logits, means and log-scales.

    Source: Ho et al. (2019), section 3.2; the bounded scale is the program's.
    """

    def __init__(self, components: int, tolerance: float | None = None):
        super().__init__()
        self.components = components
        self.tolerance = tolerance
        self.outputs = 2 + 3 * components

    def _read(
        self, x: Tensor, context: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        k = self.components
        # Under bf16-mixed the network's answers are short; the mixture is not computed with them.
        every = context.to(x.dtype).unflatten(1, (self.outputs, -1))
        raw, shift, logits, mean, log_scale = every.split([1, 1, k, k, k], dim=1)
        mixture = (logits.log_softmax(dim=1), mean, log_scale.clamp(*LOG_SCALES))
        return raw[:, 0].tanh(), shift[:, 0], mixture

    def forward(self, x, context=None):
        s, t, mixture = self._read(x, context)
        z, log_slope = mixture_logit(x, *mixture)
        return z * s.exp() + t, sum_event(log_slope + s)

    def inverse(self, z, context=None):
        s, t, mixture = self._read(z, context)
        x = invert_mixture((z - t) * (-s).exp(), *mixture, tolerance=self.tolerance)
        _, log_slope = mixture_logit(x, *mixture)
        return x, -sum_event(log_slope + s)


class AffineCurve(Bijector):
    """$z = e^s x + t$ in every coordinate, without the mixture: the ablation.

    The context is `(batch, outputs * channels, h, w)`, as that of `MixtureCurve`.
    """

    outputs = 2

    def _read(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = context.to(x.dtype).chunk(2, dim=1)
        return raw.tanh(), shift

    def forward(self, x, context=None):
        s, t = self._read(x, context)
        return x * s.exp() + t, sum_event(s)

    def inverse(self, z, context=None):
        s, t = self._read(z, context)
        return (z - t) * (-s).exp(), -sum_event(s)
