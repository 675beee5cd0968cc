"""The rows of the part on autoregressive flows."""

from types import ModuleType

import torch

from flowcourse.catalog.table import Instance, Preset, Topic, perturbed

__all__ = ["TOPICS"]


# tarflow


def _tarflow(m: ModuleType) -> dict[str, Instance]:
    small = dict(width=8, blocks=2, layers=2, heads=2)
    labels = torch.tensor([0, 2, 1, 1, 0, 3])

    def conditioner(**options) -> torch.nn.Module:
        net = m.TransformerConditioner(6, 2, 2, width=8, layers=2, heads=2, **options)
        return perturbed(net, 0.3)

    guided = m.guided(m.build((1, 4, 4), None, classes=3, **small), 1.5)
    return {
        "patches": (m.Patches((3, 4, 6), 2), torch.randn(6, 3, 4, 6)),
        "block": (m.Autoregressive(conditioner(), m.AffineTransformer()), torch.randn(6, 6)),
        "block of a class": (
            m.Autoregressive(conditioner(classes=4), m.AffineTransformer()),
            torch.randn(6, 6),
            labels,
        ),
        "vectors": (perturbed(m.build((2,), None, patch=1, **small)), torch.randn(6, 2)),
        "guided": (perturbed(guided), torch.randn(6, 1, 4, 4), labels),
        "images": (
            perturbed(m.build((1, 4, 4), 17, preprocessing="logit", **small)),
            16 * torch.rand(6, 1, 4, 4),
        ),
        "images, three colours": (
            perturbed(m.build((3, 2, 4), 17, **small)),
            16 * torch.rand(6, 3, 2, 4),
        ),
        "images with Gaussian noise": (
            perturbed(m.build((1, 4, 4), 17, noise=0.1, classes=3, **small)),
            16 * torch.rand(6, 1, 4, 4),
            labels,
        ),
    }


_TARFLOW = dict(
    patch=2, width=64, blocks=6, layers=2, heads=4, preprocessing="logit", dropout=0.2, turn=0.5
)
_TARFLOW_TRAINING = dict(
    steps=1500,
    batch_size=64,
    micro_batches=1,
    learning_rate=1e-3,
    weight_decay=0.05,
    warmup_steps=50,
    clip_norm=50.0,
    ema=0.99,
)

TARFLOW = Topic(
    name="tarflow",
    part="autoregressive_flows",
    title="TarFlow: a transformer as the conditioner",
    summary="Autoregressive flow on image patches: causal attention, denoising, guidance",
    paper="zhai2025normalizing",
    small=_tarflow,
    presets={
        "laptop": Preset("digits", _TARFLOW, _TARFLOW_TRAINING),
    },
)

# In teaching order.
TOPICS: tuple[Topic, ...] = (TARFLOW,)
