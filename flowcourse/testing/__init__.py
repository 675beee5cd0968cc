"""What proves a model right: sets of properties for tests, students and the book."""

from flowcourse.testing.autoregressive import (
    AUTOREGRESSIVE_PROPERTIES,
    check_autoregressive,
    dependencies,
)
from flowcourse.testing.jacobian import autograd_log_det
from flowcourse.testing.properties import PROPERTIES, check_bijector
from flowcourse.testing.report import PropertyFailure, PropertyResult, Report

__all__ = [
    "AUTOREGRESSIVE_PROPERTIES",
    "PROPERTIES",
    "PropertyFailure",
    "PropertyResult",
    "Report",
    "autograd_log_det",
    "check_autoregressive",
    "check_bijector",
    "dependencies",
]
