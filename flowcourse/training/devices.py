"""Which device, and how many processes."""

import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies import DDPStrategy

from flowcourse.training.config import TrainingConfig
from flowcourse.training.errors import RunError

__all__ = ["describe_device", "make_fabric", "pick_device", "share"]


class _Mixed(MixedPrecision):
    """Networks compute in bfloat16; data stay as they are: rounded, they have another density."""

    def convert_input(self, data):
        return data


def make_fabric(config: TrainingConfig) -> Fabric:
    """Set up Lightning Fabric for one process or many, under `torchrun` or on its own.

    Raises:
        RunError: the device is not there, or the processes cannot share the micro-batches.
    """
    device = pick_device(config.accelerator)
    world, local = config.devices, config.devices
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    share(config.micro_batches, world)
    # Buffers are kept alike by the loop itself; see `_Training._update`.
    strategy = "auto" if world == 1 else DDPStrategy(broadcast_buffers=False)
    mixed = config.precision == "bf16-mixed"
    return Fabric(
        accelerator=config.accelerator,
        devices=local,
        num_nodes=world // local,
        strategy=strategy,
        precision=None if mixed else config.precision,  # type: ignore[arg-type]
        plugins=[_Mixed("bf16-mixed", device.type)] if mixed else None,
    )


def share(micro_batches: int, processes: int) -> int:
    """How many micro-batches each process works on; RunError if they do not come out even."""
    if micro_batches % processes:
        raise RunError(
            f"{processes} processes cannot share micro_batches={micro_batches} equally: use a "
            "number of processes that divides it, or change micro_batches (another number gives "
            "other noise, so a new run)."
        )
    return micro_batches // processes


def pick_device(name: str) -> torch.device:
    """The device behind `auto`, `cpu`, `cuda` or `mps`; RunError if it is not there."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, here in there.items() if here))
    if not there[name]:
        kinds = ", ".join(kind for kind, here in there.items() if here)
        raise RunError(
            f"Device {name!r} was asked for and PyTorch {torch.__version__} sees only {kinds}: "
            "use --device auto, or install a build of PyTorch for that device "
            "(`flowcourse doctor` shows what there is)."
        )
    return torch.device(name)


def describe_device(fabric: Fabric) -> str:
    """The device in words, for records of wall time."""
    if fabric.device.type == "cuda":
        name = torch.cuda.get_device_name(fabric.device)
    elif fabric.device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    else:
        name = fabric.device.type
    return name if fabric.world_size == 1 else f"{fabric.world_size} x {name}"
