"""The table of topics: one name finds the chapter, the code, the problem set and the test.

Everything that lists topics reads this table: the tests, the README, the book's status page,
`flowcourse train NAME` and the benchmarks. Adding a topic starts with a row in its part's file.
"""

from collections.abc import Mapping

import torch

from flowcourse.catalog import (
    autoregressive,
    autoregressive_flows,
    coupling,
    curves,
    foundations,
    images,
)
from flowcourse.catalog.table import GPU_PRESET, Instance, Preset, Topic, perturbed
from flowcourse.chain_rule import AutoregressiveModel

__all__ = ["GPU_PRESET", "TOPICS", "Preset", "Topic", "instances", "models", "perturbed", "topic"]

# In teaching order.
TOPICS: tuple[Topic, ...] = (
    *foundations.TOPICS,
    *coupling.TOPICS,
    *images.TOPICS,
    *autoregressive.TOPICS,
    *autoregressive_flows.TOPICS,
    *curves.TOPICS,
)


def topic(name: str) -> Topic:
    """Look up a topic by name; raises KeyError with the known names."""
    for entry in TOPICS:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in TOPICS)
    raise KeyError(f"There is no topic {name!r}. Known topics: {known}.")


def instances(name: str, seed: int = 0) -> Mapping[str, Instance]:
    """The small bijectors of a topic, each with an input, and with its conditions if it has any."""
    entry = topic(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return entry.small(entry.import_module())


def models(name: str, seed: int = 0) -> dict[str, AutoregressiveModel]:
    """The small autoregressive models of a topic; the same ones every time."""
    entry = topic(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return entry.small_models(entry.import_module())
