"""Glow against autograd, numpy, torch and integrals; the contract is tested for all topics."""

import copy
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.distributions import Normal
from torch.func import jacrev

from flowcourse import catalog
from flowcourse.bijector import Compose, Inverse
from flowcourse.catalog import perturbed
from flowcourse.coupling.glow import (
    ActNorm,
    GlowCoupling,
    GlowNet,
    InvertibleConv,
    Permutation,
    SplitPrior,
    TopPrior,
    ZeroConv2d,
    build,
)
from flowcourse.coupling.realnvp import FactorOut
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.likelihood import DequantizedFlow, importance_weighted_bound
from flowcourse.testing import autograd_log_det

pytestmark = pytest.mark.usefixtures("torch_seed")

SMALL = dict(scales=2, steps=2, hidden=8)


def channels_of(x: torch.Tensor) -> torch.Tensor:
    """One row of values for each channel."""
    return x.transpose(0, 1).flatten(start_dim=1)


def jacobian(bijector: nn.Module, x: torch.Tensor) -> torch.Tensor:
    dims = x.numel()
    return jacrev(lambda v: bijector(v[None])[0][0].flatten())(x).reshape(dims, dims)


# Actnorm


@pytest.mark.parametrize("shape", [(3,), (3, 4, 5)])
def test_the_first_batch_comes_out_with_mean_0_and_variance_1_per_channel(shape):
    spread = torch.tensor([0.01, 1.0, 30.0]).reshape(3, *[1] * (len(shape) - 1))
    x = 5 + spread * torch.randn(64, *shape)
    norm = ActNorm(3)
    z, log_det = norm(x)
    values = channels_of(z).detach().double()
    np.testing.assert_allclose(values.mean(dim=1), 0, atol=2e-3)  # float32, at 5 with spread 0.01
    np.testing.assert_allclose(values.var(dim=1, correction=0), 1, rtol=1e-3)
    positions = math.prod(shape[1:])
    deviations = channels_of(x).double().numpy().std(axis=1)
    np.testing.assert_allclose(log_det.detach(), -positions * np.log(deviations).sum(), rtol=1e-4)


def test_statistics_are_per_channel_and_not_per_pixel():
    norm = ActNorm(2)
    # Each channel is one gradient from left to right: its pixels differ, and must stay different.
    x = torch.linspace(-3, 3, 8).expand(16, 2, 4, 8) + 0.1 * torch.randn(16, 2, 4, 8)
    z, _ = norm(x)
    assert norm.shift.shape == norm.log_scale.shape == (2,)
    left, right = z[..., 0].mean(), z[..., -1].mean()
    assert left < -1 and right > 1
    torch.testing.assert_close(
        jacobian(norm, x[0]).diagonal().reshape(2, 32).std(dim=1), torch.zeros(2)
    )


def test_actnorms_log_det_counts_every_position_as_autograd_does():
    norm = perturbed(ActNorm(3), scale=0.7).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(norm(x)[1], autograd_log_det(norm, x))
    torch.testing.assert_close(norm(x)[1], (20 * norm.log_scale.sum()).expand(2))


@pytest.mark.parametrize("value", [0.0, 0.3, -1e6])
def test_a_constant_channel_gives_no_nan_and_keeps_its_scale(value):
    x = torch.randn(16, 2, 4, 4)
    x[:, 1] = value
    norm = ActNorm(2)
    z, log_det = norm(x)
    assert z.isfinite().all() and log_det.isfinite().all()
    assert norm.log_scale[1] == 0 and norm.log_scale[0] != 0
    assert z[:, 1].abs().max() <= 1e-6 * max(1, abs(value))
    (z.square().sum() + log_det.sum()).backward()
    assert all(p.grad.isfinite().all() for p in norm.parameters())
    # A pixel of that channel that differs later is not blown up.
    other = x.clone()
    other[0, 1] += 1
    torch.testing.assert_close(norm(other)[0][0, 1], torch.ones(4, 4), rtol=0.1, atol=1e-3)


