r"""The three maps of one step of Glow: actnorm, a 1x1 convolution or a permutation, a coupling.

Book: `book/coupling/glow.md`. Source: Kingma & Dhariwal (2018), section 3 and table 1, and the
program released with it ("the code").
"""

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowcourse.bijector import Bijector, sum_event

__all__ = [
    "ActNorm",
    "GlowCoupling",
    "InvertibleConv",
    "Net",
    "Permutation",
    "per_channel",
    "reversal",
]

Net = Callable[[Tensor], Tensor]  # usually an nn.Module, whose parameters then train with the flow


# Actnorm


def per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """Shape a parameter `(c,)` so that it broadcasts over `(batch, c, ...)`, in x's precision."""
    return parameter.reshape(1, -1, *[1] * (x.dim() - 2)).to(x.dtype)


class ActNorm(Bijector):
    r"""$z = (x + b)\,e^{\ell}$ per channel; $\log|\det| = \text{positions} \cdot \sum_c \ell_c$.

    The first pass in training sets $b$ and $\ell$ from its batch, so that each channel has mean 0
    and variance 1 there. From then on they are parameters like any other, and no example sees
    another one. A channel that is constant in the first batch keeps the scale 1.

    Args:
        channels: size of axis 1; the data are images `(batch, c, h, w)` or vectors `(batch, c)`.

    Attributes:
        initialized: a buffer, so that a saved and loaded layer does not start again.

    Source: Kingma & Dhariwal (2018), section 3.1; shift first, as in the code.
    """

    initialized: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialized", torch.tensor(False))
        self._ready = False  # what the buffer says, without asking the device at every pass

    def _load_from_state_dict(self, *args):
        super()._load_from_state_dict(*args)
        self._ready = False

    @torch.no_grad()
    def initialize(self, x: Float[Tensor, "batch c *positions"]) -> None:
        """Set shift and scale so that this batch comes out with mean 0 and variance 1."""
        axes = [0, *range(2, x.dim())]
        variance, mean = torch.var_mean(x.to(self.shift.dtype), dim=axes, correction=0)
        deviation = variance.sqrt()
        # Rounding leaves a constant channel with a deviation far below its values.
        constant = deviation <= 1e-6 * (1 + mean.abs())
        self.shift.copy_(-mean)
        self.log_scale.copy_(-deviation.masked_fill(constant, 1).log())
        self.initialized.fill_(True)

    def forward(self, x, context=None):
        if self.training and not self._ready and not x.is_meta:
            if not self.initialized:
                self.initialize(x)
            self._ready = True
        z = (x + per_channel(self.shift, x)) * per_channel(self.log_scale.exp(), x)
        return z, self._log_det(x)

    def inverse(self, z, context=None):
        x = z * per_channel((-self.log_scale).exp(), z) - per_channel(self.shift, z)
        return x, -self._log_det(z)

    def _log_det(self, x: Tensor) -> Tensor:
        return (math.prod(x.shape[2:]) * self.log_scale.sum()).expand(x.shape[0])


# Mixing the channels


def double(weight: Tensor) -> Tensor:
    """In double precision, on the CPU where the device has none."""
    return (weight.cpu() if weight.device.type == "mps" else weight).double()


