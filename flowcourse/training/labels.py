"""Labels, for the models that ask for them."""

from typing import Any

from torch import Tensor

from flowcourse.training.errors import RunError

__all__ = ["labels_for"]


def labels_for(model: Any, labels: Tensor | None) -> Tensor | None:
    """The labels if a model is class-conditional, that is, if it says so; None for any other.

    Such a model has `class_conditional = True` and takes labels as its context:
    `model(x, labels)`, `bits_per_dim(x, context=labels)`, `sample(n, context=labels)`.

    Raises:
        RunError: the model asks for labels, and there are none.
    """
    if not getattr(model, "class_conditional", False):
        return None
    if labels is None:
        raise RunError(
            f"This {type(model).__name__} is class-conditional and the data have no labels: choose "
            "data with labels, or build the model without classes."
        )
    return labels
