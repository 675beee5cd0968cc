r"""PixelCNN: autoregressive models of images by masked convolutions.

Book: `book/autoregressive/pixelcnn.md`. Sources: van den Oord, Kalchbrenner & Kavukcuoglu (2016),
arXiv:1601.06759; van den Oord et al. (2016), arXiv:1606.05328.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowcourse.nets.incremental import Place, conv2d

__all__ = ["MaskedConv2d", "kernel_mask"]

Mask = Literal["A", "B"]


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
