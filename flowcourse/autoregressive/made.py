r"""MADE: masked autoencoder for distribution estimation.

A dense network from $D$ inputs to $D$ outputs becomes an autoregressive model when enough of its
weights are multiplied by zero. Every unit gets a *degree*: an input or an output its place in the
order, $1, \dots, D$, a hidden unit the last place that it may know of, $1, \dots, D - 1$. Then

$$M_{kj} = [m_k \ge m_j] \quad\text{into hidden units}, \qquad
  M_{dk} = [m_d > m_k] \quad\text{into outputs},$$

and along every path from an input to an output the degree never falls and at last rises, so that
an output depends on earlier inputs only. One pass gives all conditionals; sampling takes $D$.

Book: `book/autoregressive/made.md`. Source: Germain, Gregor, Murray & Larochelle (2015),
arXiv:1502.03509.
"""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flowcourse.bijector import Bijector, sum_event
from flowcourse.chain_rule import AutoregressiveModel, one_hot, raster
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.likelihood import bits_per_dim

__all__ = [
    "MADE",
    "GaussianMADE",
    "MaskedLinear",
    "MaskedMLP",
    "MixtureOfOrders",
    "build",
    "hidden_degrees",
    "mask",
]


# The network


def hidden_degrees(
    dims: int, width: int, how: str, rng: np.random.RandomState, lowest: int = 1
) -> Int[np.ndarray, " width"]:
    """The degrees of one hidden layer: how many places of the order each unit may look at.

    Args:
        dims: number of dimensions, $D$; hidden degrees are 1, ..., D - 1 (1 if D = 1).
        width: number of hidden units.
        how: `even` spreads the units evenly over the degrees; if there are D - 1 units or more,
            every degree occurs. `random` draws each degree uniformly, as the paper does, and may
            miss some: the output just after a missing degree loses its nearest input.
        rng: draws the random ones.
        lowest: no random degree is below it. With the smallest degree of the layer before, no unit
            is without an input.

    Source: Germain et al. (2015), "Deep MADE" (the random degrees).
    """
    highest = max(dims - 1, 1)
    if how == "random":
        return rng.randint(lowest, highest + 1, size=width)
    if width >= highest:
        return np.arange(width) % highest + 1
    return np.linspace(1, highest, width).round().astype(int)


def mask(
    after: Int[Tensor, " outputs"], before: Int[Tensor, " inputs"], strict: bool
) -> Bool[Tensor, "outputs inputs"]:
    r"""Which weights stay: those with $m_\text{after} \ge m_\text{before}$, or $>$ if strict.

    Source: Germain et al. (2015), eqs. 8 and 9; the second, strict one is that of the outputs.
    """
    after, before = after[:, None], before[None, :]
    return after > before if strict else after >= before


class MaskedLinear(nn.Linear):
    r"""A dense layer whose weights are multiplied by zeros and ones: $(W \odot M)\,h + b$.

    The masks are on the *weights of a dense layer*; a masked convolution is another construction.

    Source: Germain et al. (2015), "Masked autoencoders".
    """

    def forward(  # type: ignore[override]
        self, h: Float[Tensor, "batch inputs"], mask: Bool[Tensor, "rows inputs"], rows=slice(None)
    ) -> Float[Tensor, "batch rows"]:
        """Apply the layer, or some rows of it, with the weights where `mask` is True."""
        bias = None if self.bias is None else self.bias[rows]
        return F.linear(h, self.weight[rows] * mask, bias)


