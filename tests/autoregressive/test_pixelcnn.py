"""PixelCNN against autograd and arithmetic; the contract is tested for all topics."""

import pytest
import torch
import torch.nn.functional as F

from flowcourse import data, load
from flowcourse.autoregressive.pixelcnn import (
    GatedBlock,
    GatedPixelCNN,
    MaskedConv2d,
    PixelCNN,
    VerticalConv2d,
    build,
    gate,
    kernel_mask,
    rows_above,
)
from flowcourse.catalog import topic
from flowcourse.checks import pixelcnn as checks
from flowcourse.results import RESULTS
from flowcourse.testing import check_autoregressive, dependencies

pytestmark = pytest.mark.usefixtures("torch_seed")


def legal(model):
    place = torch.tensor(model.order).argsort()
    return place[:, None] > place[None, :]


# Masks


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
def test_a_masked_convolution_looks_where_autograd_says(mask):
    layer = MaskedConv2d(3, 3, (3, 5), mask, colours=3)
    x = torch.randn(1, 3, 5, 7, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x)[0, 1, 2, 3], x)
    seen = torch.zeros(3, 5, 7, dtype=torch.bool)
    seen[:, 1, 1:6] = True
    seen[:, 2, 1:3] = True
    seen[: 1 if mask == "A" else 2, 2, 3] = True  # the green map: red, and green if B
    assert torch.equal(slope[0] != 0, seen)


def test_a_masked_weight_stays_out_after_training():
    layer = MaskedConv2d(1, 1, 3, "A")
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer(torch.randn(4, 1, 5, 5)).square().sum().backward()
    optimizer.step()
    x = torch.randn(1, 1, 5, 5, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x)[0, 0, 2, 2], x)
    assert not slope[0, 0, 2, 2:].any() and not slope[0, 0, 3:].any()


@pytest.mark.parametrize("kernel", [3, 5])
def test_the_vertical_stack_looks_at_its_row_and_those_above(kernel):
    layer, reach = VerticalConv2d(1, 1, kernel), kernel // 2
    x = torch.randn(1, 1, 7, 7, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x)[0, 0, 3, 3], x, retain_graph=True)
    seen = torch.zeros(7, 7, dtype=torch.bool)
    seen[3 - reach : 4, 3 - reach : 4 + reach] = True
    assert torch.equal(slope[0, 0] != 0, seen)
    (slope,) = torch.autograd.grad(rows_above(layer(x))[0, 0, 3, 3], x)
    assert torch.equal(slope[0, 0] != 0, seen.roll(-1, dims=0))


def test_rows_above_is_zero_in_the_first_row():
    x = torch.randn(2, 3, 4, 5)
    moved = rows_above(x)
    assert torch.equal(moved[:, :, 1:], x[:, :, :-1]) and not moved[:, :, 0].any()


def test_a_gate_keeps_the_colours_apart():
    x = torch.randn(2, 12, 3, 3, dtype=torch.float64)
    out = gate(x, colours=3)
    for colour in range(3):
        a, b = x[:, 4 * colour : 4 * colour + 2], x[:, 4 * colour + 2 : 4 * colour + 4]
        expected = a.tanh() / (1 + (-b).exp())
        torch.testing.assert_close(out[:, 2 * colour : 2 * colour + 2], expected)


# The blind spot


def test_twelve_layers_of_three_by_three_see_69_of_84_pixels():
    model = build((1, 13, 13), 2, stacks="masked", channels=8, blocks=11, first_kernel=3)
    centre = 6 * 13 + 6
    seen = dependencies(model, examples=4)[centre]
    assert int(legal(model)[centre].sum()) == 84
    assert int(seen.sum()) == 69 and not seen[centre:].any()
    # What is missing is a wedge: in k rows up, everything more than k columns to the right.
    rows, columns = torch.meshgrid(torch.arange(13), torch.arange(13), indexing="ij")
    up, right = 6 - rows, columns - 6
    wedge = (up > 0) & (right > up)
    assert torch.equal(~seen & legal(model)[centre], wedge.flatten())


def test_more_layers_do_not_help():
    few, many = (
        build((1, 7, 7), 2, stacks="masked", channels=8, blocks=blocks, first_kernel=3)
        for blocks in (7, 14)
    )
    assert torch.equal(dependencies(few), dependencies(many))
    assert (~dependencies(many) & legal(many)).any()


