"""What a run would be, before it starts: layers, sizes, memory on each device, batches, rates.

Everything is built on torch's `meta` device: nothing is trained, no data are read, and devices that
are not here can be counted on.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flowcourse.training import runs
from flowcourse.training.config import TrainingConfig
from flowcourse.training.devices import share
from flowcourse.training.errors import RunError
from flowcourse.training.memory import activation_bytes, tensor_bytes
from flowcourse.training.runs import Plan
from flowcourse.training.steps import recompute_steps

if TYPE_CHECKING:
    from flowcourse.data import Summary

__all__ = ["dry_run", "layers", "memory", "schedule"]

LINES = 40  # of the list of layers


def dry_run(plan: Plan) -> str:
    """Describe a run in words and numbers.

    Raises:
        RunError: the data set has no such option, the model cannot be built for it, or the
            processes cannot share the micro-batches.
    """
    from flowcourse import data

    config = plan.config
    parts = share(config.micro_batches, config.devices)
    try:
        spec = data.summary(plan.data, **plan.data_options)
    except (TypeError, ValueError) as error:
        raise RunError(str(error)) from error
    with torch.device("meta"):
        model = runs.build(plan.description(), spec, config.seed)
    model = (model.double() if config.precision == "64-true" else model).train()
    size = config.batch_size // config.micro_batches
    trained = spec.examples - config.validation
    levels = "continuous" if spec.levels is None else f"{spec.levels} levels"
    epochs = config.steps * config.batch_size / trained
    devices = f"{config.devices} device{'s' if config.devices > 1 else ''}"
    return "\n".join(
        [
            f"{plan.topic}, preset {plan.preset!r}: nothing was trained.",
            "",
            f"Layers, with their numbers of parameters: {_count(model):,} in all",
            *(f"  {line}" for line in layers(model)),
            "",
            f"Memory on each of {devices}, {config.precision}, a micro-batch of {size}",
            *(f"  {line}" for line in _memory_lines(model, spec, config)),
            "",
            "Training",
            f"  batch     {config.batch_size} examples = {config.micro_batches} micro-batches of "
            f"{size}, {parts} on each device" + (", one after the other" if parts > 1 else ""),
            f"  length    {config.steps:,} updates, {epochs:,.1f} passes over the data",
            f"  rate      {schedule(config)}",
            f"  weights   AdamW, decay {config.weight_decay:g}, gradients clipped to norm "
            f"{config.clip_norm or math.inf:g}; averaged with decay {config.ema:g}",
            "",
            "Data",
            f"  {plan.data}: {spec.examples:,} training examples of shape {spec.event_shape}, "
            f"{levels}, {_size(spec.examples * math.prod(spec.event_shape))} as bytes"
            + (f", {config.validation:,} of them held out" if config.validation else ""),
            f"  {spec.origin}",
        ]
    )


# Layers


def layers(model: nn.Module, lines: int = LINES) -> list[str]:
    """A tree of modules with their numbers of parameters; what repeats is written once.

    It goes as deep as fits into `lines`.
    """
    depth = 1
    found = _tree(model, depth)
    while depth < 12 and len(deeper := _tree(model, depth + 1)) <= lines:
        depth, found = depth + 1, deeper
    width = max(len(text) for text, _ in found)
    return [f"{text:<{width}} {count:>13,}" for text, count in found]


def _tree(module: nn.Module, depth: int, indent: str = "", times: int = 1) -> list[tuple[str, int]]:
    name = f"{times} x {_label(module)}" if times > 1 else _label(module)
    count = times * _count(module)
    # A wrapper shares its line with what it wraps.
    while len(inside := _children(module)) == 1 and not [*module.parameters(recurse=False)]:
        (module,) = inside
        name += f" > {_label(module)}"
    found = [(indent + name, count)]
    if depth > 0:
        for repeated, block in _folded(inside):
            if len(block) == 1:
                found += _tree(block[0], depth - 1, indent + "  ", repeated)
            else:
                total = repeated * sum(map(_count, block))
                found.append((f"{indent}  {repeated} x these {len(block)}", total))
                for child in block:
                    found += _tree(child, depth - 1, indent + "    ")
    return found


def _children(module: nn.Module) -> list[nn.Module]:
    """Those that a reader of the model's code would name."""
    found: list[nn.Module] = []
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            found += _children(child)
        elif name != "parametrizations" and not isinstance(child, nn.Dropout | nn.Dropout2d):
            found.append(child)
    return found


