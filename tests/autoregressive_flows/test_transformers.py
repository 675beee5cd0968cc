"""Curves against autograd, SciPy and closed forms; conditioners against their own slow way."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from scipy.integrate import quad
from torch import nn
from torch.distributions import Normal
from torch.func import jacrev

from flowcourse import catalog
from flowcourse.autoregressive_flows.maf import Conditioner
from flowcourse.autoregressive_flows.tarflow import TransformerConditioner
from flowcourse.autoregressive_flows.transformers import (
    RULES,
    TRANSFORMERS,
    AffineTransformer,
    Autoregressive,
    ConicTransformer,
    IntegralTransformer,
    MaskedConditioner,
    NoConvergenceError,
    RecurrentConditioner,
    Repeated,
    RootTransformer,
    SigmoidalTransformer,
    SquaresTransformer,
    build,
    clenshaw_curtis,
    gauss_legendre,
    invert,
)
from flowcourse.bijector import Compose
from flowcourse.catalog import perturbed
from flowcourse.foundations.change_of_variables import KnotheRosenblatt, Quantile
from flowcourse.results import read_records
from flowcourse.testing import autograd_log_det, check_bijector

pytestmark = pytest.mark.usefixtures("torch_seed")

CURVES = {
    "affine": lambda: AffineTransformer(),
    "conic": lambda: ConicTransformer(3),
    "sigmoidal": lambda: SigmoidalTransformer(3),
    "integral": lambda: IntegralTransformer(3, hidden=6, nodes=40),
    "squares": lambda: SquaresTransformer(3),
    "sigmoidal, twice": lambda: Repeated(SigmoidalTransformer(2), 2),
}
CONDITIONERS = {
    "masked, K = 2": lambda d, n: MaskedConditioner(d, n, [9], blocks=2),
    "masked, K = 3": lambda d, n: MaskedConditioner(d, n, [9], blocks=3),
    "masked, K = D": lambda d, n: MaskedConditioner(d, n, [9]),
    "recurrent": lambda d, n: RecurrentConditioner(d, n, 5),
    "attention": lambda d, n: TransformerConditioner(d, n, 2, width=8, layers=1, heads=2),
}
RECORDS = [r for r in read_records() if (r["topic"], r["data"]) == ("transformers", "circles")]
each_curve = pytest.mark.parametrize("curve", CURVES)
each_conditioner = pytest.mark.parametrize("conditioner", CONDITIONERS)


def raw_for(transformer, batch, dims=1, size=1.0, dtype=torch.float64):
    return size * torch.randn(batch, transformer.outputs * dims, dtype=dtype)


def jacobian(function, x):
    return jacrev(lambda v: function(v[None])[0].flatten())(x)


# The frame


@each_curve
@each_conditioner
def test_any_curve_goes_with_any_conditioner(curve, conditioner):
    transformer = CURVES[curve]()
    net = perturbed(CONDITIONERS[conditioner](6, transformer.outputs), 0.15)
    layer = Autoregressive(net, transformer)
    checked = ["round_trip", "log_det_is_the_jacobian", "log_dets_cancel", "runs_on_meta"]
    check_bijector(layer, torch.randn(2, 6), properties=checked)


@each_conditioner
def test_the_incremental_inverse_is_that_of_whole_passes(conditioner):
    transformer = SigmoidalTransformer(2)
    net = perturbed(CONDITIONERS[conditioner](6, transformer.outputs), 0.3).double()
    layer, z = Autoregressive(net, transformer), torch.randn(3, 6, dtype=torch.float64)
    found = layer.inverse(z)
    naive = Conditioner.one_by_one(net, z)
    net.one_by_one = lambda *_: naive
    torch.testing.assert_close(found, layer.inverse(z), rtol=1e-10, atol=1e-10)


# Curves


@each_curve
def test_every_curve_rises_onto_the_reals_and_its_log_slope_is_its_derivative(curve):
    transformer = CURVES[curve]().double()
    raw = raw_for(transformer, 40, size=0.7)
    x = torch.linspace(-6, 6, 60, dtype=torch.float64)[None].expand(40, -1).clone()
    wide = raw[:, :, None].expand(-1, -1, 60).flatten(1)
    x.requires_grad_()
    z, _ = transformer(x, wide)
    assert (z.diff(dim=1) > 0).all()
    (slope,) = torch.autograd.grad(z.sum(), x)
    log_det = [transformer(x[:, i : i + 1], raw)[1] for i in range(0, 60, 7)]
    torch.testing.assert_close(
        torch.stack(log_det, dim=1), slope[:, ::7].log(), rtol=1e-6, atol=1e-6
    )
    far = torch.tensor([[1e4]], dtype=torch.float64).expand(40, 1)
    assert (transformer(far, raw)[0] > 5).all() and (transformer(-far, raw)[0] < -5).all()


@each_curve
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_out_values_and_gradients_are_finite(curve, dtype):
    transformer = CURVES[curve]().to(dtype)
    for size in (0.0, 1.0, 30.0 if curve != "squares" else 3.0):
        raw = raw_for(transformer, 5, 2, size, dtype).requires_grad_()
        x = torch.tensor([[-1e3, 1e3]], dtype=dtype).expand(5, 2).clone().requires_grad_()
        z, log_det = transformer(x, raw)
        total = log_det.sum() + (z / z.detach().abs().clamp(min=1)).sum()
        gradients = torch.autograd.grad(total, [x, raw])
        assert all(v.isfinite().all() for v in (z, log_det, *gradients))


@each_curve
def test_curves_are_never_computed_in_bfloat16(curve):
    """Only conditioners may be: with the same parameters, autocast changes nothing."""
    transformer = CURVES[curve]()
    raw, x = raw_for(transformer, 6, 3, 0.5, torch.float32), torch.randn(6, 3)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = transformer(x, raw) + transformer.inverse(x, raw)
    torch.testing.assert_close(mixed, transformer(x, raw) + transformer.inverse(x, raw))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("curve", ["conic", "sigmoidal", "squares", "integral"])
def test_inverses_reach_the_stated_tolerance(curve, dtype):
    transformer = CURVES[curve]().to(dtype)
    raw = raw_for(transformer, 400, size=0.5, dtype=dtype)
    z = 3 * torch.randn(400, 1, dtype=dtype)
    x, _ = transformer.inverse(z, raw)
    double, exact = transformer.double(), raw.double()
    eps = torch.finfo(dtype).eps
    step = 16 * eps * x.double().abs().clamp(min=1)
    slack = 64 * eps * (1 + z.double().abs())
    above, below = (double(x.double() + s * step, exact)[0] for s in (1, -1))
    assert (above >= z.double() - slack).all() and (below <= z.double() + slack).all()


@pytest.mark.parametrize("curve", ["conic", "sigmoidal", "squares", "integral"])
def test_gradients_of_inverses_are_those_of_finite_differences(curve):
    transformer = CURVES[curve]().double()
    raw = raw_for(transformer, 2, size=0.5).requires_grad_()
    z = torch.randn(2, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transformer.inverse, (z, raw), atol=1e-5)


def test_the_conic_sum_is_the_sum_and_lies_in_its_bracket():
    transformer = ConicTransformer(2)
    raw = torch.randn(1, 8, dtype=torch.float64)
    shift, log_line, *log_weight = raw[0, :4].tolist()
    mean, log_scale = raw[0, 4:6].numpy() + [-1, 1], raw[0, 6:].numpy()

    def bound(v):
        return 7 * np.tanh(np.asarray(v) / 7)

    w = np.exp(bound(log_weight)) * 2
    scale = np.exp(bound(log_scale + math.log(2)))
    for x in (-3.0, 0.1, 2.5):
        theirs = shift + math.exp(bound(log_line - 1)) * x
        theirs += (w * scipy.stats.logistic(mean, scale).cdf(x)).sum()
        found, _ = transformer(torch.tensor([[x]], dtype=torch.float64), raw)
        assert found.item() == pytest.approx(theirs, abs=1e-12)
        line = (found.item() - shift) / math.exp(bound(log_line - 1))
        assert line - w.sum() / math.exp(bound(log_line - 1)) <= x <= line


def test_the_sigmoidal_curve_is_a_logit_of_scipys_mixture():
    transformer = SigmoidalTransformer(3)
    raw = torch.randn(1, 9, dtype=torch.float64)
    weight = scipy.special.softmax(raw[0, :3].numpy())
    mean = raw[0, 3:6].numpy() + np.array([-4 / 3, 0, 4 / 3])
    scale = np.exp(7 * np.tanh((raw[0, 6:].numpy() + math.log(4 / 3)) / 7))
    for x in (-4.0, 0.3, 2.0):
        theirs = scipy.special.logit((weight * scipy.stats.logistic(mean, scale).cdf(x)).sum())
        found, _ = transformer(torch.tensor([[x]], dtype=torch.float64), raw)
        assert found.item() == pytest.approx(theirs, abs=1e-9)


def test_repeating_composes_in_order_and_adds_log_slopes():
    one = SigmoidalTransformer(2)
    twice = Repeated(one, 2)
    first, second = raw_for(one, 5, 3), raw_for(one, 5, 3)
    x = torch.randn(5, 3, dtype=torch.float64)
    middle, a = one(x, first)
    z, b = one(middle, second)
    raw = torch.cat([first, second], dim=1)
    torch.testing.assert_close(twice(x, raw), (z, a + b))
    torch.testing.assert_close(twice.inverse(z, raw), (x, -a - b))


# Not every sum of monotone functions will do


class Given(RootTransformer):
    """A curve without parameters, for counter-examples."""

    def __init__(self, function, log_slope):
        super().__init__()
        self.outputs, self.function, self.log_slope = 0, function, log_slope

    def unfold(self, x, context):
        return x

    def read(self, raw):
        return ()

    def curve(self, x, read):
        return self.function(x), self.log_slope(x)


Z = torch.tensor([[0.5], [-1.5]], dtype=torch.float64)


@pytest.mark.parametrize(
    "curve",
    [
        Given(lambda x: x + (-x), torch.zeros_like),  # constant: a sum of monotone functions
        Given(lambda x: -x, torch.zeros_like),  # monotone, and falls
        Given(torch.sigmoid, lambda x: -x),  # increases, and is bounded
        Given(lambda x: x * math.nan, torch.zeros_like),
    ],
    ids=["x + (-x)", "-x", "sigmoid", "nan"],
)
def test_what_is_not_increasing_and_onto_is_an_error_that_says_so(curve):
    with pytest.raises(NoConvergenceError, match=r"not passed \d of 2 values.*increase.*onto"):
        curve.inverse(Z)


def test_a_bounded_increasing_function_may_be_added_to_a_line():
    curve = Given(lambda x: x + torch.tanh(x), lambda x: (2 - torch.tanh(x) ** 2).log())
    x, log_det = curve.inverse(Z)
    torch.testing.assert_close(x + torch.tanh(x), Z)
    torch.testing.assert_close(log_det, autograd_log_det(curve.inverse, Z))


def test_a_bounded_transformer_loses_mass_and_a_line_brings_it_back():
    """The tests' integral: of a normal density times the slope, over all x."""

    def mass(height, slope):
        return quad(lambda x: scipy.stats.norm.pdf(height(x)) * slope(x), -60, 60, limit=200)[0]

    sigmoid = scipy.special.expit

    def slope(x):
        return 2 * sigmoid(x) * sigmoid(-x)

    bounded = mass(lambda x: 2 * sigmoid(x) - 1, slope)
    assert bounded == pytest.approx(scipy.stats.norm.cdf(1) - scipy.stats.norm.cdf(-1), abs=1e-9)
    onto = mass(lambda x: 2 * sigmoid(x) - 1 + 0.1 * x, lambda x: slope(x) + 0.1)
    assert onto == pytest.approx(1, abs=1e-6)


