"""The toys' densities and entropies, each against a truth computed another way."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from flowcourse.data import load
from flowcourse.data.toys import TOYS, Checkerboard, Circles, EightGaussians, Moons, Pinwheel

TOYS_TESTED = [
    *(kind() for kind in TOYS.values()),
    Moons(noise=0.2),
    Circles(noise=0.1),
    EightGaussians(noise=0.3),
    Pinwheel(noise=0.2),
]
SMOOTH = [toy for toy in TOYS_TESTED if not isinstance(toy, Checkerboard)]
every_toy = pytest.mark.parametrize("toy", TOYS_TESTED, ids=str)
every_smooth_toy = pytest.mark.parametrize("toy", SMOOTH, ids=str)


def draw(toy, n, seed=12345):
    return toy.sample(n, np.random.default_rng(seed))


def raw(toy, z):
    return z * z.new_tensor(toy.sd) + z.new_tensor(toy.mean)


# --- the density is a density, and the right one -------------------------------------------------

# The square holds all toys; its cells' borders include those of the checkerboard's squares.
HALF_SIDE, CELLS = 6 / math.sqrt(4 / 3), 600
CELL = 2 * HALF_SIDE / CELLS


def masses(toy):
    """Mass in each cell of the square, by the midpoint rule."""
    middles = -HALF_SIDE + CELL * (torch.arange(CELLS, dtype=torch.float64) + 0.5)
    points = torch.cartesian_prod(middles, middles)
    log_p = torch.cat([toy.log_density(part) for part in points.split(20_000)])
    return points, log_p.exp() * CELL**2


@every_toy
def test_mass_is_one_and_axes_are_standardised(toy):
    points, mass = masses(toy)
    # The midpoint rule is exact to rounding for smooth densities; on squares it is for the mass.
    tolerance = 1e-4 if isinstance(toy, Checkerboard) else 1e-8
    assert mass.sum().item() == pytest.approx(1, abs=1e-8)
    assert (mass @ points).tolist() == pytest.approx([0, 0], abs=1e-8)
    assert (mass @ points**2).tolist() == pytest.approx([1, 1], abs=tolerance)


@every_toy
def test_entropy_is_the_mean_of_minus_log_density_over_samples(toy):
    score = -toy.log_density(draw(toy, 100_000).double())
    standard_error = score.std().item() / math.sqrt(len(score))
    # Five standard errors: a false alarm in 1.7 million seeds.
    assert abs(score.mean().item() - toy.entropy_nats) < 5 * standard_error + 1e-9


@every_toy
def test_samples_fall_where_the_density_says(toy):
    _, mass = masses(toy)
    blocks = 60
    size = CELLS // blocks
    mass = mass.reshape(blocks, size, blocks, size).sum(dim=(1, 3)).numpy().ravel()
    z, edges = draw(toy, 50_000).numpy(), np.linspace(-HALF_SIDE, HALF_SIDE, blocks + 1)
    count = np.histogram2d(z[:, 0], z[:, 1], bins=[edges, edges])[0].ravel()
    # Blocks with few expected points are pooled, so that chi-squared is a good approximation.
    big = mass * len(z) > 10
    observed = np.append(count[big], len(z) - count[big].sum())
    expected = np.append(mass[big], 1 - mass[big].sum()) * len(z)
    keep = expected > 10
    statistic = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    assert big.sum() > 50
    assert scipy.stats.chi2.sf(statistic, keep.sum() - 1) > 1e-6
    assert observed[~keep].sum() < 100


def test_circles_have_the_entropy_of_a_radial_integral():
    noise = 0.05

    def density(r):
        rings = [
            scipy.special.ive(0, r * radius / noise**2)
            * math.exp(-(((r - radius) / noise) ** 2) / 2)
            for radius in (1, 0.5)
        ]
        return sum(rings) / (2 * 2 * math.pi * noise**2)

    def integrand(r):
        p = density(r)
        return -2 * math.pi * r * p * math.log(p) if p > 0 else 0.0

    entropy, _ = scipy.integrate.quad(integrand, 0, 1.6, points=[0.5, 1], epsabs=1e-10, limit=500)
    standardised = entropy - math.log((1 + 0.25) / 4 + noise**2)
    assert Circles(noise=noise).entropy_nats == pytest.approx(standardised, abs=1e-7)
    assert round(load("circles").entropy_nats, 4) == 1.7613


def arc_density(x, radius, start, stop, centre=(0.0, 0.0), side=1, noise=0.1):
    """Density at `x` of a blurred arc, by adaptive quadrature over the angle."""

    def integrand(t):
        dx = x[0] - centre[0] - side * radius * math.cos(t)
        dy = x[1] - centre[1] - side * radius * math.sin(t)
        return math.exp(-(dx**2 + dy**2) / (2 * noise**2))

    nearest = math.atan2(side * (x[1] - centre[1]), side * (x[0] - centre[0])) % (2 * math.pi)
    points = [nearest] if start < nearest < stop else None
    value, _ = scipy.integrate.quad(integrand, start, stop, points=points, epsabs=0, limit=400)
    return value / ((stop - start) * 2 * math.pi * noise**2)


def test_moons_density_is_the_integral_over_both_arcs():
    toy = Moons()
    for z in draw(toy, 50).double():
        x = raw(toy, z).tolist()
        upper = arc_density(x, 1, 0, math.pi)
        lower = arc_density(x, 1, 0, math.pi, centre=(1, 0.5), side=-1)
        expected = math.log((upper + lower) / 2 * math.prod(toy.sd))
        assert toy.log_density(z).item() == pytest.approx(expected, abs=1e-8)


def test_circles_density_is_the_integral_over_both_circles():
    toy = Circles(noise=0.1)
    for z in draw(toy, 50).double():
        x = raw(toy, z).tolist()
        rings = sum(arc_density(x, radius, 0, 2 * math.pi) for radius in (1, 0.5))
        expected = math.log(rings / 2 * math.prod(toy.sd))
        assert toy.log_density(z).item() == pytest.approx(expected, abs=1e-8)


def test_eight_gaussians_are_a_mixture_of_normals():
    toy = EightGaussians()
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    centre = torch.stack([angle.cos(), angle.sin()], dim=1)
    parts = Independent(Normal(centre, torch.full_like(centre, 0.1)), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(8, dtype=torch.float64)), parts)
    z = draw(toy, 100).double()
    expected = mixture.log_prob(raw(toy, z)) + math.log(math.prod(toy.sd))
    torch.testing.assert_close(toy.log_density(z), expected, rtol=0, atol=1e-10)


def test_pinwheel_is_a_mixture_of_normals_behind_a_twist_that_keeps_areas():
    toy = Pinwheel()

    def untwist(x):
        angle = -(x @ x) / 2
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([cos * x[0] - sin * x[1], sin * x[0] + cos * x[1]])

    angle = torch.arange(5, dtype=torch.float64) * 2 * math.pi / 5
    outwards = torch.stack([angle.cos(), angle.sin()], dim=1)
    across = torch.stack([-angle.sin(), angle.cos()], dim=1)
    covariance = 0.3**2 * outwards[:, :, None] * outwards[:, None, :]
    covariance = covariance + 0.1**2 * across[:, :, None] * across[:, None, :]
    mixture = MixtureSameFamily(
        Categorical(torch.ones(5, dtype=torch.float64)),
        torch.distributions.MultivariateNormal(outwards, covariance),
    )
    for z in draw(toy, 100).double():
        x = raw(toy, z)
        log_det = torch.linalg.slogdet(torch.func.jacrev(untwist)(x)).logabsdet
        expected = mixture.log_prob(untwist(x)) + log_det + math.log(math.prod(toy.sd))
        torch.testing.assert_close(toy.log_density(z), expected, rtol=0, atol=1e-9)


def test_checkerboard_has_eight_equal_dark_squares():
    toy = Checkerboard()
    middles = torch.arange(-2.5, 3, dtype=torch.float64)  # six by six squares, a border around
    points = torch.cartesian_prod(middles, middles) / toy.sd[0]
    density = toy.log_density(points).exp().reshape(6, 6) / math.prod(toy.sd)
    board = torch.zeros(6, 6, dtype=torch.float64)
    board[1:5:2, 1:5:2] = board[2:5:2, 2:5:2] = 1 / 8
    torch.testing.assert_close(density, board)


# --- the density as a torch function -------------------------------------------------------------


@every_toy
def test_keeps_dtype_device_and_leading_axes(toy):
    z = draw(toy, 12)
    for dtype in (torch.float32, torch.float64):
        assert toy.log_density(z.to(dtype)).dtype == dtype
    assert torch.equal(toy.log_density(z.reshape(3, 4, 2)), toy.log_density(z).reshape(3, 4))
    assert toy.log_density(z.to("meta")).device.type == "meta"
    torch.testing.assert_close(
        toy.log_density(z).double(), toy.log_density(z.double()), atol=1e-3, rtol=0
    )


@every_toy
def test_gradients_are_those_of_finite_differences(toy):
    z = draw(toy, 20).double().requires_grad_()
    assert torch.autograd.gradcheck(toy.log_density, z)


@every_smooth_toy
@pytest.mark.parametrize("size", [0.0, 1e3])
def test_values_and_gradients_are_finite_at_the_origin_and_far_away(toy, size):
    z = torch.tensor([[1.0, 1.0], [-1.0, 0.3]]).mul(size).requires_grad_()
    log_p = toy.log_density(z)
    log_p.sum().backward()
    assert log_p.isfinite().all() and z.grad.isfinite().all()


FOLDS = {Moons(): 2, Circles(): 7, Pinwheel(): 5, EightGaussians(): 8}
coordinate = st.floats(-3, 3)


@given(x=coordinate, y=coordinate, toy=st.sampled_from(list(FOLDS)), turns=st.integers(1, 9))
def test_turning_a_symmetric_toy_changes_nothing(x, y, toy, turns):
    angle = 2 * math.pi * turns / FOLDS[toy]
    cos, sin = math.cos(angle), math.sin(angle)
    here = torch.tensor([x, y], dtype=torch.float64)
    there = torch.tensor([cos * x - sin * y, sin * x + cos * y], dtype=torch.float64)
    torch.testing.assert_close(toy.log_density(there), toy.log_density(here), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("z", [torch.zeros(3, 3), torch.zeros(3, 2, dtype=torch.long)])
def test_points_of_another_kind_are_refused(z):
    with pytest.raises(ValueError, match=r"floating-point points of shape \(..., 2\)"):
        Moons().log_density(z)


# --- loading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
@given(n=st.integers(1, 50), n_test=st.integers(1, 50), seed=st.integers(0, 2**40))
def test_load_gives_what_was_asked_for(name, n, n_test, seed):
    data = load(name, n=n, n_test=n_test, seed=seed)
    assert data.train.shape == (n, 2) and data.test.shape == (n_test, 2)
    assert data.train.dtype == torch.float32 and data.levels is None
    assert torch.equal(data.train, load(name, n=n, n_test=n_test, seed=seed).train)
    assert not torch.equal(data.train, load(name, n=n, n_test=n_test, seed=seed + 1).train)
    # A larger train set is judged on the same test set.
    assert torch.equal(data.test, load(name, n=n + 1, n_test=n_test, seed=seed).test)


def test_noise_reaches_the_samples_the_density_and_the_entropy():
    quiet, loud = load("circles", noise=0.02), load("circles", noise=0.3)
    assert quiet.entropy_nats < loud.entropy_nats
    assert not torch.equal(quiet.train, loud.train)
    assert quiet.log_density(loud.test).mean() < loud.log_density(loud.test).mean()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("moons", {"noise": 0}),
        ("moons", {"noise": 2}),
        ("circles", {"n": 0}),
        ("pinwheel", {"n_test": 0}),
        ("eight_gaussians", {"seed": -1}),
        ("checkerboard", {"noise": 0.1}),
    ],
)
def test_senseless_options_are_refused(name, options):
    with pytest.raises(ValueError, match=str(list(options.values())[0])):
        load(name, **options)
