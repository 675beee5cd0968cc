"""From a name to a `Dataset`."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from flowcourse.data.cache import cached_file
from flowcourse.data.dataset import Dataset
from flowcourse.data.digits import load_binary_digits, load_digits
from flowcourse.data.eeg import load_eeg
from flowcourse.data.imagenet import COUNTS, PIXELS, is_converted, load_imagenet
from flowcourse.data.names import (
    LOCAL,
    NAMES,
    OFFLINE,
    ONLINE,
    PUBLISHED_TABLES,
    TABLES,
    TOYS,
)
from flowcourse.data.online import (
    SOURCES,
    is_here,
    load_binary_mnist,
    load_cifar10,
    load_mnist_like,
)
from flowcourse.data.pairs import load_digit_halves, load_noisy_digits, load_noisy_patches
from flowcourse.data.photos import load_photo_patches
from flowcourse.data.published_tables import PUBLISHED, load_published_table
from flowcourse.data.tables import load_table
from flowcourse.data.toys import load_toy

__all__ = ["Summary", "available", "load", "summary"]

LOADERS: dict[str, Callable[..., Dataset]] = {
    "digits": load_digits,
    "binary_digits": load_binary_digits,
    "photo_patches": load_photo_patches,
    "digit_halves": load_digit_halves,
    "noisy_digits": load_noisy_digits,
    "noisy_patches": load_noisy_patches,
    **{name: partial(load_toy, name) for name in TOYS},
    **{name: partial(load_table, name) for name in TABLES},
    "eeg": load_eeg,
    "mnist": partial(load_mnist_like, "mnist"),
    "binary_mnist": load_binary_mnist,
    "fashion_mnist": partial(load_mnist_like, "fashion_mnist"),
    "cifar10": load_cifar10,
    **{name: partial(load_imagenet, name) for name in PIXELS},
    **{name: partial(load_published_table, name) for name in PUBLISHED_TABLES},
}


@dataclass(frozen=True)
class Summary:
    """What is known about a data set without having it.

    Attributes:
        event_shape: the shape of one example.
        levels: how many values a pixel takes; None when the data are continuous.
        examples: in the training part.
        origin: where it comes from, in words.
    """

    event_shape: tuple[int, ...]
    levels: int | None
    examples: int
    origin: str


def load(name: str, **options: Any) -> Dataset:
    r"""Load a data set by name; the same name and options always give the same tensors.

    - `digits`, `binary_digits`, `digit_halves`: no options.
    - `photo_patches`: `size` (8 or 32), `bits` (of each colour value, 1 to 8).
    - `noisy_digits`: `deviation` and `seed` of the noise; `noisy_patches`: also `size`.
    - `moons`, `circles`, `pinwheel`, `checkerboard`, `eight_gaussians`: `n`, `n_test`, `seed`, and
      `noise` (all but the checkerboard).
    - `diabetes`, `wine`, `breast_cancer`, `grey_patches`: no options.
    - `eeg`: `window` (samples in one example).
    - `mnist`, `binary_mnist`, `fashion_mnist`: `download`, `folder` (of IDX files).
    - `cifar10`: `download`.
    - `imagenet32`, `imagenet64`, `power`, `gas`, `hepmass`, `miniboone`, `bsds300`: `folder` (of
      the published files, needed once).

    Nothing is fetched unless `download=True`. What was fetched is kept under `$FLOWCOURSE_DATA`, or
    `~/.cache/flowcourse` when that is not set.

    Raises:
        ValueError: no data set has this name, or an option has a value that makes no sense; the
            message lists what exists.
        TypeError: the data set has no such option; the message lists its options.
        DataError: the data set is not on this machine, or its files are damaged.

    >>> load("digits")
    Dataset(name='digits', levels=17, event_shape=(1, 8, 8), entropy_nats=None)
    >>> load("circles", n=100).train.shape
    torch.Size([100, 2])
    """
    if name not in LOADERS:
        raise ValueError(
            f"No data set is called {name!r}. These need no network: {', '.join(OFFLINE)}. "
            f"These are fetched when asked for: {', '.join(ONLINE)}. "
            f"These are read from files that you download: {', '.join(LOCAL)}."
        )
    loader = LOADERS[name]
    accepted = list(inspect.signature(loader).parameters)
    unknown = [option for option in options if option not in accepted]
    if unknown:
        raise TypeError(
            f"load({name!r}) has no option {', '.join(unknown)}; "
            f"its options are: {', '.join(accepted) or 'none'}."
        )
    return loader(**options)


def available() -> tuple[str, ...]:
    """Names that `load` can serve on this machine without the network.

    >>> "digits" in available()
    True
    """

    def is_available(name: str) -> bool:
        if name in PUBLISHED_TABLES:
            return cached_file(name).exists()
        return name in OFFLINE or (is_converted(name) if name in PIXELS else is_here(name))

    return tuple(filter(is_available, NAMES))


def summary(name: str, **options: Any) -> Summary:
    """What `load` would give, without fetching or reading what is not on this machine.

    Raises:
        ValueError: as for `load`.

    >>> summary("imagenet64").event_shape
    (3, 64, 64)
    """
    if name in PUBLISHED:
        dims, train = PUBLISHED[name].dims, PUBLISHED[name].train
        return Summary((dims,), None, train, "files that you download: --set data.folder=")
    if name in LOCAL:
        shape = (3, PIXELS[name], PIXELS[name])
        return Summary(shape, 256, COUNTS["train"], "files that you download: --set data.folder=")
    if name in ONLINE:
        source = SOURCES["mnist" if name == "binary_mnist" else name]
        levels = 2 if name == "binary_mnist" else 256
        origin = "fetched when asked: --set data.download=true"
        return Summary(source.event_shape, levels, source.train, origin)
    data = load(name, **options)
    return Summary(data.event_shape, data.levels, len(data.train), "always there")
