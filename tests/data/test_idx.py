"""IDX files: written here, read by the package."""

import dataclasses
import gzip
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from flowcourse.data import DataError, available, load, online
from flowcourse.data.idx import read_idx


def idx_bytes(array):
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """Four small files, two of them compressed; the expected arrays lie beside them."""
    rng = np.random.default_rng(0)
    expected = {
        "train-images-idx3-ubyte.gz": rng.integers(256, size=(5, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": rng.integers(10, size=5, dtype=np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(256, size=(3, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte.gz": rng.integers(10, size=3, dtype=np.uint8),
    }
    for name, array in expected.items():
        content = idx_bytes(array)
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    np.savez(tmp_path / "expected.npz", **expected)
    return tmp_path


@given(
    array=arrays(np.uint8, array_shapes(max_dims=4, max_side=6)),
    compress=st.booleans(),
)
def test_what_was_written_is_read(array, compress, tmp_path_factory):
    path = tmp_path_factory.mktemp("idx") / ("file.gz" if compress else "file")
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if compress else content)
    read = read_idx(path)
    assert read.dtype == np.uint8 and read.shape == array.shape and np.array_equal(read, array)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_load_from_a_folder(name, folder):
    expected = np.load(folder / "expected.npz")
    data = load(name, folder=folder)
    assert data.name == name and data.levels == 256 and data.event_shape == (1, 28, 28)
    for tensor, file in [
        (data.train[:, 0], "train-images-idx3-ubyte.gz"),
        (data.test[:, 0], "t10k-images-idx3-ubyte"),
        (data.train_labels, "train-labels-idx1-ubyte"),
        (data.test_labels, "t10k-labels-idx1-ubyte.gz"),
    ]:
        assert np.array_equal(tensor.numpy(), expected[file])
    assert data.train_labels.dtype == torch.int64


def test_a_folder_installed_by_debian_is_found_unasked(folder, monkeypatch):
    source = online.SOURCES["fashion_mnist"]
    installed = dataclasses.replace(source, debian_folder=str(folder))
    monkeypatch.setitem(online.SOURCES, "fashion_mnist", installed)
    assert "fashion_mnist" in available() and "mnist" not in available()
    assert len(load("fashion_mnist").train) == 5


def test_cifar10_has_no_idx_files():
    with pytest.raises(TypeError, match="no option folder"):
        load("cifar10", folder=".")


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"\x89PNG" + content[4:], "00 00 08 and begins with 89 50 4e"),
        (lambda content: content[:2] + b"\x0d" + content[3:], "begins with 00 00 0d"),
        (lambda content: b"", "begins with nothing"),
        (lambda content: content[:9], "damaged"),
        (lambda content: content[:-1], r"damaged.*3 axes \(3, 28, 28\)"),
        (lambda content: content + b"\x00", "damaged"),
    ],
)
def test_damaged_files_are_refused(folder, change, message):
    damage(folder / "t10k-images-idx3-ubyte", change)
    with pytest.raises(DataError, match=message) as error:
        load("mnist", folder=folder)
    assert "t10k-images-idx3-ubyte" in str(error.value)


@pytest.mark.parametrize(
    "change", [lambda c: c[:-9], lambda c: b"plain", lambda c: c[:40] + b"?" + c[41:]]
)
def test_damaged_compression_is_refused(folder, change):
    damage(folder / "train-images-idx3-ubyte.gz", change)
    with pytest.raises(DataError, match="train-images-idx3-ubyte.gz"):
        load("mnist", folder=folder)


def test_a_missing_file_is_named_with_all_four(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="no file t10k-labels-idx1-ubyte or .*gz") as error:
        load("mnist", folder=folder)
    assert "train-images-idx3-ubyte" in str(error.value)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere has no file"):
        load("mnist", folder=tmp_path / "nowhere")


def test_labels_must_match_images(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(4, dtype=np.uint8)))
    with pytest.raises(DataError, match="do not belong together"):
        load("mnist", folder=folder)
