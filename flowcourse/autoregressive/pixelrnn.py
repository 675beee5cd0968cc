r"""PixelRNN: an LSTM that sweeps over an image, row by row or diagonal by diagonal.

A pixel is predicted from the state that an LSTM has gathered over the pixels before it. The states
of a whole row (Row LSTM) or of a whole diagonal (Diagonal BiLSTM) are computed at once, from those
of the one before:

$$[o, f, i, g] = [\sigma, \sigma, \sigma, \tanh](K^{ss} * h_{t-1} + K^{is} * x_t), \qquad
c_t = f \odot c_{t-1} + i \odot g, \qquad h_t = o \odot \tanh c_t.$$

So an image of $n \times n$ pixels takes about $n$ steps, not $n^2$. Sampling takes $n^2$.

Book: `book/autoregressive/pixelrnn.md`. Source: van den Oord, Kalchbrenner & Kavukcuoglu (2016),
arXiv:1601.06759.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flowcourse.chain_rule import AutoregressiveModel

__all__ = [
    "DiagonalBiLSTM",
    "MaskedConv2d",
    "PixelRNN",
    "RowLSTM",
    "build",
    "lstm_cell",
    "skew",
    "unskew",
]


# Masks


class MaskedConv2d(nn.Conv2d):
    """A convolution that sees the rows above, and its own row up to the centre; zero-padded.

    Features are shared out among the colours in order, R before G before B. At the centre, those of
    a colour see the features of the colours before it (mask A), or those of its own too (mask B).

    Args:
        kind: A for the first layer, which looks at the pixels themselves; B for all others.
        inputs: features in.
        outputs: features out.
        size: height and width of the kernel, both odd.
        colours: how many channels the image has.
        blocks: the outputs are so many blocks, each of which is shared out among the colours.

    Raises:
        ValueError: an even side, or fewer features than colours.

    Source: van den Oord et al. (2016), section 3.4.
    """

    mask: Tensor

    def __init__(
        self,
        kind: Literal["A", "B"],
        inputs: int,
        outputs: int,
        size: tuple[int, int],
        colours: int = 1,
        blocks: int = 1,
    ):
        height, width = size
        if height % 2 == 0 or width % 2 == 0:
            raise ValueError(f"A masked kernel has a centre, so odd sides, and not {size}.")
        super().__init__(inputs, outputs, size, padding=(height // 2, width // 2))
        mask = torch.ones(outputs, inputs, height, width)
        mask[:, :, height // 2 + 1 :] = 0
        mask[:, :, height // 2, width // 2 + 1 :] = 0
        target = _colours(outputs // blocks, colours).repeat(blocks)[:, None]
        source = _colours(inputs, colours)
        centre = source < target if kind == "A" else source <= target
        mask[:, :, height // 2, width // 2] = centre.float()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Float[Tensor, "batch inputs h w"]) -> Float[Tensor, "batch outputs h w"]:
        """Convolve with the kernel's legal part."""
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)

    def at(self, x: Float[Tensor, "batch inputs h w"], row: int, column: int) -> Tensor:
        """The output at one place, shape `(batch, outputs)`, from the window around it."""
        up, left = self.weight.shape[2] // 2, self.weight.shape[3] // 2
        top, first = max(row - up, 0), max(column - left, 0)
        window = x[:, :, top : row + up + 1, first : column + left + 1]
        below, right = row + up + 1 - x.shape[2], column + left + 1 - x.shape[3]
        pad = (first - column + left, max(right, 0), top - row + up, max(below, 0))
        return F.conv2d(F.pad(window, pad), self.weight * self.mask, self.bias).flatten(1)


def _colours(features: int, colours: int) -> Tensor:
    """The colour of each of so many features."""
    if features < colours:
        raise ValueError(f"{colours} colours need a feature each, or more, and not {features}.")
    return torch.arange(features) * colours // features


# Skewing


