"""How to train: every choice that the loop makes, checked when it is written down."""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from flowcourse.training.errors import RunError

__all__ = ["EXECUTION", "TrainingConfig", "learning_rate"]

SCHEDULES = ("constant", "cosine", "one_cycle")
# Float16 is left out: its loss scaler would be one more state to save, and bfloat16 needs none.
PRECISIONS = ("32-true", "64-true", "bf16-mixed")
ACCELERATORS = ("auto", "cpu", "cuda", "mps")
# How and where a run is executed, and how often it reports. These change no weight, up to rounding,
# so a run may be continued with other values.
EXECUTION = frozenset(
    {"accelerator", "devices", "recompute", "channels_last", "compile"}
    | {"checkpoint_every", "log_every", "sample_every"}
)


@dataclass(frozen=True)
class TrainingConfig:
    """Options of `flowcourse.training.train`; steps count parameter updates from 0.

    Attributes:
        steps: number of parameter updates.
        batch_size: examples per update, over all processes.
        micro_batches: parts into which every batch is cut, each with its own noise and dropout.
            Processes share them out, so that the losses do not depend on how many there are. Their
            gradients are accumulated: only one micro-batch at a time is in a device's memory.
        learning_rate: its largest value, see `schedule`.
        weight_decay: of AdamW, on all parameters.
        schedule: `constant`, `cosine` (down to 0) or `one_cycle` (up, then down, by cosines).
        warmup_steps: updates over which the rate rises linearly; `one_cycle` has its own rise.
        clip_norm: largest Euclidean norm of the gradient of the loss in nats; None for no limit.
        ema: decay of the exponential moving average of the weights; 0 for none.
        precision: `32-true`, `64-true` or `bf16-mixed`.
        accelerator: `auto`, `cpu`, `cuda` or `mps`.
        devices: processes to start; ignored under `torchrun`, which has started them.
        recompute: keep only the inputs of a flow's steps for the backward pass and compute the rest
            again (activation checkpointing): less memory, more time.
        channels_last: lay images out in memory channel by channel of each pixel, which suits
            the convolutions of recent GPUs.
        compile: compile a flow's steps, or another model as a whole, with `torch.compile`: slower
            to start, faster afterwards.
        seed: of the initial weights, the order of the examples, dropout and dequantization noise.
        validation: how many of the last training examples are held out; 0 trains on all.
        validate_every: updates between validations.
        patience: validations without a new best after which training stops; None for never.
        checkpoint_every: updates between checkpoints.
        log_every: updates between lines of `metrics.csv`.
        sample_every: updates between pictures of samples in the run's folder; 0 for none.

    Raises:
        RunError: a value makes no sense; the message says what is expected.
    """

    steps: int
    batch_size: int = 128
    micro_batches: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup_steps: int = 0
    clip_norm: float | None = 100.0
    ema: float = 0.999
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    recompute: bool = False
    channels_last: bool = False
    compile: bool = False
    seed: int = 0
    validation: int = 0
    validate_every: int = 100
    patience: int | None = None
    checkpoint_every: int = 200
    log_every: int = 10
    sample_every: int = 0

    def __post_init__(self):
        for name, (holds, expected) in _RULES.items():
            value = getattr(self, name)
            if not holds(value):
                raise RunError(f"{name} should be {expected} and is {value!r}.")
        if self.batch_size % self.micro_batches:
            raise RunError(
                f"batch_size={self.batch_size} cannot be cut into micro_batches="
                f"{self.micro_batches} equal parts: choose a multiple."
            )
        if self.schedule == "one_cycle" and self.warmup_steps:
            raise RunError(
                f"schedule='one_cycle' has its own rise, and warmup_steps={self.warmup_steps} asks "
                "for another: set warmup_steps=0, or schedule='cosine'."
            )
        if self.patience is not None and not self.validation:
            raise RunError(
                f"patience={self.patience} needs held-out examples and validation=0 holds out "
                "none: set validation to a number of examples, or patience to None."
            )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "TrainingConfig":
        """Build from a mapping; an unknown name raises RunError with the nearest known one."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
                raise RunError(f"There is no training option {name!r}: {hint}")
        if "steps" not in options:
            raise RunError("The training options do not say how many steps: add steps=...")
        return cls(**options)

    def identity(self) -> dict[str, Any]:
        """The options that decide the weights: all but where and how often (`EXECUTION`)."""
        return {name: value for name, value in asdict(self).items() if name not in EXECUTION}


def learning_rate(step: int, config: TrainingConfig) -> float:
    r"""The learning rate of update number `step` (from 0): a formula, so there is no state to save.

    `one_cycle` is the two-phase cosine policy of `torch.optim.lr_scheduler.OneCycleLR` with its
    default settings.

    Source: Loshchilov & Hutter (2017), eq. 5, with one period; Smith & Topin (2018).
    """
    peak, last = config.learning_rate, config.steps - 1
    if config.schedule == "one_cycle":
        rise = max(0.3 * config.steps - 1, 1.0)
        if step <= rise:
            return _cosine(peak / 25, peak, step / rise)
        return _cosine(peak, peak / 25e4, (step - rise) / max(last - rise, 1.0))
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return peak
    return _cosine(peak, 0.0, (step - config.warmup_steps) / (config.steps - config.warmup_steps))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _integer(at_least: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= at_least


def _number(holds: Callable[[float], bool]) -> Callable[[Any], bool]:
    return lambda v: (
        isinstance(v, int | float)
        and not isinstance(v, bool)
        and math.isfinite(v)
        and holds(float(v))
    )


def _optional(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: v is None or rule(v)


def _one_of(*choices: str) -> tuple[Callable[[Any], bool], str]:
    return lambda v: v in choices, f"one of {', '.join(choices)}"


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{
        name: (_integer(1), "a whole number, 1 or more")
        for name in (
            "steps",
            "batch_size",
            "micro_batches",
            "devices",
            "validate_every",
            "checkpoint_every",
            "log_every",
        )
    },
    **{
        name: (_integer(0), "a whole number, 0 or more")
        for name in ("warmup_steps", "seed", "validation", "sample_every")
    },
    **{
        name: (lambda v: isinstance(v, bool), "true or false")
        for name in ("recompute", "channels_last", "compile")
    },
    "patience": (_optional(_integer(1)), "a whole number, 1 or more, or None"),
    "learning_rate": (_number(lambda v: v > 0), "a positive number"),
    "weight_decay": (_number(lambda v: v >= 0), "a number, 0 or more"),
    "clip_norm": (_optional(_number(lambda v: v > 0)), "a positive number, or None"),
    "ema": (_number(lambda v: 0 <= v < 1), "a number from 0 up to, but not including, 1"),
    "schedule": _one_of(*SCHEDULES),
    "precision": _one_of(*PRECISIONS),
    "accelerator": _one_of(*ACCELERATORS),
}
