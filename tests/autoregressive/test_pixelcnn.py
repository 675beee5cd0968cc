"""PixelCNN against autograd and against convolutions written out by hand."""

import pytest
import torch

from flowcourse.autoregressive.pixelcnn import MaskedConv2d, kernel_mask


def test_the_masks_of_one_colour():
    above = [[1.0, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert kernel_mask(2, 3, (3, 3), "A").tolist() == [[above] * 2] * 3
    above[1][1] = 1
    assert kernel_mask(2, 3, (3, 3), "B").tolist() == [[above] * 2] * 3
    assert kernel_mask(1, 1, (1, 5), "A").flatten().tolist() == [1, 1, 0, 0, 0]
    assert kernel_mask(1, 1, (1, 1), "A").item() == 0 and kernel_mask(1, 1, (1, 1), "B").item() == 1


def test_inside_a_pixel_red_comes_before_green_before_blue():
    centre = kernel_mask(3, 6, (3, 3), "A", colours=3)[:, :, 1, 1]
    red, green, blue = [0, 0, 0], [1, 0, 0], [1, 1, 0]
    assert centre.tolist() == [red, red, green, green, blue, blue]
    centre = kernel_mask(3, 6, (3, 3), "B", colours=3)[:, :, 1, 1]
    red, green, blue = [1, 0, 0], [1, 1, 0], [1, 1, 1]
    assert centre.tolist() == [red, red, green, green, blue, blue]


@pytest.mark.parametrize("mask", ["A", "B"])
def test_a_masked_convolution_looks_where_autograd_says(mask, torch_seed):
    layer = MaskedConv2d(3, 3, (3, 5), mask, colours=3)
    x = torch.randn(1, 3, 5, 7, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x)[0, 1, 2, 3], x)
    seen = torch.zeros(3, 5, 7, dtype=torch.bool)
    seen[:, 1, 1:6] = True
    seen[:, 2, 1:3] = True
    seen[: 1 if mask == "A" else 2, 2, 3] = True  # the green map: red, and green if B
    assert torch.equal(slope[0] != 0, seen)


def test_what_makes_no_sense_is_refused_with_a_reason():
    with pytest.raises(ValueError, match="odd sides"):
        MaskedConv2d(1, 1, (3, 4), "A")
    with pytest.raises(ValueError, match="multiples of 3"):
        MaskedConv2d(3, 4, 3, "A", colours=3)
    with pytest.raises(ValueError, match="'A' or 'B'"):
        MaskedConv2d(1, 1, 3, "C")