def test_the_first_batch_initializes_once_and_only_in_training():
    norm = ActNorm(2)
    norm.eval()(7 * torch.randn(8, 2))
    assert not norm.initialized and torch.equal(norm.shift, torch.zeros(2))
    norm.train()(7 * torch.randn(8, 2))
    assert norm.initialized
    before = copy.deepcopy(norm.state_dict())
    norm(100 + torch.randn(8, 2))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_a_saved_and_loaded_layer_is_not_initialized_again():
    norm = ActNorm(2)
    norm(3 + torch.randn(64, 2))
    state = load(save(norm.state_dict()))
    other = ActNorm(2).train()
    other.load_state_dict(state)
    x = 100 + 50 * torch.randn(64, 2)
    torch.testing.assert_close(other(x)[0], norm(x)[0])
    assert torch.equal(other.shift, norm.shift)
    # And what was not initialized when it was saved still is not.
    other.load_state_dict(ActNorm(2).state_dict())
    assert other(x)[0].abs().max() < 6


def test_examples_do_not_see_each_other_even_in_training():
    norm = ActNorm(3)
    norm(torch.randn(32, 3))
    x = torch.randn(5, 3)
    torch.testing.assert_close(norm(x)[0][:1], norm(x[:1])[0])
    torch.testing.assert_close(norm.inverse(norm(x)[0])[0], x)


