"""Autoregressive flows: each number moves by what the numbers before it say."""

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from flowcourse.bijector import Bijector
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


# iaf


def _iaf(m: ModuleType) -> dict[str, Instance]:
    def vectors(dims: int, **options) -> Instance:
        options = dict(layers=2, hidden=[12]) | options
        return perturbed(m.build((dims,), None, **options)), torch.randn(6, dims)

    def wavenet(dims: int, **options) -> Instance:
        net = m.WaveNetConditioner(dims, 2, [1, 2], channels=4, **options)
        return m.Autoregressive(perturbed(net, 0.3), m.AffineTransformer()), torch.randn(6, dims)

    images = perturbed(m.build((1, 4, 4), 17, layers=2, hidden=[24]))
    labels = torch.tensor([0, 2, 1, 1, 0, 2])
    return {
        "gated transformer": (m.GatedTransformer(), torch.randn(6, 2), torch.randn(6, 4)),
        "iaf": vectors(2),
        "iaf, affine": vectors(5, transformer="affine"),
        "iaf, given a vector": (*vectors(4, context=3), torch.randn(6, 3)),
        "iaf, given a label": (*vectors(3, classes=3), labels),
        "maf of the same layers": vectors(3, reads="data"),
        "wavenet": wavenet(2),
        "wavenet, three taps": wavenet(6, kernel=3),
        "wavenet, given a vector": (*wavenet(5, context=3), torch.randn(6, 3)),
        "wavenet, given a label": (*wavenet(4, classes=3), labels),
        "iaf of wavenets": vectors(5, dilations=[1, 2], channels=4, reverse=False),
        "images": (images, 16 * torch.rand(6, 1, 4, 4)),
    }


# From runs of 400 updates on the first 1,200 digits, validated on the next 300: gates were far
# behind affine maps, in both directions, and dropout of 0.3 was a little better than of 0.5.
# Nothing else was tried.
_IAF = dict(layers=4, hidden=[256], transformer="affine", dropout=0.3)
_IAF_TRAINING = dict(
    steps=600,
    batch_size=128,
    micro_batches=1,
    learning_rate=3e-3,
    weight_decay=0.1,
    warmup_steps=50,
    ema=0.98,
)

# The best of ten runs on the windows that are not held out, which differed in layers (1 to 3),
# dilations, channels (8 or 16), dropout (0 to 0.5), weight decay and order. The last 384 windows,
# on which the weights are chosen, begin in the last sixth of the past.
_WAVENET = dict(
    reads="data", layers=2, transformer="affine", dilations=[1, 2, 4], channels=16, dropout=0.2
)
_WAVENET_TRAINING = dict(
    steps=300,
    batch_size=128,
    micro_batches=1,
    learning_rate=3e-3,
    weight_decay=0.05,
    warmup_steps=25,
    ema=0.98,
    validation=384,
    validate_every=25,
)


IAF = Topic(
    name="iaf",
    part="autoregressive_flows",
    title="IAF: inverse autoregressive flow, and distillation",
    summary="The same map read from the noise: samples in one pass; WaveNet; teacher and student",
    paper="kingma2016improving",
    small=_iaf,
    presets={
        "laptop": Preset("digits", _IAF, _IAF_TRAINING),
        # The same layers read the other way: what distillation learns from.
        "maf": Preset("digits", _IAF | dict(reads="data"), _IAF_TRAINING),
        "gated": Preset("digits", _IAF | dict(transformer="gated"), _IAF_TRAINING, kept=False),
        "wavenet": Preset("eeg", _WAVENET, _WAVENET_TRAINING),
        # One layer: Gaussian conditionals.
        "wavenet1": Preset(
            "eeg", _WAVENET | dict(layers=1, dilations=[1, 2, 4, 8]), _WAVENET_TRAINING, kept=False
        ),
        # The sizes of a student of van den Oord et al. (2018), from memory, not checked: four flows
        # of 10, 10, 10 and 30 layers, 64 channels and three taps. They had speech, of which nothing
        # is here, and a teacher; and here all flows have 10 layers.
        "paper": Preset(
            data="eeg",
            model=dict(
                layers=4,
                transformer="affine",
                dilations=[2**k for k in range(10)],
                channels=64,
                kernel=3,
                reverse=False,
            ),
            training=dict(
                steps=1000,
                batch_size=8,
                micro_batches=1,
                learning_rate=2e-4,
                validation=384,
                validate_every=100,
            ),
        ),
    },
)


