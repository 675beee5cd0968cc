"""TarFlow against torch's attention, autograd and closed forms; the contract is tested for all."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm
from torch import nn
from torch.func import jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowcourse import catalog
from flowcourse.autoregressive_flows.maf import AffineTransformer, Autoregressive, Conditioner
from flowcourse.autoregressive_flows.tarflow import (
    Guided,
    LabelledFlow,
    NoisyFlow,
    Patches,
    TransformerConditioner,
    build,
    denoised,
    guided,
)
from flowcourse.bijector import Bijector
from flowcourse.catalog import perturbed
from flowcourse.coupling.flowpp import TurnedFlow
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.likelihood import DequantizedFlow
from flowcourse.nets.transformer import CausalAttention, CausalTransformer

pytestmark = pytest.mark.usefixtures("torch_seed")

SMALL = dict(width=8, blocks=2, layers=2, heads=2)
LABELS = torch.tensor([0, 2, 1])


def moved(model, scale: float = 0.3):
    """The model off its start, in evaluation mode and double precision."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model.double().eval()


def net(dims: int = 12, numbers: int = 2, **options) -> TransformerConditioner:
    sizes = dict(width=8, layers=2, heads=2)
    return moved(TransformerConditioner(dims, 2, numbers, **sizes | options))


def jacobian(function, x: torch.Tensor) -> torch.Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return jacrev(function)(x)


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


# The transformer


def test_attention_is_torchs_own_with_a_causal_mask():
    ours = moved(CausalAttention(12, heads=3))
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.project.weight)
        theirs.in_proj_bias.copy_(ours.project.bias)
        theirs.out_proj.load_state_dict(ours.answer.state_dict())
    h = double(4, 5, 12)
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    normed = F.layer_norm(h, (12,), ours.norm.weight, ours.norm.bias)
    expected, _ = theirs(normed, normed, normed, attn_mask=later)
    torch.testing.assert_close(ours(h), expected)


def test_a_position_sees_itself_and_all_before_it_and_none_after():
    transformer = moved(CausalTransformer(6, layers=2, heads=2))
    slopes = jacobian(lambda h: transformer(h[None])[0], double(5, 6))
    seen = slopes.abs().amax(dim=(1, 3)) > 0
    assert torch.equal(seen, torch.ones(5, 5, dtype=torch.bool).tril())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_one_position_at_a_time_gives_what_all_at_once_do(dtype, tolerance):
    transformer = moved(CausalTransformer(8, layers=3, heads=2)).to(dtype)
    h, kept = double(3, 7, 8).to(dtype), {}
    steps = [transformer(position, kept) for position in h.split(1, dim=1)]
    torch.testing.assert_close(
        torch.cat(steps, dim=1), transformer(h), rtol=tolerance, atol=tolerance
    )


def test_wrong_sizes_are_explained():
    with pytest.raises(ValueError, match="width=8 cannot be divided among heads=3"):
        CausalAttention(8, 3)
    with pytest.raises(ValueError, match="come one by one, and here are 2"):
        CausalTransformer(8, 1, 2)(torch.randn(1, 2, 8), {})
    with pytest.raises(ValueError, match="7 numbers cannot be cut into patches of 2"):
        TransformerConditioner(7, 2, 2, width=8, layers=1, heads=2)
    with pytest.raises(ValueError, match="4 x 6 pixels .* patches of 4 x 4"):
        Patches((1, 4, 6), 4)


# Patches and the block


def test_patches_are_those_of_unfold():
    x = torch.randn(2, 3, 4, 6)
    z, log_det = Patches((3, 4, 6), 2)(x)
    expected = F.unfold(x, kernel_size=2, stride=2).transpose(1, 2).flatten(1)
    assert torch.equal(z, expected) and torch.equal(log_det, torch.zeros(2))
    assert torch.equal(Patches((3, 4, 6), 2).inverse(z)[0], x)


