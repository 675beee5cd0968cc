"""The property set itself is tested by bijectors that break one property each."""

import math

import pytest
import torch

from flowcourse import Bijector
from flowcourse.bijector import Compose, Inverse
from flowcourse.coupling.realnvp import preprocess
from flowcourse.foundations.change_of_variables import Affine, Elementwise, Exp, Tanh
from flowcourse.testing import PROPERTIES, PropertyFailure, check_bijector


class Half(Elementwise):
    """A correct map, z = x / 2, for the others to break."""

    def transform(self, x):
        return x / 2

    def invert(self, z):
        return z * 2

    def log_slope(self, x):
        return torch.full_like(x, 0.5).log()


class WrongSign(Half):
    """Both directions carry the wrong sign: their sum is still zero."""

    def log_slope(self, x):
        return torch.full_like(x, 2.0).log()


class MeanForSum(Half):
    def forward(self, x, context=None):
        z, log_det = super().forward(x)
        return z, log_det / x[0].numel()


class KeptDimension(Half):
    def forward(self, x, context=None):
        z, log_det = super().forward(x)
        return z, log_det[:, None]


class NotItsInverse(Half):
    def invert(self, z):
        return z * 2 + 1e-6


class Doubles(Half):
    def forward(self, x, context=None):
        z, log_det = super().forward(x)
        return z.double(), log_det.double()


class CentresItsBatch(Half):
    def transform(self, x):
        return x / 2 - x.mean(dim=0) * 1e-6


class InfiniteGradient(Elementwise):
    """z = x with a slope computed as log of exp(x) / exp(x), which overflows."""

    def transform(self, x):
        return x

    def invert(self, z):
        return z

    def log_slope(self, x):
        return (x.exp() / x.exp()).log()


class BornOnTheCpu(Half):
    def transform(self, x):
        return x / torch.tensor([2.0, 2.0], dtype=x.dtype)


class ForgetsItsState(Half):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def transform(self, x):
        return x / self.scale

    def invert(self, z):
        return z * self.scale

    def log_slope(self, x):
        return -self.scale.log().expand_as(x)


BROKEN = {
    WrongSign: "log_det_is_the_jacobian",
    MeanForSum: "log_det_is_the_jacobian",
    KeptDimension: "shapes",
    NotItsInverse: "round_trip",
    Doubles: "dtypes",
    CentresItsBatch: "examples_are_independent",
    InfiniteGradient: "gradients_are_finite",
    BornOnTheCpu: "runs_on_meta",
    ForgetsItsState: "state_round_trips",
}


def test_a_correct_bijector_passes_every_property(torch_seed):
    report = check_bijector(Half(), torch.randn(4, 2))
    assert [result.name for result in report.results] == list(PROPERTIES)
    assert report.passed


@pytest.mark.parametrize("broken", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_bijector_is_caught_by_name(broken, torch_seed):
    with pytest.raises(PropertyFailure, match=f"FAIL  {BROKEN[broken]} "):
        check_bijector(broken(), torch.randn(4, 2))


def test_a_consistent_sign_error_is_caught_in_both_directions_and_by_mass(torch_seed):
    with pytest.raises(PropertyFailure) as caught:
        check_bijector(WrongSign(), torch.randn(4, 2))
    failed = {line.split()[1] for line in str(caught.value).splitlines() if "FAIL" in line}
    assert failed == {
        "log_det_is_the_jacobian",
        "inverse_log_det_is_the_jacobian",
        "density_integrates_to_one",
    }


def test_a_map_without_inverse_is_checked_as_far_as_it_goes(torch_seed):
    class Forward(Bijector):
        def forward(self, x, context=None):
            return x * 3, x.new_full((len(x),), x[0].numel() * math.log(3))

    report = check_bijector(
        Forward(), torch.randn(4, 2), properties=["round_trip", "log_det_is_the_jacobian"]
    )
    assert "no analytic inverse" in str(report)


def test_a_composition_is_checked_like_its_parts(torch_seed):
    """Sets are known by identity, and the copy that is tested must have the same ones."""
    x = torch.rand(4, 1)
    for map_to_reals in (Affine(0.5, 2.0), Inverse(Exp()), preprocess(17)):
        composed = Compose(map_to_reals, Affine(0.1, 1.5))
        report = check_bijector(composed, x, properties=["density_integrates_to_one"])
        assert report.results[0].tolerance == 1e-4
    with pytest.raises(PropertyFailure, match="not finite at max"):
        check_bijector(Compose(InfiniteGradient()), x, properties=["gradients_are_finite"])


def test_the_report_lists_each_property_with_error_and_tolerance():
    text = str(check_bijector(Tanh(), torch.tensor([[0.1], [0.2]])))
    assert "round_trip " in text and "tolerance 1e-10" in text


def test_the_original_is_left_alone(torch_seed):
    bijector = Affine(1.0, 2.0).train()
    check_bijector(bijector, torch.randn(4, 2))
    assert bijector.training and bijector.scale.dtype == torch.float32