class MaskedMLP(nn.Module):
    r"""A network whose outputs for a dimension depend on the inputs of earlier dimensions only.

    Args:
        orders: one order or several; each gives the network a set of masks for its weights. An
            order may occur more than once: its sets differ in their random degrees.
        inputs: features of each dimension.
        outputs: numbers to compute for each dimension.
        hidden: widths of the hidden layers; none gives a linear map.
        degrees: of the hidden units, `even` or `random`, see `hidden_degrees`.
        direct: whether inputs are also linked to outputs directly, which restores whatever
            dependency the hidden degrees miss. Without a hidden layer, that link is all there is.
        dropout: probability of dropping a hidden unit in training.
        seed: of random degrees.

    Raises:
        ValueError: the orders are none, or not permutations of the same dimensions, or there is no
            such way to choose degrees.

    Source: Germain et al. (2015), "Deep MADE" and algorithm 1.
    """

    def __init__(
        self,
        orders: Sequence[Sequence[int]],
        inputs: int,
        outputs: int,
        hidden: Sequence[int],
        *,
        degrees: str = "even",
        direct: bool = False,
        dropout: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        self.dims = dims = len(orders[0]) if orders else 0
        if not dims or any(sorted(order) != list(range(dims)) for order in orders):
            raise ValueError(
                "MaskedMLP expects one order or more, each naming the dimensions 0, 1, ... once, "
                f"and got {orders}."
            )
        if degrees not in ("even", "random"):
            raise ValueError(f"Hidden degrees are 'even' or 'random', not {degrees!r}.")
        self.inputs, self.outputs = inputs, outputs
        # Of NumPy's generators, the one whose numbers are promised never to change.
        rng = np.random.RandomState(seed)
        sets = []
        for order in orders:
            of_layers = [np.argsort(order) + 1]
            for width in hidden:
                lowest = int(of_layers[-1].min())
                of_layers.append(hidden_degrees(dims, width, degrees, rng, lowest))
            sets.append(of_layers)
        # One matrix for each layer, with a row for each set: a part of the saved state.
        for layer, rows in enumerate(zip(*sets, strict=True)):
            self.register_buffer(f"degrees_{layer}", torch.tensor(np.stack(rows)))

        widths = [dims * inputs, *hidden]
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.hidden = nn.ModuleList(MaskedLinear(below, above) for below, above in pairs)
        self.dropout = nn.Dropout(dropout)
        self.last = MaskedLinear(widths[-1], dims * outputs)
        self.direct = None
        if direct and hidden:
            self.direct = MaskedLinear(widths[0], dims * outputs, bias=False)

    def degrees(self, which: int = 0) -> list[Int[Tensor, " width"]]:
        """The degrees of the dimensions (their places, from 1), then of each hidden layer."""
        layers = range(len(self.hidden) + 1)
        return [self.get_buffer(f"degrees_{layer}")[which] for layer in layers]

    def masks(self, which: int = 0) -> list[Bool[Tensor, "outputs inputs"]]:
        """The masks of the hidden layers, of the output layer, and of the direct link."""
        places, *hidden = self.degrees(which)
        before = places.repeat_interleave(self.inputs)
        after = places.repeat_interleave(self.outputs)
        units = [before, *hidden]
        into_hidden = [mask(hidden[k], units[k], strict=False) for k in range(len(hidden))]
        return [*into_hidden, mask(after, units[-1], strict=True), mask(after, before, strict=True)]

    def forward(
        self, x: Float[Tensor, "batch dims inputs"], which: int = 0
    ) -> Float[Tensor, "batch dims outputs"]:
        """Apply the network with one of its sets of masks."""
        *into_hidden, into_outputs, across = self.masks(which)
        h = x = x.flatten(1)
        for layer, chosen in zip(self.hidden, into_hidden, strict=True):
            h = self.dropout(F.relu(layer(h, chosen)))
        out = self.last(h, into_outputs)
        if self.direct is not None:
            out = out + self.direct(x, across)
        return out.unflatten(1, (self.dims, self.outputs))

    def outputs_at(
        self, x: Float[Tensor, "batch dims inputs"], place: int, kept: dict, which: int = 0
    ) -> Float[Tensor, "batch outputs"]:
        """The outputs of the dimension at one place of the order, for places 0, 1, 2, ... in turn.

        A hidden unit of degree m is final once the first m places are known. So each call computes
        the units of one degree and keeps them in `kept`, a dict that is empty at place 0: all calls
        together multiply as often as one pass.
        """
        places, *hidden = self.degrees(which)
        units = [places.repeat_interleave(self.inputs), *hidden]
        h = x = x.flatten(1)
        for k, layer in enumerate(self.hidden):
            below, h = h, kept.setdefault(k, x.new_zeros(len(x), len(hidden[k])))
            new = (hidden[k] == place).nonzero().squeeze(1)
            chosen = mask(hidden[k][new], units[k], strict=False)
            h[:, new] = self.dropout(F.relu(layer(below, chosen, new)))
        index = int((places == place + 1).nonzero())
        rows = slice(index * self.outputs, (index + 1) * self.outputs)
        after = places[index].expand(self.outputs)
        out = self.last(h, mask(after, units[-1], strict=True), rows)
        if self.direct is not None:
            out = out + self.direct(x, mask(after, units[0], strict=True), rows)
        return out


# Discrete data


class MADE(AutoregressiveModel):
    r"""A masked network that computes the logits of every dimension's levels in one pass.

    Args:
        event_shape: shape of one example.
        levels: the data take values 0, ..., levels - 1; two make it the paper's binary MADE.
        orders: each is a permutation of the dimensions, see `MaskedMLP`; the raster order alone
            by default. The model speaks for the first of them; `member` for another.
        encoding: what the network sees of a dimension, its level `scaled` to [-1, 1] or `one_hot`.
        options: of `MaskedMLP`: `hidden` and what follows.

    Source: Germain et al. (2015), algorithm 1.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        levels: int,
        orders: Sequence[Sequence[int]] | None = None,
        encoding: str = "scaled",
        **options,
    ):
        known = [raster(event_shape)] if orders is None else [list(o) for o in orders]
        super().__init__(event_shape, levels, known[0])
        if encoding not in ("scaled", "one_hot"):
            raise ValueError(f"The encoding is 'scaled' or 'one_hot', not {encoding!r}.")
        self.orders = known
        self.which = 0
        self.encoding = encoding
        features = levels if encoding == "one_hot" else 1
        self.net = MaskedMLP(known, features, levels, **options)

    def encode(self, x):
        return one_hot(x, self.levels) if self.encoding == "one_hot" else super().encode(x)

    def logits(self, h, context=None):
        of_dims = self.net(h.flatten(2).transpose(1, 2), self.which)
        return of_dims.unflatten(1, self.event_shape)

    def conditional(self, x, place, context=None, cache=None):
        if cache is None or x.is_meta:  # there, no degrees can be looked up
            return super().conditional(x, place)
        h = self.encode(x).flatten(2).transpose(1, 2)
        return self.net.outputs_at(h, place, cache, self.which)

    def member(self, which: int) -> "MADE":
        """The same network seen through one of its sets of masks; the weights are shared."""
        seen = copy.copy(self)
        seen.which, seen.order = which, self.orders[which]
        return seen


class MixtureOfOrders(nn.Module):
    r"""One network, $M$ sets of masks, and the mixture of the $M$ distributions:

    $$P(x) = \frac{1}{M} \sum_{m=1}^{M} P_m(x).$$

    The *probabilities* are averaged. The mean of the log-probabilities is no distribution's
    logarithm, and neither are products of conditionals that were averaged over different orders.
    A mixture is exact, and has no order of its own: it samples by choosing a member.

    In training mode a call draws one set of masks for the batch: order-agnostic training where the
    orders differ, connectivity-agnostic where the degrees do. Its expectation is a lower bound on
    the mixture's log-likelihood, by Jensen's inequality.

    Source: Germain et al. (2015), "Order-agnostic training" and "Connectivity-agnostic training".
    """

    kind = "exact"

    def __init__(self, made: MADE):
        super().__init__()
        self.made = made

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one example."""
        return self.made.event_shape

    @property
    def levels(self) -> int:
        """The number of values that a dimension takes."""
        return self.made.levels

    @property
    def members(self) -> list[MADE]:
        """The autoregressive models, one for each set of masks."""
        return [self.made.member(which) for which in range(len(self.made.orders))]

    def log_prob(self, x: Tensor) -> Float[Tensor, " batch"]:
        r"""$\log \frac{1}{M} \sum_m P_m(x)$ of each example, in nats, exact: $M$ passes."""
        log_p = torch.stack([member.log_prob(x) for member in self.members])
        return log_p.logsumexp(dim=0) - math.log(len(log_p))

    def forward(self, x: Tensor) -> Float[Tensor, " batch"]:
        """What training maximises: `log_prob` of one random member; in `eval` mode, `log_prob`."""
        if not self.training:
            return self.log_prob(x)
        return self.made.member(int(torch.randint(len(self.made.orders), ()))).log_prob(x)

    def bits_per_dim(self, x: Tensor, draws: int = 1) -> Float[Tensor, " batch"]:
        r"""$-\log_2 P(x) / D$ of each example, exact: `draws` is there for bounds, and ignored."""
        return bits_per_dim(-self.log_prob(x), self.made.dims)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0) -> Int[Tensor, "n *event"]:
        """Draw integers: for each example a member, and the example from that member."""
        chosen = torch.randint(len(self.made.orders), (n,)).tolist()
        drawn = [
            self.made.member(which).sample(chosen.count(which), temperature)
            for which in sorted(set(chosen))
        ]
        return torch.cat(drawn)[torch.randperm(n)]