def skew(x: Float[Tensor, "h w *rest"]) -> Float[Tensor, "h h+w-1 *rest"]:
    """Move each row one place further to the right than the row above; what is left free is 0.

    Pixel `(i, j)` lands in column `i + j`, so that a diagonal of the image becomes a column.

    Source: van den Oord et al. (2016), section 3.2 and figure 3.
    """
    height, width = x.shape[:2]
    # Rows of length w + h, cut again at length w + h - 1: each begins one place later.
    longer = torch.cat([x, x.new_zeros(height, height, *x.shape[2:])], dim=1)
    return longer.flatten(0, 1)[:-height].unflatten(0, (height, width + height - 1))


def unskew(x: Float[Tensor, "h h+w-1 *rest"]) -> Float[Tensor, "h w *rest"]:
    """Undo `skew`: take pixel `(i, j)` from column `i + j`."""
    height, width = x.shape[0], x.shape[1] - x.shape[0] + 1
    longer = torch.cat([x.flatten(0, 1), x.new_zeros(height, *x.shape[2:])])
    return longer.unflatten(0, (height, width + height))[:, :width]


# The recurrence


def lstm_cell(
    gates: Float[Tensor, "*places 4*hidden"], c: Float[Tensor, "*places hidden"]
) -> tuple[Float[Tensor, "*places hidden"], Float[Tensor, "*places hidden"]]:
    """One step of an LSTM: the new hidden state and the new cell state.

    Args:
        gates: sums of what the input and the earlier states contribute, in the order output,
            forget, input, content.
        c: cell state of the step before.

    Source: van den Oord et al. (2016), equation 3.
    """
    o, f, i, g = gates.chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@dataclass
class _Memory:
    """What a layer keeps while an image grows: maps over the image of its input and its states.

    The maps of the states, `(directions, h + 1, w + 2, batch, hidden)`, have a margin of zeros
    above, left and right: pixel `(i, j)` is at `[i + 1, j + 1]`.
    """

    x: Float[Tensor, "batch features h w"]
    h: Tensor
    c: Tensor


class SweepingLSTM(nn.Module):
    """What the two layers share: gates from the input, a sweep, and a way back to all features.

    Args:
        features: of the input, and of the output, which is added to the input.
        hidden: size of each direction's state.
        width: of the input-to-state kernel, which has one row.
        colours: how many channels the image has.
    """

    # Of each direction, the places whose states a pixel sees; the first hands on its cell state.
    neighbours: tuple[tuple[tuple[int, int], ...], ...]

    def __init__(self, features: int, hidden: int, width: int, colours: int = 1):
        super().__init__()
        self.hidden = hidden
        directions, near = len(self.neighbours), len(self.neighbours[0])
        self.input_to_state = MaskedConv2d(
            "B", features, 4 * hidden * directions, (1, width), colours, blocks=4 * directions
        )
        # No bias: that of the input is enough, and outside of the image all states stay zero.
        bound = (near * hidden) ** -0.5
        self.state_to_state = nn.Parameter(
            torch.empty(directions, near * hidden, 4 * hidden).uniform_(-bound, bound)
        )
        self.up = MaskedConv2d("B", hidden, features, (1, 1), colours)

    def forward(
        self, x: Float[Tensor, "batch features h w"]
    ) -> Float[Tensor, "batch features h w"]:
        """What the layer adds to its input."""
        gates = self.input_to_state(x).permute(2, 3, 0, 1)
        states = self.sweep(gates.chunk(len(self.neighbours), dim=-1))
        return self.up(states.permute(2, 3, 0, 1))

    def sweep(
        self, gates: Sequence[Float[Tensor, "h w batch 4*hidden"]]
    ) -> Float[Tensor, "h w batch hidden"]:
        """The states that each place sees, from the gates of each direction's input."""
        raise NotImplementedError

    def recur(
        self,
        gates: Sequence[Float[Tensor, "places batch 4*hidden"]],
        direction: int,
        offsets: Sequence[int],
    ) -> list[Float[Tensor, "places batch hidden"]]:
        """Run the LSTM; a place sees the step before at its own place plus each offset."""
        places, batch, _ = gates[0].shape
        h = c = gates[0].new_zeros(places, batch, self.hidden)
        states = []
        for step in gates:
            padded = F.pad(h, (0, 0, 0, 0, 1, 1))
            near = torch.cat([padded[1 + o : 1 + o + places] for o in offsets], dim=-1)
            total = step + near @ self.state_to_state[direction]
            h, c = lstm_cell(total, c)
            states.append(h)
        return states

    # One place at a time, for sampling

    def start(self, batch: int, height: int, width: int) -> _Memory:
        """The memory of images of which no pixel is there yet."""
        like = self.state_to_state
        states = (len(self.neighbours), height + 1, width + 2, batch, self.hidden)
        features = self.up.out_channels
        x = like.new_zeros(batch, features, height, width)
        return _Memory(x, like.new_zeros(states), like.new_zeros(states))

    def at(self, memory: _Memory, row: int, column: int) -> Float[Tensor, "batch features"]:
        """What the layer adds at one place, where the memory has its input now."""
        self.step(memory, 0, row, column)
        state = self.seen(memory, row, column)
        return self.up(state[:, :, None, None]).flatten(1)

    def step(self, memory: _Memory, direction: int, row: int, column: int) -> None:
        """Compute the state of one direction at one place, from its neighbours in the memory."""
        gates = self.input_to_state.at(memory.x, row, column)
        gates = gates.unflatten(1, (len(self.neighbours), -1))[:, direction]
        places = [(row + 1 + i, column + 1 + j) for i, j in self.neighbours[direction]]
        near = torch.cat([memory.h[direction, i, j] for i, j in places], dim=-1)
        gates = gates + near @ self.state_to_state[direction]
        h, c = lstm_cell(gates, memory.c[direction, places[0][0], places[0][1]])
        memory.h[direction, row + 1, column + 1] = h
        memory.c[direction, row + 1, column + 1] = c

    def seen(self, memory: _Memory, row: int, column: int) -> Float[Tensor, "batch hidden"]:
        """The states that a place may see, as `sweep` adds them up."""
        return memory.h[0, row + 1, column + 1]

    def end_row(self, memory: _Memory, row: int) -> None:
        """Compute what waits until a row is complete."""


