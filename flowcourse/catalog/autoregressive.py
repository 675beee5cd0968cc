"""Autoregressive models."""

from types import ModuleType

import torch
from torch import Tensor

from flowcourse.bijector import Bijector
from flowcourse.catalog.table import Preset, Topic, perturbed
from flowcourse.chain_rule import AutoregressiveModel

__all__ = ["TOPICS"]


def _made(m: ModuleType) -> dict[str, tuple[Bijector, Tensor]]:
    small = dict(hidden=[24, 24], order="random")
    return {
        "gaussian made": (perturbed(m.build((2,), None, hidden=[24])), torch.randn(6, 2)),
        "gaussian made, random order": (perturbed(m.build((5,), None, **small)), torch.randn(6, 5)),
    }


def _made_models(m: ModuleType) -> dict[str, AutoregressiveModel]:
    several = m.build((4,), 3, masks=3, order="random", degrees="random", hidden=[24, 24])
    return {
        "one layer": perturbed(m.MADE((4,), 3, hidden=[24])),
        "another order": perturbed(m.MADE((4,), 3, [[2, 0, 3, 1]], hidden=[24, 24])),
        "direct links, few units": perturbed(m.MADE((4,), 3, hidden=[2], direct=True)),
        "no hidden layer": perturbed(m.MADE((1, 2, 3), 2, hidden=[])),
        "one-hot codes of an image": perturbed(m.MADE((3, 1, 1), 5, None, "one_hot", hidden=[24])),
        "member of a mixture": perturbed(several).made.member(2),
    }


# Chosen on digits by training on the first 1,200 images and validating on the next 300.
_MADE = dict(hidden=[500], dropout=0.5)
_MADE_ORDERS = dict(hidden=[500], dropout=0.1, order="random")
_MADE_TRAINING = dict(
    steps=2000, batch_size=128, learning_rate=2e-3, weight_decay=0.1, warmup_steps=100
)
_MADE_SLOW = _MADE_TRAINING | dict(steps=2500, learning_rate=1e-3, weight_decay=0.2)


def _pixelrnn(m: ModuleType) -> dict[str, AutoregressiveModel]:
    small = dict(layers=2, hidden=12, head=24, kernel=3)
    return {
        "diagonal bilstm": m.build((1, 2, 3), 3, **small),
        "diagonal bilstm, tall": m.build((1, 3, 2), 3, **small),
        "diagonal bilstm, colours": m.build((3, 1, 2), 3, **small),
        # So small that the triangle leaves nothing out.
        "row lstm": m.build((1, 3, 2), 3, kind="row", **small),
        "row lstm, colours": m.build((2, 2, 2), 2, kind="row", **small),
    }


# Chosen on digits by training on the first 1,200 images and validating on the next 300.
_PIXELRNN = dict(
    steps=1000,
    batch_size=64,
    micro_batches=1,
    learning_rate=3e-3,
    weight_decay=0.05,
    warmup_steps=100,
    ema=0.998,
)


def _nade(m: ModuleType) -> dict[str, AutoregressiveModel]:
    def in_order(network: str, levels: int, order: list[int]) -> AutoregressiveModel:
        ensemble = m.build((1, 2, 2), levels, network=network, hidden=8, depth=1)
        return perturbed(ensemble.model.in_order(order), scale=0.5)

    return {
        "binary": perturbed(m.build((5,), 2, hidden=6), scale=0.5),
        "17 levels": perturbed(m.build((1, 1, 2), 17, hidden=6), scale=0.5),
        "colour": perturbed(m.build((3, 1, 2), 3, hidden=6), scale=0.5),
        "another order": perturbed(m.NADE((4,), 3, hidden=6, order=[2, 0, 3, 1]), scale=0.5),
        "deep": in_order("deep", 3, [0, 1, 2, 3]),
        "deep, another order": in_order("deep", 2, [2, 0, 3, 1]),
        "convolutional": in_order("conv", 3, [3, 1, 2, 0]),
    }


# Chosen by training on the first 1,200 images and validating on the next 300.
_NADE = dict(batch_size=100, micro_batches=1, warmup_steps=50)
_DEEP = dict(network="deep", hidden=256, depth=2, dropout=0.1)


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


