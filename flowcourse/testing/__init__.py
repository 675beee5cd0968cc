"""What proves a transformation right: one set of properties for tests, students and the book."""

from flowcourse.testing.jacobian import autograd_log_det
from flowcourse.testing.properties import (
    PROPERTIES,
    PropertyFailure,
    PropertyResult,
    Report,
    check_bijector,
)

__all__ = [
    "PROPERTIES",
    "PropertyFailure",
    "PropertyResult",
    "Report",
    "autograd_log_det",
    "check_bijector",
]
