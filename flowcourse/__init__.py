"""flowcourse: a course on normalizing flows and exact-likelihood models, with tested code."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowcourse.bijector import Bijector, Compose, Inverse
    from flowcourse.flow import Flow, StandardLogistic, StandardNormal

__all__ = [
    "Bijector",
    "Compose",
    "Flow",
    "Inverse",
    "StandardLogistic",
    "StandardNormal",
    "__version__",
    "load",
]
__version__ = "0.1.0"


def load(path: str | Path) -> Any:
    """Bring a saved run back as a model that scores (`bits_per_dim`) and samples.

    Args:
        path: a run folder written by `flowcourse train`, or a checkpoint of `book/results`.
    """
    # Imported here so that the mathematics can be used without the training stack.
    from flowcourse.training import load as load_run

    return load_run(path)


# Imported when they are first asked for: `flowcourse --help` need not wait for torch, and
# `flowcourse doctor` can report that torch is missing.
_HOMES = {
    **dict.fromkeys(("Bijector", "Compose", "Inverse"), "flowcourse.bijector"),
    **dict.fromkeys(("Flow", "StandardLogistic", "StandardNormal"), "flowcourse.flow"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
