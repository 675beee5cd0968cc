"""Linear flows against numpy, scipy, autograd and closed forms; the contract is tested for all."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from flowcourse.autoregressive_flows import linear
from flowcourse.autoregressive_flows.linear import (
    MIXING,
    Householder,
    Orthogonal,
    PLULinear,
    QRLinear,
    Triangular,
    build,
    whitening,
)
from flowcourse.bijector import Inverse
from flowcourse.catalog import perturbed
from flowcourse.coupling.glow import InvertibleConv, Permutation
from flowcourse.flow import Flow, StandardNormal
from flowcourse.testing import autograd_log_det

pytestmark = pytest.mark.usefixtures("torch_seed")


def matrix(bijector, dims: int) -> np.ndarray:
    """W of a map z = W x: its columns are the images of the basis."""
    with torch.no_grad():
        return bijector(torch.eye(dims, dtype=torch.float64))[0].T.numpy()


def learned(kind: str, dims: int):
    """A map of this kind, away from its start, in double precision."""
    bijector = MIXING[kind](dims).double()
    return perturbed(bijector, 0.3) if list(bijector.parameters()) else bijector


@pytest.mark.parametrize("kind", MIXING)
@pytest.mark.parametrize("dims", [1, 2, 7])
def test_every_map_is_its_matrix_with_numpys_determinant_and_inverse(kind, dims):
    bijector = learned(kind, dims)
    w = matrix(bijector, dims)
    x = torch.randn(5, dims, dtype=torch.float64)
    z, log_det = bijector(x)
    np.testing.assert_allclose(z.detach(), x.numpy() @ w.T, atol=1e-12)
    expected = np.linalg.slogdet(w)[1]
    np.testing.assert_allclose(log_det.detach(), np.full(5, expected), atol=1e-10)
    back, inverse_log_det = bijector.inverse(x)
    np.testing.assert_allclose(back.detach(), np.linalg.solve(w, x.numpy().T).T, rtol=1e-8)
    np.testing.assert_allclose(inverse_log_det.detach(), np.full(5, -expected), atol=1e-10)
    torch.testing.assert_close(log_det, autograd_log_det(bijector, x))
    torch.testing.assert_close(inverse_log_det, autograd_log_det(Inverse(bijector), x))


@pytest.mark.parametrize("kind", ["householder", "cayley", "exp"])
@pytest.mark.parametrize("dims", [2, 5, 40])
def test_orthogonal_maps_keep_lengths_and_angles(kind, dims):
    w = matrix(learned(kind, dims), dims)
    np.testing.assert_allclose(w @ w.T, np.eye(dims), atol=1e-11)


# Householder


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_mirrors_all_at_once_are_mirrors_one_by_one(k):
    layer = Householder(4, k).double()
    w = np.eye(4)
    for v in layer.vectors.detach().numpy():
        w = (np.eye(4) - 2 * np.outer(v, v) / (v @ v)) @ w
    np.testing.assert_allclose(matrix(layer, 4), w, atol=1e-12)
    assert np.linalg.det(w) == pytest.approx((-1) ** k)


def test_a_mirror_sends_its_vector_to_the_other_side_and_keeps_what_is_across():
    layer = Householder(3, 1).double()
    v = layer.vectors[0]
    across = torch.linalg.cross(v, torch.randn(3, dtype=torch.float64))
    z, log_det = layer(torch.stack([v, across]))
    torch.testing.assert_close(z, torch.stack([-v, across]))
    assert torch.equal(log_det, torch.zeros_like(log_det))


def test_the_length_of_a_mirrors_vector_plays_no_role():
    layer = Householder(5, 3)
    x = torch.randn(4, 5)
    before = layer(x)[0]
    with torch.no_grad():
        layer.vectors.mul_(torch.tensor([[0.1], [30.0], [-2.0]]))
    torch.testing.assert_close(layer(x)[0], before, rtol=1e-4, atol=1e-5)


def test_one_mirror_less_than_dimensions_reaches_any_rotation_in_three_dimensions():
    rotation = scipy.stats.special_ortho_group(3, seed=0).rvs()
    layer = Householder(3, 2).double()
    # By construction: each mirror puts one more basis vector where the rotation has it.
    vectors, done = [], np.eye(3)
    for d in range(2):
        v = done[:, d] - rotation[:, d]
        vectors.append(v)
        done = (np.eye(3) - 2 * np.outer(v, v) / (v @ v)) @ done
    with torch.no_grad():
        layer.vectors.copy_(torch.from_numpy(np.stack(vectors)))
    np.testing.assert_allclose(matrix(layer, 3), rotation, atol=1e-12)


def test_no_mirror_is_no_layer():
    with pytest.raises(ValueError, match="1 reflection or more, not 0"):
        Householder(3, 0)


# Cayley and the exponential


@pytest.mark.parametrize("kind", ["cayley", "exp"])
def test_both_are_scipys_functions_of_a_skew_matrix_and_never_mirror(kind):
    layer = Orthogonal(6, kind).double()
    raw = np.tril(layer.raw.detach().numpy(), -1)
    skew = raw - raw.T
    identity = np.eye(6)
    expected = {
        "exp": scipy.linalg.expm(skew),
        "cayley": np.linalg.inv(identity + skew) @ (identity - skew),
    }[kind]
    np.testing.assert_allclose(layer.weight.detach().numpy(), expected, atol=1e-12)
    assert np.linalg.det(expected) == pytest.approx(1)


@pytest.mark.parametrize(("kind", "factor"), [("exp", 1.0), ("cayley", 2.0)])
def test_in_the_plane_both_are_rotations_by_known_angles(kind, factor):
    layer = Orthogonal(2, kind).double()
    with torch.no_grad():
        layer.raw[1, 0] = a = 0.7
    # exp turns by a; Cayley by twice the arc tangent of a, the other way round.
    angle = a if kind == "exp" else -factor * math.atan(a)
    expected = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    np.testing.assert_allclose(layer.weight.detach().numpy(), expected, atol=1e-12)


def test_half_a_turn_is_out_of_cayleys_reach_and_not_of_the_exponentials():
    exponential, cayley = Orthogonal(2, "exp").double(), Orthogonal(2, "cayley").double()
    with torch.no_grad():
        exponential.raw[1, 0] = math.pi
        distances = []
        for a in (1e1, 1e3, 1e5):
            cayley.raw[1, 0] = a
            distances.append((cayley.weight + torch.eye(2)).abs().max().item())
    torch.testing.assert_close(exponential.weight, -torch.eye(2).double())
    # It comes nearer as the parameter grows, as 2 / a, and would need an infinite one.
    np.testing.assert_allclose(distances, [2 * a / (1 + a * a) for a in (1e1, 1e3, 1e5)])


def test_entries_on_and_above_the_diagonal_play_no_role():
    layer = Orthogonal(4, "exp")
    before = layer.weight.detach()
    with torch.no_grad():
        layer.raw += torch.ones(4, 4).triu()
    assert torch.equal(layer.weight, before)


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="'cayley' or 'exp' and is 'householder'"):
        Orthogonal(3, "householder")
    with pytest.raises(ValueError, match=r"one of reverse, .*, exp, not 'lu'"):
        build((3,), None, mixing="lu")


# Products


def test_plu_is_glows_convolution_on_one_position():
    layer = perturbed(PLULinear(6), 0.2).double()
    conv = InvertibleConv(6).double()
    conv.load_state_dict(layer.state_dict())
    x = torch.randn(3, 6, dtype=torch.float64)
    z, log_det = layer(x)
    theirs, their_log_det = conv(x[:, :, None, None])
    torch.testing.assert_close(z, theirs.flatten(1))
    torch.testing.assert_close(log_det, their_log_det)
    np.testing.assert_allclose(matrix(layer, 6), layer.weight.detach(), atol=1e-12)


def test_plu_starts_at_a_rotation_or_at_a_permutation():
    rotation = matrix(PLULinear(9).double(), 9)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(9), atol=1e-5)
    order = matrix(PLULinear(9, "permutation").double(), 9)
    assert set(order.flatten()) == {0.0, 1.0} and (order != np.eye(9)).any()
    assert (order.sum(axis=0) == 1).all() and (order.sum(axis=1) == 1).all()
    with pytest.raises(ValueError, match="'rotation' or 'permutation' and is 'identity'"):
        PLULinear(9, "identity")


def test_qr_is_scipys_with_a_positive_diagonal():
    layer = perturbed(QRLinear(5), 0.4).double()
    w = matrix(layer, 5)
    q, r = scipy.linalg.qr(w)
    signs = np.sign(np.diag(r))
    np.testing.assert_allclose(matrix(layer[0], 5), signs[:, None] * r, atol=1e-11)
    np.testing.assert_allclose(matrix(layer[1], 5), q * signs, atol=1e-11)
    assert np.linalg.slogdet(w)[0] == (-1) ** 5


@pytest.mark.parametrize("make", [Triangular, PLULinear, QRLinear])
def test_what_a_gradient_would_make_singular_stays_invertible(make):
    layer = make(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.full_like(parameter, -4.0) + torch.randn_like(parameter))
    x = torch.randn(4, 3)
    z, log_det = layer(x)
    assert z.isfinite().all() and log_det.isfinite().all()


def test_the_matrix_of_a_triangular_map_is_triangular_whatever_its_parameters():
    layer = perturbed(Triangular(4), 1.0).double()
    w = matrix(layer, 4)
    assert np.array_equal(np.triu(w), w) and (np.diag(w) > 0).all()


def test_forward_and_inverse_lose_no_more_digits_than_the_condition_number_excuses():
    layer = perturbed(PLULinear(64), 0.05)
    x = torch.randn(16, 64)
    error = (layer.inverse(layer(x)[0])[0] - x).abs().max().item()
    condition = np.linalg.cond(layer.weight.detach().double().numpy())
    assert error < 10 * torch.finfo(torch.float32).eps * condition


# The normal density


def correlated(n: int, dims: int) -> torch.Tensor:
    mixing = torch.randn(dims, dims, dtype=torch.float64) / math.sqrt(dims)
    return torch.randn(n, dims, dtype=torch.float64) @ mixing.T + torch.arange(dims)


def test_whitening_is_scipys_normal_density_and_standardises_the_sample():
    x = correlated(400, 4)
    mean, covariance = x.mean(dim=0), x.T.cov(correction=0)
    flow = Flow(whitening(mean, covariance), StandardNormal(4))
    truth = scipy.stats.multivariate_normal(mean.numpy(), covariance.numpy()).logpdf(x.numpy())
    np.testing.assert_allclose(flow.log_prob(x).detach(), truth)
    z, _ = flow.bijector(x)
    np.testing.assert_allclose(z.T.cov(correction=0).detach(), np.eye(4), atol=1e-10)
    np.testing.assert_allclose(z.mean(dim=0).detach(), np.zeros(4), atol=1e-10)
    # The mean log-likelihood of the sample itself depends on log det(covariance) and D alone.
    nats = 0.5 * (4 * (1 + math.log(2 * math.pi)) + np.linalg.slogdet(covariance.numpy())[1])
    assert -flow.log_prob(x).mean().item() == pytest.approx(nats)


def test_a_covariance_without_an_inverse_is_refused():
    x = correlated(3, 4)
    with pytest.raises(torch.linalg.LinAlgError):
        whitening(x.mean(dim=0), x.T.cov(correction=0) - 1e-9 * torch.eye(4).double())


@pytest.mark.parametrize("kind", ["dense", "plu", "qr"])
def test_training_a_linear_flow_finds_the_samples_covariance(kind):
    x = correlated(300, 3)
    best = Flow(whitening(x.mean(dim=0), x.T.cov(correction=0)), StandardNormal(3))
    flow = build((3,), None, mixing=kind, layers=0).double().train()
    flow.log_prob(x)  # actnorm starts
    optimizer = torch.optim.LBFGS(
        flow.parameters(), max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-9
    )

    def loss():
        optimizer.zero_grad()
        value = -flow.log_prob(x).mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert loss().item() == pytest.approx(-best.log_prob(x).mean().item(), abs=1e-6)
    with torch.no_grad():
        origin = flow.bijector(torch.zeros(1, 3, dtype=torch.float64))[0]
        w = (flow.bijector(torch.eye(3, dtype=torch.float64))[0] - origin).T
    implied = torch.linalg.inv(w.T @ w)
    torch.testing.assert_close(implied, x.T.cov(correction=0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["householder", "cayley", "exp"])
def test_an_orthogonal_map_before_a_normal_base_changes_no_likelihood(kind):
    x = torch.randn(5, 3, dtype=torch.float64)
    flow = Flow(MIXING[kind](3).double(), StandardNormal(3))
    torch.testing.assert_close(flow.log_prob(x), StandardNormal(3).log_prob(x))


# The model


@pytest.mark.parametrize(("layers", "blocks"), [(0, None), (2, None), (2, 2)])
def test_the_models_map_of_any_kind_has_autograds_determinant(layers, blocks):
    flow = build((5,), None, mixing="qr", layers=layers, blocks=blocks, hidden=(8,)).double()
    bijector = perturbed(flow, 0.2)
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(bijector(x)[1], autograd_log_det(bijector, x))


def test_with_reversed_orders_the_model_is_maf_and_learned_maps_only_add_parameters():
    def count(mixing):
        model = build((6,), None, mixing=mixing, layers=3, hidden=(8,))
        return sum(p.numel() for p in model.parameters())

    plain = build((6,), None, mixing="reverse", layers=3, hidden=(8,))
    kinds = [type(step).__name__ for step in plain.bijector.bijectors]
    assert kinds[1:4] == ["ActNorm", "Permutation", "Autoregressive"]
    order = next(s for s in plain.bijector.bijectors if isinstance(s, Permutation)).order
    assert order.tolist() == [5, 4, 3, 2, 1, 0]
    assert count("shuffle") == count("reverse")
    # Four maps: two triangles of stored matrices and six scales each.
    assert count("plu") - count("reverse") == 4 * (2 * 36 + 6)


def test_images_of_levels_get_a_dequantized_flow():
    model = build((1, 2, 2), 17, mixing="exp", layers=1, hidden=(8,)).eval()
    x = torch.randint(17, (3, 1, 2, 2))
    assert model.bits_per_dim(x).shape == (3,)
    drawn = model.sample(4)
    assert drawn.shape == (4, 1, 2, 2) and drawn.min() >= 0 and drawn.max() <= 16


def test_every_name_of_mixing_is_documented_by_the_module():
    for name in ("Permutation", "Triangular", "Householder", "Orthogonal", "PLULinear"):
        assert f"`{name}`" in linear.__doc__
