"""What a conditional model is conditioned on: labels, or the conditions of pairs."""

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from flowcourse.training.errors import RunError

if TYPE_CHECKING:
    from flowcourse.data import Dataset

__all__ = ["context_for", "require_context"]


def context_for(model: Any, data: "Dataset", part: Literal["train", "test"]) -> Tensor | None:
    """What the model asks for, one row for each example of a part; None if it asks for nothing.

    A model says what it asks for: `class_conditional = True` for the labels of the data,
    `needs_conditions = True` for their conditions. It takes them as its context:
    `model(x, context)`, `bits_per_dim(x, context=context)`, `sample(n, context=context)`.

    Raises:
        RunError: the model asks for something that the data lack.
    """
    if getattr(model, "class_conditional", False):
        kind, found = "labels", getattr(data, f"{part}_labels")
    elif getattr(model, "needs_conditions", False):
        kind, found = "conditions", getattr(data, f"{part}_conditions")
    else:
        return None
    if found is None:
        raise RunError(
            f"This {type(model).__name__} is conditioned on {kind}, and {data.name} has none: "
            f"choose data with {kind}, or build a model that needs none."
        )
    return found


def require_context(model: Any, context: Tensor | None) -> None:
    """Raise RunError if a conditional model is given no context."""
    flags = ("class_conditional", "needs_conditions")
    if context is None and any(getattr(model, flag, False) for flag in flags):
        raise RunError(
            f"This {type(model).__name__} is conditional and got no context: pass "
            "context=context_for(model, data, part)."
        )
