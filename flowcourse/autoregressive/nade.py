r"""NADE: neural autoregressive distribution estimation, in one order and in every order.

The chain rule in a fixed order, with one hidden layer for all conditionals. Binary data, $x_d$ the
dimension at place $d$ of the order:

$$a_1 = c, \qquad a_{d+1} = a_d + W_{:,d}\,x_d, \qquad h_d = \sigma(a_d), \qquad
  P(x_d = 1 \mid x_{<d}) = \sigma(V_{d,:}\,h_d + b_d).$$

The running sum $a_d$ makes all $D$ conditionals cost $O(DH)$, as much as one pass of an
autoencoder.

`OrderAgnostic` gives up the order: one network is told which dimensions are known and predicts all
others, so it can be asked in any order (DeepNADE, or ConvNADE if it is convolutional), and `EoNADE`
averages the probabilities of several orders. Every likelihood here is exact.

Book: `book/autoregressive/nade.md`. Sources: Larochelle & Murray (2011); Uria, Murray & Larochelle
(2014), arXiv:1310.1757; Uria et al. (2016), arXiv:1605.02226.
"""

import copy
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flowcourse.bijector import sum_event
from flowcourse.chain_rule import AutoregressiveModel
from flowcourse.foundations.likelihood import bits_per_dim
from flowcourse.nets import MLP, ResidualConvNet

__all__ = ["NADE", "EoNADE", "OrderAgnostic", "build", "random_orders", "thermometer"]


def thermometer(x: Tensor, levels: int) -> Float[Tensor, "batch steps *event"]:
    """Each level as `levels - 1` zeros and ones: is `x` at least 1, at least 2, ...?

    A binary value stays as it is. A weight matrix has a column for every step up, and the sum of
    the first `v` of them is the column that a one-hot code would have for level `v`.

    >>> thermometer(torch.tensor([[0.0, 2.0]]), 4)[0].T
    tensor([[0., 0., 0.],
            [1., 1., 0.]])
    """
    steps = torch.arange(1, levels, device=x.device).view(-1, *[1] * (x.ndim - 1))
    return (x.unsqueeze(1) >= steps).to(x.dtype)


def _with_level_zero(logits: Tensor) -> Tensor:
    """Level 0 has logit 0, the others are relative to it; with two levels this is a sigmoid."""
    return F.pad(logits, (1, 0))


