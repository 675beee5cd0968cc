"""PixelVAE against enumeration, quadrature over the latent, and closed forms."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from flowcourse import data
from flowcourse.autoregressive.pixelvae import (
    GivenLatent,
    PixelDecoder,
    PixelVAE,
    build,
    gaussian_kl,
    gaussian_log_density,
)
from flowcourse.catalog import perturbed, topic
from flowcourse.chain_rule import AutoregressiveModel
from flowcourse.testing import AUTOREGRESSIVE_PROPERTIES, check_autoregressive, dependencies
from flowcourse.training import TrainingConfig, evaluate, train

pytestmark = pytest.mark.usefixtures("torch_seed")

REACHES = [0, 1, 2]


def toy(latents: int = 1, reach: int = 1, levels: int = 2, **options) -> PixelVAE:
    """A model of 2x2 images that is nothing like its start, in float64 and evaluation mode."""
    model = build(
        (1, 2, 2), levels, latents=latents, reach=reach, hidden=6, blocks=1, **options
    ).double()
    perturbed(model, scale=0.4)
    with torch.no_grad():  # make the latents matter, and keep every image possible
        for parameter in model.decoder.upsample.parameters():
            parameter.mul_(2.0)
        for parameter in model.decoder.out.parameters():
            parameter.mul_(0.4)
        for parameter in model.encoder.net[-1].parameters():
            parameter[:latents] *= 0.35  # means
            parameter[latents:] *= 0.1  # log-scales: no spike that a grid would miss
    return model


def every_image(levels: int, dims: int = 4) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(levels), repeat=dims))).reshape(-1, 1, 2, 2)


def grid(latents: int) -> tuple[torch.Tensor, float]:
    """Nodes of a rectangle rule, which converges fast for smooth functions that vanish outside."""
    points, limit = (401 if latents == 1 else 111), 11.0
    axis = torch.linspace(-limit, limit, points, dtype=torch.float64)
    nodes = torch.cartesian_prod(*[axis] * latents).reshape(-1, latents)
    return nodes, (2 * limit / (points - 1)) ** latents


@torch.no_grad()
def exact(model: PixelVAE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log P(x) by quadrature; with the log-posterior at the nodes, and the nodes."""
    z, cell = grid(model.latents)
    zero = torch.zeros_like(z)
    log_prior = gaussian_log_density(z, zero, zero)
    rows = []
    for image in x:
        images = image.expand(len(z), *image.shape)
        rows.append(model.decoder.log_prob(images, context=z) + log_prior)
    joint = torch.stack(rows)
    log_p = joint.logsumexp(dim=1) + math.log(cell)
    return log_p, joint - log_p[:, None], z


# The decoder


@pytest.mark.parametrize("reach", [0, 1, 2, 3])
def test_a_decoder_sees_the_earlier_pixels_within_its_reach_and_no_others(reach):
    height, width = 4, 5
    decoder = PixelDecoder((1, height, width), 3, 2, reach, hidden=8, blocks=1).double()
    found = dependencies(GivenLatent(decoder, torch.randn(2).double()))
    for i, (row, column) in enumerate(itertools.product(range(height), range(width))):
        for j, (r, c) in enumerate(itertools.product(range(height), range(width))):
            near = abs(row - r) <= reach and abs(column - c) <= reach
            assert found[i, j] == (near and j < i)


def test_with_reach_zero_the_colours_of_a_pixel_still_see_each_other():
    decoder = PixelDecoder((2, 1, 2), 3, 2, 0, hidden=8, blocks=1).double()
    found = dependencies(GivenLatent(decoder, torch.randn(2).double()))
    # Flattened: red of both pixels, then green of both pixels.
    assert found.nonzero().tolist() == [[2, 0], [3, 1]]


