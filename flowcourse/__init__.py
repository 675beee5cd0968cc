"""flowcourse: a course on normalizing flows and exact-likelihood models, with tested code."""

from pathlib import Path
from typing import Any

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
