"""Flow++ against scipy, autograd and summation; the contract is tested for all topics."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import logistic
from torch import nn

from flowcourse import catalog
from flowcourse.catalog import perturbed
from flowcourse.coupling import flowpp_curve
from flowcourse.coupling.flowpp import (
    AffineCurve,
    Checkerboard,
    Coupling,
    MixtureCurve,
    NoConvergenceError,
    TurnedFlow,
    build,
    invert_mixture,
    mixture_logit,
)
from flowcourse.coupling.glow import ActNorm, InvertibleConv
from flowcourse.coupling.realnvp import checkerboard
from flowcourse.flow import Flow
from flowcourse.foundations.likelihood import DequantizedFlow, UniformDequantizer
from flowcourse.nets.attention import AttentionNet, GatedAttention, GatedConv, GatedMLP
from flowcourse.nets.symmetry import turned

pytestmark = pytest.mark.usefixtures("torch_seed")

SMALL = dict(filters=8, blocks=1, components=3, heads=2, noise_couplings=2, noise_blocks=1)
SMALL |= dict(encoder_filters=4, encoder_blocks=1, dropout=0.0)


def mixture(k: int, *shape: int, spread: float = 2.0) -> list[torch.Tensor]:
    """Log-weights, means and log-scales, components on axis 1."""
    batch, *event = shape
    free = [torch.randn(batch, k, *event, dtype=torch.float64) for _ in range(3)]
    return [free[0].log_softmax(dim=1), spread * free[1], free[2] - 1]


# The curve


def test_the_curve_is_the_logit_of_scipys_mixture():
    parameters = mixture(4, 5, 3)
    x = 2 * torch.randn(5, 3, dtype=torch.float64)
    z, log_slope = mixture_logit(x, *parameters)
    weight, mean, scale = (
        p.numpy() for p in (parameters[0].exp(), parameters[1], parameters[2].exp())
    )
    at = x.numpy()[:, None]
    cdf, survival, density = (
        (weight * f(at, mean, scale)).sum(axis=1) for f in (logistic.cdf, logistic.sf, logistic.pdf)
    )
    np.testing.assert_allclose(z, np.log(cdf) - np.log(survival), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(log_slope, np.log(density / (cdf * survival)), atol=1e-10)


def test_the_log_slope_is_that_of_autograd():
    parameters = mixture(5, 40)
    x = (3 * torch.randn(40, dtype=torch.float64)).requires_grad_()
    z, log_slope = mixture_logit(x, *parameters)
    (slope,) = torch.autograd.grad(z.sum(), x)
    torch.testing.assert_close(log_slope, slope.log())


def test_one_component_is_a_straight_line():
    x = torch.linspace(-50, 50, 101)
    zero = torch.zeros(101, 1)
    z, log_slope = mixture_logit(x, zero, zero + 3, zero + 0.7)
    torch.testing.assert_close(z, (x - 3) * math.exp(-0.7))
    torch.testing.assert_close(log_slope, torch.full((101,), -0.7))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_far_out_the_curve_is_a_line_where_the_plain_formula_is_infinite(sign):
    x = torch.tensor([30.0, 100.0, 1e3]) * sign
    x.requires_grad_()
    log_weight = torch.tensor([[0.3, 0.7]]).log().expand(3, 2)
    mean, log_scale = torch.zeros(3, 2), torch.tensor([[0.0, 0.5]]).expand(3, 2)
    z, log_slope = mixture_logit(x, log_weight, mean, log_scale)
    # The wider component is alone out there.
    torch.testing.assert_close(log_slope, torch.full((3,), -0.5), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        z, x * math.exp(-0.5) + sign * math.log(0.7) * -1, atol=1e-3, rtol=1e-5
    )
    (z.sum() + log_slope.sum()).backward()
    assert x.grad.isfinite().all()
    plain = (log_weight.exp() * torch.sigmoid((x[:, None] - mean) / log_scale.exp())).sum(dim=1)
    if sign > 0:
        assert torch.logit(plain).isinf().all()


# Its inverse


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_the_inverse_is_found_to_the_stated_tolerance(dtype, k):
    parameters = [p.to(dtype) for p in mixture(k, 500, 4)]
    z = 4 * torch.randn(500, 4, dtype=dtype)
    x = invert_mixture(z, *parameters)
    # Whatever the slope: one tolerance to either side, the exact curve is not on the same side.
    exact = [p.double() for p in parameters]
    step = 16 * torch.finfo(dtype).eps * x.double().abs().clamp(min=1)
    slack = 64 * torch.finfo(dtype).eps * (1 + z.double().abs())
    above, below = (mixture_logit(x.double() + s * step, *exact)[0] for s in (1, -1))
    assert (above >= z.double() - slack).all() and (below <= z.double() + slack).all()


def test_a_plateau_between_narrow_components_is_crossed():
    """Newton alone leaves for infinity from a plateau; the bracket brings it back."""
    log_weight = torch.full((1, 2), 0.5, dtype=torch.float64).log()
    mean = torch.tensor([[-10.0, 10.0]], dtype=torch.float64)
    log_scale = torch.full((1, 2), -4.0, dtype=torch.float64)
    for z in (-1e-3, 1e-9, 3.0, -200.0, 1e4):
        target = torch.tensor([z], dtype=torch.float64)
        x = invert_mixture(target, log_weight, mean, log_scale)
        there, _ = mixture_logit(x, log_weight, mean, log_scale)
        torch.testing.assert_close(there, target, atol=1e-9, rtol=1e-9)


def test_the_root_lies_between_the_components_own_answers():
    parameters = mixture(6, 300)
    z = 5 * torch.randn(300, dtype=torch.float64)
    alone = parameters[1] + parameters[2].exp() * z[:, None]
    x = invert_mixture(z, *parameters)
    assert (x >= alone.amin(dim=1) - 1e-12).all() and (x <= alone.amax(dim=1) + 1e-12).all()


def test_gradients_of_the_inverse_are_those_of_finite_differences():
    log_weight, mean, log_scale = (p.requires_grad_() for p in mixture(3, 2, 2))
    z = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    inputs = (z, log_weight, mean, log_scale)
    assert torch.autograd.gradcheck(invert_mixture, inputs)


def test_too_few_iterations_are_an_error_that_says_how_many_roots_are_missing():
    parameters = mixture(4, 10)
    z = torch.randn(10, dtype=torch.float64)
    with pytest.raises(NoConvergenceError, match=r"After 2 iterations, \d+ of 10 roots"):
        invert_mixture(z, *parameters, max_iterations=2)


def test_nan_is_no_root():
    z = torch.tensor([math.nan, 0.0], dtype=torch.float64)
    with pytest.raises(NoConvergenceError, match=r"1 of 2 roots .* NaN"):
        invert_mixture(z, *mixture(2, 2))


def test_a_larger_tolerance_takes_fewer_evaluations(monkeypatch):
    parameters, z = mixture(8, 400), 2 * torch.randn(400, dtype=torch.float64)
    calls = []
    original = mixture_logit
    monkeypatch.setattr(flowpp_curve, "mixture_logit", lambda *a: calls.append(1) or original(*a))
    counts = []
    for tolerance in (None, 1e-3):
        calls.clear()
        invert_mixture(z, *parameters, tolerance=tolerance)
        counts.append(len(calls))
    assert counts[1] < counts[0] <= 20


# Couplings


def linear_net(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1).double()


@pytest.mark.parametrize("curve", [MixtureCurve(3), AffineCurve()])
@pytest.mark.parametrize("parity", [0, 1])
def test_one_half_passes_and_the_other_is_changed_pixel_by_pixel(curve, parity):
    layer = Coupling(linear_net(2, 2 * curve.outputs), curve, parity)
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    z, _ = layer(x)
    passes = slice(0, 2) if parity == 0 else slice(2, 4)
    changes = slice(2, 4) if parity == 0 else slice(0, 2)
    assert torch.equal(z[:, passes], x[:, passes])
    jacobian = torch.func.jacrev(lambda v: layer(v[None])[0][0])(x[0])
    block = jacobian[changes, :, :, changes].reshape(8, 8)
    assert torch.equal(block, block.diag().diag()) and (block.diag() > 0).all()
    assert (jacobian[changes, :, :, passes] != 0).any()


def test_the_scale_is_bounded_and_the_affine_curve_is_a_line():
    context = torch.tensor([[100.0, 0.5]])
    z, log_det = AffineCurve()(torch.tensor([[2.0]]), context)
    torch.testing.assert_close(z, torch.tensor([[2 * math.e + 0.5]]))
    torch.testing.assert_close(log_det, torch.ones(1))


def test_log_scales_are_held_between_floor_and_ceiling():
    curve = MixtureCurve(1)
    for value, held in ((-100.0, -7.0), (100.0, 7.0)):
        context = torch.tensor([[0.0, 0.0, 0.0, 0.0, value]])
        _, log_det = curve(torch.zeros(1, 1), context)
        torch.testing.assert_close(log_det, torch.tensor([-held]))


def test_equal_components_get_equal_gradients_so_the_network_does_not_start_at_zero():
    curve = MixtureCurve(4)
    context = torch.zeros(16, curve.outputs, requires_grad=True)
    z, log_det = curve(torch.randn(16, 1), context)
    ((z**2).sum() / 2 - log_det.sum()).backward()
    means = context.grad[:, 2 + 4 : 2 + 8]
    torch.testing.assert_close(means, means[:, :1].expand(-1, 4))
    net = AttentionNet(1, curve.outputs, (4, 2), filters=8, blocks=1)
    chosen = net(torch.randn(16, 1, 4, 2))[:, 6:10]
    assert chosen.std(dim=1).min() > 0 and chosen.abs().max() < 1


def test_the_checkerboard_sorts_the_colours_that_a_mask_shows():
    x = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6) + 1.0
    z, log_det = Checkerboard()(x)
    assert z.shape == (1, 4, 4, 3) and torch.equal(log_det, torch.zeros(1))
    for parity, half in enumerate(z.chunk(2, dim=1)):
        shown = (x * checkerboard(parity)(x))[0, :, :, :]
        assert torch.equal(half[0].flatten(1), torch.stack([c[c != 0] for c in shown]))
    with pytest.raises(ValueError, match="even width and got 3"):
        Checkerboard()(torch.zeros(1, 1, 2, 3))


# The network


def seen(module, height: int, width: int, channels: int) -> torch.Tensor:
    """Which pixels the middle one's output depends on."""
    x = torch.randn(1, channels, height, width, dtype=torch.float64, requires_grad=True)
    out = module.double()(x)
    (gradient,) = torch.autograd.grad(out[0, :, height // 2, width // 2].sum(), x)
    return gradient[0].abs().amax(dim=0) > 0


@pytest.mark.parametrize("attention", [True, False])
def test_with_attention_one_block_sees_the_whole_image_and_without_only_its_neighbours(attention):
    net = AttentionNet(2, 3, (9, 9), filters=8, blocks=1, heads=2, attention=attention)
    pixels = seen(net, 9, 9, 2)
    if attention:
        assert pixels.all()
    else:
        # Three convolutions of 3x3: three pixels to every side.
        expected = torch.zeros(9, 9, dtype=torch.bool)
        expected[1:8, 1:8] = True
        assert torch.equal(pixels, expected)


def test_attention_is_torchs_multi_head_attention():
    block = GatedAttention(8, heads=2).double()
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double()
    x, position = torch.randn(3, 8, 2, 4).double(), torch.randn(8, 2, 4).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(block.project.weight[:, :, 0, 0])
        theirs.in_proj_bias.copy_(block.project.bias)
        theirs.out_proj.weight.copy_(torch.eye(8))
        theirs.out_proj.bias.zero_()
        places = (x + position).flatten(2).transpose(1, 2)
        found, _ = theirs(places, places, places)
        value, gate = block.answer(found.transpose(1, 2).reshape(x.shape)).chunk(2, dim=1)
        torch.testing.assert_close(block(x, position), x + value * gate.sigmoid())


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="channels=10 .* heads=4"):
        GatedAttention(10, heads=4)


def test_the_mlp_has_as_many_parameters_as_the_attention():
    count = [sum(p.numel() for p in m.parameters()) for m in (GatedAttention(8, 2), GatedMLP(8))]
    assert count[0] == count[1]


def test_layer_normalization_is_over_the_channels_of_each_place():
    net = AttentionNet(1, 2, (4, 4), filters=8, blocks=1, heads=2)
    seen_by_tail = []
    net.tail.register_forward_pre_hook(lambda _, inputs: seen_by_tail.append(inputs[0]))
    net(torch.randn(2, 1, 4, 4))
    (h,) = seen_by_tail
    torch.testing.assert_close(h.mean(dim=1), torch.zeros(2, 4, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(h.var(dim=1, correction=0), torch.ones(2, 4, 4), atol=1e-2, rtol=0)


def test_context_reaches_every_block():
    net = AttentionNet(1, 2, (4, 2), filters=8, blocks=2, heads=2, context=3)
    contexts = [b.conv.context for b in net.blocks]
    assert all(isinstance(c, nn.Conv2d) and c.in_channels == 6 for c in contexts)
    x, a, b = torch.randn(1, 1, 4, 2), torch.randn(1, 3, 4, 2), torch.randn(1, 3, 4, 2)
    assert not torch.allclose(net(x, a), net(x, b))


# The model and its switches


def model(**options):
    layout = ["checkerboard"] * 2 + ["squeeze"] + ["channels"] * 2
    return build((1, 4, 4), 17, **SMALL | dict(layout=layout) | options)


def modules(root: nn.Module, kind: type) -> list:
    return [m for m in root.modules() if isinstance(m, kind)]


def test_every_switch_changes_its_own_part_and_no_other():
    full = model()
    couplings = 2 + 2 + SMALL["noise_couplings"]
    for option, gone, instead in (
        (dict(coupling="affine"), MixtureCurve, AffineCurve),
        (dict(attention=False), GatedAttention, GatedMLP),
    ):
        other = model(**option)
        assert len(modules(full, gone)) == len(modules(other, instead)) == couplings
        assert not modules(full, instead) and not modules(other, gone)
        assert len(modules(other, Coupling)) == len(modules(other, ActNorm)) == couplings
    uniform = model(dequantizer="uniform")
    assert isinstance(uniform.dequantizer, UniformDequantizer)
    names = [name for name, _ in full.flow.named_parameters()]
    assert names == [name for name, _ in uniform.flow.named_parameters()]


def test_every_coupling_has_an_actnorm_and_a_convolution_for_each_half():
    full = model()
    couplings = modules(full, Coupling)
    assert len(modules(full, ActNorm)) == len(couplings)
    assert len(modules(full, InvertibleConv)) == 2 * len(couplings)
    assert len(modules(full, GatedConv)) == len(couplings) + SMALL["encoder_blocks"]


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_build_asks_for_images(shape):
    with pytest.raises(ValueError, match="expects images"):
        build(shape, 17)


@pytest.mark.parametrize(
    "wrong", [dict(layout=["rows"]), dict(coupling="cubic"), dict(dequantizer="none")]
)
def test_an_unknown_choice_is_named(wrong):
    with pytest.raises(ValueError, match="(rows|cubic|none)"):
        model(**wrong)


def test_an_odd_number_of_channels_has_no_halves():
    with pytest.raises(ValueError, match="1 channels have no halves: squeeze first"):
        model(layout=["channels"])


@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 4), 17), ((1, 4, 4), None)])
def test_only_square_images_of_levels_are_turned(shape, levels):
    with pytest.raises(ValueError, match=r"turn=0.5 needs square images"):
        build(shape, levels, turn=0.5, **SMALL | dict(layout=["checkerboard"]))


