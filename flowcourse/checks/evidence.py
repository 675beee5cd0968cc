"""What runs beside an answer: probe it, and bring back arrays or the failures in their place.

In grading this file is all of the engine that a sandbox holds. Nothing here knows what is right,
and nothing that comes out of here is believed: it is only compared.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Failed", "Failure", "Values", "array", "attempt", "gather", "tensors"]


@dataclass(frozen=True)
class Failure:
    """What stands in the place of an array when computing it raised an exception."""

    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


class Failed(Exception):
    """Raised where a value is asked for and a failure stands in its place."""

    def __init__(self, failure: Failure):
        super().__init__(str(failure))
        self.failure = failure


Values = dict[str, "np.ndarray | Failure"]


def gather(
    probe: Callable[..., dict[str, Any]], answer: Any, inputs: Mapping[str, Any], seed: int
) -> Values | Failure:
    """Probe an answer: an array, or the failure that came instead, under each name.

    Everything random in the probe (networks, base samples) follows from the seed, so that answer,
    reference and mistakes meet the same numbers.

    Returns:
        The values, or the failure of the probe as a whole.
    """
    found: Values = {}
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        results = attempt(probe, answer, **tensors(inputs))
        if isinstance(results, Failure):
            return results
        for name, value in results.items():
            torch.manual_seed(seed + 1)
            found[name] = attempt(array, value)
    return found


def tensors(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs as a probe gets them: arrays as tensors of its own, the rest as it is."""
    return {
        name: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        for name, value in inputs.items()
    }


def attempt(compute: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """The value, or the failure in its place: a student's code may raise anything."""
    try:
        return compute(*arguments, **named)
    except Failed as error:
        return error.failure
    except Exception as error:
        return Failure(type(error).__name__, str(error))


def array(value: Any) -> np.ndarray:
    """An array of a number, text, list, tensor, or what a function of no arguments returns."""
    if callable(value) and not isinstance(value, Tensor):
        value = value()
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    found = np.asarray(value)
    if found.dtype.kind not in "biufU":
        raise TypeError(f"expected numbers or strings, got {type(value).__name__}")
    return found


@contextlib.contextmanager
def _quiet():
    """Drop what a probe prints: stderr in a test cell would cost its points in nbgrader."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
