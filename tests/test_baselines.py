"""The baselines against independent truths: sums over all images, SciPy, scikit-learn."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.linear_model import LogisticRegression

from benchmarks import baselines
from flowcourse import data, plot
from flowcourse.bijector import Compose
from flowcourse.flow import Flow, StandardNormal, StandardUniform
from flowcourse.foundations.change_of_variables import Quantile
from flowcourse.testing import PROPERTIES, check_bijector

LEVELS, WIDTH = 3, 2
SLOW = {"linear softmax"}
FAST = sorted(set(baselines.BASELINES) - SLOW)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def tiny():
    """Images of 2 x 2 pixels and 3 levels, in which neighbours resemble each other."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(LEVELS, (200, 1), generator=generator)
    change = torch.randint(2, (200, WIDTH**2), generator=generator)
    return (first + change.cumsum(dim=1)) % LEVELS


@pytest.fixture(scope="module")
def every_image():
    return torch.cartesian_prod(*[torch.arange(LEVELS)] * WIDTH**2)


EXACT = {
    "uniform": baselines.fit_uniform,
    "pixel histogram": baselines.fit_pixel_histogram,
    "left": lambda x, n: baselines.fit_neighbour(x, n, "left", width=WIDTH, strength=2.0),
    "upper": lambda x, n: baselines.fit_neighbour(x, n, "upper", width=WIDTH, strength=2.0),
    "linear softmax": baselines.fit_linear_softmax,
}


@pytest.mark.parametrize("name", FAST)
def test_the_recorded_number_is_found_again(name, digits):
    (record,) = plot.measured("baselines", variant=name)
    train, test = digits.train.flatten(1), digits.test.flatten(1)
    again = baselines.measure(name, train, test, digits.levels, record["seed"])
    for key in ("kind", "draws", "parameters"):
        assert again[key] == record[key]
    for key in ("bits_per_dim", "standard_error", "bits_per_dim_iw"):
        assert again[key] == pytest.approx(record[key], abs=1e-3)


def test_every_baseline_is_recorded():
    recorded = {record["variant"] for record in plot.measured("baselines", data="digits")}
    assert recorded == set(baselines.BASELINES)