def test_a_block_has_a_triangular_jacobian_with_a_diagonal_in_each_patch():
    block = Autoregressive(net(), AffineTransformer())
    slopes = jacobian(lambda x: block(x[None])[0][0], double(12))
    patch = torch.arange(12) // 2
    strictly_before = patch[:, None] > patch[None, :]
    expected = strictly_before | torch.eye(12, dtype=torch.bool)
    # The first patch is moved by nothing; all others see all patches before them.
    assert torch.equal(slopes != 0, expected)
    torch.testing.assert_close(slopes[:2, :2], torch.eye(2, dtype=torch.float64))


def test_the_second_block_goes_the_other_way():
    flow = moved(build((4,), None, patch=1, width=8, blocks=2, layers=1, heads=2))
    first, second = flow.bijector.bijectors
    x = double(4)
    assert torch.equal(
        jacobian(lambda x: first(x[None])[0][0], x) != 0, torch.ones(4, 4, dtype=torch.bool).tril()
    )
    slopes = jacobian(lambda x: second(x[None])[0][0], x)
    assert torch.equal(slopes != 0, torch.ones(4, 4, dtype=torch.bool).triu())


def test_parameters_come_parameter_by_parameter():
    """All shifts first, then all raw log-scales, in the order of the numbers."""
    conditioner, x = net(), double(3, 12)
    shift, raw = conditioner(x).chunk(2, dim=1)
    z, log_det = Autoregressive(conditioner, AffineTransformer())(x)
    log_scale = 7 * torch.tanh(raw / 7)
    torch.testing.assert_close(z, (x - shift) * torch.exp(-log_scale))
    torch.testing.assert_close(log_det, -log_scale.sum(dim=1))
    # What the network writes for the second patch is what it said at the first.
    said = conditioner.write(
        conditioner.transformer(conditioner.read(x[:, None, :2]) + conditioner.position[:1])
    )
    torch.testing.assert_close(torch.cat([shift[:, 2:4], raw[:, 2:4]], dim=1), said[:, 0])


def test_a_new_model_is_the_identity():
    flow = build((1, 4, 4), None, **SMALL)
    x = torch.randn(3, 1, 4, 4)
    z, log_det = flow.bijector(x)
    assert torch.equal(z, x) and torch.equal(log_det, torch.zeros(3))


# Sampling with kept keys and values


class Uncached(Conditioner):
    """The same parameters by one whole pass for every patch, as in the frame's default."""

    def __init__(self, conditioner):
        super().__init__(conditioner.blocks)
        self.conditioner = conditioner

    def forward(self, x, context=None):
        return self.conditioner(x, context)


@pytest.mark.parametrize("classes", [0, 3])
def test_kept_keys_and_values_change_no_sample(classes):
    conditioner = net(classes=classes)
    context = LABELS if classes else None
    z = double(3, 12)
    x, log_det = Autoregressive(conditioner, AffineTransformer()).inverse(z, context)
    slow, slow_log_det = Autoregressive(Uncached(conditioner), AffineTransformer()).inverse(
        z, context
    )
    torch.testing.assert_close(x, slow, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_det, slow_log_det, rtol=1e-12, atol=1e-12)
    single = Autoregressive(conditioner, AffineTransformer()).float().inverse(z.float(), context)
    torch.testing.assert_close(single[0].double(), x, rtol=1e-4, atol=1e-4)


def test_the_kept_way_computes_every_position_once():
    conditioner, counted = net(), []
    conditioner.read.register_forward_hook(
        lambda module, inputs, output: counted.append(output.shape[1])
    )
    z = double(3, 12)
    Autoregressive(conditioner, AffineTransformer()).inverse(z)
    # The last of the six patches decides nothing.
    assert counted == [1] * 5
    counted.clear()
    Autoregressive(Uncached(conditioner), AffineTransformer()).inverse(z)
    assert counted == [6] * 6


def test_sampling_leaves_nothing_behind_for_the_next_sample():
    block = Autoregressive(net(), AffineTransformer())
    z = double(3, 12)
    assert torch.equal(block.inverse(z)[0], block.inverse(z)[0])


