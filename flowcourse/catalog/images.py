"""Image flows."""

from types import ModuleType

import torch

from flowcourse.catalog.table import Instance, Preset, Topic, perturbed

__all__ = ["TOPICS"]


def _cglow(m: ModuleType) -> dict[str, Instance]:
    small = dict(condition_channels=4, condition_hidden=8, hidden=8, steps=2)

    def generated(outputs: int) -> torch.nn.Module:
        """A network of a condition of two numbers."""
        return torch.nn.Sequential(
            torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, outputs)
        )

    x, condition = torch.randn(6, 3, 2, 4), torch.randn(6, 2)
    return {
        "conditional actnorm": (m.ConditionalActNorm(generated(6)), x, condition),
        "conditional 1x1 convolution": (
            m.ConditionalConv1x1(generated(9), 3),
            x,
            condition,
        ),
        "conditional 1x1 convolution, direct": (
            m.ConditionalConv1x1(perturbed(torch.nn.Linear(2, 9), 0.01), 3, form="direct"),
            x,
            0.1 * condition,
        ),
        "multi-scale": (
            perturbed(m.build((2, 4, 4), None, condition_shape=(3, 2, 6), **small)),
            torch.randn(6, 2, 4, 4),
            torch.randn(6, 3, 2, 6),
        ),
        "images": (
            perturbed(m.build((1, 4, 8), 17, **small)),
            16 * torch.rand(6, 1, 4, 8),
            torch.randint(17, (6, 1, 4, 8)),
        ),
    }


TOPICS = (
    Topic(
        name="cglow",
        part="coupling",
        title="Conditional Glow: the picture generates the layers",
        summary="Flows for p(y | x): actnorm, 1x1 convolution and coupling depend on a picture",
        paper="lu2020structured",
        small=_cglow,
        presets={
            "laptop": Preset(
                data="digit_halves",
                model=dict(),
                training=dict(
                    steps=1500,
                    batch_size=128,
                    learning_rate=1e-3,
                    weight_decay=0.1,
                    warmup_steps=100,
                ),
            ),
        },
    ),
)
