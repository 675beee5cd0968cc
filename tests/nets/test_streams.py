"""The two streams, at one pixel and at all of them, and their parts against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from flowcourse.nets.streams import Doubling, ShiftedConv, TwoStreams, concat_elu

pytestmark = pytest.mark.usefixtures("torch_seed")


def test_weights_have_the_length_of_their_gain():
    conv = ShiftedConv(3, 5, (2, 3), gain=0.7)
    torch.testing.assert_close(conv.weight(None).flatten(1).norm(dim=1), torch.full((5,), 0.7))


def test_concat_elu_keeps_both_signs():
    x = torch.tensor([-2.0, 0.0, 3.0]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(concat_elu(x), F.elu(torch.cat([x, -x], dim=1)))
    assert concat_elu(x).shape == (1, 6, 1, 1)


def influence(layer, size, position, *arguments):
    """Which input positions one output position depends on."""
    x = torch.randn(1, 1, *size, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x, *arguments)[0, 0][position], x)
    return {tuple(p) for p in slope[0, 0].nonzero().tolist()}


@pytest.mark.parametrize(
    ("kernel", "seen"),
    [
        ((2, 3), {(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)}),
        ((2, 2), {(1, 1), (1, 2), (2, 1), (2, 2)}),
        ((1, 3), {(2, 1), (2, 2), (2, 3)}),
        ((2, 1), {(1, 2), (2, 2)}),
    ],
)
def test_kernels_look_up_and_to_both_sides_or_to_the_left(kernel, seen):
    assert influence(ShiftedConv(1, 1, kernel), (5, 5), (2, 2)) == seen


def test_halving_and_doubling_never_look_down_or_to_the_right():
    shrink, grow = ShiftedConv(1, 1, (2, 2), stride=2), Doubling(1, 1, (2, 2))
    assert influence(shrink, (6, 6), (1, 2)) == {(1, 3), (1, 4), (2, 3), (2, 4)}
    for row in range(6):
        for column in range(6):
            found = influence(grow, (3, 3), (row, column), (6, 6))
            assert found == {(row // 2, column // 2)}
    wide = influence(Doubling(1, 1, (2, 3)), (3, 3), (4, 3), (6, 6))
    assert wide == {(2, 1), (2, 2)}


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 4)])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_one_pixel_after_the_other_is_all_of_them_at_once(size, stages):
    net = TwoStreams(2, filters=4, blocks=1, stages=stages, dropout=0.0, classes=0).double()
    x = torch.randn(3, 2, *size).double()
    every, cache = net(x), {}
    for row in range(size[0]):
        for column in range(size[1]):
            past = x.clone()
            past[:, :, row, column:] = 0
            past[:, :, row + 1 :] = 0
            here = net.at(past, row, column, cache)
            torch.testing.assert_close(here[:, :, 0, 0], every[:, :, row, column])
