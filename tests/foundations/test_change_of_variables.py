"""The change of variables against high-precision arithmetic, SciPy's densities and statistics."""

import math
import re

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import distributions

from flowcourse import Compose, Flow, Inverse, StandardLogistic, StandardNormal
from flowcourse.bijector import NoInverseError
from flowcourse.flow import StandardUniform
from flowcourse.foundations import change_of_variables as m
from flowcourse.testing import autograd_log_det, check_bijector

mpmath.mp.dps = 60
F64 = torch.float64
NORMAL = dict(loc=torch.tensor(0.5, dtype=F64), scale=torch.tensor(2.0, dtype=F64))


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64).unsqueeze(1)


# --- Elementwise bijectors: the reference table --------------------------------------------------

# name: bijector, the map, its log-slope (both in 60 digits), and inputs: (from, to, extremes).
LINE = (-30.0, 30.0, (-1e3, -740.0, 0.0, 1e-12, 740.0, 1e3))
POSITIVE = (0.05, 30.0, (1e-9, 1e-3, 1e3, 1e9))
UNIT = (0.01, 0.99, (1e-300, 1e-9, 0.5, 1 - 1e-9, 1 - 2.0**-53))


def _sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


def _log_sigmoid_slope(x):
    return -mpmath.log1p(mpmath.exp(-x)) - mpmath.log1p(mpmath.exp(x))


def _normal_log_density(x):
    return -((x - 0.5) ** 2) / 8 - mpmath.log(2 * mpmath.sqrt(2 * mpmath.pi))


TABLE = {
    "Affine": (m.Affine(0.25, 1.5), lambda x: 1.5 * x + 0.25, lambda x: mpmath.log(1.5), LINE),
    "Affine, decreasing": (
        m.Affine(0.25, -3.0),
        lambda x: -3 * x + 0.25,
        lambda x: mpmath.log(3),
        LINE,
    ),
    "Exp": (m.Exp(), mpmath.exp, lambda x: x, (-30.0, 30.0, (-740.0, -1e-12, 700.0))),
    "Softplus": (
        m.Softplus(),
        lambda x: mpmath.log1p(mpmath.exp(x)),
        lambda x: -mpmath.log1p(mpmath.exp(-x)),
        LINE,
    ),
    "Sigmoid": (m.Sigmoid(), _sigmoid, _log_sigmoid_slope, LINE),
    "Logit": (
        m.Logit(),
        lambda x: mpmath.log(x) - mpmath.log(1 - x),
        lambda x: -mpmath.log(x) - mpmath.log(1 - x),
        UNIT,
    ),
    "Tanh": (m.Tanh(), mpmath.tanh, lambda x: -2 * mpmath.log(mpmath.cosh(x)), LINE),
    "Power": (m.Power(3.0), lambda x: x**3, lambda x: mpmath.log(3) + 2 * mpmath.log(x), POSITIVE),
    "Power, decreasing": (
        m.Power(-0.5),
        lambda x: 1 / mpmath.sqrt(x),
        lambda x: mpmath.log(0.5) - 1.5 * mpmath.log(x),
        POSITIVE,
    ),
    "CDF": (
        m.CDF(distributions.Normal, **NORMAL),
        lambda x: mpmath.ncdf((x - 0.5) / 2),
        _normal_log_density,
        (-10.0, 10.0, (-1e3, 1e3)),
    ),
    "Quantile": (
        m.Quantile(distributions.Normal, **NORMAL),
        lambda x: 0.5 + 2 * mpmath.sqrt(2) * mpmath.erfinv(2 * x - 1),
        lambda x: -_normal_log_density(0.5 + 2 * mpmath.sqrt(2) * mpmath.erfinv(2 * x - 1)),
        (0.01, 0.99, (0.5,)),
    ),
}
CASES = pytest.mark.parametrize("name", TABLE)


def inputs_of(name: str) -> st.SearchStrategy[float]:
    low, high, extremes = TABLE[name][3]
    return st.floats(low, high) | st.sampled_from(extremes)


