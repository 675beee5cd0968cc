"""Autoregressive models."""

from types import ModuleType

import torch

from flowcourse.catalog.table import Preset, Topic, perturbed
from flowcourse.chain_rule import AutoregressiveModel

__all__ = ["TOPICS"]


def _pixelcnn(m: ModuleType) -> dict[str, AutoregressiveModel]:
    # Two columns: in a narrow image the masked model has no blind spot yet.
    small = dict(channels=24, blocks=2, first_kernel=3)
    return {
        "masked": m.build((1, 2, 2), 3, stacks="masked", **small),
        "masked, three colours": m.build((3, 1, 2), 3, stacks="masked", **small),
        "gated": m.build((1, 2, 3), 3, kernel=3, **small),
        "gated, three colours": m.build((3, 2, 2), 2, kernel=3, **small),
        "gated, one-hot": m.build((1, 2, 2), 3, kernel=3, encoding="one_hot", **small),
    }


# Chosen on digits by training on the first 1,200 images and validating on the next 300, and on
# photos by holding out one stripe.
_PIXELCNN = dict(channels=64, blocks=6, kernel=3, first_kernel=5, encoding="one_hot")
_PIXELCNN_TRAINING = dict(
    steps=900, batch_size=64, learning_rate=3e-3, weight_decay=0.1, warmup_steps=50, ema=0.99
)


def _pixelvae(m: ModuleType) -> dict[str, AutoregressiveModel]:
    """Decoders that see the whole image, each given one latent."""

    def given(event_shape: tuple[int, int, int], levels: int, hidden: int) -> AutoregressiveModel:
        model = m.build(event_shape, levels, latents=2, hidden=hidden, blocks=1)
        return m.GivenLatent(perturbed(model, scale=0.3).decoder, torch.randn(2)).eval()

    return {
        "pixelvae, grey": given((1, 2, 2), 3, hidden=8),
        "pixelvae, colour": given((3, 1, 2), 2, hidden=24),
    }


# Chosen on digits by training on the first 1,200 images and validating on the next 300.
_PIXELVAE_TRAINING = dict(
    steps=1000, batch_size=128, learning_rate=2e-3, weight_decay=0.1, warmup_steps=100
)


def _pixelvae_preset(reach: int, free_nats: float = 0.0) -> Preset:
    model = dict(latents=16, hidden=48, blocks=2, dropout=0.3, reach=reach, free_nats=free_nats)
    return Preset(data="digits", model=model, training=dict(_PIXELVAE_TRAINING))


TOPICS: tuple[Topic, ...] = (
    Topic(
        name="pixelcnn",
        part="autoregressive",
        title="PixelCNN: masked convolutions",
        summary="Convolutions that look back only, their blind spot, and two stacks without one",
        paper="vandenoord2016conditional",
        small_models=_pixelcnn,
        presets={
            "laptop": Preset(
                data="digits", model=_PIXELCNN | dict(dropout=0.35), training=_PIXELCNN_TRAINING
            ),
            # It overfits sooner than the two stacks do: more dropout, and fewer steps.
            "masked": Preset(
                data="digits",
                model=_PIXELCNN | dict(stacks="masked", dropout=0.5),
                training=_PIXELCNN_TRAINING | dict(steps=450),
            ),
            "classes": Preset(
                data="digits",
                model=_PIXELCNN | dict(classes=10, dropout=0.4),
                training=_PIXELCNN_TRAINING | dict(steps=700),
            ),
            "colour": Preset(
                data="photo_patches",
                data_options=dict(size=8, bits=5),
                model=_PIXELCNN | dict(channels=96, blocks=5, dropout=0.1),
                training=_PIXELCNN_TRAINING | dict(steps=600),
            ),
            # Van den Oord et al. (2016b): the network for ImageNet, as far as we remember it; the
            # network for CIFAR-10 and the learning rate are not known to us.
            "paper": Preset(
                data="cifar10",
                model=dict(channels=384, blocks=20, kernel=5, first_kernel=7),
                training=dict(steps=200_000, batch_size=128, learning_rate=3e-4, validation=5_000),
            ),
        },
    ),
    Topic(
        name="pixelvae",
        part="autoregressive",
        title="PixelVAE: latents for an autoregressive decoder",
        summary="A VAE whose decoder is a PixelCNN, and what is left for the latents to say",
        paper="gulrajani2017pixelvae",
        small_models=_pixelvae,
        presets={
            "laptop": _pixelvae_preset(reach=7, free_nats=0.2),
            "factorised": _pixelvae_preset(reach=0),
            "reach-1": _pixelvae_preset(reach=1),
            "reach-2": _pixelvae_preset(reach=2),
            "whole-image": _pixelvae_preset(reach=7),
            "more-free-nats": _pixelvae_preset(reach=7, free_nats=0.5),
            # The released program: 16 latents, a first mask of 7x7 and twelve of 5x5, so that the
            # whole image is in reach; batch, rate and length. Free nats stand for its warm-up of
            # the divergence, and the networks are ours.
            "paper": Preset(
                data="binary_mnist",
                model=dict(latents=16, reach=27, hidden=64, blocks=4, free_nats=0.2),
                training=dict(steps=200_000, batch_size=100, learning_rate=1e-3, validation=10_000),
            ),
        },
    ),
)
