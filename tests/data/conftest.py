import dataclasses

import pytest

from flowcourse.data import online


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No data in the cache, none installed, and no network: whatever the machine really has."""

    def no_network(**_):
        raise AssertionError("a test reached for the network")

    monkeypatch.setenv("FLOWCOURSE_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr("sklearn.datasets.fetch_openml", no_network)
    for name, source in online.SOURCES.items():
        bare = dataclasses.replace(source, debian_folder=None)
        monkeypatch.setitem(online.SOURCES, name, bare)
