import pytest
import torch
from torch import nn

from flowcourse.training import ExponentialMovingAverage


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        self.tied = self.weight
        self.register_buffer("running", torch.zeros(1))


def averaged(decay, values):
    model = Model()
    ema = ExponentialMovingAverage(model, decay)
    for step, value in enumerate(values):
        with torch.no_grad():
            model.weight.copy_(value)
            model.running.fill_(step)
        ema.update(step)
    return model, ema


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.99])
def test_the_average_is_the_weighted_sum_that_its_decays_give(decay):
    values = torch.randn(12, 2, dtype=torch.float64)
    _, ema = averaged(decay, values)
    decays = torch.tensor([min(decay, (1 + t) / (10 + t)) for t in range(12)], dtype=torch.float64)
    # The value of step t has weight (1 - d_t) times all later decays; the start, all decays.
    kept = torch.stack([decays[t + 1 :].prod() for t in range(12)])
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    expected = ((1 - decays) * kept) @ values + decays.prod() * start
    torch.testing.assert_close(ema.weights()["weight"], expected, rtol=1e-12, atol=1e-12)


def test_no_decay_keeps_the_last_weights():
    values = torch.randn(5, 2, dtype=torch.float64)
    _, ema = averaged(0.0, values)
    assert torch.equal(ema.weights()["weight"], values[-1])


def test_buffers_are_taken_as_they_are_and_tied_weights_under_each_name():
    _, ema = averaged(0.9, torch.randn(4, 2, dtype=torch.float64))
    weights = ema.weights()
    assert weights["running"].item() == 3
    assert torch.equal(weights["tied"], weights["weight"])
    Model().load_state_dict(weights)


def test_the_average_is_no_view_of_the_weights():
    model, ema = averaged(0.9, torch.randn(2, 2, dtype=torch.float64))
    before = ema.weights()["weight"].clone()
    with torch.no_grad():
        model.weight.zero_()
    assert torch.equal(ema.weights()["weight"], before)
