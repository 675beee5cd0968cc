r"""WaveNet as a conditioner: causal, dilated, gated convolutions over time.

Book: `book/autoregressive_flows/iaf.md`. Source: van den Oord et al. (2016), arXiv:1609.03499;
van den Oord et al. (2018), arXiv:1711.10433, for its use in flows; Le Paine et al. (2016),
arXiv:1611.09482, for queues.
"""

from collections import deque
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from flowcourse.autoregressive_flows.maf_conditioner import Conditioner, equal_blocks

__all__ = ["GatedLayer", "WaveNetConditioner", "receptive_field"]

Series = Float[Tensor, "batch channels time"]


def receptive_field(dilations: Sequence[int], kernel: int) -> int:
    r"""How many of the latest numbers the parameters of the next one depend on.

    A layer looks back by $(k - 1)$ times its dilation, so $R = 1 + (k - 1) \sum_\ell \delta_\ell$.

    >>> receptive_field([1, 2, 4, 8], kernel=2)
    16
    """
    return 1 + (kernel - 1) * sum(dilations)


class GatedLayer(nn.Module):
    r"""$h \mapsto h + W_r g$ and a skip $W_s g$, where $g = \tanh(a) \odot \mathrm{sigmoid}(b)$.

    $(a, b)$ is a causal convolution of $h$ whose taps are `dilation` steps apart, plus what the
    context adds.

    Args:
        channels: of h, of g and of the skip.
        kernel: number of taps.
        dilation: steps of time between two taps.
        dropout: probability of dropping a unit of g in training, an addition for small data.

    Source: van den Oord et al. (2016), eq. 2 and figure 4.
    """

    def __init__(self, channels: int, kernel: int, dilation: int, dropout: float = 0.0):
        super().__init__()
        self.taps = nn.Conv1d(channels, 2 * channels, kernel, dilation=dilation)
        self.out = nn.Conv1d(channels, 2 * channels, 1)
        self.dropout = nn.Dropout(dropout)
        self.kernel, self.dilation = kernel, dilation
        self.reach = (kernel - 1) * dilation

    def forward(self, h: Series, given: Tensor | float) -> tuple[Series, Series]:
        """A whole series, with zeros before its start: the new h, and the skip."""
        return self._gate(h, self.taps(F.pad(h, (self.reach, 0))) + given)

    def queue(self, h: Series) -> deque[Series]:
        """What came before the start: as many zeros as the layer looks back."""
        return deque([torch.zeros_like(h)] * (self.reach + 1), maxlen=self.reach + 1)

    def step(self, h: Series, given: Tensor | float, past: deque[Series]) -> tuple[Series, Series]:
        """The next moment of a series, whose latest moments are in the queue."""
        past.append(h)
        taps = torch.cat([past[self.dilation * tap] for tap in range(self.kernel)], dim=2)
        return self._gate(h, F.conv1d(taps, self.taps.weight, self.taps.bias) + given)

    def _gate(
        self, h: Series, sums: Float[Tensor, "batch twice_channels time"]
    ) -> tuple[Series, Series]:
        a, b = sums.chunk(2, dim=1)
        gated = self.dropout(torch.tanh(a) * torch.sigmoid(b))
        residual, skip = self.out(gated).chunk(2, dim=1)
        return h + residual, skip


class WaveNetConditioner(Conditioner):
    """Parameters of every number of a series from the numbers before it, by a WaveNet.

    The series is shifted by one after its first layer, so that the parameters of a number depend on
    earlier numbers only. In `one_by_one` each layer keeps a queue of what it was given, and each
    unit is computed once.

    Parameters start at 0.

    Args:
        dims: length of the series.
        outputs: parameters of each number.
        dilations: of the layers.
        channels: of each layer.
        kernel: taps of each layer.
        context: size of a vector that every layer sees, 0 for none.
        classes: number of classes, if what they see is a label.
        dropout: see `GatedLayer`.

    Source: van den Oord et al. (2016), section 2; the context as in section 2.5.
    """

    def __init__(
        self,
        dims: int,
        outputs: int,
        dilations: Sequence[int],
        *,
        channels: int = 16,
        kernel: int = 2,
        context: int = 0,
        classes: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__(equal_blocks(dims, dims))
        self.read = nn.Conv1d(1, channels, 1)
        self.layers = nn.ModuleList(GatedLayer(channels, kernel, d, dropout) for d in dilations)
        self.mix = nn.Conv1d(channels, channels, 1)
        self.write = nn.Conv1d(channels, outputs, 1)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(cast(Tensor, self.write.bias))
        self.see_context(2 * channels * len(self.layers), context, classes)

    def forward(self, x, context=None):
        # After the first layer, whose bias tells a number that is 0 from one that is not there.
        h = F.pad(self.read(x[:, None]), (1, 0))[:, :, :-1]
        skips = []
        for layer, given in zip(self.layers, self._given(x, context), strict=True):
            h, skip = layer(h, given)
            skips.append(skip)
        return self._say(skips)

    def one_by_one(self, like, context=None):
        given = self._given(like, context)
        h = torch.zeros_like(self.read(like[:, None, :1]))
        layers = [cast(GatedLayer, layer) for layer in self.layers]
        queues = [layer.queue(h) for layer in layers]
        for _ in self.blocks:
            skips = []
            for layer, more, past in zip(layers, given, queues, strict=True):
                h, skip = layer.step(h, more, past)
                skips.append(skip)
            found = yield self._say(skips)
            h = self.read(found[:, None])

    def _say(self, skips: list[Series]) -> Float[Tensor, "batch outputs_times_time"]:
        h = F.relu(torch.stack(skips).sum(dim=0))
        return rearrange(self.write(F.relu(self.mix(h))), "b outputs time -> b (outputs time)")

    def _given(self, x: Tensor, context: Tensor | None) -> Sequence[Tensor | float]:
        of_all = self._of_context(x, context)
        if isinstance(of_all, Tensor):
            return of_all[:, :, None].chunk(len(self.layers), dim=1)
        return [of_all] * len(self.layers)
