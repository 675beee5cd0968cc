"""Composition, inversion and the errors of the contract."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcourse import Bijector, Compose, Inverse
from flowcourse.bijector import NoInverseError, sum_event
from flowcourse.foundations.change_of_variables import Affine, Exp, Linear, Tanh
from flowcourse.testing import autograd_log_det, check_bijector


def test_compose_applies_left_to_right():
    z, log_det = Compose(Affine(1.0, 2.0), Exp())(torch.tensor([[3.0]]))
    assert z.item() == pytest.approx(math.exp(7.0))
    assert log_det.item() == pytest.approx(math.log(2.0) + 7.0)


def test_compose_inverts_right_to_left():
    x, log_det = Compose(Affine(1.0, 2.0), Exp()).inverse(torch.tensor([[math.exp(7.0)]]))
    assert x.item() == pytest.approx(3.0)
    assert log_det.item() == pytest.approx(-math.log(2.0) - 7.0)


def test_compose_log_det_is_the_jacobian_of_the_whole(torch_seed):
    flow = Compose(Linear(4), Tanh(), Linear(4)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(flow(x)[1], autograd_log_det(flow, x), rtol=0, atol=1e-10)


def test_domains_follow_the_ends():
    flow = Compose(Affine(0.0, 1.0), Exp())
    assert flow.codomain is Exp.codomain and flow.domain is Affine.domain
    assert Inverse(flow).domain is Exp.codomain


def test_compose_of_nothing_says_so():
    with pytest.raises(ValueError, match="at least one"):
        Compose()


def test_missing_inverse_names_the_alternative():
    class OneWay(Bijector):
        pass

    with pytest.raises(NoInverseError, match="OneWay.*coupling"):
        OneWay().inverse(torch.zeros(1, 1))


def test_context_reaches_every_part():
    class AddContext(Bijector):
        def forward(self, x, context=None):
            return x + context, x.new_zeros(len(x))

        def inverse(self, z, context=None):
            return z - context, z.new_zeros(len(z))

    x, context = torch.zeros(3, 2), torch.tensor([[1.0], [2.0], [3.0]])
    flow = Compose(AddContext(), Inverse(Inverse(AddContext())))
    torch.testing.assert_close(flow(x, context)[0], 2 * context.expand(3, 2))
    check_bijector(flow, x, context)


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_sum_event_adds_all_axes_but_the_first(shape, seed):
    terms = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = terms.numpy().reshape(shape[0], -1).sum(axis=1)
    torch.testing.assert_close(sum_event(terms), torch.from_numpy(expected))
