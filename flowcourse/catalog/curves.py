"""Autoregressive flows of curves, and with a transformer of the other kind as the conditioner."""

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from flowcourse.bijector import Bijector
from flowcourse.catalog.autoregressive_flows import TABULAR
from flowcourse.catalog.table import Instance, Preset, Topic, perturbed

__all__ = ["TOPICS"]


# transformers


def _transformers(m: ModuleType) -> dict[str, Instance]:
    def curve(transformer: Any, dims: int, size: float = 1.0) -> Instance:
        raw = size * torch.randn(6, transformer.outputs * dims)
        return transformer.eval(), 1.5 * torch.randn(6, dims), raw

    def vectors(dims: int, **options) -> Instance:
        model = m.build((dims,), None, **dict(units=3, layers=2, hidden=(12,)) | options)
        return perturbed(model), torch.randn(6, dims)

    def recurrent(dims: int) -> Instance:
        net = perturbed(m.RecurrentConditioner(dims, 2, 6), 0.3)
        return m.Autoregressive(net, m.AffineTransformer()), torch.randn(6, dims)

    images = m.build((1, 2, 2), 17, units=3, layers=2, hidden=(12,))
    return {
        "conic": curve(m.ConicTransformer(4), 2),
        "sigmoidal": curve(m.SigmoidalTransformer(4), 2),
        # Two numbers would make the grid of the integral test, with all nodes, a large one.
        "integral": curve(m.IntegralTransformer(3, hidden=8, nodes=48), 3),
        "integral, Clenshaw-Curtis": curve(
            m.IntegralTransformer(2, hidden=4, nodes=65, rule="clenshaw_curtis"), 1
        ),
        "squares": curve(m.SquaresTransformer(3), 2, 0.3),
        "conic, twice": curve(m.Repeated(m.ConicTransformer(2), 2), 3),
        "sigmoidal, three times": curve(m.Repeated(m.SigmoidalTransformer(3), 3), 1),
        "recurrent": recurrent(4),
        "recurrent, one dimension": recurrent(1),
        "vectors": vectors(2),
        "vectors, recurrent": vectors(3, transformer="conic", conditioner="recurrent"),
        "vectors, couplings": vectors(5, transformer="squares", blocks=2, mixing="plu"),
        "images": (perturbed(images), 16 * torch.rand(6, 1, 2, 2)),
    }


# One layer on the circles, of about the same numbers of parameters for each coordinate. Sizes and
# training were not searched for. How wide sigmoids are at the start was chosen by a handful of runs
# of `conic` and `sigmoidal` on this very data.
_CURVES = dict(layers=1, hidden=(64, 64))
_CURVES_TRAINING = dict(steps=1000, batch_size=500, micro_batches=1, learning_rate=5e-3, ema=0.0)
_CURVES_UNITS = {
    "affine": (0,),
    "conic": (2, 6, 15),
    "sigmoidal": (3, 8, 16),
    "integral": (8, 24, 47),
    "squares": (4, 8, 12),
}


def _curve_on_circles(transformer: str, units: int) -> Preset:
    model = _CURVES | dict(transformer=transformer, units=units)
    return Preset("circles", model, _CURVES_TRAINING, kept=False)


# Nothing was searched for: sizes and training are about those of the spline flow on the digits,
# except that polynomials of a higher degree than 1 diverged.
_TRANSFORMERS = dict(units=8, layers=2, hidden=(224,), dropout=0.3)
_TRANSFORMERS_TRAINING = dict(
    steps=600,
    batch_size=128,
    micro_batches=1,
    learning_rate=1e-3,
    weight_decay=0.1,
    warmup_steps=100,
    ema=0.98,
)


def _transformer_on_digits(kept: bool = False, **model) -> Preset:
    return Preset("digits", _TRANSFORMERS | model, _TRANSFORMERS_TRAINING, kept=kept)


TRANSFORMERS = Topic(
    name="transformers",
    part="autoregressive_flows",
    title="Transformers and conditioners: curves that rise",
    summary="Sums, compositions and integrals of rising functions; a recurrent conditioner",
    paper="huang2018neural",
    small=_transformers,
    presets={
        "laptop": _transformer_on_digits(kept=True),
        "affine": _transformer_on_digits(transformer="affine"),
        "conic": _transformer_on_digits(transformer="conic"),
        "integral": _transformer_on_digits(transformer="integral", units=23),
        "squares": _transformer_on_digits(transformer="squares", units=2),
        "recurrent": _transformer_on_digits(conditioner="recurrent", hidden=(96,), dropout=0.0),
        **{
            f"circles_{name}_{units}": _curve_on_circles(name, units)
            for name, sizes in _CURVES_UNITS.items()
            for units in sizes
        },
        # The table POWER, with the curve of Huang et al. (2018), and with MAF's layers, width,
        # batches, rate, decay and patience of 30 epochs for it, from the program released with that
        # paper. The number of sigmoids is a choice made here; the numbers of Huang et al. are those
        # of their deep *dense* sigmoidal flow.
        "paper": Preset(
            data="power",
            model=dict(units=16, layers=5, hidden=[100, 100]),
            training=dict(
                steps=500_000,
                batch_size=100,
                micro_batches=1,
                learning_rate=1e-4,
                schedule="constant",
                weight_decay=1e-6,
                ema=0.0,
                validation=184_435,
                validate_every=16_600,
                patience=30,
            ),
        ),
    },
)


