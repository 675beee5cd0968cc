"""Shared fixtures."""

import pytest
import torch


@pytest.fixture
def torch_seed():
    """The same random numbers in every run of a test, and no effect on the others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors: more threads only fight each other."""
    torch.set_num_threads(1)