class RowLSTM(SweepingLSTM):
    """Sweeps down: a row of states from three neighbours each in the row above.

    It sees a triangle: one column further to the right with each row upwards.

    Source: van den Oord et al. (2016), section 3.1.
    """

    neighbours = (((-1, 0), (-1, -1), (-1, 1)),)

    def sweep(self, gates):
        """One step for each row."""
        return torch.stack(self.recur(gates[0].unbind(), 0, offsets=(0, -1, 1)))


class DiagonalBiLSTM(SweepingLSTM):
    """Sweeps along the diagonals, from both upper corners: sees everything above and to the left.

    In the skewed image a step is a column, and the two neighbours of a pixel, the one before it in
    its row and the one above, are both in the column before, one row apart. The direction from the
    right is the same in the mirror. It would see pixels that come later in its own row, so
    its states are moved down by one row.

    Source: van den Oord et al. (2016), section 3.2.
    """

    neighbours = (((0, -1), (-1, 0)), ((0, 1), (-1, 0)))

    def sweep(self, gates):
        """One step for each diagonal."""
        left = self.along_diagonals(gates[0], 0)
        right = self.along_diagonals(gates[1].flip(1), 1).flip(1)
        return left + F.pad(right, (0, 0, 0, 0, 0, 0, 1, -1))

    def along_diagonals(
        self, gates: Float[Tensor, "h w batch 4*hidden"], direction: int
    ) -> Float[Tensor, "h w batch hidden"]:
        """All states of one direction, in the image or in its mirror."""
        columns = skew(gates).unbind(dim=1)
        states = self.recur(columns, direction, offsets=(0, -1))
        return unskew(torch.stack(states, dim=1))

    def seen(self, memory, row, column):
        return memory.h[0, row + 1, column + 1] + memory.h[1, row, column + 1]

    def end_row(self, memory, row):
        for column in reversed(range(memory.x.shape[3])):
            self.step(memory, 1, row, column)


# The model


