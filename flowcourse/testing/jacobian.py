"""The independent truth for log-determinants: the Jacobian that autograd sees."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["autograd_log_det"]


def autograd_log_det(
    function: Callable[..., tuple[Tensor, Tensor]],
    x: Float[Tensor, "batch *event"],
    context: Tensor | None = None,
) -> Float[Tensor, " batch"]:
    r"""$\log|\det \partial y/\partial x|$ of every example, in nats, from the full Jacobian.

    Costs $O(D)$ backward passes and $O(D^3)$ for the determinant: for tests, not for training.

    Args:
        function: a bijector, or its `inverse`: maps `(x, context)` to `(y, log_det)`; the claimed
            log-determinant is ignored.
        x: input, shape `(batch, *event)`.
        context: conditions, shape `(batch, ...)`, or None.
    """

    def one(x_i: Tensor, context_i: Tensor | None) -> Tensor:
        y, _ = function(x_i[None], None if context_i is None else context_i[None])
        return y[0].flatten()

    dims = x[0].numel()
    log_dets = []
    for i in range(x.shape[0]):
        context_i = None if context is None else context[i]
        # Fused attention has no rule for many backward passes at once, and warns of it.
        with sdpa_kernel(SDPBackend.MATH):
            jacobian = jacrev(one)(x[i], context_i).reshape(dims, dims)
        log_dets.append(torch.linalg.slogdet(jacobian).logabsdet)
    return torch.stack(log_dets)
