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


# Nothing was searched for: one run of 300 updates at this rate on the first 1,200 digits, validated
# on the next 300, learned steadily. Sizes and steps are what ten minutes on a busy core allow.
_TARFLOW = dict(
    patch=2, width=64, blocks=6, layers=2, heads=4, preprocessing="logit", dropout=0.2, turn=0.5
)
_TARFLOW_TRAINING = dict(
    steps=1500,
    batch_size=64,
    micro_batches=1,
    learning_rate=3e-3,
    weight_decay=0.05,
    warmup_steps=50,
    clip_norm=50.0,
    ema=0.99,
)


def _tarflow_paper(**model) -> Preset:
    """Zhai et al. (2025), ImageNet 64: 2-768-8-8 in the paper's notation P-Ch-T-K.

    Patches of 2, width 768, eight blocks of eight layers, heads of 64 numbers. The training options
    are defaults of the released program: 100 epochs, the first of which warms up. Its AdamW has
    0.95 for the second moment, where the loop here has 0.999.
    """
    return Preset(
        data="imagenet64",
        model=dict(patch=2, width=768, blocks=8, layers=8, heads=12) | model,
        training=dict(
            steps=1_000_000,
            batch_size=128,
            micro_batches=8,
            learning_rate=1e-4,
            weight_decay=1e-4,
            warmup_steps=10_000,
            ema=0.0,
        ),
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
        # For pictures: Gaussian noise where the data span -1 to 1, and labels to guide by. The
        # likelihood is that of noisy data.
        "noise": Preset(
            "digits",
            _TARFLOW | dict(blocks=4, preprocessing="centred", turn=0.0, noise=0.1, classes=10),
            _TARFLOW_TRAINING | dict(steps=500),
        ),
        "photos": Preset(
            "photo_patches",
            _TARFLOW | dict(patch=4, blocks=4, preprocessing="centred", turn=0.0, dropout=0.0),
            _TARFLOW_TRAINING | dict(steps=250, batch_size=16),
            dict(size=32),
        ),
        # The likelihood: uniform noise, in single precision, as in the program.
        "paper-imagenet64": _tarflow_paper(),
        # The pictures: labels, and Gaussian noise of 0.05 where the data span -1 to 1. The program
        # trains this one in bfloat16.
        "paper-imagenet64-noise": _tarflow_paper(noise=0.05, classes=1000),
    },
)

# In teaching order.
TOPICS: tuple[Topic, ...] = (TARFLOW,)
