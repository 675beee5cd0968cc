r"""PixelCNN and Gated PixelCNN: autoregressive models of images by masked convolutions.

A convolution whose kernel is masked looks only at pixels that come earlier in the order of reading,
so a stack of them computes all conditionals

$$P(x_i \mid x_1, \dots, x_{i-1})$$

of an image in one pass. A stack of such kernels never sees a wedge above and to the right of a
pixel: its blind spot. Two stacks do, one that looks at all rows above and one that looks along the
row; that is Gated PixelCNN.

Book: `book/autoregressive/pixelcnn.md`. Sources: van den Oord, Kalchbrenner & Kavukcuoglu (2016),
arXiv:1601.06759; van den Oord et al. (2016), arXiv:1606.05328.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flowcourse.chain_rule import AutoregressiveModel, one_hot
from flowcourse.nets.incremental import Place, conv2d, keep

__all__ = [
    "GatedPixelCNN",
    "MaskedConv2d",
    "PixelCNN",
    "build",
    "gate",
    "kernel_mask",
    "rows_above",
]

Mask = Literal["A", "B"]
Encoding = Literal["one_hot", "scaled"]


def kernel_mask(
    inputs: int, outputs: int, kernel_size: tuple[int, int], mask: Mask, colours: int = 1
) -> Float[Tensor, "outputs inputs height width"]:
    """Which weights of a convolution look at the past: 1 for those, 0 for the others.

    Rows above the centre are seen, and positions left of it in its own row. At the centre, feature
    maps of a colour see those of earlier colours (A), or of earlier colours and their own (B).

    Args:
        inputs: channels in: `colours` groups of equal size, R before G before B.
        outputs: channels out, grouped in the same way.
        kernel_size: height and width, both odd.
        mask: `A` for the first layer, which looks at the image, `B` for every later one.
        colours: number of colours of a pixel.

    Raises:
        ValueError: an even size, channels that cannot be grouped, or another mask than A and B.

    Source: van den Oord, Kalchbrenner & Kavukcuoglu (2016), section 3.4 and figure 2.
    """
    height, width = kernel_size
    if height % 2 == 0 or width % 2 == 0:
        raise ValueError(f"A kernel with a centre has odd sides, and {height}x{width} does not.")
    if inputs % colours or outputs % colours:
        raise ValueError(
            f"{inputs} channels in and {outputs} out cannot be shared out among {colours} colours: "
            f"choose multiples of {colours}."
        )
    if mask not in ("A", "B"):
        raise ValueError(f"mask should be 'A' or 'B' and is {mask!r}.")
    row, column = height // 2, width // 2
    seen = torch.zeros(outputs, inputs, height, width)
    seen[:, :, :row] = 1
    seen[:, :, row, :column] = 1
    source = torch.arange(inputs) // (inputs // colours)
    target = torch.arange(outputs) // (outputs // colours)
    earlier = source < target[:, None] if mask == "A" else source <= target[:, None]
    seen[:, :, row, column] = earlier.to(seen.dtype)
    return seen


class MaskedConv2d(nn.Conv2d):
    """A convolution that looks at the past only; height and width stay.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel_size: one odd number, or an odd height and an odd width.
        mask: `A` or `B`, see `kernel_mask`.
        colours: number of colours; channels are grouped by colour, R before G before B.
    """

    mask: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int | tuple[int, int],
        mask: Mask,
        colours: int = 1,
    ):
        super().__init__(inputs, outputs, kernel_size)
        height, width = self.kernel_size
        self.around = (width // 2, width // 2, height // 2, height // 2)
        seen = kernel_mask(inputs, outputs, (height, width), mask, colours)
        self.register_buffer("mask", seen, persistent=False)

    def forward(
        self, x: Float[Tensor, "batch inputs h w"], place: Place | None = None
    ) -> Float[Tensor, "batch outputs h w"]:
        """Convolve a whole map, or the rectangle at `place`, see `flowcourse.nets.incremental`."""
        return conv2d(x, self.weight * self.mask, self.bias, self.around, self, place)


def gate(
    x: Float[Tensor, "batch channels2 h w"], colours: int = 1
) -> Float[Tensor, "batch channels h w"]:
    r"""$\tanh(a) \odot \sigma(b)$, where $a$ and $b$ are the halves of each colour's feature maps.

    Halves of *all* maps would mix the colours: a map of red would be multiplied by one of blue.

    Source: van den Oord et al. (2016), Conditional Image Generation, eq. 2.
    """
    a, b = x.unflatten(1, (colours, 2, -1)).unbind(2)
    return (a.tanh() * b.sigmoid()).flatten(1, 2)


def rows_above(x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
    """Move everything down by one row, so that row `i` holds what belongs to rows before it."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]


