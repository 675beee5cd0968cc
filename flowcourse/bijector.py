r"""The contract that every transformation in the course keeps.

A bijector maps data $x$ to a latent $z$ and back, and says by how much it changes volume:

    forward(x)  -> z, log|det dz/dx|        data -> latent, the normalizing direction
    inverse(z)  -> x, log|det dx/dz|        latent -> data, the generative direction

What every subclass owes:

- `log_det` has shape `(batch,)`, in nats: one number for each example, summed over other axes.
- Each example is transformed independently of the rest of its batch (in `eval` mode).
- The two directions undo each other, and their log-determinants are negatives of each other.
- Output tensors have the dtype and the device of the input.

`flowcourse.testing.check_bijector` proves these properties for any bijector.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import constraints

from flowcourse.recomputation import recomputed

__all__ = ["Bijector", "Compose", "Inverse", "NoInverseError", "sum_event"]

LogDet = Float[Tensor, " batch"]


class NoInverseError(NotImplementedError):
    """Raised by a bijector whose inverse exists but has no formula."""


def sum_event(terms: Float[Tensor, "batch *event"]) -> LogDet:
    """Sum everything that belongs to one example: all axes except the first.

    >>> import torch
    >>> sum_event(torch.ones(2, 3, 4))
    tensor([12., 12.])
    """
    # Spelled out so that scalar events and empty batches work too.
    return terms.reshape(terms.shape[0], math.prod(terms.shape[1:])).sum(dim=1)


class Bijector(nn.Module):
    r"""An invertible, differentiable map with a known Jacobian determinant.

    Subclasses implement `forward` and, where a formula exists, `inverse`.

    Attributes:
        domain: the set of valid data `x` (a `torch.distributions` constraint).
        codomain: the set of latents `z` that the map reaches.

    Source: change of variables, Dinh et al. (2014), eq. 1; the direction is that of NICE,
    RealNVP, Glow and Flow++. The book's notation page lists who uses which.
    """

    domain: constraints.Constraint = constraints.real
    codomain: constraints.Constraint = constraints.real

    def forward(
        self, x: Float[Tensor, "batch *event"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "batch *latent"], LogDet]:
        r"""Map data to latent.

        Args:
            x: data, shape `(batch, *event)`.
            context: what the map is conditioned on, shape `(batch, ...)`, if anything.

        Returns:
            The latent `z`, and $\log|\det \partial z/\partial x|$ in nats, shape `(batch,)`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward(x, context).")

    def inverse(
        self, z: Float[Tensor, "batch *latent"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "batch *event"], LogDet]:
        r"""Map latent to data.

        Returns:
            The data `x`, and $\log|\det \partial x/\partial z|$ in nats, shape `(batch,)`.

        Raises:
            NoInverseError: the map has no analytic inverse.
        """
        raise NoInverseError(
            f"{type(self).__name__} has no analytic inverse. It can score data (forward) but not "
            "sample; use Inverse(...) of it where only sampling is needed, or a coupling layer, "
            "which inverts by formula."
        )


class Compose(Bijector):
    r"""Several bijectors one after the other: `Compose(f, g)(x) = g(f(x))`.

    The Jacobian of a composition is a product, so the log-determinants add:
    $\log|\det J_{g \circ f}(x)| = \log|\det J_f(x)| + \log|\det J_g(f(x))|$.

    Attributes:
        recompute: keep only the input of each step for the backward pass, and compute the rest
            again; same values, same gradients, less memory.
    """

    recompute = False

    def __init__(self, *bijectors: Bijector):
        super().__init__()
        if not bijectors:
            raise ValueError("Compose expects at least one bijector and got none.")
        self.bijectors = nn.ModuleList(bijectors)
        self.domain = bijectors[0].domain
        self.codomain = bijectors[-1].codomain

    def forward(self, x, context=None):
        log_det = x.new_zeros(x.shape[0])
        for bijector in self.bijectors:
            x, term = self._apply_step(bijector, bijector, x, context)
            log_det = log_det + term
        return x, log_det

    def inverse(self, z, context=None):
        log_det = z.new_zeros(z.shape[0])
        for bijector in reversed(self.bijectors):
            z, term = self._apply_step(bijector, bijector.inverse, z, context)
            log_det = log_det + term
        return z, log_det

    def steps(self) -> Iterator[Any]:
        """The bijectors that hold no further composition."""
        return (b for b in self.bijectors if _is_step(b))

    def _apply_step(self, bijector, function, x, context):
        # What holds a composition leaves it to that one: done here too, it would be done twice.
        if self.recompute and torch.is_grad_enabled() and _is_step(bijector):
            return recomputed(bijector, function, x, context)
        return function(x, context)

    def __getitem__(self, index: int) -> Any:
        return self.bijectors[index]

    def __len__(self) -> int:
        return len(self.bijectors)


def _is_step(bijector: nn.Module) -> bool:
    return not any(isinstance(module, Compose) for module in bijector.modules())


class Inverse(Bijector):
    """The same map read the other way: its forward is the wrapped bijector's inverse."""

    def __init__(self, bijector: Bijector):
        super().__init__()
        self.bijector = bijector
        self.domain, self.codomain = bijector.codomain, bijector.domain

    def forward(self, x, context=None):
        return self.bijector.inverse(x, context)

    def inverse(self, z, context=None):
        return self.bijector(z, context)
