"""Convolutions at one place of an image, from what they were given at other places before.

A sampler fills an image position by position, and a network's feature maps change only there. So
the whole network may be run on maps of one position, or of one row: everything that works on each
position by itself needs no change, and a convolution looks its neighbours up in what it keeps.
"""

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["Place", "conv2d", "keep"]

Padding = tuple[int, int, int, int]  # left, right, top, bottom, as in `torch.nn.functional.pad`


@dataclass(frozen=True)
class Place:
    """A rectangle of an image, whose height and width are those of the tensors given with it.

    Attributes:
        size: height and width of the whole image.
        row: of the rectangle's first position.
        column: of the rectangle's first position.
        maps: what each convolution was given so far, zero-padded, by the convolution's key; one
            dict for the whole of a sampling run.
    """

    size: tuple[int, int]
    row: int
    column: int
    maps: dict[Any, Tensor] = field(repr=False)


def keep(
    x: Float[Tensor, "batch inputs rows columns"], padding: Padding, key: Any, place: Place
) -> Float[Tensor, "batch inputs height width"]:
    """Write a rectangle into the kept map of a convolution; returns the whole padded map."""
    left, right, top, bottom = padding
    if key not in place.maps:
        height, width = place.size
        place.maps[key] = x.new_zeros(*x.shape[:2], top + height + bottom, left + width + right)
    kept = place.maps[key]
    row, column = top + place.row, left + place.column
    kept[:, :, row : row + x.shape[2], column : column + x.shape[3]] = x
    return kept


def conv2d(
    x: Float[Tensor, "batch inputs rows columns"],
    weight: Float[Tensor, "outputs inputs i j"],
    bias: Float[Tensor, " outputs"] | None,
    padding: Padding,
    key: Any = None,
    place: Place | None = None,
) -> Float[Tensor, "batch outputs rows columns"]:
    """Zero-padded convolution of stride 1, of a whole image or of a rectangle of it.

    Args:
        x: the whole map, or the rectangle at `place`.
        weight: the kernel.
        bias: of each output channel.
        padding: left, right, top and bottom; so that the output is as large as the input.
        key: names this convolution in `place.maps`; a module may use itself.
        place: where the rectangle lies; None if `x` is the whole map.

    Returns:
        The output at the positions of `x`. At a place, it takes neighbours as they were given
        before, and 0 for those that were not: so everything the kernel looks at must be known.
    """
    if place is None or weight.shape[2:] == (1, 1):
        return F.conv2d(F.pad(x, padding), weight, bias)
    kept = keep(x, padding, key, place)
    height, width = x.shape[2] + weight.shape[2] - 1, x.shape[3] + weight.shape[3] - 1
    window = kept[:, :, place.row : place.row + height, place.column : place.column + width]
    return F.conv2d(window, weight, bias)
