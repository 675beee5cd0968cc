r"""The properties of a bijector, each with its own name, error and tolerance.

The error of a property is relative for large values, $|a - b| / \max(1, |b|)$, and its tolerance
is stated beside it. float64 is used wherever the dtype is not itself the subject. A consistent
sign error satisfies "forward + inverse = 0": the log-determinant is therefore compared with the
Jacobian that autograd sees, in both directions.
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor
from torch.distributions import constraints

from flowcourse.bijector import Bijector, Inverse, NoInverseError, sum_event
from flowcourse.testing.jacobian import autograd_log_det
from flowcourse.testing.report import Report, Result, Skip, error, run

__all__ = ["PROPERTIES", "check_bijector"]

EXACT = 1e-10  # float64
SINGLE = 1e-5  # float32


@dataclass(frozen=True)
class _Case:
    """A bijector in `eval` mode with a float64 input, and the float32 originals."""

    bijector: Bijector
    x: Tensor
    context: Tensor | None

    def to(self, dtype: torch.dtype | None = None, device: str | None = None) -> "_Case":
        context = self.context
        if context is not None:
            # Labels are integers, and stay so.
            kind = dtype if context.is_floating_point() else None
            context = context.to(device=device, dtype=kind)
        bijector = _copied(self.bijector).to(device=device, dtype=dtype)
        return _Case(bijector, self.x.to(device=device, dtype=dtype), context)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.bijector(self.x, self.context)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        try:
            return self.bijector.inverse(z, self.context)
        except NoInverseError as missing:
            raise Skip("no analytic inverse") from missing


def shapes(case: _Case) -> Result:
    """z has the batch of x; log_det is (batch,); so has the inverse."""
    z, log_det = case.forward()
    expected = (case.x.shape[0],)
    note = f"log_det {tuple(log_det.shape)}, expected {expected}"
    ok = tuple(log_det.shape) == expected and z.shape[0] == case.x.shape[0]
    ok = ok and z[0].numel() == case.x[0].numel()
    return 0.0 if ok else math.inf, 0.0, note


def dtypes(case: _Case) -> Result:
    """float32 in gives float32 out, float64 gives float64."""
    found = []
    for dtype in (torch.float32, torch.float64):
        z, log_det = case.to(dtype).forward()
        found += [z.dtype == dtype, log_det.dtype == dtype]
    return 0.0 if all(found) else math.inf, 0.0, "output has the dtype of the input"


def round_trip(case: _Case) -> Result:
    """inverse(forward(x)) = x."""
    z, _ = case.forward()
    return error(case.inverse(z)[0], case.x), EXACT, ""


def round_trip_from_latent(case: _Case) -> Result:
    """forward(inverse(z)) = z."""
    z, _ = case.forward()
    x, _ = case.inverse(z)
    return error(case.bijector(x, case.context)[0], z), EXACT, ""


def round_trip_float32(case: _Case) -> Result:
    """inverse(forward(x)) = x in float32."""
    single = case.to(torch.float32)
    z, _ = single.forward()
    return error(single.inverse(z)[0], single.x), SINGLE, ""


def log_det_is_the_jacobian(case: _Case) -> Result:
    """forward's log_det against the autograd Jacobian."""
    _, log_det = case.forward()
    return error(log_det, autograd_log_det(case.bijector, case.x, case.context)), EXACT, ""


def inverse_log_det_is_the_jacobian(case: _Case) -> Result:
    """inverse's log_det against the autograd Jacobian of the inverse."""
    z, _ = case.forward()
    _, log_det = case.inverse(z)
    truth = autograd_log_det(Inverse(case.bijector), z.detach(), case.context)
    return error(log_det, truth), EXACT, ""


def log_dets_cancel(case: _Case) -> Result:
    """inverse log_det = - forward log_det."""
    z, log_det = case.forward()
    return error(case.inverse(z)[1], -log_det), EXACT, ""


def examples_are_independent(case: _Case) -> Result:
    """Each example alone gives what it gives in its batch."""
    z, log_det = case.forward()
    worst = 0.0
    for i in range(case.x.shape[0]):
        context = None if case.context is None else case.context[i : i + 1]
        z_i, log_det_i = case.bijector(case.x[i : i + 1], context)
        worst = max(worst, error(z_i[0], z[i]), error(log_det_i, log_det[i : i + 1]))
    return worst, EXACT, ""


def gradients_are_finite(case: _Case) -> Result:
    """Finite gradients at the given input and at its extremes, |x| = 1e3."""
    for x in (case.x, *_extremes(case)):
        x = x.clone().requires_grad_()
        z, log_det = case.bijector(x, case.context)
        # Outside the reals z may saturate or overflow by its nature; log_det may not.
        total = log_det.sum() + (z.sum() if case.bijector.codomain is constraints.real else 0)
        if not total.requires_grad:
            continue
        leaves = [x, *(p for p in case.bijector.parameters() if p.requires_grad)]
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        if not all(g.isfinite().all() for g in gradients if g is not None):
            return math.inf, 0.0, f"not finite at max |x| = {x.abs().max().item():g}"
    return 0.0, 0.0, "finite, also at the extremes of the domain"