def test_uniform_costs_exactly_the_logarithm_of_the_levels(digits):
    test = digits.test.flatten(1)
    bits = baselines.fit_uniform(test, digits.levels).bits_per_dim(test)
    assert bits.numpy() == pytest.approx(math.log2(17), abs=1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_probabilities_of_all_images_sum_to_one(name, tiny, every_image):
    model = EXACT[name](tiny, LEVELS)
    assert model.kind == "exact"
    assert model.log_prob(every_image).exp().sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_samples_have_the_model_s_probabilities(name, tiny, every_image):
    model = EXACT[name](tiny, LEVELS)
    torch.manual_seed(0)
    drawn = model.sample(20_000)
    code = (drawn * LEVELS ** torch.arange(WIDTH**2 - 1, -1, -1)).sum(dim=1)
    found = torch.bincount(code, minlength=len(every_image)).numpy()
    expected = 20_000 * model.log_prob(every_image).exp().detach().double().numpy()
    statistic = ((found - expected) ** 2 / expected).sum()
    assert scipy.stats.chi2(len(every_image) - 1).sf(statistic) > 1e-6


def test_neighbours_are_used_where_the_image_has_them(tiny):
    def parents(which):
        return baselines.fit_neighbour(torch.zeros(1, 9).long(), 2, which, width=3).parent.tolist()

    assert parents("left") == [-1, 0, 1, 0, 3, 4, 3, 6, 7]
    assert parents("upper") == [-1, 0, 1, 0, 1, 2, 3, 4, 5]


def test_linear_softmax_is_the_optimum_that_scikit_learn_finds(tiny, every_image):
    model = baselines.fit_linear_softmax(tiny, LEVELS, penalty=2.0)
    ours = model.log_conditionals(every_image)[:, -1].exp().detach().numpy()
    features = lambda x: x[:, :-1].numpy() / (LEVELS - 1)  # noqa: E731
    truth = LogisticRegression(C=1 / 2.0, tol=1e-8, max_iter=1000)
    truth.fit(features(tiny), tiny[:, -1].numpy())
    np.testing.assert_allclose(ours, truth.predict_proba(features(every_image)), atol=1e-3)


def test_full_gaussian_is_scipy_s_and_its_bound_has_a_closed_form(digits):
    train, test = digits.train.flatten(1), digits.test.flatten(1)
    flow = baselines.fit_full_gaussian(train, digits.levels).flow
    noisy = train.double().numpy()
    mean, covariance = noisy.mean(0) + 0.5, np.cov(noisy.T, bias=True) + np.eye(64) / 12
    middle = test.double() + 0.5
    truth = scipy.stats.multivariate_normal(mean, covariance).logpdf(middle.numpy())
    np.testing.assert_allclose(flow.log_prob(middle).detach().numpy(), truth, rtol=1e-9)

    # E_u (x + u - m)' S^-1 (x + u - m) = (x + 1/2 - m)' S^-1 (x + 1/2 - m) + tr(S^-1) / 12
    nats = -truth + np.trace(np.linalg.inv(covariance)) / 24
    (record,) = plot.measured("baselines", variant="full Gaussian")
    assert record["bits_per_dim"] == pytest.approx(nats.mean() / (64 * math.log(2)), abs=2e-3)


def test_diagonal_gaussian_is_scipy_s(tiny):
    flow = baselines.fit_diagonal_gaussian(tiny, LEVELS).flow
    y = tiny.double() + 0.25
    sd = np.sqrt(tiny.numpy().var(axis=0) + 1 / 12)
    truth = scipy.stats.norm(tiny.numpy().mean(axis=0) + 0.5, sd).logpdf(y.numpy()).sum(axis=1)
    np.testing.assert_allclose(flow.log_prob(y).numpy(), truth, rtol=1e-5)


def test_copula_with_uniform_base_is_the_pixel_histogram(tiny):
    histogram = baselines.fit_pixel_histogram(tiny, LEVELS)
    copula = baselines.PixelCopula(histogram.table[:, 0].exp())
    noisy = tiny.double() + torch.rand(tiny.shape, dtype=torch.float64)
    density = Flow(copula, StandardUniform(WIDTH**2)).log_prob(noisy)
    torch.testing.assert_close(density, histogram.log_prob(tiny))


def test_copula_flow_passes_the_property_set(tiny):
    model = baselines.fit_copula_flow(tiny, LEVELS)
    inside = tiny[:6] + 0.1 + 0.8 * torch.rand(6, WIDTH**2)
    assert check_bijector(model.flow.bijector, inside).passed
    pixel = baselines.PixelCopula(torch.tensor([[0.2, 0.5, 0.3]]).double())
    normal = Quantile(torch.distributions.Normal, loc=0.0, scale=1.0)
    smooth = [name for name in PROPERTIES if name != "density_integrates_to_one"]
    x = torch.tensor([[0.3], [1.7], [2.9]], dtype=torch.float64)
    assert check_bijector(Compose(pixel, normal), x, properties=smooth).passed
    # Constant on each level, where it jumps: one point of each says what its mass is.
    density = Flow(Compose(pixel, normal), StandardNormal(1)).log_prob(x).exp()
    torch.testing.assert_close(density, torch.tensor([0.2, 0.5, 0.3]).double())


def test_copula_flow_leaves_normal_latents(digits):
    """Maximum likelihood whitens: the training latents have mean 0 and nearly unit variance."""
    train = digits.train.flatten(1)
    torch.manual_seed(1)
    model = baselines.fit_copula_flow(train, digits.levels, shrinkage=0.0)
    noisy = train.double() + torch.rand(train.shape, dtype=torch.float64)
    z, _ = model.flow.bijector(noisy)
    assert z.mean(dim=0).abs().max().item() < 0.1
    assert (z.T.cov() - torch.eye(64)).abs().max().item() < 0.2
