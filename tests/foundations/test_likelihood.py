"""Units, bounds and divergences against exact sums, closed forms and scipy."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch.distributions import Normal, kl_divergence

from flowcourse import Flow, StandardNormal
from flowcourse.bijector import Bijector, Compose
from flowcourse.flow import StandardUniform
from flowcourse.foundations.change_of_variables import Affine
from flowcourse.foundations.likelihood import (
    DequantizedFlow,
    UniformDequantizer,
    bits_per_dim,
    forward_kl,
    importance_weighted_bound,
    reverse_kl,
)

LEVELS, MEAN, SD = 4, 1.7, 0.6


def gaussian(dims: int = 1) -> DequantizedFlow:
    """N(MEAN, SD^2) on [0, 4): narrow enough for the bound to be visibly below the truth."""
    flow = Flow(Affine(shift=-MEAN / SD, scale=1 / SD), StandardNormal(dims))
    return DequantizedFlow(flow, LEVELS).double()


def exact_log_mass(x: np.ndarray) -> np.ndarray:
    """log P(x), the density's integral over [x, x + 1), by differences of scipy's CDF."""
    density = stats.norm(MEAN, SD)
    return np.log(density.cdf(x + 1) - density.cdf(x))


class TestUnits:
    def test_uniform_eight_bit_noise_is_eight_bits(self):
        model = DequantizedFlow(Flow(Affine(0.0, 1 / 256), StandardUniform(3)), 256)
        x = torch.randint(0, 256, (50, 3), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(model.bits_per_dim(x), torch.full((50,), 8.0))

    @given(nats=st.floats(-1e4, 1e4), dims=st.integers(1, 5000))
    def test_conversion_is_a_division(self, nats, dims):
        assert bits_per_dim(nats, dims) == pytest.approx(nats / dims * math.log2(math.e))

    def test_a_dimension_is_needed(self):
        with pytest.raises(ValueError, match="positive number of dimensions and got 0"):
            bits_per_dim(1.0, 0)


class TestBound:
    def test_the_mean_over_noise_is_below_the_exact_mass(self, torch_seed):
        model = gaussian()
        x = torch.arange(LEVELS, dtype=torch.float64).repeat(100_000)[:, None]
        draws = model(x).reshape(-1, LEVELS).numpy()
        error = draws.std(axis=0) / math.sqrt(len(draws))
        assert (draws.mean(axis=0) + 5 * error < exact_log_mass(np.arange(LEVELS))).all()

    def test_the_mean_over_noise_is_jensens_integral(self, torch_seed):
        model = gaussian()
        u = (np.arange(20_000) + 0.5) / 20_000
        for x in range(LEVELS):
            integral = stats.norm(MEAN, SD).logpdf(x + u).mean()
            draws = model(torch.full((20_000, 1), float(x), dtype=torch.float64))
            error = draws.std().item() / math.sqrt(len(draws))
            assert abs(draws.mean().item() - integral) < 5 * error

    def test_importance_weighting_rises_to_the_exact_mass(self, torch_seed):
        model = gaussian()
        x = torch.arange(LEVELS, dtype=torch.float64).repeat(2000)[:, None]
        means = [
            model.log_prob(x, draws).reshape(2000, LEVELS).mean(dim=0) for draws in (1, 4, 16, 256)
        ]
        for looser, tighter in itertools.pairwise(means):
            assert (tighter > looser).all()
        truth = torch.from_numpy(exact_log_mass(np.arange(LEVELS)))
        torch.testing.assert_close(means[-1], truth, rtol=0, atol=0.02)

    def test_importance_weighted_bound_is_a_log_mean(self):
        weights = np.random.default_rng(0).uniform(1, 2, size=(5, 3))
        bound = importance_weighted_bound(torch.from_numpy(np.log(weights) - 5000))
        np.testing.assert_allclose(bound.numpy(), np.log(weights.mean(axis=0)) - 5000, rtol=1e-12)

    def test_the_gap_is_the_divergence_from_the_flat_cell(self):
        """log P(x) - E_u log p(x + u) = KL(U || p(u|x)), both sides by scipy's quadrature."""
        density = stats.norm(MEAN, SD)
        for x in range(LEVELS):
            log_mass = exact_log_mass(np.array(float(x)))
            gap = log_mass - integrate.quad(lambda u, x=x: density.logpdf(x + u), 0, 1)[0]
            within = stats.truncnorm((x - MEAN) / SD, (x + 1 - MEAN) / SD, MEAN, SD)
            divergence = -integrate.quad(lambda u, x=x, w=within: w.logpdf(x + u), 0, 1)[0]
            assert gap == pytest.approx(divergence, abs=1e-9) and gap > 0

    def test_masses_of_all_levels_sum_to_one(self, torch_seed):
        # Mean 20 and standard deviation 2: nothing falls outside 0..40.
        wide = DequantizedFlow(Flow(Affine(-10.0, 0.5), StandardNormal(1)), 40).double()
        x = torch.arange(40, dtype=torch.float64)[:, None]
        mass = wide.log_prob(x, draws=4000).exp().sum().item()
        assert mass == pytest.approx(1, abs=0.02)


class TestDequantizer:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_the_floor_gives_the_data_back(self, dtype, torch_seed):
        x = torch.randint(0, 256, (2000, 50)).to(dtype)
        y, log_q = UniformDequantizer()(x)
        assert torch.equal(y.floor(), x) and y.dtype == dtype
        assert torch.equal(log_q, torch.zeros(2000, dtype=dtype))

    def test_the_noise_is_uniform(self, torch_seed):
        y, _ = UniformDequantizer()(torch.full((5000, 1), 3.0, dtype=torch.float64))
        assert stats.kstest(y[:, 0].numpy() - 3, stats.uniform.cdf).pvalue > 1e-6


