"""How a set of properties is run and reported: each by its name, with its error and tolerance."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from torch import Tensor

__all__ = ["PropertyFailure", "PropertyResult", "Report", "Result", "Skip", "error", "run"]

Case = TypeVar("Case")
# The largest error, the tolerance, and a remark that stands in their place when it is not empty.
Result = tuple[float, float, str]


class PropertyFailure(AssertionError):
    """At least one property does not hold; the message lists all of them."""


class PropertyResult(NamedTuple):
    """The outcome of one property."""

    name: str
    passed: bool
    error: float
    tolerance: float
    note: str = ""

    def __str__(self) -> str:
        mark = "skip" if math.isnan(self.tolerance) else "ok" if self.passed else "FAIL"
        detail = self.note or f"error {self.error:.1e}, tolerance {self.tolerance:.0e}"
        return f"{mark:4}  {self.name:28}  {detail}"


@dataclass(frozen=True)
class Report:
    """All properties of one subject; printing it gives a table."""

    subject: str
    results: tuple[PropertyResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no property failed."""
        return all(result.passed for result in self.results)

    def __str__(self) -> str:
        return "\n".join([self.subject, *map(str, self.results)])


class Skip(Exception):
    """A property that does not apply; the message says why."""


def error(actual: Tensor, expected: Tensor) -> float:
    """Largest relative difference; infinite for a wrong shape or any NaN."""
    if actual.shape != expected.shape:
        return math.inf
    difference = (actual - expected).abs() / expected.abs().clamp(min=1)
    return math.inf if difference.isnan().any() else difference.max().item()


def run(
    subject: str,
    case: Case,
    known: Mapping[str, Callable[[Case], Result]],
    names: Iterable[str],
) -> Report:
    """Run the named properties on a case.

    Raises:
        PropertyFailure: at least one does not hold; the message is the whole table.
    """
    results = []
    for name in names:
        try:
            largest, tolerance, note = known[name](case)
            results.append(PropertyResult(name, largest <= tolerance, largest, tolerance, note))
        except Skip as reason:
            results.append(PropertyResult(name, True, 0.0, math.nan, f"not applicable: {reason}"))
        except Exception as fault:  # reported with the rest, so that one fault hides no other
            note = f"raised {type(fault).__name__}: {fault}"
            results.append(PropertyResult(name, False, math.inf, 0.0, note))
    report = Report(subject, tuple(results))
    if not report.passed:
        raise PropertyFailure(str(report))
    return report
