"""How an answer's array is compared with the reference's: each way returns a complaint or None.

NaN equals nothing, shapes never broadcast, and a float32 answer is held to float32's precision.
"""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Comparison", "at_most", "close", "equal", "same_distribution"]

Comparison = Callable[[np.ndarray, np.ndarray], str | None]

# A correct sampler fails once in ten million checks.
FALSE_ALARM_RATE = 1e-7


def close(tolerance: float = 1e-6) -> Comparison:
    """Numbers that agree to a relative tolerance, absolute below 1."""

    def compare(answer: np.ndarray, expected: np.ndarray) -> str | None:
        if complaint := _shapes_differ(answer, expected) or _not_numeric(answer):
            return complaint
        single = answer.dtype in (np.float32, np.float16)
        allowed = max(tolerance, 1e-4) if single else tolerance
        with np.errstate(invalid="ignore", over="ignore"):
            answer, expected = answer * 1.0, expected * 1.0  # truth values cannot be subtracted
            error = np.abs(answer - expected) / np.maximum(1, np.abs(expected))
        # Equal infinities agree; their difference is NaN.
        error = np.where(answer == expected, 0.0, error)
        if (error <= allowed).all():
            return None
        worst = np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape)
        where = f" at index {tuple(map(int, worst))}" if error.ndim else ""
        return (
            f"largest error {error[worst]:.2g}{where}: expected {expected[worst]:.6g}, "
            f"got {answer[worst]:.6g}."
        )

    return compare


def equal(answer: np.ndarray, expected: np.ndarray) -> str | None:
    """Exactly the same entries: for choices, orders and counts. The right one is not revealed."""
    if complaint := _shapes_differ(answer, expected):
        return complaint
    if answer.dtype.kind != expected.dtype.kind and {answer.dtype.kind, expected.dtype.kind} - set(
        "iuf"
    ):
        return f"expected entries like {_example(expected)}, got {_example(answer)}."
    wrong = int((answer != expected).sum())
    return None if wrong == 0 else f"{wrong} of {answer.size} entries are not right."


@dataclass(frozen=True)
class at_most:  # noqa: N801  (reads as the other comparisons do)
    """A number that must not exceed a limit, such as a held-out loss; the reference is not used.

    An answer could just claim such a number: it must be computed by the exercise's `measure`.
    """

    limit: float
    unit: str

    def __call__(self, answer: np.ndarray, expected: np.ndarray) -> str | None:
        """Compare; returns a complaint or None."""
        if complaint := _not_numeric(answer):
            return complaint
        if not answer.size:
            return "expected a number, got nothing."
        value = float(np.max(answer))
        if value <= self.limit:  # False for NaN
            return None
        return f"expected at most {self.limit:g} {self.unit}, got {value:.4g}."


def same_distribution(answer: np.ndarray, expected: np.ndarray) -> str | None:
    """Samples (rows) with the reference's marginals: Kolmogorov-Smirnov, false alarms below 1e-7.

    The level is shared among the columns (Bonferroni).
    """
    # Imported here: it takes long, every notebook with a check would wait, and few need it.
    from scipy.stats import ks_2samp

    if complaint := _not_numeric(answer):
        return complaint
    # A few samples agree with any distribution: as many as asked for must be there.
    if complaint := _shapes_differ(answer, expected):
        return complaint
    if not np.isfinite(answer).all():
        return "some samples are not finite."
    columns = answer.reshape(len(answer), -1), expected.reshape(len(expected), -1)
    level = FALSE_ALARM_RATE / columns[0].shape[1]
    for i, (a, b) in enumerate(zip(*(c.T for c in columns), strict=True)):
        result = ks_2samp(a, b)
        if result.pvalue < level:
            return (
                f"coordinate {i} is not distributed as it should be (Kolmogorov-Smirnov "
                f"distance {result.statistic:.3f}, p = {result.pvalue:.1e}): expected mean "
                f"{b.mean():.3f} and standard deviation {b.std():.3f}, got {a.mean():.3f} and "
                f"{a.std():.3f}."
            )
    return None


def _shapes_differ(answer: np.ndarray, expected: np.ndarray) -> str | None:
    if answer.shape == expected.shape:
        return None
    return f"expected shape {expected.shape}, got {answer.shape}."


def _not_numeric(answer: np.ndarray) -> str | None:
    if answer.dtype.kind in "biuf":
        return None
    return f"expected numbers, got {_example(answer)}."


def _example(array: np.ndarray) -> Any:
    return reprlib.repr(array.flat[0].item()) if array.size else "nothing"
