"""A flow is a distribution: it scores, samples, and moves between devices and dtypes."""

import pytest
import torch
from scipy import stats

from flowcourse import Compose, Flow, StandardLogistic, StandardNormal
from flowcourse.coupling import realnvp
from flowcourse.flow import StandardUniform
from flowcourse.foundations.change_of_variables import Affine, Exp, Linear, Sigmoid


def lognormal(dims: int = 1) -> Flow:
    """z = log(x) is standard normal; here written as the inverse of exp."""
    from flowcourse import Inverse

    return Flow(Inverse(Exp()), StandardNormal(dims)).double()


def test_log_prob_is_scipys_lognormal():
    x = torch.tensor([[0.1], [1.0], [7.3]], dtype=torch.float64)
    expected = torch.from_numpy(stats.lognorm(s=1).logpdf(x.numpy()[:, 0]))
    torch.testing.assert_close(lognormal().log_prob(x), expected, rtol=1e-12, atol=1e-12)


def test_samples_have_the_density(torch_seed):
    x = lognormal().sample(4000).numpy()[:, 0]
    assert stats.kstest(x, stats.lognorm(s=1).cdf).pvalue > 1e-6


def test_sampling_accepts_a_number_or_a_shape():
    flow = lognormal(3)
    assert flow.sample(5).shape == (5, 3)
    assert flow.sample((2, 4)).shape == (2, 4, 3)
    assert flow.sample().shape == (3,)


def test_rsample_carries_gradients():
    flow = Flow(Linear(2), StandardNormal(2))
    flow.rsample(8).sum().backward()
    assert flow.bijector.weight.grad.abs().sum() > 0
    assert not flow.sample(8).requires_grad


@pytest.mark.parametrize(
    ("base", "reference"),
    [
        (StandardNormal(2), stats.norm()),
        (StandardLogistic(2), stats.logistic()),
        (StandardUniform(2), stats.uniform()),
    ],
    ids=["normal", "logistic", "uniform"],
)
def test_bases_agree_with_scipy(base, reference, torch_seed):
    z = torch.rand(50, 2, dtype=torch.float64)
    expected = torch.from_numpy(reference.logpdf(z.numpy()).sum(axis=1))
    torch.testing.assert_close(base.log_prob(z), expected, rtol=1e-12, atol=1e-12)
    samples = base.double().rsample((4000,)).numpy().ravel()
    assert stats.kstest(samples, reference.cdf).pvalue > 1e-6


def test_logistic_tails_do_not_overflow():
    z = torch.tensor([[-1e4], [1e4]])
    assert StandardLogistic(1).log_prob(z).tolist() == [-1e4, -1e4]


def test_temperature_scales_the_latent(torch_seed):
    flow = Flow(Affine(0.0, 0.5), StandardNormal(1))  # x = 2 z
    cold, hot = flow.sample(4000, temperature=0.5), flow.sample(4000)
    assert cold.std().item() == pytest.approx(1.0, rel=0.1)
    assert hot.std().item() == pytest.approx(2.0, rel=0.1)


def test_temperature_needs_a_centred_base():
    with pytest.raises(ValueError, match="temperature=0.5"):
        Flow(Sigmoid(), StandardUniform(1)).sample(3, temperature=0.5)


def test_wrong_event_shape_is_named():
    with pytest.raises(ValueError, match=r"\(batch, 2\).*\(5, 3\)"):
        Flow(Affine(0.0, 1.0), StandardNormal(2)).log_prob(torch.zeros(5, 3))


def test_context_rows_must_match_samples():
    with pytest.raises(ValueError, match="each of the 4 samples and got 3"):
        lognormal().sample(4, context=torch.zeros(3, 1))


def test_samples_are_scored_by_their_noise(torch_seed):
    x, log_prob = lognormal(2).rsample_and_log_prob(500)
    expected = torch.from_numpy(stats.lognorm(s=1).logpdf(x.numpy()).sum(axis=1))
    torch.testing.assert_close(log_prob, expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="one context row for each of the 3 samples"):
        lognormal().rsample_and_log_prob(3, torch.zeros(4, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    flow = Flow(Compose(Linear(2), Affine(1.0, 2.0)), StandardNormal(2)).to(dtype)
    assert flow.log_prob(torch.zeros(3, 2, dtype=dtype)).dtype == dtype
    assert flow.sample(3).dtype == dtype


def test_samples_are_born_where_the_flow_is():
    flow = realnvp.build((1, 8, 8), 17, hidden=4, blocks=1).to("meta").eval()
    assert flow.sample(3).device.type == "meta"
    assert flow(torch.zeros(3, 1, 8, 8, device="meta")).device.type == "meta"


def test_two_dimensional_flow_integrates_to_one(torch_seed):
    flow = realnvp.build((2,), None, couplings=4, hidden=8, blocks=1, batch_norm=False).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
        density = flow.log_prob(torch.cartesian_prod(axis, axis)).exp()
    assert density.sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=1e-3)
