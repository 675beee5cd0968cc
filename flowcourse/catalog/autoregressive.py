"""Autoregressive models."""

from types import ModuleType

from flowcourse.catalog.table import Preset, Topic, perturbed
from flowcourse.chain_rule import AutoregressiveModel

__all__ = ["TOPICS"]


def _pixelcnnpp(m: ModuleType) -> dict[str, AutoregressiveModel]:
    def small(event_shape, levels, **options) -> AutoregressiveModel:
        sizes = dict(components=3, filters=4, blocks=1, stages=2, dropout=0.0)
        return perturbed(m.build(event_shape, levels, **sizes | options))

    return {
        "grey": small((1, 2, 2), 5),
        "grey, one size": small((1, 2, 3), 3, stages=1, blocks=2),
        "colour": small((3, 2, 2), 2),
        "colour, one row": small((3, 1, 2), 4),
        "softmax": small((2, 3, 1), 4, components=0),
        "turned in training": small((1, 2, 2), 4, turn=0.5),
    }


# Chosen on digits by training on the first 1,200 images and validating on the next 300.
_PIXELCNNPP = dict(components=5, filters=32, blocks=2, stages=2, dropout=0.3, turn=0.6)
_PIXELCNNPP_TRAINING = dict(
    steps=1600, batch_size=32, learning_rate=2e-3, warmup_steps=50, clip_norm=50.0
)
# The variants are compared with `plain`: a smaller network, more dropout, no turned images.
_PLAIN = dict(components=5, filters=24, blocks=2, stages=2, dropout=0.5)
_PLAIN_TRAINING = _PIXELCNNPP_TRAINING | dict(steps=800)
# Patches are plenty: in half an epoch nothing is learned by heart.
_PHOTOS = dict(components=10, filters=32, blocks=1, stages=2, dropout=0.0)
_PHOTOS_TRAINING = _PIXELCNNPP_TRAINING | dict(steps=1000)

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="pixelcnnpp",
        part="autoregressive",
        title="PixelCNN++: a likelihood for ordered levels",
        summary="Mixtures of discretized logistics, and a network of two streams at several sizes",
        paper="salimans2017pixelcnn",
        small_models=_pixelcnnpp,
        presets={
            "laptop": Preset("digits", _PIXELCNNPP, _PIXELCNNPP_TRAINING),
            "plain": Preset("digits", _PLAIN, _PLAIN_TRAINING),
            "softmax": Preset("digits", _PLAIN | dict(components=0), _PLAIN_TRAINING),
            "single_logistic": Preset("digits", _PLAIN | dict(components=1), _PLAIN_TRAINING),
            "one_size": Preset("digits", _PLAIN | dict(stages=1), _PLAIN_TRAINING),
            "photos": Preset("photo_patches", _PHOTOS, _PHOTOS_TRAINING),
            "photos_softmax": Preset(
                "photo_patches", _PHOTOS | dict(components=0), _PHOTOS_TRAINING
            ),
            # Salimans et al. (2017), section 3, and the released program: 5000 passes at most, the
            # rate multiplied by 0.999995 after each update.
            "paper": Preset(
                data="cifar10",
                model=dict(components=10, filters=160, blocks=5, stages=3, dropout=0.5),
                training=dict(
                    steps=5000 * 390,
                    batch_size=128,
                    learning_rate=1e-3,
                    ema=0.9995,
                    validation=5_000,
                ),
            ),
        },
        paper_parameters=53_659_080,
    ),
)