class NADE(AutoregressiveModel):
    r"""All conditionals from one matrix $W$, whose columns are added up along the order.

    Args:
        event_shape: shape of one example.
        levels: the data take values 0, ..., levels - 1; two for the paper's binary model.
        hidden: number of hidden units $H$.
        order: as for `AutoregressiveModel`.
        dropout: of the hidden units, in training.

    Source: Larochelle & Murray (2011), the model and its algorithm; Uria et al. (2016).
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        levels: int,
        hidden: int = 500,
        order: Sequence[int] | None = None,
        dropout: float = 0.0,
    ):
        super().__init__(event_shape, levels, order)
        self.weight = nn.Parameter(torch.randn(self.dims, levels - 1, hidden))  # W
        self.bias = nn.Parameter(torch.zeros(hidden))  # c
        self.out_weight = nn.Parameter(torch.zeros(self.dims, levels - 1, hidden))  # V
        self.out_bias = nn.Parameter(torch.zeros(self.dims, levels - 1))  # b
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.weight.div_(math.sqrt(self.dims * (levels - 1)))

    def encode(self, x):
        return thermometer(x, self.levels)

    def logits(self, h, context=None):
        codes, weight = h.flatten(2)[:, :, self.order], self.weight[self.order]
        columns = torch.einsum("bkd, dkh -> bdh", codes, weight)  # W[:, d] x_d
        before = F.pad(columns.cumsum(dim=1)[:, :-1], (0, 0, 1, 0))  # the sum over *earlier* d
        hidden = self.dropout(torch.sigmoid(self.bias + before))
        out = torch.einsum("bdh, dkh -> bdk", hidden, self.out_weight[self.order])
        out = out + self.out_bias[self.order]
        place = np.argsort(self.order).tolist()
        return _with_level_zero(out[:, place].unflatten(1, self.event_shape))

    def conditional(self, x, place, context=None, cache=None):
        if cache is None:
            return super().conditional(x, place, context)
        if place == 0:
            cache["a"] = self.bias.expand(len(x), -1)
        else:  # one more column: O(H), whatever the place
            last = self.order[place - 1]
            code = thermometer(x.flatten(1)[:, last], self.levels)
            cache["a"] = cache["a"] + code @ self.weight[last]
        index = self.order[place]
        hidden = self.dropout(torch.sigmoid(cache["a"]))
        return _with_level_zero(hidden @ self.out_weight[index].T + self.out_bias[index])


class OrderAgnostic(AutoregressiveModel):
    r"""One network for every conditional $P(x_i \mid x_K)$, whatever set $K$ is known.

    The network is given the known values, zeros for the others, and the mask that tells them apart.
    In evaluation, the chain rule in `order` asks it $D$ times, and `in_order` gives the model of
    another order with the same weights. In training, `forward` asks it once: it returns the
    unbiased estimate of the mean log-likelihood over all orders that `split_estimate` states.

    Args:
        event_shape: shape of one example.
        levels: the data take values 0, ..., levels - 1.
        net: from the codes and the mask, `(batch, levels, *event)`, to logits,
            `(batch, levels - 1, *event)`.
        order: as for `AutoregressiveModel`.

    Source: Uria, Murray & Larochelle (2014), training; Uria et al. (2016), DeepNADE and ConvNADE.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        levels: int,
        net: nn.Module,
        order: Sequence[int] | None = None,
    ):
        super().__init__(event_shape, levels, order)
        self.net = net

    def in_order(self, order: Sequence[int]) -> "OrderAgnostic":
        """The same network, asked in another order; the weights are shared, not copied."""
        if sorted(order) != sorted(self.order):
            raise ValueError(f"order should name each of the {self.dims} dimensions once: {order}.")
        other = copy.copy(self)
        other.order = list(order)
        return other

    def encode(self, x):
        return thermometer(x, self.levels)

    def given(
        self, h: Float[Tensor, "batch k *event"], known: Bool[Tensor, "#batch *event"]
    ) -> Float[Tensor, "batch *event levels"]:
        """Logits of every dimension given those that `known` marks: one pass of the network.

        The logits of a known dimension mean nothing. One mask serves the whole batch, or each
        example has its own.
        """
        mask = known.to(h.dtype).expand(len(h), *self.event_shape).unsqueeze(1)
        return _with_level_zero(self.net(torch.cat([h * mask, mask], dim=1)).movedim(1, -1))

    def logits(self, h, context=None):
        every = [self._at(h, place) for place in range(self.dims)]
        place = np.argsort(self.order).tolist()
        return torch.stack([every[k] for k in place], dim=1).unflatten(1, self.event_shape)

    def conditional(self, x, place, context=None, cache=None):
        return self._at(self.encode(x), place)

    def _at(self, h: Tensor, place: int) -> Float[Tensor, "batch levels"]:
        known = torch.zeros(1, self.dims, dtype=torch.bool, device=h.device)
        known[:, self.order[:place]] = True
        every = self.given(h, known.unflatten(1, self.event_shape))
        return every.flatten(1, -2)[:, self.order[place]]

    def random_known(self, n: int) -> Bool[Tensor, "n *event"]:
        """The beginning of a uniformly random order, of uniform length 0, ..., D - 1."""
        device = next(self.parameters()).device
        place = torch.rand(n, self.dims, device=device).argsort(dim=1).argsort(dim=1)
        length = torch.randint(self.dims, (n, 1), device=device)
        return (place < length).unflatten(1, self.event_shape)

    def split_estimate(
        self, x: Tensor, known: Bool[Tensor, "#batch *event"]
    ) -> Float[Tensor, " batch"]:
        r"""$\frac{D}{D - |K|} \sum_{i \notin K} \log P(x_i \mid x_K)$, in nats; `known` marks $K$.

        Over a random $K$ from `random_known`, its expectation is the mean of $\log P(x)$ over all
        orders.

        Source: Uria, Murray & Larochelle (2014), the order-agnostic training procedure.
        """
        x = self._check(x)
        log_p = self.given(self.encode(x), known).log_softmax(dim=-1)
        log_p = log_p.gather(-1, x.long().unsqueeze(-1)).squeeze(-1)
        unknown = (~known).to(log_p.dtype)
        return self.dims / sum_event(unknown) * sum_event(unknown * log_p)

    def forward(self, x, context=None):
        """In training `split_estimate` at a random split, which is cheap; otherwise `log_prob`."""
        if self.training:
            return self.split_estimate(x, self.random_known(len(x)))
        return self.log_prob(x, context)

    def complete(
        self, x, known, temperature=1.0, *, context=None, noise=None, cached=True
    ) -> Int[Tensor, "batch *event"]:
        """As for `AutoregressiveModel`, and `known` may be *any* pattern.

        What is known is moved to the front of the order, so the samples follow the exact
        conditional distribution of the model in that order.
        """
        first = self if known.is_meta else self.in_order(_known_first(known, self.order))
        # There is nothing to cache, and without a cache the known places cost nothing.
        return AutoregressiveModel.complete(
            first, x, known, temperature, context=context, noise=noise, cached=False
        )


def _known_first(known: Tensor, order: Sequence[int]) -> list[int]:
    flags = known.flatten().tolist()
    return sorted(order, key=lambda i: not flags[i])  # stable: else the order stays as it is