# The root finder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bracket_is_found_however_far_the_root_is(dtype):
    z = torch.tensor([0.0, 1e-8, -3.0, 1e6, -1e15], dtype=dtype)

    def asinh(x):
        return 3 * torch.asinh(x / 2) + x, (1 + 3 / (x**2 + 4).sqrt()).log()

    x, eps = invert(asinh, z, torch.zeros_like(z)), 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(asinh(x)[0], z, rtol=eps, atol=eps)


def test_a_wrong_slope_costs_steps_and_no_accuracy():
    z = torch.linspace(-5, 5, 11, dtype=torch.float64)
    for wrong in (0.0, 0.7, -0.7, 5.0):
        calls = []

        def cubic(x, wrong=wrong, calls=calls):
            calls.append(1)
            return x**3 + x, (3 * x**2 + 1).log() + wrong

        x = invert(cubic, z, torch.zeros_like(z))
        torch.testing.assert_close(x**3 + x, z, rtol=1e-9, atol=1e-12)
        if not wrong:
            right = len(calls)
        assert len(calls) >= right


# Quadrature


@pytest.mark.parametrize("n", [3, 5, 9, 17])
def test_rules_are_exact_for_polynomials_of_their_degree_and_no_further(n):
    for rule, degree in [(clenshaw_curtis, n - 1), (gauss_legendre, 2 * n - 1)]:
        places, weights = rule(n)
        assert (weights > 0).all() and (places >= 0).all() and (places <= 1).all()
        polynomial = scipy.special.eval_sh_legendre
        for k in range(degree + 1):
            expected = 1.0 if k == 0 else 0.0
            assert (weights * polynomial(k, places)).sum() == pytest.approx(expected, abs=1e-12)
        beyond = degree + (2 if rule is clenshaw_curtis else 1)
        assert abs((weights * polynomial(beyond, places)).sum()) > 1e-4


