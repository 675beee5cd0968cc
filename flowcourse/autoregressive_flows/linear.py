r"""Linear flows: $z = Wx$ with matrices whose determinant and inverse cost little.

The log-determinant of a dense matrix costs $O(D^3)$, and so does its inverse. A product of factors
that are cheap one by one is cheap as a whole, because determinants multiply and inverses follow in
the opposite order:

| map | $W$ | log-determinant | inverse of a vector |
| --- | --- | --- | --- |
| `Permutation` | $P$ | 0 | reorder |
| `Triangular` | $U + \mathrm{diag}(e^{\ell})$ | $\sum \ell$ | substitution, $O(D^2)$ |
| `Householder` | $H_k \cdots H_1$ | 0 | the same, backwards, $O(kD)$ |
| `Orthogonal` | $e^A$ or $(I + A)^{-1}(I - A)$, $A^\top = -A$ | 0 | $W^\top$, $O(D^2)$ |
| `PLULinear` | $PL(U + \mathrm{diag}(\pm e^{\ell}))$ | $\sum \ell$ | two substitutions |
| `QRLinear` | $Q(U + \mathrm{diag}(e^{\ell}))$ | $\sum \ell$ | $Q$ backwards, one substitution |

All act on vectors `(batch, dims)`, and none has a shift: `ActNorm` has one. With a standard normal
base, a shift and one of the last two are a normal density; between the layers of a deeper flow they
decide what the next layer sees first. The 1x1 convolution of `glow` is the same for channels.

Book: `book/autoregressive_flows/linear.md`. Source: Papamakarios et al. (2021),
arXiv:1912.02762, section 3.1.3; the papers named below.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.linalg import solve_triangular

from flowcourse.autoregressive_flows.maf import (
    AffineTransformer,
    Autoregressive,
    Flatten,
    MaskedConditioner,
)
from flowcourse.bijector import Bijector, Compose, Inverse
from flowcourse.coupling.glow import ActNorm, InvertibleConv, Permutation, reversal
from flowcourse.coupling.glow_step import full_precision
from flowcourse.coupling.realnvp import preprocess
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.change_of_variables import Linear
from flowcourse.foundations.likelihood import DequantizedFlow

__all__ = [
    "MIXING",
    "Householder",
    "Orthogonal",
    "PLULinear",
    "QRLinear",
    "Triangular",
    "build",
    "mixed",
    "whitening",
]

# Factors


class Triangular(Bijector):
    r"""$z = (U + \mathrm{diag}(e^{\ell}))\,x$ with strictly upper triangular $U$; starts at $x$.

    The determinant of a triangular matrix is the product of its diagonal, which is positive here:
    $\log|\det| = \sum_d \ell_d$. The inverse is back substitution.

    Args:
        dims: number of dimensions, $D$.
    """

    def __init__(self, dims: int):
        super().__init__()
        self.upper = nn.Parameter(torch.zeros(dims, dims))
        self.log_scale = nn.Parameter(torch.zeros(dims))

    @property
    def weight(self) -> Float[Tensor, "dims dims"]:
        """The matrix; entries of `upper` on and below the diagonal play no role."""
        return self.upper.triu(1) + torch.diag(self.log_scale.exp())

    def forward(self, x, context=None):
        with full_precision(x):
            return x @ self.weight.T, self.log_scale.sum().expand(len(x))

    def inverse(self, z, context=None):
        with full_precision(z):
            x = solve_triangular(self.weight, z.T, upper=True).T
        return x, -self.log_scale.sum().expand(len(z))


class Householder(Bijector):
    r"""$z = H_k \cdots H_1 x$, where $H_j = I - 2 v_j v_j^\top / \lVert v_j \rVert^2$ is a mirror.

    A product of mirrors is orthogonal: $\log|\det| = 0$, and the determinant itself is $(-1)^k$.
    From $k = D - 1$ on, every orthogonal matrix of that determinant is such a product.

    One mirror after the other subtracts a multiple $c_j$ of $v_j$. What the $j$-th one sees is $x$
    less what was subtracted before, so the multiples solve a triangular system,
    $\tfrac12 \lVert v_j \rVert^2 c_j + \sum_{i<j} (v_j \cdot v_i)\, c_i = v_j \cdot x$, and
    $z = x - \sum_j c_j v_j$: all mirrors at once, in products of matrices. Backwards, the system is
    its transpose.

    Args:
        dims: number of dimensions, $D$.
        reflections: $k$; as many as dimensions by default.

    Source: Tomczak & Welling (2016), who use such mirrors in a flow.
    """

    def __init__(self, dims: int, reflections: int | None = None):
        super().__init__()
        k = dims if reflections is None else reflections
        if k < 1:
            raise ValueError(f"Householder takes 1 reflection or more, not {k}.")
        self.vectors = nn.Parameter(torch.randn(k, dims))

    def _reflect(self, x: Float[Tensor, "batch dims"], backwards: bool) -> Tensor:
        v = self.vectors
        with full_precision(x):
            products = v @ v.T
            half = torch.diag(products.diagonal() / 2)
            system = (products.triu() if backwards else products.tril()) - half
            return x - solve_triangular(system, v @ x.T, upper=backwards).T @ v

    def forward(self, x, context=None):
        return self._reflect(x, backwards=False), x.new_zeros(len(x))

    def inverse(self, z, context=None):
        return self._reflect(z, backwards=True), z.new_zeros(len(z))


class Orthogonal(Bijector):
    r"""$z = Qx$ with $Q$ from a skew-symmetric $A$: $Q^\top Q = I$, and $\log|\det| = 0$.

    `"exp"` is $Q = e^A$ and reaches every rotation; `"cayley"` is $Q = (I + A)^{-1}(I - A)$, costs
    one linear solve, and misses the rotations by half a turn: those with an eigenvalue -1. Both
    have determinant +1; no mirror image is among them.

    Args:
        dims: number of dimensions, $D$.
        kind: `"cayley"` or `"exp"`.

    Source: Golinski et al. (2019) for the exponential; Cayley (1846).
    """

    def __init__(self, dims: int, kind: str = "cayley"):
        super().__init__()
        if kind not in ("cayley", "exp"):
            raise ValueError(f"kind should be 'cayley' or 'exp' and is {kind!r}.")
        self.kind = kind
        self.raw = nn.Parameter(torch.randn(dims, dims).tril(-1) / math.sqrt(dims))

    @property
    def weight(self) -> Float[Tensor, "dims dims"]:
        """$Q$; only the entries of `raw` below the diagonal play a role."""
        lower = self.raw.tril(-1)
        skew = lower - lower.T
        with full_precision(skew):
            if self.kind == "exp":
                return torch.linalg.matrix_exp(skew)
            identity = torch.eye(len(skew), dtype=skew.dtype, device=skew.device)
            return torch.linalg.solve(identity + skew, identity - skew)

    def forward(self, x, context=None):
        with full_precision(x):
            return x @ self.weight.T, x.new_zeros(len(x))

    def inverse(self, z, context=None):
        with full_precision(z):
            return z @ self.weight, z.new_zeros(len(z))


# Products


class PLULinear(InvertibleConv):
    r"""Glow's $W = P L (U + \mathrm{diag}(\pm e^{\ell}))$ for vectors, without ever forming $W$.

    $P$ and the signs stay what they were at the start, and the rest is learned.
    A vector is multiplied by three factors in $O(D^2)$; the inverse is two substitutions. (The 1x1
    convolution, which meets many positions and few channels, forms $W$ and its inverse.)

    Args:
        dims: number of dimensions, $D$.
        start: the first $W$: a random `"rotation"`, as in Glow, or a random `"permutation"`, which
            leaves each number of the data whole, as in the program of Durkan et al. (2019).

    Source: Kingma & Dhariwal (2018), eqs. 10 and 11; Oliva et al. (2018), for vectors.
    """

    def __init__(self, dims: int, start: str = "rotation"):
        super().__init__(dims, "plu")
        if start not in ("rotation", "permutation"):
            raise ValueError(f"start should be 'rotation' or 'permutation' and is {start!r}.")
        if start == "permutation":
            self.permutation.copy_(torch.eye(dims)[torch.randperm(dims)])
            self.sign.fill_(1)
            for parameter in self.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x, context=None):
        lower, upper = self.triangles
        with full_precision(x):
            y = x @ upper.T @ lower.T
        return y[:, self.permutation.argmax(dim=1)], self._log_det(x)

    def inverse(self, z, context=None):
        lower, upper = self.triangles
        with full_precision(z):
            y = z[:, self.permutation.argmax(dim=0)]
            half = solve_triangular(lower, y.T, upper=False)
            x = solve_triangular(upper, half, upper=True).T
        return x, -self._log_det(z)


class QRLinear(Compose):
    r"""$W = QR$: an upper triangular map with positive diagonal, then Householder's mirrors.

    With $k \ge D - 1$ every invertible matrix whose determinant has the sign $(-1)^k$ is such a
    product, and no permutation has to be chosen; $\log|\det| = \sum \ell$ is that of $R$.

    Args:
        dims: number of dimensions, $D$.
        reflections: $k$, see `Householder`.

    Source: Hoogeboom et al. (2019), for 1x1 convolutions.
    """

    def __init__(self, dims: int, reflections: int | None = None):
        super().__init__(Triangular(dims), Householder(dims, reflections))


# Models


def whitening(mean: Float[Tensor, " dims"], covariance: Float[Tensor, "dims dims"]) -> Linear:
    r"""The linear map that makes a normal density standard: maximum likelihood in closed form.

    $W = C^{-1}$ with the covariance's Cholesky factor, $CC^\top = \Sigma$, and $b = -W\mu$. With a
    sample's mean and covariance (divided by $n$) no linear flow on a normal base scores that sample
    better. In the dtype of `mean`.

    Raises:
        torch.linalg.LinAlgError: the covariance is not positive definite, for example because a
            column is constant or there are fewer examples than dimensions.
    """
    linear = Linear(len(mean)).to(mean)
    lower = torch.linalg.cholesky(covariance)
    identity = torch.eye(len(mean)).to(mean)
    with torch.no_grad():
        linear.weight.copy_(solve_triangular(lower, identity, upper=False))
        linear.bias.copy_(-linear.weight @ mean)
    return linear


# What may stand between two layers, by name.
MIXING: dict[str, Callable[[int], Bijector]] = {
    "reverse": reversal,
    "shuffle": lambda dims: Permutation(torch.randperm(dims)),
    "dense": partial(InvertibleConv, form="direct"),
    "plu": PLULinear,
    "plu_permutation": partial(PLULinear, start="permutation"),
    "qr": QRLinear,
    "householder": Householder,
    "cayley": partial(Orthogonal, kind="cayley"),
    "exp": partial(Orthogonal, kind="exp"),
}


def mixed(layers: Iterable[Bijector], dims: int, mixing: str) -> list[Bijector]:
    """Put actnorm and a linear map before each layer and after the last.

    Args:
        layers: bijectors of vectors.
        dims: length of the vectors.
        mixing: which linear map, a name in `MIXING`.

    Raises:
        ValueError: an unknown map.

    Source: Durkan et al. (2019), for linear maps between autoregressive layers.
    """
    if mixing not in MIXING:
        raise ValueError(f"mixing is one of {', '.join(MIXING)}, not {mixing!r}.")
    steps: list[Bijector] = []
    for layer in layers:
        steps += [ActNorm(dims), MIXING[mixing](dims), layer]
    return [*steps, ActNorm(dims), MIXING[mixing](dims)]


def build(
    event_shape: Sequence[int],
    levels: int | None,
    *,
    mixing: str = "plu",
    layers: int = 5,
    blocks: int | None = None,
    hidden: Sequence[int] = (512, 512),
    dropout: float = 0.0,
) -> Flow | DequantizedFlow:
    """Affine autoregressive layers with actnorm and a linear map around each, see `mixed`.

    Without layers and with `plu`, `qr` or `dense`, this is a normal density with any covariance.
    With `reverse` it is MAF with actnorm, and with two blocks as well it is RealNVP.

    Args:
        event_shape: shape of one example.
        levels: number of levels of discrete data, or None for continuous data.
        mixing: which linear map, a name in `MIXING`.
        layers: number of autoregressive layers.
        blocks: of dimensions, each given those before: 2 for couplings; by default as many as
            dimensions.
        hidden: widths of the hidden layers of each conditioner.
        dropout: of hidden units.

    Raises:
        ValueError: an unknown map, or more blocks than dimensions.

    Source: Papamakarios et al. (2017), section 4; Durkan et al. (2019), for linear maps
    between autoregressive layers.
    """
    dims, transformer = math.prod(event_shape), AffineTransformer()

    def layer() -> Bijector:
        net = MaskedConditioner(dims, transformer.outputs, hidden, blocks=blocks, dropout=dropout)
        return Autoregressive(net, transformer)

    steps: list[Bijector] = [] if levels is None else [preprocess(levels)]
    steps.append(Flatten(event_shape))
    steps += mixed((layer() for _ in range(layers)), dims, mixing)
    steps.append(Inverse(Flatten(event_shape)))
    flow = Flow(Compose(*steps), StandardNormal(*event_shape))
    return flow if levels is None else DequantizedFlow(flow, levels)