class EoNADE(nn.Module):
    r"""An ensemble of orders: $P(x) = \frac{1}{M} \sum_{m=1}^{M} P(x \mid o^{(m)})$, exact.

    A mixture of the $M$ models that one network is in $M$ orders: probabilities are averaged, not
    their logarithms. It has no conditionals of its own in any order, so it is no
    `AutoregressiveModel`, and answers the same questions.

    Args:
        model: trained as it is alone.
        orders: the $M$ orders.

    Source: Uria, Murray & Larochelle (2014), ensembles of orderings.
    """

    kind = "exact"

    def __init__(self, model: OrderAgnostic, orders: Sequence[Sequence[int]]):
        super().__init__()
        if not orders:
            raise ValueError("An ensemble needs one order or more: see random_orders.")
        self.model = model
        self.orders = [model.in_order(order).order for order in orders]  # also checks them
        self.event_shape, self.levels, self.dims = model.event_shape, model.levels, model.dims

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Float[Tensor, " batch"]:
        r"""$\log P(x)$ of each example, in nats, exact: $M D$ passes of the network."""
        scores = [self.model.in_order(order).log_prob(x, context) for order in self.orders]
        return torch.stack(scores).logsumexp(dim=0) - math.log(len(scores))

    def forward(self, x, context=None):
        """What training maximises: the single model's estimate; otherwise `log_prob`."""
        return self.model(x, context) if self.training else self.log_prob(x, context)

    def bits_per_dim(
        self, x: Tensor, draws: int = 1, context: Tensor | None = None
    ) -> Float[Tensor, " batch"]:
        r"""$-\log_2 P(x) / D$ of each example, exact: `draws` is there for bounds, and ignored."""
        return bits_per_dim(-self.log_prob(x, context), self.dims)

    def sample(self, n: int, temperature: float = 1.0) -> Int[Tensor, "n *event"]:
        """Draw integers, each example in an order of its own, chosen from the ensemble's."""
        device = next(self.parameters()).device
        x = torch.zeros(n, *self.event_shape, dtype=torch.int64, device=device)
        return self.complete(x, torch.zeros(self.event_shape, dtype=torch.bool), temperature)

    def complete(
        self, x: Tensor, known: Bool[Tensor, "*event"], temperature: float = 1.0
    ) -> Int[Tensor, "batch *event"]:
        """Draw what is missing, given any pattern of known dimensions.

        The orders used all start with the known dimensions, in the same sequence, so all of them
        give the known part the same probability; each example takes one of them at random.
        """
        start = [i for i in self.model.order if known.flatten()[i]]
        done = x.to(torch.int64, copy=True)
        choice = torch.randint(len(self.orders), (len(x),))
        for m in choice.unique().tolist():
            rows = (choice == m).nonzero()[:, 0].to(x.device)
            rest = [i for i in self.orders[m] if i not in start]
            model = self.model.in_order(start + rest)
            done[rows] = model.complete(x[rows], known.to(x.device), temperature)
        return done


def random_orders(dims: int, n: int, seed: int = 0) -> list[list[int]]:
    """Independent uniformly random orders; the same seed gives the same ones everywhere."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(dims).tolist() for _ in range(n)]


def build(
    event_shape: Sequence[int],
    levels: int,
    *,
    network: Literal["nade", "deep", "conv"] = "nade",
    hidden: int = 500,
    depth: int = 2,
    dropout: float = 0.0,
    orders: int = 1,
) -> NADE | EoNADE:
    """NADE for data of one shape; the defaults are the paper's configuration for MNIST.

    Args:
        event_shape: shape of one example; an image `(C, H, W)` for `conv`.
        levels: number of levels of the data.
        network: `nade` for one hidden layer in raster order; `deep` for a dense order-agnostic
            network, `conv` for a residual convolutional one.
        hidden: hidden units, or feature maps.
        depth: hidden layers of `deep`, residual blocks of `conv`.
        dropout: of hidden units, or of whole feature maps.
        orders: random orders in the ensemble of an order-agnostic network.

    Source: Larochelle & Murray (2011), experiments (500 hidden units); Uria et al. (2016).
    """
    event_shape = tuple(event_shape)
    steps, dims = levels - 1, math.prod(event_shape)
    if network == "nade":
        return NADE(event_shape, levels, hidden, dropout=dropout)
    net: nn.Module
    if network == "deep":
        mlp = MLP(levels * dims, [hidden] * depth, steps * dims, dropout)
        net = nn.Sequential(nn.Flatten(), mlp, nn.Unflatten(1, (steps, *event_shape)))
    else:
        channels = event_shape[0]
        conv = ResidualConvNet(levels * channels, hidden, steps * channels, depth, dropout)
        net = nn.Sequential(nn.Flatten(1, 2), conv, nn.Unflatten(1, (steps, channels)))
    model = OrderAgnostic(event_shape, levels, net)
    return EoNADE(model, random_orders(dims, orders))
