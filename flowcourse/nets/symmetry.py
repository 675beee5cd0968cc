"""The symmetries of the square, to make more training images of few."""

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

__all__ = ["SYMMETRIES", "random_symmetry", "turned"]

# Of the square: four turns, and as many mirrored ones.
SYMMETRIES = 8


def turned(
    x: Shaped[Tensor, "batch channels h w"], kind: Int[Tensor, " batch"]
) -> Shaped[Tensor, "batch channels h w"]:
    """Square images by quarter turns, `kind % 4` of them, and mirrored first if `kind >= 4`."""
    found = x
    for k in range(1, SYMMETRIES):
        image = torch.rot90(x.flip(3) if k >= 4 else x, k % 4, (2, 3))
        found = torch.where((kind == k)[:, None, None, None], image, found)
    return found


def random_symmetry(x: Shaped[Tensor, "batch channels h w"], share: float) -> Int[Tensor, " batch"]:
    """For each image a symmetry, and 0, the image as it is, for all but about this share."""
    kind = torch.randint(1, SYMMETRIES, (len(x),), device=x.device)
    return torch.where(torch.rand(len(x), device=x.device) < share, kind, 0)
