"""A density on a grid: its mass, and its values between the grid's points, against closed forms."""

import math

import pytest
import torch

from flowcourse.checks.held_out import LOWEST, at_points, mass, mesh
from flowcourse.flow import StandardNormal

AXES = [
    torch.linspace(-7, 7, 281, dtype=torch.float64),
    torch.linspace(-8, 8, 321, dtype=torch.float64),
]


def normal(x):
    return StandardNormal(2).log_prob(x)


def test_the_mass_of_a_density_is_one_and_of_its_double_two():
    log_p = normal(mesh(AXES))
    assert mass(log_p, AXES).item() == pytest.approx(1, abs=1e-9)
    assert mass(log_p + math.log(2), AXES).item() == pytest.approx(2, abs=1e-9)


def test_values_between_the_points_are_those_of_the_density(torch_seed):
    x = torch.randn(200, 2, dtype=torch.float64)
    found = at_points(normal(mesh(AXES)), AXES, x)
    torch.testing.assert_close(found, normal(x), rtol=0, atol=1e-3)


def test_one_axis_works_too():
    axis = torch.linspace(-1, 1, 5, dtype=torch.float64)
    found = at_points(3 * axis, [axis], torch.tensor([[0.3], [9.0]]))
    assert found.tolist() == pytest.approx([0.9, LOWEST])


def test_nothing_is_hidden_between_the_points():
    """A spike on held-out points, narrower than the grid, earns nothing: nobody asks there."""
    log_p = normal(mesh(AXES))
    log_p[0] = -math.inf
    assert at_points(log_p, AXES, mesh(AXES)[:1]).item() == LOWEST


def test_a_wrong_number_of_values_is_explained():
    with pytest.raises(ValueError, match=r"shape \(90201,\), got \(3,\)"):
        at_points(torch.zeros(3), AXES, torch.zeros(1, 2))
