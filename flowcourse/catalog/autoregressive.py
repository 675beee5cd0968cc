"""Autoregressive models."""

from types import ModuleType

import torch
from torch import Tensor

from flowcourse.bijector import Bijector
from flowcourse.catalog.table import Preset, Topic, perturbed
from flowcourse.chain_rule import AutoregressiveModel

__all__ = ["TOPICS"]


def _made(m: ModuleType) -> dict[str, tuple[Bijector, Tensor]]:
    small = dict(hidden=[24, 24], order="random")
    return {
        "gaussian made": (perturbed(m.build((2,), None, hidden=[24])), torch.randn(6, 2)),
        "gaussian made, random order": (perturbed(m.build((5,), None, **small)), torch.randn(6, 5)),
    }


def _made_models(m: ModuleType) -> dict[str, AutoregressiveModel]:
    several = m.build((4,), 3, masks=3, order="random", degrees="random", hidden=[24, 24])
    return {
        "one layer": perturbed(m.MADE((4,), 3, hidden=[24])),
        "another order": perturbed(m.MADE((4,), 3, [[2, 0, 3, 1]], hidden=[24, 24])),
        "direct links, few units": perturbed(m.MADE((4,), 3, hidden=[2], direct=True)),
        "no hidden layer": perturbed(m.MADE((1, 2, 3), 2, hidden=[])),
        "one-hot codes of an image": perturbed(m.MADE((3, 1, 1), 5, None, "one_hot", hidden=[24])),
        "member of a mixture": perturbed(several).made.member(2),
    }


# Chosen on digits by training on the first 1,200 images and validating on the next 300.
_MADE = dict(hidden=[500], dropout=0.5)
_MADE_ORDERS = dict(hidden=[500], dropout=0.1, order="random")
_MADE_TRAINING = dict(
    steps=2000, batch_size=128, learning_rate=2e-3, weight_decay=0.1, warmup_steps=100
)
_MADE_SLOW = _MADE_TRAINING | dict(steps=2500, learning_rate=1e-3, weight_decay=0.2)

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="made",
        part="autoregressive",
        title="MADE: an autoencoder that may not look ahead",
        summary="All conditionals from one pass through a dense network with masked weights",
        paper="germain2015made",
        small=_made,
        small_models=_made_models,
        presets={
            "laptop": Preset(data="digits", model=dict(_MADE), training=dict(_MADE_SLOW)),
            "no_direct": Preset(
                data="digits", model=_MADE | dict(direct=False), training=dict(_MADE_SLOW)
            ),
            "orders": Preset(
                data="digits", model=_MADE_ORDERS | dict(masks=8), training=dict(_MADE_TRAINING)
            ),
            "binary": Preset(
                data="binary_digits",
                model=dict(_MADE),
                training=_MADE_TRAINING | dict(steps=1500),
            ),
            "binary_orders": Preset(
                data="binary_digits",
                model=_MADE_ORDERS | dict(masks=16),
                training=_MADE_TRAINING | dict(steps=2500),
            ),
            # Without a hidden layer, direct links are all there is: logistic regressions.
            "binary_logistic": Preset(
                data="binary_digits",
                model=dict(hidden=[]),
                training=_MADE_TRAINING | dict(steps=1000, learning_rate=1e-2, weight_decay=0.2),
            ),
            # Germain et al. (2015) and the command released with the paper's code: there Adagrad
            # until 30 epochs bring no progress, and another binarization.
            "paper": Preset(
                data="binary_mnist",
                model=dict(hidden=[8000, 8000], masks=32, order="random", degrees="random"),
                training=dict(
                    steps=300 * 500, batch_size=100, learning_rate=1e-3, validation=10_000
                ),
            ),
        },
    ),
)
