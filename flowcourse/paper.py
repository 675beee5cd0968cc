"""The paper's setting from inside a chapter: shown on any machine, trained where there is a GPU.

>>> paper_run("nice")  # doctest: +ELLIPSIS
NICE: additive coupling, preset 'paper'
  data        mnist, examples of shape (1, 28, 28), 256 levels
...
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flowcourse import catalog, data
from flowcourse.training import Evaluation, context_for, evaluate, runs, train

__all__ = ["paper_run", "wants_gpu"]

SWITCH = "FLOWCOURSE_GPU"


def wants_gpu() -> bool:
    """Whether a CUDA device is there and the reader asked to use it, with `FLOWCOURSE_GPU=1`."""
    return torch.cuda.is_available() and os.environ.get(SWITCH) == "1"


def paper_run(
    topic: str,
    preset: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    training: bool | None = None,
    runs_folder: str | Path = "runs",
) -> Evaluation | None:
    """Show a preset of a topic and, if asked, train and evaluate it.

    The model is first built on torch's `meta` device, which holds no numbers: that shows its size
    on any machine.

    Args:
        topic: name in the catalog.
        preset: name of one of its presets; None for the (first) one of the paper.
        options: changes to the preset, as `flowcourse train --set` takes them.
        training: whether to train; None trains if `wants_gpu`.
        runs_folder: where the run is saved, in a folder of its own.

    Returns:
        The evaluation on the test set, or None if nothing was trained.

    Raises:
        RunError: there is no such topic, preset or option.
        DataError: the data set cannot be had.
    """
    options = dict(options or {})
    entry = catalog.topic(topic)
    preset = entry.paper_preset if preset is None else preset
    plan = runs.plan(topic, preset, options=options)
    shape = data.summary(plan.data, **plan.data_options)
    with torch.device("meta"):
        model = runs.build(plan.description(), shape, plan.config.seed)
    parameters = sum(p.numel() for p in model.parameters())
    settings = entry.preset(preset).training
    levels = "continuous" if shape.levels is None else f"{shape.levels} levels"
    lines = [
        f"{entry.title}, preset {preset!r}",
        f"  data        {plan.data}, examples of shape {shape.event_shape}, {levels}",
        f"  model       {_named(plan.model)}",
        f"  training    {_named({name: getattr(plan.config, name) for name in settings})}",
        f"  parameters  {parameters:,}",
    ]
    if entry.paper_parameters is not None and preset == entry.paper_preset:
        lines[-1] += f" (expected of the paper's model: {entry.paper_parameters:,})"
    print("\n".join(lines))

    if not (wants_gpu() if training is None else training):
        there = "A CUDA device is here." if torch.cuda.is_available() else "No CUDA device here."
        fetch = " --set data.download=true" if plan.data in data.ONLINE else ""
        fetch = " --set data.folder=FOLDER" if plan.data in data.LOCAL else fetch
        print(
            f"{there} Nothing was trained: set {SWITCH}=1 on a machine with a GPU, or run there\n"
            f"  flowcourse train {topic} --preset {preset} --data {plan.data} --device cuda"
            f"{fetch}\n"
            f"  flowcourse evaluate runs/{plan.name}"
        )
        return None

    if plan.data in data.ONLINE:
        options["data.download"] = True
    plan = runs.plan(topic, preset, options=options)
    description = {**plan.description(), "command": f"paper_run({topic!r}, {preset!r})"}
    dataset = runs.load_data(description)
    model = runs.build(description, dataset, plan.config.seed)
    folder = Path(runs_folder) / plan.name
    result = train(model, dataset, plan.config, folder, description=description)
    context = context_for(result.model, dataset, "test")
    found = evaluate(result.model, dataset.test, context=context)
    print(f"{result.steps} steps in {result.seconds:.0f} s, saved in {folder}.")
    value, error, unit = found.bits_per_dim, found.standard_error, "bits/dim"
    if value is None:
        value, error, unit = found.nats, found.standard_error_nats, "nats"
    print(f"test: {value:.4f} ± {error:.4f} {unit} ({found.kind})")
    if found.bits_per_dim_iw is not None:
        print(f"      {found.bits_per_dim_iw:.4f} with {found.draws} importance-weighted draws")
    return found


def _named(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items()) or "its defaults"
