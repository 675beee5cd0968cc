"""Colour patches cut from scikit-learn's two sample photos: small natural images, offline."""

from itertools import product

import numpy as np
import torch
from jaxtyping import UInt8
from sklearn.datasets import load_sample_images
from torch import Tensor

from flowcourse.data.dataset import Dataset

__all__ = ["cut", "load_photo_patches", "patch_corners"]

HEIGHT, WIDTH = 427, 640
PERIOD, TRAIN_COLUMNS, TEST_COLUMNS = 128, (0, 80), (88, 120)

# The names are those that scikit-learn's images/README.txt gives, except that it prints the first
# photographer's name beside the second's address.
ATTRIBUTION = (
    "china.jpg by danielbuechele, "
    "https://www.flickr.com/photos/danielbuechele/6061409035/sizes/z/in/photostream/ ; "
    "flower.jpg by vultilion, "
    "https://www.flickr.com/photos/vultilion/6056698931/sizes/z/in/photostream/ ; "
    "both CC BY 2.0, https://creativecommons.org/licenses/by/2.0/ , shipped with scikit-learn; "
    "changed here: cut into patches."
)

Corner = tuple[int, int, int]


def load_photo_patches(size: int = 8, bits: int = 8) -> Dataset:
    """Patches of `size` x `size` pixels, three colours, 256 levels or fewer.

    Each photo (427 rows, 640 columns) is divided into five vertical stripes of 128 columns: 80 for
    training, 8 unused, 32 for testing, 8 unused. So both sets are spread over both photos and share
    no pixel; as the borders are multiples of 8, they share no 8x8 block of the JPEG code either.
    Neighbouring train patches overlap by three quarters, test patches not at all.

    Train patches come stripe by stripe, and within a stripe photo by photo. Held out for
    validation, the last fifth of them (one stripe) shares no pixel with the others.

    Args:
        size: 8 or 32, in pixels.
        bits: how many of the 8 bits of each colour value are kept, the highest; 2**bits levels.

    Raises:
        ValueError: another size or number of bits.

    >>> load_photo_patches(size=32).test.shape
    torch.Size([130, 3, 32, 32])
    """
    if size not in (8, 32):
        raise ValueError(f"photo_patches come in size=8 and size=32, not size={size!r}.")
    if bits not in range(1, 9):
        raise ValueError(f"photo_patches come in bits=1 to bits=8, not bits={bits!r}.")
    photos = [photo >> (8 - bits) for photo in load_sample_images().images]
    train, test = patch_corners(size)
    return Dataset(
        name="photo_patches",
        train=cut(photos, train, size),
        test=cut(photos, test, size),
        levels=2**bits,
        event_shape=(3, size, size),
        license="CC BY 2.0",
        attribution=ATTRIBUTION,
    )


def patch_corners(size: int) -> tuple[list[Corner], list[Corner]]:
    """Where the train patches and the test patches lie: `(photo, top row, left column)` each."""
    return _corners(size, size // 4, *TRAIN_COLUMNS), _corners(size, size, *TEST_COLUMNS)


def _corners(size: int, step: int, first: int, end: int) -> list[Corner]:
    stripes = range(0, WIDTH, PERIOD)
    tops = range(0, HEIGHT - size + 1, step)
    lefts = range(first, end - size + 1, step)
    return [
        (photo, top, stripe + left)
        for stripe, photo, top, left in product(stripes, range(2), tops, lefts)
    ]


def cut(
    photos: list[np.ndarray], corners: list[Corner], size: int
) -> UInt8[Tensor, "n 3 {size} {size}"]:
    """Cut patches out of photos of shape `(rows, columns, 3)`."""
    patches = [photos[p][top : top + size, left : left + size] for p, top, left in corners]
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).contiguous()
