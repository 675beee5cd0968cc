"""MAF against autograd, torch's distributions, MADE and RealNVP; the contract is tested for all."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import MultivariateNormal, Normal
from torch.func import jacrev
from torch.utils.flop_counter import FlopCounterMode

from flowcourse import catalog
from flowcourse.autoregressive.made import GaussianMADE
from flowcourse.autoregressive_flows.maf import (
    AffineTransformer,
    Autoregressive,
    Conditioner,
    Flatten,
    MaskedConditioner,
    build,
    equal_blocks,
)
from flowcourse.bijector import Compose
from flowcourse.catalog import perturbed
from flowcourse.coupling.glow import ActNorm, Permutation
from flowcourse.coupling.realnvp import AffineCoupling, BatchNorm
from flowcourse.flow import Flow, StandardNormal
from flowcourse.testing import autograd_log_det

pytestmark = pytest.mark.usefixtures("torch_seed")

KINDS = [
    dict(hidden=[]),
    dict(hidden=[7]),
    dict(hidden=[16, 9]),
    dict(hidden=[16, 16], blocks=2),
    dict(hidden=[16], blocks=3, activation=F.relu),
    dict(hidden=[4], blocks=1),
    dict(hidden=[16, 12], context=2),
    dict(hidden=[16], blocks=2, classes=3),
    dict(hidden=[], classes=3),
]


def name(kind):
    """The same in every process, as the address of a function is not."""
    return ", ".join(f"{k}={getattr(v, '__name__', v)}" for k, v in kind.items())


each_kind = pytest.mark.parametrize("kind", KINDS, ids=name)


def affine_layer(dims: int, **options) -> Autoregressive:
    """Smooth: where a ReLU is off, a dependency that is there does not show."""
    options = dict(activation=torch.tanh) | options
    net = MaskedConditioner(dims, 2, **options)
    return Autoregressive(perturbed(net, 0.4), AffineTransformer()).double()


def context_of(layer: Autoregressive, n: int) -> torch.Tensor | None:
    given = layer.conditioner.given
    if given is None:
        return None
    if isinstance(given, torch.nn.Embedding):
        return torch.arange(n) % given.num_embeddings
    return torch.randn(n, given.in_features, dtype=torch.float64)


def passes(layer: Autoregressive, z, context=None, start=None):
    """What every pass over all dimensions gives, each with the numbers of the pass before."""
    x = torch.zeros_like(z) if start is None else start
    while True:
        x, log_det = layer.transformer.inverse(z, layer.conditioner(x, context))
        yield x, log_det


def jacobian(function, x: torch.Tensor) -> torch.Tensor:
    return jacrev(lambda v: function(v[None])[0].flatten())(x)


# Blocks


@pytest.mark.parametrize(("dims", "blocks"), [(1, 1), (5, 1), (5, 2), (7, 3), (64, 64), (65, 8)])
def test_blocks_cover_every_dimension_once_and_are_of_nearly_equal_size(dims, blocks):
    found = equal_blocks(dims, blocks)
    assert [d for block in found for d in range(dims)[block]] == list(range(dims))
    sizes = [block.stop - block.start for block in found]
    assert len(found) == blocks and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("blocks", [0, -1, 6])
def test_an_impossible_number_of_blocks_is_explained(blocks):
    with pytest.raises(
        ValueError, match=f"5 dimensions can be cut into 1 to 5 blocks, not {blocks}"
    ):
        equal_blocks(5, blocks)


# Who sees whom


@each_kind
def test_parameters_depend_on_all_earlier_blocks_and_on_nothing_else(kind):
    dims = 6
    layer = affine_layer(dims, **kind)
    block_of = torch.tensor(
        [k for k, b in enumerate(layer.conditioner.blocks) for _ in range(b.start, b.stop)]
    )
    legal = (block_of[:, None] > block_of[None, :]).repeat(2, 1)
    depends = torch.zeros(2 * dims, dims, dtype=torch.bool)
    context = context_of(layer, 1)
    for x in torch.randn(30, dims, dtype=torch.float64):
        depends |= jacobian(lambda v: layer.conditioner(v, context), x) != 0
    assert torch.equal(depends, legal)


@pytest.mark.parametrize("kind", [k for k in KINDS if "context" in k or "classes" in k], ids=name)
def test_every_parameter_depends_on_the_context(kind):
    layer = affine_layer(6, **kind)
    x = torch.randn(1, 6, dtype=torch.float64).expand(3, 6)
    found = layer.conditioner(x, context_of(layer, 3))
    assert (found.std(dim=0) > 0).all()


def test_too_few_units_lose_the_nearest_past_and_nothing_illegal():
    net = perturbed(MaskedConditioner(8, 1, [3]), 0.4).double()
    found = sum(jacobian(net, x).abs() for x in torch.randn(30, 8, dtype=torch.float64)) > 0
    assert not found.triu().any()
    assert found[7, 0] and not found.diagonal(-1).all()


def test_units_are_sorted_by_degree_and_every_degree_occurs():
    net = MaskedConditioner(9, 2, [8, 21, 100])
    for layer in (1, 2, 3):
        degrees = net.get_buffer(f"degrees_{layer}")
        assert torch.equal(degrees, degrees.sort().values)
        counts = degrees.bincount(minlength=8)
        assert len(counts) == 8 and counts.min() > 0 and counts.max() - counts.min() <= 1


def test_without_reversal_a_stack_stays_triangular_and_with_it_it_does_not():
    def stack(*between):
        steps = [affine_layer(4, hidden=[12])]
        for _ in range(2):
            steps += [*between, affine_layer(4, hidden=[12])]
        return Compose(*steps)

    x = torch.randn(4, dtype=torch.float64)
    in_one_order, reversed_between = stack(), stack(Permutation(torch.arange(4).flip(0)))
    plain = jacobian(lambda v: in_one_order(v)[0], x)
    mixed = jacobian(lambda v: reversed_between(v)[0], x)
    assert torch.equal(plain, plain.tril()) and (mixed != 0).all()


# Densities


def test_the_affine_transformer_is_a_normal_density():
    transformer = AffineTransformer()
    x, mean, raw = torch.randn(3, 5, 4, dtype=torch.float64)
    z, log_det = transformer(x, torch.cat([mean, raw], dim=1))
    log_scale = 7 * torch.tanh(raw / 7)
    theirs = Normal(mean, log_scale.exp()).log_prob(x).sum(dim=1)
    torch.testing.assert_close(Normal(0, 1).log_prob(z).sum(dim=1) + log_det, theirs)


def test_no_parameters_overflow():
    x = torch.randn(4, 3)
    for raw in (-1e9, 1e9):
        z, log_det = AffineTransformer()(
            x, torch.full((4, 6), raw).index_fill(1, torch.arange(3), 0)
        )
        assert z.isfinite().all() and log_det.abs().max() <= 21


def cholesky_layer(mean: torch.Tensor, factor: torch.Tensor) -> Autoregressive:
    """z = L^-1 (x - m), by the weights and biases of a layer without hidden units."""
    dims = len(mean)
    inverse = torch.linalg.inv(factor)
    scale = factor.diagonal()
    slope = -(inverse * scale[:, None]).tril(-1)
    net = MaskedConditioner(dims, 2, []).double()
    with torch.no_grad():
        net.layers[0].weight.copy_(torch.cat([slope, torch.zeros(dims, dims)]))
        shift = mean - slope @ mean
        net.layers[0].bias.copy_(torch.cat([shift, 7 * torch.atanh(scale.log() / 7)]))
    return Autoregressive(net, AffineTransformer())


def test_a_linear_layer_is_any_gaussian():
    mean = torch.randn(5, dtype=torch.float64)
    factor = (
        torch.randn(5, 5, dtype=torch.float64).tril(-1)
        + torch.rand(5).double().diag()
        + 0.5 * torch.eye(5)
    )
    flow = Flow(cholesky_layer(mean, factor), StandardNormal(5)).double()
    x = torch.randn(20, 5, dtype=torch.float64)
    theirs = MultivariateNormal(mean, scale_tril=factor)
    torch.testing.assert_close(flow.log_prob(x), theirs.log_prob(x))
    z = torch.randn(20, 5, dtype=torch.float64)
    torch.testing.assert_close(flow.bijector.inverse(z)[0], mean + z @ factor.T)


def test_a_context_moves_a_linear_layer_as_a_regression():
    net = MaskedConditioner(3, 2, [], context=2).double()
    layer = Autoregressive(net, AffineTransformer())
    x, c = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    shift, raw = (
        x @ (net.layers[0].weight * torch.ones(3, 3).tril(-1).repeat(2, 1)).T
        + net.layers[0].bias
        + c @ net.given.weight.T
    ).chunk(2, dim=1)
    theirs = Normal(shift, (7 * torch.tanh(raw / 7)).exp()).log_prob(x).sum(dim=1)
    torch.testing.assert_close(Flow(layer, StandardNormal(3)).log_prob(x, c), theirs)


def test_one_layer_is_a_gaussian_made():
    """The same weights in another order of the units, in the other program of this course."""
    dims, width = 5, 12
    made = GaussianMADE((dims,), hidden=[width, width]).double()
    net = MaskedConditioner(dims, 2, [width, width]).double()
    ranks = [places.argsort(stable=True) for places in made.net.degrees()]
    with torch.no_grad():
        theirs = [*made.net.hidden, made.net.last]
        after = [ranks[1], ranks[2], torch.arange(2 * dims).reshape(dims, 2).T.flatten()]
        for ours, linear, rows, columns in zip(net.layers, theirs, after, ranks, strict=True):
            ours.weight.copy_(linear.weight[rows][:, columns])
            ours.bias.copy_(linear.bias[rows])
    layer = Autoregressive(net, AffineTransformer())
    x = torch.randn(7, dims, dtype=torch.float64)
    for ours, theirs in zip(layer(x) + layer.inverse(x), made(x) + made.inverse(x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_two_blocks_are_a_coupling_of_realnvp():
    layer = affine_layer(6, hidden=[16], blocks=2)
    net, (first, second) = layer.conditioner, layer.conditioner.blocks
    # The layer also moves its first block, by constants: take that away.
    with torch.no_grad():
        net.layers[-1].bias.unflatten(0, (2, 6))[:, first] = 0

    def coupling_net(passed):
        shift, log_scale = AffineTransformer()._read(passed, net(passed))
        return torch.cat([-log_scale.div(7).atanh(), -shift * (-log_scale).exp()], dim=1)

    coupling = AffineCoupling(coupling_net, lambda x: (torch.arange(6) < 3).to(x), 6).double()
    with torch.no_grad():
        coupling.scale_bound.fill_(7.0)
    assert (second.start, second.stop) == (3, 6)
    x = torch.randn(8, 6, dtype=torch.float64)
    for ours, theirs in zip(
        layer(x) + layer.inverse(x), coupling(x) + coupling.inverse(x), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


# The inverse


@each_kind
@pytest.mark.parametrize("gradients", [True, False])
def test_the_incremental_inverse_is_that_of_whole_passes(kind, gradients):
    layer = affine_layer(6, **kind)
    z, context = torch.randn(5, 6, dtype=torch.float64), context_of(layer, 5)
    *_, (x, log_det) = (
        r for r, _ in zip(passes(layer, z, context), layer.conditioner.blocks, strict=False)
    )
    with torch.set_grad_enabled(gradients):
        found = layer.inverse(z, context)
    torch.testing.assert_close(found, (x, log_det), rtol=1e-10, atol=1e-10)
    steps = Conditioner.one_by_one(layer.conditioner, z, context)
    layer.conditioner.one_by_one = lambda *_: steps
    torch.testing.assert_close(layer.inverse(z, context), (x, log_det), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("blocks", [1, 2, 3, 6])
def test_after_k_passes_exactly_the_first_k_blocks_are_right(blocks):
    layer = affine_layer(6, hidden=[24, 24], blocks=blocks)
    x = torch.randn(5, 6, dtype=torch.float64)
    z, _ = layer(x)
    start = torch.randn(5, 6, dtype=torch.float64)
    for k, (found, _) in zip(range(1, blocks + 1), passes(layer, z, start=start), strict=False):
        right = [
            (found - x)[:, block].abs().amax(dim=1) < 1e-9 for block in layer.conditioner.blocks
        ]
        assert all(r.all() for r in right[:k])
        assert not any(r.any() for r in right[k:])
    assert (layer(found)[0] - z).abs().max() < 1e-9


def test_every_unit_is_computed_once():
    """Counted in multiplications: all steps together need fewer than one pass over all weights."""
    dims, batch = 16, 8
    layer = affine_layer(dims, hidden=[32, 48])
    z = torch.randn(batch, dims, dtype=torch.float64)

    def multiplications(function):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            function()
        return counter.get_total_flops() // (2 * batch)

    one_pass = multiplications(lambda: layer(z))
    assert one_pass == 16 * 32 + 32 * 48 + 48 * 32
    unmasked = 0
    degrees = [layer.conditioner.get_buffer(f"degrees_{k}") for k in range(3)]
    for after, before, strict in [(1, 0, 0), (2, 1, 0), (0, 2, 1)]:
        kept = degrees[after][:, None] >= degrees[before][None, :] + strict
        unmasked += int(kept.sum()) * (2 if after == 0 else 1)
    assert multiplications(lambda: layer.inverse(z)) == unmasked < one_pass
    naive = passes(layer, z)
    assert multiplications(lambda: [next(naive) for _ in range(dims)]) == dims * one_pass


def test_gradients_of_the_inverse_are_those_of_whole_passes():
    layer = affine_layer(5, hidden=[12, 12], context=2)
    z, context = torch.randn(4, 5, dtype=torch.float64), context_of(layer, 4)
    z.requires_grad_(), context.requires_grad_()
    *_, (x, log_det) = (
        result for result, _ in zip(passes(layer, z, context), range(5), strict=False)
    )
    leaves = [z, context, *layer.parameters()]
    weights = torch.randn(4, 5, dtype=torch.float64)
    theirs = torch.autograd.grad((weights * x).sum() + log_det.sum(), leaves)
    x, log_det = layer.inverse(z, context)
    ours = torch.autograd.grad((weights * x).sum() + log_det.sum(), leaves)
    torch.testing.assert_close(ours, theirs)


def test_samples_follow_the_density():
    """Of a banana whose moments are known: x1 is N(0, 4), and x2 given x1 is N(x1^2 / 4, 1)."""

    class Banana(Conditioner):
        def __init__(self):
            super().__init__(equal_blocks(2, 2))

        def forward(self, x, context=None):
            zero = torch.zeros_like(x[:, 0])
            first_scale = torch.full_like(zero, 7 * math.atanh(math.log(2) / 7))
            return torch.stack([zero, x[:, 0] ** 2 / 4, first_scale, zero], dim=1)

    flow = Flow(Autoregressive(Banana(), AffineTransformer()), StandardNormal(2))
    x = torch.randn(6, 2) * 2
    theirs = Normal(0, 2).log_prob(x[:, 0]) + Normal(x[:, 0] ** 2 / 4, 1).log_prob(x[:, 1])
    torch.testing.assert_close(flow.log_prob(x), theirs)
    drawn = flow.sample(40_000)
    np.testing.assert_allclose(drawn.mean(dim=0), [0, 1], atol=0.06)  # E x1^2 / 4 = 1
    np.testing.assert_allclose(drawn.std(dim=0), [2, math.sqrt(3)], atol=0.08)  # 1 + 32 / 16


# The model


@pytest.mark.parametrize("normalization", ["batch_norm", "actnorm", "none"])
def test_each_normalization_comes_after_every_layer_and_orders_alternate(normalization):
    bijector = build((4,), None, layers=3, hidden=[8], normalization=normalization).bijector
    kinds = [type(step) for step in bijector.bijectors][1:-1]
    norm = {"batch_norm": [BatchNorm], "actnorm": [ActNorm], "none": []}[normalization]
    assert kinds == [Autoregressive, *norm] + 2 * [Permutation, Autoregressive, *norm]
    with pytest.raises(ValueError, match="not 'layer'"):
        build((4,), None, normalization="layer")


@pytest.mark.parametrize("normalization", ["batch_norm", "actnorm"])
@pytest.mark.parametrize("blocks", [2, 4, 16])
def test_a_trained_model_scores_and_inverts(normalization, blocks):
    model = build((1, 4, 4), 5, layers=3, hidden=[24], blocks=blocks, normalization=normalization)
    images = (4 * torch.randint(2, (128, 1, 1, 1))).expand(128, 1, 4, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(25):
        loss = -model(images).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 3
    bijector = model.double().eval().flow.bijector
    x = images[:3].double() + torch.rand(3, 1, 4, 4, dtype=torch.float64)
    z, log_det = bijector(x)
    torch.testing.assert_close(log_det, autograd_log_det(bijector, x))
    torch.testing.assert_close(bijector.inverse(z)[0], x)
    drawn = model.sample(50)
    assert drawn.shape == (50, 1, 4, 4) and drawn.min() >= 0 and drawn.max() <= 4


def test_batch_norm_is_a_density_only_once_it_no_longer_looks_at_the_batch():
    flow = build((3,), None, layers=2, hidden=[8])
    x = 5 + 3 * torch.randn(64, 3)
    for _ in range(100):
        flow.log_prob(x)
    together, alone = flow.log_prob(x)[:4], flow.log_prob(x[:4])
    assert (together - alone).abs().max() > 0.1
    with pytest.raises(RuntimeError, match=r"\.eval\(\)"):
        flow.sample(2)
    flow.eval()
    torch.testing.assert_close(flow.log_prob(x)[:4], flow.log_prob(x[:4]))
    assert flow.sample(2).isfinite().all()


def test_a_model_of_a_class_learns_each_class_and_asks_for_labels():
    flow = build((2,), None, layers=2, hidden=[16], classes=2, normalization="none")
    assert flow.class_conditional and not build((2,), None).class_conditional
    labels = torch.arange(400) % 2
    centre = torch.tensor([[-3.0, 1.0], [2.0, -1.0]])
    x = centre[labels] + 0.3 * torch.randn(400, 2)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.02)
    for _ in range(150):
        loss = -flow.log_prob(x, labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    entropy = 1 + math.log(2 * math.pi) + 2 * math.log(0.3)
    assert entropy - 0.2 < loss < entropy + 0.3
    for k in (0, 1):
        drawn = flow.sample(500, context=torch.full((500,), k))
        np.testing.assert_allclose(drawn.mean(dim=0), centre[k], atol=0.15)
    for wrong in (None, labels[:2]):
        with pytest.raises(ValueError, match="one row for each of the 400 examples"):
            flow.log_prob(x, wrong)


def test_a_model_of_a_vector_says_so_and_a_model_of_images_takes_labels():
    flow = build((3,), None, layers=1, hidden=[8], context=2)
    assert flow.needs_conditions and not flow.class_conditional
    c = torch.randn(4, 2)
    x = torch.randn(4, 3)
    assert (flow.log_prob(x, c) - flow.log_prob(x, c.flip(0))).abs().min() > 0
    model = build((1, 2, 2), 5, layers=1, hidden=[8], classes=3)
    assert model.class_conditional
    assert model.eval().sample(3, context=torch.arange(3)).shape == (3, 1, 2, 2)


def test_flatten_is_reshape():
    x = torch.randn(3, 2, 4, 5)
    flat, log_det = Flatten((2, 4, 5))(x)
    assert torch.equal(flat, x.reshape(3, 40)) and torch.equal(log_det, torch.zeros(3))
    assert torch.equal(Flatten((2, 4, 5)).inverse(flat)[0], x)


@pytest.mark.parametrize("gradients", [True, False])
def test_under_bf16_the_flow_keeps_its_precision_and_only_networks_lose_theirs(gradients):
    layer = affine_layer(6, hidden=[16]).float()
    x = torch.randn(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(gradients):
        assert layer.conditioner(x).dtype == torch.bfloat16
        z, log_det = layer(x)
        back, _ = layer.inverse(z)
    assert z.dtype == log_det.dtype == back.dtype == torch.float32
    parameters = layer.conditioner(x)
    torch.testing.assert_close(z, layer.transformer(x, parameters)[0], rtol=0.1, atol=0.1)
    torch.testing.assert_close(back, x, rtol=0.1, atol=0.1)


def test_the_papers_preset_has_the_size_counted_by_hand_and_takes_a_step():
    preset = catalog.topic("maf").preset("paper")
    with torch.device("meta"):
        model = build((3, 32, 32), 256, **preset.model)
    dims, width = 3072, 1024
    layer = (dims + 1) * width + (width + 1) * width + (width + 1) * 2 * dims
    assert sum(p.numel() for p in model.parameters()) == 10 * layer
    small = build((3, 4, 4), 256, **preset.model | dict(hidden=[64, 64])).train()
    images = torch.randint(256, (16, 3, 4, 4))
    before = copy.deepcopy(small.state_dict())
    loss = -small(images).mean()
    loss.backward()
    torch.optim.Adam(small.parameters(), lr=1e-4).step()
    assert loss.isfinite() and all(p.isfinite().all() for p in small.parameters())
    assert any(not torch.equal(v, before[k]) for k, v in small.state_dict().items())
