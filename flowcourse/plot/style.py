"""One matplotlib style for the whole book, readable with any kind of colour vision."""

import matplotlib as mpl
from cycler import cycler

__all__ = ["COLORS", "use_style"]

# Okabe & Ito's palette, in an order whose neighbours differ in lightness as well as in hue.
COLORS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "grey": "#6B6B6B",
}


def use_style() -> None:
    """Set matplotlib's defaults to the book's style; call it once, in a page's first cell."""
    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.8),
            "figure.dpi": 130,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 130,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.prop_cycle": cycler(color=list(COLORS.values())),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.grid": False,
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.8,
            "legend.frameon": False,
            "image.cmap": "viridis",
            "image.interpolation": "nearest",
        }
    )
