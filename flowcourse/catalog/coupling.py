"""Coupling flows."""

from types import ModuleType

import torch
from torch import Tensor

from flowcourse.bijector import Bijector
from flowcourse.catalog.table import Preset, Topic, perturbed

__all__ = ["TOPICS"]


def _nice(m: ModuleType) -> dict[str, tuple[Bijector, Tensor]]:
    net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    scale = m.DiagonalScale((2,))
    torch.nn.init.normal_(scale.log_scale)
    return {
        "additive coupling": (m.AdditiveCoupling(net, parity=0), torch.randn(6, 2)),
        "diagonal scale": (scale, torch.randn(6, 2)),
        "nice, odd length": (perturbed(m.build((5,), None, hidden=8, depth=2)), torch.randn(6, 5)),
        "nice, images": (
            perturbed(m.build((1, 4, 4), 17, hidden=8, depth=2)),
            16 * torch.rand(6, 1, 4, 4),
        ),
    }


def _realnvp(m: ModuleType) -> dict[str, tuple[Bijector, Tensor]]:
    small = dict(couplings=2, final_couplings=2, hidden=8, blocks=1)
    norm = m.BatchNorm(3)
    norm.mean += torch.randn(3)
    norm.variance += torch.rand(3)
    return {
        "affine coupling": (
            perturbed(m.build((2,), None, couplings=2, hidden=8, blocks=1, batch_norm=False)),
            torch.randn(6, 2),
        ),
        "shift first": (
            perturbed(m.build((3,), None, couplings=2, hidden=8, blocks=1, shift_first=True)),
            torch.randn(6, 3),
        ),
        "squeeze": (m.Squeeze(), torch.randn(6, 2, 4, 4)),
        "batch norm": (norm, torch.randn(6, 3, 2, 2)),
        "multi-scale": (perturbed(m.build((2, 4, 4), None, **small)), torch.randn(6, 2, 4, 4)),
        "preprocessing of the paper": (m.preprocess(17, "paper"), 16 * torch.rand(6, 5)),
        "images": (perturbed(m.build((1, 4, 4), 17, **small)), 16 * torch.rand(6, 1, 4, 4)),
    }


# Chosen on digits by training on the first 1,200 images and validating on the next 300.
_LAPTOP = dict(steps=1500, batch_size=128, learning_rate=1e-3, weight_decay=0.1, warmup_steps=100)

TOPICS = (
    Topic(
        name="nice",
        part="coupling",
        title="NICE: additive coupling",
        summary="Volume-preserving couplings that invert by subtraction",
        paper="dinh2014nice",
        small=_nice,
        presets={
            "laptop": Preset(
                data="digits",
                model=dict(couplings=4, hidden=256, depth=3, dropout=0.2),
                # The diagonal scale has far to go: it needs larger steps, and more of them.
                training=_LAPTOP | dict(steps=2500, learning_rate=3e-3, weight_decay=0.01),
            ),
            # Dinh et al. (2014), section 5 and the program released with it.
            "paper": Preset(
                data="mnist",
                model=dict(couplings=4, hidden=1000, depth=5, prior="logistic"),
                training=dict(
                    steps=1500 * 250, batch_size=200, learning_rate=1e-3, validation=10_000
                ),
            ),
        },
        paper_parameters=19_158_352,
    ),
    Topic(
        name="realnvp",
        part="coupling",
        title="RealNVP: affine coupling and many scales",
        summary="Couplings that scale as well as shift, on checkerboards and channels",
        paper="dinh2017density",
        small=_realnvp,
        presets={
            "laptop": Preset(
                data="digits",
                model=dict(
                    scales=2,
                    couplings=4,
                    final_couplings=4,
                    hidden=32,
                    blocks=1,
                    dropout=0.5,
                    batch_norm=False,
                    normalize_weights=False,
                ),
                training=dict(_LAPTOP),
            ),
            # Dinh et al. (2017), section 4.1: CIFAR-10, one down-scaling, 8 blocks of 64 maps.
            "paper": Preset(
                data="cifar10",
                model=dict(scales=2, hidden=64, growth=1, blocks=8),
                training=dict(
                    steps=500_000,
                    batch_size=64,
                    learning_rate=1e-3,
                    weight_decay=5e-5,
                    clip_norm=100.0,
                    validation=5_000,
                ),
            ),
        },
    ),
)
