"""What each exercise must satisfy, one file for each problem set, and the engine that decides.

A student calls `check("nice.additive_coupling", AdditiveCoupling)`; an author declares the exercise
once, with `@exercise`, in `flowcourse/checks/nice.py`.
"""

from flowcourse.checks.compare import at_most, close, equal, same_distribution
from flowcourse.checks.engine import Exercise, Outcome, Score, check, exercise, exercises, get

__all__ = [
    "Exercise",
    "Outcome",
    "Score",
    "at_most",
    "check",
    "close",
    "equal",
    "exercise",
    "exercises",
    "get",
    "same_distribution",
]
