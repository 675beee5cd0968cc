r"""PixelCNN++: a discretized mixture of logistics on a network of two shifted streams.

The probability of a level is the mass of its bin under a continuous density of intensities, and the
first and the last bin reach to infinity:

$$P(x) = \sum_k \pi_k \left[\sigma\!\left(\tfrac{x + w - \mu_k}{s_k}\right)
   - \sigma\!\left(\tfrac{x - w - \mu_k}{s_k}\right)\right]$$

with levels scaled to $x \in [-1, 1]$ and $w$ half of the distance between two of them. The colours
of a pixel share one mixture; the means of green and blue are linear in the colours before them.

Book: `book/autoregressive/pixelcnnpp.md`. Source: Salimans, Karpathy, Chen & Kingma (2017),
arXiv:1701.05517, and the program released with it.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flowcourse.bijector import sum_event
from flowcourse.chain_rule import AutoregressiveModel
from flowcourse.nets.streams import ShiftedConv, TwoStreams
from flowcourse.nets.symmetry import SYMMETRIES, random_symmetry, turned

__all__ = ["LogisticMixture", "PixelCNNpp", "Softmax", "build", "discretized_logistic"]
__all__ += ["linear_in_colours"]

# The paper's floor is e^-7. A ceiling keeps the bins of very wide logistics representable, too.
LOG_SCALES = (-7.0, 7.0)


# The likelihood


def discretized_logistic(
    x: Float[Tensor, "..."],
    mean: Float[Tensor, "..."],
    log_scale: Float[Tensor, "..."],
    levels: int,
) -> Float[Tensor, "..."]:
    r"""Log-mass of a level's bin under a logistic density, in nats; the tensors broadcast.

    With the bin's ends at $a$ and $b$ in units of the scale, the mass is

    $$\sigma(b) - \sigma(a) = \sigma(b)\,\sigma(-a)\,\left(1 - e^{-(b - a)}\right),$$

    a product: its logarithm never subtracts two numbers that are nearly equal. The lowest bin has
    $a = -\infty$ and the highest $b = \infty$, so that the masses of all levels sum to 1.

    Args:
        x: levels scaled to [-1, 1].
        mean: of the logistic, on the same scale.
        log_scale: of the logistic; held between -7 and 7.
        levels: number of levels.

    Source: Salimans et al. (2017), eq. 2.
    """
    half = 1 / (levels - 1)
    log_scale = log_scale.clamp(*LOG_SCALES)
    width = 2 * half * torch.exp(-log_scale)
    upper = (x - mean + half) * torch.exp(-log_scale)
    below_upper = F.logsigmoid(upper)
    above_lower = F.logsigmoid(width - upper)
    inside = below_upper + above_lower + torch.log(-torch.expm1(-width))
    return torch.where(x < half - 1, below_upper, torch.where(x > 1 - half, above_lower, inside))


def linear_in_colours(
    base: Float[Tensor, "batch k channels h w"],
    coefficients: Float[Tensor, "batch k pairs h w"],
    x: Float[Tensor, "batch channels h w"],
) -> Float[Tensor, "batch k channels h w"]:
    r"""Add to each colour a linear function of the colours before it in the same pixel.

    The coefficients stand in the order (G, R), (B, R), (B, G).

    Source: Salimans et al. (2017), eq. 3.
    """
    columns, pair = [base[:, :, 0]], 0
    for c in range(1, base.shape[2]):
        column = base[:, :, c]
        for earlier in range(c):
            column = column + coefficients[:, :, pair] * x[:, None, earlier]
            pair += 1
        columns.append(column)
    return torch.stack(columns, dim=2)


class Softmax:
    """A free probability for every level; the logits are linear in the colours before.

    Args:
        channels: colours of a pixel.
        levels: of each colour.
    """

    def __init__(self, channels: int, levels: int):
        self.channels, self.levels = channels, levels
        self.outputs = levels * channels * (channels + 1) // 2

    def logits(
        self, out: Float[Tensor, "batch outputs h w"], x: Float[Tensor, "batch channels h w"]
    ) -> Float[Tensor, "batch channels h w levels"]:
        """Logits of each colour's levels, given the colours before it."""
        every = out.unflatten(1, (self.levels, -1))
        base, coefficients = every[:, :, : self.channels], every[:, :, self.channels :]
        return linear_in_colours(base, coefficients, x).movedim(1, -1)

    def log_prob(
        self, out: Float[Tensor, "batch outputs h w"], x: Float[Tensor, "batch channels h w"]
    ) -> Float[Tensor, "batch h w"]:
        """Log-probability of each pixel, in nats."""
        level = ((x + 1) * (self.levels - 1) / 2).round().long()
        log_p = self.logits(out, x).log_softmax(dim=-1)
        return log_p.gather(-1, level.unsqueeze(-1)).squeeze(-1).sum(dim=1)


