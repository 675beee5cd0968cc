"""The five published tables, from tiny files in their formats: each step against plain numpy."""

import dataclasses

import numpy as np
import pytest
import torch

from flowcourse.data import DataError, available, load, published_tables, summary
from flowcourse.data.cache import cached_file
from flowcourse.data.published_tables import CONVERSIONS, PUBLISHED

NAMES = tuple(PUBLISHED)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sized(monkeypatch, name, dims, train, test):
    """Let the tiny files count as the published ones."""
    tiny = dataclasses.replace(PUBLISHED[name], dims=dims, train=train, test=test)
    monkeypatch.setitem(published_tables.PUBLISHED, name, tiny)


def save(folder, path, array):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / path, array)


def test_power_is_shuffled_blurred_and_standardised_without_the_test_rows(
    tmp_path, monkeypatch, rng
):
    raw = np.round(rng.normal(10, 3, size=(200, 8)), 1)
    save(tmp_path, "power/data.npy", raw)
    sized(monkeypatch, "power", 6, 180, 20)
    table = load("power", folder=tmp_path)

    legacy = np.random.RandomState(42)
    order = raw.copy()
    legacy.shuffle(order)
    kept = order[:, [0, 2, 4, 5, 6, 7]]
    noise = np.zeros((200, 6))
    noise[:, 1] = 0.01 * legacy.rand(200)
    noise[:, 0] = 0.001 * legacy.rand(200)
    noise[:, 2:5] = legacy.rand(200, 3)
    kept = kept + noise
    expected = (kept - kept[:180].mean(axis=0)) / kept[:180].std(axis=0)
    np.testing.assert_allclose(table.train, expected[:180], atol=1e-5)
    np.testing.assert_allclose(table.test, expected[180:], atol=1e-5)


def test_gas_loses_correlated_sensors_and_counts_test_rows_in_its_statistics(
    tmp_path, monkeypatch, rng
):
    a = rng.normal(size=(100, 3))
    raw = np.column_stack([a[:, 0] + 1e-3 * a[:, 1], a, 3 * a[:, 2] + 2])
    save(tmp_path, "gas/sensors.npy", raw)
    sized(monkeypatch, "gas", 3, 90, 10)
    table = load("gas", folder=tmp_path)
    expected = raw[:, [1, 2, 4]]
    expected = (expected - expected.mean(axis=0)) / expected.std(axis=0, ddof=1)
    np.testing.assert_allclose(np.concatenate([table.train, table.test]), expected, atol=1e-6)


def test_hepmass_keeps_the_signal_and_drops_columns_whose_smallest_value_is_frequent(
    tmp_path, monkeypatch, rng
):
    def write(name, n, extra):
        rows = rng.normal(size=(n, 5))
        rows[:, 0] = np.arange(n) % 2
        rows[:, 2] = np.maximum(rows[:, 2], 0.0)  # half of them at the smallest value
        rows[:, 3] = np.minimum(rows[:, 3], 0.0)  # half of them at the largest
        if extra:
            rows = np.column_stack([rows, rng.normal(size=n)])
        path = tmp_path / "hepmass" / name
        path.parent.mkdir(exist_ok=True)
        np.savetxt(path, rows, delimiter=",", header="# label,f0,f1,f2,f3", comments="")
        return rows[rows[:, 0] == 1, 1:5]

    train, test = write("1000_train.csv", 80, False), write("1000_test.csv", 40, True)
    sized(monkeypatch, "hepmass", 3, 40, 20)
    table = load("hepmass", folder=tmp_path)
    mean, deviation = train.mean(axis=0), train.std(axis=0, ddof=1)
    # The released program counts the smallest value only, so the column capped above stays.
    kept = [0, 2, 3]
    np.testing.assert_allclose(table.train, ((train - mean) / deviation)[:, kept], atol=1e-5)
    np.testing.assert_allclose(table.test, ((test - mean) / deviation)[:, kept], atol=1e-5)


def test_miniboone_is_cut_and_standardised(tmp_path, monkeypatch, rng):
    raw = rng.normal(5, 2, size=(50, 4))
    save(tmp_path, "miniboone/data.npy", raw)
    sized(monkeypatch, "miniboone", 4, 45, 5)
    table = load("miniboone", folder=tmp_path)
    expected = (raw - raw[:45].mean(axis=0)) / raw[:45].std(axis=0)
    np.testing.assert_allclose(np.concatenate([table.train, table.test]), expected, atol=1e-5)


def test_bsds300_is_taken_as_it_is_with_validation_last(tmp_path, monkeypatch, rng):
    parts = {name: rng.normal(size=(n, 63)) for name, n in
             [("train", 20), ("validation", 6), ("test", 8)]}  # fmt: skip
    for name, rows in parts.items():
        save(tmp_path, f"BSDS300/{name}.npy", rows)
    sized(monkeypatch, "bsds300", 63, 26, 8)
    table = load("bsds300", folder=tmp_path)
    np.testing.assert_allclose(table.train[20:], parts["validation"], atol=1e-6)
    np.testing.assert_allclose(table.test, parts["test"], atol=1e-6)


def test_the_files_are_needed_once_and_what_is_kept_is_checked(tmp_path, monkeypatch, rng):
    save(tmp_path, "miniboone/data.npy", rng.normal(size=(50, 4)))
    sized(monkeypatch, "miniboone", 4, 45, 5)
    assert "miniboone" not in available()
    first = load("miniboone", folder=tmp_path)
    (tmp_path / "miniboone/data.npy").unlink()
    assert "miniboone" in available()
    assert torch.equal(load("miniboone").train, first.train)
    cached_file("miniboone").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"is damaged.*load\('miniboone', folder=\.\.\.\)"):
        load("miniboone")


@pytest.mark.parametrize("name", NAMES)
def test_without_files_the_way_to_get_them_is_shown(tmp_path, name):
    with pytest.raises(DataError, match="zenodo") as error:
        load(name)
    assert "folder=" in str(error.value)
    assert (name in CONVERSIONS) == ("python -c" in str(error.value))
    with pytest.raises(DataError, match=r"There is no file .*zenodo"):
        load(name, folder=tmp_path)


@pytest.mark.parametrize("name", CONVERSIONS)
def test_the_conversion_that_is_shown_is_python(name):
    compile(CONVERSIONS[name], "conversion", "exec")


def test_other_files_are_refused_and_nothing_is_kept(tmp_path, rng):
    save(tmp_path, "miniboone/data.npy", rng.normal(size=(50, 4)))
    with pytest.raises(DataError, match=r"train of shape \(32840, 43\) and has \(45, 4\)"):
        load("miniboone", folder=tmp_path)
    save(tmp_path, "miniboone/data.npy", rng.normal(size=50))
    with pytest.raises(DataError, match="holds an array of shape"):
        load("miniboone", folder=tmp_path)
    (tmp_path / "miniboone/data.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match="cannot be read.*get it again"):
        load("miniboone", folder=tmp_path)
    (tmp_path / "hepmass").mkdir()
    (tmp_path / "hepmass/1000_train.csv").write_text("# label\nx\n")
    with pytest.raises(DataError, match="1000_train.csv cannot be read"):
        load("hepmass", folder=tmp_path)
    assert not cached_file("miniboone").exists()


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_known_without_the_files(name):
    known = summary(name)
    # Rows of the splits that the paper prints: a tenth is held out, twice, or as HEPMASS came.
    assert known.levels is None and known.event_shape == (PUBLISHED[name].dims,)
    assert known.examples == PUBLISHED[name].train > 8 * PUBLISHED[name].validation
