r"""Inpainting with an unconditional flow: a Markov chain on the missing pixels.

A flow knows $p(x, y)$ and not $p(y \mid x)$, which differs by the unknown factor $p(x)$. A chain
needs no such factor. The state $v$ moves freely in $\mathbb{R}^D$; a known pixel of level $k$ shows
the flow $k + \sigma(v)$, so that only its noise moves, and a missing one $\text{levels} \cdot
\sigma(v)$. The chain's limit is the flow's own conditional distribution; what it gives after a
finite number of steps is an approximation, and depends on where it started.

Book: `book/coupling/cglow.md`. Source: Roberts & Tweedie (1996) for the chain.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowcourse.bijector import sum_event
from flowcourse.foundations.likelihood import DequantizedFlow

__all__ = ["Inpainting", "inpaint", "nearest_samples"]

TARGET_ACCEPTANCE = 0.574  # the best for many dimensions, Roberts & Rosenthal (1998)


@dataclass(frozen=True)
class Inpainting:
    """Where the chains ended.

    Attributes:
        images: integers, known pixels as they were.
        acceptance: of each chain in the second half of its steps, when its step size is fixed.
        log_density: of the flow at the chain's state, in nats, after every step: `(steps, n)`.
    """

    images: Int[Tensor, "n *event"]
    acceptance: Float[Tensor, " n"]
    log_density: Float[Tensor, "steps n"]


def inpaint(
    model: DequantizedFlow,
    images: Int[Tensor, "n *event"],
    known: Bool[Tensor, " *event"],
    steps: int = 300,
    step_size: float = 0.1,
) -> Inpainting:
    r"""Replace the pixels that are not known by an approximate draw given those that are.

    One chain for each image, of Langevin proposals that are accepted or refused:

    $$v' = v + \tfrac{\epsilon^2}{2} \nabla \log \pi(v) + \epsilon\,\xi, \qquad
      \log \pi(v) = \log p(y(v)) + \log\left|\frac{\partial y}{\partial v}\right|.$$

    The step size of each chain adapts during the first half of the steps.

    Args:
        model: an unconditional model in evaluation mode.
        images: levels; the pixels that are not known are where the chains start.
        known: which pixels are known.
        steps: of each chain, two or more.
        step_size: the first $\epsilon$.

    Source: Roberts & Tweedie (1996), the Metropolis-adjusted Langevin algorithm.
    """
    if steps < 2:
        raise ValueError(f"The chains need two steps or more, and got steps={steps}.")
    parameter = next(model.parameters())
    x = images.to(parameter)
    start = torch.where(known, torch.full_like(x, 0.5), (x + 0.5) / model.levels)
    width = torch.where(known, 1.0, float(model.levels)).to(x)
    offset = torch.where(known, x, 0.0)

    def target(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The log-density of a state with its gradient, and the flow's own part of it."""
        v = v.detach().requires_grad_()
        y = offset + width * torch.sigmoid(v)
        log_p = model.flow.log_prob(y)
        log_pi = log_p + sum_event(width.log() - F.softplus(v) - F.softplus(-v))
        (slope,) = torch.autograd.grad(log_pi.sum(), v)
        return log_pi.detach(), slope, log_p.detach()

    def log_proposal(to: Tensor, source: Tensor, slope: Tensor, epsilon: Tensor) -> Tensor:
        mean = source + epsilon**2 / 2 * slope
        return -0.5 * sum_event(((to - mean) / epsilon) ** 2)

    v = torch.logit(start)
    log_step = x.new_full((len(x),), step_size).log()
    log_pi, slope, log_p = target(v)
    taken, history = [], []
    for number in range(steps):
        epsilon = log_step.exp().reshape(-1, *[1] * (x.dim() - 1))
        proposal = v + epsilon**2 / 2 * slope + epsilon * torch.randn_like(v)
        new = target(proposal)
        ratio = new[0] - log_pi
        ratio = ratio + log_proposal(v, proposal, new[1], epsilon)
        ratio = (ratio - log_proposal(proposal, v, slope, epsilon)).nan_to_num(-torch.inf)
        accept = torch.rand_like(ratio).log() < ratio
        wide = accept.reshape(epsilon.shape)
        v, slope = torch.where(wide, proposal, v), torch.where(wide, new[1], slope)
        log_pi, log_p = torch.where(accept, new[0], log_pi), torch.where(accept, new[2], log_p)
        if number < steps // 2:
            rate = ratio.clamp(max=0).exp() - TARGET_ACCEPTANCE
            log_step = log_step + rate / (number + 1) ** 0.5
        else:
            taken.append(accept)
        history.append(log_p)
    levels = (model.levels * torch.sigmoid(v)).floor().clamp(max=model.levels - 1)
    return Inpainting(
        images=torch.where(known, x, levels).to(torch.int64),
        acceptance=torch.stack(taken).to(x).mean(dim=0),
        log_density=torch.stack(history),
    )


@torch.no_grad()
def nearest_samples(
    model: DequantizedFlow,
    images: Int[Tensor, "n *event"],
    known: Bool[Tensor, " *event"],
    candidates: int = 2000,
) -> Int[Tensor, "n *event"]:
    """Fill the unknown pixels from the model's sample that is nearest in the known ones.

    Each image has candidates of its own, so that equal images get different fillings.

    Args:
        model: an unconditional model in evaluation mode.
        images: levels.
        known: which pixels are known.
        candidates: how many samples are drawn; they are shared out among the images.
    """
    share = max(1, candidates // len(images))
    drawn = model.sample(share * len(images)).unflatten(0, (len(images), share))
    apart = ((drawn - images[:, None]) * known).double().flatten(2).square().sum(dim=2)
    best = drawn[torch.arange(len(images)), apart.argmin(dim=1)]
    return torch.where(known, images.to(best), best)