def test_clenshaw_curtis_needs_an_odd_number_of_nodes():
    for n in (1, 2, 4):
        with pytest.raises(ValueError, match=f"3, 5, 7, ... nodes, not {n}"):
            clenshaw_curtis(n)


def steep_integral(**options):
    """A network with steep units, so that few nodes are too few."""
    torch.manual_seed(3)
    transformer = IntegralTransformer(2, hidden=8, **options).double()
    with torch.no_grad():
        transformer.of_x.weight.mul_(4)
        transformer.rest[-1].weight.mul_(6)
    return transformer


@pytest.mark.parametrize("rule", RULES)
def test_the_integral_is_that_of_scipy_and_errors_fall_with_the_nodes(rule):
    x = torch.tensor([[-2.5], [-0.3], [0.8], [3.0]], dtype=torch.float64)
    raw = torch.randn(4, 3, dtype=torch.float64)
    errors = {}
    for nodes in (9, 17, 33, 129):
        transformer = steep_integral(nodes=nodes, rule=rule)
        read = transformer.read(transformer.unfold(x, raw))
        told = read[1]

        def slope(u, i, transformer=transformer, told=told):
            u = torch.tensor([[u]], dtype=torch.float64)
            return transformer.integrand(u, told[i]).item()

        with torch.no_grad():
            truth = [
                raw[i, 0].item() + quad(slope, 0, x[i].item(), args=(i,), epsabs=1e-13)[0]
                for i in range(4)
            ]
            z, log_slope = transformer.curve(x, read)
            assert log_slope[2, 0] == pytest.approx(math.log(slope(0.8, 2)), abs=1e-12)
            found = (z[:, 0] - torch.tensor(truth, dtype=torch.float64)).abs()
            errors[nodes] = found.max().item()
            # The estimate by two orders is of the size of the error, where there is one to see.
            estimate = transformer.error(x, raw)[:, 0]
            if errors[nodes] > 1e-9:
                torch.testing.assert_close(estimate.max(), found.max(), rtol=0.5, atol=1e-10)
    assert errors[9] > 10 * errors[17] > 100 * errors[33] and errors[129] < 1e-10


