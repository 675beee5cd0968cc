"""Autoregressive flows: each number moves by what the numbers before it say."""

from types import ModuleType

import torch

from flowcourse.catalog.table import Instance, Preset, Topic, perturbed

__all__ = ["TOPICS"]


# maf


def _maf(m: ModuleType) -> dict[str, Instance]:
    def vectors(dims: int, normalization: str = "none", **options) -> Instance:
        model = m.build((dims,), None, layers=2, normalization=normalization, **options)
        return perturbed(model), torch.randn(6, dims)

    def layer(dims: int, *hidden: int, **options) -> Instance:
        net = m.MaskedConditioner(dims, 2, hidden, **options)
        return m.Autoregressive(perturbed(net, 0.3), m.AffineTransformer()), torch.randn(6, dims)

    images = perturbed(m.build((1, 4, 4), 17, layers=2, hidden=[24], blocks=4))
    return {
        "affine transformer": (m.AffineTransformer(), torch.randn(6, 2), torch.randn(6, 4)),
        "one layer, linear": layer(3),
        "one layer, deep": layer(5, 12, 9),
        "one layer, two blocks": layer(5, 12, blocks=2),
        "one layer, one block": layer(2, 4, blocks=1),
        "one layer, given a vector": (*layer(4, 12, 12, context=3), torch.randn(6, 3)),
        "linear, given a label": (*layer(2, classes=3), torch.tensor([0, 2, 1, 1, 0, 2])),
        "maf": vectors(2, hidden=[12]),
        "maf, batch norm": vectors(5, "batch_norm", hidden=[12, 12]),
        "maf, actnorm": vectors(5, "actnorm", hidden=[12]),
        "images, four blocks": (images, 16 * torch.rand(6, 1, 4, 4)),
    }


# The best of seven runs on the first 1,200 digits, validated on the next 300, that differed in rate
# (1e-3 to 3e-3), updates (500 to 1500), dropout (0.3 to 0.7), width (256 or 512), layers (5 or 8)
# and, once, actnorm in place of batch normalization. Blocks and classes were not searched for.
_MAF = dict(layers=5, hidden=[256], dropout=0.5)
_MAF_TRAINING = dict(
    steps=800,
    batch_size=128,
    micro_batches=1,
    learning_rate=3e-3,
    weight_decay=0.1,
    warmup_steps=100,
)


def _maf_on_digits(kept: bool = False, **model) -> Preset:
    return Preset("digits", _MAF | model, dict(_MAF_TRAINING), kept=kept)


MAF = Topic(
    name="maf",
    part="autoregressive_flows",
    title="MAF: masked autoregressive flow",
    summary="Stacked Gaussian MADEs: one pass to score, an inverse that computes each unit once",
    paper="papamakarios2017masked",
    small=_maf,
    presets={
        "laptop": _maf_on_digits(kept=True),
        # The same with fewer blocks of dimensions, from one to a half as many as pixels.
        **{f"blocks{k}": _maf_on_digits(blocks=k) for k in (1, 2, 4, 8, 16, 32)},
        "layers1": _maf_on_digits(layers=1),
        "classes": _maf_on_digits(kept=True, classes=10),
        # Papamakarios et al. (2017), section 4 and the program released with it: CIFAR-10, ten
        # layers, batches of 100, rate 1e-4, decay 1e-6, and an end after 30 epochs without a better
        # validation loss. Of the widths that the program lists for it, 1024 and 2048, the first.
        "paper": Preset(
            data="cifar10",
            model=dict(layers=10, hidden=[1024, 1024]),
            training=dict(
                steps=450 * 400,
                batch_size=100,
                micro_batches=1,
                learning_rate=1e-4,
                schedule="constant",
                weight_decay=1e-6,
                validation=5_000,
                validate_every=450,
                patience=30,
            ),
        ),
    },
)

# In teaching order.
TOPICS: tuple[Topic, ...] = (MAF,)
