"""Autoregressive models."""

from types import ModuleType

from flowcourse.catalog.table import Preset, Topic
from flowcourse.chain_rule import AutoregressiveModel

__all__ = ["TOPICS"]


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

TOPICS: tuple[Topic, ...] = (
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
)