def test_too_few_nodes_make_a_log_slope_that_is_not_the_maps():
    x, raw = 2 * torch.randn(20, 1).double(), torch.randn(20, 3).double()
    gaps = []
    for nodes in (5, 9, 65):
        transformer = steep_integral(nodes=nodes)
        truth = autograd_log_det(transformer, x, raw)
        gaps.append((transformer(x, raw)[1] - truth).abs().max().item())
    assert gaps[0] > 1e-2 and gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-9


def test_quadrature_of_squares_is_the_closed_form():
    """Degree 4 squared is degree 8: five Gauss-Legendre nodes are exact, four are not."""
    transformer = SquaresTransformer(5, polynomials=3)
    x = torch.tensor([[-2.0], [0.4], [2.7]], dtype=torch.float64)
    raw = raw_for(transformer, 3, size=0.6)
    read = transformer.read(transformer.unfold(x, raw))
    z, _ = transformer.curve(x, read)
    for nodes, exact in [(5, True), (4, False)]:
        places, weights = (torch.from_numpy(v) for v in gauss_legendre(nodes))
        slopes = torch.cat(
            [
                transformer.curve(x * p, read)[1].exp() * w
                for p, w in zip(places, weights, strict=True)
            ],
            dim=1,
        )
        by_rule = raw[:, :1] + x * slopes.sum(dim=1, keepdim=True)
        error = (by_rule - z).abs().max()
        assert (error < 1e-12) == exact