# Continuous data


class GaussianMADE(Bijector):
    r"""Gaussian conditionals: $x_d = \mu_d(x_{<d}) + e^{\alpha_d(x_{<d})} z_d$, in a given order.

    As a map from data to latent, $z_d = (x_d - \mu_d)\,e^{-\alpha_d}$: its Jacobian is triangular
    in the order and $\log|\det| = -\sum_d \alpha_d$. With a standard normal base it is the
    density $\prod_d \mathcal{N}(x_d; \mu_d, e^{2 \alpha_d})$, and with linear $\mu$ and constant
    $\alpha$ any Gaussian. The log-scale is bounded, $|\alpha| < 7$, so that nothing overflows.

    Args:
        event_shape: shape of one example.
        order: a permutation of the dimensions; the raster order by default.
        options: of `MaskedMLP`: `hidden` and what follows.

    Source: Uria et al. (2013) for real-valued conditionals; Papamakarios et al. (2017), eqs. 3 and
    4, where it is read as a flow.
    """

    bound = 7.0

    def __init__(self, event_shape: Sequence[int], order: Sequence[int] | None = None, **options):
        super().__init__()
        self.event_shape = torch.Size(event_shape)
        self.order = raster(event_shape) if order is None else list(order)
        self.net = MaskedMLP([self.order], 1, 2, **options)

    def parameters_of(
        self, x: Float[Tensor, "batch dims"]
    ) -> tuple[Float[Tensor, "batch dims"], Float[Tensor, "batch dims"]]:
        r"""$\mu$ and $\alpha$ of every dimension, given the earlier ones."""
        shift, raw = self.net(x.unsqueeze(-1)).to(x.dtype).unbind(dim=-1)
        return shift, self.bound * torch.tanh(raw / self.bound)

    def forward(self, x, context=None):
        flat = x.flatten(1)
        shift, log_scale = self.parameters_of(flat)
        z = (flat - shift) * (-log_scale).exp()
        return z.reshape(x.shape), -sum_event(log_scale)

    def inverse(self, z, context=None):
        """One pass for each dimension, in the order: the next one needs those before it."""
        flat = z.flatten(1)
        x, log_det = torch.zeros_like(flat), flat.new_zeros(len(flat))
        for index in self.order:
            shift, log_scale = self.parameters_of(x)
            here = torch.arange(len(self.order), device=x.device) == index
            x = torch.where(here, shift + log_scale.exp() * flat, x)
            log_det = log_det + log_scale[:, index]
        return x.reshape(z.shape), log_det


