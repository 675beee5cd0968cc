r"""Training a flow from its own samples, towards a density that can be scored.

$$\mathrm{KL}(q \,\Vert\, p) = \E_{x \sim q}\left[\log q(x) - \log p(x)\right]$$

needs samples of $q$ and their density, which an IAF gives in one pass, and $\log p$ up to a
constant. If $p$ is a trained autoregressive flow, this is probability density distillation.

Book: `book/autoregressive_flows/iaf.md`. Source: Rezende & Mohamed (2015), arXiv:1505.05770, for
the objective; van den Oord et al. (2018), arXiv:1711.10433, for distillation.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flowcourse.flow import Flow

__all__ = ["fit_reverse_kl", "log_ratios", "power_loss", "spectrum", "variances"]

LogDensity = Callable[[Float[Tensor, "n *event"]], Float[Tensor, " n"]]
Penalty = Callable[[Float[Tensor, "n *event"]], Float[Tensor, ""]]


def log_ratios(
    flow: Flow, log_target: LogDensity, n: int, context: Tensor | None = None
) -> Float[Tensor, " n"]:
    r"""$\log q(x) - \log p(x)$ of fresh samples $x$ of the flow, in nats.

    Their mean estimates $\mathrm{KL}(q \,\Vert\, p)$ without bias, less $\log Z$ if the target is
    only known up to its integral $Z$.

    Args:
        flow: the density $q$, of which samples are drawn.
        log_target: $\log p$, up to a constant; gradients reach the flow through its argument.
        n: number of samples.
        context: of the flow, one row for each sample.
    """
    x, log_q = flow.rsample_and_log_prob(n, context)
    return log_q - log_target(x)


def fit_reverse_kl(
    flow: Flow,
    log_target: LogDensity,
    *,
    steps: int,
    batch_size: int = 256,
    learning_rate: float = 5e-3,
    heat: Callable[[float], float] | None = None,
    penalty: Penalty | None = None,
    clip_norm: float = 10.0,
) -> list[float]:
    """Minimise the divergence of a flow from a target, by Adam, with a rate that falls to 0.

    Only the flow's parameters are updated: those of the target, if it has any, are constants,
    through which gradients pass.

    Args:
        flow: trained in place, from its own samples alone.
        log_target: see `log_ratios`.
        steps: updates.
        batch_size: samples in each.
        learning_rate: at the start.
        heat: temperature of the target at a progress from 0 to 1, by which its log-density is
            divided; 1 if not given.
        penalty: a further loss on the samples, such as `power_loss`.
        clip_norm: gradients are scaled down to this norm.

    Returns:
        The losses, in nats, penalty included.
    """
    parameters = [p for p in flow.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for step in range(steps):
        temperature = heat(step / steps) if heat else 1.0
        x, log_q = flow.rsample_and_log_prob(batch_size)
        loss = (log_q - log_target(x) / temperature).mean()
        if penalty is not None:
            loss = loss + penalty(x)
        # Gradients of the flow's parameters alone: the target may be a model that is kept.
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def spectrum(x: Float[Tensor, "n time"]) -> Float[Tensor, " frequencies"]:
    """Mean power of some series at each frequency, for each sample of time."""
    return torch.fft.rfft(x).abs().square().mean(dim=0) / x.shape[1]


def variances(x: Float[Tensor, "n *event"]) -> Float[Tensor, " dims"]:
    """Variance of each number over examples."""
    return x.flatten(1).var(dim=0)


def power_loss(
    data: Float[Tensor, "n *event"],
    weight: float,
    power: Callable[[Tensor], Tensor] = spectrum,
) -> Penalty:
    """Mean squared difference of the logarithmic powers of samples and of data.

    Args:
        data: examples whose powers the samples should have.
        weight: in nats for a squared difference of 1.
        power: of some examples, a vector: their `spectrum`, or their `variances`.

    Source: van den Oord et al. (2018), the power loss, there for short windows of speech.
    """
    wanted = power(data).log()

    def penalty(x: Float[Tensor, "n *event"]) -> Float[Tensor, ""]:
        return weight * (power(x).log() - wanted).square().mean()

    return penalty
