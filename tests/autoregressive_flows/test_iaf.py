"""IAF and WaveNet against autograd, closed forms and loops; the contract is tested for all."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.func import jacrev, vmap
from torch.utils.flop_counter import FlopCounterMode

from flowcourse import catalog
from flowcourse.autoregressive_flows.iaf import Constant, GatedTransformer, build
from flowcourse.autoregressive_flows.iaf_distillation import (
    fit_reverse_kl,
    log_ratios,
    power_loss,
    spectrum,
)
from flowcourse.autoregressive_flows.iaf_wavenet import (
    GatedLayer,
    WaveNetConditioner,
    receptive_field,
)
from flowcourse.autoregressive_flows.maf import (
    AffineTransformer,
    Autoregressive,
    Conditioner,
    MaskedConditioner,
)
from flowcourse.bijector import Inverse
from flowcourse.catalog import perturbed
from flowcourse.flow import Flow, StandardNormal

pytestmark = pytest.mark.usefixtures("torch_seed")


def moved(model, scale: float = 0.3):
    """The same model with all parameters moved off their start, in double precision."""
    perturbed(model, scale)
    return model.double().eval()


def wavenet(dims: int = 12, dilations=(1, 2, 4), **options) -> WaveNetConditioner:
    return moved(WaveNetConditioner(dims, 2, dilations, channels=4, **options), 0.4)


def multiplications(function) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops() // 2


# The gated transformer


def test_a_gate_mixes_the_number_with_a_target():
    x, target, raw = torch.randn(3, 4, 5, dtype=torch.float64)
    y, log_det = GatedTransformer(forget=2.0)(x, torch.cat([target, raw], dim=1))
    gate = 1 / (1 + (-2 - 7 * (raw / 7).tanh()).exp())
    torch.testing.assert_close(y, gate * x + (1 - gate) * target)
    torch.testing.assert_close(log_det, gate.log().sum(dim=1))


def test_gates_never_expand_and_a_large_bias_leaves_everything_as_it_is():
    x, parameters = torch.randn(50, 3), 10 * torch.randn(50, 6)
    _, log_det = GatedTransformer()(x, parameters)
    assert (log_det <= 0).all()
    y, _ = GatedTransformer(forget=30.0)(x, torch.randn(50, 6))
    torch.testing.assert_close(y, x)


def test_no_gate_is_so_closed_that_the_way_back_overflows():
    x = torch.randn(4, 3)
    for raw in (-1e9, 1e9):
        parameters = torch.full((4, 6), raw).index_fill(1, torch.arange(3), 0.5)
        y, _ = GatedTransformer()(x, parameters)
        back, log_det = GatedTransformer().inverse(y, parameters)
        torch.testing.assert_close(back, x, atol=1e-3, rtol=1e-3)
        assert log_det.isfinite().all()


# The same map, read in two ways


@pytest.mark.parametrize("transformer", ["gated", "affine"])
@pytest.mark.parametrize("nets", [dict(hidden=[9]), dict(dilations=[1, 2], channels=3)], ids=str)
def test_maf_and_iaf_with_the_same_weights_are_inverses(transformer, nets):
    maf, iaf = (
        moved(build((5,), None, reads=r, layers=3, transformer=transformer, **nets))
        for r in ("data", "noise")
    )
    for ours, theirs in zip(iaf.parameters(), maf.parameters(), strict=True):
        ours.data.copy_(theirs)
    x = torch.randn(6, 5, dtype=torch.float64)
    for ours, theirs in zip(
        iaf.bijector.inverse(x) + iaf.bijector(x),
        maf.bijector(x) + maf.bijector.inverse(x),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def triangular_layer(A: torch.Tensor, b: torch.Tensor, alpha: torch.Tensor) -> Autoregressive:
    """u -> (u - A u - b) exp(-alpha), with A strictly lower triangular."""
    net = MaskedConditioner(len(b), 2, []).double()
    with torch.no_grad():
        net.layers[0].weight.copy_(torch.cat([A, torch.zeros_like(A)]))
        net.layers[0].bias.copy_(torch.cat([b, 7 * torch.atanh(alpha / 7)]))
    return Autoregressive(net, AffineTransformer())


def linear_case(dims: int = 4):
    A = torch.randn(dims, dims, dtype=torch.float64).tril(-1)
    b, alpha = torch.randn(2, dims, dtype=torch.float64)
    factor = (-alpha).exp().diag() @ (torch.eye(dims) - A)
    return triangular_layer(A, b, alpha), factor, -(-alpha).exp() * b


def test_a_linear_iaf_is_the_gaussian_that_its_matrix_makes_of_noise():
    layer, factor, mean = linear_case()
    flow = Flow(Inverse(layer), StandardNormal(4)).double()
    x = torch.randn(20, 4, dtype=torch.float64)
    theirs = MultivariateNormal(mean, covariance_matrix=factor @ factor.T)
    torch.testing.assert_close(flow.log_prob(x), theirs.log_prob(x))


def test_the_divergence_from_maf_is_the_divergence_from_the_base():
    """Closed forms on both sides: all three densities are Gaussian."""
    layer, factor, mean = linear_case()
    root = torch.randn(4, 4, dtype=torch.float64)
    data = MultivariateNormal(torch.randn(4).double(), covariance_matrix=root @ root.T + 0.5)
    inverse = torch.linalg.inv(factor)
    model = MultivariateNormal(-inverse @ mean, covariance_matrix=inverse @ inverse.T)
    noise = MultivariateNormal(
        factor @ data.mean + mean, covariance_matrix=factor @ data.covariance_matrix @ factor.T
    )
    base = MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double())
    torch.testing.assert_close(kl_divergence(data, model), kl_divergence(noise, base))
    # The code's own density is the Gaussian of the left side, and what it makes of the data has
    # pointwise the ratio of the right side.
    x = data.sample((10,))
    u, _ = layer(x)
    maf = Flow(layer, StandardNormal(4)).double()
    torch.testing.assert_close(maf.log_prob(x), model.log_prob(x))
    torch.testing.assert_close(
        data.log_prob(x) - maf.log_prob(x), noise.log_prob(u) - base.log_prob(u)
    )


@pytest.mark.parametrize("reads", ["noise", "data"])
def test_own_samples_are_scored_by_their_noise(reads):
    flow = moved(build((5,), None, reads=reads, layers=2, hidden=[9], context=2))
    context = torch.randn(7, 2, dtype=torch.float64)
    torch.manual_seed(1)
    x, log_q = flow.rsample_and_log_prob(7, context)
    torch.manual_seed(1)
    torch.testing.assert_close(flow.rsample(7, context), x)
    torch.testing.assert_close(log_q, flow.log_prob(x, context))
    # The gradient is that of log q(x(theta); theta), through both of its arguments.
    parameters = list(flow.parameters())
    ours = torch.autograd.grad(log_q.sum(), parameters, retain_graph=True)
    theirs = torch.autograd.grad(flow.log_prob(x, context).sum(), parameters)
    torch.testing.assert_close(ours, theirs)


def test_what_is_sequential_is_only_the_way_to_the_noise():
    flow = build((6,), None, layers=2, hidden=[9])
    calls = {"passes": 0, "steps": 0}
    for net in flow.modules():
        if isinstance(net, MaskedConditioner):
            net.register_forward_hook(lambda *_: calls.update(passes=calls["passes"] + 1))

            def counted(*arguments, steps=net.one_by_one, blocks=net.blocks):
                calls["steps"] += len(blocks)
                return steps(*arguments)

            net.one_by_one = counted
    flow.sample(3)
    assert calls == {"passes": 2, "steps": 0}
    x, _ = flow.rsample_and_log_prob(3)
    assert calls == {"passes": 4, "steps": 0}
    flow.log_prob(x)
    assert calls == {"passes": 4, "steps": 2 * 6}


def test_layers_in_one_order_are_one_layer_as_deep():
    """In one order each number is an affine function of its own noise; reversed, it is not."""
    z = torch.randn(5, dtype=torch.float64)

    def second_derivatives(flow):
        def own(d, value):
            moved_z = torch.where(torch.arange(5) == d, value, z)
            return flow.bijector.inverse(moved_z[None])[0][0, d]

        return [jacrev(jacrev(lambda v, d=d: own(d, v)))(z[d]).item() for d in range(5)]

    torch.manual_seed(2)
    smooth = dict(layers=3, dilations=[1, 2], channels=4, transformer="affine")
    one_order = second_derivatives(moved(build((5,), None, reverse=False, **smooth)))
    reversed_order = second_derivatives(moved(build((5,), None, **smooth)))
    assert max(map(abs, one_order)) < 1e-12 < 1e-6 < max(map(abs, reversed_order))


# WaveNet


@pytest.mark.parametrize(
    ("kernel", "dilations"),
    [(2, [1]), (2, [1, 2, 4]), (3, [1, 2]), (2, [3]), (1, [1, 1]), (3, [2, 1])],
)
def test_parameters_depend_on_the_receptive_field_and_on_nothing_else(kernel, dilations):
    dims = 14
    net = wavenet(dims, dilations, kernel=kernel)
    # With positive weights no two paths cancel, and with large ones no unit is off.
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.abs_()
    x = torch.randn(dims, dtype=torch.float64)
    depends = jacrev(lambda v: net(v[None])[0])(x).unflatten(0, (2, dims)) != 0
    reach = receptive_field(dilations, kernel)
    legal = torch.ones(dims, dims).tril(-1).triu(-reach).bool()
    # Gaps between taps: all of the field is seen only where dilations fill it.
    assert not (depends & ~legal).any()
    latest, oldest = depends.diagonal(-1, 1, 2), depends.diagonal(-reach, 1, 2)
    assert latest.all() and oldest.all() and oldest.shape[1] == dims - reach
    if dilations != [3]:
        assert torch.equal(depends[0], legal) and torch.equal(depends[1], legal)


def test_a_gated_layer_is_the_loop_that_the_paper_draws():
    channels, kernel, dilation, time = 3, 3, 2, 9
    layer = moved(GatedLayer(channels, kernel, dilation), 0.5)
    h = torch.randn(1, channels, time, dtype=torch.float64)
    given = torch.randn(1, 2 * channels, 1, dtype=torch.float64)
    W, c = (p.detach().numpy() for p in (layer.taps.weight, layer.taps.bias))
    V, e = (p.detach().numpy() for p in (layer.out.weight[:, :, 0], layer.out.bias))
    x, more = h[0].numpy(), given[0, :, 0].numpy()
    ours, skip = layer(h, given)
    for t in range(time):
        sums = c + more
        for tap in range(kernel):
            before = t - (kernel - 1 - tap) * dilation
            if before >= 0:
                sums = sums + W[:, :, tap] @ x[:, before]
        a, b = np.split(sums, 2)
        out = V @ (np.tanh(a) / (1 + np.exp(-b))) + e
        np.testing.assert_allclose(ours[0, :, t].detach(), x[:, t] + out[:channels])
        np.testing.assert_allclose(skip[0, :, t].detach(), out[channels:])


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize(
    "options", [dict(), dict(kernel=3), dict(context=2), dict(classes=3), dict(dilations=[3, 1])],
    ids=str,
)  # fmt: skip
def test_queues_give_what_whole_passes_give(options, gradients):
    layer = Autoregressive(wavenet(**options), AffineTransformer())
    z = torch.randn(5, 12, dtype=torch.float64)
    context = None
    if "context" in options:
        context = torch.randn(5, 2, dtype=torch.float64)
    elif "classes" in options:
        context = torch.arange(5) % 3
    with torch.set_grad_enabled(gradients):
        found = layer.inverse(z, context)
    torch.testing.assert_close(layer(found[0], context)[0], z)
    steps = Conditioner.one_by_one(layer.conditioner, z, context)
    layer.conditioner.one_by_one = lambda *_: steps
    torch.testing.assert_close(layer.inverse(z, context), found)


def test_every_unit_of_a_wavenet_is_computed_once():
    dims, channels, dilations = 16, 4, (1, 2, 4)
    layer = Autoregressive(wavenet(dims, dilations), AffineTransformer())
    z = torch.randn(1, dims, dtype=torch.float64)
    of_a_layer = 2 * channels * channels * 2 + 2 * channels * channels
    of_a_number = channels + len(dilations) * of_a_layer + channels**2 + 2 * channels
    one_pass = multiplications(lambda: layer(z))
    assert one_pass == dims * of_a_number
    # One reading more: that of the last number, which the generator never gets, is saved, but the
    # zeros at the start are read to learn their shape.
    assert multiplications(lambda: layer.inverse(z)) == one_pass
    layer.conditioner.one_by_one = lambda *given: Conditioner.one_by_one(layer.conditioner, *given)
    assert multiplications(lambda: layer.inverse(z)) == dims * one_pass


@pytest.mark.parametrize("options", [dict(context=2), dict(classes=3)], ids=str)
def test_every_number_of_a_series_sees_the_context(options):
    net = wavenet(6, **options)
    context = torch.randn(40, 2).double() if "context" in options else torch.arange(40) % 3
    x = torch.randn(40, 6, dtype=torch.float64)
    # At one series a ReLU may be off, and is not at all of them.
    change = net(x, context) - net(x, context.roll(1, 0))
    assert (change.abs().amax(dim=0) > 1e-6).all()
    with pytest.raises(ValueError, match="one row for each of the 40 examples, and got none"):
        net(x)


def test_a_zero_is_not_the_same_as_nothing_before_the_start():
    net = wavenet(6)
    of_zeros = net(torch.zeros(1, 6, dtype=torch.float64)).unflatten(1, (2, 6))[0, 0]
    assert all(abs(a - b) > 1e-6 for a, b in pairwise(of_zeros[:4].tolist()))


# Reverse KL


def gaussian(dims: int = 3) -> MultivariateNormal:
    root = torch.randn(dims, dims).tril(-1).double() + 0.7 * torch.eye(dims)
    return MultivariateNormal(torch.randn(dims).double(), scale_tril=root)


def test_the_estimate_is_the_divergence_of_two_gaussians_less_the_normalizer():
    layer, factor, mean = linear_case(3)
    q = MultivariateNormal(mean, covariance_matrix=factor @ factor.T)
    p, log_z = gaussian(), 4.0
    flow = Flow(Inverse(layer), StandardNormal(3)).double()
    with torch.no_grad():
        ratios = log_ratios(flow, lambda x: p.log_prob(x) + log_z, 40_000)
    error = ratios.std() / 40_000**0.5
    assert abs(ratios.mean() - (kl_divergence(q, p) - log_z)) < 6 * error


def test_a_flow_that_fits_learns_the_normalizer():
    p, log_z = gaussian(), 4.0
    flow = build((3,), None, layers=1, transformer="affine", hidden=[]).double()
    losses = fit_reverse_kl(flow, lambda x: p.log_prob(x) + log_z, steps=300, learning_rate=0.05)
    with torch.no_grad():
        ratios = log_ratios(flow, lambda x: p.log_prob(x) + log_z, 2000)
    # At the optimum every single sample says log Z: no variance is left.
    assert losses[0] > -log_z + 0.5
    assert ratios.mean().item() == pytest.approx(-log_z, abs=2e-2) and ratios.std() < 0.1


def test_the_gradient_is_that_of_the_closed_form():
    p = gaussian()
    flow = build((3,), None, layers=0).double()
    with torch.no_grad():
        next(flow.parameters()).copy_(torch.randn(6))
    mean, raw = next(flow.parameters()).chunk(2)
    q = MultivariateNormal(mean, scale_tril=(7 * torch.tanh(raw / 7)).exp().diag())
    (theirs,) = torch.autograd.grad(kl_divergence(q, p), flow.parameters())
    n, rounds = 4000, 20
    found = [
        torch.autograd.grad(log_ratios(flow, p.log_prob, n).mean(), flow.parameters())[0]
        for _ in range(rounds)
    ]
    found = torch.stack(found)
    error = found.std(dim=0) / rounds**0.5
    assert ((found.mean(dim=0) - theirs).abs() < 6 * error + 1e-9).all()


def test_the_teacher_is_frozen_and_gradients_pass_through_it():
    teacher = moved(build((4,), None, reads="data", layers=2, hidden=[8]))
    student = build((4,), None, layers=2, hidden=[8]).double()
    before = copy.deepcopy(teacher.state_dict()), copy.deepcopy(student.state_dict())
    fit_reverse_kl(student, teacher.log_prob, steps=3, batch_size=16)
    assert all(torch.equal(v, before[0][k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    assert any(not torch.equal(v, before[1][k]) for k, v in student.state_dict().items())
    # Without the way through the samples only the entropy would drive the student.
    torch.manual_seed(0)
    whole = torch.autograd.grad(
        log_ratios(student, teacher.log_prob, 16).mean(), list(student.parameters())
    )
    torch.manual_seed(0)
    cut = torch.autograd.grad(
        log_ratios(student, lambda x: teacher.log_prob(x.detach()), 16).mean(),
        list(student.parameters()),
    )
    assert max((a - b).abs().max() for a, b in zip(whole, cut, strict=True)) > 1e-3


def test_cooling_finds_both_of_two_far_peaks():
    def log_target(x):
        peaks = [Normal(centre, 1.0).log_prob(x).sum(dim=1) for centre in (-4.0, 4.0)]
        return torch.logaddexp(*peaks) - math.log(2)

    def share(heat):
        torch.manual_seed(0)
        flow = build((2,), None, layers=4, hidden=[32], transformer="affine")
        fit_reverse_kl(flow, log_target, steps=400, heat=heat, learning_rate=0.01)
        return (flow.sample(1000)[:, 0] > 0).float().mean().item()

    assert 0.3 < share(lambda progress: max(1.0, 30 * (1 - progress / 0.7))) < 0.7


def test_the_power_of_white_noise_is_flat_and_that_of_a_wave_is_a_line():
    time = 32
    assert spectrum(torch.randn(20_000, time)).sub(1).abs().max() < 0.08
    wave = torch.cos(2 * math.pi * 5 * torch.arange(time).double() / time)[None]
    line = torch.zeros(time // 2 + 1).double().index_fill(0, torch.tensor([5]), time / 4)
    torch.testing.assert_close(spectrum(wave), line, atol=1e-9, rtol=0)
    x = torch.randn(50, time)
    assert power_loss(x, 3.0)(x).item() == 0
    # Samples twice as loud: every logarithmic power is off by log 4.
    assert power_loss(x, 3.0)(2 * x).item() == pytest.approx(3 * math.log(4) ** 2, rel=1e-4)


# The model


@pytest.mark.parametrize("reads", ["noise", "data"])
def test_either_reading_learns_from_data_and_draws_images(reads):
    model = build((1, 4, 4), 5, reads=reads, layers=2, hidden=[24])
    images = (4 * torch.randint(2, (128, 1, 1, 1))).expand(128, 1, 4, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    before = model(images).mean()
    for _ in range(25):
        optimizer.zero_grad()
        (-model(images).mean()).backward()
        optimizer.step()
    assert model(images).mean() > before + 3
    drawn = model.eval().sample(50)
    assert drawn.shape == (50, 1, 4, 4) and drawn.min() >= 0 and drawn.max() <= 4


def test_a_context_sets_mean_and_deviation_of_an_encoder():
    flow = build((3,), None, layers=0, context=6).double()
    constant = next(m for m in flow.modules() if isinstance(m, Constant))
    with torch.no_grad():
        constant.given.weight.copy_(torch.eye(6))
    context = torch.randn(5, 6, dtype=torch.float64)
    mean, raw = context.chunk(2, dim=1)
    x = torch.randn(5, 3, dtype=torch.float64)
    theirs = Normal(mean, (7 * torch.tanh(raw / 7)).exp()).log_prob(x).sum(dim=1)
    torch.testing.assert_close(flow.log_prob(x, context), theirs)


def test_every_row_has_its_own_context():
    flow = moved(build((3,), None, layers=2, hidden=[8], context=2))
    x, context = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    alone = vmap(lambda a, c: flow.bijector.inverse(a[None], c[None])[0][0])(x, context)
    torch.testing.assert_close(flow.bijector.inverse(x, context)[0], alone)
    assert flow.needs_conditions and not flow.class_conditional
    assert build((3,), None, classes=2).class_conditional


def test_choices_that_do_not_exist_are_explained():
    with pytest.raises(ValueError, match="'gated' or 'affine', not 'spline'"):
        build((4,), None, transformer="spline")
    with pytest.raises(ValueError, match=r"'noise' \(IAF\) or 'data' \(MAF\), not 'both'"):
        build((4,), None, reads="both")


def test_a_student_of_the_papers_depth_takes_a_step():
    preset = catalog.topic("iaf").preset("paper")
    model = build((40,), None, **preset.model | dict(channels=4))
    loss = log_ratios(model, lambda x: -x.square().sum(dim=1) / 2, 8).mean()
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())