@pytest.mark.parametrize("reach", REACHES)
def test_a_decoder_with_any_reach_keeps_the_contract(reach):
    model = toy(latents=2, reach=reach, levels=3)
    given = GivenLatent(model.decoder, torch.randn(2).double())
    names = set(AUTOREGRESSIVE_PROPERTIES)
    if reach == 0:  # on 2x2 pixels, any other reach sees the whole image
        names -= {"looks_at_everything_before"}
    check_autoregressive(given, [name for name in AUTOREGRESSIVE_PROPERTIES if name in names])


def test_the_latent_reaches_every_pixel():
    model = build((1, 5, 6), 3, latents=2, reach=0, hidden=8, blocks=1)
    perturbed(model, scale=0.3)
    x = torch.randint(3, (1, 1, 5, 6))
    z = torch.randn(4, 2)
    logits = model.decoder.conditional_logits(x.expand(4, 1, 5, 6), context=z)
    assert (logits.std(dim=0).amax(dim=-1) > 1e-4).all()


@pytest.mark.parametrize("cached", [True, False])
def test_each_sample_has_its_own_latent(cached):
    model = toy(latents=2, reach=1, levels=3)
    z, noise = torch.randn(7, 2).double(), torch.rand(7, 1, 2, 2).double()
    together = model.decoder.sample(7, context=z, noise=noise, cached=cached)
    for k in range(7):
        alone = GivenLatent(model.decoder, z[k]).sample(1, noise=noise[k : k + 1])
        assert torch.equal(together[k : k + 1], alone)


# The divergence


def test_the_divergence_is_that_of_torch_and_of_monte_carlo():
    mean, log_scale = torch.randn(5, 3).double(), 0.7 * torch.randn(5, 3).double()
    found = gaussian_kl(mean, log_scale)
    q = Normal(mean, log_scale.exp())
    torch.testing.assert_close(found, kl_divergence(q, Normal(0.0, 1.0).expand(mean.shape)))
    z = q.sample((40_000,))
    draws = q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    error = 5 * draws.std(dim=0) / math.sqrt(len(z))
    assert ((draws.mean(dim=0) - found).abs() < error).all()
    assert gaussian_kl(torch.zeros(1, 1), torch.zeros(1, 1)).item() == 0


def test_the_density_is_that_of_torch():
    z, mean, log_scale = torch.randn(3, 5, 2).double()
    expected = Normal(mean, log_scale.exp()).log_prob(z).sum(dim=1)
    torch.testing.assert_close(gaussian_log_density(z, mean, log_scale), expected)


# The bounds, on models whose every image and whose every latent can be listed


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize(("latents", "levels"), [(1, 2), (2, 2), (1, 3)])
def test_the_probabilities_of_all_images_sum_to_one(latents, reach, levels):
    x = every_image(levels)
    log_p, _, _ = exact(toy(latents, reach, levels), x)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_p.exp().max() < 0.9 and log_p.std() > 0.05  # no trivial model


@pytest.mark.parametrize("latents", [1, 2])
@pytest.mark.parametrize("reach", REACHES)
def test_the_elbo_is_the_evidence_minus_the_divergence_from_the_posterior(latents, reach):
    model = toy(latents, reach)
    x = every_image(2)[::3]
    with torch.no_grad():
        log_p, log_posterior, z = exact(model, x)
        mean, log_scale = model.posterior(x)
        cell = grid(latents)[1]
        log_q = torch.stack(
            [
                gaussian_log_density(z, m.expand_as(z), s.expand_as(z))
                for m, s in zip(mean, log_scale, strict=True)
            ]
        )
        q = log_q.exp() * cell
        assert (q.sum(dim=1) - 1).abs().max() < 1e-6
        gap = (q * (log_q - log_posterior)).sum(dim=1)
        # The expected ELBO by quadrature over q, from its two terms.
        zero = torch.zeros_like(z)
        likelihood = log_posterior + log_p[:, None] - gaussian_log_density(z, zero, zero)
        elbo = (q * likelihood).sum(dim=1) - gaussian_kl(*model.posterior(x)).sum(dim=1)
        torch.testing.assert_close(elbo, log_p - gap, atol=1e-6, rtol=0)
        assert (gap > 1e-4).all()
        # What the model reports is an unbiased estimate of it, in both forms.
        for draw in (model.log_prob, model.log_weight):
            draws = torch.stack([draw(x) for _ in range(1500)])
            error = 5 * draws.std(dim=0) / math.sqrt(len(draws))
            assert ((draws.mean(dim=0) - elbo).abs() < error).all()


