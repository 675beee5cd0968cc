"""Checks of the small problem set on which the grading is tested."""

import math

import numpy as np
import torch

from flowcourse.checks import equal, exercise

# Topics that an answer may import.
MAY_USE = ()


def log_det(log_scale, x):
    """log|det| of z = exp(log_scale) * x, in nats."""
    return log_scale.sum().expand(len(x))


def bits_log_det(log_scale, x):
    """The same in bits."""
    return log_det(log_scale, x) / math.log(2)


class Shift:
    """z = x + shift."""

    def __init__(self, shift):
        self.shift = shift

    def forward(self, x):
        """Data to latent."""
        return x + self.shift, torch.zeros_like(x[:, 0])

    def inverse(self, z):
        """Latent to data."""
        return z - self.shift, torch.zeros_like(z[:, 0])


class SameBothWays(Shift):
    """Adds on the way back too."""

    def inverse(self, z):
        """Wrong."""
        return self.forward(z)


class ShiftAsLogDet(Shift):
    """Takes the shift for a scale."""

    def forward(self, x):
        """Wrong log-det."""
        return x + self.shift, self.shift.sum().expand(len(x))


class NegativeShift(Shift):
    """Has the directions swapped."""

    def forward(self, x):
        """Wrong."""
        return Shift.inverse(self, x)

    def inverse(self, z):
        """Wrong."""
        return Shift.forward(self, z)


class ScalarLogDet(Shift):
    """One number for the whole batch."""

    def forward(self, x):
        """Wrong shape."""
        return x + self.shift, x.new_zeros(())


@exercise("tiny.log_det", read="the page, Scales", hint="how does a volume change?")
class LogDet:
    """A function."""

    reference = log_det
    parts = {"log_det": 3}
    mistakes = {
        "your log_det is the negative of the expected one": lambda s, x: -log_det(s, x),
        "the mean over the coordinates where the sum was asked": lambda s, x: s.mean().expand(
            len(x)
        ),
        "a determinant where its logarithm was asked": lambda s, x: log_det(s, x).exp(),
        "bits where nats were asked": bits_log_det,
    }

    def draw(rng):
        """Random scales and points."""
        return {"log_scale": rng.normal(size=3), "x": rng.normal(size=(4, 3))}

    def probe(answer, log_scale, x):
        """One call."""
        return {"log_det": answer(log_scale, x)}


@exercise("tiny.order", read="the page, Order")
class Order:
    """A choice."""

    reference = ["B", "A", "C"]
    parts = {"order": 1.5}
    compare = {"order": equal}
    mistakes = {
        "that is the alphabetical order": ["A", "B", "C"],
        "the first two are right, the third is not last": ["C", "B", "A"],
        "backwards": ["C", "A", "B"],
        "the last is not first": ["A", "C", "B"],
    }

    def draw(rng):
        """Nothing is random."""
        return {}

    def probe(answer):
        """The answer itself."""
        return {"order": np.asarray(answer)}


@exercise("tiny.shift", read="the page, Shifts", hint="forward and inverse undo each other.")
class ShiftLayer:
    """A class, with partial credit."""

    reference = Shift
    parts = {"z": 1, "log_det": 1, "back": 2}
    mistakes = {
        "inverse adds the shift again; it must undo forward": SameBothWays,
        "a shift changes no volume: its log_det is 0": ShiftAsLogDet,
        "forward is the data-to-latent direction": NegativeShift,
        "log_det must have shape (batch,)": ScalarLogDet,
        "not a layer at all": object,
    }

    def draw(rng):
        """Random shift and points."""
        return {"shift": rng.normal(size=2), "x": rng.normal(size=(5, 2))}

    def probe(answer, shift, x):
        """Both directions, each by itself."""
        layer = answer(shift)
        return {
            "z": lambda: layer.forward(x)[0],
            "log_det": lambda: layer.forward(x)[1],
            "back": lambda: layer.inverse(x)[0],
        }


@exercise("tiny.debug", read="the page, Debugging")
class Debug:
    """A wrong function is given."""

    reference = abs
    parts = {"value": 2}
    mistakes = {
        "the sign is kept": lambda x: x,
        "the square, not the absolute value": lambda x: x**2,
        "the negative of the absolute value": lambda x: -abs(x),
        "the sign alone": torch.sign,
    }

    def draw(rng):
        """Random points of both signs."""
        return {"x": np.concatenate([rng.normal(size=5), [-1.5, 2.5]])}

    def probe(answer, x):
        """One call."""
        return {"value": answer(x)}
