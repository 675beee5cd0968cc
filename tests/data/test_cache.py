"""The cache: what was kept comes back whole, or not at all."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from flowcourse.data import DataError, load
from flowcourse.data.cache import cache_folder, cached_file, read_cache, write_cache

ARRAYS = {
    "train": np.arange(2 * 784, dtype=np.uint8).reshape(2, 1, 28, 28),
    "test": np.zeros((1, 1, 28, 28), dtype=np.uint8),
    "train_labels": np.array([3, 1]),
    "test_labels": np.array([2]),
}


def test_the_folder_follows_the_environment_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWCOURSE_DATA", str(tmp_path))
    assert cached_file("mnist") == tmp_path / "mnist.npz"
    monkeypatch.delenv("FLOWCOURSE_DATA")
    assert cache_folder() == Path.home() / ".cache" / "flowcourse"


def test_what_was_kept_comes_back_with_its_checksum():
    write_cache("mnist", ARRAYS)
    back = read_cache("mnist")
    assert back.keys() == ARRAYS.keys()
    for part, array in ARRAYS.items():
        assert back[part].dtype == array.dtype and np.array_equal(back[part], array)
    file = cached_file("mnist")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert Path(f"{file}.sha256").read_text() == f"{digest}  mnist.npz\n"
    assert sorted(os.listdir(cache_folder())) == ["mnist.npz", "mnist.npz.sha256"]
    assert load("mnist").train_labels.tolist() == [3, 1]


@pytest.mark.parametrize("position", [0, 100, -1])
def test_one_wrong_byte_is_refused(position):
    write_cache("mnist", ARRAYS)
    content = bytearray(cached_file("mnist").read_bytes())
    content[position] ^= 1
    cached_file("mnist").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged: its sha256.*Delete .*download=True") as error:
        load("mnist")
    assert str(cached_file("mnist")) in str(error.value)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("")])
def test_without_checksum_the_data_are_refused(spoil):
    write_cache("mnist", ARRAYS)
    spoil(Path(f"{cached_file('mnist')}.sha256"))
    with pytest.raises(DataError, match=r"sha256 is missing or empty.*Delete"):
        load("mnist", download=True)


@pytest.mark.parametrize("survivors", [0, 1])
def test_a_write_that_is_cut_off_leaves_nothing_to_load(monkeypatch, survivors):
    replaced = []
    replace = os.replace

    def cut_off(source, target):
        if len(replaced) == survivors:
            raise KeyboardInterrupt
        replaced.append(target)
        replace(source, target)

    # A context of its own: undoing everything would also give back the machine's real cache.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", cut_off)
        write_cache("mnist", ARRAYS)
    assert not cached_file("mnist").exists()
    write_cache("mnist", ARRAYS)
    assert read_cache("mnist").keys() == ARRAYS.keys()
