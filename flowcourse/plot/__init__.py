"""Figures and tables of the book: one style, a few helpers, every number read from a file."""

from flowcourse.plot.figures import plot_density, plot_grid_warp, plot_samples, show_images
from flowcourse.plot.style import COLORS, use_style
from flowcourse.plot.tables import (
    Table,
    measured,
    problem_set,
    reported,
    reported_table,
    results_table,
)

__all__ = [
    "COLORS",
    "Table",
    "measured",
    "plot_density",
    "plot_grid_warp",
    "plot_samples",
    "problem_set",
    "reported",
    "reported_table",
    "results_table",
    "show_images",
    "use_style",
]
