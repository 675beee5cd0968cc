"""PixelRNN against PyTorch's LSTM, slow loops and autograd; the contract is tested for all."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowcourse import data
from flowcourse.autoregressive import pixelrnn
from flowcourse.autoregressive.pixelrnn import (
    DiagonalBiLSTM,
    MaskedConv2d,
    PixelRNN,
    RowLSTM,
    build,
    lstm_cell,
    skew,
    unskew,
)
from flowcourse.catalog import topic
from flowcourse.testing import dependencies
from flowcourse.training import TrainingConfig, evaluate, train

pytestmark = pytest.mark.usefixtures("torch_seed")


def legal(model: PixelRNN) -> torch.Tensor:
    """Entry `[i, j]`: dimension `j` comes before dimension `i`."""
    place = torch.tensor(model.order).argsort()
    return place[:, None] > place[None, :]


# Masks


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [
        ("A", (3, 3), [[1, 1, 1], [1, 0, 0], [0, 0, 0]]),
        ("B", (3, 3), [[1, 1, 1], [1, 1, 0], [0, 0, 0]]),
        ("A", (1, 5), [[1, 1, 0, 0, 0]]),
        ("B", (1, 5), [[1, 1, 1, 0, 0]]),
        ("B", (1, 1), [[1]]),
        ("A", (1, 1), [[0]]),
    ],
)
def test_a_grey_mask_is_a_picture(kind, size, expected):
    mask = MaskedConv2d(kind, 2, 3, size).mask
    assert torch.equal(mask, torch.tensor(expected).float().expand(3, 2, *size))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("A", [[0, 0, 0], [1, 0, 0], [1, 1, 0]]), ("B", [[1, 0, 0], [1, 1, 0], [1, 1, 1]])],
)
def test_colours_see_those_before_them(kind, expected):
    matrix = torch.tensor(expected).float()
    doubled = matrix.repeat_interleave(2, dim=0).repeat_interleave(4, dim=1)
    layer = MaskedConv2d(kind, 12, 6, (3, 3), colours=3)
    assert torch.equal(layer.mask[:, :, 1, 1], doubled)
    assert layer.mask[:, :, 0].all() and not layer.mask[:, :, 2].any()
    blocks = MaskedConv2d(kind, 12, 24, (3, 3), colours=3, blocks=4)
    assert torch.equal(blocks.mask, layer.mask.repeat(4, 1, 1, 1))


def test_features_need_not_be_a_multiple_of_the_colours():
    groups = MaskedConv2d("B", 5, 5, (1, 1), colours=3).mask[:, :, 0, 0]
    assert groups.sum(dim=1).tolist() == [2, 2, 4, 4, 5]


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="odd sides"):
        MaskedConv2d("A", 1, 1, (3, 2))


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 3), (7, 7)])
def test_a_masked_convolution_at_one_place_is_that_of_the_whole_map(size):
    layer, x = MaskedConv2d("B", 2, 3, size).double(), torch.randn(4, 2, 3, 5).double()
    whole = layer(x)
    for row in range(3):
        for column in range(5):
            torch.testing.assert_close(layer.at(x, row, column), whole[:, :, row, column])


# Skewing


def test_skewing_by_hand():
    image = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert skew(image).tolist() == [[1, 2, 3, 0], [0, 4, 5, 6]]
    assert skew(image.T).tolist() == [[1, 4, 0, 0], [0, 2, 5, 0], [0, 0, 3, 6]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (3, 5, 2), (5, 3, 2, 2)])
def test_unskewing_undoes_skewing(shape):
    x = torch.randn(shape)
    skewed = skew(x)
    assert skewed.shape == (shape[0], shape[0] + shape[1] - 1, *shape[2:])
    assert torch.equal(unskew(skewed), x)
    for i in range(shape[0]):
        for j in range(shape[1]):
            assert torch.equal(skewed[i, i + j], x[i, j])
    assert skewed.count_nonzero() == x.count_nonzero()


# The recurrences


def test_the_cell_is_pytorchs_with_its_gates_in_another_order():
    theirs = nn.LSTMCell(3, 5).double()
    x, h, c = (torch.randn(4, n).double() for n in (3, 5, 5))
    gates = x @ theirs.weight_ih.T + theirs.bias_ih + h @ theirs.weight_hh.T + theirs.bias_hh
    i, f, g, o = gates.chunk(4, dim=1)
    torch.testing.assert_close(lstm_cell(torch.cat([o, f, i, g], dim=1), c), theirs(x, (h, c)))


def test_on_a_single_row_the_diagonal_lstm_is_an_lstm_over_the_row():
    layer = DiagonalBiLSTM(features=6, hidden=4, width=1).double()
    gates = torch.randn(1, 7, 3, 16).double()  # one row of 7 pixels, a batch of 3
    theirs = nn.LSTM(16, 4, bias=False).double()
    order = torch.tensor([2, 1, 3, 0]).repeat_interleave(4) * 4 + torch.arange(4).repeat(4)
    with torch.no_grad():  # PyTorch's order is i, f, g, o, ours o, f, i, g
        theirs.weight_ih_l0.copy_(torch.eye(16)[order])
        theirs.weight_hh_l0.copy_(layer.state_to_state[0, :4].T[order])
    states = layer.along_diagonals(gates, 0)
    torch.testing.assert_close(states[0], theirs(gates[0])[0])


def slow_diagonals(layer: DiagonalBiLSTM, x: torch.Tensor) -> torch.Tensor:
    """What a Diagonal BiLSTM adds to its input: pixel by pixel, neighbour by neighbour."""
    batch, _, height, width = x.shape
    hidden, zero = layer.hidden, x.new_zeros(batch, layer.hidden)
    kernel, bias = layer.input_to_state.weight[:, :, 0, 0], layer.input_to_state.bias
    states: tuple[dict, dict] = {}, {}
    for direction, (side, columns) in enumerate([(-1, range(width)), (1, range(width)[::-1])]):
        block = slice(4 * hidden * direction, 4 * hidden * (direction + 1))
        beside, above = layer.state_to_state[direction].split(hidden)
        for i in range(height):
            for j in columns:
                h_beside, c_beside = states[direction].get((i, j + side), (zero, zero))
                h_above, _ = states[direction].get((i - 1, j), (zero, zero))
                gates = x[:, :, i, j] @ kernel[block].T + bias[block]
                gates = gates + h_beside @ beside + h_above @ above
                o, f, k, g = gates.split(hidden, dim=1)
                c = torch.sigmoid(f) * c_beside + torch.sigmoid(k) * torch.tanh(g)
                states[direction][i, j] = torch.sigmoid(o) * torch.tanh(c), c
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            state = states[0][i, j][0]
            if i > 0:
                state = state + states[1][i - 1, j][0]
            out[:, :, i, j] = state @ layer.up.weight[:, :, 0, 0].T + layer.up.bias
    return out


@pytest.mark.parametrize("shape", [(1, 1), (4, 6), (6, 4), (1, 5), (5, 1)])
def test_the_diagonal_bilstm_is_the_slow_loop(shape):
    layer = DiagonalBiLSTM(features=6, hidden=4, width=1).double()
    x = torch.randn(3, 6, *shape).double()
    torch.testing.assert_close(layer(x), slow_diagonals(layer, x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(4, 6), (5, 1), (1, 5)])
def test_the_row_lstm_is_convolutions_down_the_rows(shape):
    layer = RowLSTM(features=6, hidden=4, width=3).double()
    x = torch.randn(3, 6, *shape).double()
    above, left, right = layer.state_to_state[0].split(4)
    kernel = torch.stack([left.T, above.T, right.T], dim=-1)  # a convolution's own order
    h = c = x.new_zeros(3, 4, shape[1])
    for i in range(shape[0]):
        total = layer.input_to_state(x)[:, :, i] + F.conv1d(h, kernel, padding=1)
        o, f, k, g = total.split(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(k) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        expected = layer.up(h[:, :, None])[:, :, 0]
        torch.testing.assert_close(layer(x)[:, :, i], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("layer", "steps"), [(RowLSTM, 5), (DiagonalBiLSTM, 2 * (5 + 8 - 1))])
def test_a_sweep_takes_n_steps_and_not_n_squared(layer, steps, monkeypatch):
    calls = []

    def counted(gates, c):
        calls.append(gates.shape)
        return lstm_cell(gates, c)

    monkeypatch.setattr(pixelrnn, "lstm_cell", counted)
    layer(features=4, hidden=2, width=1)(torch.randn(1, 4, 5, 8))
    assert len(calls) == steps


# What a pixel sees


SMALL = dict(hidden=6, head=24)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("shape", [(1, 5, 5), (3, 3, 4)])
def test_the_diagonal_bilstm_sees_every_legal_pixel_and_no_other(shape, layers):
    model = build(shape, 3, layers=layers, kernel=3, **SMALL).double()
    assert torch.equal(dependencies(model), legal(model))


def test_eight_by_eight_with_the_preset_of_the_digits_sees_everything():
    preset = topic("pixelrnn").preset("laptop")
    model = build((1, 8, 8), 17, **preset.model).double().eval()
    assert torch.equal(dependencies(model, examples=2), legal(model))


def test_without_the_line_end_the_last_pixel_of_the_row_above_is_missing():
    """As the paper prints it: from far enough left, the end of the row above is not seen."""
    kernel, size = 3, 5
    reach = kernel // 2  # columns to the right that the first convolution sees in the row above
    model = build((1, size, size), 3, layers=2, kernel=kernel, line_end=False, **SMALL).double()
    missing = legal(model) & ~dependencies(model)
    expected = {
        ((i, j), (i - 1, size - 1))
        for i in range(1, size)
        for j in range(size)
        if j + reach < size - 1
    }
    assert {(divmod(int(a), size), divmod(int(b), size)) for a, b in missing.nonzero()} == expected
    assert not (dependencies(model) & ~legal(model)).any()


@pytest.mark.parametrize(("layers", "kernel", "width"), [(1, 3, 3), (2, 3, 3), (1, 5, 1)])
def test_the_row_lstm_sees_a_triangle(layers, kernel, width):
    size, reach = 8, kernel // 2
    options = dict(layers=layers, kernel=kernel, width=width, **SMALL)
    model = build((1, size, size), 3, kind="row", **options).double()
    seen = dependencies(model).view(size, size, size, size)
    for i in range(size):
        for j in range(size):
            expected = torch.zeros(size, size, dtype=torch.bool)
            for up in range(i + 1):
                # The input's kernels reach to the left in every layer. To the right only the first
                # convolution does, in the rows above, and the states, one column for each row.
                leftmost = j - up - reach - layers * (width // 2)
                rightmost = j - 1 if up == 0 else j + up - 1 + reach
                expected[i - up, max(leftmost, 0) : rightmost + 1] = True
            assert torch.equal(seen[i, j], expected), (i, j)


def test_the_triangle_as_a_picture():
    options = dict(layers=1, kernel=3, width=1, **SMALL)
    model = build((1, 4, 7), 3, kind="row", **options).double()
    seen = dependencies(model).view(4, 7, 4, 7)
    picture = ["".join(".#"[int(pixel)] for pixel in row) for row in seen[3, 3]]
    assert picture == ["#######", "######.", ".####..", "..#...."]


def test_a_pixels_colours_come_in_the_order_red_green_blue():
    model = build((3, 1, 2), 4, layers=1, kernel=3, **SMALL).double()
    seen = dependencies(model).view(3, 2, 3, 2)
    within = seen[:, 1, :, 1]
    assert torch.equal(within, torch.ones(3, 3).tril(-1).bool())
    assert seen[:, 1, :, 0].all() and not seen[:, 0, :, 1].any()


class NotMovedDown(DiagonalBiLSTM):
    def sweep(self, gates):
        left = self.along_diagonals(gates[0], 0)
        return left + self.along_diagonals(gates[1].flip(1), 1).flip(1)


def test_if_the_second_direction_is_not_moved_down_the_future_is_seen():
    model = build((1, 3, 3), 3, layers=0, kernel=3, **SMALL).double()
    model.layers.append(NotMovedDown(12, 6, 1).double())
    ahead = (dependencies(model) & ~legal(model)).view(3, 3, 3, 3)
    # Each pixel sees itself and all that follows in its own row, and nothing in the rows below.
    for i in range(3):
        for j in range(3):
            rows, columns = ahead[i, j].nonzero(as_tuple=True)
            assert rows.unique().tolist() == [i]
            assert columns.tolist() == list(range(j, 3))


# Sampling


@pytest.mark.parametrize("kind", ["diagonal", "row"])
@pytest.mark.parametrize("shape", [(1, 6, 7), (3, 4, 3)])
def test_cached_samples_are_the_same_for_the_same_noise(kind, shape):
    model = build(shape, 5, kind=kind, layers=3, kernel=5, **SMALL).double().eval()
    noise = torch.rand(5, *shape, dtype=torch.float64)
    fast, slow = (model.sample(5, noise=noise, cached=c) for c in (True, False))
    assert torch.equal(fast, slow) and len(fast.unique()) == 5
    known = torch.zeros(shape, dtype=torch.bool)
    known[:, :2] = True
    fast, slow = (model.complete(slow, known, noise=1 - noise, cached=c) for c in (True, False))
    assert torch.equal(fast, slow)


@pytest.mark.parametrize("kind", ["diagonal", "row"])
def test_with_a_cache_each_state_is_computed_once(kind, monkeypatch):
    height, width, layers = 4, 5, 3
    model = build((1, height, width), 3, kind=kind, layers=layers, kernel=3, **SMALL)
    calls = []

    def counted(gates, c):
        calls.append(gates.shape)
        return lstm_cell(gates, c)

    monkeypatch.setattr(pixelrnn, "lstm_cell", counted)
    model.sample(2)
    pixels = height * width
    if kind == "diagonal":  # and the line ends, and the second direction of all rows but the last
        pixels += (height - 1) + (height - 1) * (width + 1)
    assert len(calls) == layers * pixels
    assert set(calls) == {(2, 4 * SMALL["hidden"])}


# The whole model


def test_a_residual_layer_adds_to_what_it_was_given():
    model = build((1, 4, 4), 3, layers=2, kernel=3, **SMALL)
    x = torch.randint(3, (2, 1, 4, 4))
    with torch.no_grad():
        for layer in model.layers:
            layer.up.weight.zero_()
            layer.up.bias.zero_()
    expected = build((1, 4, 4), 3, layers=0, kernel=3, **SMALL)
    expected.load_state_dict({k: v for k, v in model.state_dict().items() if "layers" not in k})
    assert torch.equal(model.conditional_logits(x), expected.conditional_logits(x))


def test_what_makes_no_sense_is_refused_with_a_reason():
    with pytest.raises(ValueError, match=r"images of shape .* not \(64,\)"):
        build((64,), 17)
    with pytest.raises(ValueError, match="is 'diag'"):
        build((1, 8, 8), 17, kind="diag")
    with pytest.raises(ValueError, match="3 colours need a feature each, or more, and not 2"):
        build((3, 8, 8), 17, hidden=2)


@pytest.mark.parametrize("name", ["laptop", "row"])
def test_the_presets_learn_digits_at_toy_size(name, tmp_path):
    preset = topic("pixelrnn").preset(name)
    digits = data.load("digits")
    small = dict(hidden=12, head=32, layers=1, dropout=0.0)
    model = build(digits.event_shape, digits.levels, **preset.model | small)
    config = TrainingConfig(**preset.training | dict(steps=120, learning_rate=0.01, ema=0.9))
    train(model, digits, config, tmp_path / "run", verbose=False)
    found = evaluate(model, digits.test[:100])
    assert found.kind == "exact"
    # Below the histogram of each pixel by itself: it has learnt from other pixels.
    assert found.bits_per_dim < 2.366