def _folded(modules: Sequence[nn.Module]) -> list[tuple[int, Sequence[nn.Module]]]:
    """Cut a list into blocks, each with the number of times that it follows itself."""
    kinds = [_kind(m) for m in modules]
    found: list[tuple[int, Sequence[nn.Module]]] = []
    start = 0
    while start < len(modules):
        best, times = 1, 1
        for length in range(1, (len(modules) - start) // 2 + 1):
            block = kinds[start : start + length]
            n = 1
            while kinds[start + n * length : start + (n + 1) * length] == block:
                n += 1
            if n > 1 and n * length > best * times:
                best, times = length, n
        found.append((times, modules[start : start + best]))
        start += best * times
    return found


def _kind(module: nn.Module) -> Any:
    """What two modules have in common if one line may stand for both."""
    shapes = tuple((name, tuple(p.shape)) for name, p in module.named_parameters())
    # The name of its class, because weight normalization makes a new class for every layer.
    return type(module).__name__, shapes, tuple(map(_kind, module.children()))


def _label(module: nn.Module) -> str:
    name = type(module).__name__
    own = [
        f"{key.split('.')[-1]} {'x'.join(map(str, p.shape))}"
        for key, p in module.named_parameters()
        if "." not in key or key.startswith("parametrizations.")
    ]
    return f"{name} ({', '.join(own)})" if own else name


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# Memory


def memory(
    model: nn.Module, inputs: Sequence[Tensor], config: TrainingConfig
) -> dict[str, dict[str, int]]:
    """Bytes on each device by purpose, while it trains: as asked, and with `recompute` turned.

    Args:
        model: on `meta`, in training mode.
        inputs: one micro-batch, on `meta`.
        config: its `recompute` decides which of the two is called `as configured`.

    Returns:
        The entries `kept` and `recomputed`; each has `weights`, `gradients`, `optimizer`,
        `averages` and `activations`. A model without steps has `kept` alone.
    """
    weights = tensor_bytes([*model.parameters(), *model.buffers()])
    learned = tensor_bytes(p for p in model.parameters() if p.requires_grad)
    fixed = {
        "weights": weights,
        # Several processes send their gradients around in buckets: another copy.
        "gradients": learned * (2 if config.devices > 1 else 1),
        "optimizer": 2 * learned,
        # With validation, the best averages are kept too.
        "averages": weights * (2 if config.validation else 1),
    }
    found = {}
    for name, recompute in (("kept", False), ("recomputed", True)):
        try:
            recompute_steps(model, recompute)
        except RunError:  # it has no steps
            continue
        activations = activation_bytes(model, *inputs, precision=config.precision)
        found[name] = {**fixed, "activations": activations}
    return found


def _memory_lines(model: nn.Module, spec: "Summary", config: TrainingConfig) -> list[str]:
    size = config.batch_size // config.micro_batches
    dtype = torch.uint8 if spec.levels is not None else next(model.parameters()).dtype
    inputs = [torch.zeros(size, *spec.event_shape, dtype=dtype, device="meta")]
    if getattr(model, "class_conditional", False):
        inputs.append(torch.zeros(size, dtype=torch.int64, device="meta"))
    found = memory(model, inputs, config)
    kept = found["kept"]
    lines = [f"{name:<24}{_size(value):>9}" for name, value in kept.items()]
    lines.append(f"{'together, about':<24}{_size(sum(kept.values())):>9}")
    if "recomputed" in found:
        again = found["recomputed"]
        lines.append(
            f"{'with recompute=true':<24}{_size(sum(again.values())):>9}, of them "
            f"{_size(again['activations'])} of activations"
        )
        lines.append(f"This run has recompute={str(config.recompute).lower()}.")
    return lines


def _size(n: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.3g} {unit}" if n < 1000 else f"{n:.0f} {unit}"
        n /= 1024  # type: ignore[assignment]
    return f"{n:.1f} GiB"


# Learning rate


def schedule(config: TrainingConfig) -> str:
    """The learning rate over a run, in words.

    >>> schedule(TrainingConfig(steps=1000, warmup_steps=100))
    'rises to 0.001 in 100 updates, then falls to 0 along half a cosine'
    """
    peak = f"{config.learning_rate:g}"
    if config.schedule == "one_cycle":
        return f"rises along a cosine to {peak} in 30 % of the run, then falls to nearly 0"
    rest = "stays there" if config.schedule == "constant" else "falls to 0 along half a cosine"
    if config.warmup_steps:
        return f"rises to {peak} in {config.warmup_steps:,} updates, then {rest}"
    return f"is {peak} at first and {rest}"
