"""Autoregressive models."""

from types import ModuleType

from flowcourse.catalog.table import Preset, Topic
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
                model=_PIXELCNN | dict(channels=66, blocks=5, dropout=0.1),
                training=_PIXELCNN_TRAINING | dict(steps=700),
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
)