# The model


def test_bits_per_dim_counts_the_levels():
    """A new model is a standard normal on -1 to 1: its likelihood has a closed form."""
    model = build((1, 2, 2), 256, **SMALL)
    x = torch.tensor([0, 50, 128, 255]).reshape(1, 1, 2, 2)
    edges = 2 * torch.arange(257).double().numpy() / 256 - 1
    mass = norm.cdf(edges[1:]) - norm.cdf(edges[:-1])
    exact = -sum(math.log2(mass[level]) for level in x.flatten()) / 4
    assert model.kind == "bound"
    # In cells this small the bound is as good as tight.
    assert model.bits_per_dim(x, draws=200).item() == pytest.approx(exact, abs=1e-4)


def test_each_kind_of_noise_has_its_model():
    shape = (1, 4, 4)
    assert type(build(shape, 17, **SMALL)) is DequantizedFlow
    assert type(build(shape, 17, turn=0.5, **SMALL)) is TurnedFlow
    assert type(build(shape, 17, noise=0.1, **SMALL)) is NoisyFlow
    assert type(build(shape, None, **SMALL)) is Flow
    assert type(build(shape, None, classes=3, **SMALL)) is LabelledFlow
    assert build(shape, 17, classes=3, **SMALL).class_conditional
    assert not build(shape, 17, **SMALL).class_conditional


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(preprocessing="logits"), "'centred' or 'logit', not 'logits'"),
        (dict(noise=0.1, preprocessing="logit"), "set noise=None"),
        (dict(noise=0.1, levels=None), "levels=None"),
        (dict(turn=0.5, classes=3), "set turn=0"),
        (dict(turn=0.5, event_shape=(1, 2, 4)), "set turn=0"),
        (dict(event_shape=(4, 4)), r"expects \(c, h, w\) or \(d,\) and got \(4, 4\)"),
    ],
)
def test_choices_that_exclude_each_other_are_explained(options, message):
    shape, levels = options.pop("event_shape", (1, 4, 4)), options.pop("levels", 17)
    with pytest.raises(ValueError, match=message):
        build(shape, levels, **SMALL | options)


def test_a_missing_class_is_explained():
    with pytest.raises(ValueError, match=r"of 3 classes expects context=classes.*and got none"):
        net(classes=3)(double(3, 12))
    with pytest.raises(ValueError, match=r"got shape \(2,\)"):
        net(classes=3)(double(3, 12), LABELS[:2])


