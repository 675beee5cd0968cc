"""MADE against autograd, enumeration, integrals and closed forms; see also the property sets."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch.func import jacrev
from torch.utils.flop_counter import FlopCounterMode

from flowcourse import data
from flowcourse.autoregressive.made import (
    MADE,
    GaussianMADE,
    MaskedLinear,
    MaskedMLP,
    MixtureOfOrders,
    build,
    hidden_degrees,
    mask,
)
from flowcourse.catalog import perturbed, topic
from flowcourse.flow import Flow, StandardNormal
from flowcourse.testing import PropertyFailure, check_autoregressive, dependencies
from flowcourse.training import TrainingConfig, evaluate, train

pytestmark = pytest.mark.usefixtures("torch_seed")

ORDER = [2, 0, 4, 1, 3]


def every_state(dims: int, levels: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(levels), repeat=dims)))


def legal(order: list[int]) -> torch.Tensor:
    place = torch.tensor(order).argsort()
    return place[:, None] > place[None, :]


def paths(net: MaskedMLP, which: int = 0) -> torch.Tensor:
    """How many paths lead from each input to each output: the product of the masks."""
    *layers, across = (m.long() for m in net.masks(which))
    product = layers[0]
    for layer in layers[1:]:
        product = layer @ product
    return product + (across if net.direct is not None else 0)


# Degrees and masks


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("degrees", ["even", "random"])
@pytest.mark.parametrize("direct", [False, True])
def test_paths_exist_exactly_where_autograd_sees_a_dependency(depth, degrees, direct):
    options = dict(degrees=degrees, direct=direct, seed=depth)
    net = MaskedMLP([ORDER], 1, 1, [7] * depth, **options).double()
    # Weights of one sign, and inputs that keep every ReLU open: no path cancels another.
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(parameter.abs() + 0.1)
    x = torch.rand(5, dtype=torch.float64)
    jacobian = jacrev(lambda v: net(v[None, :, None])[0, :, 0])(x)
    assert torch.equal(jacobian != 0, paths(net) > 0)
    assert not (jacobian != 0)[~legal(ORDER)].any()


def test_the_paths_of_the_chapters_example():
    # Three dimensions, hidden degrees 1, 2, 1, 2: each output collects what lies below it.
    net = MaskedMLP([[0, 1, 2]], 1, 1, [4])
    assert [d.tolist() for d in net.degrees()] == [[1, 2, 3], [1, 2, 1, 2]]
    into_hidden, into_outputs, across = net.masks()
    assert into_hidden.long().tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0]]
    assert into_outputs.long().tolist() == [[0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]]
    assert across.long().tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert paths(net).tolist() == [[0, 0, 0], [2, 0, 0], [4, 2, 0]]


@pytest.mark.parametrize("features", [1, 3])
def test_features_of_a_dimension_share_its_degree(features):
    net = MaskedMLP([ORDER], features, 2, [8, 8], direct=True)
    # Sums over blocks of features: all of a block or nothing.
    masks = [m.long() for m in net.masks()]
    first = masks[0].unflatten(1, (5, features)).sum(dim=2)
    assert set(first.unique().tolist()) == {0, features}
    across = masks[-1].unflatten(0, (5, 2)).unflatten(2, (5, features)).sum(dim=(1, 3))
    assert torch.equal(across, 2 * features * legal(ORDER).long())


@pytest.mark.parametrize(("dims", "copies"), [(5, 3), (9, 2)])
def test_half_of_the_weights_are_masked(dims, copies):
    width = copies * (dims - 1)
    net = MaskedMLP([list(range(dims))], 1, 1, [width, width], direct=True)
    first, between, last, across = (int(m.sum()) for m in net.masks())
    assert first == last == width * dims // 2
    assert between == width**2 * dims // (2 * (dims - 1))
    assert across == dims * (dims - 1) // 2


@pytest.mark.parametrize("width", [1, 3, 6, 20])
def test_even_degrees_are_spread_evenly(width):
    degrees = hidden_degrees(7, width, "even", np.random.RandomState(0))
    count = np.bincount(degrees, minlength=7)[1:]
    assert degrees.min() >= 1 and degrees.max() <= 6
    assert count.max() - count.min() <= 1 if width >= 6 else count.max() == 1


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("depth", [1, 2])
def test_random_degrees_lose_a_dependency_exactly_when_a_layer_misses_a_degree(seed, depth):
    net = MaskedMLP([[0, 1, 2, 3]], 1, 1, [6] * depth, degrees="random", seed=seed)
    complete = all(set(layer.tolist()) == {1, 2, 3} for layer in net.degrees()[1:])
    missing = legal([0, 1, 2, 3]) & (paths(net) == 0)
    assert complete == (not missing.any())
    # With one layer, a pair is lost when no degree lies between its places.
    if depth == 1:
        found = set(net.degrees()[1].tolist())
        for later, earlier in itertools.product(range(1, 5), repeat=2):
            between = found & set(range(earlier, later))
            assert bool(missing[later - 1, earlier - 1]) == (earlier < later and not between)


def test_direct_links_restore_what_random_degrees_lose():
    lossy = MADE((4,), 3, hidden=[2], degrees="random").eval()
    mended = MADE((4,), 3, hidden=[2], degrees="random", direct=True).eval()
    with pytest.raises(PropertyFailure, match="FAIL  looks_at_everything_before"):
        check_autoregressive(lossy)
    # What is lost is flexibility: the model remains a distribution.
    assert lossy.log_prob(every_state(4, 3)).logsumexp(0).item() == pytest.approx(0, abs=1e-5)
    assert torch.equal(dependencies(mended), legal([0, 1, 2, 3]))


def test_no_random_unit_is_without_an_input():
    net = MaskedMLP([list(range(9))], 1, 1, [5, 5, 5], degrees="random", seed=3)
    for layer in net.masks()[:-2]:
        assert layer.any(dim=1).all()


def test_masked_linear_is_a_dense_layer_with_zeros():
    layer = MaskedLinear(4, 3).double()
    keep = mask(torch.tensor([1, 2, 3]), torch.tensor([2, 1, 3, 4]), strict=False)
    h = torch.randn(6, 4, dtype=torch.float64)
    zeroed = torch.where(keep, layer.weight, 0.0)
    torch.testing.assert_close(layer(h, keep), h @ zeroed.T + layer.bias)
    layer(h, keep).sum().backward()
    assert (layer.weight.grad[~keep] == 0).all() and (layer.weight.grad[keep] != 0).all()


def test_the_degrees_are_saved_with_the_weights():
    orders = [ORDER, ORDER[::-1]]
    one, two = (MaskedMLP(orders, 1, 1, [6], degrees="random", seed=s) for s in (0, 1))
    assert any(not torch.equal(*pair) for pair in zip(one.masks(1), two.masks(1), strict=True))
    two.load_state_dict(one.state_dict())
    assert all(torch.equal(*pair) for pair in zip(one.masks(1), two.masks(1), strict=True))


@pytest.mark.parametrize("orders", [[], [[]], [[0, 0, 1]], [[0, 1], [0, 1, 2]]])
def test_orders_must_be_permutations_of_the_same_dimensions(orders):
    with pytest.raises(ValueError, match="each naming the dimensions"):
        MaskedMLP(orders, 1, 1, [4])


def test_unknown_options_are_explained():
    with pytest.raises(ValueError, match="'even' or 'random', not 'odd'"):
        MaskedMLP([[0, 1]], 1, 1, [4], degrees="odd")
    with pytest.raises(ValueError, match="'scaled' or 'one_hot', not 'binary'"):
        MADE((2,), 2, encoding="binary", hidden=[4])
    with pytest.raises(ValueError, match="'raster' or 'random', not 'spiral'"):
        build((2,), 2, order="spiral", hidden=[4])
    with pytest.raises(ValueError, match="one set of masks or more"):
        build((2,), 2, masks=0, hidden=[4])
    with pytest.raises(ValueError, match="for continuous data one, not 3"):
        build((2,), None, masks=3, hidden=[4])


# Discrete data


def test_the_first_dimension_is_independent_of_everything():
    model = MADE((5,), 3, [ORDER], hidden=[16], direct=True)
    logits = model.conditional_logits(torch.randint(3, (8, 5)))[:, ORDER[0]]
    assert torch.equal(logits, logits[:1].expand_as(logits))


@pytest.mark.parametrize("encoding", ["scaled", "one_hot"])
def test_without_a_hidden_layer_it_is_a_regression_on_what_came_before(encoding):
    model = MADE((5,), 3, [ORDER], encoding, hidden=[]).double()
    x = torch.randint(3, (6, 5))
    code = F.one_hot(x, 3).double() if encoding == "one_hot" else (x.double() - 1)[..., None]
    weight = model.net.last.weight.unflatten(0, (5, 3)).unflatten(2, (5, -1))
    for place, index in enumerate(ORDER):
        before = ORDER[:place]
        expected = torch.einsum("ljk,bjk->bl", weight[index][:, before], code[:, before])
        expected = expected + model.net.last.bias.unflatten(0, (5, 3))[index]
        torch.testing.assert_close(model.conditional_logits(x)[:, index], expected)


def test_logistic_autoregression_reaches_scikit_learns_optimum():
    points = torch.rand(300, 1) + 0.4 * torch.rand(300, 3) > 0.7
    model = MADE((3,), 2, hidden=[]).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = -model(points.long()).mean()
        value.backward()
        return value

    optimizer.step(loss)
    signs, last = 2 * points[:, :2].double().numpy() - 1, points[:, 2].numpy()
    truth = LogisticRegression(C=np.inf, tol=1e-10, max_iter=2000).fit(signs, last)
    ours = model.conditional_logits(points.long())[:, 2].softmax(-1).detach().numpy()
    np.testing.assert_allclose(ours, truth.predict_proba(signs), atol=1e-3)


def test_bits_and_nats_are_the_same_number():
    model = build((1, 8, 8), 2, hidden=[8])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    x = torch.randint(2, (3, 1, 8, 8))
    assert model.log_prob(x).tolist() == pytest.approx([-64 * math.log(2)] * 3, rel=1e-6)
    assert model.bits_per_dim(x).tolist() == pytest.approx([1.0] * 3, rel=1e-6)


def count_multiplications(function) -> int:
    """Multiplications in matrix products, as PyTorch's own counter sees them."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("direct", [False, True])