def test_many_actnorms_in_a_row_still_invert():
    """40 of them, each initialized on data of another scale, undo each other in float32."""
    layers = [ActNorm(4) for _ in range(40)]
    for k, layer in enumerate(layers):
        layer(2.0 ** (k % 7 - 3) * (0.5 + torch.randn(32, 4, 2, 2)))
    stack = Compose(*layers)
    x = torch.randn(8, 4, 2, 2)
    z, log_det = stack(x)
    back, inverse_log_det = stack.inverse(z)
    torch.testing.assert_close(back, x, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(inverse_log_det, -log_det)


# The invertible 1x1 convolution


@pytest.mark.parametrize("form", ["plu", "direct"])
def test_the_convolution_starts_as_a_rotation(form):
    layer = InvertibleConv(7, form)
    identity = layer.weight @ layer.weight.T
    torch.testing.assert_close(identity, torch.eye(7), rtol=0, atol=1e-5)
    assert abs(layer(torch.randn(2, 7, 3, 3))[1]).max() < 1e-5


def test_plu_is_the_direct_form_at_the_start():
    torch.manual_seed(3)
    plu = InvertibleConv(6, "plu")
    torch.manual_seed(3)
    direct = InvertibleConv(6, "direct")
    x = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(plu.weight, direct.weight)
    torch.testing.assert_close(plu(x)[0], direct(x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["plu", "direct"])
@pytest.mark.parametrize("shape", [(4,), (4, 3, 5), (4, 1, 1)])
def test_the_log_det_has_a_term_for_each_position(form, shape):
    layer = perturbed(InvertibleConv(4, form), scale=0.4).double()
    x = torch.randn(3, *shape, dtype=torch.float64)
    z, log_det = layer(x)
    torch.testing.assert_close(log_det, autograd_log_det(layer, x))
    positions = math.prod(shape[1:])
    expected = positions * np.linalg.slogdet(layer.weight.detach().numpy())[1]
    np.testing.assert_allclose(log_det.detach(), expected, rtol=1e-10)
    truth = autograd_log_det(Inverse(layer), z.detach())
    torch.testing.assert_close(layer.inverse(z)[1], truth)
    # Each position is W times what was there.
    pixel = (slice(None), slice(None), *[0] * (len(shape) - 1))
    torch.testing.assert_close(z[pixel], x[pixel] @ layer.weight.T)


def test_plu_is_built_from_its_factors():
    layer = perturbed(InvertibleConv(5), scale=1.0)
    lower = layer.lower.tril(-1) + torch.eye(5)
    upper = layer.upper.triu(1) + (layer.sign * layer.log_scale.exp()).diag()
    torch.testing.assert_close(layer.weight, layer.permutation @ lower @ upper)
    assert torch.equal(layer.permutation.sum(dim=0), torch.ones(5))
    torch.testing.assert_close(layer.log_abs_det, torch.linalg.slogdet(layer.weight)[1])


@pytest.mark.parametrize("channels", [12, 48, 96])
def test_the_inverse_is_accurate_in_float32(channels):
    layer = perturbed(InvertibleConv(channels), scale=0.5 / math.sqrt(channels))
    x = torch.randn(4, channels, 4, 4)
    error = (layer.inverse(layer(x)[0])[0] - x).abs().max()
    # The inverse of a matrix loses as many digits as its condition number has, and no more.
    condition = torch.linalg.cond(layer.weight.double()).item()
    assert error < 10 * torch.finfo(torch.float32).eps * condition
    assert layer.inverse(x)[0].dtype == torch.float32


def test_directly_learned_matrices_can_become_singular_and_plu_cannot():
    direct, plu = InvertibleConv(2, "direct"), InvertibleConv(2, "plu")
    with torch.no_grad():
        direct.matrix.copy_(torch.ones(2, 2))
        for parameter in plu.parameters():
            parameter.fill_(-5.0)
    assert direct(torch.randn(1, 2))[1] == -math.inf
    assert plu(torch.randn(1, 2))[1].isfinite()


def test_a_convolution_can_be_any_permutation_and_a_permutation_has_no_parameters():
    order = torch.tensor([2, 0, 3, 1])
    shuffle, conv = Permutation(order), InvertibleConv(4, "direct")
    with torch.no_grad():
        conv.matrix.copy_(torch.eye(4)[order])
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(shuffle(x)[0], conv(x)[0])
    assert torch.equal(shuffle.inverse(shuffle(x)[0])[0], x)
    assert not list(shuffle.parameters())


@pytest.mark.parametrize(("make", "name"), [(InvertibleConv, "plu"), (GlowCoupling, "affine")])
def test_unknown_forms_are_named(make, name):
    with pytest.raises(ValueError, match=f"{name}.*'lu'"):
        make({InvertibleConv: 4, GlowCoupling: nn.Identity()}[make], "lu")


# Coupling


def network(inputs: int, outputs: int) -> nn.Module:
    net = GlowNet(inputs, 8, outputs)
    return perturbed(net, scale=0.3).double()


def test_the_codes_coupling_shifts_first_and_shrinks():
    layer = GlowCoupling(network(2, 4), "affine")
    x = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    z, log_det = layer(x)
    t, h = layer.net(x[:, :2]).chunk(2, dim=1)
    scale = torch.sigmoid(h + 2)
    assert torch.equal(z[:, :2], x[:, :2])
    torch.testing.assert_close(z[:, 2:], (x[:, 2:] + t) * scale)
    torch.testing.assert_close(log_det, scale.log().sum(dim=(1, 2, 3)))
    torch.testing.assert_close(log_det, autograd_log_det(layer, x))
    assert (log_det < 0).all()


def test_the_papers_coupling_scales_first():
    layer = GlowCoupling(network(2, 4), "exp")
    x = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    z, log_det = layer(x)
    t, log_s = layer.net(x[:, :2]).chunk(2, dim=1)
    torch.testing.assert_close(z[:, 2:], x[:, 2:] * log_s.exp() + t)
    torch.testing.assert_close(log_det, log_s.sum(dim=(1, 2, 3)))
    torch.testing.assert_close(log_det, autograd_log_det(layer, x))


def test_the_additive_coupling_keeps_the_volume():
    layer = GlowCoupling(network(2, 2), "additive")
    x = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    z, log_det = layer(x)
    torch.testing.assert_close(z[:, 2:], x[:, 2:] + layer.net(x[:, :2]))
    assert torch.equal(log_det, torch.zeros_like(log_det))
    np.testing.assert_allclose(autograd_log_det(layer, x).detach(), 0, atol=1e-12)


def test_an_additive_model_changes_the_volume_in_actnorm_and_convolutions_only():
    model = build((1, 4, 4), None, coupling="additive", learned_prior=False, **SMALL).double()
    bijector = perturbed(model, scale=0.3)
    _, log_det = bijector(torch.randn(5, 1, 4, 4, dtype=torch.float64))
    torch.testing.assert_close(log_det, log_det[:1].expand(5))
    assert log_det.abs().min() > 0.1


@pytest.mark.parametrize("kind", ["affine", "exp", "additive"])
def test_every_coupling_starts_near_the_identity(kind):
    layer = GlowCoupling(GlowNet(2, 8, 2 if kind == "additive" else 4), kind)
    x = torch.randn(4, 4, 6, 6)
    z, log_det = layer(x)
    factor = torch.sigmoid(torch.tensor(2.0)) if kind == "affine" else torch.tensor(1.0)
    torch.testing.assert_close(z[:, 2:], factor * x[:, 2:])
    torch.testing.assert_close(log_det, (72 * factor.log()).expand(4))


def test_the_zero_convolution_is_zero_and_its_scale_learns_three_times_as_fast():
    conv = ZeroConv2d(3, 2)
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(conv(x), torch.zeros(2, 2, 5, 5))
    with torch.no_grad():
        conv.bias.copy_(torch.tensor([1.0, 2.0]))
        conv.log_scale.copy_(torch.tensor([0.0, math.log(2)]))
    torch.testing.assert_close(conv(x)[0, :, 0, 0], torch.tensor([1.0, 16.0]))


# Priors


def test_the_prior_of_the_half_that_leaves_is_torchs_normal():
    prior = SplitPrior(perturbed(ZeroConv2d(2, 4), scale=0.2).double())
    x = torch.randn(3, 4, 4, 4, dtype=torch.float64)
    z, log_det = prior(x)
    mean, log_scale = prior.net(x[:, :2]).chunk(2, dim=1)
    theirs = Normal(mean, log_scale.exp()).log_prob(x[:, 2:]).sum(dim=(1, 2, 3))
    ours = Normal(0, 1).log_prob(z[:, 2:]).sum(dim=(1, 2, 3)) + log_det
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(z[:, :2], x[:, :2])


def test_the_prior_of_a_class_is_torchs_normal():
    prior = perturbed(TopPrior(2, classes=3), scale=0.5).double()
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    labels = torch.tensor([0, 2, 2, 1])
    z, log_det = prior(x, labels)
    mean, log_scale = prior.table[labels][:, :, None, None].chunk(2, dim=1)
    theirs = Normal(mean, log_scale.exp()).log_prob(x).sum(dim=(1, 2, 3))
    torch.testing.assert_close(Normal(0, 1).log_prob(z).sum(dim=(1, 2, 3)) + log_det, theirs)
    torch.testing.assert_close(prior.inverse(z, labels)[0], x)
    for wrong in (None, labels[:2]):
        with pytest.raises(ValueError, match=r"3 classes expects context=labels"):
            prior(x, wrong)


def test_a_class_conditional_model_says_so_trains_and_samples_by_class():
    model = build((1, 4, 4), 5, classes=2, **SMALL)
    assert model.class_conditional and not build((1, 4, 4), 5, **SMALL).class_conditional
    labels = torch.randint(2, (64,))
    images = (4 * labels[:, None, None, None]).expand(64, 1, 4, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        loss = -model(images, labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    wanted = torch.tensor([0, 1] * 20)
    drawn = model.sample(40, context=wanted, temperature=0.5).double().mean(dim=(1, 2, 3))
    assert drawn[0::2].mean() < 1 and drawn[1::2].mean() > 3
    right, wrong = (model.bits_per_dim(images, context=c).mean() for c in (labels, 1 - labels))
    assert 16 * (wrong - right) > 10  # bits that the label is worth, of the 16 pixels


def test_temperature_scales_the_noise_of_every_scale():
    """At temperature 0 a sample is the image of the origin, whatever the priors have learned."""
    model = build((1, 8, 8), None, **SMALL)
    perturbed(model, scale=0.05)
    cold = model.sample(3, temperature=0.0)
    torch.testing.assert_close(cold, model.bijector.inverse(torch.zeros(3, 1, 8, 8))[0])
    torch.manual_seed(1)
    warm = model.sample(500, temperature=0.7)
    z, _ = model.bijector(warm)
    # All latents, those that left early too, are noise of that temperature.
    np.testing.assert_allclose(z.detach().std(dim=0), 0.7, atol=0.12)


@pytest.mark.parametrize(("coupling", "is_a_power"), [("additive", True), ("affine", False)])
def test_temperature_sharpens_the_density_where_the_volume_is_constant(coupling, is_a_power):
    """Then the samples' density is proportional to the model's to the power of 1/T^2."""
    flow = build((2,), None, steps=3, hidden=8, coupling=coupling).double()
    perturbed(flow, scale=0.5)
    x = torch.randn(50, 2, dtype=torch.float64)
    with torch.no_grad():
        z, log_det = flow.bijector(x)
        drawn = Normal(0 * z, 0.7).log_prob(z).sum(dim=1) + log_det
        constant = drawn - flow.log_prob(x) / 0.7**2
    assert (constant.std() < 1e-9) == is_a_power


# The model


def test_a_model_in_the_plane_has_mass_1():
    flow = build((2,), None, steps=3, hidden=8).double()
    perturbed(flow, scale=0.5)
    axis = torch.linspace(-12, 12, 1501, dtype=torch.float64)
    with torch.no_grad():
        mass = (
            flow.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * (axis[1] - axis[0]) ** 2
        )
    assert abs(mass - 1) < 1e-3


def test_the_bound_of_a_discrete_model_tends_to_the_mass_of_its_cells():
    model = build((2,), 3, steps=2, hidden=8).double()
    perturbed(model, scale=0.4)
    points = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    images = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    with torch.no_grad():
        cells = [
            model.flow.log_prob(image + torch.cartesian_prod(points, points)).exp().mean().log()
            for image in images
        ]
        log_weights = model(images.repeat(20_000, 1)).reshape(20_000, 9)
    np.testing.assert_allclose(importance_weighted_bound(log_weights), cells, atol=0.03)


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_the_latents_of_all_scales_together_are_as_many_as_the_pixels(scales):
    model = build((1, 8, 8), None, scales=scales, steps=1, hidden=4).double()
    bijector = perturbed(model, scale=0.3)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    z, log_det = bijector(x)
    assert z.shape == x.shape
    assert sum(isinstance(m, FactorOut) for m in bijector.modules()) == scales - 1
    torch.testing.assert_close(log_det, autograd_log_det(bijector, x))
    torch.testing.assert_close(bijector.inverse(z)[0], x)


def test_the_first_pass_in_training_initializes_every_actnorm():
    model = build((1, 8, 8), 17, **SMALL).train()
    norms = [m for m in model.modules() if isinstance(m, ActNorm)]
    assert len(norms) == 2 * 2 * 3 and not any(norm.initialized for norm in norms)
    model(torch.randint(17, (64, 1, 8, 8)))
    assert all(norm.initialized for norm in norms)


def test_a_deep_model_inverts_in_float32_after_its_initialization():
    """More than 30 actnorms of the flow one after the other, with what lies between them."""
    model = build((1, 8, 8), 17, scales=2, steps=16, hidden=8)
    images = torch.randint(17, (64, 1, 8, 8))
    model(images)
    perturbed(model, scale=0.02)
    x = images + torch.rand(64, 1, 8, 8)
    z, _ = model.flow.bijector(x)
    assert (model.flow.bijector.inverse(z)[0] - x).abs().max() < 1e-3


def by_hand(channels: int, scales: int, steps: int, width: int) -> tuple[int, int]:
    """Parameters of the steps and of the priors, counted layer by layer."""
    in_steps = in_priors = 0
    for scale in range(scales):
        c = channels * 4 * 2**scale
        half = c // 2
        norm, conv = 2 * c, c * c
        first = 9 * half * width + 2 * width
        second = width * width + 2 * width
        last = 9 * width * c + 2 * c
        in_steps += steps * (norm + conv + first + second + last)
        in_priors += 2 * c if scale == scales - 1 else 9 * half * c + 2 * c
    return in_steps, in_priors


@pytest.mark.parametrize(
    ("name", "shape", "millions"),
    [
        ("paper-cifar10", (3, 32, 32), 44.05),
        ("paper-imagenet32", (3, 32, 32), 66.07),
        ("paper-imagenet64", (3, 64, 64), 111.1),
    ],
)
def test_the_papers_models_have_the_papers_sizes(name, shape, millions):
    """The program's prior of the last scale has an unused convolution of 82,944 weights more.

    With it, the model for CIFAR-10 has about 44.1 million. The paper on neural spline flows prints
    44.0 and 110.9 million for CIFAR-10 and ImageNet 64x64.
    """
    preset = catalog.topic("glow").preset(name)
    with torch.device("meta"):
        model = build(shape, 256, **preset.model)
    count = sum(p.numel() for p in model.parameters())
    options = preset.model
    in_steps, in_priors = by_hand(3, options["scales"], options["steps"], options["hidden"])
    assert count == in_steps + in_priors
    assert in_steps / 1e6 == pytest.approx(millions, abs=0.05)
    assert round(in_steps / 1e6, 2) == 44.05 or name != "paper-cifar10"
    assert model(torch.zeros(2, *shape, device="meta")).shape == (2,)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["paper-cifar10", "paper-imagenet32", "paper-imagenet64"])
def test_the_papers_presets_take_a_training_step_at_toy_size(name, precision):
    options = catalog.topic("glow").preset(name).model
    model = build((3, 16, 16), 256, **{**options, "steps": 1, "hidden": 8}).train()
    images = torch.randint(256, (8, 3, 16, 16))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        with torch.autocast("cpu", dtype=precision, enabled=precision == torch.bfloat16):
            loss = -model(images).mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] != losses[1] and all(map(math.isfinite, losses))


def test_under_bf16_the_flow_keeps_its_precision_and_only_networks_lose_theirs():
    model = build((1, 8, 8), None, **SMALL)
    bijector = perturbed(model, scale=0.1)
    x = torch.randn(4, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = bijector(x)
        back, _ = bijector.inverse(z)
        conv = InvertibleConv(4, "plu").double()
        assert conv(x.double().expand(4, 4, 8, 8))[0].dtype == torch.float64
    assert z.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("permutation", ["conv", "direct", "shuffle", "reverse"])
@pytest.mark.parametrize("coupling", ["affine", "exp", "additive"])
def test_every_variant_trains(permutation, coupling):
    model = build((1, 4, 4), 17, permutation=permutation, coupling=coupling, **SMALL)
    images = torch.randint(4, (64, 1, 4, 4))
    before = model(images).mean()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(15):
        optimizer.zero_grad()
        (-model(images).mean()).backward()
        optimizer.step()
    assert model(images).mean() > before + 1


def test_without_learned_priors_only_the_steps_have_parameters():
    plain = build((3, 8, 8), 256, learned_prior=False, permutation="direct", **SMALL)
    assert sum(p.numel() for p in plain.parameters()) == by_hand(3, 2, 2, 8)[0]
    assert isinstance(plain, DequantizedFlow) and isinstance(build((2,), None, steps=1), Flow)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_build_asks_for_images_or_vectors(shape):
    with pytest.raises(ValueError, match="images .* or vectors"):
        build(shape, None)


def test_images_that_do_not_halve_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="even height and width"):
        build((1, 6, 6), None, **SMALL).log_prob(torch.zeros(1, 1, 6, 6))


def test_the_base_stays_one_standard_normal():
    assert isinstance(build((1, 4, 4), None, **SMALL).base, StandardNormal)