@pytest.mark.parametrize(("event_shape", "levels"), [((1, 8, 8), 17), ((3, 8, 8), 4)])
def test_two_stacks_see_everything_that_is_legal_and_nothing_else(event_shape, levels):
    model = build(event_shape, levels, channels=12, blocks=5, kernel=3, first_kernel=7)
    assert torch.equal(dependencies(model, examples=3), legal(model))


def test_a_vertical_stack_that_is_not_moved_down_leaks(monkeypatch):
    monkeypatch.setattr("flowcourse.autoregressive.pixelcnn.rows_above", lambda x: x)
    model = build((1, 3, 3), 2, channels=4, blocks=1, kernel=3, first_kernel=3)
    assert (dependencies(model) & ~legal(model)).any()


def test_the_predictions_of_the_problem_set_are_what_autograd_finds():
    exercise = checks.BlindSpot
    values = exercise.values(exercise.reference, exercise.inputs(0), seed=0)
    assert {part: value.tolist() for part, value in values.items()} == {
        "few_layers": [0, 0],
        "many_layers": [0, 0, 0],
        "two_stacks": [0],
    }


# Sampling with kept activations


@pytest.mark.parametrize("stacks", ["masked", "gated"])
@pytest.mark.parametrize("event_shape", [(1, 6, 5), (3, 4, 3)])
def test_kept_activations_give_the_logits_of_a_full_pass(stacks, event_shape):
    model = build(event_shape, 5, stacks=stacks, channels=12, blocks=3, kernel=3, first_kernel=5)
    model.double().eval()
    x = torch.randint(5, (2, *event_shape)).double()
    expected = model.conditional_logits(x).flatten(1, -2)
    cache: dict = {}
    for place, index in enumerate(model.order):
        past = x.flatten(1).clone()
        past[:, model.order[place:]] = torch.randint(5, (2, model.dims - place)).double()
        found = model.conditional(past.view_as(x), place, None, cache)
        torch.testing.assert_close(found, expected[:, index], atol=1e-12, rtol=0)


def test_a_completion_is_the_same_with_and_without_kept_activations():
    model = build((3, 4, 4), 3, channels=12, blocks=2, kernel=3, first_kernel=3, classes=4)
    model.double().eval()
    x, noise = torch.randint(3, (6, 3, 4, 4)), torch.rand(6, 3, 4, 4, dtype=torch.float64)
    known = torch.zeros(3, 4, 4, dtype=torch.bool)
    known[:, :2] = True
    labels = torch.arange(6) % 4
    fast, slow = (
        model.complete(x, known, context=labels, noise=noise, cached=cached)
        for cached in (True, False)
    )
    assert torch.equal(fast, slow)
    assert torch.equal(fast[:, :, :2], x[:, :, :2]) and not torch.equal(fast, x)


# Classes


def classes_model():
    model = build((1, 2, 2), 3, channels=8, blocks=2, kernel=3, first_kernel=3, classes=3)
    return model.double().eval()


def test_a_class_conditional_model_is_a_distribution_for_each_class():
    model = classes_model()
    states = torch.cartesian_prod(*[torch.arange(3)] * 4).reshape(-1, 1, 2, 2)
    log_p = [model.log_prob(states, torch.full((81,), label)) for label in range(3)]
    for values in log_p:
        assert values.logsumexp(0).item() == pytest.approx(0, abs=1e-10)
    assert not torch.isclose(log_p[0], log_p[1]).any()


