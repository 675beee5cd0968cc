r"""Transformers and conditioners: any increasing map with any causal network.

The frame of `maf`, $z_d = \tau(x_d; h_d)$ with $h_d = c_d(x_{<d})$, leaves both parts open. Here
are increasing maps $\tau$ that are not lines, and a conditioner that is not a masked network. (A
transformer here is a function of one number; attention is in `tarflow`.)

| transformer | $\tau(x)$ | parameters | onto because | inverse |
| --- | --- | --- | --- | --- |
| `affine` | line | 2 | line | formula |
| `conic` | line + positive sum of sigmoids | $2 + 3K$ | of the line | bracket of the line |
| `sigmoidal` | logit of a convex sum of sigmoids | $3K$ | of the logit | bracket of the units |
| `integral` | integral of a positive network | $1 + K$ | of the floor | doubling bracket |
| `squares` | integral of squared polynomials | $1 + 2K$ | of the floor | doubling bracket |

Curves are in `transformers_curve`, quadrature in `transformers_quadrature`, the recurrent
conditioner in `transformers_recurrent`, and the root finder in `flowcourse.coupling.flowpp_root`.

Book: `book/autoregressive_flows/transformers.md`. Source: Huang et al. (2018), arXiv:1804.00779;
Wehenkel & Louppe (2019), arXiv:1908.05164; Jaini et al. (2019), arXiv:1905.02325; Papamakarios et
al. (2021), arXiv:1912.02762.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from flowcourse.autoregressive_flows.linear import MIXING
from flowcourse.autoregressive_flows.maf import (
    AffineTransformer,
    Autoregressive,
    Conditioner,
    Flatten,
    MaskedConditioner,
)
from flowcourse.autoregressive_flows.transformers_curve import (
    ConicTransformer,
    Repeated,
    RootTransformer,
    SigmoidalTransformer,
    SquaresTransformer,
)
from flowcourse.autoregressive_flows.transformers_quadrature import (
    RULES,
    IntegralTransformer,
    clenshaw_curtis,
    gauss_legendre,
)
from flowcourse.autoregressive_flows.transformers_recurrent import RecurrentConditioner
from flowcourse.bijector import Bijector, Compose, Inverse
from flowcourse.coupling.flowpp_root import NoConvergenceError, invert
from flowcourse.coupling.glow import ActNorm
from flowcourse.coupling.realnvp import preprocess
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.likelihood import DequantizedFlow

__all__ = [
    "RULES",
    "TRANSFORMERS",
    "AffineTransformer",
    "Autoregressive",
    "ConicTransformer",
    "IntegralTransformer",
    "MaskedConditioner",
    "NoConvergenceError",
    "RecurrentConditioner",
    "Repeated",
    "RootTransformer",
    "SigmoidalTransformer",
    "SquaresTransformer",
    "build",
    "clenshaw_curtis",
    "gauss_legendre",
    "invert",
]

# By the number of their units; `affine` has none.
TRANSFORMERS: dict[str, Callable[[int], Any]] = {
    "affine": lambda units: AffineTransformer(),
    "conic": ConicTransformer,
    "sigmoidal": SigmoidalTransformer,
    "integral": IntegralTransformer,
    "squares": SquaresTransformer,
}


def build(
    event_shape: Sequence[int],
    levels: int | None,
    *,
    transformer: str = "sigmoidal",
    units: int = 8,
    steps: int = 1,
    conditioner: str = "masked",
    layers: int = 2,
    hidden: Sequence[int] = (256,),
    blocks: int | None = None,
    mixing: str = "reverse",
    dropout: float = 0.0,
) -> Flow | DequantizedFlow:
    """Actnorm and an autoregressive layer, repeated, with a linear map between the layers.

    Args:
        event_shape: shape of one example.
        levels: number of levels of discrete data, or None for continuous data.
        transformer: a name in `TRANSFORMERS`.
        units: of each transformer: sigmoids, numbers that the network of `integral` is told, or
            coefficients of each polynomial.
        steps: how often the transformer is repeated within a layer.
        conditioner: "masked" or "recurrent".
        layers: number of autoregressive layers.
        hidden: widths of the hidden layers of a masked conditioner; of a recurrent one, the one
            number that it remembers.
        blocks: of dimensions, of a masked conditioner; by default as many as dimensions.
        mixing: between layers, a name in `flowcourse.autoregressive_flows.linear.MIXING`.
        dropout: of hidden units of a masked conditioner.

    Raises:
        ValueError: an unknown name, or options that the conditioner does not have.

    Source: Huang et al. (2018), section 3; Papamakarios et al. (2021), section 3.1.
    """
    for name, value, known in [
        ("transformer", transformer, TRANSFORMERS),
        ("conditioner", conditioner, ("masked", "recurrent")),
        ("mixing", mixing, MIXING),
    ]:
        if value not in known:
            raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}.")
    if conditioner == "recurrent" and (blocks is not None or dropout or len(hidden) != 1):
        raise ValueError(
            f"A recurrent conditioner has one state and neither blocks nor dropout; found "
            f"hidden={tuple(hidden)}, blocks={blocks}, dropout={dropout}."
        )
    dims = math.prod(event_shape)
    chain: list[Bijector] = [] if levels is None else [preprocess(levels)]
    chain.append(Flatten(event_shape))
    for layer in range(layers):
        if layer:
            chain.append(MIXING[mixing](dims))
        curve = TRANSFORMERS[transformer](units)
        if steps > 1:
            curve = Repeated(curve, steps)
        net: Conditioner
        if conditioner == "masked":
            net = MaskedConditioner(dims, curve.outputs, hidden, blocks=blocks, dropout=dropout)
        else:
            net = RecurrentConditioner(dims, curve.outputs, *hidden)
        chain += [ActNorm(dims), Autoregressive(net, curve)]
    chain.append(Inverse(Flatten(event_shape)))
    flow = Flow(Compose(*chain), StandardNormal(*event_shape))
    return flow if levels is None else DequantizedFlow(flow, levels)
