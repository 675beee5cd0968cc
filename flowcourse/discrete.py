"""What models of discrete data share."""

from torch import Tensor

__all__ = ["require_levels"]


def require_levels(x: Tensor, levels: int) -> Tensor:
    """Return `x` if it holds integers in `0..levels-1`, of any dtype.

    Raises:
        ValueError: it holds something else, such as data that were rescaled.
    """
    if x.is_meta:  # holds no values
        return x
    low, high = x.min(), x.max()
    if low < 0 or high > levels - 1 or (x.is_floating_point() and (x % 1).any()):
        raise ValueError(
            f"Expected integers in 0..{levels - 1} and got values from {low.item():g} to "
            f"{high.item():g}: pass the raw levels; a model of discrete data rescales by itself."
        )
    return x
