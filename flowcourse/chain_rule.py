r"""The contract of autoregressive models: the chain rule, one dimension after the other.

$$\log P(x) = \sum_{k=1}^{D} \log P(x_{o_k} \mid x_{o_1}, \dots, x_{o_{k-1}})$$

The order $o$ is a part of the model and is always explicit. What a subclass owes is the network:
`logits(h)` maps the encoded example to the logits of every conditional at once, and the logits of a
dimension may depend on dimensions that come *before* it and on nothing else.
`flowcourse.testing.check_autoregressive` proves that, and that the rest follows.

Scoring takes one pass. Sampling takes $D$ steps, one after the other: it is the sampling of these
models that is sequential, not their training.

Book: `book/autoregressive/made.md`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flowcourse.bijector import sum_event
from flowcourse.discrete import require_levels

__all__ = ["AutoregressiveModel", "one_hot", "raster"]


def raster(event_shape: Sequence[int]) -> list[int]:
    """The order of reading: row by row, in a row pixel by pixel, in a pixel R, then G, then B.

    Returns:
        For each place in the order, the index of its dimension in the flattened example.

    >>> raster((3, 1, 2))
    [0, 2, 4, 1, 3, 5]
    """
    # NumPy, because a model may be built on torch's meta device, where tensors hold no numbers.
    index = np.arange(math.prod(event_shape)).reshape(event_shape)
    return (np.moveaxis(index, 0, -1) if index.ndim == 3 else index).flatten().tolist()


def one_hot(x: Tensor, levels: int) -> Float[Tensor, "batch levels *event"]:
    """Integers, in a floating-point dtype, as `levels` numbers each: an encoding, see `encode`."""
    return F.one_hot(x.long(), levels).movedim(-1, 1).to(x.dtype)


class AutoregressiveModel(nn.Module):
    r"""A model of discrete data by the chain rule; its likelihoods are exact.

    A subclass implements `logits`, and overrides `encode` if its network wants something else than
    one number in [-1, 1] for each dimension, and `conditional` if it can compute the logits of one
    dimension more cheaply than by a pass over all of them.

    Args:
        event_shape: shape of one example.
        levels: the data take values 0, ..., levels - 1.
        order: for each place in the order, the index of its dimension in the flattened example;
            `raster(event_shape)` by default.

    Raises:
        ValueError: fewer than two levels, or an order that is no permutation.
    """

    kind = "exact"

    def __init__(self, event_shape: Sequence[int], levels: int, order: Sequence[int] | None = None):
        super().__init__()
        if levels < 2:
            raise ValueError(f"An autoregressive model expects two levels or more, not {levels}.")
        self.event_shape = torch.Size(event_shape)
        self.levels = levels
        self.order = raster(event_shape) if order is None else list(order)
        if sorted(self.order) != list(range(self.dims)):
            raise ValueError(
                f"order should name each of the {self.dims} dimensions of an example of shape "
                f"{tuple(event_shape)} once, and is {self.order}."
            )

    @property
    def dims(self) -> int:
        """The number of dimensions of one example, all axes multiplied."""
        return math.prod(self.event_shape)

    # What a subclass provides

    def encode(self, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch k *event"]:
        """What the network is given: `k` numbers for each dimension, functions of it alone."""
        return (2 * x / (self.levels - 1) - 1).unsqueeze(1)

    def logits(
        self, h: Float[Tensor, "batch k *event"], context: Tensor | None = None
    ) -> Float[Tensor, "batch *event levels"]:
        """Unnormalised log-probabilities of every dimension's levels, given earlier dimensions."""
        raise NotImplementedError(f"{type(self).__name__} must implement logits(h, context).")

    def conditional(
        self,
        x: Float[Tensor, "batch *event"],
        place: int,
        context: Tensor | None = None,
        cache: dict[Any, Any] | None = None,
    ) -> Float[Tensor, "batch levels"]:
        """Logits of the dimension at one place of the order, given `x` at earlier places.

        Args:
            x: an example whose dimensions at this and later places hold anything.
            place: from 0; a sampler asks for 0, 1, 2, ... in turn.
            context: conditions, shape `(batch, ...)`.
            cache: one dict for the whole of a sampling run, empty at place 0, in which a subclass
                keeps activations so that it need not compute them again; None forbids it.
        """
        every = self.logits(self.encode(x), context).flatten(1, -2)
        return every[:, self.order[place]]

    # What follows from it

    def conditional_logits(
        self, x: Tensor, context: Tensor | None = None
    ) -> Float[Tensor, "batch *event levels"]:
        r"""Logits of $P(x_{o_k} \mid x_{o_1}, \dots, x_{o_{k-1}})$ for all $k$, in one pass."""
        return self.logits(self.encode(self._check(x)), context)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Float[Tensor, " batch"]:
        r"""$\log P(x)$ of each example, in nats, exact.

        Args:
            x: integers in `0..levels-1`, of any dtype, shape `(batch, *event)`.
            context: conditions, shape `(batch, ...)`, if the model has any.
        """
        log_p = F.log_softmax(self.conditional_logits(x, context), dim=-1)
        return sum_event(log_p.gather(-1, x.long().unsqueeze(-1)).squeeze(-1))

    # Wrappers such as DistributedDataParallel only intercept `forward`.
    def forward(self, x: Tensor, context: Tensor | None = None) -> Float[Tensor, " batch"]:
        """`log_prob`: what training maximises."""
        return self.log_prob(x, context)

    def bits_per_dim(
        self, x: Tensor, draws: int = 1, context: Tensor | None = None
    ) -> Float[Tensor, " batch"]:
        r"""$-\log_2 P(x) / D$ of each example, exact: `draws` is there for bounds, and ignored."""
        # Imported here: no support module needs a topic to be there.
        from flowcourse.foundations.likelihood import bits_per_dim

        return bits_per_dim(-self.log_prob(x, context), self.dims)

    def sample(
        self,
        n: int,
        temperature: float = 1.0,
        *,
        context: Tensor | None = None,
        noise: Float[Tensor, "n *event"] | None = None,
        cached: bool = True,
    ) -> Int[Tensor, "n *event"]:
        """Draw integers, one dimension after the other.

        Args:
            n: how many.
            temperature: divides the logits; below 1 the likeliest levels are drawn more often.
            context: one condition for each sample.
            noise: one uniform number in [0, 1) for each dimension, which alone decides the sample:
                the level where the cumulative probabilities pass it. Drawn if None.
            cached: whether activations may be kept from one step to the next.
        """
        x = torch.zeros(
            n, *self.event_shape, dtype=torch.int64, device=next(self.parameters()).device
        )
        nothing = torch.zeros(self.event_shape, dtype=torch.bool, device=x.device)
        return self.complete(x, nothing, temperature, context=context, noise=noise, cached=cached)

    @torch.no_grad()
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        temperature: float = 1.0,
        *,
        context: Tensor | None = None,
        noise: Float[Tensor, "batch *event"] | None = None,
        cached: bool = True,
    ) -> Int[Tensor, "batch *event"]:
        """Draw what is missing, given the first dimensions of the order.

        Args:
            x: integers of shape `(batch, *event)`; where `known` is False they are not looked at.
            known: shape `event`, True for the dimensions to keep; a beginning of the order.
            temperature: as for `sample`.
            context: as for `sample`.
            noise: as for `sample`.
            cached: as for `sample`.

        Raises:
            ValueError: an unknown dimension comes before a known one. The exact conditional of such
                a pattern needs a sum over all the unknown ones, or a model with another order.
        """
        flags = known.flatten()[self.order]
        given = 0 if known.is_meta else int(flags.sum())
        if not known.is_meta and not flags[:given].all():
            raise ValueError(
                f"The known dimensions must be the first ones of the model's order, and place "
                f"{int((~flags).nonzero()[0])} is unknown while a later one is known: complete a "
                "beginning, or train a model whose order starts with what you know."
            )
        like = next(self.parameters())
        shape = (len(x), *self.event_shape)
        if noise is None:
            noise = torch.rand(shape, dtype=like.dtype, device=like.device)
        steps = noise.flatten(1)
        found = torch.where(known, require_levels(x, self.levels), 0).to(like.dtype)
        flat = found.view(len(x), self.dims)
        cache: dict[Any, Any] | None = {} if cached else None
        for place in range(self.dims):
            if place < given and not cached:
                continue
            logits = self.conditional(found, place, context, cache)
            if place >= given:
                index = self.order[place]
                flat[:, index] = _draw(logits / temperature, steps[:, index]).to(like.dtype)
        return found.to(torch.int64)

    def _check(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.event_shape:
            raise ValueError(
                f"{type(self).__name__} expects examples of shape (batch, "
                f"{', '.join(map(str, self.event_shape))}) and got {tuple(x.shape)}: build the "
                "model with the shape of one example."
            )
        dtype = next(self.parameters()).dtype
        x = require_levels(x, self.levels)
        return x if x.is_floating_point() else x.to(dtype)


def _draw(
    logits: Float[Tensor, "batch levels"], u: Float[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """The level at which the cumulative probability passes `u`."""
    below = logits.softmax(dim=-1).cumsum(dim=-1)[:, :-1]
    return (u[:, None] >= below).sum(dim=-1)
