"""PixelCNN++ against mpmath, scipy, enumeration and arithmetic; the contract is tested for all."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch

from flowcourse import data
from flowcourse.autoregressive.pixelcnnpp import (
    LogisticMixture,
    Softmax,
    build,
    discretized_logistic,
    linear_in_colours,
    turned,
)
from flowcourse.catalog import perturbed, topic
from flowcourse.chain_rule import AutoregressiveModel
from flowcourse.testing import dependencies
from flowcourse.training import TrainingConfig, evaluate, train

pytestmark = pytest.mark.usefixtures("torch_seed")


def small(event_shape, levels, **options):
    sizes = dict(components=3, filters=4, blocks=2, stages=2, dropout=0.0)
    return perturbed(build(event_shape, levels, **sizes | options), 0.3).double()


def scaled(levels: int, dtype=torch.float64) -> torch.Tensor:
    return torch.linspace(-1, 1, levels, dtype=dtype)


# One logistic


def exact_log_mass(level: int, mean: float, log_scale: float, levels: int) -> float:
    """By the definition, with enough digits that nothing cancels."""
    with mpmath.workdps(6000):
        x, half = mpmath.mpf(2 * level) / (levels - 1) - 1, mpmath.mpf(1) / (levels - 1)
        scale = mpmath.exp(mpmath.mpf(log_scale))

        def cdf(end):
            return 1 / (1 + mpmath.exp(-(end - mpmath.mpf(mean)) / scale))

        above = mpmath.mpf(1) if level == levels - 1 else cdf(x + half)
        below = mpmath.mpf(0) if level == 0 else cdf(x - half)
        return float(mpmath.log(above - below))


CASES = [
    (levels, level, mean, log_scale)
    for levels in (17, 256)
    for level in (0, 1, levels // 2, levels - 1)
    for mean, log_scale in ((0.1, -2.0), (-0.9, -6.5), (3.0, -4.0), (-2.5, 1.5), (0.7, 6.5))
]


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_log_masses_are_those_of_high_precision_arithmetic_far_into_the_tails(dtype, rtol):
    levels, level, mean, log_scale = (np.array(column) for column in zip(*CASES, strict=True))
    expected = [exact_log_mass(int(v), m, s, int(n)) for n, v, m, s in CASES]
    x = torch.tensor(2 * level / (levels - 1) - 1, dtype=dtype)
    found = [
        discretized_logistic(*(torch.tensor(v, dtype=dtype) for v in (a, m, s)), int(n)).item()
        for n, a, m, s in zip(levels, x.tolist(), mean, log_scale, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)
    assert min(expected) < -1000


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_the_masses_of_all_levels_sum_to_one(levels):
    mean, log_scale = 3 * torch.randn(500, 1).double(), 3 * torch.randn(500, 1).double()
    total = discretized_logistic(scaled(levels), mean, log_scale, levels).exp().sum(dim=1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-12, rtol=0)


def test_inner_masses_are_integrals_of_scipys_density():
    levels, mean, scale = 17, 0.2, 0.3
    frozen = scipy.stats.logistic(mean, scale)
    found = discretized_logistic(
        scaled(levels), torch.tensor(mean), torch.tensor(scale).log(), levels
    )
    ends = (np.arange(levels + 1) * 2 - 1) / (levels - 1) - 1
    ends[0], ends[-1] = -np.inf, np.inf
    np.testing.assert_allclose(found.exp(), np.diff(frozen.cdf(ends)), atol=1e-7)


@pytest.mark.parametrize("levels", [17, 256])
def test_values_and_gradients_are_finite_in_float32_whatever_mean_and_scale(levels):
    mean = torch.tensor([-1e6, -30.0, -1.0, 0.0, 0.3, 1.0, 30.0, 1e6])[:, None, None]
    log_scale = torch.tensor([-1e4, -100.0, -7.0, 0.0, 7.0, 100.0, 1e4])[:, None]
    mean.requires_grad_(), log_scale.requires_grad_()
    log_p = discretized_logistic(scaled(levels, torch.float32), mean, log_scale, levels)
    gradients = torch.autograd.grad(log_p.sum(), (mean, log_scale))
    assert log_p.isfinite().all() and all(g.isfinite().all() for g in gradients)
    assert (log_p <= 0).all() and log_p.min() < -1e6


def test_gradients_are_those_of_the_definition():
    mean, log_scale = torch.randn(20, 1).double(), torch.randn(20, 1).double() - 1
    mean.requires_grad_(), log_scale.requires_grad_()
    x, half = scaled(17), 1 / 16
    inner = slice(1, -1)
    ends = [((x + side * half - mean) / log_scale.exp()).sigmoid() for side in (1, -1)]
    expected = torch.autograd.grad((ends[0] - ends[1]).log()[:, inner].sum(), (mean, log_scale))
    stable = discretized_logistic(x, mean, log_scale, 17)[:, inner]
    for found, right in zip(
        torch.autograd.grad(stable.sum(), (mean, log_scale)), expected, strict=True
    ):
        torch.testing.assert_close(found, right, atol=1e-8, rtol=1e-8)


def test_a_narrow_logistic_is_one_level_and_a_wide_one_is_two():
    narrow = discretized_logistic(scaled(17), scaled(17)[:, None], torch.tensor(-7.0), 17).exp()
    torch.testing.assert_close(narrow, torch.eye(17).double(), atol=1e-12, rtol=0)
    wide = discretized_logistic(scaled(256), torch.tensor(0.0), torch.tensor(7.0), 256).exp()
    assert wide[[0, -1]].sum() > 0.999 and wide[0] == pytest.approx(wide[-1].item())


# The mixture, and colours


def head(kind: str, channels: int, levels: int):
    if kind == "softmax":
        return Softmax(channels, levels)
    return LogisticMixture(channels, levels, components=4)


def test_means_are_linear_in_the_values_of_earlier_colours():
    base, coefficients = torch.randn(2, 5, 3, 2, 2), torch.randn(2, 5, 3, 2, 2)
    r, g, b = (x := torch.rand(2, 3, 2, 2)).unbind(dim=1)
    found = linear_in_colours(base, coefficients, x)
    for k in range(5):
        gr, br, bg = coefficients[:, k].unbind(dim=1)
        assert torch.equal(found[:, k, 0], base[:, k, 0])
        torch.testing.assert_close(found[:, k, 1], base[:, k, 1] + gr * r)
        torch.testing.assert_close(found[:, k, 2], base[:, k, 2] + br * r + bg * g)


@pytest.mark.parametrize("kind", ["mixture", "softmax"])
def test_conditionals_are_those_of_the_enumerated_joint(kind):
    levels, likelihood = 5, head(kind, 3, 5)
    out = torch.randn(1, likelihood.outputs, 1, 1).double()
    every = torch.tensor(list(itertools.product(range(levels), repeat=3)))
    x = scaled(levels)[every][:, :, None, None]
    out = out.expand(len(x), -1, -1, -1)
    joint = likelihood.log_prob(out, x).exp().reshape(levels, levels, levels)
    assert joint.sum().item() == pytest.approx(1, abs=1e-12)
    found = likelihood.logits(out, x).softmax(dim=-1)[:, :, 0, 0].reshape(5, 5, 5, 3, levels)
    red, green = joint.sum(dim=(1, 2)), joint.sum(dim=2)
    torch.testing.assert_close(found[0, 0, 0, 0], red)
    torch.testing.assert_close(found[:, 0, 0, 1], green / red[:, None])
    torch.testing.assert_close(found[:, :, 0, 2], joint / green[:, :, None])


def test_red_tells_which_component_the_pixel_comes_from():
    """Two narrow components, both colours dark or both bright; the coefficients are zero."""
    likelihood = LogisticMixture(2, 17, components=2)
    dark, bright = [0.0, -0.5, -0.5, -3.0, -3.0, 0.0], [0.0, 0.5, 0.5, -3.0, -3.0, 0.0]
    out = torch.tensor(dark + bright, dtype=torch.float64).reshape(1, -1, 1, 1)
    for red, expected in ((4, -0.5), (12, 0.5)):
        x = scaled(17)[[red, 0]].reshape(1, 2, 1, 1)
        green = likelihood.logits(out, x).softmax(dim=-1)[0, 1, 0, 0]
        assert (green * scaled(17)).sum().item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("components", [0, 1, 4])
@pytest.mark.parametrize(("shape", "levels"), [((1, 4, 4), 17), ((3, 2, 4), 256)])
def test_scoring_directly_is_scoring_by_all_levels(shape, levels, components):
    model = small(shape, levels, components=components)
    x = torch.randint(levels, (5, *shape))
    x[0], x[1] = 0, levels - 1
    torch.testing.assert_close(model.log_prob(x), AutoregressiveModel.log_prob(model, x))


# The whole model


@pytest.mark.parametrize(("shape", "stages"), [((1, 8, 8), 1), ((1, 8, 8), 3), ((3, 8, 8), 2)])
def test_every_earlier_pixel_is_seen_and_no_later_one(shape, stages):
    model = small(shape, 3, stages=stages, filters=3)
    place = torch.tensor(model.order).argsort()
    assert torch.equal(dependencies(model, examples=2), place[:, None] > place[None, :])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (2, 1, 3), (1, 6, 1)])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_cached_samples_are_samples(shape, stages):
    model = small(shape, 17, stages=stages)
    noise = torch.rand(3, *shape).double()
    assert torch.equal(model.sample(3, noise=noise), model.sample(3, noise=noise, cached=False))


def test_the_network_runs_once_for_each_pixel_not_for_each_colour(monkeypatch):
    model, calls = small((3, 4, 4), 8), []
    original = model.features.at
    monkeypatch.setattr(model.features, "at", lambda *a: calls.append(a[1:3]) or original(*a))
    model.sample(2)
    assert calls == list(itertools.product(range(4), range(4)))


def test_a_conditional_model_follows_its_labels():
    model = small((1, 4, 4), 17, classes=3)
    x = torch.randint(17, (1, 1, 4, 4)).expand(3, 1, 4, 4)
    scores = model.log_prob(x, torch.arange(3))
    assert len(scores.unique()) == 3
    labels, noise = torch.tensor([2, 0]), torch.rand(2, 1, 4, 4).double()
    fast, slow = (
        model.sample(2, context=labels, noise=noise, cached=cached) for cached in (True, False)
    )
    assert torch.equal(fast, slow)
    with pytest.raises(ValueError, match="classes=3 and got no labels"):
        model.log_prob(x)
    with pytest.raises(ValueError, match="classes=0 and got labels"):
        small((1, 4, 4), 17).log_prob(x, torch.arange(3))


def test_the_eight_symmetries_are_eight_and_undo_nothing_of_the_other_images():
    x = torch.arange(18).reshape(2, 1, 3, 3)
    every = turned(x[:1].expand(8, 1, 3, 3), torch.arange(8))
    assert torch.equal(every[0], x[0]) and len(every.flatten(1).unique(dim=0)) == 8
    assert every[1].tolist() == [[[2, 5, 8], [1, 4, 7], [0, 3, 6]]]
    assert every[4].tolist() == [[[2, 1, 0], [5, 4, 3], [8, 7, 6]]]
    assert torch.equal(turned(x, torch.tensor([0, 5]))[0], x[0])


def test_turned_images_are_scored_under_their_own_label_and_others_as_they_are():
    model = small((1, 4, 4), 17, turn=0.7)
    x = torch.randint(17, (200, 1, 4, 4)).double()
    assert torch.equal(model.eval()(x), model.log_prob(x))
    kinds = torch.arange(8)
    every = torch.stack([model._score(turned(x, k.expand(200)), k.expand(200)) for k in kinds])
    found = model.train()(x)
    matches = torch.isclose(every, found, rtol=0, atol=1e-9)
    assert (matches.sum(dim=0) == 1).all()
    torch.testing.assert_close(every[0], model.log_prob(x))
    # 200 draws, 30 % as they are: 5 standard deviations
    assert abs(matches[0].double().mean() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 200)
    assert matches.any(dim=1).all()


@pytest.mark.parametrize(("shape", "classes"), [((1, 4, 5), 0), ((1, 4, 4), 3)])
def test_only_square_images_without_classes_are_turned(shape, classes):
    with pytest.raises(ValueError, match="needs square images without classes"):
        build(shape, 17, classes=classes, turn=0.5)


@pytest.mark.parametrize(("shape", "levels"), [((4,), 17), ((1, 4, 4), None)])
def test_only_images_of_levels_are_modelled(shape, levels):
    with pytest.raises(ValueError, match="models images"):
        build(shape, levels)


def test_the_paper_model_has_the_parameters_that_arithmetic_gives():
    preset = topic("pixelcnnpp").preset("paper")
    with torch.device("meta"):
        model = build((3, 32, 32), 256, **preset.model)
    f, blocks, components = 160, 5, 10

    def conv(inputs, outputs, size=1):
        return inputs * outputs * size + 2 * outputs  # a gain and a bias for each output

    def block(size, extra):
        shortcut = conv(2 * extra, f) if extra else 0
        return conv(2 * f, f, size) + conv(2 * f, 2 * f, size) + shortcut

    first = conv(4, f, 6) + conv(4, f, 3) + conv(4, f, 2)
    before = 3 * blocks * (block(6, 0) + block(4, f))
    after = (3 * blocks + 2) * (block(6, f) + block(4, 2 * f))
    between = 4 * (conv(f, f, 6) + conv(f, f, 4))
    expected = first + before + after + between + conv(f, 10 * components)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert topic("pixelcnnpp").paper_parameters == expected


def test_the_paper_preset_trains_at_toy_size(tmp_path):
    preset = topic("pixelcnnpp").preset("paper")
    digits = data.load("digits")
    sizes = {"filters": 6, "blocks": 1, "dropout": 0.0}
    model = build(digits.event_shape, digits.levels, **preset.model | sizes)
    before = evaluate(model, digits.test[:100])
    config = TrainingConfig(**preset.training | {"steps": 30, "batch_size": 50, "validation": 0})
    train(model, digits, config, tmp_path / "run", verbose=False)
    after = evaluate(model, digits.test[:100])
    assert after.kind == "exact" and after.bits_per_dim < before.bits_per_dim - 0.1
    assert before.bits_per_dim < math.log2(17) + 2