def test_sampling_takes_d_passes_or_the_multiplications_of_one(direct):
    model = build((12,), 3, hidden=[22, 33], order="random", direct=direct)
    one_pass = count_multiplications(lambda: model.log_prob(torch.zeros(5, 12).long()))
    assert one_pass == 5 * (12 * 22 + 22 * 33 + 33 * 36 + direct * 12 * 36)
    assert count_multiplications(lambda: model.sample(5, cached=False)) == 12 * one_pass
    assert count_multiplications(lambda: model.sample(5, cached=True)) == one_pass


# Several orders


@pytest.fixture
def mixture():
    mixed = build((4,), 3, masks=3, order="random", hidden=[24], seed=2).double().eval()
    return perturbed(mixed, scale=0.5)


def test_each_member_has_the_contract_in_its_own_order(mixture):
    assert len({tuple(member.order) for member in mixture.members}) == 3
    for member in mixture.members:
        assert check_autoregressive(member).passed
        assert torch.equal(dependencies(member), legal(member.order))


def test_a_mixture_of_orders_is_a_distribution_and_samples_from_it(mixture):
    states = every_state(4, 3)
    p = mixture.log_prob(states).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    by_hand = sum(member.log_prob(states).exp() for member in mixture.members) / 3
    torch.testing.assert_close(p, by_hand)
    drawn = (mixture.sample(4000) * torch.tensor([27, 9, 3, 1])).sum(dim=1)
    found = drawn.bincount(minlength=81).numpy()
    expected = 4000 * p.detach().numpy()
    assert scipy.stats.chi2(80).sf(((found - expected) ** 2 / expected).sum()) > 1e-7


