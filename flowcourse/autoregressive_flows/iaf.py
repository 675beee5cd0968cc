r"""IAF: inverse autoregressive flow, which samples in one pass.

MAF's conditioner reads data. IAF's reads noise,

$$x_d = \tau(z_d; h_d), \qquad h_d = c_d(z_1, \dots, z_{d-1}) ,$$

so all of a sample comes out at once. It is the same triangular map, read the other way: what is
sequential is the way back from data to noise, and the determinant is as cheap in both directions.
The density of its own samples is free, since their noise is known.

Book: `book/autoregressive_flows/iaf.md`. Source: Kingma et al. (2016), arXiv:1606.04934;
Papamakarios, Pavlakou & Murray (2017), arXiv:1705.07057, section 3.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowcourse.autoregressive_flows.iaf_distillation import fit_reverse_kl, log_ratios
from flowcourse.autoregressive_flows.iaf_wavenet import WaveNetConditioner
from flowcourse.autoregressive_flows.maf import AffineTransformer, Autoregressive, Flatten
from flowcourse.autoregressive_flows.maf_conditioner import (
    Conditioner,
    MaskedConditioner,
    Parameters,
    Vectors,
)
from flowcourse.bijector import Bijector, Compose, Inverse, sum_event
from flowcourse.coupling.glow import reversal
from flowcourse.coupling.realnvp import preprocess
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.likelihood import DequantizedFlow

__all__ = [
    "AffineTransformer",
    "Autoregressive",
    "Constant",
    "GatedTransformer",
    "WaveNetConditioner",
    "build",
    "fit_reverse_kl",
    "log_ratios",
]


class GatedTransformer(Bijector):
    r"""$y = \sigma z + (1 - \sigma) m$ with a gate $\sigma = \mathrm{sigmoid}(s)$ for each number.

    As in the forget gate of an LSTM, a positive bias of $s$ opens the gate, and a new layer hardly
    moves anything. No gate is larger than 1: the map never expands.

    Parameters are all $m$ and then all raw gates, `(batch, 2 * dims)`, and
    $s = \mathrm{forget} + 7 \tanh(\mathrm{raw} / 7)$, so that nothing overflows on the way back.

    Args:
        forget: the gates' bias.

    Source: Kingma et al. (2016), section 3 and algorithm 1, the numerically stable form.
    """

    outputs = 2
    bound = 7.0

    def __init__(self, forget: float = 1.0):
        super().__init__()
        self.forget = forget

    def _read(self, x: Vectors, context: Parameters) -> tuple[Vectors, Vectors]:
        # Networks may answer in bfloat16; the flow itself is never computed in it.
        target, raw = context.to(x.dtype).chunk(2, dim=1)
        return target, self.forget + self.bound * torch.tanh(raw / self.bound)

    def forward(self, x, context=None):
        target, s = self._read(x, context)
        gate = torch.sigmoid(s)
        return gate * x + torch.sigmoid(-s) * target, sum_event(F.logsigmoid(s))

    def inverse(self, z, context=None):
        target, s = self._read(z, context)
        return target + (z - target) / torch.sigmoid(s), -sum_event(F.logsigmoid(s))


class Constant(Conditioner):
    """Parameters that no number has a say in: constants, or functions of the context alone.

    With an affine transformer they are a mean and a deviation for each number, which is what an
    encoder says of a Gaussian posterior. They start at 0.

    Args:
        dims: number of dimensions, all in one block.
        outputs: parameters of each.
        context: size of a vector, 0 for none.
        classes: number of classes, if the context is a label.

    Source: Kingma et al. (2016), algorithm 1, its first lines.
    """

    def __init__(self, dims: int, outputs: int, context: int = 0, classes: int | None = None):
        super().__init__([slice(0, dims)])
        self.parameters_of_all = nn.Parameter(torch.zeros(outputs * dims))
        self.see_context(outputs * dims, context, classes)
        if self.given is not None:
            nn.init.zeros_(cast(Tensor, self.given.weight))

    def forward(self, x, context=None):
        constant = self.parameters_of_all.expand(len(x), -1)
        return constant + self._of_context(x, context)


def build(
    event_shape: Sequence[int],
    levels: int | None,
    *,
    reads: str = "noise",
    layers: int = 4,
    transformer: str = "gated",
    hidden: Sequence[int] = (128,),
    dilations: Sequence[int] = (),
    channels: int = 16,
    kernel: int = 2,
    reverse: bool = True,
    forget: float = 1.0,
    dropout: float = 0.0,
    context: int = 0,
    classes: int | None = None,
) -> Flow | DequantizedFlow:
    """IAF, or with the same layers read the other way MAF: each is the inverse of the other.

    What comes first, the noise of an IAF or the data of a MAF, is shifted and scaled, and then goes
    through autoregressive layers.

    Args:
        event_shape: shape of one example.
        levels: number of levels of discrete data, or None for continuous data.
        reads: what the conditioners read, "noise" (IAF) or "data" (MAF).
        layers: number of autoregressive layers.
        transformer: "gated" or "affine".
        hidden: widths of each masked conditioner's hidden layers, see `MaskedConditioner`.
        dilations: if there are any, conditioners are WaveNets with these dilations instead.
        channels: of a WaveNet.
        kernel: of a WaveNet, in samples.
        reverse: reverse the order of the dimensions between layers.
        forget: bias of the gates of gated transformers.
        dropout: of hidden units.
        context: size of a vector that the density is conditioned on, 0 for none; every layer sees
            it.
        classes: number of classes, if the density is that of an example's class.

    Raises:
        ValueError: an unknown transformer, or something unknown to read.

    Source: Kingma et al. (2016), section 3 and algorithm 1; van den Oord et al. (2018), section 3,
    for WaveNets without reversal.
    """
    if transformer not in ("gated", "affine"):
        raise ValueError(f"transformer is 'gated' or 'affine', not {transformer!r}.")
    if reads not in ("noise", "data"):
        raise ValueError(f"conditioners read 'noise' (IAF) or 'data' (MAF), not {reads!r}.")
    dims = math.prod(event_shape)
    moves = AffineTransformer() if transformer == "affine" else GatedTransformer(forget)

    def conditioner() -> Conditioner:
        common: dict[str, Any] = dict(context=context, classes=classes, dropout=dropout)
        if dilations:
            return WaveNetConditioner(
                dims, moves.outputs, dilations, channels=channels, kernel=kernel, **common
            )
        return MaskedConditioner(dims, moves.outputs, hidden, **common)

    normal = AffineTransformer()
    steps: list[Bijector] = [
        Inverse(Autoregressive(Constant(dims, normal.outputs, context, classes), normal))
    ]
    for layer in range(layers):
        if layer and reverse:
            steps.append(reversal(dims))
        steps.append(Autoregressive(conditioner(), moves))
    stack = Compose(*steps)
    around: list[Bijector] = [] if levels is None else [preprocess(levels)]
    bijector = Compose(
        *around,
        Flatten(event_shape),
        Inverse(stack) if reads == "noise" else stack,
        Inverse(Flatten(event_shape)),
    )
    flow = Flow(bijector, StandardNormal(*event_shape))
    model = flow if levels is None else DequantizedFlow(flow, levels)
    model.class_conditional, model.needs_conditions = classes is not None, context > 0
    return model
