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


# In teaching order.
TOPICS: tuple[Topic, ...] = (DEQUANTIZATION,)