def test_what_else_could_be_averaged_is_no_distribution(mixture):
    states = every_state(4, 3)
    logs = torch.stack([member.log_prob(states) for member in mixture.members])
    geometric = logs.mean(dim=0).exp().sum().item()
    assert geometric < 0.999  # the geometric mean lies below the arithmetic one
    logits = torch.stack([member.conditional_logits(states) for member in mixture.members])
    mixed = logits.mean(dim=0).log_softmax(-1).gather(-1, states[..., None]).sum(dim=(1, 2))
    assert mixed.exp().sum().item() != pytest.approx(1, abs=1e-2)


def test_averaging_probabilities_beats_the_average_member(mixture):
    x = torch.randint(3, (50, 4))
    mean = torch.stack([member.log_prob(x) for member in mixture.members]).mean(dim=0)
    assert (mixture.log_prob(x) > mean).all()  # Jensen


def test_training_draws_one_set_of_masks_and_evaluation_uses_all(mixture):
    x = torch.randint(3, (6, 4))
    each = torch.stack([member.log_prob(x) for member in mixture.members])
    mixture.train()
    drawn = torch.stack([mixture(x) for _ in range(60)])
    matches = (drawn[:, None] == each[None]).all(dim=2)
    assert matches.any(dim=0).all() and (matches.sum(dim=1) == 1).all()
    mixture.eval()
    assert torch.equal(mixture(x), mixture.log_prob(x))