class Posterior(torch.nn.Module):
    """The best dequantizer there is: u drawn from the density itself, within the cell of x."""

    def forward(self, x):
        density = Normal(torch.full_like(x, MEAN), SD)
        low, high = density.cdf(x), density.cdf(x + 1)
        y = density.icdf(low + (high - low) * torch.rand_like(x))
        return y, (density.log_prob(y) - (high - low).log()).flatten(1).sum(dim=1)


class Shifted(Bijector):
    """Moves each example by its condition."""

    def forward(self, x, context=None):
        return x - context, x.new_zeros(x.shape[0])

    def inverse(self, z, context=None):
        return z + context, z.new_zeros(z.shape[0])


class TestDequantizedFlow:
    def test_the_posterior_as_dequantizer_makes_the_bound_exact(self, torch_seed):
        """log p(x + u) - log q(u|x) is then log P(x) for every u: a wrong sign would show."""
        model = DequantizedFlow(gaussian(3).flow, LEVELS, Posterior())
        x = torch.randint(LEVELS, (20, 3)).double()
        truth = torch.from_numpy(exact_log_mass(x.numpy()).sum(axis=1))
        torch.testing.assert_close(model(x), truth, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(model.log_prob(x, draws=5), truth, rtol=1e-6, atol=1e-6)

    def test_samples_are_levels(self, torch_seed):
        samples = gaussian(2).sample(2000)
        assert samples.shape == (2000, 2) and samples.dtype == torch.int64
        assert samples.min() >= 0 and samples.max() <= LEVELS - 1

    def test_sampled_frequencies_are_the_masses(self, torch_seed):
        counts = np.bincount(gaussian().sample(20_000)[:, 0].numpy(), minlength=LEVELS)
        density = stats.norm(MEAN, SD)
        inner = [density.cdf(k + 1) - density.cdf(k) for k in (1, 2)]
        masses = [density.cdf(1), *inner, density.sf(3)]  # what falls outside is clipped
        assert stats.chisquare(counts, 20_000 * np.array(masses)).pvalue > 1e-6

    def test_each_example_has_its_own_condition(self, torch_seed):
        """Conditions of whole levels move the masses, and the samples, by as many."""
        plain = gaussian().flow
        flow = Flow(Compose(Shifted(), plain.bijector), plain.base)
        model = DequantizedFlow(flow, 8).double()
        x, shift = torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([[0.0], [1.0], [3.0]])
        truth = torch.from_numpy(exact_log_mass((x - shift).numpy())[:, 0])
        weighted = model.log_prob(x, draws=4000, context=shift)
        torch.testing.assert_close(weighted, truth, rtol=0, atol=0.05)
        bits = model.bits_per_dim(x, draws=4000, context=shift)
        torch.testing.assert_close(bits, -truth / math.log(2), rtol=0, atol=0.08)
        samples = model.sample(4000, context=shift[[0, 2]].repeat_interleave(2000, dim=0))
        means = samples.double().reshape(2, 2000).mean(dim=1)
        assert means[1] - means[0] == pytest.approx(3, abs=0.1)

    def test_samples_that_are_no_numbers_are_announced(self):
        flow = Flow(Affine(shift=0.0, scale=math.nan), StandardNormal(2))
        with pytest.warns(UserWarning, match="3 of 3 samples hold NaN"):
            assert (DequantizedFlow(flow, 8).sample(3) == 0).all()

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64])
    def test_integers_in_any_dtype(self, dtype, torch_seed):
        x = torch.tensor([[0], [3]]).to(dtype)
        assert gaussian().bits_per_dim(x).dtype in (torch.float32, torch.float64)

    @pytest.mark.parametrize(
        ("values", "message"),
        [([[4.0]], "0..3 and got values from 4 to 4"), ([[-1.0]], "from -1"), ([[0.5]], "0.5")],
    )
    def test_other_values_are_refused(self, values, message):
        with pytest.raises(ValueError, match=message):
            gaussian().bits_per_dim(torch.tensor(values))

    def test_one_draw_at_least(self):
        with pytest.raises(ValueError, match="one noise draw or more and got draws=0"):
            gaussian().log_prob(torch.zeros(1, 1), draws=0)

    def test_two_levels_at_least(self):
        with pytest.raises(ValueError, match="two levels and got 1"):
            DequantizedFlow(gaussian().flow, 1)

    def test_it_says_that_it_is_a_bound(self):
        assert gaussian().kind == "bound"


class TestDivergences:
    p, q = Normal(0.0, 1.0), Normal(1.0, 2.0)

    def test_forward(self, torch_seed):
        estimate = forward_kl(self.p.log_prob, self.q.log_prob, self.p.sample((200_000,)))
        assert estimate.item() == pytest.approx(kl_divergence(self.p, self.q).item(), abs=0.01)

    def test_reverse(self, torch_seed):
        estimate = reverse_kl(self.q.log_prob, self.p.log_prob, self.q.sample((200_000,)))
        assert estimate.item() == pytest.approx(kl_divergence(self.q, self.p).item(), abs=0.05)

    def test_a_missing_constant_shifts_the_reverse_estimate_by_its_log(self, torch_seed):
        x = self.q.sample((1000,))
        whole = reverse_kl(self.q.log_prob, self.p.log_prob, x)
        lacking = reverse_kl(self.q.log_prob, lambda v: self.p.log_prob(v) + math.log(5), x)
        assert (whole - lacking).item() == pytest.approx(math.log(5), abs=1e-4)
