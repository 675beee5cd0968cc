"""Shared fixtures."""

import pytest
import torch
from hypothesis import settings

# The same examples in every run: a test that fails can be run again.
settings.register_profile("flowcourse", derandomize=True)
settings.load_profile("flowcourse")


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
