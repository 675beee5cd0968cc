"""What `load` returns: a train set and a test set, and what is known about them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["DataError", "Dataset"]


class DataError(RuntimeError):
    """A data set cannot be had: it is absent, damaged, or not in the expected format."""


@dataclass(frozen=True, eq=False)
class Dataset:
    r"""A data set, split once and for all into train and test.

    Attributes:
        name: the name that `load` knows it by.
        train: `(n, *event_shape)`; images are uint8 with values `0..levels-1`, points are float32.
        test: as `train`, from other originals (rows, or regions of a photo).
        levels: how many values a pixel takes; None when the data are continuous.
        event_shape: the shape of one example, `(C, H, W)` for images.
        license: under which terms the data may be used.
        attribution: whom to credit, in the form that the licence asks for.
        entropy_nats: entropy of the true density in nats, where it is known. No model's expected
            negative log-likelihood is lower.
        log_density: the true log-density in nats, `(*batch, *event_shape) -> (*batch)`, of any
            dtype and on any device, where it is known.
        train_labels: int64 `(n,)`, where the data have classes.
        test_labels: as `train_labels`.
        train_conditions: `(n, ...)`, where each example comes with something to predict it from:
            half of an image, a noisy picture.
        test_conditions: as `train_conditions`.

    Raises:
        ValueError: the tensors do not have the stated shape, type or range.
    """

    name: str
    train: Tensor = field(repr=False)
    test: Tensor = field(repr=False)
    levels: int | None
    event_shape: tuple[int, ...]
    license: str = field(default="", repr=False)
    attribution: str = field(default="", repr=False)
    entropy_nats: float | None = None
    log_density: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    train_labels: Tensor | None = field(default=None, repr=False)
    test_labels: Tensor | None = field(default=None, repr=False)
    train_conditions: Tensor | None = field(default=None, repr=False)
    test_conditions: Tensor | None = field(default=None, repr=False)

    def __post_init__(self):
        for part, x, labels, conditions in (
            ("train", self.train, self.train_labels, self.train_conditions),
            ("test", self.test, self.test_labels, self.test_conditions),
        ):
            where = f"{self.name}.{part}"
            if len(x) == 0 or tuple(x.shape[1:]) != tuple(self.event_shape):
                raise ValueError(
                    f"{where} should have shape (n, {', '.join(map(str, self.event_shape))}) with "
                    f"n > 0 and has {tuple(x.shape)}: reshape it, or correct event_shape."
                )
            if labels is not None and labels.shape != x.shape[:1]:
                raise ValueError(
                    f"{where}_labels should have shape ({len(x)},) and has {tuple(labels.shape)}: "
                    "give one label for each example."
                )
            if conditions is not None and len(conditions) != len(x):
                raise ValueError(
                    f"{where}_conditions should have {len(x)} rows and has {len(conditions)}: "
                    "give one condition for each example."
                )
            if self.levels is None:
                if not x.is_floating_point():
                    raise ValueError(
                        f"{where} holds {x.dtype} and levels is None, which means continuous data: "
                        "give levels, or convert to floating point."
                    )
            elif x.dtype == torch.uint8 and self.levels == 256:
                pass  # Every byte is a level; a file of them is not read for that.
            # Compared as Python integers: 256 does not fit into uint8.
            elif x.is_floating_point() or x.min().item() < 0 or x.max().item() >= self.levels:
                raise ValueError(
                    f"{where} should hold integers in 0..{self.levels - 1} and holds {x.dtype} in "
                    f"{x.min().item()}..{x.max().item()}: correct levels, or quantise the data."
                )
