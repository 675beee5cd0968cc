"""NADE against loops, enumeration and counted operations; the contract is tested for all topics."""

import math
from collections import Counter
from itertools import combinations, permutations, product

import numpy as np
import pytest
import scipy.stats
import torch
from torch.utils.flop_counter import FlopCounterMode

from flowcourse import data
from flowcourse.autoregressive.nade import (
    NADE,
    EoNADE,
    OrderAgnostic,
    build,
    random_orders,
    thermometer,
)
from flowcourse.catalog import perturbed, topic
from flowcourse.chain_rule import one_hot
from flowcourse.testing import PropertyFailure, check_autoregressive, dependencies
from flowcourse.training import TrainingConfig, evaluate, train

pytestmark = pytest.mark.usefixtures("torch_seed")


def all_states(dims: int, levels: int) -> torch.Tensor:
    return torch.tensor(list(product(range(levels), repeat=dims)))


def small_nade(dims=4, levels=2, hidden=5, **options) -> NADE:
    return perturbed(NADE((dims,), levels, hidden, **options).double(), scale=0.7)


def small_ensemble(shape=(4,), levels=2, orders=1, network="deep") -> EoNADE:
    model = build(shape, levels, network=network, hidden=8, depth=1, orders=orders).double()
    return perturbed(model, scale=0.7)


# One order


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_binary_nade_is_the_papers_equations(order):
    """h_d from all earlier columns afresh, O(D^2 H), with NumPy."""
    model = small_nade(order=order)
    W = model.weight.detach().numpy()[:, 0, :].T  # (H, D)
    V = model.out_weight.detach().numpy()[:, 0, :]  # (D, H)
    c, b = model.bias.detach().numpy(), model.out_bias.detach().numpy()[:, 0]

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    for x in all_states(4, 2).numpy():
        total = 0.0
        for d, i in enumerate(order):
            before = order[:d]
            h = sigmoid(W[:, before] @ x[before] + c)
            p_one = sigmoid(V[i] @ h + b[i])
            total += math.log(p_one if x[i] == 1 else 1 - p_one)
        found = model.log_prob(torch.from_numpy(x)[None]).item()
        assert found == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("levels", [2, 3, 17])
def test_the_running_sum_is_the_sum_over_one_hot_columns(levels):
    model = small_nade(dims=5, levels=levels)
    x = torch.randint(levels, (6, 5))
    # The column of level v is the sum of the first v steps; level 0 has none.
    zero = torch.zeros(5, 1, 5, dtype=torch.float64)
    columns = torch.cat([zero, model.weight.cumsum(dim=1)], dim=1)
    logits = model.conditional_logits(x)
    for d in range(5):
        a = model.bias + sum(
            (columns[e, x[:, e]] for e in range(d)), torch.zeros(6, 5, dtype=torch.float64)
        )
        out = torch.sigmoid(a) @ model.out_weight[d].T + model.out_bias[d]
        torch.testing.assert_close(logits[:, d, 1:], out, atol=1e-12, rtol=0)
        assert (logits[:, d, 0] == 0).all()


def test_thermometer_is_a_sum_of_one_hot_codes():
    x = torch.arange(5.0)[:, None].expand(5, 2)
    code = thermometer(x, 5)
    expected = one_hot(x, 5).flip(1).cumsum(dim=1).flip(1)[:, 1:]  # the tail of the one-hot code
    assert torch.equal(code, expected) and torch.equal(code.sum(dim=1), x)
    binary = torch.randint(2, (3, 4)).float()
    assert torch.equal(thermometer(binary, 2), binary[:, None])


def operations(compute) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compute()
    return counter.get_total_flops()


def test_scoring_and_sampling_cost_d_times_h():
    def scoring(dims, hidden):
        model, x = NADE((dims,), 3, hidden), torch.randint(3, (7, dims))
        return operations(lambda: model.log_prob(x))

    assert scoring(20, 8) == 2 * scoring(10, 8) == 2 * scoring(20, 4)
    model = NADE((20,), 3, 8)
    noise = torch.rand(7, 20)
    sampling = operations(lambda: model.sample(7, noise=noise))
    # All D steps together cost what one pass costs; a pass for each step would cost D times that.
    assert sampling <= scoring(20, 8)
    slow = operations(lambda: model.sample(7, noise=noise, cached=False))
    assert slow == 20 * scoring(20, 8)


def test_a_hidden_state_never_contains_its_own_dimension():
    model = small_nade(dims=6, levels=3)
    assert torch.equal(dependencies(model), torch.ones(6, 6).tril(-1).bool())


# Every order


