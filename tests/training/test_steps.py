"""Options that change how a step is computed, and not what: recomputed, compiled, channels last."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from torch import nn

from flowcourse import data
from flowcourse.bijector import Bijector, Compose, Inverse
from flowcourse.coupling import glow, realnvp
from flowcourse.foundations.change_of_variables import Linear, Tanh
from flowcourse.training import RunError, TrainingConfig, train
from flowcourse.training.checkpoint import load_optimizer, optimizer_tensors
from flowcourse.training.steps import compile_steps, recompute_steps

SHAPE, LEVELS = (1, 8, 8), 17
MODELS = {
    "realnvp": lambda: realnvp.build(
        SHAPE, LEVELS, couplings=2, final_couplings=2, hidden=6, blocks=1, dropout=0.3
    ),
    "glow": lambda: glow.build(SHAPE, LEVELS, scales=2, steps=2, hidden=6, dropout=0.3),
}


def moved(build):
    """A model whose last layers are no longer zero, in training mode."""
    torch.manual_seed(0)
    model = build().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def one_pass(model, x):
    """Values, gradients and buffers after a pass, and the random number that comes next."""
    model.zero_grad()
    torch.manual_seed(1)
    values = model(x)
    values.mean().backward()
    return [
        values.detach(),
        *(p.grad.clone() for p in model.parameters()),
        *(b.clone() for b in model.buffers()),
        torch.rand(1),
    ]


@pytest.fixture
def x(torch_seed):
    return torch.randint(LEVELS, (6, *SHAPE))


@pytest.mark.parametrize("name", MODELS)
def test_recomputing_changes_no_value_no_gradient_and_no_running_average(name, x):
    kept, recomputed = (moved(MODELS[name]) for _ in range(2))
    with torch.no_grad():  # actnorm sets itself up
        for model in (kept, recomputed):
            torch.manual_seed(2)
            model(x)
    recompute_steps(recomputed, True)
    before = [buffer.clone() for buffer in recomputed.buffers()]
    for ours, theirs in zip(one_pass(recomputed, x), one_pass(kept, x), strict=True):
        assert torch.equal(ours, theirs)
    if name == "realnvp":  # so that the running averages were really there to move twice
        assert not all(map(torch.equal, recomputed.buffers(), before))


def test_every_step_runs_twice_and_no_step_more_often(x):
    class Counting(Bijector):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.calls = []

        def forward(self, x, context=None):
            self.calls.append("forward")
            return x * self.scale.exp(), x.new_zeros(len(x))

        def inverse(self, z, context=None):
            self.calls.append("inverse")
            return z * (-self.scale).exp(), z.new_zeros(len(z))

    steps = [Counting() for _ in range(4)]
    inner = realnvp.FactorOut(Compose(steps[1], Inverse(steps[2])))
    flow = Compose(steps[0], Inverse(Compose(steps[3])), inner)
    recompute_steps(flow, True)
    flow(torch.rand(2, 2, 1, 1))[0].sum().backward()
    ways = ["forward", "forward", "inverse", "inverse"]
    assert [s.calls for s in steps] == [[way] * 2 for way in ways]
    with torch.no_grad():
        flow(torch.rand(2, 2, 1, 1))
    assert [len(s.calls) for s in steps] == [3] * 4


def test_the_generative_direction_is_recomputed_too(torch_seed):
    flow, z = Compose(Linear(3), Tanh(), Linear(3)), 0.1 * torch.rand(4, 3)
    gradients = []
    for recompute in (False, True):
        recompute_steps(flow, recompute)
        flow.zero_grad()
        flow.inverse(z)[0].sum().backward()
        gradients.append([p.grad for p in flow.parameters()])
    assert all(map(torch.equal, *gradients))


def test_models_without_steps_are_refused_and_told_what_to_do(histogram, counts):
    options = TrainingConfig(steps=1, batch_size=8, accelerator="cpu", recompute=True)
    with pytest.raises(RunError, match="Histogram holds none: raise micro_batches"):
        train(histogram(), counts, options, verbose=False)


def digits_run(name, folder=None, steps=4, **options):
    digits = data.load("digits")
    torch.manual_seed(0)
    config = TrainingConfig(
        steps=steps, batch_size=8, accelerator="cpu", log_every=1, checkpoint_every=2, **options
    )
    return train(MODELS[name](), digits, config, folder, verbose=False)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("option", ["recompute", "channels_last"])
def test_training_has_the_same_losses_with_and_without(name, option):
    # Data-dependent initialisation, dropout, noise and running averages are all in these models.
    plain, other = digits_run(name), digits_run(name, **{option: True})
    tolerance = 0 if option == "recompute" else 1e-4  # another layout adds in another order
    for row, expected in zip(other.history, plain.history, strict=True):
        assert row["nats"] == pytest.approx(expected["nats"], rel=tolerance, abs=0)
    if option == "recompute":
        weights = other.model.state_dict()
        for key, expected in plain.model.state_dict().items():
            assert torch.equal(weights[key], expected)
    assert not any(m.recompute for m in other.model.modules() if isinstance(m, Compose))


def test_a_run_may_be_continued_with_other_options(tmp_path):
    class Stop(Exception):
        pass

    digits = data.load("digits")
    options = TrainingConfig(
        steps=4, batch_size=8, accelerator="cpu", log_every=1, checkpoint_every=2
    )
    torch.manual_seed(0)
    model = MODELS["realnvp"]()
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) > 1 + 3 * options.micro_batches:  # one pass initialises
            raise Stop

    model.register_forward_pre_hook(stop)
    with pytest.raises(Stop):
        train(model, digits, options, tmp_path, verbose=False)
    torch.manual_seed(0)
    other = replace(options, recompute=True, channels_last=True)
    continued = train(MODELS["realnvp"](), digits, other, tmp_path, verbose=False)
    whole = digits_run("realnvp")
    for row, expected in zip(continued.history, whole.history, strict=True):
        assert row["nats"] == pytest.approx(expected["nats"], rel=1e-4)


def test_the_optimizer_is_loaded_into_the_layout_of_the_weights(torch_seed):
    def conv(memory_format):
        model = nn.Conv2d(3, 4, 3).to(memory_format=memory_format)
        return model, torch.optim.AdamW(model.parameters())

    model, optimizer = conv(torch.contiguous_format)
    model(torch.rand(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    saved = optimizer_tensors(optimizer, model)
    model, optimizer = conv(torch.channels_last)
    load_optimizer(optimizer, model, saved)
    average = optimizer.state[model.weight]["exp_avg"]
    assert average.stride() == model.weight.stride() != saved["weight/exp_avg"].stride()
    assert torch.equal(average, saved["weight/exp_avg"])


def test_compiled_steps_give_the_same_values_and_gradients(torch_seed, monkeypatch):
    # What checks shapes in tests cannot be compiled; outside tests nothing checks them.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    points = torch.randn(5, 2)

    def build():
        return realnvp.build((2,), None, couplings=1, hidden=4, blocks=1, dropout=0.3)

    plain, compiled = moved(build), moved(build)
    compile_steps(compiled)
    recompute_steps(compiled, True)
    for ours, theirs in zip(one_pass(compiled, points), one_pass(plain, points), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
