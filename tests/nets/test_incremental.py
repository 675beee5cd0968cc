"""One place of a convolution from kept maps, against the convolution of the whole map."""

import pytest
import torch
import torch.nn.functional as F

from flowcourse.nets.incremental import Place, conv2d, keep


@pytest.mark.parametrize("stretch", [1, 5])
def test_a_causal_convolution_position_by_position(stretch, torch_seed):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    weight = torch.randn(6, 3, 3, 5, dtype=torch.float64)
    weight[:, :, 2] = 0  # nothing below
    weight[:, :, 1, 3:] = 0  # nothing to the right in the same row
    bias = torch.randn(6, dtype=torch.float64)
    padding = (2, 2, 1, 1)
    whole = F.conv2d(F.pad(x, padding), weight, bias)
    assert torch.equal(conv2d(x, weight, bias, padding), whole)
    maps, out = {}, torch.empty_like(whole)
    for row in range(4):
        for column in range(0, 5, stretch):
            place = Place((4, 5), row, column, maps)
            part = x[:, :, row : row + 1, column : column + stretch]
            found = conv2d(part, weight, bias, padding, "layer", place)
            out[:, :, row : row + 1, column : column + stretch] = found
    assert torch.allclose(out, whole, rtol=0, atol=1e-12)


def test_kept_maps_are_apart_and_may_be_written_again(torch_seed):
    maps = {}
    x = torch.randn(1, 1, 2, 2)
    keep(x, (1, 0, 1, 0), "one", Place((2, 2), 0, 0, maps))
    keep(2 * x[..., :1], (1, 0, 1, 0), "one", Place((2, 2), 0, 1, maps))
    keep(3 * x, (0, 0, 0, 0), "two", Place((2, 2), 0, 0, maps))
    expected = F.pad(torch.stack([x[..., 0], 2 * x[..., 0]], dim=-1), (1, 0, 1, 0))
    assert torch.equal(maps["one"], expected)
    assert torch.equal(maps["two"], 3 * x)
