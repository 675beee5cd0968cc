"""The picture of the README: a RealNVP carries a Gaussian to two moons, layer by layer.

python -m benchmarks.readme_figure      train for about a minute, write book/_static/readme.png
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from flowcourse import Compose, Flow, data
from flowcourse.coupling import realnvp
from flowcourse.plot import plot_density, use_style

__all__ = ["draw", "fit", "stages"]

FIGURE = Path(__file__).resolve().parent.parent / "book" / "_static" / "readme.png"
COUPLINGS = 8


def fit(steps: int = 2000, batch: int = 512) -> Flow:
    """Train a small RealNVP on two moons by maximum likelihood."""
    moons = data.load("moons", n=20_000).train
    flow = realnvp.build((2,), None, couplings=COUPLINGS, hidden=64, blocks=2, batch_norm=False)
    assert isinstance(flow, Flow)  # and no bound: the points are continuous
    optimizer = torch.optim.AdamW(flow.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = moons[torch.randint(len(moons), (batch,))]
        loss_nats = -flow(x).mean()
        optimizer.zero_grad()
        loss_nats.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return flow.eval()


@torch.no_grad()
def stages(flow: Flow, n: int) -> list[Tensor]:
    """Samples of the base, and where they are after each layer on the way to the data."""
    points = [flow.base.rsample((n,))]
    assert isinstance(flow.bijector, Compose)
    for layer in reversed(flow.bijector):
        points.append(layer.inverse(points[-1])[0])
    return points


def draw(flow: Flow, path: Path) -> None:
    """Draw the samples at every second layer, coloured by their angle in the base; the density."""
    shown = stages(flow, 2000)[::2]
    turn = torch.atan2(shown[0][:, 1], shown[0][:, 0]) / (2 * torch.pi) + 0.5
    use_style()
    figure, axes = plt.subplots(1, len(shown) + 1, figsize=(12, 2.3))
    for k, (ax, points) in enumerate(zip(axes, shown, strict=False)):
        ax.scatter(*points.T, c=0.85 * plt.get_cmap("hsv")(turn.numpy())[:, :3], s=3, linewidths=0)
        # Between the base and the data the samples wander off: follow all but the outermost.
        centre = points.median(dim=0).values
        (x, y), reach = centre.tolist(), (points - centre).abs().quantile(0.999).item()
        ax.set(xlim=(x - reach, x + reach), ylim=(y - reach, y + reach), aspect="equal")
        ax.set_title(f"after {2 * k} couplings" if k else "a Gaussian ...")
    plot_density(flow, axes[-1], bounds=(-2.5, 2.5, -2.5, 2.5))
    axes[-1].set_title("and its exact density")
    for ax in axes:
        ax.set_axis_off()
    figure.savefig(path, dpi=110)


def main() -> int:
    """Train, draw and save."""
    torch.manual_seed(0)
    draw(fit(), FIGURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