def test_a_network_in_bfloat16_moves_the_flow_little_and_keeps_its_precision():
    flow = build((1, 4, 4), None, **SMALL)
    perturbed(flow, 0.05)
    x = torch.randn(4, 1, 4, 4)
    z, log_det = flow.bijector(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, rough_log_det = flow.bijector(x)
        back, inverse_log_det = flow.bijector.inverse(rough)
    assert rough.dtype == rough_log_det.dtype == torch.float32
    torch.testing.assert_close(rough, z, rtol=0.05, atol=0.05)
    torch.testing.assert_close(back, x, rtol=0.05, atol=0.05)
    torch.testing.assert_close(inverse_log_det, -rough_log_det, rtol=0.05, atol=0.05)


def test_training_finds_a_curved_density():
    """x2 = x1^2 + noise: the entropy is known, and one affine block fits it."""
    flow = build((2,), None, patch=1, width=16, blocks=1, layers=1, heads=2)
    entropy = 1 + math.log(2 * math.pi) + math.log(0.2)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.01)
    for _ in range(200):
        x = torch.randn(256, 1)
        loss = -flow.log_prob(torch.cat([x, x**2 + 0.2 * torch.randn(256, 1)], dim=1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = torch.randn(4000, 1)
    held_out = -flow.log_prob(torch.cat([x, x**2 + 0.2 * torch.randn(4000, 1)], dim=1)).mean()
    assert entropy - 0.05 < held_out < entropy + 0.3


# Noise and denoising


class Spikes(nn.Module):
    """Two spikes at -1 and 1, seen through Gaussian noise."""

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = sigma

    def log_prob(self, y, context=None):
        ends = torch.tensor([-1.0, 1.0], dtype=y.dtype)
        terms = -((y[..., None] - ends) ** 2) / (2 * self.sigma**2)
        return terms.logsumexp(dim=-1).sum(dim=1)


def test_denoising_gives_the_posterior_mean_of_a_gaussian():
    """x ~ N(0, s^2) and y = x + sigma e: E[x | y] = y s^2 / (s^2 + sigma^2)."""
    s, sigma = 1.5, 0.7

    class Scale(Bijector):
        def forward(self, x, context=None):
            scale = 1 / math.hypot(s, sigma)
            return x * scale, x.new_full((len(x),), x.shape[1] * math.log(scale))

    y = double(5, 3)
    found = denoised(Flow(Scale(), StandardNormal(3)), y, sigma)
    torch.testing.assert_close(found, y * s**2 / (s**2 + sigma**2))


def test_denoising_gives_the_posterior_mean_of_two_spikes():
    """E[x | y] = tanh(y / sigma^2): far from the spikes they are told apart."""
    y = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None].repeat(1, 2)
    with torch.no_grad():
        found = denoised(Spikes(0.4), y, 0.4)
    torch.testing.assert_close(found, torch.tanh(y / 0.4**2))
    assert not found.requires_grad
    torch.testing.assert_close(denoised(Spikes(0.4), y[:1], 0.4), found[:1])


def test_a_noisy_flow_says_nothing_about_integers():
    model = build((1, 4, 4), 17, noise=0.1, **SMALL)
    assert not hasattr(model, "bits_per_dim")
    # In units in which the data, 0 to 16, span -1 to 1.
    assert model.sigma == pytest.approx(0.8)
    with pytest.raises(ValueError, match="positive sigma"):
        NoisyFlow(model.flow, 17, 0.0)


def test_a_noisy_flow_scores_data_with_noise():
    """A new model is a standard normal on -1 to 1: the mean over noise has a closed form."""
    model = build((1, 2, 2), 17, noise=0.5, **SMALL).double()
    x = torch.tensor([0, 16, 8, 3]).reshape(1, 1, 2, 2)
    scaled = x.double() / 8 - 1
    each = -0.5 * (scaled**2 + 0.5**2 + math.log(2 * math.pi)) - math.log(8)
    draws = model.log_prob(x.expand(20_000, -1, -1, -1))
    error = draws.std().item() / math.sqrt(len(draws))
    assert draws.mean().item() == pytest.approx(each.sum().item(), abs=5 * error)


def test_samples_of_a_noisy_flow_are_denoised_levels():
    model = build((1, 4, 4), 17, noise=0.3, classes=3, **SMALL)
    moved(model, 0.05)

    def draw(**options):
        torch.manual_seed(1)
        return model.sample(6, context=LABELS.repeat(2), **options)

    clean, noisy, pushed = draw(), draw(denoise=False), draw(guidance=3.0)
    for x in (clean, noisy, pushed):
        assert x.dtype == torch.int64 and x.min() >= 0 and x.max() <= 16
    assert not torch.equal(clean, noisy) and not torch.equal(clean, pushed)
    torch.manual_seed(1)
    y = model.flow.sample(6, LABELS.repeat(2))
    expected = denoised(model.flow, y, model.sigma, LABELS.repeat(2))
    assert torch.equal(clean, expected.round().clamp(0, 16).long())


# Labels and guidance


def test_labels_are_withheld_in_training_only():
    flow = LabelledFlow(Recorder(), StandardNormal(2), classes=3, forget=0.2)
    labels = torch.randint(3, (10_000,))
    flow.train().log_prob(torch.randn(10_000, 2), labels)
    seen = flow.bijector.seen
    withheld = seen == 3
    assert withheld.double().mean().item() == pytest.approx(0.2, abs=0.03)
    assert torch.equal(seen[~withheld], labels[~withheld])
    flow.eval().log_prob(torch.randn(10_000, 2), labels)
    assert torch.equal(flow.bijector.seen, labels)


def test_without_labels_all_examples_are_of_no_class():
    flow = LabelledFlow(Recorder(), StandardNormal(2), classes=3, forget=0.2).eval()
    flow.log_prob(torch.randn(4, 2))
    assert torch.equal(flow.bijector.seen, torch.full((4,), 3))
    assert flow.sample((2, 3)).shape == (2, 3, 2)
    assert torch.equal(flow.bijector.seen, torch.full((6,), 3))


class Recorder(Bijector):
    """The identity, which remembers its context."""

    def forward(self, x, context=None):
        self.seen = context
        return x, x.new_zeros(len(x))

    inverse = forward


def test_guidance_extrapolates_both_parameters():
    conditioner, x = net(classes=4), double(3, 12)
    given, free = conditioner(x, LABELS), conditioner(x, torch.full((3,), 3))
    found = Guided(conditioner, 2.0, no_label=3)(x, LABELS)
    torch.testing.assert_close(found, given + 2 * (given - free))
    torch.testing.assert_close(Guided(conditioner, 0.0, 3)(x, LABELS), given)
    torch.testing.assert_close(Guided(conditioner, -1.0, 3)(x, LABELS), free)


def test_guidance_from_kept_keys_is_guidance_from_whole_passes():
    pushed = Guided(net(classes=4), 1.5, no_label=3)
    z = double(3, 12)
    fast = Autoregressive(pushed, AffineTransformer()).inverse(z, LABELS)
    slow = Autoregressive(Uncached(pushed), AffineTransformer()).inverse(z, LABELS)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)


