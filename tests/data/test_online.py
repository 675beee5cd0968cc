"""The sets that are fetched when asked for, with a small stand-in for the network."""

import dataclasses
import os
from http.client import IncompleteRead
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch

from flowcourse.data import OFFLINE, DataError, available, load, online
from flowcourse.data.cache import cached_file

TRAIN, TEST = 7, 4
SOURCES = dict(online.SOURCES)  # taken before the fixtures change them
every_online_set = pytest.mark.parametrize("name", SOURCES)


@pytest.fixture
def openml(name, monkeypatch):
    """A data set of 11 rows behind `fetch_openml`, in the types in which OpenML's come."""
    source = dataclasses.replace(
        online.SOURCES[name], train=TRAIN, test=TEST, test_class_counts=(1, 2, 1)
    )
    monkeypatch.setitem(online.SOURCES, name, source)
    rng = np.random.default_rng(0)
    data = rng.integers(256, size=(TRAIN + TEST, np.prod(source.event_shape))).astype(float)
    target = np.array(list("2220001" + "1012"), dtype=object)
    server = SimpleNamespace(data=data, target=target, calls=[])

    def fetch_openml(**options):
        server.calls.append(options)
        return server

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch_openml)
    return server


@every_online_set
def test_the_standard_split_is_described(name):
    source = SOURCES[name]
    assert sum(source.test_class_counts) == source.test == 10_000
    assert source.train == (50_000 if name == "cifar10" else 60_000)


@every_online_set
def test_fetched_once_then_read_from_the_cache(name, openml):
    data = load(name, download=True)
    [call] = openml.calls
    assert call["data_id"] == SOURCES[name].data_id
    assert call["parser"] == "liac-arff"
    assert call["as_frame"] is False and call["cache"] is False

    shape = (3, 32, 32) if name == "cifar10" else (1, 28, 28)
    assert data.event_shape == shape and data.levels == 256 and data.train.dtype == torch.uint8
    assert data.train.shape == (TRAIN, *shape) and data.test.shape == (TEST, *shape)
    together = torch.cat([data.train, data.test]).flatten(1).numpy()
    assert np.array_equal(together, openml.data)
    assert data.train_labels.tolist() == [2, 2, 2, 0, 0, 0, 1]
    assert data.test_labels.tolist() == [1, 0, 1, 2]

    again = load(name)
    assert len(openml.calls) == 1 and name in available()
    assert torch.equal(again.train, data.train) and torch.equal(again.test, data.test)
    assert torch.equal(again.test_labels, data.test_labels)


@pytest.mark.parametrize("name", ["mnist"])
def test_binary_mnist_is_mnist_in_black_and_white(name, openml):
    assert "binary_mnist" not in available()
    binary, grey = load("binary_mnist", download=True), load("mnist")
    assert binary.levels == 2 and "binary_mnist" in available()
    for part in ("train", "test"):
        assert torch.equal(getattr(binary, part) == 1, getattr(grey, part) > 127)
    assert torch.equal(binary.test_labels, grey.test_labels)
    assert len(openml.calls) == 1


@every_online_set
def test_train_and_test_are_different_rows(name, openml):
    data = load(name, download=True)
    train = {row.numpy().tobytes() for row in data.train}
    assert not [row for row in data.test if row.numpy().tobytes() in train]


@pytest.mark.parametrize("name", ["cifar10"])
def test_colours_come_as_planes(name, openml):
    openml.data[:] = np.repeat([10, 20, 30], 32 * 32)
    pixel = load(name, download=True).train[0, :, 5, 7]
    assert pixel.tolist() == [10, 20, 30]


@every_online_set
@pytest.mark.parametrize(
    "failure", [URLError("no route"), TimeoutError("slow"), IncompleteRead(b""), ValueError("md5")]
)
def test_a_failed_download_says_what_works_instead(name, failure, monkeypatch):
    def fetch_openml(**_):
        raise failure

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch_openml)
    with pytest.raises(DataError, match=f"{name} could not be fetched") as error:
        load(name, download=True)
    assert error.value.__cause__ is failure and repr(failure) in str(error.value)
    assert all(offline in str(error.value) for offline in OFFLINE)
    assert not cached_file(name).exists()


def wrong_order(server):
    server.target = server.target[::-1]


def missing_rows(server):
    server.data, server.target = server.data[:-1], server.target[:-1]


def scaled_pixels(server):
    server.data = server.data / 255


def negative_pixels(server):
    server.data = server.data - 1


@every_online_set
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (wrong_order, "standard test set"),
        (missing_rows, "came as"),
        (scaled_pixels, "integers in 0..255"),
        (negative_pixels, "integers in 0..255"),
    ],
)
def test_what_is_not_the_standard_set_is_refused_and_not_kept(name, openml, spoil, message):
    spoil(openml)
    with pytest.raises(DataError, match=message):
        load(name, download=True)
    assert not cached_file(name).exists()


@pytest.mark.skipif(
    not os.path.isdir(SOURCES["fashion_mnist"].debian_folder),
    reason="Debian's package dataset-fashion-mnist is not installed",
)
def test_the_installed_fashion_mnist_is_the_standard_set(monkeypatch):
    source = SOURCES["fashion_mnist"]
    monkeypatch.setitem(online.SOURCES, "fashion_mnist", source)
    data = load("fashion_mnist")
    assert data.train.shape == (source.train, *source.event_shape)
    assert data.test.shape == (source.test, *source.event_shape)
    assert tuple(data.test_labels.bincount().tolist()) == source.test_class_counts
