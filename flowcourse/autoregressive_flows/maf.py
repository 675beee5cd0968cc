r"""MAF: masked autoregressive flow, and the frame in which every autoregressive flow fits.

Two parts that know nothing of each other make an autoregressive flow,

$$z_d = \tau(x_d; h_d), \qquad h_d = c_d(x_1, \dots, x_{d-1}).$$

The *transformer* $\tau$ moves one number, rises with it, and takes parameters $h_d$. The
*conditioner* $c$ gives each number its parameters from the numbers before it. The Jacobian is
triangular whatever they are, and its log-determinant is the sum of the transformer's log-slopes.
If dimensions are determined in $K$ blocks, each from the blocks before it, the inverse takes $K$
passes: $K = 2$ is a coupling layer, $K = D$ is fully autoregressive.

Book: `book/autoregressive_flows/maf.md`. Source: Papamakarios, Pavlakou & Murray (2017),
arXiv:1705.07057; Kingma et al. (2016), arXiv:1606.04934.
"""

import math
from collections.abc import Callable, Generator, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowcourse.autoregressive.made import MaskedLinear, mask
from flowcourse.bijector import Bijector, Compose, Inverse, sum_event
from flowcourse.coupling.glow import ActNorm, Permutation
from flowcourse.coupling.realnvp import BatchNorm, preprocess
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.likelihood import DequantizedFlow

__all__ = [
    "AffineTransformer",
    "Autoregressive",
    "Conditioner",
    "Flatten",
    "MaskedConditioner",
    "build",
    "equal_blocks",
]

Vectors = Float[Tensor, "batch dims"]
Parameters = Float[Tensor, "batch outputs_times_dims"]

# Transformers


class AffineTransformer(Bijector):
    r"""$z = (x - \mu)\,e^{-\alpha}$ for each number, with $|\alpha| < 7$ so that nothing overflows.

    A transformer is a bijector of vectors whose context holds its parameters: `outputs` of them for
    each number, `(batch, outputs * dims)`, here first all shifts $\mu$ and then all raw log-scales.

    Source: Papamakarios et al. (2017), eqs. 3 and 4.
    """

    outputs = 2
    bound = 7.0

    def _read(self, x: Vectors, context: Parameters) -> tuple[Vectors, Vectors]:
        # Networks may answer in bfloat16; the flow itself is never computed in it.
        shift, raw = context.to(x.dtype).chunk(2, dim=1)
        return shift, self.bound * torch.tanh(raw / self.bound)

    def forward(self, x, context=None):
        shift, log_scale = self._read(x, context)
        return (x - shift) * torch.exp(-log_scale), -sum_event(log_scale)

    def inverse(self, z, context=None):
        shift, log_scale = self._read(z, context)
        return z * torch.exp(log_scale) + shift, sum_event(log_scale)


