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
from collections.abc import Sequence

import torch
from torch import Tensor

from flowcourse.autoregressive_flows.maf_conditioner import (
    Conditioner,
    MaskedConditioner,
    Parameters,
    Vectors,
    equal_blocks,
)
from flowcourse.bijector import Bijector, Compose, Inverse, sum_event
from flowcourse.coupling.glow import ActNorm, reversal
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
    context: int = 0,
    classes: int | None = None,
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
        context: size of a vector that the density is conditioned on, 0 for none.
        classes: number of classes, if the density is that of an example's class; the labels are
            the context.

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
            steps.append(reversal(dims))
        transformer = AffineTransformer()
        net = MaskedConditioner(
            dims,
            transformer.outputs,
            hidden,
            blocks=blocks,
            context=context,
            classes=classes,
            dropout=dropout,
        )
        steps.append(Autoregressive(net, transformer))
        if normalization == "batch_norm":
            steps.append(BatchNorm(dims))
        elif normalization == "actnorm":
            steps.append(ActNorm(dims))
    steps.append(Inverse(Flatten(event_shape)))
    flow = Flow(Compose(*steps), StandardNormal(*event_shape))
    model = flow if levels is None else DequantizedFlow(flow, levels)
    model.class_conditional, model.needs_conditions = classes is not None, context > 0
    return model
