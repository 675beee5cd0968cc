r"""Dequantization: which noise to add to integers, and what it costs.

A density says something about integers only through the mass of a cell, and that integral is
bounded from below with noise in the cell, drawn from any $q(u \mid x)$:

$$\log P(x) = \log \int_{[0,1)^D} p(x+u)\,du
   \;\ge\; \mathbb{E}_{u \sim q(\cdot|x)}\left[\log p(x+u) - \log q(u|x)\right].$$

The gap is $D(q(u|x)\,\|\,p(u|x))$. Uniform noise asks a smooth density to be flat in every cell;
noise that is itself a flow, conditioned on the image, is trained to close the gap.

Book: `book/coupling/dequantization.md`. Source: Theis et al. (2016), section 3.1; Ho et al. (2019),
section 3.1.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowcourse.bijector import Bijector, Compose
from flowcourse.coupling import realnvp
from flowcourse.flow import Flow, StandardLogistic
from flowcourse.foundations.change_of_variables import Affine, Logit
from flowcourse.foundations.likelihood import DequantizedFlow, UniformDequantizer
from flowcourse.nets import MLP, ResidualConvNet

__all__ = ["Conditioned", "VariationalDequantizer", "build", "noise_flow", "preprocess"]


class VariationalDequantizer(nn.Module):
    r"""Noise $u \sim q(u|x)$ from a conditional flow: $y = x + u$ with $u \in (0, 1)^D$.

    Noise is drawn by the flow's `inverse`, in one pass, and scored on the way:

    $$\epsilon \sim \text{base}, \qquad u = f^{-1}(\epsilon; x), \qquad
      \log q(u|x) = \log p(\epsilon)
        - \log\left|\det \frac{\partial u}{\partial \epsilon}\right|.$$

    Gradients reach the flow through $u$ as well as through $\log q$.

    Args:
        flow: a conditional flow over noise of the shape of one example; its bijector starts with a
            map from (0, 1) such as `Logit`, so that its inverse ends there.
        encoder: makes the flow's context from an image that is scaled to [-1, 1]; if None, the
            scaled image itself is the context.
        levels: the data take values 0, ..., levels - 1.

    Source: Ho et al. (2019), eqs. 11 and 12.
    """

    def __init__(self, flow: Flow, encoder: nn.Module | None = None, *, levels: int):
        super().__init__()
        self.flow = flow
        self.encoder = encoder
        self.levels = levels

    def forward(
        self, x: Float[Tensor, "batch *event"]
    ) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, " batch"]]:
        r"""Add noise to integers.

        Args:
            x: integer levels, in a floating-point dtype, shape `(batch, *event)`.

        Returns:
            The noisy data, in $[x, x + 1)$, and $\log q(u|x)$ in nats for each example.
        """
        epsilon = self.flow.base.rsample((x.shape[0],))
        u, log_det = self.flow.bijector.inverse(epsilon, self.context(x))
        # Rounding may lift x + u into the next cell, whose lower end belongs to the next level.
        y = torch.minimum(x + u, torch.nextafter(x + 1, x))
        return y, self.flow.base.log_prob(epsilon) - log_det

    def log_prob(
        self, u: Float[Tensor, "batch *event"], x: Float[Tensor, "batch *event"]
    ) -> Float[Tensor, " batch"]:
        r"""$\log q(u|x)$ of given noise, in nats."""
        return self.flow.log_prob(u, self.context(x))

    def context(self, x: Float[Tensor, "batch *event"]) -> Tensor:
        """What the noise is conditioned on."""
        scaled = 2 * x / (self.levels - 1) - 1
        return scaled if self.encoder is None else self.encoder(scaled)


class Conditioned(nn.Module):
    """A network that sees its input and the context side by side, along axis 1."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Apply the network to both."""
        return self.net(torch.cat([x, context], dim=1))


def _network(
    event_shape: Sequence[int], inputs: int, outputs: int, hidden: int, blocks: int, dropout: float
) -> nn.Module:
    """A network for images or for vectors; its outputs start at zero."""
    if len(event_shape) == 3:
        return ResidualConvNet(inputs, hidden, outputs, blocks, dropout)
    return MLP(inputs, [hidden] * blocks, outputs, dropout)