# splines


def _splines(m: ModuleType) -> dict[str, Instance]:
    def transformer(spline: Any, dims: int) -> tuple[Bijector, Tensor, Tensor]:
        return spline, 2 * torch.randn(6, dims), torch.randn(6, spline.outputs * dims)

    small = dict(bins=4, layers=2, hidden=(16,))
    return {
        "rational quadratic": transformer(m.RationalQuadraticSpline(4), 2),
        "quadratic": transformer(m.QuadraticSpline(4), 2),
        # In three dimensions, where no grid integrates: its density jumps at the knots.
        "linear": transformer(m.LinearSpline(4), 3),
        "channels of images": (
            m.RationalQuadraticSpline(3),
            2 * torch.randn(6, 2, 2, 3),
            0.5 * torch.randn(6, 16, 2, 3),
        ),
        "circular": (
            m.CircularSpline(4),
            math.pi * (2 * torch.rand(6, 1) - 1),
            torch.randn(6, 13),
        ),
        "torus": (perturbed(m.torus(3, bins=3, hidden=(16,))), 6 * torch.rand(6, 3) - 3),
        "vectors": (perturbed(m.build((2,), None, **small)), torch.randn(6, 2)),
        "vectors, couplings": (
            perturbed(m.build((5,), None, blocks=2, mixing="reverse", **small)),
            torch.randn(6, 5),
        ),
        "vectors, quadratic": (
            perturbed(m.build((3,), None, spline="quadratic", **small)),
            torch.randn(6, 3),
        ),
        "images": (
            perturbed(m.build((1, 4, 4), 17, mixing="reverse", **small)),
            16 * torch.rand(6, 1, 4, 4),
        ),
        "images, convolutions": (
            perturbed(
                m.build((1, 4, 4), 17, bins=3, layers=2, hidden=(8,), scales=2, residual_blocks=1)
            ),
            16 * torch.rand(6, 1, 4, 4),
        ),
    }


# One layer, as in the notes whose losses the chapter prints; its size was not searched.
_CIRCLES = dict(bins=16, layers=1, hidden=(64, 64), mixing="reverse")
_CIRCLES_TRAINING = dict(steps=2000, batch_size=500, micro_batches=1, learning_rate=5e-3, ema=0.0)

# From four runs on the first 1,200 digits, validated on the next 300: two autoregressive layers
# were better than one and than three couplings, and the opposite order between layers was better
# than a learned matrix. More layers, steps and bins were not tried. Those runs had 256 hidden
# units; with 240 the checkpoint is small enough to be kept.
_SPLINES = dict(bins=8, layers=2, hidden=(240,), mixing="reverse", dropout=0.3)
_SPLINES_TRAINING = dict(
    steps=600,
    batch_size=128,
    micro_batches=1,
    learning_rate=1e-3,
    weight_decay=0.1,
    warmup_steps=100,
    ema=0.98,
)


SPLINES = Topic(
    name="splines",
    part="autoregressive_flows",
    title="Neural spline flows: curves with a formula both ways",
    summary="Monotone splines as transformers, in couplings, autoregressive flows and on circles",
    paper="durkan2019neural",
    small=_splines,
    presets={
        "laptop": Preset("digits", _SPLINES, _SPLINES_TRAINING),
        "coupling": Preset(
            "digits", _SPLINES | dict(layers=3, blocks=2), _SPLINES_TRAINING, kept=False
        ),
        "circles": Preset("circles", _CIRCLES, _CIRCLES_TRAINING),
        # Durkan et al. (2019), section 5.4: CIFAR-10, 8 bits. The bound of the splines and the
        # warm-up are choices made here.
        "paper-cifar10": Preset(
            data="cifar10",
            model=dict(
                scales=3,
                layers=7,
                hidden=(96,),
                residual_blocks=3,
                bins=4,
                preprocessing="centred",
            ),
            training=dict(
                steps=200_000,
                batch_size=512,
                micro_batches=4,
                learning_rate=5e-4,
                warmup_steps=1000,
                validation=500,
            ),
        ),
    },
    tabular={
        "NSF": TABULAR | dict(bins=8, mixing="lu"),
        "NSF, couplings": TABULAR | dict(bins=8, mixing="lu", blocks=2),
    },
)


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
        "vectors": (perturbed(m.build((3,), None, patch=1, **small)), torch.randn(6, 3)),
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
            _TARFLOW_TRAINING | dict(steps=1500, batch_size=16),
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
TOPICS: tuple[Topic, ...] = (TRANSFORMERS, SPLINES, TARFLOW)