# Sizes and dropout chosen on digits by training on the first 1,200 images and validating on the
# next 300; turned images only together with shifts, and the numbers of steps not at all.
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
        name="nade",
        part="autoregressive",
        title="NADE: the chain rule, in one order and in all",
        summary="Exact probabilities one dimension at a time, with shared weights, in any order",
        paper="uria2016neural",
        small_models=_nade,
        presets={
            "laptop": Preset(
                data="digits",
                model=dict(hidden=200, dropout=0.5),
                training=_NADE | dict(steps=900, learning_rate=0.03, weight_decay=0.3),
            ),
            "binary": Preset(
                data="binary_digits",
                model=dict(hidden=200, dropout=0.1),
                training=_NADE | dict(steps=1000, learning_rate=0.03, weight_decay=0.1),
            ),
            "deep": Preset(
                data="binary_digits",
                model=dict(_DEEP),
                training=_NADE | dict(steps=10_000, learning_rate=2e-3, weight_decay=0.01),
            ),
            "ensemble": Preset(
                data="binary_digits",
                model=_DEEP | dict(orders=16),
                training=_NADE | dict(steps=10_000, learning_rate=2e-3, weight_decay=0.01),
            ),
            "conv": Preset(
                data="binary_digits",
                model=dict(network="conv", hidden=24, depth=3, dropout=0.05),
                training=_NADE | dict(steps=4000, learning_rate=5e-3, weight_decay=0.01),
            ),
            # Larochelle & Murray (2011): 500 sigmoid units, on MNIST in black and white.
            "paper": Preset(
                data="binary_mnist",
                model=dict(network="nade", hidden=500),
                training=dict(steps=100_000, batch_size=100, learning_rate=1e-3, validation=10_000),
            ),
        },
        paper_parameters=785_284,
    ),
    Topic(
        name="made",
        part="autoregressive",
        title="MADE: an autoencoder that may not look ahead",
        summary="All conditionals from one pass through a dense network with masked weights",
        paper="germain2015made",
        small=_made,
        small_models=_made_models,
        presets={
            "laptop": Preset(data="digits", model=dict(_MADE), training=dict(_MADE_SLOW)),
            "no_direct": Preset(
                data="digits", model=_MADE | dict(direct=False), training=dict(_MADE_SLOW)
            ),
            "orders": Preset(
                data="digits", model=_MADE_ORDERS | dict(masks=8), training=dict(_MADE_TRAINING)
            ),
            "binary": Preset(
                data="binary_digits",
                model=dict(_MADE),
                training=_MADE_TRAINING | dict(steps=1500),
            ),
            "binary_orders": Preset(
                data="binary_digits",
                model=_MADE_ORDERS | dict(masks=16),
                training=_MADE_TRAINING | dict(steps=2500),
            ),
            # Without a hidden layer, direct links are all there is: logistic regressions.
            "binary_logistic": Preset(
                data="binary_digits",
                model=dict(hidden=[]),
                training=_MADE_TRAINING | dict(steps=1000, learning_rate=1e-2, weight_decay=0.2),
            ),
            # Germain et al. (2015) and the command released with the paper's code: there Adagrad
            # until 30 epochs bring no progress, and another binarization.
            "paper": Preset(
                data="binary_mnist",
                model=dict(hidden=[8000, 8000], masks=32, order="random", degrees="random"),
                training=dict(
                    steps=300 * 500, batch_size=100, learning_rate=1e-3, validation=10_000
                ),
            ),
        },
    ),
    Topic(
        name="pixelrnn",
        part="autoregressive",
        title="PixelRNN: an LSTM over an image",
        summary="Row LSTM and Diagonal BiLSTM, which read an image row by row or along diagonals",
        paper="vandenoord2016pixel",
        small_models=_pixelrnn,
        presets={
            "laptop": Preset(
                data="digits",
                model=dict(layers=2, hidden=32, head=64, dropout=0.4),
                training=dict(_PIXELRNN),
            ),
            "row": Preset(
                data="digits",
                model=dict(kind="row", layers=2, hidden=32, head=64, dropout=0.4),
                training=dict(_PIXELRNN),
            ),
            # Van den Oord et al. (2016), sections 5.2, 5.4 and 5.6: CIFAR-10, 12 layers.
            "paper": Preset(
                data="cifar10",
                model=dict(layers=12, hidden=128, head=1024),
                # The paper used RMSProp, and gives no length: here a hundred epochs.
                training=dict(steps=280_000, batch_size=16, learning_rate=1e-3, validation=5_000),
            ),
        },
    ),
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
