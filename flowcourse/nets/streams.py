r"""A network of two shifted streams that looks at earlier pixels only, at several sizes.

Shifting an image and then padding its convolutions on one side does what masks do, without zeros to
multiply with. The vertical stream looks up and to both sides, the horizontal one up and left; the
second also looks at the first, so that together they see everything before a pixel and nothing
else. Given a `Place`, everything here computes that rectangle alone, for sampling.

Source: Salimans, Karpathy, Chen & Kingma (2017), sections 2.3 to 2.5, and the program released with
the paper.
"""

from dataclasses import dataclass, replace
from itertools import islice

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flowcourse.nets.incremental import Place, keep

__all__ = ["Block", "Doubling", "Maps", "ShiftedConv", "Stream", "TwoStreams", "concat_elu"]


def concat_elu(x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 2*c h w"]:
    """ELU of `x` and of `-x`, so that no sign is lost: twice as many channels.

    Source: the program released with Salimans et al. (2017).
    """
    return F.elu(torch.cat([x, -x], dim=1))


class ShiftedConv(nn.Module):
    r"""A convolution that looks up and not down, with weight normalization: $w = g v/\|v\|$.

    A kernel of odd width looks to both sides, one of even width to the left only.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: height and width; the last row, and of an even width the last column, is the
            output's own.
        stride: 2 halves height and width, rounding up.
        gain: $g$ at the start: about the size of the outputs if the inputs have size 1.

    The directions start small, because steps of a fixed size, as Adam's are, turn a short vector
    faster than a long one.

    Source: Salimans et al. (2017), section 2.3 and figure 2; Salimans & Kingma (2016), eq. 2.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        stride: int = 1,
        gain: float = 1.0,
    ):
        super().__init__()
        height, width = kernel
        self.stride = stride
        self.padding = (width // 2, (width - 1) // 2, height - 1, 0)
        self.direction = nn.Parameter(0.05 * torch.randn(outputs, inputs, height, width))
        self.gain = nn.Parameter(torch.full((outputs,), gain))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def weight(self, place: Place | None) -> Float[Tensor, "outputs inputs i j"]:
        """The kernel; a sampling run computes it once."""
        if place is not None and (self, "weight") in place.maps:
            return place.maps[self, "weight"]
        norm = self.direction.flatten(1).norm(dim=1)
        weight = (self.gain / norm)[:, None, None, None] * self.direction
        if place is not None:
            place.maps[self, "weight"] = weight
        return weight

    def forward(
        self, x: Float[Tensor, "batch inputs h w"], place: Place | None = None
    ) -> Float[Tensor, "batch outputs _h _w"] | None:
        """Convolve a whole map, or the rectangle at a place with what came before it.

        With stride 2 there is no output for an odd row or column, and None stands for it.
        """
        weight = self.weight(place)
        if place is None:
            return F.conv2d(F.pad(x, self.padding), weight, self.bias, self.stride)
        if any(self.padding):
            kept = keep(x, self.padding, self, place)
            if place.row % self.stride or place.column % self.stride:
                return None
            left, right, top, _ = self.padding
            rows = slice(place.row, place.row + top + x.shape[2])
            x = kept[:, :, rows, place.column : place.column + left + x.shape[3] + right]
        return F.conv2d(x, weight, self.bias, self.stride)


class Doubling(ShiftedConv):
    """The transposed convolution that doubles height and width, shifted likewise."""

    def forward(  # type: ignore[override]
        self,
        x: Float[Tensor, "batch inputs h w"],
        size: tuple[int, int],
        place: Place | None = None,
    ) -> Float[Tensor, "batch outputs _h _w"]:
        """From a coarse map, or the part of it below a rectangle, to a fine one.

        Args:
            x: the coarse map.
            size: height and width of the fine map or rectangle.
            place: where the fine rectangle lies.
        """
        weight = self.weight(place).transpose(0, 1)
        fine = F.conv_transpose2d(x, weight, self.bias, stride=2)
        top, left = (place.row % 2, place.column % 2) if place else (0, 0)
        left += self.padding[1]
        return fine[:, :, top : top + size[0], left : left + size[1]]


class Block(nn.Module):
    """A gated residual block: two convolutions, an optional short-cut in, a gate.

    Args:
        filters: channels in and out.
        kernel: of both convolutions.
        extra: channels of the short-cut, 0 for none.
        dropout: probability of dropping a number between the convolutions.
        classes: number of classes to be conditioned on, 0 for none.

    Source: Salimans et al. (2017), sections 2.4 and 2.5; the program released with the paper.
    """

    def __init__(
        self, filters: int, kernel: tuple[int, int], extra: int, dropout: float, classes: int
    ):
        super().__init__()
        self.first = ShiftedConv(2 * filters, filters, kernel)
        self.second = ShiftedConv(2 * filters, 2 * filters, kernel, gain=0.1)
        self.extra = ShiftedConv(2 * extra, filters) if extra else None
        self.dropout = nn.Dropout(dropout)
        self.classes = nn.Embedding(classes, 2 * filters) if classes else None

    def forward(
        self,
        x: Float[Tensor, "batch filters h w"],
        extra: Float[Tensor, "batch extra h w"] | None = None,
        labels: Int[Tensor, " batch"] | None = None,
        place: Place | None = None,
    ) -> Float[Tensor, "batch filters h w"]:
        """The input plus what the block adds."""
        h = self.first(concat_elu(x), place)
        if self.extra is not None and extra is not None:
            h = h + self.extra(concat_elu(extra), place)
        h = self.second(self.dropout(concat_elu(h)), place)
        if self.classes is not None:
            h = h + self.classes(labels)[:, :, None, None]
        value, gate = h.chunk(2, dim=1)
        return x + value * gate.sigmoid()


@dataclass(frozen=True)
class Maps:
    """What a stream computed: its input and each block's output, and the same at half the size."""

    here: list[Tensor]
    coarser: "Maps | None"


class Stream(nn.Module):
    """One stream at one size of the image, and at all smaller ones: a U with short-cuts.

    Args:
        stages: how many sizes; every further one is half as large.
        blocks: number of blocks before the next smaller size; as many, and one more to take in the
            short-cut of the stream's input, follow after it. The smallest size has `blocks` each.
        filters: channels.
        kernel: of the convolutions.
        guided: whether each block also looks at the other stream's.
        dropout: see `Block`.
        classes: see `Block`.

    Source: Salimans et al. (2017), sections 2.3 and 2.4 and figure 2.
    """

    def __init__(
        self,
        stages: int,
        blocks: int,
        filters: int,
        kernel: tuple[int, int],
        guided: bool,
        dropout: float,
        classes: int,
    ):
        super().__init__()

        def several(n: int, extra: int) -> nn.ModuleList:
            extra = filters * (extra + guided)
            return nn.ModuleList(Block(filters, kernel, extra, dropout, classes) for _ in range(n))

        self.before = several(blocks, extra=0)
        self.after = several(blocks + (stages > 1), extra=1)
        self.stages = stages
        if stages > 1:
            self.shrink = ShiftedConv(filters, filters, kernel, stride=2)
            self.coarser = Stream(stages - 1, blocks, filters, kernel, guided, dropout, classes)
            self.grow = Doubling(filters, filters, kernel)

    def forward(
        self,
        x: Float[Tensor, "batch filters h w"],
        guide: Maps | None = None,
        labels: Int[Tensor, " batch"] | None = None,
        place: Place | None = None,
    ) -> Maps:
        """Every map that the stream computes; the last one `here` is its output."""
        column, width = (place.column if place else 0), x.shape[3]
        guides = iter(guide.here[1:] if guide else ())

        def extra(*shortcut: Tensor) -> Tensor | None:
            beside = [g[:, :, :, column : column + width] for g in islice(guides, 1)]
            return torch.cat([*beside, *shortcut], dim=1) if beside or shortcut else None

        maps = [x]
        for block in self.before:
            maps.append(block(maps[-1], extra(), labels, place))
        shortcuts, coarser = list(maps), None
        if self.stages == 1:
            x = shortcuts.pop()
        else:
            x, coarser = self._through_coarser(maps[-1], guide, labels, place)
        for block in self.after:
            x = block(x, extra(shortcuts.pop()), labels, place)
            maps.append(x)
        return Maps(maps, coarser)

    def _through_coarser(self, x, guide, labels, place):
        """Halve, go through the smaller sizes, and double again.

        A place is a row, or one pixel of it. The smaller map changes at even rows and columns only;
        at other places it is looked up.
        """
        size = x.shape[2:]
        small, coarser = self.shrink(x, place), None
        if small is not None:
            there = place and replace(
                place,
                size=tuple((n + 1) // 2 for n in place.size),
                row=place.row // 2,
                column=place.column // 2,
            )
            coarser = self.coarser(small, guide and guide.coarser, labels, there)
            small = coarser.here[-1]
            if place:
                keep(small, (0, 0, 0, 0), (self, "coarser"), there)
        if place:
            row, column = place.row // 2, place.column // 2
            kept = place.maps[self, "coarser"]
            small = kept[:, :, row : row + 1, column : column + (size[1] + 1) // 2]
        return self.grow(small, size, place), coarser


class TwoStreams(nn.Module):
    """From an image to the features of each pixel, functions of the pixels before it.

    The vertical stream at a row has seen the rows above it; the horizontal stream at a pixel has
    seen those and the pixels to its left.

    Args:
        channels: of the image.
        filters: channels of both streams, and of the features.
        blocks: see `Stream`.
        stages: see `Stream`.
        dropout: see `Block`.
        classes: see `Block`.
    """

    def __init__(
        self, channels: int, filters: int, blocks: int, stages: int, dropout: float, classes: int
    ):
        super().__init__()
        # One more channel, of ones, tells the image from the padding around it.
        self.rows = ShiftedConv(channels + 1, filters, (2, 3))
        self.above = ShiftedConv(channels + 1, filters, (1, 3))
        self.left = ShiftedConv(channels + 1, filters, (2, 1))
        options = (dropout, classes)
        self.vertical = Stream(stages, blocks, filters, (2, 3), False, *options)
        self.horizontal = Stream(stages, blocks, filters, (2, 2), True, *options)

    def forward(
        self, x: Float[Tensor, "batch channels h w"], labels: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch filters h w"]:
        """The features of all pixels."""
        down, right = self._shifted(x)
        guide = self.vertical(self.rows(down), None, labels)
        return self.horizontal(self.above(down) + self.left(right), guide, labels).here[-1]

    def at(
        self,
        x: Float[Tensor, "batch channels h w"],
        row: int,
        column: int,
        cache: dict,
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch filters 1 1"]:
        """The features of one pixel.

        Args:
            x: the image, right at the pixels before this one.
            row: of the pixel; a run goes through all pixels in raster order.
            column: of the pixel.
            cache: a dict for the whole of a run, empty at the first pixel.
            labels: classes.
        """
        down, right = (shifted[:, :, row : row + 1] for shifted in self._shifted(x))
        maps = cache.setdefault("maps", {})
        place = Place((x.shape[2], x.shape[3]), row, column, maps)
        if column == 0:  # what a row's pixels have in common
            cache["guide"] = self.vertical(self.rows(down, place), None, labels, place)
            cache["above"] = self.above(down, place)
        here = slice(column, column + 1)
        start = cache["above"][:, :, :, here] + self.left(right[:, :, :, here], place)
        return self.horizontal(start, cache["guide"], labels, place).here[-1]

    def _shifted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The image moved down by a row, and moved right by a column."""
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        return F.pad(x, (0, 0, 1, -1)), F.pad(x, (1, -1, 0, 0))
