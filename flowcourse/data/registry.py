"""From a name to a `Dataset`."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from flowcourse.data.dataset import Dataset
from flowcourse.data.digits import load_binary_digits, load_digits
from flowcourse.data.names import NAMES, OFFLINE, ONLINE, TOYS
from flowcourse.data.online import is_here, load_binary_mnist, load_cifar10, load_mnist_like
from flowcourse.data.pairs import load_digit_halves, load_noisy_digits, load_noisy_patches
from flowcourse.data.photos import load_photo_patches
from flowcourse.data.toys import load_toy

__all__ = ["available", "load"]

LOADERS: dict[str, Callable[..., Dataset]] = {
    "digits": load_digits,
    "binary_digits": load_binary_digits,
    "photo_patches": load_photo_patches,
    "digit_halves": load_digit_halves,
    "noisy_digits": load_noisy_digits,
    "noisy_patches": load_noisy_patches,
    **{name: partial(load_toy, name) for name in TOYS},
    "mnist": partial(load_mnist_like, "mnist"),
    "binary_mnist": load_binary_mnist,
    "fashion_mnist": partial(load_mnist_like, "fashion_mnist"),
    "cifar10": load_cifar10,
}


def load(name: str, **options: Any) -> Dataset:
    r"""Load a data set by name; the same name and options always give the same tensors.

    - `digits`, `binary_digits`, `digit_halves`: no options.
    - `photo_patches`: `size` (8 or 32), `bits` (of each colour value, 1 to 8).
    - `noisy_digits`: `deviation` and `seed` of the noise; `noisy_patches`: also `size`.
    - `moons`, `circles`, `pinwheel`, `checkerboard`, `eight_gaussians`: `n`, `n_test`, `seed`, and
      `noise` (all but the checkerboard).
    - `mnist`, `binary_mnist`, `fashion_mnist`: `download`, `folder` (of IDX files).
    - `cifar10`: `download`.

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
            f"These are fetched when asked for: {', '.join(ONLINE)}."
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
    return tuple(name for name in NAMES if name in OFFLINE or is_here(name))