def test_the_network_is_told_only_what_is_known():
    model = small_ensemble(levels=3).model
    x, other = torch.randint(3, (2, 9, 4)).double()
    known = torch.rand(9, 4) < 0.5
    mixed = torch.where(known, x, other)
    first, second = (model.given(model.encode(v), known) for v in (x, mixed))
    assert torch.equal(first, second)
    # And a known zero is not the same as nothing known: the mask says so.
    zeros = model.encode(torch.zeros(1, 4, dtype=torch.float64))
    nothing, everything = (model.given(zeros, torch.full((1, 4), v)) for v in (False, True))
    assert (nothing != everything).any()


def all_splits(dims: int):
    """Every known set, with the probability that `random_known` should give it."""
    for size in range(dims):
        for known in combinations(range(dims), size):
            mask = torch.zeros(1, dims, dtype=torch.bool)
            mask[0, list(known)] = True
            yield mask, 1 / (dims * math.comb(dims, size))


@pytest.mark.parametrize("levels", [2, 3])
def test_the_training_loss_is_unbiased_for_the_mean_over_all_orders(levels):
    model = small_ensemble(levels=levels).model
    x = torch.randint(levels, (5, 4))
    every_order = [model.in_order(order).log_prob(x) for order in permutations(range(4))]
    truth = torch.stack(every_order).mean(dim=0)
    splits = list(all_splits(4))
    assert sum(p for _, p in splits) == pytest.approx(1)
    expectation = sum(p * model.split_estimate(x, known) for known, p in splits)
    torch.testing.assert_close(expectation, truth, atol=1e-12, rtol=0)


def test_random_splits_have_the_probabilities_that_make_it_unbiased():
    model, n = small_ensemble().model, 20_000
    counts = Counter(tuple(row) for row in model.random_known(n).tolist())
    splits = {tuple(mask[0].tolist()): p for mask, p in all_splits(4)}
    assert set(counts) == set(splits)
    observed = [counts[mask] for mask in splits]
    assert scipy.stats.chisquare(observed, [n * p for p in splits.values()]).pvalue > 1e-7


def test_training_asks_the_network_once_and_evaluation_for_each_dimension():
    model, x = small_ensemble().model, torch.randint(2, (3, 4))
    calls = []
    model.net.register_forward_hook(lambda *_: calls.append(1))
    model.train()
    torch.manual_seed(1)
    estimate = model(x)
    assert len(calls) == 1
    torch.manual_seed(1)
    torch.testing.assert_close(estimate, model.split_estimate(x, model.random_known(3)))
    calls.clear()
    assert torch.equal(model.eval()(x), model.log_prob(x)) and len(calls) == 2 * 4


def test_another_order_shares_the_weights_and_keeps_the_contract():
    model = small_ensemble(levels=3).model
    other = model.in_order([3, 1, 0, 2])
    check_autoregressive(other)
    assert model.order == [0, 1, 2, 3]
    assert all(p is q for p, q in zip(model.parameters(), other.parameters(), strict=True))
    x = torch.randint(3, (6, 4))
    assert not torch.allclose(model.log_prob(x), other.log_prob(x))
    with pytest.raises(ValueError, match="each of the 4 dimensions once"):
        model.in_order([0, 1, 2])


def test_a_convolution_sees_as_far_as_its_layers_reach():
    """Too few layers lose dependencies, not exactness: the probabilities still sum to one."""
    short = perturbed(build((1, 1, 6), 2, network="conv", hidden=8, depth=0).double().model, 0.5)
    found = dependencies(short)
    reach = (torch.arange(6)[:, None] - torch.arange(6)).abs() <= 1
    assert torch.equal(found, reach & torch.ones(6, 6).tril(-1).bool())
    with pytest.raises(PropertyFailure):
        check_autoregressive(short, ["looks_at_everything_before"])
    check_autoregressive(short, ["looks_only_back", "probabilities_sum_to_one"])


# Ensembles of orders


def test_an_ensemble_is_a_mixture_and_sums_to_one():
    model = small_ensemble(levels=3, orders=5)
    states = all_states(4, 3)
    members = torch.stack([model.model.in_order(o).log_prob(states) for o in model.orders])
    torch.testing.assert_close(model.log_prob(states).exp(), members.exp().mean(dim=0))
    assert model.log_prob(states).exp().sum().item() == pytest.approx(1, abs=1e-12)
    # The mean of the logarithms is no distribution: it sums to less than one.
    assert members.mean(dim=0).exp().sum().item() < 0.99
    bits = model.bits_per_dim(states)
    torch.testing.assert_close(bits, -model.log_prob(states) / (4 * math.log(2)))


def test_an_ensemble_is_never_worse_than_the_mean_of_its_members():
    model = small_ensemble(orders=7)
    x = all_states(4, 2)
    members = torch.stack([model.model.in_order(o).log_prob(x) for o in model.orders])
    assert (model.log_prob(x) >= members.mean(dim=0)).all()


