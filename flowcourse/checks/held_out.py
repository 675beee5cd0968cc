"""Judging a density that an answer has fitted, by its values on a grid and nothing else.

A mean log-likelihood is a number that code can claim, and code that sees the held-out points can
put its mass there. So an answer is asked for log p on a grid; whether that is a density, and what
it says of points that the answer never sees, is worked out here, in an exercise's `measure`.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["at_points", "mass", "mesh"]

LOWEST = -1e3  # nats; interpolating from minus infinity would give NaN


def mesh(axes: Sequence[Float[Tensor, " steps"]]) -> Float[Tensor, "points dims"]:
    """The points of the grid with these axes, one after the other."""
    return torch.cartesian_prod(*axes).reshape(-1, len(axes))


def mass(log_p: Float[Tensor, " points"], axes: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The integral of exp(log_p) over the grid; every axis has equal steps."""
    cell = torch.stack([axis[1] - axis[0] for axis in axes]).double().prod()
    return log_p.double().exp().sum() * cell


def at_points(
    log_p: Float[Tensor, " points"], axes: Sequence[Tensor], x: Float[Tensor, "n dims"]
) -> Float[Tensor, " n"]:
    """Values of `log_p` at points inside the grid, interpolated linearly; far outside, `LOWEST`.

    Raises:
        ValueError: there is not one value for each point of the grid.
    """
    # Imported here: it takes long, every notebook with a check would wait, and few need it.
    from scipy.interpolate import RegularGridInterpolator

    shape = tuple(len(axis) for axis in axes)
    if log_p.shape != (math.prod(shape),):
        raise ValueError(
            f"expected one log-density for each of {math.prod(shape)} points, shape "
            f"({math.prod(shape)},), got {tuple(log_p.shape)}"
        )
    table = log_p.double().clamp(min=LOWEST).reshape(shape).numpy()
    lines = tuple(axis.double().numpy() for axis in axes)
    look_up = RegularGridInterpolator(lines, table, bounds_error=False, fill_value=LOWEST)
    return torch.from_numpy(look_up(x.double().numpy()))
