"""Samples of a run, as numbers and as a picture beside the data that it learned from."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from flowcourse.training.context import context_for
from flowcourse.training.randomness import SAMPLE, derive, private_randomness

if TYPE_CHECKING:
    from flowcourse.data import Dataset

__all__ = ["save_samples"]


def save_samples(
    model: nn.Module,
    data: "Dataset",
    folder: str | Path,
    n: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    name: str = "samples",
) -> list[Path]:
    """Write `NAME.npy`, and `NAME.png` where the data are images or points of the plane.

    Args:
        model: in evaluation mode, with `sample(n, temperature=...)`; a conditional one draws under
            the labels or the conditions of the first test data.
        data: shown beside the samples; its test part.
        folder: where the files go.
        n: number of samples.
        temperature: scales the latent before it is mapped to data.
        seed: of the samples; the caller's random state is put back.
        name: of the files, without their ending; may begin with a folder.

    Returns:
        The files that were written.
    """
    folder = Path(folder)
    with private_randomness():
        torch.manual_seed(derive(SAMPLE, seed))
        context = context_for(model, data, "test")
        device = next(model.parameters()).device
        more = {}
        if context is not None:
            context = context[torch.arange(n) % len(context)]
            more = {"context": context.to(device)}
        samples = model.sample(n, temperature=temperature, **more).cpu()  # type: ignore[operator]
    numbers, picture = folder / f"{name}.npy", folder / f"{name}.png"
    numbers.parent.mkdir(parents=True, exist_ok=True)
    np.save(numbers, samples.numpy(), allow_pickle=False)
    written = [numbers]
    if len(data.event_shape) == 3:
        pictures = {
            f"{data.name}: test data": data.test[:n],
            f"samples, temperature {temperature:g}": samples,
        }
        if context is not None and context.ndim == 4:
            pictures = {"conditions": context, **pictures}
        _draw_images(pictures, data.levels, picture)
        written.append(picture)
    elif data.event_shape == (2,):
        _draw_points(model, data, samples, temperature, picture)
        written.append(picture)
    return written


def _draw_images(pictures: dict[str, Tensor], levels: int | None, path: Path) -> None:
    from matplotlib.figure import Figure

    from flowcourse.plot import show_images

    figure = Figure(figsize=(4.5 * len(pictures), 4.8), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(pictures))
    for ax, (title, images) in zip(axes, pictures.items(), strict=True):
        show_images(images, ax, levels=levels)
        ax.set_title(title)
    figure.savefig(path)


def _draw_points(
    model: nn.Module, data: "Dataset", samples: Tensor, temperature: float, path: Path
) -> None:
    from matplotlib.figure import Figure

    from flowcourse.plot import plot_density, plot_samples

    real = data.test[: len(samples)]
    low, high = data.test.amin(0), data.test.amax(0)
    margin = 0.1 * (high - low)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    figure = Figure(figsize=(11, 4), dpi=150, layout="constrained")
    axes = figure.subplots(1, 3)
    plot_samples(real, axes[0])
    plot_samples(samples, axes[1])
    plot_density(model, axes[2], bounds=(left, right, bottom, top))
    titles = (f"{data.name}: test data", f"samples, temperature {temperature:g}", "density")
    for ax, title in zip(axes, titles, strict=True):
        ax.set(title=title, xlim=(left, right), ylim=(bottom, top))
    figure.savefig(path)
