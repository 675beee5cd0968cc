"""Foundations: the change of variables and the likelihood."""

from types import ModuleType

import torch
from torch import Tensor

from flowcourse.bijector import Bijector, Compose, Inverse
from flowcourse.catalog.table import Topic, uniform

__all__ = ["TOPICS"]


def _change_of_variables(m: ModuleType) -> dict[str, tuple[Bijector, Tensor]]:
    normal = torch.distributions.Normal
    return {
        "affine": (m.Affine(shift=0.3, scale=-1.7), torch.randn(6, 2)),
        "exp": (m.Exp(), torch.randn(6, 2)),
        "softplus": (m.Softplus(), torch.randn(6, 2)),
        "sigmoid": (m.Sigmoid(), torch.randn(6, 2)),
        "logit": (m.Logit(), uniform(6, 2)),
        "tanh": (m.Tanh(), 0.5 * torch.randn(6, 2)),
        "power": (m.Power(3.0), 0.5 + uniform(6, 2)),
        "decreasing power": (m.Power(-0.5), 0.5 + uniform(6, 1)),
        "cdf": (m.CDF(normal, loc=0.5, scale=2.0), torch.randn(6, 2)),
        "quantile": (m.Quantile(normal, loc=0.5, scale=2.0), uniform(6, 1)),
        "linear": (m.Linear(2), torch.randn(6, 2)),
        "knothe-rosenblatt": (
            m.KnotheRosenblatt(
                weights=torch.tensor([0.6, 0.4]),
                means=torch.tensor([[-0.5, 0.0], [0.5, 0.3]]),
                lower=torch.tensor([[[0.7, 0.0], [0.4, 0.5]], [[0.9, 0.0], [-0.3, 0.8]]]),
            ),
            0.5 * torch.randn(6, 2),
        ),
        "composition": (Compose(m.Linear(2), m.Affine(0.1, 2.0), m.Sigmoid()), torch.randn(6, 2)),
        "inverse": (Inverse(m.Exp()), 0.5 + uniform(6, 2)),
    }


TOPICS = (
    Topic(
        name="change_of_variables",
        part="foundations",
        title="The change of variables",
        summary="How an invertible map moves a density, from one dimension to many",
        paper="papamakarios2021normalizing",
        small=_change_of_variables,
    ),
    Topic(
        name="likelihood",
        part="foundations",
        title="Likelihood and bits per dimension",
        summary="The objective, its units, and the bound that discrete data need",
        paper="theis2016note",
        # The objective brings no map of its own: it is tested through its bounds and units.
    ),
)
