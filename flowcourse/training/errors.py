"""What can go wrong with a run, as two kinds of error that a command prints without a traceback."""

__all__ = ["RunError", "TrainingDiverged"]


class RunError(ValueError):
    """A run cannot be started, continued or read; the message says what to do about it."""


class TrainingDiverged(RuntimeError):
    """The loss or its gradient is no longer a finite number."""