def p_value(drawn: torch.Tensor, states: torch.Tensor, p: torch.Tensor) -> float:
    rows = Counter(map(tuple, drawn.flatten(1).tolist()))
    observed = [rows.pop(tuple(state), 0) for state in states.flatten(1).tolist()]
    assert not rows, f"drawn, and impossible: {rows}"
    return scipy.stats.chisquare(observed, len(drawn) * p.detach().numpy()).pvalue


@pytest.mark.parametrize("orders", [1, 3])
def test_samples_of_an_ensemble_follow_its_probabilities(orders):
    model, states = small_ensemble(orders=orders), all_states(4, 2)
    assert p_value(model.sample(8000), states, model.log_prob(states).exp()) > 1e-7


@pytest.mark.parametrize("known", list(product([False, True], repeat=4))[:-1])
def test_any_pattern_is_completed_from_the_exact_conditional(known):
    """By enumeration, for the single model and for an ensemble of orders that start alike."""
    known, n = torch.tensor(known), 4000
    start = torch.randint(2, (4,))
    states = all_states(4, 2)
    agree = (states == start)[:, known].all(dim=1)
    ensemble = small_ensemble(orders=3)
    for model in (ensemble.model.in_order([2, 0, 3, 1]), ensemble):
        drawn = model.complete(start.expand(n, 4), known)
        orders = [model.order] if isinstance(model, OrderAgnostic) else model.orders
        base = [2, 0, 3, 1] if isinstance(model, OrderAgnostic) else [0, 1, 2, 3]
        first = [i for i in base if known[i]]
        chains = [first + [i for i in order if i not in first] for order in orders]
        log_p = torch.stack([ensemble.model.in_order(o).log_prob(states) for o in chains])
        joint = log_p.logsumexp(dim=0)[agree]
        assert p_value(drawn, states[agree], joint.softmax(dim=0)) > 1e-7


def test_a_completion_does_not_look_at_what_is_unknown():
    model = small_ensemble(levels=3).model
    known = torch.tensor([False, True, False, True])
    x, other = torch.randint(3, (2, 20, 4))
    noise = torch.rand(20, 4, dtype=torch.float64)
    done = model.complete(x, known, noise=noise)
    again = model.complete(torch.where(known, x, other), known, noise=noise)
    assert torch.equal(done, again) and torch.equal(done[:, known], x[:, known])


def test_one_image_can_be_completed_many_times():
    """An expanded example, and one whose axes were exchanged, lie in memory in another way."""
    model = small_ensemble(shape=(1, 2, 3), levels=3).model
    known = torch.tensor([[[True, False, True], [False, True, False]]])
    image = torch.randint(3, (1, 1, 3, 2)).transpose(2, 3)
    done = model.complete(image.expand(5, 1, 2, 3), known)
    assert (done == image)[:, known].all()


def test_random_orders_are_permutations_and_repeatable():
    orders = random_orders(9, 20, seed=3)
    assert orders == random_orders(9, 20, seed=3) != random_orders(9, 20, seed=4)
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len({tuple(order) for order in orders}) == 20
    with pytest.raises(ValueError, match="one order or more"):
        EoNADE(small_ensemble().model, [])


# The paper's configuration, and training


def test_the_paper_model_has_the_parameters_that_arithmetic_gives():
    preset = topic("nade").preset("paper")
    with torch.device("meta"):
        model = build((1, 28, 28), 2, **preset.model)
    weights, biases = 2 * 784 * 500, 784 + 500
    assert sum(p.numel() for p in model.parameters()) == weights + biases
    assert topic("nade").paper_parameters == weights + biases
    assert model(torch.empty(3, 1, 28, 28, device="meta")).is_meta


@pytest.mark.parametrize("network", ["nade", "deep", "conv"])
def test_training_improves_on_independent_pixels(network):
    """The book trains for longer; here, a few steps must find some structure."""
    digits = data.load("binary_digits")
    share = digits.train.double().mean(dim=0).clamp(0.01, 0.99)
    independent = torch.distributions.Bernoulli(share).log_prob(digits.test.double())
    nats = -independent.flatten(1).sum(dim=1).mean().item()
    options = dict(hidden=16, depth=3) if network == "conv" else dict(hidden=64)
    model = build(digits.event_shape, 2, network=network, **options)
    steps = 600 if network == "deep" else 150
    config = TrainingConfig(
        steps=steps, batch_size=64, learning_rate=0.01, ema=0.9, micro_batches=1
    )
    train(model, digits, config, verbose=False)
    assert evaluate(model, digits.test[:100]).nats < nats - 0.5
