"""Samples of a run, as numbers and as a picture beside the data that it learned from."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from flowcourse.training.labels import labels_for
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
        model: in evaluation mode, with `sample(n, temperature=...)`; a class-conditional one draws
            the classes of the first test data.
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
        labels = labels_for(model, data.test_labels)
        device = next(model.parameters()).device
        more = (
            {} if labels is None else {"context": labels[torch.arange(n) % len(labels)].to(device)}
        )
        samples = model.sample(n, temperature=temperature, **more).cpu()  # type: ignore[operator]
    numbers, picture = folder / f"{name}.npy", folder / f"{name}.png"
    numbers.parent.mkdir(parents=True, exist_ok=True)
    np.save(numbers, samples.numpy(), allow_pickle=False)
    written = [numbers]
    if len(data.event_shape) == 3 or data.event_shape == (2,):
        draw = _draw_points if data.event_shape == (2,) else _draw_images
        draw(model, data, samples, temperature, picture)
        written.append(picture)
    return written


def _draw_images(
    model: nn.Module, data: "Dataset", samples: Tensor, temperature: float, path: Path
) -> None:
    from matplotlib.figure import Figure

    from flowcourse.plot import show_images

    figure = Figure(figsize=(9, 4.8), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    show_images(data.test[: len(samples)], left, levels=data.levels)
    show_images(samples, right, levels=data.levels)
    left.set_title(f"{data.name}: test data")
    right.set_title(f"samples, temperature {temperature:g}")
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
