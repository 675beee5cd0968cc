"""Activations that are computed twice instead of being kept: memory for time.

The backward pass of a layer needs what its forward pass computed inside. Kept for every layer at
once, this grows with depth, and in a deep flow it is nearly all of the memory. A recomputed layer
keeps its inputs only, and runs forward again when its backward pass is due.

Source: Chen et al. (2016), arXiv:1604.06174.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["recomputed"]


def recomputed(module: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`, without keeping what it computes on the way.

    The second run draws the same random numbers, so that dropout has the same gradient, and writes
    to copies of the module's buffers, so that running averages move once.

    Args:
        module: whose buffers the function may write to.
        function: usually the module itself, or a method of it.
        *args: its arguments.
    """
    return checkpoint(
        function,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _on_copies_of_buffers(module)),
    )


@contextmanager
def _on_copies_of_buffers(module: nn.Module) -> Iterator[None]:
    # The originals stay untouched, not only restored: autograd may have them on its records.
    homes = [
        (home, name, buffer)
        for home in module.modules()
        for name, buffer in home.named_buffers(recurse=False)
    ]
    for home, name, buffer in homes:
        home._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for home, name, buffer in homes:
            home._buffers[name] = buffer
