"""Every random choice of a run, as a function of its seed and of where the run stands.

No generator's state is carried from one step to the next, so none has to be saved: a run that is
continued, or spread over more processes, draws what it would have drawn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["EVALUATION", "INITIALIZE", "NOISE", "SAMPLE", "VALIDATE"]
__all__ += ["batch_indices", "derive", "private_randomness"]

# What a number is drawn for; the first word of its key.
ORDER, INITIALIZE, NOISE, VALIDATE, EVALUATION, SAMPLE = range(6)


def derive(purpose: int, seed: int, *place: int) -> int:
    """A seed for one purpose and one place of a run, independent of all the others.

    >>> derive(NOISE, 0, 7, 1) == derive(NOISE, 0, 7, 1) != derive(NOISE, 0, 1, 7)
    True
    """
    state = np.random.SeedSequence((purpose, seed, *place)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, n: int) -> Int[Tensor, " n"]:
    generator = torch.Generator().manual_seed(derive(ORDER, seed, epoch))
    return torch.randperm(n, generator=generator)


def batch_indices(step: int, batch_size: int, n: int, seed: int) -> Int[Tensor, " batch_size"]:
    """Which of `n` examples update number `step` looks at.

    The permutations of all epochs, one after the other, make one endless list, and batches are cut
    from it: no example is dropped, and a batch may be larger than the data.
    """
    first, last = step * batch_size, (step + 1) * batch_size
    parts = []
    for epoch in range(first // n, (last - 1) // n + 1):
        start = epoch * n
        parts.append(_permutation(seed, epoch, n)[max(first - start, 0) : last - start])
    return torch.cat(parts)


@contextmanager
def private_randomness() -> Iterator[None]:
    """Whatever is seeded or drawn inside leaves the caller's generators as they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        yield
