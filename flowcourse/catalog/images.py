"""Image flows: what goes on top of couplings."""

from types import ModuleType

import torch
from torch import Tensor

from flowcourse.bijector import Bijector
from flowcourse.catalog.table import Instance, Preset, Topic, perturbed, uniform

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


# The model and the training of RealNVP's `laptop`, which is the same model with uniform noise: they
# were chosen on digits by training on the first 1,200 images and validating on the next 300.
_DEQUANTIZATION = dict(
    scales=2,
    couplings=4,
    final_couplings=4,
    hidden=32,
    blocks=1,
    batch_norm=False,
    normalize_weights=False,
)
_DEQUANTIZATION_TRAINING = dict(
    steps=1500, batch_size=128, learning_rate=1e-3, weight_decay=0.1, warmup_steps=100
)


def _noise_on_digits(**model) -> Preset:
    options = _DEQUANTIZATION | dict(dropout=0.5) | model
    return Preset(data="digits", model=options, training=dict(_DEQUANTIZATION_TRAINING))


def _noise_on_photos(bits: int, dequantizer: str) -> Preset:
    return Preset(
        data="photo_patches",
        data_options=dict(size=8, bits=bits),
        model=_DEQUANTIZATION | dict(couplings=3, dropout=0.1, dequantizer=dequantizer),
        training=_DEQUANTIZATION_TRAINING | dict(steps=800, weight_decay=0.01),
        kept=False,
    )


DEQUANTIZATION = Topic(
    name="dequantization",
    part="coupling",
    title="Dequantization: noise for integers",
    summary="Uniform and learned noise that turn a density into a bound on integers",
    paper="ho2019flowpp",
    small=_dequantization,
    presets={
        "laptop": _noise_on_digits(),
        "centred": _noise_on_digits(preprocessing="centred"),
        "photos_5_bits": _noise_on_photos(5, "variational"),
        "photos_5_bits_uniform": _noise_on_photos(5, "uniform"),
        "photos_8_bits": _noise_on_photos(8, "variational"),
        "photos_8_bits_uniform": _noise_on_photos(8, "uniform"),
        # RealNVP's model for CIFAR-10 behind noise of the size of Flow++'s (Ho et al., 2019: four
        # couplings, two blocks, 96 channels), trained as the program released with that paper.
        "paper": Preset(
            data="cifar10",
            model=dict(
                scales=2,
                hidden=64,
                growth=1,
                blocks=8,
                noise_couplings=4,
                noise_hidden=96,
                noise_blocks=2,
            ),
            training=dict(
                steps=500_000,
                batch_size=64,
                learning_rate=3e-4,
                warmup_steps=2_000,
                clip_norm=1.0,
                ema=0.999,
                validation=5_000,
            ),
        ),
    },
)


# glow


def _glow(m: ModuleType) -> dict[str, Instance]:
    small = dict(scales=2, steps=2, hidden=8)
    labels = torch.tensor([0, 2, 1, 1, 0, 2])
    return {
        "actnorm, vectors": (perturbed(m.ActNorm(2), 0.5), torch.randn(6, 2)),
        "actnorm, images": (perturbed(m.ActNorm(3), 0.5), torch.randn(6, 3, 2, 4)),
        "1x1 convolution, plu": (perturbed(m.InvertibleConv(3), 0.3), torch.randn(6, 3, 2, 4)),
        "1x1 convolution, direct": (
            perturbed(m.InvertibleConv(3, "direct"), 0.2),
            torch.randn(6, 3, 2, 4),
        ),
        "1x1 convolution, vectors": (perturbed(m.InvertibleConv(2), 0.3), torch.randn(6, 2)),
        "permutation": (m.Permutation(torch.tensor([2, 0, 1])), torch.randn(6, 3, 2, 2)),
        **{
            f"{kind} coupling": (
                m.GlowCoupling(perturbed(m.GlowNet(2, 8, outputs)), kind),
                torch.randn(6, 4, 2, 2),
            )
            for kind, outputs in [("affine", 4), ("exp", 4), ("additive", 2)]
        },
        "split prior": (m.SplitPrior(perturbed(m.ZeroConv2d(2, 4))), torch.randn(6, 4, 2, 2)),
        "top prior of a class": (perturbed(m.TopPrior(3, 3)), torch.randn(6, 3, 2, 2), labels),
        "vectors": (perturbed(m.build((3,), None, steps=3, hidden=8)), torch.randn(6, 3)),
        "multi-scale": (perturbed(m.build((2, 4, 4), None, **small)), torch.randn(6, 2, 4, 4)),
        "images of a class": (
            perturbed(m.build((1, 4, 4), 17, classes=3, **small)),
            16 * torch.rand(6, 1, 4, 4),
            labels,
        ),
    }


