r"""Where an increasing curve reaches a height: Newton steps kept inside a bracket.

One root finder for every curve of this course that has no inverse in closed form. It works on all
coordinates of a batch at once, and gradients pass by the implicit function theorem.

Book: `book/coupling/flowpp.md` and `book/autoregressive_flows/transformers.md`. Source: Ho, Chen,
Srinivas, Duan & Abbeel (2019), section 3.2 (bisection).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Curve", "NoConvergenceError", "invert"]

# Heights and log-slopes at points of any shape, coordinate by coordinate.
Curve = Callable[[Tensor], tuple[Tensor, Tensor]]

# How often a bracket is doubled: to 10^19, which a single-precision number still holds.
DOUBLINGS = 64


class NoConvergenceError(ArithmeticError):
    """Raised by the root finder when it has not reached its tolerance."""


def invert(
    curve: Curve,
    z: Float[Tensor, "*any"],
    guess: Float[Tensor, "*any"],
    bracket: tuple[Tensor, Tensor] | None = None,
    *,
    tolerance: float | None = None,
    max_iterations: int = 200,
) -> Float[Tensor, "*any"]:
    r"""The $x$ at which an increasing curve is $z$, coordinate by coordinate.

    Each evaluation moves one end of the bracket. A Newton step that would leave the bracket, or
    that is not half as long as the step before last, gives way to bisection. A log-slope that is
    only nearly right costs steps, and no accuracy.

    Gradients pass by the implicit function theorem: $dx = (dz - \text{the curve's own change}) /
    \text{slope}$, so they reach whatever the curve depends on.

    Args:
        curve: heights and log-slopes; increasing, and continuous.
        z: what the curve shall reach.
        guess: where to begin, inside the bracket if there is one.
        bracket: two ends between which every root lies; by default they are looked for, by steps
            from the guess that double until the curve has passed $z$ on either side.
        tolerance: of $x$, relative to $\max(1, |x|)$: the last step, or the bracket, is at most
            this long. By default 4 units of rounding of the dtype. Where the curve is flat, less
            is needed: nothing is gained once its value is $z$ up to rounding.
        max_iterations: evaluations of the curve after which to give up.

    Raises:
        NoConvergenceError: some coordinate has not reached the tolerance, or has no bracket.
    """
    if tolerance is None:
        tolerance = 4 * torch.finfo(z.dtype).eps
    with torch.no_grad():
        low, high = _bracket(curve, z, guess) if bracket is None else bracket
        found = _root(curve, z, guess, low, high, tolerance, max_iterations)
    # Changes nothing but the gradient.
    there, log_slope = curve(found)
    residual = there - z
    return found - (residual - residual.detach()) * torch.exp(-log_slope).detach()


def _bracket(curve: Curve, z: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
    low, high, width = guess, guess, torch.ones_like(guess)
    for _ in range(DOUBLINGS):
        below, above = curve(low)[0] <= z, curve(high)[0] >= z
        if z.is_meta or (below & above).all():
            return low, high
        low, high = torch.where(below, low, low - width), torch.where(above, high, high + width)
        width = 2 * width
    missing = ~(below & above)
    raise NoConvergenceError(
        f"After {DOUBLINGS} doublings of the bracket, the curve has not passed "
        f"{missing.sum().item()} of {missing.numel()} values, such as {z[missing][0].item():.3g}. "
        "It must increase, and be onto the reals; NaN means that a network returned NaN."
    )


def _root(curve, z, x, low, high, tolerance, max_iterations):
    step = before = high - low
    done = torch.zeros_like(z, dtype=torch.bool)
    rounding = 4 * torch.finfo(z.dtype).eps * z.abs().clamp(min=1)
    for _ in range(max_iterations):
        there, log_slope = curve(x)
        done = done | ((there - z).abs() <= rounding)
        low, high = torch.where(there < z, x, low), torch.where(there < z, high, x)
        newton = x - (there - z) * torch.exp(-log_slope)
        trusted = (newton >= low) & (newton <= high) & (2 * (newton - x).abs() <= before)
        following = torch.where(trusted, newton, low + (high - low) / 2)
        # A root that is found stays: what is left to its steps is rounding.
        following = torch.where(done, x, following)
        before, step, x = step, (following - x).abs(), following
        allowed = tolerance * x.abs().clamp(min=1)
        done = done | (step <= allowed) | (high - low <= allowed)
        if z.is_meta or done.all():  # on meta there are shapes only
            return x
    raise NoConvergenceError(
        f"After {max_iterations} iterations, {(~done).sum().item()} of {done.numel()} roots are "
        f"not known to {tolerance:.1e}; the widest bracket is {(high - low).max().item():.1e}. "
        "Allow more iterations or a larger tolerance; NaN means that a network returned NaN."
    )
