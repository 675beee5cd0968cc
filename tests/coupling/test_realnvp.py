"""RealNVP against autograd, torch, scipy and integrals; the contract is tested for all topics."""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import jacrev

from flowcourse import catalog
from flowcourse.bijector import Bijector, Compose
from flowcourse.catalog import perturbed
from flowcourse.checks import realnvp as checks
from flowcourse.coupling.realnvp import (
    AffineCoupling,
    BatchNorm,
    FactorOut,
    Squeeze,
    alternating,
    build,
    channelwise,
    checkerboard,
    preprocess,
)
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.likelihood import importance_weighted_bound
from flowcourse.testing import autograd_log_det

pytestmark = pytest.mark.usefixtures("torch_seed")


def network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, outputs)).double()


def convolution(channels: int) -> nn.Module:
    return nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1).double()


def vector_coupling(dims: int, parity: int, **options) -> AffineCoupling:
    return AffineCoupling(network(dims, 2 * dims), alternating(parity), dims, **options).double()


def jacobian(bijector: nn.Module, x: torch.Tensor) -> torch.Tensor:
    dims = x.numel()
    return jacrev(lambda v: bijector(v[None])[0][0].flatten())(x).reshape(dims, dims)


# Masks


@pytest.mark.parametrize("mask", [checkerboard, channelwise])
@pytest.mark.parametrize("shape", [(1, 2, 4, 6), (1, 4, 2, 2)])
def test_the_masks_of_both_parities_partition_an_image_into_equal_halves(mask, shape):
    x = torch.zeros(shape)
    even, odd = (mask(parity)(x).expand(shape) for parity in (0, 1))
    assert torch.equal(even + odd, torch.ones(shape))
    assert torch.equal(even * odd, torch.zeros(shape))
    assert even.sum() == odd.sum()


def test_a_checkerboard_differs_from_its_four_neighbours_and_starts_with_its_parity():
    board = checkerboard(0)(torch.zeros(1, 1, 5, 6))[0]
    assert board[0, 0] == 1
    assert (board[1:] != board[:-1]).all() and (board[:, 1:] != board[:, :-1]).all()


def test_a_channel_mask_passes_the_first_half_for_parity_0():
    assert channelwise(0)(torch.zeros(1, 4, 2, 2)).flatten().tolist() == [1, 1, 0, 0]
    assert channelwise(1)(torch.zeros(1, 4, 2, 2)).flatten().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("dims", [2, 5])
