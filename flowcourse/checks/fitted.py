"""What the experiments that train a flow on points of the plane share.

A reference and its mistakes are training functions; all of them return one of these flows.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from flowcourse.flow import Flow

__all__ = ["AveragedCoordinates", "Fitted", "SubtractsTheLogDet", "improved", "trained_once"]

Model = TypeVar("Model", bound=Any)  # a module with `log_prob`


class Fitted(Flow):
    """A flow in double precision, so that the same seed trains to the same digits anywhere."""

    def log_prob(self, x, context=None):
        return super().log_prob(x.double(), context)


class SubtractsTheLogDet(Fitted):
    """A mistake: the log-determinant has the wrong sign."""

    def log_prob(self, x, context=None):
        z, log_det = self.bijector(x.double(), context)
        return self.base.log_prob(z) - log_det


class AveragedCoordinates(Fitted):
    """A mistake: the mean over the two coordinates in the place of their sum."""

    def log_prob(self, x, context=None):
        return super().log_prob(x, context) / 2


def improved(
    model: Model, data: Tensor, steps: int, sign: int = -1, learning_rate: float = 0.01
) -> Model:
    """Adam with a falling rate on batches of 256; with a sign of 1, the likelihood falls."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = sign * model.log_prob(data[torch.randint(len(data), (256,))]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def trained_once(train: Callable[..., Flow], **options) -> Callable[[Tensor], Flow]:
    """A training function that trains once on the same data: grading asks for it several times."""
    known: dict[bytes, Flow] = {}

    def fit(data: Tensor) -> Flow:
        key = data.numpy().tobytes()
        if key not in known:
            known[key] = train(data, **options)
        return known[key]

    return fit