# Size, dropout and preprocessing were chosen on digits by training on the first 1,200 images and
# validating on the next 300.
_GLOW = dict(scales=2, steps=8, hidden=64, dropout=0.5, preprocessing="logit")
_GLOW_TRAINING = dict(
    steps=1500, batch_size=128, learning_rate=3e-3, weight_decay=0.1, warmup_steps=100
)


def _glow_paper(data: str, scales: int, steps: int, updates: int, batch_size: int) -> Preset:
    """Kingma & Dhariwal (2018), section 5 and table 2; batch, rate and warm-up of the program.

    The program minimises with Adamax and without end: the number of updates is a choice made here.
    """
    return Preset(
        data=data,
        # The program's default is the plain matrix.
        model=dict(scales=scales, steps=steps, hidden=512, permutation="direct"),
        training=dict(
            steps=updates,
            batch_size=batch_size,
            micro_batches=8,
            learning_rate=1e-3,
            schedule="constant",
            warmup_steps=10 * 50_000 // 512,  # ten of the program's epochs of 50,000 images
        ),
    )


GLOW = Topic(
    name="glow",
    part="coupling",
    title="Glow: learned permutations and no batch",
    summary="Actnorm, invertible 1x1 convolutions, learned priors and temperature",
    paper="kingma2018glow",
    small=_glow,
    presets={
        "laptop": Preset("digits", _GLOW, _GLOW_TRAINING),
        # The program's preprocessing.
        "centred": Preset("digits", _GLOW | dict(preprocessing="centred"), _GLOW_TRAINING),
        "shuffle": Preset("digits", _GLOW | dict(permutation="shuffle"), _GLOW_TRAINING),
        "classes": Preset("digits", _GLOW | dict(classes=10), _GLOW_TRAINING | dict(steps=700)),
        "photos": Preset(
            "photo_patches",
            dict(scales=3, steps=4, hidden=48),
            dict(steps=600, batch_size=32, learning_rate=2e-3, weight_decay=0.01, warmup_steps=100),
            dict(size=32),
        ),
        "paper-cifar10": _glow_paper("cifar10", 3, 32, updates=200_000, batch_size=512),
        "paper-imagenet32": _glow_paper("imagenet32", 3, 48, updates=200_000, batch_size=512),
        "paper-imagenet64": _glow_paper("imagenet64", 4, 48, updates=400_000, batch_size=128),
    },
)


# cglow


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


# About half of Glow's preset in depth and width. The number of updates is where the loss on digits
# 1,200 to 1,500 was lowest when trained on those before; nothing else was searched for.
_CGLOW = dict(scales=2, steps=4, hidden=32, dropout=0.3)
_CGLOW_TRAINING = dict(
    steps=700,
    batch_size=128,
    micro_batches=1,
    learning_rate=1e-3,
    weight_decay=0.1,
    warmup_steps=100,
)

CGLOW = Topic(
    name="cglow",
    part="coupling",
    title="Conditional Glow: a picture generates the layers",
    summary="Flows for p(y | x): actnorm, 1x1 convolution and coupling depend on a picture",
    paper="lu2020structured",
    small=_cglow,
    presets={
        "laptop": Preset("digit_halves", _CGLOW, _CGLOW_TRAINING),
        "unconditional": Preset("digit_halves", _CGLOW | dict(generate=()), _CGLOW_TRAINING),
        "denoise": Preset("noisy_digits", _CGLOW, _CGLOW_TRAINING),
        # The sizes, the rate and the clipping of the program released by Lu & Huang (2020), on
        # other data: the paper's own pairs are not among the data here. Batch and number of
        # updates are choices made here.
        "paper": Preset(
            data="noisy_patches",
            model=dict(
                scales=3,
                steps=8,
                hidden=256,
                condition_channels=128,
                condition_hidden=64,
                form="direct",
            ),
            training=dict(
                steps=100_000,
                batch_size=64,
                learning_rate=2e-4,
                schedule="constant",
                validation=700,
            ),
        ),
    },
)


# flowpp


def _layout(text: str) -> list[str]:
    """Words for letters, as in "cccc s hh ccc"."""
    names = dict(c="checkerboard", s="squeeze", h="channels")
    return [names[letter] for letter in text if letter != " "]