# Universality


def test_conditional_distribution_functions_are_a_transformer_of_a_known_density():
    """Phi^-1 of a mixture's conditional CDFs, written as transformer and conditioner."""
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    means = torch.tensor([[-1.0, 0.5], [1.0, -0.5]], dtype=torch.float64)
    lower = torch.tensor([[[0.5, 0.0], [0.3, 0.4]], [[0.7, 0.0], [-0.5, 0.3]]]).double()
    theirs = Compose(KnotheRosenblatt(weights, means, lower), Quantile(Normal, loc=0.0, scale=1.0))

    class Posterior(Conditioner):
        """Log-weights, means and scales of x_d given what came before: a mixture again."""

        def forward(self, x, context=None):
            first = torch.stack([weights.log().expand(len(x), 2), means[:, 0].expand(len(x), 2),
                                 lower[:, 0, 0].expand(len(x), 2)], dim=1)  # fmt: skip
            of_first = Normal(means[:, 0], lower[:, 0, 0]).log_prob(x[:, :1]) + weights.log()
            slope = lower[:, 1, 0] / lower[:, 0, 0]
            mean = means[:, 1] + slope * (x[:, :1] - means[:, 0])
            second = torch.stack([of_first.log_softmax(dim=1), mean,
                                  lower[:, 1, 1].expand(len(x), 2)], dim=1)  # fmt: skip
            return torch.stack([first, second], dim=-1).flatten(1)

    class OfMixture(RootTransformer):
        outputs = 6

        def read(self, raw):
            return raw[:, :2], raw[:, 2:4], raw[:, 4:]

        def curve(self, x, read):
            log_weight, mean, scale = read
            u = (x.unsqueeze(1) - mean) / scale
            cdf = (log_weight.exp() * torch.special.ndtr(u)).sum(dim=1)
            log_density = (log_weight + Normal(0, 1).log_prob(u) - scale.log()).logsumexp(dim=1)
            z = torch.special.ndtri(cdf)
            return z, log_density - Normal(0, 1).log_prob(z)

    layer = Autoregressive(Posterior([slice(0, 1), slice(1, 2)]), OfMixture())
    x = torch.randn(50, 2, dtype=torch.float64)
    torch.testing.assert_close(layer(x), theirs(x), rtol=1e-8, atol=1e-8)
    z = torch.randn(50, 2, dtype=torch.float64)
    torch.testing.assert_close(layer.inverse(z)[0], theirs.inverse(z)[0], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(layer(x)[1], autograd_log_det(layer, x), rtol=1e-8, atol=1e-8)


# The recurrent conditioner


def test_parameters_depend_on_all_earlier_numbers_and_on_nothing_else():
    net = perturbed(RecurrentConditioner(6, 2, 8), 0.3).double()
    x = torch.randn(6, dtype=torch.float64)
    depends = jacobian(net, x).reshape(2, 6, 6) != 0
    legal = torch.ones(6, 6).tril(-1).bool()
    assert all(torch.equal(of, legal) for of in depends)


def test_the_recurrent_conditioner_is_torchs_cell_step_by_step():
    net = RecurrentConditioner(4, 3, 5).double()
    cell = nn.GRUCell(1, 5).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in net.cell.state_dict().items()})
    x = torch.randn(7, 4, dtype=torch.float64)
    state, said = net.start.expand(7, -1), []
    for d in range(4):
        said.append(net.write(state))
        state = cell(x[:, d : d + 1], state)
    torch.testing.assert_close(net(x), torch.stack(said, dim=2).flatten(1))


