"""Autoregressive flows of lines: each number is shifted and scaled by those before it."""

from types import ModuleType

import torch

from flowcourse.catalog.table import Instance, Preset, Topic, perturbed

__all__ = ["TABULAR", "TOPICS"]


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
        "wavenet": wavenet(3),
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
TABULAR = dict(layers=5, hidden=[64, 64], dropout=0.2)

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
        "RealNVP": TABULAR | dict(mixing="reverse", blocks=2),
        "RealNVP, PLU": TABULAR | dict(mixing="plu", blocks=2),
        "MAF": TABULAR | dict(mixing="reverse"),
        "MAF, PLU": TABULAR | dict(mixing="plu"),
        "MAF, PLU from a permutation": TABULAR | dict(mixing="plu_permutation"),
    },
)


# In teaching order.
TOPICS: tuple[Topic, ...] = (MAF, IAF, LINEAR)