def test_each_example_has_its_own_class():
    model, x, labels = classes_model(), torch.randint(3, (6, 1, 2, 2)), torch.arange(6) % 3
    together = model.log_prob(x, labels)
    alone = torch.cat([model.log_prob(x[i : i + 1], labels[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(together, alone)
    bits = model.bits_per_dim(x, context=labels)
    torch.testing.assert_close(bits, -together / (4 * torch.log(torch.tensor(2.0).double())))


def test_class_conditional_samples_follow_their_class():
    model = classes_model()
    with torch.no_grad():
        for block in model.blocks:
            block.shift.weight.mul_(4)
    n, states = 4000, torch.cartesian_prod(*[torch.arange(3)] * 4).reshape(-1, 1, 2, 2)
    labels = torch.arange(n) % 3
    x = model.sample(n, context=labels)
    for label in range(3):
        p = model.log_prob(states, torch.full((81,), label)).exp()
        mean = (p[:, None] * states.flatten(1)).sum(0)
        found = x[labels == label].flatten(1).double()
        error = 6 * found.std(0) / len(found) ** 0.5
        assert ((found.mean(0) - mean).abs() < error + 1e-9).all()


def test_a_class_shifts_what_goes_into_both_gates():
    """Eq. 4 of the paper, written out for one block."""
    block = GatedBlock(4, 3, colours=1, classes=2, dropout=0.0).double()
    v, h = torch.randn(2, 1, 4, 3, 3, dtype=torch.float64)
    label = torch.tensor([1])
    shift = block.shift.weight[1].reshape(2, 2, 4, 1, 1)  # stack, half of the gate, channel
    a = block.vertical(v)
    expected = torch.tanh(a[:, :4] + shift[0, 0]) * torch.sigmoid(a[:, 4:] + shift[0, 1])
    next_v, link = block.down(v, label)
    torch.testing.assert_close(next_v, expected)
    torch.testing.assert_close(link, F.conv2d(a, block.link.weight))
    b = block.horizontal(h) + link
    gated = torch.tanh(b[:, :4] + shift[1, 0]) * torch.sigmoid(b[:, 4:] + shift[1, 1])
    torch.testing.assert_close(block.along(h, link, label), h + block.mix(gated))


def test_labels_are_asked_for_and_refused_with_a_reason():
    x = torch.zeros(2, 1, 2, 2)
    with pytest.raises(ValueError, match="expects context=labels.*got none"):
        classes_model().log_prob(x)
    with pytest.raises(ValueError, match=r"\(2,\), and got shape \(3,\)"):
        classes_model().log_prob(x, torch.zeros(3, dtype=torch.long))
    options = dict(channels=4, blocks=1, first_kernel=3)
    for stacks in ("masked", "gated"):
        with pytest.raises(ValueError, match="classes="):
            build((1, 2, 2), 3, stacks=stacks, **options).log_prob(x, torch.zeros(2))


# Building


def test_what_makes_no_sense_is_refused_with_a_reason():
    with pytest.raises(ValueError, match="odd sides"):
        MaskedConv2d(1, 1, (3, 4), "A")
    with pytest.raises(ValueError, match="multiples of 3"):
        MaskedConv2d(3, 4, 3, "A", colours=3)
    with pytest.raises(ValueError, match="'A' or 'B'"):
        MaskedConv2d(1, 1, 3, "C")
    with pytest.raises(ValueError, match="colours, height, width"):
        build((8, 8), 17)
    with pytest.raises(ValueError, match="have no levels"):
        build((1, 8, 8), None)
    with pytest.raises(ValueError, match="'masked' or 'gated'"):
        build((1, 8, 8), 17, stacks="both")
    with pytest.raises(ValueError, match="'one_hot' or 'scaled'"):
        build((1, 8, 8), 17, encoding="raw")


@pytest.mark.parametrize("encoding", ["one_hot", "scaled"])
def test_the_encodings(encoding):
    model = build((3, 2, 2), 4, channels=6, blocks=1, first_kernel=3, encoding=encoding)
    x = torch.randint(4, (5, 3, 2, 2)).float()
    h = model.encode(x)
    if encoding == "one_hot":
        assert torch.equal(h.argmax(1), x.long()) and torch.equal(h.sum(1), torch.ones_like(x))
    else:
        assert h.shape == (5, 1, 3, 2, 2)
        torch.testing.assert_close(h[:, 0], x / 1.5 - 1)


def test_the_paper_model_is_the_one_that_the_papers_describe():
    model_options = topic("pixelcnn").preset("paper").model
    with torch.device("meta"):
        model = build((3, 32, 32), 256, **model_options)
        one_stack = PixelCNN((3, 32, 32), 256, **{"channels": 384, "blocks": 15})
    assert isinstance(model, GatedPixelCNN) and len(model.blocks) == 20
    assert model.log_prob(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2,)
    assert one_stack.log_prob(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2,)


def test_a_trained_checkpoint_looks_only_back():
    """The committed model, not a fresh one."""
    model = load(RESULTS / "checkpoints/pixelcnn-laptop-digits-seed0")
    check_autoregressive(model, ["looks_only_back", "looks_at_everything_before"])
    digits = data.load("digits")
    assert model.bits_per_dim(digits.test[:50]).mean() < 2.0
