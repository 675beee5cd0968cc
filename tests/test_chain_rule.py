"""The contract of autoregressive models, on a model that anyone can check by hand, and broken."""

import pytest
import torch
from torch import nn

from flowcourse.catalog import TOPICS, models
from flowcourse.chain_rule import AutoregressiveModel, one_hot, raster
from flowcourse.foundations.likelihood import bits_per_dim
from flowcourse.testing import (
    AUTOREGRESSIVE_PROPERTIES,
    PropertyFailure,
    check_autoregressive,
    dependencies,
)

CASES = [(topic.name, name) for topic in TOPICS for name in models(topic.name)]


@pytest.mark.parametrize("property_name", AUTOREGRESSIVE_PROPERTIES)
@pytest.mark.parametrize(("topic", "instance"), CASES, ids=lambda value: value)
def test_property(topic, instance, property_name):
    check_autoregressive(models(topic)[instance], [property_name])


class Linear(AutoregressiveModel):
    """Each logit is a linear function of the earlier dimensions' one-hot codes."""

    def __init__(self, event_shape=(1, 2, 2), levels=3, order=None):
        super().__init__(event_shape, levels, order)
        place = torch.tensor(self.order).argsort()
        self.register_buffer("mask", (place[:, None] > place[None, :]).float())
        self.weight = nn.Parameter(torch.randn(self.dims, levels, self.dims, levels))
        self.bias = nn.Parameter(torch.randn(self.dims, levels))

    def encode(self, x):
        return one_hot(x, self.levels)

    def logits(self, h, context=None):
        weight = self.weight * self.mask[:, None, :, None].to(h.dtype)
        out = torch.einsum("ipjq,bqj->bip", weight, h.flatten(2)) + self.bias
        return out.reshape(len(h), *self.event_shape, self.levels)


class LooksAhead(Linear):
    def __init__(self):
        super().__init__()
        self.mask.fill_(1)


class SkipsOne(Linear):
    def __init__(self):
        super().__init__()
        self.mask[3, 1] = 0


class WrongCache(Linear):
    def conditional(self, x, place, context=None, cache=None):
        logits = super().conditional(x, place, context)
        return logits if cache is None else logits.flip(-1)


class Unnormalized(Linear):
    def log_prob(self, x, context=None):
        return super().log_prob(x, context) + 0.1


class ForgetsTheCompletion(Linear):
    def complete(self, x, known, *args, **options):
        return super().complete(x, torch.zeros_like(known), *args, **options)


class BatchMean(Linear):
    def log_prob(self, x, context=None):
        log_p = super().log_prob(x, context)
        return log_p - log_p.mean()


@pytest.fixture
def linear(torch_seed):
    return Linear(order=[2, 0, 3, 1])


def test_a_right_model_has_every_property(linear):
    report = check_autoregressive(linear)
    assert [result.name for result in report.results] == list(AUTOREGRESSIVE_PROPERTIES)


@pytest.mark.parametrize(
    ("broken", "names"),
    [
        (LooksAhead, {"looks_only_back", "probabilities_sum_to_one"}),
        (SkipsOne, {"looks_at_everything_before"}),
        (WrongCache, {"cached_sampling_is_sampling", "samples_follow_the_probabilities"}),
        (Unnormalized, {"probabilities_sum_to_one", "log_prob_is_the_sum_of_conditionals"}),
        (ForgetsTheCompletion, {"completions_follow_the_conditional"}),
        (BatchMean, {"examples_are_independent"}),
    ],
)
def test_each_fault_is_named(broken, names, torch_seed):
    with pytest.raises(PropertyFailure) as failure:
        check_autoregressive(broken())
    failed = {line.split()[1] for line in str(failure.value).splitlines() if "FAIL" in line}
    assert names <= failed


def test_log_prob_is_the_product_of_the_conditionals(linear):
    x = torch.tensor([[[[0, 2], [1, 1]]]])
    flat = x.flatten()
    total = 0.0
    for k, index in enumerate([2, 0, 3, 1]):
        logits = linear.bias[index].clone()
        for earlier in [2, 0, 3, 1][:k]:
            logits += linear.weight[index, :, earlier, flat[earlier]]
        total += logits.softmax(0)[flat[index]].log().item()
    assert linear.log_prob(x).item() == pytest.approx(total, abs=1e-5)
    assert linear.bits_per_dim(x).item() == pytest.approx(bits_per_dim(-total, 4), abs=1e-5)


def test_dependencies_are_the_mask(linear):
    assert torch.equal(dependencies(linear), linear.mask.bool())


def test_the_noise_alone_decides_a_sample(linear):
    noise = torch.rand(3, 1, 2, 2)
    one, two = (linear.sample(3, noise=noise) for _ in range(2))
    assert torch.equal(one, two) and one.dtype == torch.int64
    # The first of the order is the smallest level whose cumulative probability passes the noise.
    first = linear.bias[2].softmax(0).cumsum(0)
    expected = [(first <= u).sum().item() for u in noise[:, 0, 1, 0]]
    assert one[:, 0, 1, 0].tolist() == expected


def test_a_low_temperature_draws_the_likeliest_levels(linear):
    samples = linear.sample(50, temperature=1e-4)
    assert len(samples.unique(dim=0)) == 1
    assert samples[0, 0, 1, 0] == linear.bias[2].argmax()


def test_a_completion_keeps_what_is_given(linear):
    x = torch.tensor([[[[0, 1], [2, 1]]]]).expand(20, 1, 2, 2)
    known = torch.tensor([[[True, False], [True, False]]])
    done = linear.complete(x, known)
    assert (done[:, 0, :, 0] == x[:, 0, :, 0]).all()
    with pytest.raises(ValueError, match="place 0 is unknown"):
        linear.complete(x, ~known)


def test_raster_goes_row_by_row_and_through_the_channels_of_each_pixel():
    order = raster((3, 2, 2))
    assert order == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert raster((4,)) == [0, 1, 2, 3]


def test_what_makes_no_sense_is_refused_with_a_reason(linear):
    with pytest.raises(ValueError, match="once"):
        Linear(order=[0, 1, 2, 2])
    with pytest.raises(ValueError, match="two levels"):
        Linear(levels=1)
    with pytest.raises(ValueError, match=r"expects examples of shape \(batch, 1, 2, 2\)"):
        linear.log_prob(torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match="integers in 0..2"):
        linear.log_prob(torch.full((1, 1, 2, 2), 3))
    with pytest.raises(NotImplementedError, match="must implement logits"):
        AutoregressiveModel((2,), 2).logits(torch.zeros(1, 1, 2))