def test_the_importance_weighted_bound_rises_to_the_evidence():
    model, x = toy(latents=2, reach=1), every_image(2)[5:6]
    log_p = exact(model, x)[0].item()
    many = x.expand(2000, 1, 2, 2)
    with torch.no_grad():
        means = [model.log_prob(many, draws=k).mean().item() for k in (1, 4, 64)]
        log_p_draws = torch.stack([model.log_weight(many) for _ in range(20)])
    assert means[0] < means[1] < means[2] < log_p + 1e-3
    assert log_p - means[0] > 0.02 > log_p - means[2]
    # The mean of the weights themselves is P(x).
    weights = log_p_draws.exp().flatten()
    error = 5 * weights.std().item() / math.sqrt(len(weights))
    assert weights.mean().item() == pytest.approx(math.exp(log_p), abs=error)


def test_a_decoder_that_ignores_its_latent_makes_the_prior_the_best_posterior():
    model = toy(latents=2, reach=1)
    with torch.no_grad():
        for parameter in model.decoder.upsample.parameters():
            parameter.zero_()
    x = every_image(2)
    log_p, log_posterior, z = exact(model, x)
    zero = torch.zeros_like(z)
    prior = gaussian_log_density(z, zero, zero)
    torch.testing.assert_close(log_posterior, prior.expand_as(log_posterior))
    alone = GivenLatent(model.decoder, torch.zeros(2).double())
    torch.testing.assert_close(log_p, alone.log_prob(x), atol=1e-9, rtol=0)
    with torch.no_grad():  # any other posterior costs its divergence, exactly
        torch.testing.assert_close(
            model.log_prob(x),
            log_p - gaussian_kl(*model.posterior(x)).sum(dim=1),
            atol=1e-9,
            rtol=0,
        )


def test_samples_follow_the_evidence_and_so_come_from_the_prior():
    from scipy.stats import chi2

    model, x = toy(latents=1, reach=1), every_image(2)
    expected = 6000 * exact(model, x)[0].exp()
    drawn = model.sample(6000).flatten(1) @ torch.tensor([8, 4, 2, 1])
    counts = drawn.bincount(minlength=16)
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    assert statistic < chi2.isf(1e-7, 15)


def test_temperature_cools_latent_and_pixels():
    model = toy(latents=1, reach=1)
    cold = model.sample(200, temperature=1e-5)
    assert len(cold.unique(dim=0)) == 1
    z = torch.full((200, 1), 2.0).double()
    again = model.sample(200, temperature=1e-5, z=z)
    assert torch.equal(again, cold)  # a latent is scaled too, given or not


# Free nats


def test_free_nats_charge_each_latent_at_least_the_allowance():
    x = every_image(2)
    model = toy(latents=3, reach=1).train()
    average = gaussian_kl(*model.posterior(x)).mean(dim=0).detach()
    free = model.free_nats = average.median().item() + 1e-6  # two latents below, one above
    torch.manual_seed(1)
    charged = model(x)
    torch.manual_seed(1)
    log_p, kl = model.terms(x)
    expected = log_p.mean() - 2 * free - average.max()
    torch.testing.assert_close(charged.mean(), expected)
    assert charged.mean() < (log_p - kl.sum(dim=1)).mean()  # still a lower bound
    torch.manual_seed(1)
    torch.testing.assert_close(model.eval()(x), log_p - kl.sum(dim=1))