def full_precision(x: Tensor):
    """A block in which a product keeps the precision of x, also under bf16-mixed."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


class InvertibleConv(Bijector):
    r"""$z_{ij} = W x_{ij}$ at each position; $\log|\det| = \text{positions} \cdot \log|\det W|$.

    Args:
        channels: size of axis 1; images `(batch, c, h, w)` or vectors `(batch, c)`.
        form: `"direct"` learns $W$ itself, and its determinant costs $O(c^3)$. `"plu"` learns
            $W = P L (U + \mathrm{diag}(\pm e^{\ell}))$ with a fixed permutation $P$ and fixed
            signs, where $\log|\det W| = \sum \ell$ is read off, and $W$ can never be singular.

    Both start at a random rotation. The inverse of $W$ is taken in double precision.

    Source: Kingma & Dhariwal (2018), section 3.2, eqs. 9-11.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int, form: str = "plu"):
        super().__init__()
        if form not in ("plu", "direct"):
            raise ValueError(f"form should be 'plu' or 'direct' and is {form!r}.")
        self.form = form
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))
        if form == "direct":
            self.matrix = nn.Parameter(_stored(rotation))
            return
        permutation, lower, upper = map(_stored, torch.linalg.lu(rotation))
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.log_scale = nn.Parameter(diagonal.abs().log())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))

    @property
    def weight(self) -> Float[Tensor, "c c"]:
        """$W$."""
        if self.form == "direct":
            return self.matrix
        lower, upper = self.triangles
        with full_precision(lower):
            return self.permutation @ lower @ upper

    @property
    def triangles(self) -> tuple[Float[Tensor, "c c"], Float[Tensor, "c c"]]:
        r"""$L$ and $U + \mathrm{diag}(\pm e^{\ell})$ of the PLU form."""
        identity = torch.eye(len(self.sign), dtype=self.sign.dtype, device=self.sign.device)
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_scale.exp())
        return self.lower.tril(-1) + identity, upper

    @property
    def log_abs_det(self) -> Float[Tensor, ""]:
        r"""$\log|\det W|$, in nats: of one position."""
        if self.form == "plu":
            return self.log_scale.sum()
        return torch.linalg.slogdet(double(self.matrix))[1].to(self.matrix)

    def forward(self, x, context=None):
        return _mix(self.weight, x), self._log_det(x)

    def inverse(self, z, context=None):
        inverse = torch.linalg.inv(double(self.weight)).to(z)
        return _mix(inverse, z), -self._log_det(z)

    def _log_det(self, x: Tensor) -> Tensor:
        return (math.prod(x.shape[2:]) * self.log_abs_det).expand(x.shape[0])


def _stored(matrix: Tensor) -> Tensor:
    # Linear algebra returns columns that follow one another; files want rows that do.
    return matrix.to(torch.get_default_dtype()).contiguous()


def _mix(weight: Tensor, x: Tensor) -> Tensor:
    with full_precision(x):
        return F.conv2d(x, weight[:, :, None, None]) if x.dim() == 4 else x @ weight.T


class Permutation(Bijector):
    """A fixed order of the channels, `z[:, i] = x[:, order[i]]`: what the convolution replaces.

    Source: Kingma & Dhariwal (2018), section 6.1 and figure 3 (the ablation).
    """

    order: Tensor

    def __init__(self, order: Tensor):
        super().__init__()
        self.register_buffer("order", order)

    def forward(self, x, context=None):
        return x[:, self.order], x.new_zeros(x.shape[0])

    def inverse(self, z, context=None):
        return z[:, self.order.argsort()], z.new_zeros(z.shape[0])


def reversal(channels: int) -> Permutation:
    """The opposite order."""
    return Permutation(torch.arange(channels).flip(0))


# Coupling


class GlowCoupling(Bijector):
    r"""The first half of the channels passes and decides how the second half is moved.

    Args:
        net: maps the first half to shift and raw scale, twice as many channels as the second half
            has; to the shift alone if the coupling is additive.
        kind: `"affine"` is the code's $(x + t)\,\sigma(h + 2)$, which never grows anything;
            `"exp"` is the paper's $x\,e^{h} + t$; `"additive"` is $x + t$.

    With an odd number of channels, the first half is the larger one.

    Source: Kingma & Dhariwal (2018), section 3.3 and table 1; the code.
    """

    def __init__(self, net: Net, kind: str = "affine"):
        super().__init__()
        if kind not in ("affine", "exp", "additive"):
            raise ValueError(f"kind should be 'affine', 'exp' or 'additive' and is {kind!r}.")
        self.net = net
        self.kind = kind

    def log_scale_and_shift(self, passed: Tensor) -> tuple[Tensor, Tensor]:
        """Of the half that changes; a network may compute in less precision than the flow."""
        h = self.net(passed).to(passed.dtype)
        if self.kind == "additive":
            return torch.zeros_like(h), h
        shift, raw = h.chunk(2, dim=1)
        return (F.logsigmoid(raw + 2) if self.kind == "affine" else raw), shift

    def forward(self, x, context=None):
        passed, free = x.chunk(2, dim=1)
        s, t = self.log_scale_and_shift(passed)
        z = free * s.exp() + t if self.kind == "exp" else (free + t) * s.exp()
        return torch.cat([passed, z], dim=1), sum_event(s)

    def inverse(self, z, context=None):
        passed, free = z.chunk(2, dim=1)
        s, t = self.log_scale_and_shift(passed)
        x = (free - t) * (-s).exp() if self.kind == "exp" else free * (-s).exp() - t
        return torch.cat([passed, x], dim=1), -sum_event(s)
