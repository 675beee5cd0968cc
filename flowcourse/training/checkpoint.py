"""What continuing a run needs, and moving it to the disk and back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowcourse.training import runs
from flowcourse.training.errors import RunError
from flowcourse.training.storage import read_checkpoint, read_json, write_checkpoint

__all__ = ["Groups", "State", "load_optimizer", "optimizer_tensors", "restore", "save"]

# Tensors by group (`model`, `ema`, `best`, `optimizer`) and by name.
Groups = Mapping[str, Mapping[str, Tensor]]


@dataclass
class State:
    """Where a run stands, apart from its tensors: plain values that go into JSON.

    Attributes:
        step: parameter updates done.
        history: one row for each line of `metrics.csv`.
        best: lowest validation loss so far, nats per example.
        stale: validations since `best`.
        seconds: time spent training, over all sessions.
        finished: whether training has ended, by its steps or by early stopping.
    """

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None
    stale: int = 0
    seconds: float = 0.0
    finished: bool = False


def save(folder: Path, state: State, groups: Groups) -> None:
    """Replace the checkpoint of a run, in one step."""
    tensors = {
        f"{group}.{name}": tensor
        for group, named in groups.items()
        for name, tensor in named.items()
    }
    write_checkpoint(folder / "checkpoint", asdict(state), tensors)


def restore(
    folder: Path, description: Mapping[str, Any]
) -> tuple[State, dict[str, dict[str, Tensor]]] | None:
    """The checkpoint of a run, or None where there is nothing to continue.

    Raises:
        RunError: the folder holds another run than the one described, or a model that was saved
            without what continuing needs.
    """
    saved = read_checkpoint(folder / "checkpoint")
    if saved is None:
        if (folder / runs.WEIGHTS).exists():
            raise RunError(
                f"{folder} holds a finished model and no checkpoint to continue from: write to "
                "another folder (--out), or delete it and start again (--no-resume)."
            )
        return None
    different = runs.differences(read_json(folder / "run.json"), description)
    if different:
        raise RunError(
            f"{folder} holds a run with another configuration:\n  "
            + "\n  ".join(different)
            + "\nContinue with the configuration that it was started with, write to another folder "
            "(--out), or delete it and start again (--no-resume)."
        )
    values, tensors = saved
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "best": {}, "optimizer": {}}
    for key, tensor in tensors.items():
        group, _, name = key.partition(".")
        groups[group][name] = tensor
    return State(**values), groups


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state by parameter and slot: `layer.weight/exp_avg`."""
    return {
        f"{name}/{slot}": value
        for name, parameter in model.named_parameters()
        for slot, value in optimizer.state[parameter].items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` took, on the devices of the parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    index = {name: (i, p) for i, (name, p) in enumerate(model.named_parameters())}
    for key, tensor in tensors.items():
        name, _, slot = key.rpartition("/")
        i, parameter = index[name]
        if tensor.shape == parameter.shape:
            # In the parameter's memory layout too, which a fused optimizer asks for.
            tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        state.setdefault(i, {})[slot] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