# Conditioners


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
    """

    def __init__(self, blocks: Sequence[slice]):
        super().__init__()
        self.blocks = list(blocks)

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


class MaskedConditioner(Conditioner):
    r"""A dense network some of whose weights are left out, as in MADE, with sorted degrees.

    The degree of a number is the index of its block, and that of a hidden unit the last block it
    may see: -1 for none, up to $K - 2$. Hidden units see units of their degree or less below them,
    outputs for block $k$ those of degree less than $k$. Units are *sorted* by degree: what one may
    see is then the beginning of the layer below. So `one_by_one` computes each unit once, when its
    degree is reached, from a slice of the weights, and all its steps together multiply as often as
    one pass.

    Args:
        dims: number of dimensions, in their natural order; permute them before for another.
        outputs: parameters of each dimension.
        hidden: widths of the hidden layers; with none, parameters are linear in what they see.
        blocks: how many blocks of dimensions, $K$; by default as many as dimensions.
        context: size of a vector that every unit may see, 0 for none.
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
        activation: Callable[[Tensor], Tensor] = F.relu,
        dropout: float = 0.0,
    ):
        super().__init__(equal_blocks(dims, dims if blocks is None else blocks))
        self.outputs, self.activation = outputs, activation
        k = len(self.blocks)
        # Units that may see no block are of use where there is a context for them to see.
        lowest = -1 if context or k == 1 else 0
        # ends[layer][m + 1] units of a layer have a degree of m or less, from m = -1 on.
        self.ends = [[0, *(block.stop for block in self.blocks)]]
        for width in hidden:
            counts = (min(m + 1 - lowest, k - 1 - lowest) for m in range(-1, k))
            self.ends.append([width * count // (k - 1 - lowest) for count in counts])
        widths = [dims, *hidden, outputs * dims]
        layers = [MaskedLinear(a, b) for a, b in pairwise(widths)]
        self.layers = nn.ModuleList(layers)
        self.given = nn.Linear(context, widths[1]) if context else None
        self.dropout = nn.Dropout(dropout)
        for layer, ends in enumerate(self.ends):
            units = torch.tensor([0, *ends]).diff()
            degrees = torch.arange(-1, k).repeat_interleave(units)
            self.register_buffer(f"degrees_{layer}", degrees)

    def _new(self, layer: int, step: int) -> tuple[slice | Tensor, int]:
        """What a layer computes once `step` blocks are known, and how much of its input it sees."""
        columns = self.ends[layer][step]
        if layer + 1 < len(self.ends):
            ends = self.ends[layer + 1]
            return slice(ends[step - 1] if step else 0, ends[step]), columns
        dims = torch.arange(self.outputs * self.ends[0][-1])
        return dims.unflatten(0, (self.outputs, -1))[:, self.blocks[step]].flatten(), columns

    def forward(self, x, context=None):
        h, degrees = x, [self.get_buffer(f"degrees_{layer}") for layer in range(len(self.ends))]
        for layer, linear in enumerate(self.layers):
            last = layer + 1 == len(self.layers)
            after = degrees[0].repeat(self.outputs) if last else degrees[layer + 1]
            h = linear(h, mask(after, degrees[layer], strict=last))
            if layer == 0 and self.given is not None:
                h = h + self.given(context)
            if not last:
                h = self.dropout(self.activation(h))
        return h

    def one_by_one(self, like, context=None):
        known = [like[:, :0] for _ in self.ends]
        given = None if self.given is None else self.given(context)
        for step in range(len(self.blocks)):
            for layer, linear in enumerate(self.layers):
                rows, columns = self._new(layer, step)
                weight, bias = cast(Tensor, linear.weight), cast(Tensor, linear.bias)
                h = F.linear(known[layer], weight[rows, :columns], bias[rows])
                if layer == 0 and given is not None:
                    h = h + given[:, rows]
                if layer + 1 < len(self.layers):
                    h = self.dropout(self.activation(h))
                    known[layer + 1] = torch.cat([known[layer + 1], h], dim=1)
            found = yield h
            known[0] = torch.cat([known[0], found], dim=1)


# The flow


class Flatten(Bijector):
    """Events of any shape as vectors, and back; nothing moves, so log|det| = 0."""

    def __init__(self, event_shape: Sequence[int]):
        super().__init__()
        self.event_shape = tuple(event_shape)

    def forward(self, x, context=None):
        return x.flatten(1), x.new_zeros(x.shape[0])

    def inverse(self, z, context=None):
        return z.unflatten(1, self.event_shape), z.new_zeros(z.shape[0])


class Autoregressive(Bijector):
    r"""A transformer for every number, with parameters from a conditioner of the numbers before.

    `forward` is one pass. `inverse` needs a step for each of the conditioner's blocks: what a block
    was, the parameters of the next depend on.

    Args:
        conditioner: see `Conditioner`.
        transformer: a bijector of vectors whose context is what the conditioner returns.

    Source: Papamakarios et al. (2017), section 2; Kingma et al. (2016), section 3, for its inverse.
    """

    def __init__(self, conditioner: Conditioner, transformer: Bijector):
        super().__init__()
        self.conditioner, self.transformer = conditioner, transformer

    def forward(self, x, context=None):
        return self.transformer(x, self.conditioner(x, context))

    def inverse(self, z, context=None):
        steps = self.conditioner.one_by_one(z, context)
        found: list[Tensor] = []
        log_det = z.new_zeros(z.shape[0])
        parameters = next(steps)
        for block in self.conditioner.blocks:
            if found:
                parameters = steps.send(found[-1])
            x, term = self.transformer.inverse(z[:, block], parameters)
            found.append(x)
            log_det = log_det + term
        return torch.cat(found, dim=1), log_det


# The model


def build(
    event_shape: Sequence[int],
    levels: int | None,
    *,
    layers: int = 5,
    hidden: Sequence[int] = (512, 512),
    blocks: int | None = None,
    normalization: str = "batch_norm",
    dropout: float = 0.0,
) -> Flow | DequantizedFlow:
    """MAF: masked autoregressive layers, each with the order of the one before reversed.

    Args:
        event_shape: shape of one example.
        levels: number of levels of discrete data, or None for continuous data.
        layers: number of autoregressive layers.
        hidden: widths of the hidden layers of each conditioner.
        blocks: of dimensions, see `MaskedConditioner`; as many as dimensions by default.
        normalization: between layers, "batch_norm", "actnorm" or "none".
        dropout: of hidden units.

    Raises:
        ValueError: an unknown normalization, or more blocks than dimensions.

    Source: Papamakarios et al. (2017), section 4.
    """
    if normalization not in ("batch_norm", "actnorm", "none"):
        raise ValueError(
            f"normalization is 'batch_norm', 'actnorm' or 'none', not {normalization!r}."
        )
    dims = math.prod(event_shape)
    steps: list[Bijector] = [] if levels is None else [preprocess(levels)]
    steps.append(Flatten(event_shape))
    for layer in range(layers):
        if layer:
            steps.append(Permutation(torch.arange(dims).flip(0)))
        transformer = AffineTransformer()
        net = MaskedConditioner(dims, transformer.outputs, hidden, blocks=blocks, dropout=dropout)
        steps.append(Autoregressive(net, transformer))
        if normalization == "batch_norm":
            steps.append(BatchNorm(dims))
        elif normalization == "actnorm":
            steps.append(ActNorm(dims))
    steps.append(Inverse(Flatten(event_shape)))
    flow = Flow(Compose(*steps), StandardNormal(*event_shape))
    return flow if levels is None else DequantizedFlow(flow, levels)