class _ImageModel(AutoregressiveModel):
    """What both models share: how an image comes in, how logits go out, what is kept in between.

    A subclass computes feature maps of shape `(batch, colours * levels, h, w)` from an image of
    shape `(batch, inputs, h, w)`: `whole` those of an image, `pixel` those of one position.
    """

    def __init__(self, event_shape: Sequence[int], levels: int, encoding: Encoding):
        super().__init__(event_shape, levels)
        if len(event_shape) != 3:
            raise ValueError(
                "Masked convolutions need images of shape (colours, height, width), and an example "
                f"here has the shape {tuple(event_shape)}."
            )
        if encoding not in ("one_hot", "scaled"):
            raise ValueError(f"encoding should be 'one_hot' or 'scaled' and is {encoding!r}.")
        self.encoding = encoding
        self.colours = event_shape[0]
        self.inputs = self.colours * (levels if encoding == "one_hot" else 1)

    def encode(self, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch k *event"]:
        """A 0 or a 1 for each level (`one_hot`), or one number in [-1, 1] (`scaled`)."""
        return one_hot(x, self.levels) if self.encoding == "one_hot" else super().encode(x)

    def logits(self, h, context=None):
        """See `AutoregressiveModel`: all conditionals in one pass."""
        # (batch, k, colour, row, column): the channels of one colour are neighbours.
        maps = self.whole(h.transpose(1, 2).flatten(1, 2), context)
        return maps.unflatten(1, (self.colours, self.levels)).movedim(2, -1)

    def conditional(self, x, place, context=None, cache=None):
        """See `AutoregressiveModel`: with a cache, only what has changed is computed."""
        if cache is None:
            return super().conditional(x, place, context)
        pixel, colour = divmod(place, self.colours)  # raster order
        row, column = divmod(pixel, self.event_shape[2])
        # What was drawn since the last place lies in this row or at the end of the one before.
        recent = x[:, :, max(row - 1, 0) : row + 1]
        image = self.encode(recent).transpose(1, 2).flatten(1, 2)
        maps = self.pixel(image, row, column, colour, context, cache)
        return maps[:, :, 0, 0].unflatten(1, (self.colours, self.levels))[:, colour]

    def whole(self, image: Tensor, context: Tensor | None) -> Tensor:
        """Feature maps of an image."""
        raise NotImplementedError

    def pixel(
        self, image: Tensor, row: int, column: int, colour: int, context: Tensor | None, cache: dict
    ) -> Tensor:
        """Feature maps of one position, whose row is the last one of `image`."""
        raise NotImplementedError

    def _place(self, row: int, column: int, cache: dict[Any, Any]) -> Place:
        return Place((self.event_shape[1], self.event_shape[2]), row, column, cache)


def _output(channels: int, colours: int, levels: int) -> nn.Sequential:
    """ReLU and 1x1 convolution, twice: from feature maps to the logits of each colour."""
    return nn.Sequential(
        nn.ReLU(),
        MaskedConv2d(channels, channels, 1, "B", colours),
        nn.ReLU(),
        MaskedConv2d(channels, colours * levels, 1, "B", colours),
    )


# One stack: PixelCNN


class ResidualBlock(nn.Module):
    """ReLU and convolution three times, 1x1, 3x3 and 1x1, with half the channels inside.

    Source: van den Oord, Kalchbrenner & Kavukcuoglu (2016), figure 5.
    """

    def __init__(self, channels: int, kernel: int, colours: int, dropout: float):
        super().__init__()
        inside = channels // 2
        self.reduce = MaskedConv2d(channels, inside, 1, "B", colours)
        self.look = MaskedConv2d(inside, inside, kernel, "B", colours)
        self.restore = MaskedConv2d(inside, channels, 1, "B", colours)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch c h w"], place: Place | None = None) -> Tensor:
        """Apply the block to a whole map, or at a place."""
        h = F.relu(self.look(F.relu(self.reduce(F.relu(x))), place))
        return x + self.restore(self.dropout(h))


class PixelCNN(_ImageModel):
    """One stack of masked convolutions: fast, exact, and with a blind spot.

    Args:
        event_shape: colours, height and width.
        levels: number of levels of each colour.
        channels: feature maps between the blocks; a multiple of twice the colours.
        blocks: number of residual blocks.
        kernel: side of the blocks' kernels.
        first_kernel: side of the first kernel, the only one with mask A.
        dropout: probability of dropping a hidden unit in training.
        encoding: what the network is given, see `encode`.

    Source: van den Oord, Kalchbrenner & Kavukcuoglu (2016), section 3.4 and table 1.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        levels: int,
        channels: int = 256,
        blocks: int = 15,
        kernel: int = 3,
        first_kernel: int = 7,
        dropout: float = 0.0,
        encoding: Encoding = "scaled",
    ):
        super().__init__(event_shape, levels, encoding)
        self.first = MaskedConv2d(self.inputs, channels, first_kernel, "A", self.colours)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, kernel, self.colours, dropout) for _ in range(blocks)
        )
        self.output = _output(channels, self.colours, levels)

    def whole(self, image, context, place=None):
        """See `_ImageModel`."""
        if context is not None:
            raise ValueError("PixelCNN takes no context: use the gated model, with classes=...")
        h = self.first(image, place)
        for block in self.blocks:
            h = block(h, place)
        return self.output(h)

    def pixel(self, image, row, column, colour, context, cache):
        """See `_ImageModel`."""
        rows = self._place(row - image.shape[2] + 1, 0, cache)
        keep(image, self.first.around, self.first, rows)
        here = image[:, :, -1:, column : column + 1]
        return self.whole(here, context, self._place(row, column, cache))


# Two stacks: Gated PixelCNN


class VerticalConv2d(nn.Conv2d):
    """A convolution that looks at its own row and at the rows above, left and right alike."""

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__(inputs, outputs, (kernel // 2 + 1, kernel))
        self.around = (kernel // 2, kernel // 2, kernel // 2, 0)

    def forward(self, x: Float[Tensor, "batch c h w"], place: Place | None = None) -> Tensor:
        """Convolve a whole map, or whole rows of it at a place."""
        return conv2d(x, self.weight, self.bias, self.around, self, place)


class GatedBlock(nn.Module):
    """One layer of both stacks; the vertical one speaks to the horizontal one, and not back.

    Args:
        channels: feature maps of each stack; a multiple of the colours.
        kernel: side of the kernels.
        colours: number of colours.
        classes: number of classes, or None; a class shifts what goes into the gates.
        dropout: probability of dropping a gated unit in training.

    Source: van den Oord et al. (2016), Conditional Image Generation, figure 2 and eq. 4.
    """

    def __init__(
        self, channels: int, kernel: int, colours: int, classes: int | None, dropout: float
    ):
        super().__init__()
        self.colours = colours
        self.vertical = VerticalConv2d(channels, 2 * channels, kernel)
        self.horizontal = MaskedConv2d(channels, 2 * channels, (1, kernel), "B", colours)
        self.link = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.mix = MaskedConv2d(channels, channels, 1, "B", colours)
        self.dropout = nn.Dropout(dropout)
        self.shift = None if classes is None else nn.Embedding(classes, 4 * channels)

    def shifts(self, labels: Tensor | None) -> tuple[Tensor, Tensor] | tuple[float, float]:
        """What a class adds to all positions of either stack."""
        if self.shift is None:
            return 0.0, 0.0
        vertical, horizontal = self.shift(labels)[:, :, None, None].chunk(2, dim=1)
        return vertical, horizontal

    def down(self, v: Tensor, labels: Tensor | None, place: Place | None = None):
        """The vertical stack: its next maps, and what its rows say to the horizontal stack."""
        a = self.vertical(v, place)
        return self.dropout(gate(a + self.shifts(labels)[0])), self.link(a)

    def along(self, h: Tensor, above, labels: Tensor | None, place: Place | None = None) -> Tensor:
        """The horizontal stack: its next maps, from its own and from the rows above."""
        a = self.horizontal(h, place) + above + self.shifts(labels)[1]
        return h + self.mix(self.dropout(gate(a, self.colours)), place)


class GatedPixelCNN(_ImageModel):
    """Two stacks, without a blind spot; conditional on a class if `classes` is given.

    `context` is then the labels, integers of shape `(batch,)`.

    Args:
        event_shape: colours, height and width.
        levels: number of levels of each colour.
        channels: feature maps of each stack; a multiple of the colours.
        blocks: number of gated blocks.
        kernel: side of the blocks' kernels.
        first_kernel: side of the first kernels; mask A in the horizontal stack.
        classes: number of classes, or None.
        dropout: probability of dropping a gated unit in training.
        encoding: what the network is given, see `encode`.

    Source: van den Oord et al. (2016), Conditional Image Generation, sections 2.2 to 2.4.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        levels: int,
        channels: int = 384,
        blocks: int = 20,
        kernel: int = 5,
        first_kernel: int = 7,
        classes: int | None = None,
        dropout: float = 0.0,
        encoding: Encoding = "scaled",
    ):
        super().__init__(event_shape, levels, encoding)
        self.classes = classes
        self.first_down = VerticalConv2d(self.inputs, channels, first_kernel)
        self.first_along = MaskedConv2d(self.inputs, channels, (1, first_kernel), "A", self.colours)
        self.blocks = nn.ModuleList(
            GatedBlock(channels, kernel, self.colours, classes, dropout) for _ in range(blocks)
        )
        self.output = _output(channels, self.colours, levels)

    @property
    def class_conditional(self) -> bool:
        """Whether `log_prob` and `sample` expect labels as their context."""
        return self.classes is not None

    def down(
        self, image: Tensor, labels: Tensor | None, place: Place | None = None
    ) -> list[Tensor]:
        """The vertical stack: for each block, what every row and those above it have to say."""
        v, links = self.first_down(image, place), []
        for block in self.blocks:
            v, link = block.down(v, labels, place)  # type: ignore[operator]
            links.append(link)
        return links

    def along(self, image: Tensor, above, labels: Tensor | None, place: Place | None = None):
        """The horizontal stack, given for each block what the rows above have to say."""
        h = self.first_along(image, place)
        for block, link in zip(self.blocks, above, strict=True):
            h = block.along(h, link, labels, place)  # type: ignore[operator]
        return self.output(h)

    def whole(self, image, context):
        """See `_ImageModel`."""
        labels = self._labels(context, len(image))
        return self.along(image, [rows_above(link) for link in self.down(image, labels)], labels)

    def pixel(self, image, row, column, colour, context, cache):
        """See `_ImageModel`: the vertical stack advances by a whole row, when that is complete."""
        labels = self._labels(context, len(image))
        if row == 0:
            above: list = [0.0] * len(self.blocks)
        else:
            if column == colour == 0:
                finished = self._place(row - 1, 0, cache)
                cache["above"] = self.down(image[:, :, :1], labels, finished)
            above = [link[..., column : column + 1] for link in cache["above"]]
        keep(
            image[:, :, -1:], self.first_along.around, self.first_along, self._place(row, 0, cache)
        )
        here = image[:, :, -1:, column : column + 1]
        return self.along(here, above, labels, self._place(row, column, cache))

    def _labels(self, context: Tensor | None, batch: int) -> Int[Tensor, " batch"] | None:
        if self.classes is None and context is not None:
            raise ValueError("This model is of one class: build it with classes=..., or give none.")
        if self.classes is not None and (context is None or context.shape != (batch,)):
            found = "none" if context is None else f"shape {tuple(context.shape)}"
            raise ValueError(
                f"A model of {self.classes} classes expects context=labels, integers of shape "
                f"({batch},), and got {found}."
            )
        return context


def build(
    event_shape: Sequence[int],
    levels: int | None,
    *,
    stacks: Literal["masked", "gated"] = "gated",
    **options: Any,
) -> PixelCNN | GatedPixelCNN:
    """A model of images of one shape.

    Args:
        event_shape: colours, height and width.
        levels: number of levels of discrete data.
        stacks: `masked` for one stack with a blind spot, `gated` for two without it.
        options: of `PixelCNN` or `GatedPixelCNN`.

    Raises:
        ValueError: continuous data, or other stacks.
    """
    if levels is None:
        raise ValueError("PixelCNN is a model of discrete data, and these have no levels.")
    models = {"masked": PixelCNN, "gated": GatedPixelCNN}
    if stacks not in models:
        raise ValueError(f"stacks should be 'masked' or 'gated' and is {stacks!r}.")
    return models[stacks](event_shape, levels, **options)