def _flowpp(m: ModuleType) -> dict[str, Instance]:
    small = dict(filters=8, blocks=1, components=3, heads=2)
    small |= dict(noise_couplings=2, noise_blocks=1, encoder_filters=4, encoder_blocks=1)

    def images(shape: tuple[int, int, int], layout: str = "cc s hh", **options) -> Instance:
        model = m.build(shape, 17, layout=_layout(layout), **small | options)
        return perturbed(model), 16 * torch.rand(6, *shape)

    curve = m.MixtureCurve(3)
    noise = m.build((1, 2, 4), 17, layout=[], **small).dequantizer
    turned = m.build((1, 4, 4), 17, layout=_layout("cc"), turn=0.5, **small)
    return {
        "mixture curve": (curve, torch.randn(6, 2), torch.randn(6, 2 * curve.outputs)),
        "affine curve": (m.AffineCurve(), torch.randn(6, 1), torch.randn(6, 2)),
        "checkerboard": (m.Checkerboard(), torch.randn(6, 2, 3, 4)),
        "noise": (perturbed(noise), uniform(6, 1, 2, 4), torch.randn(6, 4, 2, 2)),
        "images": images((1, 4, 4)),
        "images, three colours": images((3, 2, 4), "ccc"),
        "images, affine": images((1, 4, 4), coupling="affine"),
        "images, no attention": images((1, 4, 4), attention=False),
        "images, turned": (perturbed(turned), 16 * torch.rand(6, 1, 4, 4), torch.arange(6)),
    }


# From a few short runs on the first 1,200 digits, validated on the next 300: the layout was the
# best of those tried after 700 updates. Sizes are what ten minutes on two cores allow.
_FLOWPP = dict(
    layout=_layout("cccc s hh cc"),
    filters=32,
    blocks=2,
    components=8,
    dropout=0.2,
    noise_blocks=1,
    encoder_filters=24,
    encoder_blocks=1,
    turn=0.5,
)
_FLOWPP_TRAINING = dict(
    steps=1600,
    batch_size=64,
    micro_batches=1,
    learning_rate=3e-3,
    weight_decay=0.05,
    warmup_steps=50,
    clip_norm=50.0,
    ema=0.99,
)


def _flowpp_paper(data: str, layout: str, training: dict | None = None, **model) -> Preset:
    """The programs released with Ho et al. (2019); the defaults are those for CIFAR-10.

    They train without end: the number of updates is a choice made here.
    """
    options = dict(
        steps=400_000,
        batch_size=64,
        micro_batches=8,
        learning_rate=3e-4,
        schedule="constant",
        warmup_steps=2000,
        clip_norm=1.0,
        ema=0.999,
    )
    return Preset(data, dict(layout=_layout(layout)) | model, options | (training or {}))


FLOWPP = Topic(
    name="flowpp",
    part="coupling",
    title="Flow++: mixtures, attention, learned noise",
    summary="Couplings by a mixture's distribution function, with attention and learned noise",
    paper="ho2019flowpp",
    small=_flowpp,
    presets={
        "laptop": Preset("digits", _FLOWPP, _FLOWPP_TRAINING),
        "uniform": Preset(
            "digits", _FLOWPP | dict(dequantizer="uniform"), _FLOWPP_TRAINING, kept=False
        ),
        "affine": Preset("digits", _FLOWPP | dict(coupling="affine"), _FLOWPP_TRAINING, kept=False),
        "no_attention": Preset(
            "digits", _FLOWPP | dict(attention=False), _FLOWPP_TRAINING, kept=False
        ),
        "photos": Preset(
            "photo_patches",
            _FLOWPP | dict(layout=_layout("cc s hh cc"), dropout=0.0, turn=0.0),
            _FLOWPP_TRAINING | dict(steps=500, batch_size=16),
            dict(size=32),
            kept=False,
        ),
        "paper-cifar10": _flowpp_paper("cifar10", "cccc s hh ccc"),
        # Wider where a part is missing, so that the parameters are about as many.
        "paper-uniform": _flowpp_paper(
            "cifar10", "cccc s hh ccc", dequantizer="uniform", filters=104
        ),
        "paper-affine": _flowpp_paper("cifar10", "cccc s hh ccc", coupling="affine", filters=108),
        "paper-no-attention": _flowpp_paper("cifar10", "cccc s hh ccc", attention=False),
        "paper-imagenet32": _flowpp_paper(
            "imagenet32",
            "cccc ccc s hhh ccc",
            dict(batch_size=32, learning_rate=1e-3, warmup_steps=5000, ema=0.999222),
            filters=128,
            blocks=20,
            dropout=0.0,
            noise_couplings=8,
            noise_blocks=8,
            encoder_blocks=8,
        ),
        "paper-imagenet64": _flowpp_paper(
            "imagenet64",
            "s cccc s hh cc s hh cc",
            dict(batch_size=72, learning_rate=4e-4, warmup_steps=10_000),
            filters=96,
            blocks=16,
            components=4,
            dropout=0.0,
            noise_blocks=5,
            encoder_blocks=5,
        ),
    },
)


# In teaching order.
TOPICS: tuple[Topic, ...] = (DEQUANTIZATION, GLOW, CGLOW, FLOWPP)