def test_members_share_their_weights(mixture):
    before = [member.log_prob(torch.zeros(1, 4).long()).item() for member in mixture.members]
    with torch.no_grad():
        mixture.made.net.last.bias.add_(torch.randn_like(mixture.made.net.last.bias))
    after = [member.log_prob(torch.zeros(1, 4).long()).item() for member in mixture.members]
    assert all(a != b for a, b in zip(before, after, strict=True))
    one = MADE((4,), 3, hidden=[24])
    count = [sum(p.numel() for p in m.parameters()) for m in (one, mixture)]
    assert count[1] - count[0] == 12 * 4  # build's direct link, and nothing for more masks


def test_a_connectivity_agnostic_mixture_keeps_its_order():
    mixed = build((5,), 2, masks=4, degrees="random", hidden=[6])
    assert all(member.order == [0, 1, 2, 3, 4] for member in mixed.members)
    masks = [mixed.made.net.masks(which)[0] for which in range(4)]
    assert any(not torch.equal(masks[0], other) for other in masks[1:])
    total = mixed.log_prob(every_state(5, 2)).logsumexp(0)
    assert total.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("n", [1, 7])
def test_a_mixture_samples_as_many_as_asked_for(n):
    x = build((1, 2, 2), 5, masks=3, hidden=[4]).sample(n)
    assert x.shape == (n, 1, 2, 2) and x.dtype == torch.int64


# Continuous data


def gaussian_made(order: list[int], **options) -> GaussianMADE:
    return perturbed(GaussianMADE((len(order),), order, hidden=[24], **options).double(), 0.3)


def test_the_gaussian_jacobian_is_triangular_in_the_order():
    bijector = gaussian_made(ORDER)
    jacobian = jacrev(lambda v: bijector(v[None])[0][0])(torch.randn(5, dtype=torch.float64))
    assert torch.equal(jacobian != 0, legal(ORDER) | torch.eye(5, dtype=torch.bool))


