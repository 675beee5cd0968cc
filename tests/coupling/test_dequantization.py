"""Dequantization against exact probabilities, autograd and quadrature."""

import math

import numpy as np
import pytest
import scipy.special
import torch
from torch import nn
from torch.distributions import Normal

from flowcourse import catalog
from flowcourse.bijector import Bijector, Compose, sum_event
from flowcourse.catalog import perturbed
from flowcourse.coupling import realnvp
from flowcourse.coupling.dequantization import (
    Conditioned,
    VariationalDequantizer,
    build,
    noise_flow,
    preprocess,
)
from flowcourse.data import load
from flowcourse.flow import Flow, StandardLogistic, StandardNormal, StandardUniform
from flowcourse.foundations.change_of_variables import Affine
from flowcourse.foundations.likelihood import (
    DequantizedFlow,
    UniformDequantizer,
    importance_weighted_bound,
)
from flowcourse.testing import PROPERTIES, autograd_log_det, check_bijector

pytestmark = pytest.mark.usefixtures("torch_seed")

SMALL = dict(hidden=8, blocks=1, couplings=2, final_couplings=2, batch_norm=False)


def noise(event_shape=(1, 4, 4), context=3, scale=0.1, **options) -> Flow:
    """A flow over noise that is away from its start."""
    flow = noise_flow(event_shape, context, hidden=8, **options)
    perturbed(flow, scale)
    return flow


# The flow over noise


@pytest.mark.parametrize("property_name", PROPERTIES)
@pytest.mark.parametrize(
    ("event_shape", "context"),
    [((1, 4, 4), (3, 4, 4)), ((2, 2, 4), (1, 2, 4)), ((2,), (3,))],
    ids=["grey", "channels", "vector"],
)
def test_the_noise_keeps_the_contract_given_a_context(event_shape, context, property_name):
    bijector = noise(event_shape, context[0]).bijector
    u = 0.02 + 0.96 * torch.rand(5, *event_shape)
    check_bijector(bijector, u, torch.randn(5, *context), properties=[property_name])


