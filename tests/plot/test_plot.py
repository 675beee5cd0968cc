"""The book's figures draw what they were given, and its tables say what the files say."""

import json
import math

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from flowcourse import Flow, StandardNormal, plot  # noqa: E402
from flowcourse.foundations.change_of_variables import Affine  # noqa: E402


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_images_are_laid_out_row_by_row(ax):
    images = torch.stack([torch.full((4, 4), k) for k in range(5)])
    plot.show_images(images, ax, columns=3, levels=5)
    grid = np.asarray(ax.images[0].get_array())
    assert grid.shape == (2 * 4 + 1, 3 * 4 + 2)
    for k in range(5):
        top, left = 5 * (k // 3), 5 * (k % 3)
        assert np.allclose(grid[top : top + 4, left : left + 4], k / 4)
    assert np.allclose(grid[5:, 10:], 1)  # the empty place, and the gaps, are white


def test_colour_images_keep_their_channels(ax):
    images = torch.rand(2, 3, 4, 4)
    plot.show_images(images, ax, columns=1)
    grid = np.asarray(ax.images[0].get_array())
    assert np.allclose(grid[:4, :4], images[0].permute(1, 2, 0))


@pytest.mark.parametrize("shape", [(8, 8), (2, 4, 8, 8), (0, 1, 8, 8), (2, 1, 1, 8, 8)])
def test_what_is_no_batch_of_images_is_refused(ax, shape):
    with pytest.raises(ValueError, match="reshape"):
        plot.show_images(torch.zeros(shape), ax)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_density_is_drawn_where_it_is(ax, monkeypatch, dtype):
    """The mode of a Gaussian far off the diagonal, so that swapped axes would show."""
    drawn = {}
    monkeypatch.setattr(ax, "contourf", lambda x, y, p, **_: drawn.update(x=x, y=y, p=p))
    bijector = Affine(shift=torch.tensor([-2.0, 1.0]), scale=1.0)  # mode at (2, -1)
    plot.plot_density(Flow(bijector, StandardNormal(2)).to(dtype), ax, points=61)
    row, column = divmod(int(drawn["p"].argmax()), 61)
    assert drawn["x"][column] == pytest.approx(2.0, abs=0.06)
    assert drawn["y"][row] == pytest.approx(-1.0, abs=0.06)
    assert drawn["p"].max().item() == pytest.approx(1 / (2 * math.pi), rel=0.01)


def test_density_may_be_a_function(ax):
    plot.plot_density(lambda x: -x.pow(2).sum(dim=1), ax, points=20)
    assert ax.collections


@pytest.mark.parametrize("inverse", [False, True])
def test_grid_lines_are_mapped(ax, inverse):
    bijector = Affine(shift=torch.tensor([1.0, 0.0]), scale=torch.tensor([2.0, -0.5]))
    plot.plot_grid_warp(bijector, ax, bounds=(0, 1, 0, 1), lines=3, inverse=inverse)
    vertical = ax.collections[0].get_segments()
    ends = np.array([vertical[-1][0], vertical[-1][-1]])  # the line x = 1, from y = 0 to y = 1
    expected = [[0, 0], [0, -2]] if inverse else [[3, 0], [3, -0.5]]
    assert np.allclose(ends, expected, atol=1e-6)


def test_samples_are_scattered_without_gradients(ax):
    x = torch.randn(7, 2, requires_grad=True)
    plot.plot_samples(x, ax, color="black")
    assert np.allclose(ax.collections[0].get_offsets(), x.detach())


def test_style_is_set_for_all_figures():
    with matplotlib.rc_context():
        plot.use_style()
        first = plt.rcParams["axes.prop_cycle"].by_key()["color"][0]
    assert first == plot.COLORS["blue"]


# Tables

RECORD = dict(
    topic="nice", variant="laptop", data="digits", seed=0, bits_per_dim=2.5, bits_per_dim_iw=2.4,
    draws=64, standard_error=0.012, kind="bound", parameters=1234567, seconds=98.2,
)  # fmt: skip


@pytest.fixture
def results(tmp_path):
    records = [
        RECORD,
        RECORD | {"seed": 1, "bits_per_dim": 2.6, "bits_per_dim_iw": 2.5},
        RECORD | {"data": "moons", "bits_per_dim": 9.0},
        {"topic": "nice", "variant": "speed", "data": "digits", "ratio": 3.0},
    ]
    (tmp_path / "nice.json").write_text(json.dumps(records))
    baseline = {"topic": "baselines", "variant": "uniform", "data": "digits", "seed": 0,
                "bits_per_dim": 4.0875, "kind": "exact"}  # fmt: skip
    (tmp_path / "baselines.json").write_text(json.dumps([baseline]))
    return tmp_path


def test_results_are_averaged_over_seeds_and_sorted(results):
    table = plot.results_table(folder=results)
    worst, best = table.rows
    assert worst[:3] == ["uniform", "4.088", "exact"] and worst[3] == ""
    assert best == [
        "nice: laptop", "2.550 ± 0.012", "bound", "2.450 (64)",
        "2: 2.500–2.600", "1,234,567", "98 s",
    ]  # fmt: skip


def test_measured_records_are_chosen_by_any_key(results):
    assert [r["seed"] for r in plot.measured("nice", results, data="digits", variant="laptop")] == [
        0,
        1,
    ]
    with pytest.raises(LookupError, match="make results"):
        plot.measured("glow", results)


def test_table_displays_as_markdown_and_as_escaped_html():
    table = plot.Table(["a", "b"], [["<x>", "1"]], numbers=(1,))
    assert table._repr_markdown_() == "| a | b |\n| :--- | ---: |\n| <x> | 1 |"
    assert r"log\|det\|" in plot.Table(["a"], [["log|det|"]])._repr_markdown_()
    assert '<td class="text">&lt;x&gt;</td><td class="number">1</td>' in table._repr_html_()


def test_reported_figures_say_when_they_are_unverified():
    rows = {row[0]: row for row in plot.reported_table("cifar10").rows}
    assert "unverified" in rows["Residual flow"][4]
    assert (
        rows["RealNVP"][1:3] == ["3.49 bits/dim", "bound"]
        and "unverified" not in rows["RealNVP"][4]
    )
    with pytest.raises(LookupError, match="Glow"):
        plot.reported_table("cifar10", ["Glowing"])


def test_every_reported_figure_is_complete_and_cited():
    bibliography = (plot.tables.BOOK / "references.bib").read_text()
    rows = json.loads((plot.tables.BOOK / "reported.json").read_text())
    keys = {"model", "family", "year", "data", "value", "unit", "kind", "cite", "verified", "note"}
    assert rows
    for row in rows:
        assert set(row) == keys
        assert row["kind"] in ("exact", "bound") and row["unit"] in ("bits/dim", "nats")
        assert f"{{{row['cite']}," in bibliography
    # Of one paper there is one figure under one name, and a remark tells the exceptions apart.
    names = [(r["data"], r["model"], r["unit"], r["cite"], r["note"]) for r in rows]
    assert len(set(names)) == len(names)
