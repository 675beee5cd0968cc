"""Options that treat a model step by step: what is kept for the backward pass, what is compiled."""

from collections.abc import Iterator

from torch import nn

from flowcourse.bijector import Compose
from flowcourse.training.errors import RunError

__all__ = ["compile_steps", "recompute_steps"]

# A step is compiled anew for every shape, mask and mode that it is met with; more is eager.
VARIANTS = 128


def recompute_steps(model: nn.Module, recompute: bool) -> None:
    """Let a flow keep only the inputs of its steps for the backward pass, or everything again.

    Raises:
        RunError: the model is no composition of bijectors, so it has no steps.
    """
    composed = list(_composed(model))
    if recompute and not composed:
        raise RunError(
            f"recompute=True is for compositions of bijectors, and {type(model).__name__} holds "
            "none: raise micro_batches instead, which saves memory in every model."
        )
    for compose in composed:
        compose.recompute = recompute


def compile_steps(model: nn.Module) -> None:
    """Compile each step of a flow, or a model without steps as a whole, with `torch.compile`.

    A deep flow repeats a few kinds of steps: compiled one by one they share their code, and it
    takes seconds where the whole takes many minutes. Random numbers are drawn as without
    compilation, so the losses are the same up to rounding.
    """
    import torch._dynamo.config as limits

    limits.recompile_limit = max(limits.recompile_limit, VARIANTS)
    parts = [step for compose in _composed(model) for step in compose.steps()]
    for part in parts or [model]:
        part.compile(options={"fallback_random": True})


def _composed(model: nn.Module) -> Iterator[Compose]:
    return (module for module in model.modules() if isinstance(module, Compose))