class PixelRNN(AutoregressiveModel):
    """LSTM layers between a first masked convolution and two masked 1x1 convolutions.

    Args:
        event_shape: `(channels, height, width)`; the channels are the colours.
        levels: of each channel of a pixel.
        kind: "diagonal" or "row".
        layers: how many LSTM layers.
        hidden: size of a state; maps between the layers have twice as many features.
        head: features between the two last convolutions.
        kernel: side of the first kernel.
        width: of the Row LSTM's input-to-state kernel; that of the Diagonal BiLSTM is 1.
        dropout: probability of dropping a feature of what a layer adds, and in the head.
        line_end: add a blank column on the right of the image of a Diagonal BiLSTM. Without it,
            as in the paper, the last pixel of a row is not seen from the start of the next one.

    Raises:
        ValueError: the event is no image, or there is no such kind.
    """

    layers: Any  # a ModuleList of SweepingLSTM

    def __init__(
        self,
        event_shape: Sequence[int],
        levels: int,
        kind: Literal["row", "diagonal"] = "diagonal",
        *,
        layers: int = 7,
        hidden: int = 16,
        head: int = 32,
        kernel: int = 7,
        width: int = 3,
        dropout: float = 0.0,
        line_end: bool = True,
    ):
        if len(event_shape) != 3:
            raise ValueError(
                f"PixelRNN models images of shape (channels, height, width), not "
                f"{tuple(event_shape)}: add an axis for the channels, or reshape."
            )
        if kind not in ("row", "diagonal"):
            raise ValueError(f"kind should be 'row' or 'diagonal' and is {kind!r}.")
        super().__init__(event_shape, levels)
        colours, features = event_shape[0], 2 * hidden
        self.margin = int(line_end and kind == "diagonal")
        self.first = MaskedConv2d("A", colours, features, (kernel, kernel), colours)
        self.layers = nn.ModuleList(
            RowLSTM(features, hidden, width, colours)
            if kind == "row"
            else DiagonalBiLSTM(features, hidden, 1, colours)
            for _ in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Sequential(
            nn.ReLU(),
            MaskedConv2d("B", features, head, (1, 1), colours),
            nn.ReLU(),
            nn.Dropout(dropout),
            MaskedConv2d("B", head, colours * levels, (1, 1), colours),
        )

    def logits(self, h, context=None):
        x = F.pad(h[:, 0], (0, self.margin))
        x = self.first(x)
        for layer in self.layers:
            x = x + self.dropout(layer(x))
        x = x[..., : self.event_shape[2]]
        return self.head(x).unflatten(1, (-1, self.levels)).movedim(2, -1)

    def conditional(self, x, place, context=None, cache=None):
        """As the contract says; with a cache, only what is new at the pixel is computed."""
        if cache is None:
            return super().conditional(x, place, context)
        _, height, width = self.event_shape
        row, column = divmod(self.order[place] % (height * width), width)
        image = F.pad(self.encode(x)[:, 0], (0, self.margin))
        if not cache:
            cache["row"] = 0
            cache["memories"] = [
                layer.start(len(x), height, width + self.margin) for layer in self.layers
            ]
        if row > cache["row"]:
            self._end_row(image, cache)
        features = self._features_at(image, cache["memories"], row, column)
        logits = self.head(features[:, :, None, None]).unflatten(1, (-1, self.levels))
        return logits[:, self.order[place] // (height * width), :, 0, 0]

    def _features_at(
        self, image: Tensor, memories: list[_Memory], row: int, column: int
    ) -> Float[Tensor, "batch features"]:
        """What the head is given at one place; the memories are brought up to date."""
        features = self.first.at(image, row, column)
        for layer, memory in zip(self.layers, memories, strict=True):
            memory.x[:, :, row, column] = features
            features = features + layer.at(memory, row, column)
        return features

    def _end_row(self, image: Tensor, cache: dict[Any, Any]) -> None:
        row, memories = cache["row"], cache["memories"]
        if self.margin:
            self._features_at(image, memories, row, image.shape[3] - 1)
        for layer, memory in zip(self.layers, memories, strict=True):
            layer.end_row(memory, row)
        cache["row"] = row + 1


def build(event_shape: Sequence[int], levels: int, **options: Any) -> PixelRNN:
    """A PixelRNN for images of one shape; the defaults are the paper's model for MNIST.

    Args:
        event_shape: shape of one example.
        levels: number of levels.
        options: of `PixelRNN`.

    Source: van den Oord et al. (2016), table 1 and section 5.5 (7 layers, 16 hidden units).
    """
    return PixelRNN(event_shape, levels, **options)