def test_a_latent_below_its_allowance_feels_no_pull_to_the_prior():
    x = every_image(2)
    model = toy(latents=2, reach=1, free_nats=100.0).train()
    with torch.no_grad():  # a decoder that does not listen: the divergence alone moves the encoder
        for parameter in model.decoder.upsample.parameters():
            parameter.zero_()
    parameters = list(model.encoder.parameters())
    for free, pulled in ((100.0, False), (0.0, True)):
        model.free_nats = free
        gradients = torch.autograd.grad(model(x).sum(), parameters)
        largest = max(g.abs().max().item() for g in gradients)
        assert (largest > 1e-3) == pulled and (largest < 1e-10) != pulled


# The figures, the contract of discrete models, training


def test_figures_are_the_mean_divergence_and_the_latents_in_use():
    model, x = toy(latents=3, reach=1), every_image(2)
    with torch.no_grad():
        model.encoder.net[-1].weight[:3] *= 10
        model.encoder.net[-1].weight[1] = 0  # the second mean no longer varies
    found = model.figures(x)
    assert found["kl_nats"] == pytest.approx(
        gaussian_kl(*model.posterior(x)).sum(dim=1).mean().item()
    )
    assert found["active_units"] == 2.0
    assert evaluate(model, x, repeats=1, draws=1).figures == found


def test_it_answers_what_every_model_of_discrete_data_answers():
    model = build((1, 8, 8), 17, hidden=8, blocks=1)
    x = torch.randint(17, (3, 1, 8, 8), dtype=torch.uint8)
    assert model.kind == "bound" and isinstance(model.decoder, AutoregressiveModel)
    assert model.event_shape == (1, 8, 8) and model.levels == 17
    assert model(x).shape == model.bits_per_dim(x, draws=3).shape == (3,)
    samples = model.sample(5, temperature=0.8)
    assert samples.shape == (5, 1, 8, 8) and samples.dtype == torch.int64
    assert 0 <= samples.min() and samples.max() <= 16


@pytest.mark.parametrize("reach", [0, None])
def test_it_runs_on_meta(reach):
    model = build((3, 9, 10), 4, latents=2, reach=reach, hidden=6, blocks=1).to("meta")
    x = torch.zeros(2, 3, 9, 10, device="meta")
    assert model(x).is_meta and model.bits_per_dim(x, draws=2).is_meta
    assert model.sample(2).is_meta


def test_training_raises_the_bound():
    digits = data.load("digits")
    preset = topic("pixelvae").preset("laptop")
    small = preset.model | dict(hidden=16, blocks=1, latents=4)
    model = build(digits.event_shape, digits.levels, **small)
    before = evaluate(model, digits.test[:100], repeats=1, draws=1)
    config = TrainingConfig(**preset.training | dict(steps=40, warmup_steps=0, validation=0))
    train(model, digits, config, verbose=False)
    after = evaluate(model, digits.test[:100], repeats=1, draws=1)
    assert after.bits_per_dim < before.bits_per_dim - 0.6


def test_what_makes_no_sense_is_refused_with_a_reason():
    with pytest.raises(ValueError, match="models images with levels"):
        build((64,), 17)
    with pytest.raises(ValueError, match="levels=None"):
        build((1, 8, 8), None)
    with pytest.raises(ValueError, match="reach counts rows"):
        build((1, 8, 8), 17, reach=-1)
    with pytest.raises(ValueError, match="allowance"):
        build((1, 8, 8), 17, free_nats=-1.0)
    model = toy()
    with pytest.raises(ValueError, match="pass context=z"):
        model.decoder.log_prob(every_image(2))
    with pytest.raises(ValueError, match="integers in 0..1"):
        model(torch.full((1, 1, 2, 2), 2))
    with pytest.raises(ValueError, match="one draw or more"):
        model.log_prob(every_image(2), draws=0)
