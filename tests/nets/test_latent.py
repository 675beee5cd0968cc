"""Networks between images and a few numbers."""

import pytest
import torch

from flowcourse.nets import LatentToMaps, MapsToLatent


@pytest.mark.parametrize("size", [(1, 2), (2, 2), (5, 7), (8, 8), (28, 28)])
def test_every_pixel_counts_on_the_way_down_and_every_number_on_the_way_up(size, torch_seed):
    down, up = MapsToLatent((2, *size), 8, 3).eval(), LatentToMaps(3, 8, size)
    x = torch.randn(6, 2, *size, requires_grad=True)
    z = down(x)
    assert z.shape == (6, 3)
    (slope,) = torch.autograd.grad(z.square().sum(), x)
    assert (slope != 0).any(dim=0).any(dim=0).all()
    z = torch.randn(6, 3, requires_grad=True)
    maps = up(z)
    assert maps.shape == (6, 8, *size)
    (slope,) = torch.autograd.grad(maps.square().sum(), z)
    assert (slope != 0).any(dim=0).all()
    assert (maps.std(dim=0) > 0).any(dim=0).all()  # each position hears of z