def test_continuous_images_get_the_flow_alone():
    assert isinstance(build((2, 4, 4), None, **SMALL | dict(layout=["channels"])), Flow)


@pytest.mark.parametrize("options", [{}, dict(coupling="affine"), dict(dequantizer="uniform")])
def test_the_bound_is_below_the_exact_probability_and_its_weighted_form_tends_to_it(options):
    """Two pixels of two levels: the cells' masses by the midpoint rule, in the plane."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        tiny = build((1, 1, 2), 2, **SMALL | dict(layout=["checkerboard"] * 2) | options).double()
        perturbed(tiny, scale=0.15)
        tiny.eval()
    n = 150
    axis = (torch.arange(2 * n, dtype=torch.float64) + 0.5) / n
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        p = tiny.flow.log_prob(grid.reshape(-1, 1, 1, 2)).exp() / n**2
        cell = grid.floor().long()
        exact = torch.zeros(4, dtype=torch.float64).index_add_(0, 2 * cell[:, 0] + cell[:, 1], p)
        images = torch.tensor(list(itertools.product(range(2), repeat=2))).reshape(4, 1, 1, 2)
        bound = tiny(images.repeat(4000, 1, 1, 1)).reshape(4000, 4)
    error = bound.std(dim=0) / math.sqrt(4000)
    assert (bound.mean(dim=0) < exact.log() + 4 * error).all()
    weights = bound.exp()
    error = weights.std(dim=0) / math.sqrt(len(weights))
    # The heavier a tail of the weights, the longer their mean takes; 6 errors are a wide berth.
    assert ((weights.mean(dim=0) - exact).abs() < 6 * error).all() and (error < 0.1 * exact).all()
    assert exact.sum() < 1.001


def test_samples_are_levels_and_gradients_reach_every_parameter():
    full = model().train()
    images = torch.randint(17, (8, 1, 4, 4))
    full(images)  # actnorm
    (-full(images).mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in full.parameters())
    drawn = full.eval().sample(5)
    assert drawn.shape == (5, 1, 4, 4) and drawn.dtype == torch.int64
    assert drawn.min() >= 0 and drawn.max() <= 16


def test_the_flow_inverts_in_float32():
    full = perturbed(model(), scale=0.1)
    y = 17 * torch.rand(16, 1, 4, 4)
    torch.testing.assert_close(full.inverse(full(y)[0])[0], y, atol=1e-3, rtol=1e-4)


# Turned images


def test_a_turned_model_is_told_the_symmetry_and_scores_images_as_they_are():
    full = model(turn=0.9, layout=["checkerboard"] * 2, dequantizer="uniform")
    assert isinstance(full, TurnedFlow)
    perturbed(full, scale=0.3)
    full.eval()
    x = torch.randint(17, (6, 1, 4, 4))
    zero, one = torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64)

    def score(m, *args):
        torch.manual_seed(0)
        return m(*args)

    torch.testing.assert_close(score(full, x), score(full, x, zero))
    torch.testing.assert_close(
        score(full, x, one), score(DequantizedFlow.forward, full, turned(x, one), one)
    )
    assert not torch.allclose(score(full, x, one), score(full, x, zero))
    full.train()
    kinds = []
    hook = full.flow.bijector.register_forward_pre_hook(lambda _, inputs: kinds.append(inputs[1]))
    full(torch.randint(17, (500, 1, 4, 4)))
    hook.remove()
    assert 0.8 < (kinds[0] > 0).double().mean() < 0.98 and kinds[0].max() == 7
    assert full.eval().sample(3).shape == (3, 1, 4, 4)


# The paper's models

CIFAR10 = {
    "paper-cifar10": 31_443_440,
    "paper-uniform": 32_324_408,
    "paper-affine": 32_045_708,
    "paper-no-attention": 31_443_440,
}


def on_meta(preset: str, shape=(3, 32, 32)):
    with torch.device("meta"):
        return build(shape, 256, **catalog.topic("flowpp").preset(preset).model)


@pytest.mark.parametrize("preset", CIFAR10)
def test_the_papers_models_have_its_number_of_parameters(preset):
    """The whole difference is actnorm for each channel instead of each number; see `build`."""
    built = on_meta(preset)
    count = sum(p.numel() for p in built.parameters())
    assert abs(count / CIFAR10[preset] - 1) < 0.005
    noise = 0 if preset == "paper-uniform" else 4
    per_number = 4 * ((4 + noise) * 32 * 16 * 3 + 2 * 16 * 16 * 6 + 3 * 16 * 8 * 12)
    actnorm = sum(p.numel() for m in modules(built, ActNorm) for p in m.parameters())
    mixing = sum(p.numel() for m in modules(built, InvertibleConv) for p in m.parameters())
    matrices = 2 * ((4 + noise) * 3**2 + 2 * 6**2 + 3 * 12**2)
    assert count - actnorm + per_number - mixing + matrices == CIFAR10[preset]


def sizes(*parts) -> int:
    return sum(p.numel() for part in parts for p in part.parameters())


@pytest.mark.parametrize(
    ("size", "couplings", "program"), [(32, 13 + 8, 168_955_724), (64, 12 + 4, 73_489_960)]
)
def test_what_sets_the_models_for_imagenet_apart_is_known(size, couplings, program):
    built = on_meta(f"paper-imagenet{size}", (3, size, size))
    nets = [coupling.net for coupling in modules(built, Coupling)]
    assert len(nets) == couplings
    count = sizes(built) - sizes(*modules(built, ActNorm), *modules(built, InvertibleConv))
    count += couplings * 2 * 3 * size**2  # actnorm, for each number of an image
    count += sum(net.tail.weight.numel() for net in nets)  # as many inputs again
    if size == 32:
        count += sum(conv.bias.numel() for conv in modules(built, nn.Conv2d))  # the gains
        # In the encoder: queries, keys and values, and the answers, with gains; two layer norms.
        count += 16 * 32 * 32 + 8 * (96 * (32 + 2) + 64 * (32 + 2) + 2 * 2 * 32)
    else:
        noise = [coupling.net for coupling in modules(built.dequantizer, Coupling)]
        blocks = [block for net in noise for block in net.blocks]
        count -= sizes(*(layer for block in blocks for layer in (block.mix, block.norm_mixed)))
        count += 5 * 2 * 32  # layer norm in the encoder
    assert count == program


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_papers_preset_takes_a_training_step_at_toy_size(precision):
    options = catalog.topic("flowpp").preset("paper-cifar10").model
    toy = build((3, 8, 8), 256, **{**options, "filters": 8, "blocks": 1, "components": 4}).train()
    images = torch.randint(256, (8, 3, 8, 8))
    optimizer = torch.optim.Adam(toy.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        with torch.autocast("cpu", dtype=precision, enabled=precision == torch.bfloat16):
            value = toy(images)
        assert value.dtype == torch.float32 and value.isfinite().all()
        loss = -value.mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in toy.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert len(set(losses)) == 3


def test_bf16_and_float32_agree_on_what_they_measure():
    full = perturbed(model(dequantizer="uniform"))
    y = 17 * torch.rand(32, 1, 4, 4)
    exact = full(y)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = full(y)[1]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.5, rtol=0.05)