class LogisticMixture:
    """A mixture of discretized logistics whose components are shared by a pixel's colours.

    Args:
        channels: colours of a pixel.
        levels: of each colour.
        components: of the mixture.

    Source: Salimans et al. (2017), sections 2.1 and 2.2.
    """

    def __init__(self, channels: int, levels: int, components: int):
        self.channels, self.levels, self.components = channels, levels, components
        self.outputs = components * (1 + 2 * channels + channels * (channels - 1) // 2)

    def _split(self, out: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights `(batch, k, h, w)`, means and log-scales `(batch, k, channels, h, w)`."""
        every = out.unflatten(1, (self.components, -1))
        n = self.channels
        weight, mean, log_scale, coefficients = every.split([1, n, n, n * (n - 1) // 2], dim=2)
        mean = linear_in_colours(mean, coefficients.tanh(), x)
        return weight[:, :, 0].log_softmax(dim=1), mean, log_scale

    def log_prob(
        self, out: Float[Tensor, "batch outputs h w"], x: Float[Tensor, "batch channels h w"]
    ) -> Float[Tensor, "batch h w"]:
        """Log-probability of each pixel, all its colours together, in nats."""
        log_weight, mean, log_scale = self._split(out, x)
        colours = discretized_logistic(x[:, None], mean, log_scale, self.levels)
        return (log_weight + colours.sum(dim=2)).logsumexp(dim=1)

    def logits(
        self, out: Float[Tensor, "batch outputs h w"], x: Float[Tensor, "batch channels h w"]
    ) -> Float[Tensor, "batch channels h w levels"]:
        """Log-mass of every level of each colour, given the colours before it.

        Those tell which component the pixel comes from: each component's weight is multiplied by
        what it gave to them. Up to that constant factor the masses are joint ones.
        """
        log_weight, mean, log_scale = self._split(out, x)
        colours = discretized_logistic(x[:, None], mean, log_scale, self.levels)
        before = F.pad(colours, (0, 0, 0, 0, 1, 0))[:, :, :-1].cumsum(dim=2)
        level = torch.linspace(-1, 1, self.levels, dtype=x.dtype, device=x.device)
        every = discretized_logistic(level, mean[..., None], log_scale[..., None], self.levels)
        return ((log_weight[:, :, None] + before).unsqueeze(-1) + every).logsumexp(dim=1)


# The model


class PixelCNNpp(AutoregressiveModel):
    """Two streams and a likelihood.

    One pass of the network gives a pixel's distribution, whatever the number of its colours, so
    cached sampling takes `h * w` steps of the network, not `c * h * w`.

    Args:
        event_shape: `(channels, height, width)`.
        levels: the data take values 0, ..., levels - 1.
        components: of the mixture of logistics; 0 for a softmax over the levels.
        filters: channels of the network.
        blocks: residual blocks per stage.
        stages: how many sizes of feature maps there are, each half of the one before.
        dropout: in the residual blocks.
        classes: number of classes if the model is conditional: `context` then holds labels.
        turn: how often an image is turned or mirrored in training. The network is told which of the
            eight symmetries it was, as if that were its class, so it need not confuse them. Without
            a `context`, images as they are get scored and sampled.

    Raises:
        ValueError: images to be turned that are not square, or have classes.

    Source: Salimans et al. (2017); for the turned images, Jun et al. (2020), section 3.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        levels: int,
        *,
        components: int = 10,
        filters: int = 160,
        blocks: int = 5,
        stages: int = 3,
        dropout: float = 0.5,
        classes: int = 0,
        turn: float = 0.0,
    ):
        super().__init__(event_shape, levels)
        channels, height, width = event_shape
        if turn and (classes or height != width):
            raise ValueError(
                f"turn={turn} needs square images without classes, and these are {height} x "
                f"{width} with classes={classes}: set turn=0."
            )
        self.classes, self.turn = SYMMETRIES if turn else classes, turn
        self.likelihood: LogisticMixture | Softmax = (
            LogisticMixture(channels, levels, components)
            if components
            else Softmax(channels, levels)
        )
        self.features = TwoStreams(channels, filters, blocks, stages, dropout, self.classes)
        self.out = ShiftedConv(filters, self.likelihood.outputs)

    def network(
        self, x: Float[Tensor, "batch channels h w"], labels: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch outputs h w"]:
        """The parameters of every pixel's distribution."""
        return self.out(F.elu(self.features(x, labels)))

    def logits(self, h, context=None):
        x = h[:, 0]
        return self.likelihood.logits(self.network(x, self._labels(context, len(x))), x)

    def log_prob(self, x, context=None):
        """Scores the levels that are there, which is cheaper than scoring all of them."""
        x = self._check(x)
        return self._score(x, self._labels(context, len(x)))

    def forward(self, x, context=None):
        """`log_prob`; in training, of images some of which are turned, see `turn`."""
        if not (self.turn and self.training and context is None):
            return self.log_prob(x, context)
        x = self._check(x)
        kind = random_symmetry(x, self.turn)
        return self._score(turned(x, kind), kind)

    def _score(self, x: Tensor, labels: Tensor | None) -> Float[Tensor, " batch"]:
        h = self.encode(x)[:, 0]
        return sum_event(self.likelihood.log_prob(self.network(h, labels), h))

    def conditional(self, x, place, context=None, cache=None):
        if cache is None:
            return super().conditional(x, place, context)
        channels, _, width = self.event_shape
        (row, column), channel = divmod(place // channels, width), place % channels
        h = self.encode(x)[:, 0]
        if channel == 0:
            labels = self._labels(context, len(x))
            features = self.features.at(h, row, column, cache, labels)
            cache["out"] = self.out(F.elu(features))
        here = h[:, :, row : row + 1, column : column + 1]
        return self.likelihood.logits(cache["out"], here)[:, channel, 0, 0]

    def _labels(self, context: Tensor | None, n: int) -> Tensor | None:
        if self.turn and context is None:  # images as they are
            return torch.zeros(n, dtype=torch.int64, device=self.out.bias.device)
        if (context is not None) != bool(self.classes):
            raise ValueError(
                f"This model was built with classes={self.classes} and got "
                f"{'no labels' if context is None else 'labels'} as its context: "
                "pass one label for each example exactly if there are classes."
            )
        return context


def build(event_shape: Sequence[int], levels: int | None, **options: Any) -> PixelCNNpp:
    """PixelCNN++ for images of one shape; the defaults are the paper's model for CIFAR-10.

    Args:
        event_shape: `(channels, height, width)`.
        levels: number of levels.
        options: see `PixelCNNpp`.

    Raises:
        ValueError: continuous data, or examples that are no images.

    Source: Salimans et al. (2017), section 3, and the defaults of the released program.
    """
    if levels is None or len(event_shape) != 3:
        raise ValueError(
            "PixelCNN++ models images (channels, height, width) of discrete levels, and got "
            f"examples of shape {tuple(event_shape)} with levels={levels}: choose a data set of "
            "images such as digits, or a flow for continuous data."
        )
    return PixelCNNpp(event_shape, levels, **options)
