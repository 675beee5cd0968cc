"""How good a model is on held-out data, with an error bar, the same every time it is asked."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowcourse.training.context import require_context
from flowcourse.training.errors import RunError
from flowcourse.training.randomness import EVALUATION, derive, private_randomness

__all__ = ["Evaluation", "evaluate"]

# Two noise streams, so that the plain bound and the importance-weighted one are independent.
PLAIN, WEIGHTED = range(2)


@dataclass(frozen=True)
class Evaluation:
    """The mean negative log-likelihood on a test set, and its standard error over the examples.

    Attributes:
        kind: `exact` or `bound`; a bound is on the bad side: the true value is no larger.
        n: number of test examples.
        nats: mean negative log-likelihood per example.
        standard_error_nats: of `nats`, over examples.
        bits_per_dim: `nats` in bits per dimension; None for continuous data.
        standard_error: of `bits_per_dim`, over examples.
        bits_per_dim_iw: the tighter bound by importance weighting; None where it is no bound.
        standard_error_iw: of `bits_per_dim_iw`, over examples.
        draws: noise samples in each importance-weighted value.
        repeats: single noise samples averaged in each `bits_per_dim` value.
        seed: of the noise.
        seconds: wall time.
        figures: what else the model says about itself on these examples, by name.
    """

    kind: str
    n: int
    nats: float
    standard_error_nats: float
    bits_per_dim: float | None
    standard_error: float | None
    bits_per_dim_iw: float | None
    standard_error_iw: float | None
    draws: int
    repeats: int
    seed: int
    seconds: float
    figures: dict[str, float] = field(default_factory=dict)

    def asdict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def evaluate(
    model: Any,
    x: Tensor,
    repeats: int = 8,
    draws: int = 64,
    seed: int = 0,
    batch_size: int = 256,
    context: Tensor | None = None,
) -> Evaluation:
    """Measure a model on examples that it was not trained on.

    A model with `bits_per_dim` is one of discrete data, and its `kind` says whether its values are
    exact or bounds; any other is a density of continuous data, with `log_prob`, and exact. A model
    may have `figures(x)`, which takes all examples and returns further numbers by name, such as how
    much of a bound is paid for latents; they must not depend on noise.

    Args:
        model: a module; where it is, it stays; its mode and the caller's random state are put back.
        x: test examples, shape `(n, *event)`.
        repeats: noise samples per example to average in the plain bound.
        draws: noise samples per example in the importance-weighted bound.
        seed: of the noise. The same seed, batch size and kind of device give the same numbers.
        batch_size: examples at a time.
        context: what a conditional model is conditioned on, one row for each example, see
            `context_for`.

    Raises:
        RunError: fewer than two examples, a number of draws or repeats below 1, or no context for
            a conditional model.
    """
    if len(x) < 2 or draws < 1 or repeats < 1:
        raise RunError(
            f"evaluate needs 2 or more examples, and 1 or more repeats and draws, and got "
            f"{len(x)}, {repeats} and {draws}."
        )
    require_context(model, context)
    started = time.perf_counter()
    discrete = hasattr(model, "bits_per_dim")
    kind = str(model.kind) if discrete else "exact"
    parameter = next(model.parameters(), torch.empty(0))
    if x.is_floating_point():
        x = x.to(parameter.dtype)

    batches = x.split(batch_size)
    contexts: list[dict[str, Tensor]] = [{} for _ in batches]
    if context is not None:
        contexts = [{"context": part.to(parameter.device)} for part in context.split(batch_size)]

    def scores(score: Callable[..., Tensor], *place: int) -> Float[Tensor, " n"]:
        parts = []
        for index, (batch, given) in enumerate(zip(batches, contexts, strict=True)):
            torch.manual_seed(derive(EVALUATION, seed, *place, index))
            parts.append(score(batch.to(parameter.device), **given).double().cpu())
        return torch.cat(parts)

    def negative_log_prob(batch: Tensor, **given: Tensor) -> Tensor:
        return -model.log_prob(batch, **given)

    weighted = None
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), private_randomness():
            if kind == "exact":
                repeats = draws = 1
                values = scores(model.bits_per_dim if discrete else negative_log_prob)
            else:
                passes = [scores(model.bits_per_dim, PLAIN, r) for r in range(repeats)]
                values = torch.stack(passes).mean(dim=0)
                weighted = scores(partial(model.bits_per_dim, draws=draws), WEIGHTED)
            figures = model.figures(x.to(parameter.device)) if hasattr(model, "figures") else {}
    finally:
        model.train(training)

    mean, error = _mean(values)
    mean_weighted, error_weighted = _mean(weighted) if weighted is not None else (None, None)
    nats_per_bit_per_dim = x[0].numel() * math.log(2) if discrete else 1.0
    return Evaluation(
        kind=kind,
        n=len(x),
        nats=mean * nats_per_bit_per_dim,
        standard_error_nats=error * nats_per_bit_per_dim,
        bits_per_dim=mean if discrete else None,
        standard_error=error if discrete else None,
        bits_per_dim_iw=mean_weighted,
        standard_error_iw=error_weighted,
        draws=draws,
        repeats=repeats,
        seed=seed,
        seconds=time.perf_counter() - started,
        figures=figures,
    )


def _mean(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), values.std().item() / math.sqrt(len(values))
