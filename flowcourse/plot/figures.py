"""The pictures that many chapters share. None of them sets a seed or calls `plt.show()`."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from torch import Tensor, nn

from flowcourse.plot.style import COLORS

__all__ = ["plot_density", "plot_grid_warp", "plot_samples", "show_images"]

Bounds = tuple[float, float, float, float]
SQUARE: Bounds = (-3.0, 3.0, -3.0, 3.0)


def show_images(
    images: Shaped[Tensor, "n *event"],
    ax: Axes | None = None,
    *,
    columns: int | None = None,
    levels: int | None = None,
) -> Axes:
    """Show a batch of images as one grid, separated by thin white lines.

    Args:
        images: shape `(n, height, width)` or `(n, channels, height, width)`, 1 or 3 channels.
        ax: where to draw; the current axes if None.
        columns: images in a row; by default the grid is about square.
        levels: integers 0..levels-1 are shown from black to white; None means values in [0, 1].

    Raises:
        ValueError: the shape is not that of a batch of images.
    """
    if images.ndim == 3:
        images = images.unsqueeze(1)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(
            "show_images expects shape (n, height, width) or (n, 1 or 3, height, width) with n > 0 "
            f"and got {tuple(images.shape)}: reshape the batch first."
        )
    ax = plt.gca() if ax is None else ax
    n, channels, height, width = images.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    pixels = images.detach().cpu().to(torch.float32) / (1 if levels is None else levels - 1)
    gap = max(1, round(min(height, width) / 16))
    grid = torch.ones(channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for i, image in enumerate(pixels):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        grid[:, top : top + height, left : left + width] = image
    grid = grid.clamp(0, 1)
    if channels == 1:
        ax.imshow(grid[0].numpy(), cmap="gray", vmin=0, vmax=1)
    else:
        ax.imshow(grid.permute(1, 2, 0).numpy())
    ax.set_axis_off()
    return ax


def plot_samples(x: Float[Tensor, "n 2"], ax: Axes | None = None, **style: Any) -> Axes:
    """Scatter points of the plane with equal axes; `style` goes to matplotlib's scatter."""
    ax = plt.gca() if ax is None else ax
    points = x.detach().cpu().numpy()
    defaults: dict[str, Any] = {"s": 6, "alpha": 0.5, "linewidths": 0, "color": COLORS["orange"]}
    ax.scatter(points[:, 0], points[:, 1], **defaults | style)
    ax.set_aspect("equal")
    return ax


def plot_density(
    density: nn.Module | Callable[[Tensor], Tensor],
    ax: Axes | None = None,
    *,
    bounds: Bounds = SQUARE,
    points: int = 200,
) -> Axes:
    """Draw a density on the plane as filled contours.

    Args:
        density: a `Flow` (or anything with `log_prob`), or a function from `(n, 2)` to
            log-densities in nats, `(n,)`. A module is evaluated on its own device and in its own
            dtype.
        ax: where to draw; the current axes if None.
        bounds: left, right, bottom, top.
        points: grid points along each side.
    """
    ax = plt.gca() if ax is None else ax
    log_prob: Callable[[Tensor], Tensor] = getattr(density, "log_prob", density)  # type: ignore
    left, right, bottom, top = bounds
    horizontal, vertical = torch.linspace(left, right, points), torch.linspace(bottom, top, points)
    grid = torch.cartesian_prod(vertical, horizontal).flip(1)
    with torch.no_grad():
        p = log_prob(_like_parameters(grid, density)).exp().cpu().reshape(points, points).numpy()
    ax.contourf(horizontal.numpy(), vertical.numpy(), p, levels=24, cmap="Blues")
    ax.set_aspect("equal")
    return ax


def plot_grid_warp(
    bijector: nn.Module,
    ax: Axes | None = None,
    *,
    bounds: Bounds = SQUARE,
    lines: int = 21,
    inverse: bool = False,
) -> Axes:
    """Draw what a bijector of the plane does to a square grid.

    Vertical lines are blue and horizontal ones orange, each lighter towards its larger coordinate,
    so that a fold, a flip or a rotation can be read off.

    Args:
        bijector: maps `(n, 2)` to `(n, 2)`.
        ax: where to draw; the current axes if None.
        bounds: left, right, bottom, top of the grid before the map.
        lines: number of lines in each direction.
        inverse: draw the inverse map instead of the forward one.
    """
    ax = plt.gca() if ax is None else ax
    left, right, bottom, top = bounds
    along = torch.linspace(0, 1, 200)
    across = torch.linspace(0, 1, lines).unsqueeze(1).expand(lines, 200)
    along = along.expand(lines, 200)
    for u, v, cmap in ((across, along, "Blues"), (along, across, "Oranges")):
        points = torch.stack([left + (right - left) * u, bottom + (top - bottom) * v], dim=-1)
        batch = _like_parameters(points.reshape(-1, 2), bijector)
        with torch.no_grad():
            mapped, _ = bijector.inverse(batch) if inverse else bijector(batch)  # type: ignore
        curves = mapped.cpu().reshape(lines, 200, 2).numpy()
        shades = plt.get_cmap(cmap)(torch.linspace(0.95, 0.4, lines).numpy())
        ax.add_collection(LineCollection(list(curves), colors=shades, linewidths=1.1))
    ax.autoscale_view()
    ax.set_aspect("equal")
    return ax


def _like_parameters(x: Tensor, owner: object) -> Tensor:
    """Move points to the device and dtype that a module computes in."""
    if not isinstance(owner, nn.Module):
        return x
    for tensor in itertools.chain(owner.parameters(), owner.buffers()):
        if tensor.is_floating_point():
            return x.to(tensor)
    return x