def test_the_gaussian_density_is_a_product_of_scipys_normals():
    flow = Flow(gaussian_made([1, 2, 0]), StandardNormal(3)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    total = np.zeros(6)
    for place, index in enumerate([1, 2, 0]):
        past = x.clone()
        past[:, [1, 2, 0][place:]] = 99.0  # must not matter
        mean, log_sd = (p[:, index].detach().numpy() for p in flow.bijector.parameters_of(past))
        total += scipy.stats.norm(mean, np.exp(log_sd)).logpdf(x[:, index].numpy())
    np.testing.assert_allclose(flow.log_prob(x).detach().numpy(), total, atol=1e-10)


def test_a_linear_made_is_any_gaussian():
    """Means that are linear and scales that are constant: the Cholesky factor, row by row."""
    a = torch.randn(3, 3, dtype=torch.float64)
    covariance, mean = a @ a.T + torch.eye(3, dtype=torch.float64), torch.randn(3).double()
    lower = torch.linalg.cholesky(covariance)
    bijector = GaussianMADE((3,), hidden=[]).double()
    # z = L^-1 (x - m), so that x_i = sd_i z_i + m_i - sd_i (strictly lower part of L^-1 (x - m))_i.
    inverse, sd = torch.linalg.inv(lower), lower.diagonal()
    weight = -sd[:, None] * inverse.tril(-1)
    with torch.no_grad():
        bijector.net.last.weight.zero_()[0::2] = weight
        bijector.net.last.bias[0::2] = mean - weight @ mean
        bijector.net.last.bias[1::2] = bijector.bound * torch.atanh(sd.log() / bijector.bound)
    x = torch.randn(5, 3, dtype=torch.float64)
    truth = scipy.stats.multivariate_normal(mean.numpy(), covariance.numpy()).logpdf(x.numpy())
    found = Flow(bijector, StandardNormal(3)).double().log_prob(x).detach().numpy()
    np.testing.assert_allclose(found, truth, atol=1e-10)


def test_a_sample_takes_a_pass_for_each_dimension_and_its_latent_comes_back():
    flow = build((7,), None, hidden=[16], order="random").double()
    bijector = perturbed(flow, 0.3)
    calls = []
    bijector.net.last.register_forward_hook(lambda *_: calls.append(1))
    z = torch.randn(4, 7, dtype=torch.float64)
    x, log_det = bijector.inverse(z)
    assert len(calls) == 7
    back, forward_log_det = bijector(x)
    torch.testing.assert_close(back, z, atol=1e-10, rtol=0)
    torch.testing.assert_close(forward_log_det, -log_det, atol=1e-10, rtol=0)


def test_the_log_scale_is_bounded():
    bijector = GaussianMADE((2,), hidden=[])
    with torch.no_grad():
        bijector.net.last.bias.fill_(1e4)
    z, log_det = bijector(torch.ones(1, 2))
    assert z.isfinite().all() and log_det.item() == pytest.approx(-14)


# The whole topic


def test_the_paper_model_has_the_parameters_that_arithmetic_gives():
    with torch.device("meta"):
        model = build((1, 28, 28), 2, **topic("made").preset("paper").model)
    dims, width = 28 * 28, 8000
    expected = (dims + 1) * width + (width + 1) * width + (width + 1) * 2 * dims + 2 * dims**2
    assert sum(p.numel() for p in model.parameters()) == expected == 84_062_880
    assert isinstance(model, MixtureOfOrders) and len(model.members) == 32


@pytest.mark.parametrize("masks", [1, 3])
def test_a_few_steps_of_training_help(masks, tmp_path):
    digits = data.load("binary_digits")
    model = build((1, 8, 8), 2, hidden=[32], masks=masks, order="random")
    before = evaluate(model, digits.test[:100]).bits_per_dim
    config = TrainingConfig(steps=40, batch_size=100, learning_rate=0.01)
    train(model, digits, config, tmp_path / "run", verbose=False)
    after = evaluate(model, digits.test[:100])
    assert after.kind == "exact" and after.bits_per_dim < before - 0.2
