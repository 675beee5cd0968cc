"""A recorded time series that Matplotlib ships: windows of four channels of brain waves."""

import matplotlib.cbook
import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from flowcourse.data.dataset import Dataset

__all__ = ["load_eeg", "read_eeg"]

CHANNELS, SAMPLES = 4, 800
TRAIN_SAMPLES = 560


def read_eeg() -> np.ndarray:
    """The recording as Matplotlib ships it, `(samples, channels)`, double precision.

    No two values of a channel are the same: the digits of the recorder were lost before the file
    was made, so the values count as continuous.
    """
    path = matplotlib.cbook.get_sample_data("eeg.dat", asfileobj=False)
    return np.fromfile(path, dtype=np.float64).reshape(SAMPLES, CHANNELS)


def load_eeg(window: int = 80) -> Dataset:
    """Windows of one channel each, float32, of the past for training and of the future for testing.

    The first 560 samples of each channel are for training: every window that lies in them, so that
    windows overlap, in the order of time. The last 240 samples are for testing: windows side by
    side, from the first test sample on. Each channel has mean 0 and deviation 1 over its training
    samples.

    Args:
        window: samples in one example; the test part must hold one.

    Raises:
        ValueError: a window that is too long or too short.

    >>> load_eeg().train.shape, load_eeg().test.shape
    (torch.Size([1924, 80]), torch.Size([12, 80]))
    """
    if not 2 <= window <= SAMPLES - TRAIN_SAMPLES:
        raise ValueError(
            f"A window of eeg has 2 to {SAMPLES - TRAIN_SAMPLES} samples, not {window}."
        )
    x = read_eeg()
    past, future = x[:TRAIN_SAMPLES], x[TRAIN_SAMPLES:]
    mean, deviation = past.mean(axis=0), past.std(axis=0)

    def windows(part: np.ndarray, step: int) -> torch.Tensor:
        standard = (part - mean) / deviation
        # (starts, channels, window): all channels of one start before the next start.
        cut = sliding_window_view(standard, window, axis=0)[::step]
        return torch.from_numpy(cut.reshape(-1, window).astype(np.float32))

    return Dataset(
        name="eeg",
        train=windows(past, 1),
        test=windows(future, window),
        levels=None,
        event_shape=(window,),
        license="none stated for the file; Matplotlib ships it under its own licence",
        attribution="eeg.dat of Matplotlib's sample data, https://matplotlib.org",
    )
