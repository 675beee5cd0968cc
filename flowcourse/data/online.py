"""MNIST, Fashion-MNIST and CIFAR-10: from a folder, from the cache, or from OpenML when asked for.

They are looked for in this order: the folder that was given, the cache, Debian's folder for
Fashion-MNIST (package `dataset-fashion-mnist`), and the network if `download=True`.
"""

import math
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path

import numpy as np
import sklearn.datasets
import torch

from flowcourse.data.cache import cache_folder, cached_file, read_cache, write_cache
from flowcourse.data.dataset import DataError, Dataset
from flowcourse.data.idx import read_idx_folder
from flowcourse.data.names import OFFLINE

__all__ = ["is_here", "load_binary_mnist", "load_cifar10", "load_mnist_like"]

THRESHOLD = 128  # of 0..255


@dataclass(frozen=True)
class Source:
    """A data set of OpenML whose first `train` rows are for training and the rest for testing."""

    data_id: int
    train: int
    test: int
    event_shape: tuple[int, int, int]
    test_class_counts: tuple[int, ...]
    license: str
    attribution: str
    debian_folder: str | None = None


SOURCES = {
    "mnist": Source(
        data_id=554,
        train=60_000,
        test=10_000,
        event_shape=(1, 28, 28),
        test_class_counts=(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
        license="CC BY-SA 3.0",
        attribution="Y. LeCun, C. Cortes and C. Burges (1998), The MNIST database of handwritten "
        "digits",
    ),
    "fashion_mnist": Source(
        data_id=40996,
        train=60_000,
        test=10_000,
        event_shape=(1, 28, 28),
        test_class_counts=(1000,) * 10,
        license="MIT, copyright 2017 Zalando SE",
        attribution="H. Xiao, K. Rasul and R. Vollgraf (2017), Fashion-MNIST, arXiv:1708.07747",
        debian_folder="/usr/share/datasets/fashion-mnist",
    ),
    "cifar10": Source(
        data_id=40927,
        train=50_000,
        test=10_000,
        event_shape=(3, 32, 32),
        test_class_counts=(1000,) * 10,
        license="none stated; the authors ask to be cited",
        attribution="A. Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images, "
        "technical report, University of Toronto",
    ),
}


def load_mnist_like(name: str, download: bool = False, folder: str | Path | None = None) -> Dataset:
    """`mnist` or `fashion_mnist`: 60000 and 10000 grey images of 28x28 pixels, 256 levels.

    Args:
        name: `mnist` or `fashion_mnist`.
        download: may the data be fetched from OpenML if they are not on this machine?
        folder: read the four IDX files (plain or `.gz`) of this folder, and nothing else.

    Raises:
        DataError: the data are not on this machine, could not be fetched, or are damaged.
    """
    if folder is not None:
        return _dataset(name, read_idx_folder(folder))
    return _load(name, download)


def load_binary_mnist(download: bool = False, folder: str | Path | None = None) -> Dataset:
    """`mnist` in black and white: 1 where the grey level is 128 or more; the same split.

    The "binarized MNIST" of most papers is another data set: each pixel was drawn at random, with
    its grey level as the probability of a 1. Likelihoods on the two cannot be compared.

    Args:
        download: as for `mnist`.
        folder: as for `mnist`.

    Raises:
        DataError: as for `mnist`.
    """
    grey = load_mnist_like("mnist", download, folder)
    black_and_white = {
        part: (getattr(grey, part) >= THRESHOLD).to(torch.uint8) for part in ("train", "test")
    }
    return replace(grey, name="binary_mnist", levels=2, **black_and_white)


def load_cifar10(download: bool = False) -> Dataset:
    """50000 and 10000 colour images of 32x32 pixels, 256 levels. Fetching needs about 4 GB of RAM.

    Args:
        download: may the data be fetched from OpenML if they are not on this machine?

    Raises:
        DataError: the data are not on this machine, could not be fetched, or are damaged.
    """
    return _load("cifar10", download)


def is_here(name: str) -> bool:
    """Can this data set be loaded without the network?"""
    name = "mnist" if name == "binary_mnist" else name
    return cached_file(name).exists() or _debian_folder(name) is not None


def _load(name: str, download: bool) -> Dataset:
    debian = _debian_folder(name)
    if cached_file(name).exists():
        arrays = read_cache(name)
    elif debian is not None:
        arrays = read_idx_folder(debian)
    elif download:
        arrays = _fetch(name)
        write_cache(name, arrays)
    else:
        raise DataError(f"{name} is not on this machine. {_ways_to_get(name)}")
    return _dataset(name, arrays)


def _dataset(name: str, arrays: dict[str, np.ndarray]) -> Dataset:
    # The copy gives torch memory that it may write to; arrays read from bytes are read-only.
    parts = {part: torch.from_numpy(array.copy()) for part, array in arrays.items()}
    source = SOURCES[name]
    return Dataset(
        name=name,
        train=parts["train"],
        test=parts["test"],
        levels=256,
        event_shape=tuple(parts["train"].shape[1:]),
        license=source.license,
        attribution=source.attribution,
        train_labels=parts["train_labels"].long(),
        test_labels=parts["test_labels"].long(),
    )


def _debian_folder(name: str) -> str | None:
    folder = SOURCES[name].debian_folder
    return folder if folder is not None and Path(folder).is_dir() else None


def _fetch(name: str) -> dict[str, np.ndarray]:
    source = SOURCES[name]
    try:
        # cache=False: scikit-learn would keep a second, larger copy.
        # liac-arff: scikit-learn's other parser needs pandas, and breaks with pandas 3.1.
        bunch = sklearn.datasets.fetch_openml(
            data_id=source.data_id, parser="liac-arff", as_frame=False, cache=False
        )
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(f"{name} could not be fetched: {error!r}. {_ways_to_get(name)}") from error

    rows, pixels = source.train + source.test, math.prod(source.event_shape)
    images, labels = np.asarray(bunch.data), np.asarray(bunch.target).astype(np.int64)
    integers = images.astype(np.uint8) if images.shape == (rows, pixels) else None
    if integers is None or not np.array_equal(integers, images):
        raise DataError(
            f"OpenML's data set {source.data_id} should hold ({rows}, {pixels}) integers in 0..255 "
            f"for {name} and came as {images.dtype} of shape {images.shape}. {_ways_to_get(name)}"
        )
    # The rows have no mark of train or test; the class counts of the standard test set show that
    # the order is the standard one.
    counts = tuple(np.bincount(labels[source.train :]).tolist())
    if counts != source.test_class_counts:
        raise DataError(
            f"The last {source.test} rows of OpenML's data set {source.data_id} should be {name}'s "
            f"standard test set, with {source.test_class_counts} examples of each class, and hold "
            f"{counts}. {_ways_to_get(name)}"
        )
    integers = integers.reshape(rows, *source.event_shape)
    train, test = slice(source.train), slice(source.train, None)
    return {
        "train": integers[train],
        "test": integers[test],
        "train_labels": labels[train],
        "test_labels": labels[test],
    }


def _ways_to_get(name: str) -> str:
    ways = [
        f"with a network, load({name!r}, download=True) fetches it once and keeps it in "
        f"{cache_folder()} (set FLOWCOURSE_DATA for another place)"
    ]
    if name != "cifar10":
        ways.append(f"load({name!r}, folder=...) reads a folder of the four IDX files")
    if SOURCES[name].debian_folder is not None:
        ways.append("Debian's package dataset-fashion-mnist installs such a folder, found unasked")
    return f"Ways to get it: {'; '.join(ways)}. These need no network: {', '.join(OFFLINE)}."