def test_vector_masks_alternate(dims):
    masks = [alternating(parity)(torch.zeros(1, dims)) for parity in (0, 1)]
    assert torch.equal(masks[0] + masks[1], torch.ones(dims))
    assert torch.equal(masks[0][::2], torch.ones((dims + 1) // 2))


# One coupling


def test_a_coupling_is_the_textbook_formula():
    layer, x = vector_coupling(5, parity=0), torch.randn(4, 5, dtype=torch.float64)
    layer.scale_bound.data.uniform_(0.5, 2.0)
    z, log_det = layer(x)
    raw, t = layer.net(x * torch.tensor([1.0, 0, 1, 0, 1], dtype=torch.float64)).chunk(2, dim=1)
    s = layer.scale_bound * torch.tanh(raw)
    assert torch.equal(z[:, ::2], x[:, ::2])
    torch.testing.assert_close(z[:, 1::2], x[:, 1::2] * s[:, 1::2].exp() + t[:, 1::2])
    torch.testing.assert_close(log_det, s[:, 1] + s[:, 3])


@pytest.mark.parametrize("mask", [checkerboard, channelwise])
def test_scale_and_shift_of_an_image_do_not_see_what_changes(mask):
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    layer = AffineCoupling(convolution(2), mask(0), 2).double()
    passes = mask(0)(x).expand_as(x).flatten().bool()
    matrix = jacobian(layer, x[0])
    changing = matrix[~passes][:, ~passes]
    assert torch.equal(matrix[passes][:, ~passes], torch.zeros_like(changing))
    assert torch.equal(matrix[passes][:, passes], torch.eye(len(changing), dtype=x.dtype))
    assert torch.equal(changing, changing.diag().diag())
    assert (matrix[~passes][:, passes] != 0).any()
    torch.testing.assert_close(changing.diag().log().sum(), layer(x)[1][0])


def test_both_conventions_give_one_density_after_reparameterising_the_shift():
    scale_first = vector_coupling(4, parity=1)
    shift_first = vector_coupling(4, parity=1, shift_first=True)

    class Reparameterised(nn.Module):
        """t exp(s) in the place of t, so that x exp(s) + t exp(s) = (x + t) exp(s)."""

        def forward(self, x):
            raw, t = shift_first.net(x).chunk(2, dim=1)
            return torch.cat([raw, t * torch.tanh(raw).exp()], dim=1)

    scale_first.net = Reparameterised()
    x = torch.randn(50, 4, dtype=torch.float64)
    densities = [Flow(layer, StandardNormal(4)).log_prob(x) for layer in (scale_first, shift_first)]
    torch.testing.assert_close(densities[0], densities[1])
    assert not torch.allclose(shift_first(x)[0], vector_coupling(4, parity=1)(x)[0])


@pytest.mark.parametrize("raw", [-1e4, 1e4])
def test_the_bounded_scale_and_its_gradients_stay_finite(raw):
    layer = AffineCoupling(nn.Linear(2, 4), alternating(0), channels=2)
    layer.net.bias.data.fill_(raw)
    layer.scale_bound.data = torch.tensor([1.0, 0.7])
    z, log_det = layer(torch.randn(8, 2))
    torch.testing.assert_close(log_det, torch.full((8,), math.copysign(0.7, raw)))
    (z.square().sum() + log_det.sum()).backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    assert layer.scale_bound.grad[1] != 0


# Alternation


def reached(parities: tuple[int, ...]) -> torch.Tensor:
    stack = Compose(*(vector_coupling(6, parity) for parity in parities))
    return jacobian(stack, torch.randn(6, dtype=torch.float64)) != 0


def test_without_alternation_half_of_the_coordinates_never_change():
    x = torch.randn(5, 6, dtype=torch.float64)
    z, _ = Compose(*(vector_coupling(6, parity=0) for _ in range(5)))(x)
    assert torch.equal(z[:, ::2], x[:, ::2])
    assert torch.equal(reached((0,) * 5), reached((0,)))


def test_three_alternating_couplings_reach_everything_and_two_do_not():
    assert not reached((0, 1)).all()
    assert reached((0, 1, 0)).all()
    # Two leave each coordinate that changed first blind to its own half.
    assert torch.equal(reached((0, 1))[1::2, 1::2], torch.eye(3).bool())


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_the_whole_model_changes_every_pixel_and_mixes_neighbours(scales):
    model = build((1, 8, 8), None, scales=scales, hidden=4, blocks=1, batch_norm=False).double()
    bijector = perturbed(model, scale=0.3)
    x = torch.randn(1, 8, 8, dtype=torch.float64)
    assert (bijector(x[None])[0][0] != x).all()
    matrix = jacobian(bijector, x)
    # Each pixel's latent depends on the pixels to its right and below, in the same example.
    index = torch.arange(64).reshape(8, 8)
    assert (matrix[index[:, :-1].flatten(), index[:, 1:].flatten()] != 0).all()
    assert (matrix[index[:-1].flatten(), index[1:].flatten()] != 0).all()


# Squeeze and scales


@pytest.mark.parametrize("shape", [(2, 1, 4, 6), (1, 3, 2, 2)])
def test_squeeze_is_torchs_pixel_unshuffle(shape):
    x = torch.randn(shape)
    z, log_det = Squeeze()(x)
    assert torch.equal(z, F.pixel_unshuffle(x, 2))
    assert torch.equal(Squeeze().inverse(z)[0], F.pixel_shuffle(z, 2))
    assert torch.equal(log_det, torch.zeros(shape[0]))


def test_squeeze_asks_for_even_sides():
    with pytest.raises(ValueError, match="even height and width and got 3x4"):
        Squeeze()(torch.zeros(1, 1, 3, 4))


class Doubled(Bijector):
    def forward(self, x, context=None):
        return 2 * x, x.new_full((len(x),), math.log(2) * x[0].numel())

    def inverse(self, z, context=None):
        return z / 2, z.new_full((len(z),), -math.log(2) * z[0].numel())


def test_what_is_factored_out_is_not_touched():
    x = torch.randn(2, 4, 3, 3)
    z, log_det = FactorOut(Doubled())(x)
    assert torch.equal(z, torch.cat([2 * x[:, :2], x[:, 2:]], dim=1))
    torch.testing.assert_close(log_det, torch.full((2,), 18 * math.log(2)))


def test_the_latents_of_one_scale_keep_their_place():
    """Half of the latents leave at scale 1 and do not depend on the networks of scale 2."""
    model = build((1, 8, 8), None, hidden=4, blocks=1, batch_norm=False)
    bijector = perturbed(model, scale=0.3)
    factor_out = next(m for m in bijector.modules() if isinstance(m, FactorOut))
    x = torch.randn(1, 1, 8, 8)
    before, _ = bijector(x)
    with torch.no_grad():
        for parameter in factor_out.inner.parameters():
            parameter.add_(torch.randn_like(parameter))
    changed = (bijector(x)[0] != before)[0, 0]
    # Channels 0 and 1 of the squeezed image, which go on, are its even rows.
    assert changed[::2].all() and not changed[1::2].any()


# Batch normalization


def normalizer(channels: int, **options) -> BatchNorm:
    return BatchNorm(channels, **options).double()


@pytest.mark.parametrize("shape", [(3,), (3, 2, 4)])
def test_batch_norm_in_eval_mode_is_a_fixed_map_with_its_autograd_determinant(shape):
    norm = normalizer(3, epsilon=0.3)
    for _ in range(5):
        norm(1 + 2 * torch.randn(32, *shape, dtype=torch.float64))
    norm.eval()
    mean = norm.mean.clone()
    x = torch.randn(4, *shape, dtype=torch.float64)
    z, log_det = norm(x)
    torch.testing.assert_close(log_det, autograd_log_det(norm, x))
    positions = math.prod(shape[1:])
    expected = -0.5 * positions * sum(math.log(v + 0.3) for v in norm.variance.tolist())
    torch.testing.assert_close(log_det, torch.full((4,), expected, dtype=torch.float64))
    torch.testing.assert_close(norm.inverse(z)[0], x)
    assert torch.equal(norm.mean, mean)


def test_batch_norm_in_training_normalizes_as_torch_does():
    x = 1 + 3 * torch.randn(16, 3, 4, 4, dtype=torch.float64)
    norm, theirs = normalizer(3), nn.BatchNorm2d(3, affine=False).double()
    z, log_det = norm(x)
    torch.testing.assert_close(z, theirs(x))
    variance = x.transpose(0, 1).flatten(1).var(dim=1, correction=0)
    expected = -0.5 * 16 * (variance + norm.epsilon).log().sum()
    torch.testing.assert_close(log_det, expected.expand(16))
    torch.testing.assert_close(norm.mean, theirs.running_mean)


def test_running_averages_converge_to_the_statistics_of_the_data():
    norm = normalizer(2)
    width, centre = torch.tensor([[0.5], [3.0]]), torch.tensor([[-2.0], [4.0]])
    for _ in range(400):
        norm((centre + width * torch.randn(2, 512)).T.double())
    np.testing.assert_allclose(norm.mean, centre[:, 0], atol=0.1)
    np.testing.assert_allclose(norm.variance, width[:, 0] ** 2, rtol=0.05)


def test_the_training_value_is_not_a_density_of_one_example():
    flow = Flow(normalizer(2), StandardNormal(2)).double()
    x = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    company = torch.randn(30, 2, dtype=torch.float64)
    values = [flow.log_prob(torch.cat([x, c]))[0] for c in (company, 3 * company)]
    assert abs(values[0] - values[1]) > 0.5
    # Alone, each point is mapped to 0, and all of the plane has one value.
    assert torch.equal(flow.log_prob(x), flow.log_prob(1e3 * x))
    flow.eval()
    torch.testing.assert_close(flow.log_prob(torch.cat([x, company]))[:1], flow.log_prob(x))


def test_the_map_of_a_whole_batch_is_singular():
    norm, batch = normalizer(1), torch.randn(6, 1, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(lambda x: norm(x)[0], batch).reshape(6, 6)
    values = torch.linalg.svdvals(matrix)
    assert values[-1] < 1e-12 and values[-2] < 1e-3 < 0.1 < values[-3]


def test_batch_norm_does_not_invert_in_training():
    with pytest.raises(RuntimeError, match=r"call \.eval\(\)"):
        BatchNorm(2).train().inverse(torch.zeros(1, 2))


# Preprocessing


@pytest.mark.parametrize(("form", "width"), [("code", 0.9), ("paper", 0.95)])
def test_preprocessing_is_scipys_logit_of_a_line(form, width):
    x = 256 * torch.rand(5, 2, 3, dtype=torch.float64)
    # A tensor, so that alpha is not rounded to single precision.
    bijector = preprocess(256, form, alpha=torch.tensor(0.05, dtype=torch.float64))
    y, log_det = bijector(x)
    p = 0.05 + width * x.numpy() / 256
    np.testing.assert_allclose(y, scipy.special.logit(p), rtol=1e-10)
    expected = np.log(width / 256 / (p * (1 - p))).sum(axis=(1, 2))
    np.testing.assert_allclose(log_det, expected, rtol=1e-10)
    torch.testing.assert_close(log_det, autograd_log_det(bijector, x))
    torch.testing.assert_close(bijector.inverse(y)[0], x)


def test_the_printed_form_reaches_infinity_and_the_codes_does_not():
    white = torch.tensor([[256.0]])
    assert preprocess(256, "paper")(white)[0].isinf()
    y, log_det = preprocess(256, "code")(white)
    torch.testing.assert_close(y, torch.logit(torch.tensor([[0.95]])), rtol=1e-4, atol=0)
    assert log_det.isfinite()


# The model


def masses(model, points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each of the 3 x 3 cells and of everything, by the midpoint rule in the plane."""
    flow = model.flow
    # The line before the logit reaches beyond the levels: from -1/6 to 3 1/6.
    axis = -1 / 6 + (torch.arange(points, dtype=torch.float64) + 0.5) * (10 / 3) / points
    x = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        p = flow.log_prob(x).exp() * ((10 / 3) / points) ** 2
    cell = x.floor().long()
    inside = ((cell >= 0) & (cell < 3)).all(dim=1)
    cells = torch.zeros(9, dtype=torch.float64)
    cells.index_add_(0, (3 * cell[:, 0] + cell[:, 1])[inside], p[inside])
    return cells, p.sum()


def test_a_discrete_model_has_total_mass_one_and_its_bound_tends_to_the_cells():
    """Two pixels of three levels: small enough to integrate, cell by cell."""
    model = build((2,), 3, couplings=3, hidden=8, blocks=1, batch_norm=False).double()
    perturbed(model, scale=0.4)
    cells, total = masses(model, points=1200)
    assert abs(total - 1) < 2e-3
    assert 0.3 < cells.sum() < total  # what lies beyond the levels is lost to the data
    images = torch.tensor(list(itertools.product(range(3), repeat=2)))
    with torch.no_grad():
        log_weights = model(images.repeat(20_000, 1)).reshape(20_000, 9)
    np.testing.assert_allclose(importance_weighted_bound(log_weights), cells.log(), atol=0.05)
    assert (log_weights.mean(dim=0) < cells.log() + 0.02).all()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_papers_preset_takes_a_training_step_at_toy_size(precision):
    options = catalog.topic("realnvp").preset("paper").model
    model = build((3, 8, 8), 256, **{**options, "hidden": 4, "blocks": 1}).train()
    images = torch.randint(256, (8, 3, 8, 8))
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


def test_the_papers_preset_builds_on_meta_with_the_papers_couplings():
    preset = catalog.topic("realnvp").preset("paper")
    with torch.device("meta"):
        model = build((3, 32, 32), 256, **preset.model)
    couplings = [m for m in model.modules() if isinstance(m, AffineCoupling)]
    assert len(couplings) == 3 + 3 + 4
    assert sum(isinstance(m, Squeeze) for m in model.modules()) == 2  # the second one undoes it
    assert all(len(c.net.blocks) == 8 and c.net.head.out_channels == 64 for c in couplings)


def test_networks_grow_from_scale_to_scale_as_the_paper_says():
    model = build((3, 16, 16), 256, scales=3, hidden=8, blocks=1)
    widths = [m.net.head.out_channels for m in model.modules() if isinstance(m, AffineCoupling)]
    assert widths == [8] * 3 + [16] * 3 + [16] * 3 + [32] * 3 + [32] * 4


@pytest.mark.parametrize("shape", [(), (2, 3), (1, 2, 3, 4)])
def test_build_asks_for_images_or_vectors(shape):
    with pytest.raises(ValueError, match="images .* or vectors"):
        build(shape, None)


# The claims of the chapter and of the problem set


def test_no_constant_determinant_beats_the_chapters_floor():
    """1 + ln E[V] for the points of the last exercise, against the limit and the truth."""
    centres, widths = torch.tensor([[-1.5, 0.0], [1.2, 0.0]]), torch.tensor([0.08, 0.8])

    def log_p(x):
        squares = ((x[:, None] - centres) ** 2).sum(dim=2) / widths**2
        return (-squares / 2 - (4 * math.pi * widths**2).log()).logsumexp(dim=1)

    axis = torch.linspace(-4.5, 4.5, 500, dtype=torch.float64)
    cell = (axis[1] - axis[0]) ** 2
    p = log_p(torch.cartesian_prod(axis, axis)).exp().sort(descending=True).values
    areas = cell * torch.arange(len(p))
    floor = 1 + math.log((p * cell * areas).sum())
    assert abs((p * cell).sum() - 1) < 1e-3
    assert floor == pytest.approx(1.77, abs=0.02)  # the statement's figure
    entropy = -(p * p.log() * cell).nansum().item()
    assert entropy == pytest.approx(0.78, abs=0.005)  # and so is this one
    rng = np.random.default_rng(0)
    x = torch.from_numpy(checks.dot_and_cloud(rng, 100_000, angle=0.0)).double()
    assert -log_p(x).mean() == pytest.approx(entropy, abs=0.05)
    assert entropy + 0.4 < checks.LIMIT < floor - 0.4