def test_its_size_does_not_depend_on_the_dimensions_and_its_state_moves_to_others():
    few, many = RecurrentConditioner(3, 2, 5), RecurrentConditioner(30, 2, 5)
    many.load_state_dict(few.state_dict())
    x = torch.randn(4, 30)
    layer = Autoregressive(many, AffineTransformer())
    torch.testing.assert_close(
        many(x).unflatten(1, (2, -1))[:, :, :3], few(x[:, :3]).unflatten(1, (2, -1))
    )
    torch.testing.assert_close(layer.inverse(layer(x)[0])[0], x, rtol=1e-4, atol=1e-4)


def test_each_step_of_the_cell_is_taken_once():
    net = RecurrentConditioner(9, 2, 5)
    steps = []
    net.cell.register_forward_hook(lambda cell, given, _: steps.append(given[0].shape[1]))
    Autoregressive(net, AffineTransformer()).inverse(torch.randn(4, 9))
    assert sum(steps) == 8


# The model


@pytest.mark.parametrize("transformer", TRANSFORMERS)
@pytest.mark.parametrize("conditioner", ["masked", "recurrent"])
def test_every_model_learns_what_a_line_cannot(transformer, conditioner):
    """Two peaks: any line keeps a normal density, 0.5 log(2 pi e var) nats."""
    x = 2.0 * torch.sign(torch.randn(400, 1)) + 0.3 * torch.randn(400, 1)
    flow = build((1,), None, transformer=transformer, units=5, conditioner=conditioner,
                 layers=1, hidden=(8,))  # fmt: skip
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.05)
    for _ in range(120):
        loss = -flow.log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    line = 0.5 * math.log(2 * math.pi * math.e * x.var().item())
    if transformer == "affine":
        assert loss.item() == pytest.approx(line, abs=0.01)
    else:
        assert loss < line - 0.4


def test_wrong_options_are_explained():
    for name in ("transformer", "conditioner", "mixing"):
        with pytest.raises(ValueError, match=f"{name} is one of .*, not 'attention'"):
            build((2,), None, **{name: "attention"})
    for options in (
        dict(hidden=(4, 4)),
        dict(hidden=(4,), blocks=2),
        dict(hidden=(4,), dropout=0.1),
    ):
        with pytest.raises(ValueError, match="one state and neither blocks nor dropout"):
            build((2,), None, conditioner="recurrent", **options)
    with pytest.raises(NotImplementedError, match=r"read\(raw\)"):
        RootTransformer().read(torch.zeros(1, 1, 1))
    with pytest.raises(NotImplementedError, match=r"curve\(x, read\)"):
        RootTransformer().curve(torch.zeros(1, 1), ())


def test_a_linear_map_or_a_reversal_stands_between_layers():
    for mixing in ("reverse", "plu"):
        steps = build((3,), None, layers=2, hidden=(4,), mixing=mixing).bijector.bijectors
        assert [type(s).__name__ for s in steps[1:-1]] == [
            "ActNorm", "Autoregressive",
            {"reverse": "Permutation", "plu": "PLULinear"}[mixing],
            "ActNorm", "Autoregressive",
        ]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS,
                         ids=lambda r: f"{r['variant']}-{r['seed']}")  # fmt: skip
def test_no_record_on_circles_beats_the_entropy(record):
    """Below it by more than chance a model is broken; the affine layer is far above it."""
    above = record["nats"] - record["entropy_nats"]
    assert -4 * record["standard_error"] < above < 1.1


def test_the_papers_preset_has_the_size_counted_by_hand():
    preset = catalog.topic("transformers").preset("paper")
    with torch.device("meta"):
        model = build((6,), None, **preset.model)
    layer = (6 + 1) * 100 + (100 + 1) * 100 + (100 + 1) * 6 * 48 + 2 * 6
    assert sum(p.numel() for p in model.parameters()) == 5 * layer
