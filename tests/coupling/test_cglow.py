"""Conditional Glow against autograd, numpy, integrals and sums; the contract is tested for all."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from flowcourse import cli
from flowcourse.bijector import Bijector, Compose
from flowcourse.catalog import perturbed
from flowcourse.coupling.cglow import (
    ConditionalActNorm,
    ConditionalConv1x1,
    ConditionedConvNet,
    ConditionNet,
    EncodeCondition,
    build,
    nothing,
    samples_given,
)
from flowcourse.coupling.cglow_inpaint import inpaint, nearest_samples
from flowcourse.coupling.realnvp import AffineCoupling, channelwise
from flowcourse.data import Dataset
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.likelihood import DequantizedFlow
from flowcourse.testing import autograd_log_det
from flowcourse.training import TrainingConfig, train

pytestmark = pytest.mark.usefixtures("torch_seed")
SMALL = dict(condition_channels=4, condition_hidden=8, hidden=8, steps=2)


def generated(outputs: int) -> nn.Module:
    """A network of a condition of two numbers."""
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, outputs)).double()


class Given(nn.Module):
    """The condition is the parameters themselves."""

    def forward(self, context):
        return context


def small(shape, levels=None, seed=0, **options):
    torch.manual_seed(seed)
    return build(shape, levels, **SMALL | options)


# The generated layers


def test_conditional_actnorm_scales_and_shifts_by_what_its_network_says_for_each_example():
    raw = torch.randn(4, 6).double()
    y = torch.randn(4, 3, 2, 5).double()
    z, log_det = ConditionalActNorm(Given())(y, raw)
    for i in range(4):
        scale = torch.exp(torch.tanh(raw[i, :3]))
        for c in range(3):
            torch.testing.assert_close(z[i, c], scale[c] * y[i, c] + raw[i, 3 + c])
        assert log_det[i].item() == pytest.approx(10 * np.log(scale.numpy()).sum())


@pytest.mark.parametrize("form", ["lu", "direct"])
def test_the_conditional_convolution_multiplies_every_pixel_by_the_matrix_of_its_example(form):
    layer = ConditionalConv1x1(generated(9), 3, form).double()
    y, context = torch.randn(4, 3, 2, 5).double(), torch.randn(4, 2).double()
    z, log_det = layer(y, context)
    weight = layer.weight(context)[0].detach().numpy()
    for i in range(4):
        expected = weight[i] @ y[i].reshape(3, 10).numpy()
        np.testing.assert_allclose(z[i].detach().reshape(3, 10).numpy(), expected)
        sign, value = np.linalg.slogdet(weight[i])
        assert log_det[i].item() == pytest.approx(10 * value)
        assert form == "direct" or sign == 1
    assert np.std(log_det.detach().numpy()) > 0.1


@pytest.mark.parametrize("form", ["lu", "direct"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_log_dets_are_those_of_autograd_for_each_example_under_its_own_condition(channels, form):
    y, context = torch.randn(5, channels, 2, 1).double(), torch.randn(5, 2).double()
    net = generated(2 * 2 * channels)

    def coupled(passed, condition):
        h = net(condition)[:, :, None, None]
        return h[:, : 2 * channels] + h[:, 2 * channels :] * passed.repeat(1, 2, 1, 1)

    for layer in (
        ConditionalActNorm(generated(2 * channels)),
        ConditionalConv1x1(generated(channels**2), channels, form),
        AffineCoupling(coupled, nothing, channels),
        AffineCoupling(coupled, channelwise(0), channels),
    ):
        layer = layer.double()
        torch.testing.assert_close(layer(y, context)[1], autograd_log_det(layer, y, context))


def test_everything_that_is_generated_starts_as_the_identity():
    y, context = torch.randn(3, 4, 2, 2), torch.randn(3, 1, 5, 7)
    nets = [ConditionNet((1, 5, 7), 4, 8, outputs) for outputs in (8, 16)]
    for layer in (
        ConditionalActNorm(nets[0]),
        ConditionalConv1x1(nets[1], 4),
        ConditionalConv1x1(nets[1], 4, "direct"),
        AffineCoupling(ConditionedConvNet(4, 1, 3, 8, 8), channelwise(0), 4),
    ):
        z, log_det = layer(y, context)
        torch.testing.assert_close(z, y)
        assert torch.equal(log_det, torch.zeros(3))


def test_factors_stay_invertible_where_a_matrix_generated_directly_does_not():
    # I + tanh of this is a matrix of ones.
    raw = torch.tensor([[-0.0, 50.0, 50.0, -0.0]]).double()
    y = torch.randn(1, 2, 2, 2).double()
    direct = ConditionalConv1x1(Given(), 2, "direct")
    assert direct.weight(raw)[1] == -math.inf
    for size in (50.0, 1e6):
        for signs in torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4).double():
            layer, context = ConditionalConv1x1(Given(), 2), size * signs[None]
            z, log_det = layer(y, context)
            assert abs(log_det.item()) <= 4 * 2 + 1e-12
            torch.testing.assert_close(layer.inverse(z, context)[0], y)


def test_the_condition_of_a_coupling_may_have_any_size():
    net = perturbed(ConditionedConvNet(2, 3, 4, 8, 5))
    for height, width in ((1, 1), (3, 8), (16, 2)):
        assert net(torch.randn(2, 2, 4, 2), torch.randn(2, 3, height, width)).shape == (2, 5, 4, 2)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 8), (2, 7, 9), (1, 32, 32)])
def test_a_condition_net_reads_pictures_of_any_size_and_starts_at_zero(shape):
    net = ConditionNet(shape, 4, 8, 6)
    x = torch.randn(2, *shape)
    assert torch.equal(net(x), torch.zeros(2, 6))
    assert (perturbed(net)(x)[0] != net(x)[1]).any()


# The model


@pytest.mark.parametrize("generate", [("actnorm",), ("conv",), ("coupling",)])
def test_each_kind_of_layer_brings_the_condition_in(generate):
    flow = small((1, 4, 4), generate=generate)
    perturbed(flow)
    y, context = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    assert ((flow.log_prob(y, context) - flow.log_prob(y, context.flip(0))).abs() > 1e-4).all()


def test_without_generated_layers_the_condition_makes_no_difference():
    flow = small((1, 4, 4), generate=())
    perturbed(flow)
    y, context = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    assert torch.equal(flow.log_prob(y, context), flow.log_prob(y, context.flip(0)))


def test_a_condition_of_any_range_is_brought_to_the_unit_interval():
    seen = []

    class Spy(Compose):
        def forward(self, x, context=None):
            seen.append(context)
            return super().forward(x, context)

    layer = EncodeCondition(Spy(ConditionalActNorm(Given())), levels=17)
    layer(torch.randn(2, 1, 1, 1).double(), torch.tensor([[0, 16], [8, 4]], dtype=torch.uint8))
    assert seen[0].dtype == torch.float64 and seen[0].tolist() == [[-1, 1], [0, -0.5]]


@pytest.mark.parametrize(("context", "found"), [(None, "none"), (torch.zeros(1, 1, 4, 4), "1")])
def test_a_missing_condition_is_an_error(context, found):
    model = small((1, 4, 4), 17)
    with pytest.raises(ValueError, match=f"each of 3 examples, and got {found}"):
        model(torch.zeros(3, 1, 4, 4), context)


def test_unknown_layers_and_vectors_are_refused():
    with pytest.raises(ValueError, match=r"got \(5,\) and"):
        build((5,), 17)
    with pytest.raises(ValueError, match="'convolution'"):
        build((1, 4, 4), 17, generate=("convolution",))


def test_every_condition_has_a_density_of_mass_one():
    net = generated(2 * 2)

    def coupled(passed, condition):
        return net(condition)[:, :, None, None] * (1 + passed.repeat(1, 2, 1, 1))

    flow = Flow(
        Compose(
            ConditionalActNorm(generated(4)),
            ConditionalConv1x1(generated(4), 2),
            AffineCoupling(coupled, channelwise(0), 2),
        ),
        StandardNormal(2, 1, 1),
    ).double()
    axis = torch.linspace(-20, 20, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)[:, :, None, None]
    masses, peaks = [], []
    for condition in torch.tensor([[0.0, 0.0], [2.0, -1.0], [-1.0, 3.0]]).double():
        with torch.no_grad():
            p = flow.log_prob(grid, condition.expand(len(grid), 2)).exp()
        masses.append(p.sum().item() * (axis[1] - axis[0]).item() ** 2)
        peaks.append(p.argmax().item())
    np.testing.assert_allclose(masses, 1, atol=1e-3)
    assert len(set(peaks)) == 3


STATES = torch.cartesian_prod(*[torch.arange(2)] * 4).reshape(16, 1, 2, 2)


def tiny(condition: float, points: int = 8192) -> tuple[DequantizedFlow, torch.Tensor]:
    """A model of four binary pixels, and the probability of each of their 16 states."""
    model = small((1, 2, 2), 2, scales=1, condition_shape=(1, 1, 1)).eval()
    perturbed(model, 0.3)
    # The mass of a unit cube is the mean density at evenly spread points of it.
    spread = torch.quasirandom.SobolEngine(4, scramble=True, seed=0).draw(points)
    y = (STATES[:, None] + spread.reshape(points, 1, 2, 2)).flatten(0, 1)
    with torch.no_grad():
        density = model.flow.log_prob(y, torch.full((len(y), 1, 1, 1), condition)).double().exp()
    return model, density.reshape(16, points).mean(dim=1)


def test_probabilities_of_all_images_add_up_to_one_under_every_condition():
    for value in (-2.0, 3.0):
        _, p = tiny(value)
        # The preprocessing leaves a little density outside of the cubes.
        assert p.sum().item() == pytest.approx(1, abs=0.04)


def test_samples_have_the_probabilities_of_their_own_condition():
    n, values, probabilities = 2000, (-2.0, 3.0), []
    conditions = torch.tensor(values).repeat(n)[:, None, None, None]
    for i, value in enumerate(values):
        model, p = tiny(value)
        x = model.sample(2 * n, context=conditions)[i::2].flatten(1)
        state = (x * torch.tensor([8, 4, 2, 1])).sum(dim=1)
        found = torch.bincount(state, minlength=16) / n
        probabilities.append(p)
        assert (found - p).abs().max() < 5 * (0.25 / n) ** 0.5
    assert (probabilities[0] - probabilities[1]).abs().max() > 0.1


def test_several_samples_stand_under_their_condition():
    model = small((1, 4, 4), None, condition_shape=(1, 4, 4))
    perturbed(model)
    context = torch.randn(3, 1, 4, 4)
    torch.manual_seed(1)
    drawn = samples_given(model, context, draws=5)
    assert drawn.shape == (5, 3, 1, 4, 4)
    torch.manual_seed(1)
    z = torch.randn(15, 1, 4, 4)
    for draw, row in ((0, 0), (2, 1), (4, 2)):
        i = 3 * draw + row
        with torch.no_grad():
            alone, _ = model.bijector.inverse(z[i : i + 1], context[row : row + 1])
        torch.testing.assert_close(drawn[draw, row], alone[0])


def test_training_reaches_the_known_conditional_entropy():
    x = torch.rand(2000, 1, 2, 2) * 2 - 1
    y = x + 0.2 * torch.randn(x.shape)
    pairs = Dataset("pairs", y, y[:2], None, (1, 2, 2), train_conditions=x, test_conditions=x[:2])
    options = SMALL | dict(scales=1, hidden=16, steps=2, condition_channels=16)
    model = build(pairs.event_shape, None, **options)
    config = TrainingConfig(
        steps=400, batch_size=128, micro_batches=1, learning_rate=1e-2, accelerator="cpu", ema=0
    )
    found = np.mean(
        [row["nats"] for row in train(model, pairs, config, verbose=False).history[-5:]]
    )
    entropy = 4 * 0.5 * math.log(2 * math.pi * math.e * 0.2**2)
    assert entropy - 0.2 < found < entropy + 0.4
    # Noise only adds to the entropy of x itself, so no model does better without the condition.
    assert 4 * math.log(2) > entropy + 1


@pytest.mark.parametrize("data", ["digit_halves", "noisy_digits"])
def test_the_command_line_trains_evaluates_and_samples_pairs(data, tmp_path, capsys):
    folder = tmp_path / "run"
    options = "steps=2 batch_size=8 model.hidden=8 model.steps=1 model.condition_channels=2"
    line = f"train cglow --data {data} --device cpu --out {folder} --preset laptop".split()
    for option in options.split():
        line += ["--set", option]
    assert cli.main(line) == 0
    assert cli.main(f"evaluate {folder} --draws 2 --repeats 1 --device cpu".split()) == 0
    assert json.loads((folder / "evaluation.json").read_text())["kind"] == "bound"
    assert cli.main(f"sample {folder} --n 6".split()) == 0
    shape = (6, 1, 4, 8) if data == "digit_halves" else (6, 1, 8, 8)
    assert np.load(folder / "samples.npy").shape == shape
    assert (folder / "samples.png").exists()
    capsys.readouterr()


# Inpainting with an unconditional flow


class Correlated(DequantizedFlow):
    """Two pixels of which the flow says: normal around the middle, with a known correlation."""

    def __init__(self, levels: int, deviation: float, correlation: float):
        covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]]).double()
        root = torch.linalg.cholesky(deviation**2 * covariance)

        class Whiten(Bijector):
            def forward(self, y, context=None):
                z = torch.linalg.solve(root, (y.flatten(1) - levels / 2).T).T
                return z.reshape(y.shape), -torch.logdet(root).expand(len(y))

        flow = Flow(Whiten(), StandardNormal(1, 1, 2))
        super().__init__(flow.double(), levels)
        self.anchor = nn.Parameter(torch.zeros(1).double())


def test_the_chain_finds_the_conditional_distribution_of_a_gaussian():
    model = Correlated(levels=16, deviation=2.0, correlation=0.8)
    known = torch.tensor([[[True, False]]])
    images = torch.tensor([10, 8]).expand(400, 1, 1, 2)
    result = inpaint(model, images, known, steps=120, step_size=0.5)
    assert torch.equal(result.images[..., 0], images[..., 0])
    free = result.images[..., 1].double()
    # The known pixel lies in [10, 11); y given x is normal, and rounding down costs a half.
    mean = 8 + 0.8 * (10.5 - 8) - 0.5
    deviation = 2.0 * (1 - 0.8**2) ** 0.5
    variance = deviation**2 + 0.8**2 / 12 + 1 / 12
    assert free.mean().item() == pytest.approx(mean, abs=5 * (variance / 400) ** 0.5)
    assert free.var().item() == pytest.approx(variance, rel=0.3)
    assert 0.4 < result.acceptance.mean() < 0.8
    assert result.log_density.shape == (120, 400)


def test_the_nearest_sample_fills_only_what_is_missing():
    levels = 5
    model = small((1, 2, 2), levels, scales=1, generate=())

    def sample(n, **ignored):
        torch.manual_seed(0)
        return torch.randint(levels, (n, 1, 2, 2))

    model.sample = sample
    images = torch.tensor([[0, 0], [9, 9]]).expand(2, 1, 2, 2)
    known = torch.tensor([[[True, True], [False, False]]])
    filled = nearest_samples(model, images, known, candidates=40)
    drawn = sample(40).reshape(2, 20, 1, 2, 2)
    for i in range(2):
        nearest = drawn[i, drawn[i, :, 0, 0].square().sum(dim=1).argmin()]
        assert torch.equal(filled[i, :, 0], images[i, :, 0])
        assert torch.equal(filled[i, :, 1], nearest[:, 1])


def test_a_chain_of_one_step_is_refused():
    model = Correlated(4, 1.0, 0.0)
    with pytest.raises(ValueError, match="two steps or more, and got steps=1"):
        inpaint(model, torch.zeros(1, 1, 1, 2).long(), torch.ones(1, 1, 2).bool(), steps=1)
