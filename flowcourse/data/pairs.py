"""Pairs for conditional models: what is to be predicted, and the picture it is predicted from."""

from dataclasses import replace

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from flowcourse.data.dataset import Dataset
from flowcourse.data.digits import load_digits
from flowcourse.data.photos import load_photo_patches

__all__ = ["load_digit_halves", "load_noisy_digits", "load_noisy_patches", "with_noise"]


def load_digit_halves() -> Dataset:
    """The lower halves of the digits, each with its upper half as its condition; the same split.

    >>> halves = load_digit_halves()
    >>> halves.train.shape, halves.train_conditions.shape
    (torch.Size([1500, 1, 4, 8]), torch.Size([1500, 1, 4, 8]))
    """
    digits = load_digits()
    (train_upper, train), (test_upper, test) = (
        (x[:, :, :4].contiguous(), x[:, :, 4:].contiguous()) for x in (digits.train, digits.test)
    )
    return replace(
        digits,
        name="digit_halves",
        train=train,
        test=test,
        event_shape=(1, 4, 8),
        train_conditions=train_upper,
        test_conditions=test_upper,
    )


def load_noisy_digits(deviation: float = 4.0, seed: int = 0) -> Dataset:
    """The digits, each with a noisy picture of itself as its condition; the same split.

    Args:
        deviation: of the noise, in grey levels; the digits have the levels 0 to 16.
        seed: of the noise, which is drawn once for each image.

    >>> noisy = load_noisy_digits()
    >>> noisy.train.dtype, noisy.train_conditions.dtype
    (torch.uint8, torch.float32)
    """
    return with_noise(replace(load_digits(), name="noisy_digits"), deviation, seed)


def load_noisy_patches(deviation: float = 25.0, seed: int = 0, size: int = 32) -> Dataset:
    """Photo patches, each with a noisy picture of itself as its condition.

    Args:
        deviation: of the noise, on the scale of the 256 levels.
        seed: of the noise, which is drawn once for each patch.
        size: 8 or 32, in pixels, see `load_photo_patches`.
    """
    return with_noise(replace(load_photo_patches(size), name="noisy_patches"), deviation, seed)


def with_noise(data: Dataset, deviation: float, seed: int) -> Dataset:
    """Give each image a condition: itself plus Gaussian noise, neither rounded nor clipped.

    Args:
        data: integer images.
        deviation: of the noise, in levels.
        seed: of the noise; train and test draw from it one after the other.

    Raises:
        ValueError: `deviation` is not positive.
    """
    if not deviation > 0:
        raise ValueError(f"The noise needs a positive deviation, and got {deviation!r}.")
    generator = torch.Generator().manual_seed(seed)

    def noisy(x: Integer[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        return x + deviation * torch.randn(x.shape, generator=generator, device=x.device)

    return replace(data, train_conditions=noisy(data.train), test_conditions=noisy(data.test))
