"""The time series: windows of the past and of the future, against a plain cut of the file."""

import matplotlib.cbook
import numpy as np
import pytest
import torch

from flowcourse.data import load
from flowcourse.data.eeg import CHANNELS, SAMPLES, TRAIN_SAMPLES, read_eeg


def test_the_file_is_matplotlibs_and_its_values_are_continuous():
    with open(matplotlib.cbook.get_sample_data("eeg.dat", asfileobj=False), "rb") as file:
        raw = np.frombuffer(file.read())
    x = read_eeg()
    assert x.shape == (SAMPLES, CHANNELS) and np.array_equal(x.flatten(), raw)
    # The first sample holds one number of each channel: neighbours in time resemble each other.
    assert np.abs(np.diff(x, axis=0)).mean() < 0.6 * np.abs(np.diff(x, axis=1)).mean()
    for channel in x.T:
        values = np.unique(channel)
        assert len(values) == SAMPLES
        # Steps of a recorder would be multiples of the smallest one.
        multiples = np.diff(values) / np.diff(values).min()
        assert np.abs(multiples - multiples.round()).max() > 0.4


@pytest.mark.parametrize("window", [80, 30, 240])
def test_windows_of_the_past_overlap_and_those_of_the_future_lie_side_by_side(window):
    data = load("eeg", window=window)
    starts = TRAIN_SAMPLES - window + 1
    assert data.train.shape == (starts * CHANNELS, window) and data.event_shape == (window,)
    assert data.levels is None and data.train.dtype == torch.float32
    x = read_eeg()
    standard = (x - x[:TRAIN_SAMPLES].mean(axis=0)) / x[:TRAIN_SAMPLES].std(axis=0)
    for start in (0, 7, starts - 1):
        for channel in range(CHANNELS):
            ours = data.train[start * CHANNELS + channel]
            theirs = standard[start : start + window, channel]
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    together = data.test.reshape(-1, CHANNELS, window).permute(0, 2, 1).reshape(-1, CHANNELS)
    future = standard[TRAIN_SAMPLES : TRAIN_SAMPLES + len(together)]
    np.testing.assert_allclose(together, future, atol=1e-6)
    assert SAMPLES - TRAIN_SAMPLES - len(together) < window


def test_the_future_has_no_say_in_the_scale():
    past = read_eeg()[:TRAIN_SAMPLES]
    side_by_side = load("eeg", window=2).train[:: 2 * CHANNELS]
    assert abs(side_by_side.mean().item()) < 1e-6
    assert side_by_side.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert abs(past[:, 0].std() - read_eeg()[:, 0].std()) > 1e-3


def test_impossible_windows_are_explained():
    with pytest.raises(ValueError, match="2 to 240 samples, not 241"):
        load("eeg", window=241)
