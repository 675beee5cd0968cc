"""NICE against autograd, scipy, arithmetic and integrals; the contract is tested for all topics."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn
from torch.func import jacrev

from flowcourse import data
from flowcourse.bijector import Compose
from flowcourse.catalog import perturbed, topic
from flowcourse.checks import nice as checks
from flowcourse.coupling.nice import AdditiveCoupling, DiagonalScale, build, merge, split
from flowcourse.flow import Flow, StandardLogistic, StandardNormal
from flowcourse.testing import autograd_log_det
from flowcourse.training import TrainingConfig, evaluate, train

pytestmark = pytest.mark.usefixtures("torch_seed")


def network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 12), nn.Tanh(), nn.Linear(12, outputs)).double()


def coupling(dims: int, parity: int) -> AdditiveCoupling:
    halves = (dims + 1) // 2, dims // 2
    return AdditiveCoupling(network(halves[parity], halves[1 - parity]), parity)


def jacobian(bijector: nn.Module, x: torch.Tensor) -> torch.Tensor:
    dims = x.numel()
    return jacrev(lambda v: bijector(v[None])[0][0].flatten())(x).reshape(dims, dims)


# One coupling


@pytest.mark.parametrize("dims", [2, 5, 8])
@pytest.mark.parametrize("parity", [0, 1])
def test_a_coupling_preserves_volume(dims, parity):
    layer, x = coupling(dims, parity), 3 * torch.randn(4, dims, dtype=torch.float64)
    assert torch.equal(layer(x)[1], torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(autograd_log_det(layer, x), layer(x)[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("parity", [0, 1])
def test_a_coupling_is_the_textbook_formula(parity):
    layer, x = coupling(5, parity), torch.randn(3, 5, dtype=torch.float64)
    z, _ = layer(x)
    even, odd = [0, 2, 4], [1, 3]
    passed, changed = (even, odd) if parity == 0 else (odd, even)
    assert torch.equal(z[:, passed], x[:, passed])
    assert torch.equal(z[:, changed], x[:, changed] + layer.net(x[:, passed]))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, h):
        return self.function(h)


@pytest.mark.parametrize("function", [torch.sign, torch.square, torch.ones_like, torch.floor])
def test_the_network_needs_no_inverse_and_no_smoothness(function):
    layer = AdditiveCoupling(Function(function), parity=1)
    x = torch.randn(9, 6, dtype=torch.float64)
    torch.testing.assert_close(layer.inverse(layer(x)[0])[0], x, atol=1e-14, rtol=0)


@pytest.mark.parametrize("shape", [(2,), (7,), (1, 2, 3), (3, 3, 3)])
@pytest.mark.parametrize("parity", [0, 1])
def test_split_takes_every_second_coordinate_and_merge_puts_them_back(shape, parity):
    dims = math.prod(shape)
    x = torch.arange(2 * dims).reshape(2, *shape)
    passed, changed = split(x, parity)
    assert passed[0].tolist() == list(range(parity, dims, 2))
    assert changed[0].tolist() == list(range(1 - parity, dims, 2))
    assert torch.equal(merge(passed, changed, parity, x.shape), x)


# Alternation


def stack(dims: int, parities: list[int]) -> Compose:
    return Compose(*(coupling(dims, parity) for parity in parities))


@pytest.mark.parametrize(
    ("parities", "zeros"),
    [
        # Four even and three odd coordinates. A coupling that passes p of them and changes c leaves
        # p (p - 1) + p c zeros in the identity rows, and c (c - 1) in the others.
        ([0], 4 * 3 + 4 * 3 + 3 * 2),
        ([0, 0, 0], 4 * 3 + 4 * 3 + 3 * 2),
        ([0, 1], 3 * 2),
        ([1, 0], 4 * 3),
        ([0, 1, 0], 0),
        ([0, 1, 0, 1], 0),
    ],
)
def test_three_alternating_couplings_fill_the_jacobian(parities, zeros):
    pattern = jacobian(stack(7, parities), torch.randn(7, dtype=torch.float64))
    assert int((pattern == 0).sum()) == zeros


def test_without_alternation_half_of_the_coordinates_never_change():
    x = torch.randn(5, 6, dtype=torch.float64)
    z, _ = stack(6, [1, 1, 1, 1])(x)
    assert torch.equal(z[:, 1::2], x[:, 1::2])
    assert not torch.isclose(z[:, 0::2], x[:, 0::2]).any()


def test_build_alternates_and_ends_with_the_scale():
    layers = list(build((6,), None, couplings=5, hidden=4, depth=1).bijector.bijectors)
    assert [layer.parity for layer in layers[:-1]] == [0, 1, 0, 1, 0]
    assert isinstance(layers[-1], DiagonalScale)


# The whole model


def test_only_the_scale_changes_the_volume():
    flow = build((5,), None, hidden=6, depth=2).double()
    bijector = perturbed(flow, scale=0.5)
    log_scale = bijector[-1].log_scale
    x = torch.randn(4, 5, dtype=torch.float64)
    expected = log_scale.sum().expand(4)
    torch.testing.assert_close(autograd_log_det(bijector, x), expected, atol=1e-10, rtol=0)
    assert abs(log_scale.sum().item()) > 0.1


@pytest.mark.parametrize(
    ("prior", "frozen"), [("logistic", scipy.stats.logistic), ("normal", scipy.stats.norm)]
)
def test_the_likelihood_of_images_is_prior_plus_jacobian(prior, frozen):
    model = build((1, 3, 3), 17, hidden=6, depth=2, prior=prior).double()
    bijector = perturbed(model, scale=0.3)
    x = 17 * torch.rand(4, 1, 3, 3, dtype=torch.float64)
    latents = bijector(x)[0].detach().reshape(4, 9).numpy()
    expected = frozen.logpdf(latents).sum(axis=1) + autograd_log_det(bijector, x).detach().numpy()
    np.testing.assert_allclose(model.flow.log_prob(x).detach().numpy(), expected, atol=1e-10)


def test_a_tiny_discrete_model_is_a_distribution():
    """Two pixels of three levels: P(x) by quadrature, each bound below it, their sum below 1."""
    model = build((2,), 3, hidden=8, depth=1, couplings=4).double()
    perturbed(model, scale=0.3)
    with torch.no_grad():
        n = 100
        nodes = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        noise = torch.cartesian_prod(nodes, nodes)
        levels = torch.arange(3, dtype=torch.float64)
        cells = torch.cartesian_prod(levels, levels)
        log_p = torch.stack([model.flow.log_prob(cell + noise) for cell in cells])
        exact = log_p.exp().mean(dim=1)

        # Everything outside [0, 3)^2 is mass that no image can have; x = 1.5 + sinh(t) reaches it.
        t = torch.linspace(-7, 7, 561, dtype=torch.float64)
        plane = torch.cartesian_prod(t, t)
        log_mass = model.flow.log_prob(1.5 + plane.sinh()) + plane.cosh().log().sum(dim=1)
        total = log_mass.exp().sum().item() * (t[1] - t[0]).item() ** 2
        one_draw = torch.stack([model(cells) for _ in range(2000)])
    assert total == pytest.approx(1, abs=1e-3)
    assert 0.05 < exact.sum().item() < 1
    # The mean of one-draw bounds estimates E_u log p(x + u), which Jensen puts below log P(x).
    error = 4 * one_draw.std(dim=0) / math.sqrt(2000)
    torch.testing.assert_close(one_draw.mean(dim=0), log_p.mean(dim=1), atol=error.max(), rtol=0)
    assert (log_p.mean(dim=1) < exact.log()).all()


def test_samples_and_latents_agree():
    flow = build((6,), None, hidden=8, depth=2)
    perturbed(flow, scale=0.3)
    torch.manual_seed(1)
    x = flow.sample(4000)
    torch.manual_seed(1)
    z = flow.base.sample((4000,))
    torch.testing.assert_close(flow.bijector(x)[0], z, atol=1e-4, rtol=1e-4)
    for i in range(6):
        assert scipy.stats.kstest(z[:, i].numpy(), "logistic").pvalue > 1e-6


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_samples_of_the_discrete_model_are_levels(temperature):
    model = build((1, 4, 4), 17, hidden=8, depth=1)
    perturbed(model, scale=0.3)
    x = model.sample(50, temperature=temperature)
    assert x.shape == (50, 1, 4, 4) and x.dtype == torch.int64
    assert 0 <= x.min() and x.max() <= 16
    assert model(x).isfinite().all()


@pytest.mark.parametrize("event_shape", [(1,), (1, 1, 1)])
def test_one_coordinate_has_no_halves(event_shape):
    with pytest.raises(ValueError, match="2 or more, got 1"):
        build(event_shape, None)


# The prior


def test_the_logistic_prior_is_scipys_and_stays_right_in_the_tails():
    z = torch.tensor([-5e3, -800.0, -40.0, -1.5, 0.0, 0.3, 37.0, 900.0, 1e4], dtype=torch.float64)
    found = torch.stack([StandardLogistic(1).log_prob(v.reshape(1, 1))[0] for v in z])
    np.testing.assert_allclose(found.numpy(), scipy.stats.logistic.logpdf(z.numpy()), rtol=1e-12)


def test_the_gradient_of_the_logistic_prior_is_bounded():
    z = torch.tensor([[-1e4, -2.0, 0.0, 2.0, 1e4]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(StandardLogistic(5).log_prob(z).sum(), z)
    torch.testing.assert_close(gradient, -torch.tanh(z / 2).detach())


def test_logistic_samples_have_scipys_distribution():
    z = StandardLogistic(1).sample((20_000,))
    assert scipy.stats.kstest(z.flatten().numpy(), "logistic").pvalue > 1e-6


# The paper's configuration


def test_the_paper_model_has_the_parameters_that_arithmetic_gives():
    preset = topic("nice").preset("paper")
    with torch.device("meta"):
        model = build((1, 28, 28), 256, **preset.model)
    half, width = 28 * 28 // 2, 1000
    network = (half + 1) * width + 4 * (width + 1) * width + (width + 1) * half
    assert sum(p.numel() for p in model.parameters()) == 4 * network + 784 == 19_158_352
    assert topic("nice").paper_parameters == 19_158_352
    log_p = model(torch.empty(3, 1, 28, 28, device="meta"))
    assert log_p.shape == (3,) and log_p.is_meta


def test_the_paper_preset_trains_at_toy_size(tmp_path):
    preset = topic("nice").preset("paper")
    digits = data.load("digits")
    model = build(digits.event_shape, digits.levels, **preset.model | {"hidden": 16})
    before = evaluate(model, digits.test[:100], repeats=2, draws=1)
    config = TrainingConfig(**preset.training | {"steps": 60, "batch_size": 100, "validation": 0})
    train(model, digits, config, tmp_path / "run", verbose=False)
    after = evaluate(model, digits.test[:100], repeats=2, draws=1)
    assert after.bits_per_dim < before.bits_per_dim - 0.03


# The problem set


def test_the_limit_of_the_experiment_excludes_every_volume_preserving_flow():
    # Such a flow's density is nowhere above the largest value of its prior's.
    for base in (StandardNormal(2), StandardLogistic(2)):
        assert checks.LIMIT < -base.log_prob(torch.zeros(1, 2)).item()
    assert checks.TOY.entropy_nats + 0.5 < checks.LIMIT


def test_couplings_alone_cannot_raise_the_highest_density():
    flow = Flow(stack(2, [0, 1, 0, 1]), StandardNormal(2))
    densities = flow.log_prob(3 * torch.randn(5000, 2, dtype=torch.float64))
    assert densities.max().item() <= -math.log(2 * math.pi)
