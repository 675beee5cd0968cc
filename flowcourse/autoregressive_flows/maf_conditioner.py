r"""Conditioners: what gives every number its parameters, from the numbers before it.

Book: `book/autoregressive_flows/maf.md`. Source: Germain et al. (2015), arXiv:1502.03509, for the
masks; Papamakarios, Pavlakou & Murray (2017), arXiv:1705.07057; Kingma et al. (2016),
arXiv:1606.04934.
"""

from collections.abc import Callable, Generator, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowcourse.autoregressive.made import MaskedLinear, mask

__all__ = ["Conditioner", "MaskedConditioner", "Parameters", "Vectors", "equal_blocks"]

Vectors = Float[Tensor, "batch dims"]
Parameters = Float[Tensor, "batch outputs_times_dims"]


def equal_blocks(dims: int, blocks: int) -> list[slice]:
    """Cut dimensions 0, 1, ... into blocks whose sizes differ by one at most.

    >>> equal_blocks(5, 2)
    [slice(0, 2, None), slice(2, 5, None)]
    """
    if not 1 <= blocks <= dims:
        raise ValueError(f"{dims} dimensions can be cut into 1 to {dims} blocks, not {blocks}.")
    edges = [dims * k // blocks for k in range(blocks + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


class Conditioner(nn.Module):
    """Parameters for every dimension, from the blocks of dimensions before its own.

    Subclasses implement `forward`, and `one_by_one` where they know a faster way.

    Attributes:
        blocks: of dimensions, in their order; what the inverse finds in one pass each.
        given: what a context adds to the units that may see it; None without a context.
    """

    def __init__(self, blocks: Sequence[slice]):
        super().__init__()
        self.blocks = list(blocks)
        self.given: nn.Module | None = None

    def see_context(self, units: int, context: int = 0, classes: int | None = None) -> None:
        """Let so many units see a vector of size `context`, or the label of one of the classes."""
        if classes:
            self.given = nn.Embedding(classes, units)
        elif context:
            self.given = nn.Linear(context, units, bias=False)

    def forward(self, x: Vectors, context: Tensor | None = None) -> Parameters:
        """The parameters of all dimensions: `outputs` of them for each, the first of all first."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(x, context).")

    def one_by_one(
        self, like: Vectors, context: Tensor | None = None
    ) -> Generator[Parameters, Vectors, None]:
        """Yield the parameters of each block in turn, and be sent the block's numbers.

        Here by one pass for each block, with zeros where nothing is known yet.

        Args:
            like: any tensor of the shape, dtype and device of the numbers that will be sent.
            context: see `forward`.
        """
        x = torch.zeros_like(like)
        for block in self.blocks:
            every = self(x, context).unflatten(1, (-1, x.shape[1]))
            found = yield every[:, :, block].flatten(1)
            x = torch.cat([x[:, : block.start], found, x[:, block.stop :]], dim=1)

    def _of_context(self, x: Tensor, context: Tensor | None) -> Tensor | float:
        """What the context adds to units; nothing if there is none."""
        if self.given is None:
            return 0.0
        if context is None or len(context) != len(x):
            found = "none" if context is None else f"{len(context)} rows"
            raise ValueError(
                f"This conditioner was built with a context: it expects one row for each of the "
                f"{len(x)} examples, and got {found}."
            )
        return self.given(context)


class MaskedConditioner(Conditioner):
    r"""A dense network some of whose weights are left out, as in MADE, with sorted degrees.

    The degree of a number is the index of its block, and that of a hidden unit the last block it
    may see: -1 for none, up to $K - 2$. Hidden units see units of their degree or less below them,
    outputs for block $k$ those of degree less than $k$. Units are *sorted* by degree: what one may
    see is then the beginning of the layer below. So `one_by_one` computes each unit once, when its
    degree is reached, from a slice of the weights, and all its steps together multiply as often as
    one pass.

    A layer of fewer than $K - 1$ units lacks some degrees, and some numbers lose what lies just
    before them.

    Args:
        dims: number of dimensions, in their natural order; permute them before for another.
        outputs: parameters of each dimension.
        hidden: widths of the hidden layers; with none, parameters are linear in what they see.
        blocks: how many blocks of dimensions, $K$; by default as many as dimensions.
        context: size of a vector that every unit may see, 0 for none.
        classes: number of classes, if what every unit may see is a label, an integer.
        activation: between layers.
        dropout: probability of dropping a hidden unit in training.

    Source: Germain et al. (2015), eqs. 8 and 9, for the masks; Papamakarios et al. (2017), section
    3.4, for the context.
    """

    def __init__(
        self,
        dims: int,
        outputs: int,
        hidden: Sequence[int],
        *,
        blocks: int | None = None,
        context: int = 0,
        classes: int | None = None,
        activation: Callable[[Tensor], Tensor] = F.relu,
        dropout: float = 0.0,
    ):
        super().__init__(equal_blocks(dims, dims if blocks is None else blocks))
        self.outputs, self.activation = outputs, activation
        k = len(self.blocks)
        # Units that may see no block are of use where there is a context for them to see.
        lowest = -1 if context or classes or k == 1 else 0
        # ends[layer][m + 1] units of a layer have a degree of m or less, from m = -1 on.
        self.ends = [[0, *(block.stop for block in self.blocks)]]
        for width in hidden:
            counts = (min(m + 1 - lowest, k - 1 - lowest) for m in range(-1, k))
            self.ends.append([width * count // (k - 1 - lowest) for count in counts])
        widths = [dims, *hidden, outputs * dims]
        self.layers = nn.ModuleList(MaskedLinear(a, b) for a, b in pairwise(widths))
        self.see_context(widths[1], context, classes)
        self.dropout = nn.Dropout(dropout)
        for layer, ends in enumerate(self.ends):
            runs = enumerate(pairwise([0, *ends]), start=-1)
            degrees = [degree for degree, (start, stop) in runs for _ in range(start, stop)]
            self.register_buffer(f"degrees_{layer}", torch.tensor(degrees))

    def forward(self, x, context=None):
        h, degrees = x, [self.get_buffer(f"degrees_{layer}") for layer in range(len(self.ends))]
        for layer, linear in enumerate(self.layers):
            last = layer + 1 == len(self.layers)
            after = degrees[0].repeat(self.outputs) if last else degrees[layer + 1]
            h = linear(h, mask(after, degrees[layer], strict=last))
            if layer == 0:
                h = h + self._of_context(x, context)
            if not last:
                h = self.dropout(self.activation(h))
        return h

    def one_by_one(self, like, context=None):
        # A row for each unit: then what is known so far is one piece of memory, and so is what a
        # step adds to it.
        known = [like.new_empty(ends[-1], len(like)) for ends in self.ends]
        weights = [cast(Tensor, linear.weight) for linear in self.layers]
        biases = [cast(Tensor, linear.bias)[:, None] for linear in self.layers]
        given = self._of_context(like, context)
        biases[0] = biases[0] + (given.T if isinstance(given, Tensor) else given)
        weight, bias = (of[-1].unflatten(0, (self.outputs, -1)) for of in (weights, biases))
        for step, block in enumerate(self.blocks):
            for layer in range(len(self.layers) - 1):
                seen, ends = self.ends[layer][step], self.ends[layer + 1]
                new = slice(ends[step - 1] if step else 0, ends[step])
                h = torch.addmm(biases[layer][new], weights[layer][new, :seen], known[layer][:seen])
                h = self.dropout(self.activation(h))
                known[layer + 1] = _extended(known[layer + 1], h, new.start)
            seen = self.ends[-1][step]
            rows, shift = (of[:, block].flatten(0, 1) for of in (weight[..., :seen], bias))
            found = yield torch.addmm(shift, rows, known[-1][:seen]).T
            known[0] = _extended(known[0], found.T, block.start)


def _extended(
    known: Float[Tensor, "units batch"], new: Float[Tensor, "new batch"], start: int
) -> Float[Tensor, "more batch"]:
    """`known` with new rows from `start` on; in place unless a gradient needs it as it was."""
    if torch.is_grad_enabled():
        return torch.cat([known[:start], new])
    known[start : start + len(new)] = new
    return known
