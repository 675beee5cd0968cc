"""Image flows: what goes on top of couplings."""

from types import ModuleType

import torch
from torch import Tensor

from flowcourse.bijector import Bijector
from flowcourse.catalog.table import Preset, Topic, perturbed

__all__ = ["TOPICS"]


# dequantization


def _dequantization(m: ModuleType) -> dict[str, tuple[Bijector, Tensor]]:
    small = dict(couplings=2, final_couplings=2, hidden=8, blocks=1, batch_norm=False)
    model = m.build((1, 4, 4), 17, preprocessing="centred", **small)
    return {
        "logit": (m.preprocess(17, "logit"), 16 * torch.rand(6, 5)),
        "centred": (m.preprocess(17, "centred"), 16 * torch.rand(6, 5)),
        "images, centred": (perturbed(model), 16 * torch.rand(6, 1, 4, 4)),
    }


# Chosen on digits by training on the first 1,200 images and validating on the next 300.
_DEQUANTIZATION = dict(
    scales=2,
    couplings=4,
    final_couplings=4,
    hidden=32,
    blocks=1,
    dropout=0.5,
    batch_norm=False,
    normalize_weights=False,
)
_DEQUANTIZATION_TRAINING = dict(
    steps=1500, batch_size=128, learning_rate=1e-3, weight_decay=0.1, warmup_steps=100
)

DEQUANTIZATION = Topic(
    name="dequantization",
    part="coupling",
    title="Dequantization: noise for integers",
    summary="Uniform and learned noise that turn a density into a bound on integers",
    paper="ho2019flowpp",
    small=_dequantization,
    presets={
        "laptop": Preset(
            data="digits",
            model=_DEQUANTIZATION | dict(dequantizer="variational"),
            training=dict(_DEQUANTIZATION_TRAINING),
        ),
    },
)


# In teaching order.
TOPICS: tuple[Topic, ...] = (DEQUANTIZATION,)