def test_a_guided_flow_shares_its_parameters_and_leaves_the_original_alone():
    flow = moved(build((1, 4, 4), None, classes=3, **SMALL), 0.1)
    x = double(3, 1, 4, 4)
    before = flow.log_prob(x, LABELS)
    pushed = guided(flow, 1.0)
    assert {id(p) for p in pushed.parameters()} == {id(p) for p in flow.parameters()}
    torch.testing.assert_close(flow.log_prob(x, LABELS), before)
    assert not torch.allclose(pushed.log_prob(x, LABELS), before)
    torch.testing.assert_close(guided(flow, 0.0).log_prob(x, LABELS), before)
    with pytest.raises(ValueError, match="a flow that knows labels, and this is a Flow"):
        guided(build((1, 4, 4), None, **SMALL), 1.0)


# The paper's sizes


def test_the_papers_models_have_the_parameters_that_a_count_by_hand_gives():
    for name in ("paper-imagenet64", "paper-imagenet64-noise"):
        model = catalog.topic("tarflow").preset(name).model
        with torch.device("meta"):
            built = build((3, 64, 64), 256, **model)
        w, numbers, positions = model["width"], 3 * model["patch"] ** 2, (64 // model["patch"]) ** 2
        attention = 2 * w + (3 * w * w + 3 * w) + (w * w + w)
        pointwise = 2 * w + (4 * w * w + 4 * w) + (4 * w * w + w)
        ends = (numbers * w + w) + (2 * numbers * w + 2 * numbers)
        classes = model["classes"] + 1 if model.get("classes") else 0
        block = model["layers"] * (attention + pointwise) + ends + (positions + classes) * w
        assert sum(p.numel() for p in built.parameters()) == model["blocks"] * block


def test_no_two_buffers_are_one():
    """Averaged weights could not be put into a model whose buffers are tied."""
    buffers = list(build((4,), None, patch=1, width=8, blocks=4, layers=1, heads=2).named_buffers())
    places = [buffer.data_ptr() for _, buffer in buffers if buffer.numel()]
    assert len(places) == 4 and len(set(places)) == len(places)
