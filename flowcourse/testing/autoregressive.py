r"""The properties of an autoregressive model, on a toy that is small enough to enumerate.

The truths are independent of the model's own bookkeeping: the Jacobian that autograd sees says who
depends on whom, a sum over every state says whether the probabilities are normalised, and counted
samples say whether sampling draws from what scoring claims.
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Bool
from safetensors.torch import load, save
from torch import Tensor

from flowcourse.chain_rule import AutoregressiveModel
from flowcourse.testing.report import Report, Result, Skip, error, run

__all__ = ["AUTOREGRESSIVE_PROPERTIES", "check_autoregressive", "dependencies"]

EXACT = 1e-10  # float64
STATES = 5_000  # more are not enumerated
SAMPLES = 4_000
FALSE_ALARM_RATE = 1e-7


def dependencies(model: AutoregressiveModel, examples: int = 8) -> Bool[Tensor, "dims dims"]:
    """Which conditional looks at which dimension, as autograd sees it.

    A derivative that is zero at one example by accident (a ReLU that is off) is not zero at all of
    several random ones.

    Args:
        model: in the mode in which it should be looked at.
        examples: how many random examples are looked at.

    Returns:
        Entry `[i, j]`: the logits of dimension `i` depend on dimension `j`; indices are those of
        the flattened example.
    """
    shape = (examples, *model.event_shape)
    like = next(model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randint(model.levels, shape).to(like)
        h = model.encode(x).detach().requires_grad_()
        every = model.logits(h).flatten(1, -2)
        # A random mixture of the levels' logits: their plain sum can be constant.
        mixed = (every * torch.randn(model.levels).to(like)).sum(dim=(0, 2))
    rows = []
    for i in range(model.dims):
        if mixed[i].requires_grad:
            (slope,) = torch.autograd.grad(mixed[i], h, retain_graph=True, allow_unused=True)
        else:  # constant logits, as of the first dimension
            slope = None
        slope = torch.zeros_like(h) if slope is None else slope
        rows.append((slope != 0).any(dim=0).any(dim=0).flatten())
    return torch.stack(rows)


@dataclass(frozen=True)
class _Case:
    """A model in `eval` mode and float64, with a few examples."""

    model: AutoregressiveModel
    x: Tensor

    @property
    def legal(self) -> Tensor:
        """Entry `[i, j]`: dimension `j` comes before dimension `i`."""
        place = torch.tensor(self.model.order).argsort()
        return place[:, None] > place[None, :]

    def states(self) -> Tensor:
        """Every example there is."""
        levels, dims = self.model.levels, self.model.dims
        if levels**dims > STATES:
            raise Skip(f"{levels}^{dims} states are too many to enumerate")
        every = torch.tensor(list(product(range(levels), repeat=dims)))
        return every.reshape(-1, *self.model.event_shape)

    def noise(self, n: int) -> Tensor:
        return torch.rand(n, *self.model.event_shape, dtype=torch.float64)


def shapes_and_dtypes(case: _Case) -> Result:
    """log_prob is (batch,) in the dtype of the parameters; logits are (batch, *event, levels)."""
    ok = True
    for dtype in (torch.float32, torch.float64):
        model = copy.deepcopy(case.model).to(dtype)
        log_p, logits = model.log_prob(case.x), model.conditional_logits(case.x)
        ok &= log_p.dtype == logits.dtype == dtype and log_p.shape == (len(case.x),)
        ok &= logits.shape == (*case.x.shape, model.levels)
    return 0.0 if ok else math.inf, 0.0, "as the contract says, in float32 and float64"


def looks_only_back(case: _Case) -> Result:
    """The autograd Jacobian is strictly lower triangular in the declared order."""
    forbidden = int((dependencies(case.model) & ~case.legal).sum())
    return float(forbidden), 0.0, f"{forbidden} entries on or above the diagonal"


def looks_at_everything_before(case: _Case) -> Result:
    """Every entry below the diagonal is there: no blind spot."""
    missing = int((~dependencies(case.model) & case.legal).sum())
    return float(missing), 0.0, f"{missing} of {int(case.legal.sum())} legal dependencies missing"


def probabilities_sum_to_one(case: _Case) -> Result:
    """Over all states."""
    total = case.model.log_prob(case.states()).logsumexp(dim=0)
    return abs(total.item()), EXACT, ""


def log_prob_is_the_sum_of_conditionals(case: _Case) -> Result:
    """One pass scores as the conditionals do that a sampler asks for one by one."""
    x = case.x.to(torch.float64)
    total = torch.zeros(len(x), dtype=torch.float64)
    cache: dict = {}
    for place in range(case.model.dims):
        index = case.model.order[place]
        past = x.flatten(1).clone()
        past[:, case.model.order[place:]] = 0
        logits = case.model.conditional(past.view_as(x), place, None, cache)
        log_p = logits.log_softmax(dim=-1)
        total += log_p.gather(1, x.flatten(1)[:, index].long()[:, None])[:, 0]
    return error(total, case.model.log_prob(case.x)), EXACT, ""


def cached_sampling_is_sampling(case: _Case) -> Result:
    """For the same noise, kept activations give the same samples as a full pass for each step."""
    noise = case.noise(16)
    fast = case.model.sample(16, noise=noise, cached=True)
    slow = case.model.sample(16, noise=noise, cached=False)
    return float((fast != slow).sum()), 0.0, "the same integers"


def samples_follow_the_probabilities(case: _Case) -> Result:
    """Counts of all states against their probabilities: chi-squared, false alarms below 1e-7."""
    states = case.states()
    expected = SAMPLES * case.model.log_prob(states).exp()
    drawn = case.model.sample(SAMPLES, noise=case.noise(SAMPLES))
    return _chi_squared(_count(drawn, case.model.levels, len(states)), expected)


def completions_follow_the_conditional(case: _Case) -> Result:
    """What is given stays; the rest follows the probabilities of the states that agree with it."""
    states, model = case.states(), case.model
    given = model.dims // 2
    known = torch.zeros(model.dims, dtype=torch.bool)
    known[model.order[:given]] = True
    start = case.x[:1]
    agree = (states.flatten(1) == start.flatten(1))[:, known].all(dim=1)
    log_p = model.log_prob(states).masked_fill(~agree, -math.inf)
    expected = SAMPLES * log_p.softmax(dim=0)
    drawn = model.complete(
        start.expand(SAMPLES, *model.event_shape),
        known.reshape(model.event_shape),
        noise=case.noise(SAMPLES),
    )
    counts = _count(drawn, model.levels, len(states))
    if counts[~agree].any():
        return math.inf, 0.0, "a known dimension was changed"
    return _chi_squared(counts[agree], expected[agree])


def examples_are_independent(case: _Case) -> Result:
    """Each example alone scores as it does in its batch."""
    alone = torch.cat([case.model.log_prob(x[None]) for x in case.x])
    return error(alone, case.model.log_prob(case.x)), EXACT, ""


def gradients_are_finite(case: _Case) -> Result:
    """Also where every dimension has its lowest or its highest level."""
    lowest = torch.zeros_like(case.x)
    for x in (case.x, lowest, lowest + case.model.levels - 1):
        leaves = [p for p in case.model.parameters() if p.requires_grad]
        total = case.model.log_prob(x).sum()
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        if not all(g.isfinite().all() for g in gradients if g is not None):
            return math.inf, 0.0, "not finite"
    return 0.0, 0.0, "finite, also at the lowest and highest levels"


def state_round_trips(case: _Case) -> Result:
    """A saved and loaded state gives the same scores."""
    other = copy.deepcopy(case.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(0.5)
    state = {name: value.clone() for name, value in case.model.state_dict().items()}
    other.load_state_dict(load(save(state)))
    return error(other.log_prob(case.x), case.model.log_prob(case.x)), 0.0, ""


def runs_on_meta(case: _Case) -> Result:
    """Scoring and sampling run on the meta device: no tensor is born elsewhere."""
    meta = copy.deepcopy(case.model).to("meta")
    meta.log_prob(case.x.to("meta"))
    meta.sample(2)
    return 0.0, 0.0, "no tensor is born on another device"


AUTOREGRESSIVE_PROPERTIES: dict[str, Callable[[_Case], Result]] = {
    f.__name__: f
    for f in (
        shapes_and_dtypes,
        looks_only_back,
        looks_at_everything_before,
        probabilities_sum_to_one,
        log_prob_is_the_sum_of_conditionals,
        cached_sampling_is_sampling,
        samples_follow_the_probabilities,
        completions_follow_the_conditional,
        examples_are_independent,
        gradients_are_finite,
        state_round_trips,
        runs_on_meta,
    )
}


def check_autoregressive(
    model: AutoregressiveModel, properties: Iterable[str] = tuple(AUTOREGRESSIVE_PROPERTIES)
) -> Report:
    """Run the property set on an autoregressive model and report each property by name.

    Args:
        model: what to test, for few dimensions and levels (four and three, say), so that its states
            can be enumerated; a copy in `eval` mode is tested, the original stays as it is.
        properties: names from `AUTOREGRESSIVE_PROPERTIES`; all of them by default.

    Returns:
        The report; print it for a table.

    Raises:
        PropertyFailure: at least one property does not hold; the message is the whole table.
    """
    double = copy.deepcopy(model).eval().to(torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randint(model.levels, (5, *model.event_shape))
        return run(type(model).__name__, _Case(double, x), AUTOREGRESSIVE_PROPERTIES, properties)


def _count(x: Tensor, levels: int, states: int) -> Tensor:
    """How often each state was drawn, in the order in which `_Case.states` lists them."""
    dims = x[0].numel()
    weights = levels ** torch.arange(dims - 1, -1, -1)
    return (x.flatten(1) * weights).sum(dim=1).bincount(minlength=states)


def _chi_squared(counts: Tensor, expected: Tensor) -> Result:
    # Imported here: it takes long, and `import flowcourse.testing` would wait.
    from scipy.stats import chi2

    # States too rare for the approximation are counted together.
    rare = expected < 5
    observed, hoped = counts[~rare].double(), expected[~rare]
    if rare.any():
        observed = torch.cat([observed, counts[rare].sum()[None].double()])
        hoped = torch.cat([hoped, expected[rare].sum()[None]])
    statistic = ((observed - hoped) ** 2 / hoped).sum().item()
    limit = float(chi2.isf(FALSE_ALARM_RATE, max(len(hoped) - 1, 1)))
    return statistic, limit, f"chi-squared {statistic:.1f}, limit {limit:.1f}"