def test_it_starts_as_uniform_noise():
    flow, context = noise_flow((1, 4, 4), 3).double(), torch.randn(6, 3, 4, 4).double()
    u = torch.rand(6, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(flow.log_prob(u, context), torch.zeros(6, dtype=torch.float64))
    model = build((1, 8, 8), 17, **SMALL)
    y, log_q = model.dequantizer(torch.zeros(400, 1, 8, 8))
    assert y.mean().item() == pytest.approx(0.5, abs=0.01)
    assert y.var().item() == pytest.approx(1 / 12, abs=0.002)
    torch.testing.assert_close(log_q, torch.zeros(400), atol=1e-4, rtol=0)


def test_each_example_has_noise_of_its_own_context():
    flow = noise().double()
    u = torch.rand(1, 1, 4, 4, dtype=torch.float64).expand(2, 1, 4, 4)
    log_q = flow.log_prob(u, torch.randn(2, 3, 4, 4, dtype=torch.float64))
    assert abs(log_q[0] - log_q[1]) > 1e-3


# The dequantizer


def dequantizer(event_shape=(1, 4, 4), levels=17, **options) -> VariationalDequantizer:
    encoder = nn.Conv2d(event_shape[0], 3, 3, padding=1)
    return VariationalDequantizer(noise(event_shape, 3, **options), encoder, levels=levels)


@pytest.mark.parametrize("levels", [2, 32, 256])
def test_log_q_is_the_density_of_the_noise_that_was_drawn(levels):
    layer = dequantizer(levels=levels).double()
    x = torch.randint(levels, (7, 1, 4, 4)).double()
    y, log_q = layer(x)
    torch.testing.assert_close(layer.log_prob(y - x, x), log_q, rtol=1e-6, atol=1e-6)


def test_log_q_agrees_with_the_autograd_jacobian_of_the_sampler():
    layer = dequantizer().double()
    x = torch.randint(17, (3, 1, 4, 4)).double()
    context = layer.context(x)
    epsilon = layer.flow.base.rsample((3,))
    u, _ = layer.flow.bijector.inverse(epsilon, context)
    jacobian = autograd_log_det(layer.flow.bijector.inverse, epsilon, context)
    density = -torch.nn.functional.softplus(epsilon) - torch.nn.functional.softplus(-epsilon)
    torch.testing.assert_close(layer.log_prob(u, x), sum_event(density) - jacobian)


def test_the_encoder_sees_levels_between_minus_one_and_one():
    levels = torch.tensor([0.0, 8, 16]).reshape(3, 1, 1, 1).expand(3, 1, 4, 4)
    context = VariationalDequantizer(noise(), nn.Identity(), levels=17).context(levels)
    assert context[:, 0, 0, 0].tolist() == [-1.0, 0.0, 1.0]
    alone = VariationalDequantizer(noise(context=1), levels=17)
    x = torch.zeros(2, 1, 4, 4)
    assert torch.equal(alone.context(x), torch.full_like(x, -1.0))


class Shifted(Bijector):
    """Moves everything so far that all noise lies at one end."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x, context=None):
        return x - self.by, x.new_zeros(len(x))

    def inverse(self, z, context=None):
        return z + self.by, z.new_zeros(len(z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("by", [-200.0, 0.0, 9.0, 200.0])
def test_no_value_leaves_its_cell(dtype, by):
    flow = Flow(Compose(noise_flow((50,), 50).bijector, Shifted(by)), StandardLogistic(50))
    layer = VariationalDequantizer(flow, levels=256).to(dtype)
    x = torch.arange(256, dtype=dtype)[:, None].expand(256, 50)
    y, log_q = layer(x)
    assert y.dtype == dtype and torch.equal(y.floor(), x)
    assert log_q.isfinite().all()


def test_gradients_reach_the_noise_through_what_it_does_to_the_flow():
    layer = dequantizer()
    x = torch.full((4, 1, 4, 4), 3.0)
    y, _ = layer(x)
    through_u = torch.autograd.grad(y.sum(), list(layer.parameters()))
    assert all(g.isfinite().all() for g in through_u)
    assert any(g.abs().max() > 1e-3 for g in through_u)


def test_the_reparameterised_gradient_is_that_of_the_expectation():
    """d/dm E[u] by differentiating samples, against quadrature."""
    shift = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    class Net(nn.Module):
        def forward(self, x, context):
            return torch.stack([torch.zeros_like(x[:, 0]), shift.expand(len(x))], dim=1)

    coupling = realnvp.AffineCoupling(Net(), lambda x: torch.zeros(1).to(x), channels=1)
    logit = preprocess(1, "logit").bijectors[1]
    flow = Flow(Compose(logit, coupling), StandardLogistic(1)).double()
    layer = VariationalDequantizer(flow, levels=2)
    y, _ = layer(torch.zeros(400_000, 1, dtype=torch.float64))
    (sampled,) = torch.autograd.grad(y.mean(), shift)
    e = torch.linspace(-40, 40, 40_001, dtype=torch.float64)
    p = torch.sigmoid(e) * torch.sigmoid(-e)
    slope = -(p * torch.sigmoid(e - 0.7) * torch.sigmoid(0.7 - e)).sum() * (e[1] - e[0])
    torch.testing.assert_close(sampled, slope, rtol=5e-3, atol=0)


# Where the exact probability is known


class TruncatedLogistic(Bijector):
    r"""Noise in a cell, given its level, as the logistic density has it: $p(u|x)$, exactly.

    `forward` is the conditional distribution function, so the base is uniform.
    """

    def __init__(self, mean: float, scale: float, levels: int):
        super().__init__()
        self.mean, self.scale, self.levels = mean, scale, levels

    def ends(self, context):
        x = (context + 1) / 2 * (self.levels - 1)
        low, high = ((x + shift - self.mean) / self.scale for shift in (0, 1))
        return x, torch.sigmoid(low), torch.sigmoid(high)

    def log_slope(self, x, u, low, high):
        t = (x + u - self.mean) / self.scale
        density = torch.sigmoid(t) * torch.sigmoid(-t) / self.scale
        return sum_event((density / (high - low)).log())

    def forward(self, u, context=None):
        x, low, high = self.ends(context)
        z = (torch.sigmoid((x + u - self.mean) / self.scale) - low) / (high - low)
        return z, self.log_slope(x, u, low, high)

    def inverse(self, z, context=None):
        x, low, high = self.ends(context)
        u = self.mean + self.scale * torch.logit(low + z * (high - low)) - x
        return u, -self.log_slope(x, u, low, high)


MEAN, SCALE, LEVELS = 1.7, 0.25, 4


def logistic_model(dims: int, layer: nn.Module | None = None) -> DequantizedFlow:
    """Independent logistic coordinates: every cell's mass is a difference of sigmoids."""
    shift = torch.tensor(-MEAN / SCALE, dtype=torch.float64)
    scale = torch.tensor(1 / SCALE, dtype=torch.float64)
    return DequantizedFlow(
        Flow(Affine(shift, scale), StandardLogistic(dims)), LEVELS, layer
    ).double()


def exact(x: torch.Tensor) -> torch.Tensor:
    x = x.numpy().astype(float)
    low, high = ((x + shift - MEAN) / SCALE for shift in (0, 1))
    return torch.from_numpy(np.log(scipy.special.expit(high) - scipy.special.expit(low)).sum(1))


def test_the_posterior_of_the_noise_gives_the_exact_probability_with_one_draw():
    posterior = Flow(TruncatedLogistic(MEAN, SCALE, LEVELS), StandardUniform(3))
    model = logistic_model(3, VariationalDequantizer(posterior, levels=LEVELS))
    x = torch.cartesian_prod(*[torch.arange(4)] * 3)
    torch.testing.assert_close(model.log_prob(x), exact(x), rtol=1e-7, atol=1e-7)
    u = torch.rand(64, 3, dtype=torch.float64)
    torch.testing.assert_close(
        posterior.bijector(u, x.double() * 2 / 3 - 1)[1],
        autograd_log_det(posterior.bijector, u, x.double() * 2 / 3 - 1),
    )


def trained_noise(model: DequantizedFlow, steps: int = 150) -> DequantizedFlow:
    """Fit the noise alone, by ascent on the bound."""
    optimizer = torch.optim.Adam(model.dequantizer.parameters(), lr=0.03)
    for _ in range(steps):
        loss = -model(torch.randint(LEVELS, (256, *model.event_shape))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_bounds_stay_below_the_exact_value_and_rise_to_it_with_draws():
    dims = 2
    uniform = logistic_model(dims)
    q = noise_flow((dims,), dims, couplings=4, hidden=16)
    learned = trained_noise(logistic_model(dims, VariationalDequantizer(q, levels=LEVELS)))
    x = torch.cartesian_prod(*[torch.arange(LEVELS)] * dims)
    truth = exact(x).mean().item()
    means = {}
    for name, model in (("uniform", uniform), ("learned", learned)):
        with torch.no_grad():
            log_weights = model(x.repeat(64 * 400, 1)).reshape(64, 400, len(x))
        for k in (1, 4, 16, 64):
            groups = log_weights.reshape(k, -1, len(x))
            value = importance_weighted_bound(groups.flatten(1)).reshape(-1, len(x))
            means[name, k] = value.mean().item()
    for name in ("uniform", "learned"):
        rising = [means[name, k] for k in (1, 4, 16, 64)]
        assert rising == sorted(rising) and rising[-1] < truth + 0.01
        assert truth - rising[-1] < 0.06
    gap = {name: truth - means[name, 1] for name in ("uniform", "learned")}
    assert 0 < gap["learned"] < 0.3 * gap["uniform"]


def test_the_gap_is_the_divergence_of_the_noise_from_the_posterior():
    """In one dimension, by quadrature, for any noise: log P - bound = KL(q || p(u|x))."""
    flow = Flow(perturbed_logit(), StandardLogistic(1)).double()
    model = logistic_model(1, VariationalDequantizer(flow, levels=LEVELS))
    u = (torch.arange(20_000, dtype=torch.float64)[:, None] + 0.5) / 20_000
    for level in range(LEVELS):
        x = torch.full_like(u, level)
        log_q, log_p = model.dequantizer.log_prob(u, x), model.flow.log_prob(x + u)
        log_mass = exact(x[:1].long())[0]
        q = log_q.exp() / len(u)
        assert q.sum().item() == pytest.approx(1, abs=1e-3)
        divergence = (q * (log_q - (log_p - log_mass))).sum()
        with torch.no_grad():
            bound = model(torch.full((200_000, 1), level)).mean()
        assert (log_mass - bound).item() == pytest.approx(divergence.item(), abs=0.02)


def perturbed_logit() -> Bijector:
    """Noise of one dimension, leaning to one side."""
    logit = preprocess(1, "logit").bijectors[1]
    return Compose(logit, Affine(shift=-0.5, scale=1.4))


def test_the_seeds_four_levels():
    """Errata 1.4: a normal model of four levels; the bound, the exact value, minus the entropy."""
    p_data = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    model = Normal(1.2, 0.7)
    edges = torch.arange(5, dtype=torch.float64)
    exact_value = (p_data * (model.cdf(edges[1:]) - model.cdf(edges[:-1])).log()).sum()
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    bound = sum(p_data[x] * model.log_prob(x + u).mean() for x in range(4))
    assert bound < exact_value < (p_data * p_data.log()).sum()


# Preprocessing and levels


@pytest.mark.parametrize("levels", [17, 32, 256])
@pytest.mark.parametrize("form", ["logit", "centred"])
def test_preprocessing_is_the_formula_with_its_jacobian(form, levels):
    x = levels * torch.rand(4, 1, 2, 3, dtype=torch.float64)
    bijector = preprocess(levels, form).double()
    y, log_det = bijector(x)
    p = x.numpy() / levels
    if form == "logit":
        inside = 0.05 + 0.9 * p
        expected = scipy.special.logit(inside)
        slopes = np.log(0.9 / levels) - np.log(inside * (1 - inside))
    else:
        expected, slopes = p - 0.5, np.full_like(p, -math.log(levels))
    # The constants are single-precision numbers.
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_det, slopes.sum(axis=(1, 2, 3)), rtol=1e-5)
    torch.testing.assert_close(log_det, autograd_log_det(bijector, x))


def test_both_preprocessings_describe_the_same_density():
    """A density of x does not depend on the coordinates in which it is written down."""
    x = 17 * torch.rand(5, 3, dtype=torch.float64)
    centred, logit = (preprocess(17, form).double() for form in ("centred", "logit"))
    y, log_det = centred(x)
    v, log_det_logit = logit(x)

    class FromLogit(Bijector):
        def forward(self, v, context=None):
            x, back = logit.inverse(v)
            y, on = centred(x)
            return y, back + on

    base = StandardNormal(3).double()
    first = base.log_prob(y) + log_det
    second = Flow(FromLogit(), base).log_prob(v) + log_det_logit
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("bits", [5, 8])
@pytest.mark.parametrize("kind", ["uniform", "variational"])
@pytest.mark.parametrize("form", ["logit", "centred"])
def test_photos_of_both_depths_have_a_bound_and_samples(bits, kind, form):
    data = load("photo_patches", size=8, bits=bits)
    model = build(
        data.event_shape, data.levels, dequantizer=kind, preprocessing=form, scales=1, **SMALL
    )
    bits_per_dim = model.bits_per_dim(data.test[:4], draws=2)
    assert bits_per_dim.shape == (4,) and bits_per_dim.isfinite().all()
    samples = model.sample(3)
    assert samples.shape == (3, 3, 8, 8) and samples.max() < 2**bits and samples.min() >= 0
    with pytest.raises(ValueError, match=f"integers in 0..{2**bits - 1}"):
        model(torch.full((1, 3, 8, 8), 2.0**bits))


def test_with_fresh_weights_both_dequantizers_give_the_same_bound():
    """The learned noise starts as uniform noise, so only the draws differ."""
    x = torch.randint(17, (200, 1, 8, 8))
    values = []
    for kind in ("uniform", "variational"):
        torch.manual_seed(0)
        model = build((1, 8, 8), 17, dequantizer=kind, **SMALL).eval()
        with torch.no_grad():
            values.append(model(x).mean())
    assert abs(values[0] - values[1]) < 1.0


# Building


def test_vectors_can_be_dequantized_too():
    model = build((5,), 3, couplings=2, hidden=8, blocks=1, batch_norm=False)
    x = torch.randint(3, (6, 5))
    assert isinstance(model.dequantizer, VariationalDequantizer)
    assert model(x).shape == (6,) and model.sample(4).shape == (4, 5)


def test_uniform_noise_is_the_foundations_own():
    model = build((1, 4, 4), 17, dequantizer="uniform", scales=1, **SMALL)
    assert isinstance(model.dequantizer, UniformDequantizer)


def test_with_uniform_noise_the_laptop_preset_is_realnvps():
    """The chapter compares the two as one flow behind two kinds of noise."""
    models, values = [], []
    for topic, options in (("dequantization", dict(dequantizer="uniform")), ("realnvp", {})):
        entry = catalog.topic(topic)
        torch.manual_seed(0)
        models.append(entry.build((1, 8, 8), 17, **entry.preset("laptop").model | options).eval())
        torch.manual_seed(1)
        values.append(models[-1](torch.randint(17, (4, 1, 8, 8))))
    parameters = [[p.shape for p in model.parameters()] for model in models]
    assert parameters[0] == parameters[1]
    torch.testing.assert_close(values[0], values[1])
    training = [catalog.topic(t).preset("laptop").training for t in ("dequantization", "realnvp")]
    assert training[0] == training[1]


@pytest.mark.parametrize("shape", [(3, 8, 8), (6,)])
def test_models_run_on_meta(shape):
    with torch.device("meta"):
        model = build(shape, 256, **SMALL | dict(batch_norm=False))
        x = torch.zeros(2, *shape)
    assert model(x).shape == (2,) and model.log_prob(x, draws=3).is_meta


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_training_step_at_toy_size(precision):
    model = build((3, 8, 8), 256, scales=1, **SMALL)
    images = torch.randint(256, (4, 3, 8, 8))
    with torch.autocast("cpu", dtype=precision, enabled=precision == torch.bfloat16):
        loss = -model(images).mean()
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(levels=None), "continuous already"),
        (dict(levels=17, dequantizer="gaussian"), "'uniform' or 'variational', not 'gaussian'"),
        (dict(levels=17, preprocessing="log"), "'logit' or 'centred', not 'log'"),
    ],
)
def test_wrong_choices_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        build((4,), options.pop("levels"), couplings=1, hidden=4, blocks=1, **options)


def test_a_conditioned_network_sees_its_context():
    net = Conditioned(nn.Linear(5, 2))
    x, context = torch.randn(3, 2), torch.randn(3, 3)
    torch.testing.assert_close(net(x, context), net.net(torch.cat([x, context], dim=1)))