# linear


def _linear(m: ModuleType) -> dict[str, Instance]:
    small = dict(layers=2, hidden=[8])
    return {
        "triangular": (perturbed(m.Triangular(3), 0.3), torch.randn(6, 3)),
        "one mirror": (m.Householder(2, 1), torch.randn(6, 2)),
        "as many mirrors as dimensions": (m.Householder(4), torch.randn(6, 4)),
        "cayley": (m.Orthogonal(3, "cayley"), torch.randn(6, 3)),
        "exponential": (m.Orthogonal(3, "exp"), torch.randn(6, 3)),
        "plu": (perturbed(m.PLULinear(4), 0.2), torch.randn(6, 4)),
        "plu from a permutation": (
            perturbed(m.PLULinear(3, "permutation"), 0.2),
            torch.randn(6, 3),
        ),
        "qr": (perturbed(m.QRLinear(2), 0.3), torch.randn(6, 2)),
        "normal density": (perturbed(m.build((2,), None, layers=0), 0.2), torch.randn(6, 2)),
        "autoregressive": (
            perturbed(m.build((3,), None, mixing="qr", **small)),
            torch.randn(6, 3),
        ),
        "couplings, images": (
            perturbed(m.build((1, 2, 2), 17, blocks=2, **small)),
            16 * torch.rand(6, 1, 2, 2),
        ),
    }


# The same for all, and not searched for: what half a minute on one core allows. Only the start of
# PLU, at a rotation or at a permutation, was added after the first runs had been seen.
_LINEAR = dict(layers=3, hidden=[128], dropout=0.2)
_LINEAR_TRAINING = dict(
    steps=600,
    batch_size=128,
    micro_batches=1,
    learning_rate=5e-3,
    weight_decay=0.1,
    warmup_steps=50,
    ema=0.99,
)


def _linear_on_digits(mixing: str, kept: bool = False, **model) -> Preset:
    return Preset("digits", _LINEAR | dict(mixing=mixing) | model, _LINEAR_TRAINING, kept=kept)


# Models of the table of `python -m benchmarks.tabular`: with and without a learned linear map.
_TABULAR = dict(layers=5, hidden=[64, 64], dropout=0.2)

LINEAR = Topic(
    name="linear",
    part="autoregressive_flows",
    title="Linear flows: cheap determinants, learned order",
    summary="PLU, QR, Householder, Cayley and exponential maps between the layers of a flow",
    paper="papamakarios2021normalizing",
    small=_linear,
    presets={
        "laptop": _linear_on_digits("plu", kept=True),
        "permutation": _linear_on_digits("plu_permutation"),
        "qr": _linear_on_digits("qr"),
        "exp": _linear_on_digits("exp"),
        "shuffle": _linear_on_digits("shuffle"),
        "reverse": _linear_on_digits("reverse"),
        "couplings": _linear_on_digits("plu", blocks=2),
        "couplings_reverse": _linear_on_digits("reverse", blocks=2),
        # MAF as Durkan et al. (2019) trained it again, with a PLU map before each of its layers and
        # the settings of the program released with that paper; four plain hidden layers stand in
        # the place of its two residual blocks.
        "paper": Preset(
            data="miniboone",
            model=dict(layers=10, hidden=[256] * 4, dropout=0.25, mixing="plu_permutation"),
            training=dict(
                steps=200_000,
                batch_size=64,
                learning_rate=3e-4,
                clip_norm=5.0,
                ema=0.0,
                validation=3_284,
                validate_every=1_000,
            ),
        ),
    },
    tabular={
        "RealNVP": _TABULAR | dict(mixing="reverse", blocks=2),
        "RealNVP, PLU": _TABULAR | dict(mixing="plu", blocks=2),
        "MAF": _TABULAR | dict(mixing="reverse"),
        "MAF, PLU": _TABULAR | dict(mixing="plu"),
        "MAF, PLU from a permutation": _TABULAR | dict(mixing="plu_permutation"),
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
        "NSF": _TABULAR | dict(bins=8, mixing="lu"),
        "NSF, couplings": _TABULAR | dict(bins=8, mixing="lu", blocks=2),
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
TOPICS: tuple[Topic, ...] = (MAF, IAF, LINEAR, SPLINES, TARFLOW)
