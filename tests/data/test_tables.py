"""Tables of measurements: noise, columns, split, and the differences of grey patches."""

import numpy as np
import pytest
import sklearn.datasets
import torch

from flowcourse.data import TABLES, load
from flowcourse.data.tables import blurred, often_smallest, patch_differences, uncorrelated

COLUMNS = {"diabetes": 8, "wine": 13, "breast_cancer": 21, "grey_patches": 63}


@pytest.mark.parametrize("name", TABLES)
def test_columns_are_standardised_by_the_training_rows(name):
    table = load(name)
    assert table.levels is None and table.event_shape == (COLUMNS[name],)
    assert table.train.dtype == table.test.dtype == torch.float32
    train = table.train.double()
    np.testing.assert_allclose(train.mean(dim=0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(dim=0, correction=0), 1, rtol=1e-5)
    # The test rows were not asked.
    assert table.test.double().mean(dim=0).abs().max() > 1e-3
    # No plane holds the data: a density on it could be infinite.
    assert np.linalg.eigvalsh(train.T.cov().numpy())[0] > 1e-4


@pytest.mark.parametrize("name", ["diabetes", "wine", "breast_cancer"])
def test_rows_are_scikit_learns_and_none_is_lost(name):
    table = load(name)
    n = len(getattr(sklearn.datasets, f"load_{name}")().data)
    assert len(table.train) + len(table.test) == n and len(table.test) == round(0.2 * n)


@pytest.mark.parametrize("name", TABLES)
def test_no_value_comes_twice_in_a_column(name):
    for column in load(name).train.double().T:
        _, counts = np.unique(column.numpy(), return_counts=True)
        # Single precision merges a few of many values; digits that were rounded would merge most.
        assert counts.max() <= 1 + len(column) // 2000


def test_noise_is_as_wide_as_the_last_digit():
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(0, 9, 500), rng.integers(0, 90, 500) / 10.0], axis=1)
    noise = blurred(x, np.random.default_rng(1)) - x
    assert (noise >= 0).all() and (noise < [1 + 1e-9, 0.1 + 1e-9]).all()
    assert noise.max(axis=0) == pytest.approx([1, 0.1], rel=0.05)


def test_of_columns_that_nearly_agree_one_remains():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 300))
    x = np.stack([a, b, a + 0.01 * rng.normal(size=300), -b, 5 * a], axis=1)
    # The first of a group goes first; a column that runs the other way stays, as in the program.
    assert uncorrelated(x) == [1, 3, 4]


def test_columns_that_hold_their_smallest_value_often_are_left_out():
    x = np.arange(40.0).reshape(20, 2)
    x[:6, 0] = -1
    x[:5, 1] = -1
    assert often_smallest(x).tolist() == [True, False]
    bunch = sklearn.datasets.load_diabetes(scaled=False)
    names = np.array(bunch.feature_names)
    assert names[often_smallest(bunch.data)].tolist() == ["sex", "s4"]


def test_patches_are_differences_from_their_mean_without_the_last_pixel():
    rng = np.random.default_rng(0)
    patches = rng.integers(256, size=(50, 3, 8, 8)).astype(np.uint8)
    out = patch_differences(patches, np.random.default_rng(1))
    assert out.shape == (50, 63)
    grey = patches.mean(axis=1).reshape(50, 64) / 256
    centred = grey - grey.mean(axis=1, keepdims=True)
    # Rounding moves a value by half a level at most, and noise and its mean by one.
    assert np.abs(out - centred[:, :-1]).max() < 2 / 256
    bright = patch_differences(np.clip(patches // 2 + 100, 0, 255), np.random.default_rng(1))
    dark = patch_differences(patches // 2, np.random.default_rng(1))
    np.testing.assert_allclose(bright, dark, atol=1e-12)