def density_integrates_to_one(case: _Case) -> Result:
    """The density of a 1-D or 2-D flow with this bijector has mass 1."""
    if case.x.dim() != 2 or case.x.shape[1] > 2:
        raise Skip("only for events of shape (1,) and (2,)")
    if case.context is not None:
        case = _Case(case.bijector, case.x, case.context[:1])
    log_base = _base_of(case.bijector.codomain)
    dims = case.x.shape[1]
    n = 20_001 if dims == 1 else 1_201
    axis, log_weight = _quadrature(case.bijector.domain, n, case.x.dtype)
    grid = torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)
    weights = torch.cartesian_prod(*[log_weight] * dims).reshape(-1, dims).sum(dim=1)
    context = case.context
    if context is not None:
        context = context.expand(len(grid), *context.shape[1:])
    with torch.no_grad():
        z, log_det = case.bijector(grid, context)
        mass = (log_base(z) + log_det + weights).exp().sum().item()
    return abs(mass - 1), 1e-4, ""


def state_round_trips(case: _Case) -> Result:
    """A saved and loaded state gives the same outputs."""
    z, log_det = case.forward()
    other = _copied(case.bijector)
    with torch.no_grad():
        for tensor in [*other.parameters(), *other.buffers()]:
            tensor.copy_(torch.full_like(tensor, 0.5))
    state = {name: value.clone() for name, value in case.bijector.state_dict().items()}
    other.load_state_dict(load(save(state)))
    z_other, log_det_other = other(case.x, case.context)
    return max(error(z_other, z), error(log_det_other, log_det)), 0.0, ""


def runs_on_meta(case: _Case) -> Result:
    """Forward and inverse run on the meta device: no tensor is born elsewhere."""
    meta = case.to(device="meta")
    z, _ = meta.forward()
    meta.inverse(z)
    return 0.0, 0.0, "no tensor is born on another device"


PROPERTIES: dict[str, Callable[[_Case], Result]] = {
    f.__name__: f
    for f in (
        shapes,
        dtypes,
        round_trip,
        round_trip_from_latent,
        round_trip_float32,
        log_det_is_the_jacobian,
        inverse_log_det_is_the_jacobian,
        log_dets_cancel,
        examples_are_independent,
        gradients_are_finite,
        density_integrates_to_one,
        state_round_trips,
        runs_on_meta,
    )
}


def check_bijector(
    bijector: Bijector,
    x: Tensor,
    context: Tensor | None = None,
    properties: Iterable[str] = tuple(PROPERTIES),
) -> Report:
    """Run the property set on a bijector and report each property by name.

    Args:
        bijector: what to test; a copy in `eval` mode is tested, the original stays as it is.
        x: a small batch inside the bijector's domain, shape `(batch, *event)`.
        context: conditions, shape `(batch, ...)`, or None.
        properties: names from `PROPERTIES`; all of them by default.

    Returns:
        The report; print it for a table.

    Raises:
        PropertyFailure: at least one property does not hold; the message is the whole table.

    >>> from flowcourse.foundations.change_of_variables import Tanh
    >>> check_bijector(Tanh(), torch.zeros(2, 1), properties=["shapes"]).passed
    True
    """
    original = _copied(bijector).eval()
    double = _Case(original, x, context).to(torch.float64)
    return run(type(bijector).__name__, double, PROPERTIES, properties)


def _copied(bijector: Bijector) -> Bijector:
    """A copy whose domain and codomain are still the ones that are compared by identity here."""
    known = (constraints.real, constraints.positive)
    return copy.deepcopy(bijector, {id(constraint): constraint for constraint in known})


def _extremes(case: _Case) -> list[Tensor]:
    sign = torch.where(torch.arange(case.x[0].numel()) % 2 == 0, 1.0, -1.0)
    sign = sign.reshape(case.x.shape[1:]).to(case.x)
    domain = case.bijector.domain
    if domain is constraints.real:
        return [1e3 * sign.expand_as(case.x), -1e3 * sign.expand_as(case.x)]
    if domain is constraints.positive:
        return [torch.full_like(case.x, value) for value in (1e-3, 1e3)]
    if isinstance(domain, constraints.interval):
        low, high = domain.lower_bound, domain.upper_bound
        return [torch.full_like(case.x, low + (high - low) * p) for p in (1e-9, 1 - 1e-9)]
    return []


def _base_of(codomain: constraints.Constraint) -> Callable[[Tensor], Tensor]:
    """A density of known mass 1 on the codomain: normal, exponential, or uniform."""
    if codomain is constraints.real:
        return lambda z: sum_event(-0.5 * (z**2 + math.log(2 * math.pi)))
    if codomain is constraints.positive:
        return lambda z: sum_event(-z)
    if isinstance(codomain, constraints.interval):
        width = codomain.upper_bound - codomain.lower_bound
        return lambda z: sum_event(torch.full_like(z, -math.log(width)))
    raise Skip(f"no base density for the codomain {codomain}")


def _quadrature(
    domain: constraints.Constraint, n: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Points and log-weights of the trapezoidal rule after a substitution x(t), t on a line."""
    if domain is constraints.real:  # x = sinh(t) reaches far into the tails
        t = torch.linspace(-8, 8, n, dtype=dtype)
        x, log_slope = t.sinh(), t.cosh().log()
    elif domain is constraints.positive:
        t = torch.linspace(-30, 30, n, dtype=dtype)
        x, log_slope = t.exp(), t
    elif isinstance(domain, constraints.interval):
        width = domain.upper_bound - domain.lower_bound
        t = torch.linspace(-30, 30, n, dtype=dtype)
        x = domain.lower_bound + width * torch.sigmoid(t)
        log_slope = math.log(width) + F.logsigmoid(t) + F.logsigmoid(-t)
    else:
        raise Skip(f"no quadrature for the domain {domain}")
    return x, log_slope + math.log((t[1] - t[0]).item())
