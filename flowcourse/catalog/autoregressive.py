"""Autoregressive models."""

from types import ModuleType

from flowcourse.catalog.table import Preset, Topic, perturbed
from flowcourse.chain_rule import AutoregressiveModel

__all__ = ["TOPICS"]


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
)