def noise_flow(
    event_shape: Sequence[int],
    context: int,
    *,
    couplings: int = 4,
    hidden: int = 16,
    blocks: int = 1,
    dropout: float = 0.0,
) -> Flow:
    r"""A conditional flow over noise in $(0, 1)^D$ that starts as uniform noise.

    A logit, then affine couplings that see the context, onto a logistic base. The couplings start
    as the identity, and the sigmoid of a logistic variable is uniform.

    Args:
        event_shape: shape of one example: an image `(c, h, w)` or a vector `(d,)`.
        context: channels of the context (for vectors, its length).
        couplings: their number, on alternating checkerboards.
        hidden: channels of their networks.
        blocks: residual blocks of each network (hidden layers for vectors).
        dropout: in the networks.

    Source: Ho et al. (2019), section 3.1; the base there is normal.
    """
    channels = event_shape[0]
    mask = realnvp.checkerboard if len(event_shape) == 3 else realnvp.alternating
    layers: list[Bijector] = [Logit()]
    for k in range(couplings):
        net = _network(event_shape, channels + context, 2 * channels, hidden, blocks, dropout)
        layers.append(realnvp.AffineCoupling(Conditioned(net), mask(k % 2), channels))
    return Flow(Compose(*layers), StandardLogistic(*event_shape))


def preprocess(levels: int, form: str = "logit") -> Bijector:
    r"""From noisy levels in $[0, \text{levels})$ to what the couplings see.

    - `"logit"`: RealNVP's, $\operatorname{logit}(0.05 + 0.9\,x/\text{levels})$; its
      log-determinant depends on $x$.
    - `"centred"`: Glow's, $x/\text{levels} - 0.5$;
      $\log|\det| = -D \log \text{levels}$.

    Raises:
        ValueError: `form` is neither.

    Source: Dinh et al. (2017), section 4.1; the program released with Kingma & Dhariwal (2018).
    """
    if form == "logit":
        return realnvp.preprocess(levels)
    if form == "centred":
        return Affine(shift=-0.5, scale=1 / levels)
    raise ValueError(f"preprocessing is 'logit' or 'centred', not {form!r}.")


def build(
    event_shape: Sequence[int],
    levels: int | None,
    *,
    dequantizer: str = "variational",
    preprocessing: str = "logit",
    noise_couplings: int = 4,
    noise_hidden: int = 16,
    noise_blocks: int = 1,
    dropout: float = 0.0,
    **options,
) -> DequantizedFlow:
    """RealNVP's multi-scale flow behind a choice of noise and of preprocessing.

    Args:
        event_shape: shape of one example: an image `(c, h, w)` or a vector `(d,)`.
        levels: number of levels of the data.
        dequantizer: "uniform" noise, or noise from a conditional flow, "variational".
        preprocessing: see `preprocess`.
        noise_couplings: couplings of the noise's flow, see `noise_flow`.
        noise_hidden: channels of its networks and of the encoder.
        noise_blocks: residual blocks of each.
        dropout: in all networks.
        options: of `realnvp.build`: scales, couplings, hidden, blocks and others.

    Raises:
        ValueError: the data have no levels, or a choice does not exist.
    """
    if levels is None:
        raise ValueError("Dequantization is for data with levels; these are continuous already.")
    body = cast(Flow, realnvp.build(event_shape, None, dropout=dropout, **options))
    flow = Flow(Compose(preprocess(levels, preprocessing), body.bijector), body.base)
    noise: nn.Module
    if dequantizer == "uniform":
        noise = UniformDequantizer()
    elif dequantizer == "variational":
        sizes: dict[str, Any] = dict(hidden=noise_hidden, blocks=noise_blocks, dropout=dropout)
        encoder = _network(event_shape, event_shape[0], noise_hidden, **sizes)
        q = noise_flow(event_shape, noise_hidden, couplings=noise_couplings, **sizes)
        noise = VariationalDequantizer(q, encoder, levels=levels)
    else:
        raise ValueError(f"dequantizer is 'uniform' or 'variational', not {dequantizer!r}.")
    return DequantizedFlow(flow, levels, noise)
