"""Runs: what to train, where it is kept, and how a saved one becomes a model again.

A run folder holds

    run.json             what was trained, on what, how, by which command and versions
    metrics.csv          the losses along the way
    checkpoint/          what continuing needs: weights, averages, optimizer, history
    samples/             pictures of samples along the way, with `sample_every`
    model.safetensors    the final weights, written when training ends
    evaluation.json, samples.png, samples.npy     from `flowcourse evaluate` and `sample`

`run.json` and `model.safetensors` alone are a complete saved model.
"""

import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from flowcourse.training.config import EXECUTION, TrainingConfig
from flowcourse.training.errors import RunError
from flowcourse.training.randomness import INITIALIZE, derive, private_randomness
from flowcourse.training.storage import read_json, read_tensors

if TYPE_CHECKING:
    from flowcourse.data import Dataset

__all__ = ["Plan", "build", "clear", "differences", "load", "load_data", "plan", "read_run"]
__all__ += ["versions"]

WEIGHTS = "model.safetensors"
SAMPLES = "samples"
EVALUATED = ("evaluation.json", "samples.png", "samples.npy")


@dataclass(frozen=True)
class Plan:
    """A run before it starts: names and options only, so it can be written down and compared.

    Attributes:
        topic: name in the catalog.
        preset: name of one of the topic's presets.
        data: name of the data set.
        data_options: options of `flowcourse.data.load`.
        model: options of the topic's `build`, besides shape and levels.
        config: how to train.
    """

    topic: str
    preset: str
    data: str
    data_options: dict[str, Any]
    model: dict[str, Any]
    config: TrainingConfig

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return f"{self.topic}-{self.preset}-{self.data}-seed{self.config.seed}"

    def description(self) -> dict[str, Any]:
        """What `run.json` says about the model and the data."""
        return {
            "topic": self.topic,
            "preset": self.preset,
            "data": {"name": self.data, "options": self.data_options},
            "model": self.model,
        }


def plan(
    topic: str,
    preset: str = "laptop",
    *,
    data: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """Start from a topic's preset and apply changes.

    Args:
        topic: name in the catalog.
        preset: name of one of its presets.
        data: another data set than the preset's.
        options: by name: a training option (`steps`), `model.NAME` or `data.NAME`.

    Raises:
        RunError: there is no such topic, preset or option, or a value makes no sense.
    """
    from flowcourse import catalog

    try:
        chosen = catalog.topic(topic).preset(preset)
    except KeyError as error:
        raise RunError(error.args[0]) from error
    changes: dict[str, dict[str, Any]] = {"": {}, "model": {}, "data": {}}
    for name, value in (options or {}).items():
        group, _, key = name.rpartition(".")
        if group not in changes:
            raise RunError(
                f"There is no group of options {group!r} in {name!r}: write a training option by "
                "its name, and others as model.NAME or data.NAME."
            )
        changes[group][key] = value
    # Another data set has other options than the preset's.
    data_options = chosen.data_options if data in (None, chosen.data) else {}
    return Plan(
        topic=topic,
        preset=preset,
        data=data or chosen.data,
        data_options={**data_options, **changes["data"]},
        model={**chosen.model, **changes["model"]},
        config=TrainingConfig.from_options({**chosen.training, **changes[""]}),
    )


def build(description: Mapping[str, Any], data: Any, seed: int) -> nn.Module:
    """Build the model of a run, with the initial weights that its seed gives.

    Args:
        description: with the keys `topic` and `model`, as in `run.json`.
        data: anything with `event_shape` and `levels`: a data set, or `run.json`'s own.
        seed: of the initial weights; the caller's random state is left as it was.
    """
    from flowcourse import catalog

    topic = catalog.topic(description["topic"])
    with private_randomness():
        torch.manual_seed(derive(INITIALIZE, seed))
        try:
            return topic.build(tuple(data.event_shape), data.levels, **description["model"])
        except (TypeError, ValueError, KeyError) as error:
            raise RunError(
                f"{topic.module}.build does not accept data of shape {tuple(data.event_shape)} "
                f"with the options {description['model']}: {error}"
            ) from error


def load_data(description: Mapping[str, Any]) -> "Dataset":
    """The data set of a run; RunError if it has no such name or option."""
    from flowcourse import data

    try:
        return data.load(description["data"]["name"], **description["data"]["options"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(str(error)) from error


@dataclass(frozen=True)
class _Shape:
    event_shape: tuple[int, ...]
    levels: int | None


def read_run(path: str | Path) -> dict[str, Any]:
    """Read `run.json` of a run folder; RunError names what is missing or damaged."""
    folder = Path(path)
    run = read_json(folder / "run.json")
    missing = {"topic", "model", "data", "event_shape", "levels", "training"} - set(run)
    if missing:
        raise RunError(
            f"{folder / 'run.json'} lacks {', '.join(sorted(missing))}, so the model cannot be "
            "rebuilt: only runs of a catalog topic can, such as those of `flowcourse train`."
        )
    return run


def load(path: str | Path) -> nn.Module:
    """Bring a saved run back as a model in evaluation mode, on the CPU, with its averaged weights.

    Args:
        path: a run folder, or any folder with its `run.json` and `model.safetensors`.

    Raises:
        RunError: a file is missing, damaged, or does not fit this version of the model.
    """
    folder = Path(path)
    run = read_run(folder)
    if (folder / "checkpoint").exists() and not (folder / WEIGHTS).exists():
        raise RunError(
            f"Training of {folder} has not ended, so there is no model yet: continue it with "
            f"`{run.get('command') or 'the command that started it'}`."
        )
    weights = read_tensors(folder / WEIGHTS)
    model = build(run, _Shape(tuple(run["event_shape"]), run["levels"]), run["training"]["seed"])
    if run["training"]["precision"] == "64-true":
        model.double()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(
            f"The weights in {folder / WEIGHTS} do not fit the model that {run['topic']} builds "
            f"here; they were saved by flowcourse {run['versions']['flowcourse']}. {error}"
        ) from error
    return model.eval()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What distinguishes two descriptions of a run, leaving out how and where it was executed."""

    def flat(run: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: run.get(key) for key in ("topic", "preset", "event_shape", "levels")}
        data = run.get("data") or {}
        for group, options in (
            ("data.", {"name": data.get("name"), **data.get("options", {})}),
            ("model.", run.get("model") or {}),
            ("", {k: v for k, v in run["training"].items() if k not in EXECUTION}),
        ):
            kept.update({group + key: value for key, value in options.items()})
        return json.loads(json.dumps(kept))

    before, after = flat(old), flat(new)
    return [
        f"{key}: {before.get(key)!r} there, {after.get(key)!r} here"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def clear(folder: Path) -> None:
    """Remove what a run has written into its folder, and nothing else."""
    for name in ("checkpoint", SAMPLES):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (WEIGHTS, "run.json", "metrics.csv", *EVALUATED):
        (folder / name).unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """The versions that a number depends on."""
    import flowcourse

    packages = ("torch", "lightning-fabric", "numpy")
    return {
        "flowcourse": flowcourse.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
