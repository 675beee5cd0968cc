"""Scikit-learn's handwritten digits: the data of the course's running thread."""

from dataclasses import replace

import sklearn.datasets
import torch

from flowcourse.data.dataset import Dataset

__all__ = ["load_binary_digits", "load_digits"]

TRAIN_SIZE = 1500
THRESHOLD = 8  # of 0..16


def load_digits() -> Dataset:
    """1797 grey images of 8x8 pixels with 17 levels, 0 to 16.

    Train is the first 1500, test the last 297, in the order in which scikit-learn ships them. The
    order seems to follow the writers; a shuffled split would put each hand on both sides.

    Source: Alpaydin & Kaynak (1998), test part of the UCI set, as shipped with scikit-learn.

    >>> load_digits().train.shape
    torch.Size([1500, 1, 8, 8])
    """
    bunch = sklearn.datasets.load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    return Dataset(
        name="digits",
        train=images[:TRAIN_SIZE],
        test=images[TRAIN_SIZE:],
        levels=17,
        event_shape=(1, 8, 8),
        license="CC BY 4.0 (UCI Machine Learning Repository)",
        attribution="E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, "
        "UCI Machine Learning Repository, doi:10.24432/C50P49",
        train_labels=labels[:TRAIN_SIZE],
        test_labels=labels[TRAIN_SIZE:],
    )


def load_binary_digits() -> Dataset:
    """The digits in black and white: 1 where the grey level is 8 or more; the same split.

    Thirteen test images look like a training image once they have only two levels.

    >>> load_binary_digits()
    Dataset(name='binary_digits', levels=2, event_shape=(1, 8, 8), entropy_nats=None)
    """
    grey = load_digits()
    return replace(
        grey,
        name="binary_digits",
        train=(grey.train >= THRESHOLD).to(torch.uint8),
        test=(grey.test >= THRESHOLD).to(torch.uint8),
        levels=2,
    )