def build(
    event_shape: Sequence[int],
    levels: int | None,
    *,
    hidden: Sequence[int] = (8000, 8000),
    masks: int = 1,
    order: str = "raster",
    degrees: str = "even",
    direct: bool = True,
    dropout: float = 0.0,
    encoding: str = "scaled",
    seed: int = 0,
) -> MADE | MixtureOfOrders | Flow:
    """MADE for data of one shape.

    Args:
        event_shape: shape of one example.
        levels: number of levels of discrete data, or None for continuous data.
        hidden: widths of the hidden layers; with none, every conditional is a (multinomial)
            logistic regression on the earlier dimensions.
        masks: number of sets of masks; more than one makes a `MixtureOfOrders`.
        order: `raster`, or `random` for another random order in each set.
        degrees: of the hidden units, `even` or `random`, see `hidden_degrees`.
        direct: whether to link inputs and outputs directly.
        dropout: of hidden units.
        encoding: of discrete data, `scaled` or `one_hot`.
        seed: of random orders and degrees.

    Returns:
        A `MADE` for discrete data, or a `MixtureOfOrders` if there are several sets of masks; a
        `Flow` with a `GaussianMADE` for continuous data.

    Source: Germain et al. (2015); for MNIST, two layers of 8000 units and 32 sets of masks.
    """
    if masks < 1 or (levels is None and masks > 1):
        raise ValueError(
            f"MADE takes one set of masks or more, and for continuous data one, not {masks}."
        )
    if order not in ("raster", "random"):
        raise ValueError(f"The order is 'raster' or 'random', not {order!r}.")
    rng = np.random.RandomState(seed)
    natural = raster(event_shape)
    orders = [
        rng.permutation(len(natural)).tolist() if order == "random" else natural
        for _ in range(masks)
    ]
    options = dict(hidden=hidden, degrees=degrees, direct=direct, dropout=dropout, seed=seed)
    if levels is None:
        return Flow(GaussianMADE(event_shape, orders[0], **options), StandardNormal(*event_shape))
    made = MADE(event_shape, levels, orders, encoding, **options)
    return made if masks == 1 else MixtureOfOrders(made)
