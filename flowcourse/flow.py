r"""A flow: a simple base density seen through a bijector.

$$\log p_X(x) = \log p_Z(f(x)) + \log\left|\det \frac{\partial f}{\partial x}\right|$$

`Flow` is both an `nn.Module` (it trains) and a `torch.distributions.Distribution` (it scores and
samples). The bases here are modules too, so `flow.to(device, dtype)` moves everything.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from flowcourse.bijector import Bijector, sum_event

__all__ = ["Flow", "StandardLogistic", "StandardNormal", "StandardUniform"]


class _Base(nn.Module, Distribution):
    """An i.i.d. base density over tensors of one shape, whose samples are born where it lives."""

    arg_constraints: dict = {}
    support: constraints.Constraint = constraints.real
    has_rsample = True
    anchor: Tensor

    def __init__(self, *event_shape: int):
        nn.Module.__init__(self)
        Distribution.__init__(self, event_shape=torch.Size(event_shape), validate_args=False)
        # Holds no data: it tells `rsample` which device and dtype the module was moved to.
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}{tuple(self.event_shape)}"

    def log_prob(self, z: Float[Tensor, "batch *event"]) -> Float[Tensor, " batch"]:
        """Log-density of each example, in nats."""
        if z.shape[1:] != self.event_shape:
            raise ValueError(
                f"{self} expects latents of shape (batch, {', '.join(map(str, self.event_shape))}) "
                f"and got {tuple(z.shape)}: build the base with the shape of one example."
            )
        return sum_event(self._log_density(z))

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Reparameterised samples of shape `(*sample_shape, *event)`."""
        shape = torch.Size(sample_shape) + self.event_shape
        return self._draw(shape)

    def _log_density(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def _draw(self, shape: torch.Size) -> Tensor:
        raise NotImplementedError


class StandardNormal(_Base):
    r"""Independent $\mathcal{N}(0, 1)$ in every coordinate.

    >>> StandardNormal(2).log_prob(torch.zeros(1, 2)).item()  # -ln(2 pi)
    -1.8378...
    """

    def _log_density(self, z):
        return -0.5 * (z**2 + math.log(2 * math.pi))

    def _draw(self, shape):
        return torch.randn(shape, device=self.anchor.device, dtype=self.anchor.dtype)


class StandardLogistic(_Base):
    r"""Independent standard logistic: $\log p(z) = -\mathrm{softplus}(z) - \mathrm{softplus}(-z)$.

    Source: the prior of NICE for MNIST, Dinh et al. (2014), section 3.4.
    """

    def _log_density(self, z):
        return -F.softplus(z) - F.softplus(-z)

    def _draw(self, shape):
        # The clamp keeps the logit finite where the generator returns exactly 0.
        u = torch.rand(shape, device=self.anchor.device, dtype=self.anchor.dtype)
        return torch.logit(u.clamp(min=torch.finfo(u.dtype).tiny, max=1 - torch.finfo(u.dtype).eps))


class StandardUniform(_Base):
    """Independent uniform on the unit interval; its log-density is 0 inside and -inf outside."""

    support = constraints.unit_interval

    def _log_density(self, z):
        inside = (z >= 0) & (z <= 1)
        return torch.zeros_like(z).masked_fill(~inside, -math.inf)

    def _draw(self, shape):
        return torch.rand(shape, device=self.anchor.device, dtype=self.anchor.dtype)


class Flow(nn.Module, Distribution):
    r"""The density of $x = f^{-1}(z)$ with $z$ drawn from the base.

    Args:
        bijector: the map $f$ from data to latent.
        base: the latent density; a module of this file, or any module with `log_prob(z)` of shape
            `(batch,)`, `rsample(shape)` and `event_shape`.

    Source: Dinh et al. (2014), eq. 1.

    >>> from flowcourse.foundations.change_of_variables import Affine
    >>> flow = Flow(Affine(shift=1.0, scale=2.0), StandardNormal(2))
    >>> flow.sample(5).shape
    torch.Size([5, 2])
    """

    arg_constraints: dict = {}
    has_rsample = True
    # Whether every call needs a context: a label, or the condition of a pair, see `context_for`.
    class_conditional = False
    needs_conditions = False

    def __init__(self, bijector: Bijector, base: _Base):
        nn.Module.__init__(self)
        Distribution.__init__(self, event_shape=base.event_shape, validate_args=False)
        self.bijector = bijector
        self.base = base

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(self.bijector.domain, len(self.event_shape))

    def __repr__(self) -> str:
        return nn.Module.__repr__(self)

    def log_prob(
        self, x: Float[Tensor, "batch *event"], context: Tensor | None = None
    ) -> Float[Tensor, " batch"]:
        """Exact log-density of each example, in nats."""
        z, log_det = self.bijector(x, context)
        return self.base.log_prob(z) + log_det

    # Wrappers such as DistributedDataParallel only intercept `forward`.
    forward = log_prob

    def rsample(
        self,
        sample_shape: int | Sequence[int] = (),
        context: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        r"""Draw samples through which gradients flow.

        Args:
            sample_shape: how many, an integer or a shape; the result is `(*sample_shape, *event)`.
            context: conditions, one for each sample: `(n, ...)` with `sample_shape = n`.
            temperature: scales the latent before it is mapped, $z \leftarrow T z$; below 1 the
                samples are more typical and less diverse (Kingma & Dhariwal, 2018, section 6).
        """
        shape = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
        n = math.prod(shape)
        _require_rows(context, n)
        if temperature != 1.0 and self.base.support is not constraints.real:
            raise ValueError(
                f"temperature={temperature} scales a base centred at 0, and {self.base} is not: "
                "use StandardNormal or StandardLogistic, or temperature=1."
            )
        z = self.base.rsample((n,)) * temperature
        x, _ = self.bijector.inverse(z, context)
        return x.reshape(*shape, *x.shape[1:])

    def rsample_and_log_prob(
        self, n: int, context: Tensor | None = None
    ) -> tuple[Float[Tensor, "n *event"], Float[Tensor, " n"]]:
        r"""Draw samples and score them by the noise that they come from; gradients flow.

        $\log p(x) = \log p_Z(z) - \log|\det \partial x/\partial z|$ with the $z$ that was drawn:
        one run of the inverse, and none of `forward`, whatever the flow.

        Args:
            n: how many.
            context: conditions, one row for each sample.

        Returns:
            The samples, and their log-densities in nats.

        Raises:
            ValueError: the number of context rows is not `n`.
        """
        _require_rows(context, n)
        z = self.base.rsample((n,))
        x, log_det = self.bijector.inverse(z, context)
        return x, self.base.log_prob(z) - log_det

    def sample(
        self,
        sample_shape: int | Sequence[int] = (),
        context: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draw samples without gradients; arguments as for `rsample`."""
        with torch.no_grad():
            return self.rsample(sample_shape, context, temperature)


def _require_rows(context: Tensor | None, n: int) -> None:
    if context is not None and context.shape[0] != n:
        raise ValueError(
            f"Expected one context row for each of the {n} samples and got "
            f"{context.shape[0]}: repeat the context, or change the number of samples."
        )