@CASES
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_value_and_log_slope_in_sixty_digits(name, data):
    bijector, value, log_slope, _ = TABLE[name]
    x = data.draw(inputs_of(name))
    z, log_det = bijector.double()(column(x))
    assert z.item() == pytest.approx(float(value(mpmath.mpf(x))), rel=1e-11, abs=1e-11)
    assert log_det.item() == pytest.approx(float(log_slope(mpmath.mpf(x))), rel=1e-11, abs=1e-11)


@CASES
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_log_slope_in_single_precision(name, data):
    bijector, _, log_slope, _ = TABLE[name]
    x = (
        data.draw(inputs_of(name))
        if name not in ("Logit", "Quantile")
        else data.draw(st.floats(0.01, 0.99))
    )
    single = torch.tensor([[x]], dtype=torch.float32)
    _, log_det = bijector.float()(single)
    assert log_det.dtype == torch.float32
    expected = float(log_slope(mpmath.mpf(single.item())))
    assert log_det.item() == pytest.approx(expected, rel=2e-5, abs=2e-5)


@CASES
@given(data=st.data(), shape=st.lists(st.integers(1, 4), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_any_shape_sums_the_log_slopes_of_an_example(name, data, shape):
    bijector, _, _, (low, high, _) = TABLE[name]
    seed = data.draw(st.integers(0, 2**16))
    unit = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    x = low + (high - low) * unit
    z, log_det = bijector.double()(x)
    assert z.shape == x.shape and log_det.shape == x.shape[:1]
    z_flat, log_det_flat = bijector.double()(x.reshape(-1, 1))
    torch.testing.assert_close(z.flatten(), z_flat.flatten())
    torch.testing.assert_close(log_det, log_det_flat.reshape(len(x), -1).sum(dim=1))


@CASES
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_inverse_returns_and_negates(name, data):
    bijector, _, _, (low, high, _) = TABLE[name]
    # Beyond these points the bounded maps round to the end of their codomain.
    limit = {"Sigmoid": 12.0, "Tanh": 6.0, "CDF": 6.0}.get(name, math.inf)
    x = column(data.draw(st.floats(max(low, -limit), min(high, limit))))
    z, log_det = bijector.double()(x)
    back, inverse_log_det = bijector.inverse(z)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-8, atol=1e-8)


def test_the_documented_table_lists_each_elementwise_bijector():
    rows = re.findall(r"^\| `(\w+)` \|", m.__doc__, flags=re.MULTILINE)
    assert set(rows) == {name.split(",")[0] for name in TABLE}
    assert set(m.__all__) == {*rows, "Elementwise", "Linear", "KnotheRosenblatt"}


# --- Densities that SciPy knows ------------------------------------------------------------------


def power_of_an_exponential(exponent: float) -> Flow:
    to_uniform = m.CDF(distributions.Exponential, rate=1.0)
    return Flow(Compose(m.Power(exponent), to_uniform), StandardUniform(1))


# The flow z = f(x) with its base, and SciPy's name for the density of x.
DENSITIES = {
    "log-normal: exp of a normal": (
        Flow(Inverse(m.Exp()), StandardNormal(1)),
        stats.lognorm(s=1.0),
    ),
    "logit-normal": (Flow(m.Logit(), StandardNormal(1)), stats.johnsonsb(a=0, b=1)),
    "tanh of a normal": (
        Flow(Inverse(m.Tanh()), StandardNormal(1)),
        stats.johnsonsb(a=0, b=0.5, loc=-1, scale=2),
    ),
    "softplus of a logistic is exponential": (
        Flow(Inverse(m.Softplus()), StandardLogistic(1)),
        stats.expon(),
    ),
    "sigmoid of a logistic is uniform": (
        Flow(Inverse(m.Sigmoid()), StandardLogistic(1)),
        stats.uniform(),
    ),
    "affine, decreasing": (Flow(m.Affine(1.0, -2.0), StandardNormal(1)), stats.norm(0.5, 0.5)),
    "negated Gumbel": (
        Flow(
            Compose(m.Affine(0.0, -1.0), m.CDF(distributions.Gumbel, loc=0.0, scale=1.0)),
            StandardUniform(1),
        ),
        stats.gumbel_l(),
    ),
    "power of an exponential is Weibull": (
        power_of_an_exponential(2.0),
        stats.weibull_min(2.0),
    ),
    "negative power of an exponential is inverse Weibull": (
        power_of_an_exponential(-1.5),
        stats.invweibull(1.5),
    ),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_density_is_scipys(name):
    flow, truth = DENSITIES[name]
    x = truth.ppf(np.linspace(0.001, 0.999, 97))
    actual = flow.double().log_prob(torch.from_numpy(x).unsqueeze(1))
    np.testing.assert_allclose(actual.numpy(), truth.logpdf(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", DENSITIES)
def test_samples_have_that_density(name, torch_seed):
    flow, truth = DENSITIES[name]
    x = flow.double().sample(3000).squeeze(1).numpy()
    assert stats.kstest(x, truth.cdf).pvalue > 1e-6


@pytest.mark.parametrize("scale", [2.0, -2.0])
def test_forgetting_the_absolute_value_would_show(scale):
    """A decreasing map has a density, and it is positive."""
    flow = Flow(m.Affine(0.0, scale), StandardNormal(1)).double()
    assert flow.log_prob(column(0.3)).item() == pytest.approx(stats.norm(0, 0.5).logpdf(0.3))


# --- CDF and quantile ----------------------------------------------------------------------------

FAMILIES = {
    "normal": (distributions.Normal, dict(loc=0.5, scale=2.0), stats.norm(0.5, 2.0)),
    "cauchy": (distributions.Cauchy, dict(loc=0.5, scale=2.0), stats.cauchy(0.5, 2.0)),
    "laplace": (distributions.Laplace, dict(loc=0.5, scale=2.0), stats.laplace(0.5, 2.0)),
    "gumbel": (distributions.Gumbel, dict(loc=0.5, scale=2.0), stats.gumbel_r(0.5, 2.0)),
    "exponential": (distributions.Exponential, dict(rate=2.0), stats.expon(scale=0.5)),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_cdf_and_quantile_are_scipys(name):
    family, parameters, truth = FAMILIES[name]
    y = np.linspace(0.01, 0.99, 25)
    x = truth.ppf(y)
    u, log_det = m.CDF(family, **parameters).double()(torch.from_numpy(x).unsqueeze(1))
    np.testing.assert_allclose(u.squeeze(1).numpy(), y, rtol=1e-9)
    np.testing.assert_allclose(log_det.numpy(), truth.logpdf(x), rtol=1e-9, atol=1e-9)
    z, log_det = m.Quantile(family, **parameters).double()(torch.from_numpy(y).unsqueeze(1))
    np.testing.assert_allclose(z.squeeze(1).numpy(), x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(log_det.numpy(), -truth.logpdf(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_probability_integral_transform_both_ways(name, torch_seed):
    family, parameters, truth = FAMILIES[name]
    x = torch.from_numpy(truth.rvs(3000, random_state=0)).unsqueeze(1)
    u, _ = m.CDF(family, **parameters).double()(x)
    assert stats.kstest(u.squeeze(1).numpy(), "uniform").pvalue > 1e-6
    drawn, _ = m.Quantile(family, **parameters).double()(torch.rand(3000, 1, dtype=F64))
    assert stats.kstest(drawn.squeeze(1).numpy(), truth.cdf).pvalue > 1e-6


def test_domains_follow_the_family():
    exponential = m.CDF(distributions.Exponential, rate=1.0)
    assert exponential.domain is distributions.Exponential.support
    quantile = m.Quantile(distributions.Exponential, rate=1.0)
    assert quantile.codomain is exponential.domain and quantile.domain is exponential.codomain


def test_cdf_without_an_icdf_says_what_to_do():
    gamma = m.CDF(distributions.Gamma, concentration=2.0, rate=1.0)
    z, _ = gamma(torch.ones(1, 1))
    assert z.item() == pytest.approx(stats.gamma(2).cdf(1.0), rel=1e-5)
    with pytest.raises(NoInverseError, match="Gamma has a cdf but no icdf.*bisection"):
        gamma.inverse(z)


# --- Parameters and errors -----------------------------------------------------------------------


def test_parameters_keep_their_precision():
    third = torch.tensor(1 / 3, dtype=F64)
    assert m.Affine(third, third).shift.item() == 1 / 3
    assert m.CDF(distributions.Normal, loc=third, scale=1.0).loc.item() == 1 / 3
    assert m.Affine(0.0, 2.0).scale.dtype == torch.get_default_dtype()


def test_parameters_broadcast_over_the_event():
    z, log_det = m.Affine(torch.zeros(3), torch.tensor([1.0, -2.0, 4.0]))(torch.ones(2, 3))
    assert z.tolist() == [[1.0, -2.0, 4.0]] * 2
    torch.testing.assert_close(log_det, torch.full((2,), math.log(8)))


@pytest.mark.parametrize("scale", [0.0, torch.tensor([1.0, 0.0])])
def test_zero_scale_is_refused(scale):
    with pytest.raises(ValueError, match="non-zero scale"):
        m.Affine(0.0, scale)


def test_zero_exponent_is_refused():
    with pytest.raises(ValueError, match="non-zero exponent"):
        m.Power(0.0)


@pytest.mark.parametrize("method", ["transform", "invert", "log_slope"])
def test_an_unfinished_elementwise_bijector_names_what_is_missing(method):
    class Unfinished(m.Elementwise):
        pass

    with pytest.raises(NotImplementedError, match=f"Unfinished must implement {method}"):
        getattr(Unfinished(), method)(torch.zeros(1, 1))


# --- The dense linear map ------------------------------------------------------------------------


@given(dims=st.integers(1, 6), batch=st.integers(1, 5), seed=st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_linear_is_numpys_linear_algebra(dims, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    linear = m.Linear(dims).double()
    with torch.no_grad():
        linear.weight.add_(0.3 * torch.randn(dims, dims, generator=generator, dtype=F64))
        linear.bias.copy_(torch.randn(dims, generator=generator, dtype=F64))
    x = torch.randn(batch, dims, generator=generator, dtype=F64)
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    z, log_det = linear(x)
    np.testing.assert_allclose(z.detach().numpy(), x.numpy() @ weight.T + bias, atol=1e-12)
    expected = math.log(abs(np.linalg.det(weight)))
    np.testing.assert_allclose(log_det.detach().numpy(), np.full(batch, expected), atol=1e-9)
    back, inverse_log_det = linear.inverse(z)
    np.testing.assert_allclose(
        back.detach().numpy(), np.linalg.solve(weight, (z.detach().numpy() - bias).T).T, atol=1e-9
    )
    torch.testing.assert_close(inverse_log_det, -log_det)


def test_linear_starts_volume_preserving():
    log_det = m.Linear(50)(torch.zeros(1, 50))[1]
    assert log_det.item() == pytest.approx(0.0, abs=1e-4)


def test_gradient_of_the_linear_log_det_is_the_inverse_transpose(torch_seed):
    linear = m.Linear(4).double()
    with torch.no_grad():
        linear.weight.copy_(torch.randn(4, 4))
    (gradient,) = torch.autograd.grad(linear(torch.zeros(1, 4, dtype=F64))[1], linear.weight)
    torch.testing.assert_close(gradient, torch.linalg.inv(linear.weight).T)


def test_large_linear_map_does_not_underflow():
    linear = m.Linear(400)
    with torch.no_grad():
        linear.weight.copy_(0.1 * torch.eye(400))
    assert linear(torch.zeros(1, 400))[1].item() == pytest.approx(400 * math.log(0.1), rel=1e-6)


def test_singular_linear_map_refuses_to_invert():
    linear = m.Linear(2)
    with torch.no_grad():
        linear.weight.copy_(torch.ones(2, 2))
    with pytest.raises(RuntimeError, match="singular"):
        linear.inverse(torch.zeros(1, 2))


# --- Composition and expectations ----------------------------------------------------------------


def test_linear_then_exp_is_the_multivariate_log_normal(torch_seed):
    linear = m.Linear(3).double()
    with torch.no_grad():
        linear.weight.add_(0.3 * torch.randn(3, 3))
        linear.bias.copy_(torch.randn(3))
    flow = Flow(Compose(Inverse(m.Exp()), linear), StandardNormal(3)).double()
    x = torch.rand(7, 3, dtype=F64) + 0.1
    weight = linear.weight.detach().numpy()
    inverse = np.linalg.inv(weight)
    mean, covariance = -inverse @ linear.bias.detach().numpy(), inverse @ inverse.T
    log_x = x.log().numpy()
    expected = stats.multivariate_normal(mean, covariance).logpdf(log_x) - log_x.sum(axis=1)
    np.testing.assert_allclose(flow.log_prob(x).detach().numpy(), expected, rtol=1e-9)


def test_minus_and_reciprocal_is_not_the_density():
    """x = 2z at x = 0.6: the slip log p = log p_0 - log|det g'|^-1 gives -0.27079."""
    flow = Flow(Inverse(m.Affine(0.0, 2.0)), StandardNormal(1)).double()
    x = column(0.6)
    assert flow.log_prob(x).item() == pytest.approx(stats.norm(0, 2).logpdf(0.6), abs=1e-9)
    _, log_det = flow.bijector(x)
    slip = flow.base.log_prob(x / 2) - log_det
    assert slip.item() == pytest.approx(-0.27079, abs=1e-5)


@pytest.mark.parametrize(
    ("function", "expected"),
    [(lambda x: x, math.exp(0.5)), (torch.log, 0.0), (lambda x: 1 / x, math.exp(0.5))],
    ids=["x", "log x", "1/x"],
)
def test_expectations_need_base_samples_only(function, expected, torch_seed):
    z = torch.randn(200_000, 1, dtype=F64)
    values = function(m.Exp()(z)[0])
    error = 6 * values.std().item() / math.sqrt(len(z))
    assert values.mean().item() == pytest.approx(expected, abs=error)


def test_entropy_is_the_bases_minus_the_mean_log_det(torch_seed):
    flow = Flow(m.Logit(), StandardLogistic(1)).double()  # uniform on (0, 1): entropy 0
    _, log_det = flow.bijector(flow.sample(50_000))
    base_entropy = float(stats.logistic().entropy())
    standard_error = log_det.std().item() / math.sqrt(len(log_det))
    assert base_entropy - log_det.mean().item() == pytest.approx(0.0, abs=6 * standard_error)


# --- The Knothe-Rosenblatt map -------------------------------------------------------------------


def mixture(components: int, dims: int, seed: int = 0) -> m.KnotheRosenblatt:
    generator = torch.Generator().manual_seed(seed)
    lower = 0.4 * torch.randn(components, dims, dims, generator=generator, dtype=F64)
    scales = 0.4 + torch.rand(components, dims, generator=generator, dtype=F64)
    return m.KnotheRosenblatt(
        weights=0.2 + torch.rand(components, generator=generator, dtype=F64),
        means=1.5 * torch.randn(components, dims, generator=generator, dtype=F64),
        lower=lower.tril(-1) + torch.diag_embed(scales),
    )


def draw(kr: m.KnotheRosenblatt, n: int) -> torch.Tensor:
    k = torch.multinomial(kr.weights, n, replacement=True)
    noise = torch.randn(n, kr.means.shape[1], 1, dtype=F64)
    return kr.means[k] + (kr.lower[k] @ noise).squeeze(-1)


@given(components=st.integers(1, 4), dims=st.integers(1, 4), seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_rosenblatt_log_det_is_scipys_mixture_density(components, dims, seed):
    kr = mixture(components, dims, seed)
    x = torch.randn(5, dims, generator=torch.Generator().manual_seed(seed), dtype=F64)
    weights = (kr.weights / kr.weights.sum()).numpy()
    densities = [
        w * stats.multivariate_normal(mean, lower @ lower.T).pdf(x.numpy()).reshape(-1)
        for w, mean, lower in zip(weights, kr.means.numpy(), kr.lower.numpy(), strict=True)
    ]
    u, log_det = kr(x)
    np.testing.assert_allclose(log_det.numpy(), np.log(np.sum(densities, axis=0)), rtol=1e-9)
    # Far in a tail, a conditional distribution function rounds to 0 or 1.
    assert ((u >= 0) & (u <= 1)).all()
    torch.testing.assert_close(log_det, autograd_log_det(kr, x), rtol=1e-8, atol=1e-8)


def test_rosenblatt_in_one_dimension_is_the_cdf():
    kr = mixture(3, 1)
    x = torch.linspace(-4, 4, 33, dtype=F64)
    weights = (kr.weights / kr.weights.sum()).numpy()
    expected = sum(
        w * stats.norm(mean, scale).cdf(x.numpy())
        for w, mean, scale in zip(
            weights, kr.means[:, 0].numpy(), kr.lower[:, 0, 0].numpy(), strict=True
        )
    )
    np.testing.assert_allclose(kr(x.unsqueeze(1))[0].squeeze(1).numpy(), expected, atol=1e-12)


def test_rosenblatt_sends_the_mixture_to_independent_uniforms(torch_seed):
    kr = mixture(3, 3)
    u = kr(draw(kr, 4000))[0].numpy()
    for d in range(3):
        assert stats.kstest(u[:, d], "uniform").pvalue > 1e-6
    correlations = stats.spearmanr(u).statistic[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 6 / math.sqrt(len(u))
    counts, _ = np.histogramdd(u, bins=4, range=[(0, 1)] * 3)  # dependence of any kind
    assert stats.chisquare(counts.ravel()).pvalue > 1e-6


def test_rosenblatt_inverse_samples_the_mixture(torch_seed):
    kr = mixture(3, 2)
    x = Flow(kr, StandardUniform(2)).double().sample(4000)
    for d in range(2):
        assert stats.ks_2samp(x[:, d].numpy(), draw(kr, 4000)[:, d].numpy()).pvalue > 1e-6


def test_rosenblatt_is_triangular_and_increasing():
    kr = mixture(3, 4)
    jacobian = torch.func.jacrev(lambda x: kr(x[None])[0][0])(kr.means[0])
    assert torch.equal(jacobian.triu(1), torch.zeros_like(jacobian))
    assert (jacobian.diagonal() > 0).all()
    assert jacobian.tril(-1).abs().max() > 1e-3, "the coordinates were not mixed"


def test_rosenblatt_inverts_across_a_gap():
    """In an empty stretch the CDF is flat: x is lost there, and u must come back all the same."""
    far = m.KnotheRosenblatt(
        torch.ones(2, dtype=F64), column(-20.0, 20.0), torch.ones(2, 1, 1, dtype=F64)
    )
    u = column(1e-6, 0.2, 0.499, 0.5, 0.501, 0.999999)
    x, log_det = far.inverse(u)
    assert x.isfinite().all() and log_det.isfinite().all()
    torch.testing.assert_close(far(x)[0], u, rtol=0, atol=1e-12)


def test_rosenblatt_of_one_gaussian_then_quantile_is_whitening(torch_seed):
    kr = mixture(1, 3)
    x = torch.randn(6, 3, dtype=F64)
    z, log_det = Compose(kr, m.Quantile(distributions.Normal, loc=0.0, scale=1.0).double())(x)
    white = torch.linalg.solve(kr.lower[0], (x - kr.means[0]).T).T
    torch.testing.assert_close(z, white, rtol=1e-7, atol=1e-7)
    expected = -torch.linalg.slogdet(kr.lower[0]).logabsdet
    torch.testing.assert_close(log_det, expected.expand(6), rtol=1e-7, atol=1e-7)


def test_rosenblatt_keeps_the_contract_in_three_dimensions():
    kr = mixture(3, 3)
    check_bijector(kr, kr.means + 0.1)
