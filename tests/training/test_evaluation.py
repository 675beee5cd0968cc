import math

import pytest
import torch
from scipy import stats

from flowcourse import Compose, Flow, StandardNormal
from flowcourse.foundations.change_of_variables import Affine
from flowcourse.foundations.likelihood import DequantizedFlow
from flowcourse.training import RunError, evaluate


def noisy_model(levels=4, dims=3):
    """A bound that is loose, because the normal density does not fit the steps."""
    flow = Flow(Compose(Affine(shift=-2.0, scale=1.0)), StandardNormal(dims))
    return DequantizedFlow(flow, levels).double()


def test_a_continuous_density_is_measured_in_nats():
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    result = evaluate(Flow(Affine(shift=1.0, scale=2.0), StandardNormal(2)), x, batch_size=77)
    # Density of x when 2x + 1 is standard normal.
    nll = -stats.norm(loc=-0.5, scale=0.5).logpdf(x.double().numpy()).sum(1)
    assert result.nats == pytest.approx(nll.mean(), abs=1e-5)
    assert result.standard_error_nats == pytest.approx(stats.sem(nll), rel=1e-5)
    assert result.kind == "exact" and result.n == 500
    assert result.bits_per_dim is result.bits_per_dim_iw is None


def test_an_exact_model_of_integers_needs_one_pass(histogram, counts):
    model = histogram()
    with torch.no_grad():
        model.logits.copy_(torch.arange(12.0).reshape(3, 4) / 5)
    result = evaluate(model, counts.test)
    logits = torch.arange(12.0, dtype=torch.float64).reshape(3, 4) / 5
    nll = torch.nn.functional.cross_entropy(
        logits.expand(32, 3, 4).reshape(-1, 4), counts.test.long().reshape(-1), reduction="none"
    ).reshape(32, 3)
    bits = nll.sum(1) / (3 * math.log(2))
    assert result.bits_per_dim == pytest.approx(bits.mean().item(), abs=1e-6)
    assert result.standard_error == pytest.approx(stats.sem(bits.numpy()), rel=1e-5)
    assert result.nats == pytest.approx(nll.sum(1).mean().item(), abs=1e-6)
    assert result.kind == "exact" and result.bits_per_dim_iw is None and result.draws == 1


def test_bounds_are_on_the_bad_side_of_the_truth_and_weighting_tightens_them():
    x = torch.randint(0, 4, (200, 3), generator=torch.Generator().manual_seed(0))
    # The exact mass of a level is an integral of the normal density over [x, x + 1) - 2.
    edges = torch.arange(5, dtype=torch.float64) - 2
    mass = torch.from_numpy(stats.norm.cdf(edges[1:]) - stats.norm.cdf(edges[:-1]))
    exact = -mass[x].log2().mean().item()
    result = evaluate(noisy_model(), x, repeats=50, draws=500)
    assert result.kind == "bound"
    assert exact < result.bits_per_dim
    assert result.bits_per_dim_iw == pytest.approx(exact, abs=3e-3)
    # The gap of the plain bound by quadrature: Jensen's, E[-log p(x + u)] against -log E[p(x + u)].
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    gaussian = torch.distributions.Normal(0.0, 1.0)
    plain = -gaussian.log_prob(torch.arange(4.0)[:, None] - 2 + u).mean(1) / math.log(2)
    assert result.bits_per_dim == pytest.approx(plain[x].mean().item(), abs=6e-3)
    assert result.nats == pytest.approx(result.bits_per_dim * 3 * math.log(2))


def test_a_models_own_figures_are_taken_from_all_examples_in_evaluation_mode():
    class Telling(DequantizedFlow):
        def figures(self, x):
            return {"examples": float(len(x)), "training": float(self.training)}

    plain = noisy_model()
    model = Telling(plain.flow, plain.levels).double().train()
    x = torch.randint(0, 4, (20, 3))
    result = evaluate(model, x, repeats=1, draws=1, batch_size=6)
    assert result.figures == {"examples": 20.0, "training": 0.0}
    assert result.asdict()["figures"] == result.figures
    assert evaluate(plain, x, repeats=1, draws=1).figures == {}


def test_the_same_seed_gives_the_same_numbers_whatever_the_caller_drew():
    x = torch.randint(0, 4, (20, 3))
    torch.manual_seed(1)
    first = evaluate(noisy_model(), x, repeats=2, draws=3)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)  # nothing was taken from the caller's generator
    torch.manual_seed(2)
    again = evaluate(noisy_model(), x, repeats=2, draws=3)
    other = evaluate(noisy_model(), x, repeats=2, draws=3, seed=1)
    assert (first.bits_per_dim, first.bits_per_dim_iw) == (
        again.bits_per_dim,
        again.bits_per_dim_iw,
    )
    assert first.bits_per_dim != other.bits_per_dim
    assert first.bits_per_dim_iw != other.bits_per_dim_iw


def test_the_model_is_measured_in_evaluation_mode_and_put_back(histogram, counts):
    model = histogram(dropout=0.9).train()
    with torch.no_grad():
        model.logits.copy_(torch.arange(12.0).reshape(3, 4))
    measured = evaluate(model, counts.test)
    assert model.training
    assert measured.bits_per_dim == evaluate(model.eval(), counts.test).bits_per_dim
    assert not model.training


@pytest.mark.parametrize("wrong", [dict(draws=0), dict(repeats=0)])
def test_impossible_requests_are_refused(histogram, counts, wrong):
    with pytest.raises(RunError, match="1 or more repeats and draws"):
        evaluate(histogram(), counts.test, **wrong)
    with pytest.raises(RunError, match="2 or more examples"):
        evaluate(histogram(), counts.test[:1])
