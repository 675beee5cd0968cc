r"""How TarFlow's samples become good pictures: noise in training, a step of denoising, guidance.

A flow trained on noisy data, $y = x + \sigma \epsilon$, draws noisy samples. The density that it
has learned says how to clean them,

$$\mathbb{E}[x \mid y] = y + \sigma^2 \nabla_y \log p(y),$$

and a flow that knows labels can be pushed further from what it would draw without them.

Book: `book/autoregressive_flows/tarflow.md`. Source: Zhai et al. (2025), and the
program released with it.
"""

import copy
import math
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flowcourse.autoregressive_flows.maf import Autoregressive, Conditioner
from flowcourse.bijector import Bijector
from flowcourse.discrete import require_levels
from flowcourse.flow import Flow, StandardNormal

__all__ = ["Guided", "LabelledFlow", "NoisyFlow", "denoised", "guided"]

Images = Float[Tensor, "batch *event"]


# Denoising


def denoised(flow: Any, y: Images, sigma: float, context: Tensor | None = None) -> Images:
    r"""$y + \sigma^2 \nabla_y \log p(y)$: the mean of the clean data given the noisy.

    Exact if the flow is the density of data plus Gaussian noise, whatever the data.

    Args:
        flow: has `log_prob(y, context)`, in nats.
        y: noisy data.
        sigma: standard deviation of the noise, in the units of `y`.
        context: what the flow is conditioned on.

    Source: Efron (2011), on Tweedie's formula; Zhai et al. (2025).
    """
    y = y.detach().requires_grad_()
    with torch.enable_grad():
        (score,) = torch.autograd.grad(flow.log_prob(y, context).sum(), y)
    return (y + sigma**2 * score).detach()


class NoisyFlow(nn.Module):
    r"""A flow on discrete data with Gaussian noise; its samples are denoised.

    Its log-densities are those of **noisy** data. They are neither the likelihood of the integers
    nor a bound on it: noise of another size gives another number. Hence no `bits_per_dim`.

    Args:
        flow: a density of noisy levels, with any rescaling inside its bijector.
        levels: the data take values 0, ..., levels - 1.
        sigma: standard deviation of the noise, in levels.

    Source: Zhai et al. (2025).
    """

    class_conditional = False

    def __init__(self, flow: Flow, levels: int, sigma: float):
        super().__init__()
        if sigma <= 0:
            raise ValueError(f"NoisyFlow expects a positive sigma and got {sigma}.")
        self.flow, self.levels, self.sigma = flow, levels, sigma

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one example."""
        return self.flow.event_shape

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Float[Tensor, " batch"]:
        r"""$\log p(x + \sigma\epsilon)$ in nats, of integers with one draw of the noise each."""
        x = require_levels(x, self.levels)
        if not x.is_floating_point():
            x = x.to(next(self.parameters()).dtype)
        return self.flow.log_prob(x + self.sigma * torch.randn_like(x), context)

    # Wrappers such as DistributedDataParallel only intercept `forward`.
    forward = log_prob

    @torch.no_grad()
    def sample(
        self,
        n: int,
        temperature: float = 1.0,
        context: Tensor | None = None,
        *,
        guidance: float = 0.0,
        denoise: bool = True,
    ) -> Int[Tensor, "n *event"]:
        """Draw integers: noisy samples, denoised, then rounded and clipped to the levels.

        Args:
            n: how many.
            temperature: see `Flow.rsample`.
            context: labels, if the flow knows labels.
            guidance: see `guided`; the denoising step is not guided.
            denoise: False leaves the noise in.
        """
        flow = guided(self.flow, guidance) if guidance else self.flow
        y = flow.sample(n, context, temperature)
        if denoise:
            y = denoised(self.flow, y, self.sigma, context)
        return y.round().clamp(0, self.levels - 1).to(torch.int64)


# Guidance


class LabelledFlow(Flow):
    """A flow that knows labels, and in training does without some of them.

    What it learns without a label is the density of all classes together. One class more, the
    last, stands for "no label"; without a context, all examples are of it.

    Args:
        bijector: its context is one of `classes + 1` classes for each example.
        base: see `Flow`.
        classes: number of classes.
        forget: how often a label is withheld in training.

    Source: Ho & Salimans (2022), section 3.2; Zhai et al. (2025).
    """

    class_conditional = True

    def __init__(self, bijector: Bijector, base: StandardNormal, classes: int, forget: float):
        super().__init__(bijector, base)
        self.classes, self.forget = classes, forget

    def log_prob(self, x, context=None):
        context = self._or_none(context, len(x))
        if self.training:
            withheld = torch.rand(context.shape, device=context.device) < self.forget
            context = torch.where(withheld, self.classes, context)
        return super().log_prob(x, context)

    forward = log_prob

    def rsample(self, sample_shape=(), context=None, temperature=1.0):
        n = sample_shape if isinstance(sample_shape, int) else math.prod(sample_shape)
        return super().rsample(sample_shape, self._or_none(context, n), temperature)

    def _or_none(self, context: Tensor | None, n: int) -> Tensor:
        if context is None:
            return torch.full((n,), self.classes, device=self.base.anchor.device)
        return context


class Guided(Conditioner):
    r"""A conditioner that leans away from what it would say without the label.

    $$\tilde h = h(\text{label}) + w\,\bigl(h(\text{label}) - h(\text{no label})\bigr)$$

    It still looks at earlier blocks only: a flow with guided conditioners is a normalizing flow,
    with an inverse and a density of its own.

    Args:
        conditioner: takes classes as its context.
        weight: $w$; 0 is no guidance.
        no_label: the class that stands for none.

    Source: Zhai et al. (2025); the released program guides both parameters alike.
    """

    def __init__(self, conditioner: Conditioner, weight: float, no_label: int):
        super().__init__(conditioner.blocks)
        self.conditioner, self.weight, self.no_label = conditioner, weight, no_label

    def forward(self, x, context=None):
        return self._lean(self.conditioner(x, context), self.conditioner(x, self._none(context)))

    def one_by_one(self, like, context=None):
        both = [
            self.conditioner.one_by_one(like, labels) for labels in (context, self._none(context))
        ]
        said = [next(steps) for steps in both]
        for _ in self.blocks:
            found = yield self._lean(*said)
            said = [steps.send(found) for steps in both]

    def _lean(self, given: Tensor, free: Tensor) -> Tensor:
        return torch.lerp(free, given, 1 + self.weight)

    def _none(self, context: Tensor) -> Tensor:
        return torch.full_like(context, self.no_label)


def guided(flow: Flow, weight: float) -> Flow:
    """The flow with guidance in each autoregressive block; parameters are shared, not copied.

    Args:
        flow: a `LabelledFlow`.
        weight: see `Guided`.

    Raises:
        ValueError: the flow knows no labels.
    """
    if not isinstance(flow, LabelledFlow):
        raise ValueError(
            f"Guidance needs a flow that knows labels, and this is a {type(flow).__name__}: build "
            "the model with classes=..."
        )
    shared = {id(p): p for p in [*flow.parameters(), *flow.buffers()]}
    other = copy.deepcopy(flow, cast(dict, shared))
    for module in other.modules():
        if isinstance(module, Autoregressive):
            module.conditioner = Guided(module.conditioner, weight, flow.classes)
    return other
