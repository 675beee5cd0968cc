"""What the answers to the problem set on neural spline flows must satisfy.

The mistakes are wrong on purpose. Their names are what a student reads.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from flowcourse.autoregressive_flows import splines
from flowcourse.autoregressive_flows.splines_circle import wrapped
from flowcourse.checks import exercise
from flowcourse.checks.compare import close

# Topics that an answer may import, besides the modules that all topics share.
MAY_USE = ("change_of_variables", "likelihood", "nice", "realnvp", "made")

CHAPTER = "book/autoregressive_flows/splines.md"


# 1. Knots


def _knots(
    floor=lambda share, smallest: smallest + (1 - smallest * share.shape[1]) * share,
    softmax=lambda raw: raw.softmax(dim=1),
    place=lambda share, bound: F.pad(2 * bound * share.cumsum(dim=1), (1, 0)) - bound,
):
    def knots(raw, bound, smallest):
        return place(floor(softmax(raw), smallest), bound)

    return knots


@exercise(
    "splines.knots",
    read=f"{CHAPTER}#splines-knots",
    hint="widths are positive and add up to the whole interval: softmax, floor, cumulative sum.",
)
class Knots:
    reference = splines.spread
    parts = {"knots": 2, "extreme": 1}
    mistakes = {
        "there is no smallest width: where softmax rounds to 0, a bin has none": _knots(
            floor=lambda share, smallest: share
        ),
        "the floor is added and nothing is taken away for it: the last knot lies beyond B": _knots(
            floor=lambda share, smallest: smallest + share
        ),
        "a width below the floor is raised to it and the others stay: the last knot lies beyond "
        "B": _knots(floor=lambda share, smallest: share.clamp(min=smallest)),
        "the softmax runs over the batch: whose widths add up to the interval?": _knots(
            softmax=lambda raw: raw.softmax(dim=0)
        ),
        "the first knot is missing: K bins have K + 1 ends": _knots(
            place=lambda share, bound: 2 * bound * share.cumsum(dim=1) - bound
        ),
        "the knots run from 0 to 2B": _knots(
            place=lambda share, bound: F.pad(2 * bound * share.cumsum(dim=1), (1, 0))
        ),
        "the knots run from -B to 0: how long is the interval?": _knots(
            place=lambda share, bound: F.pad(bound * share.cumsum(dim=1), (1, 0)) - bound
        ),
        "these are the widths, and not where the bins begin": _knots(
            place=lambda share, bound: F.pad(2 * bound * share, (1, 0)) - bound
        ),
    }

    def draw(rng):
        batch, bins = int(rng.integers(3, 6)), int(rng.integers(4, 9))
        raw = rng.normal(size=(batch, bins))
        extreme = 40 * rng.normal(size=(batch, bins))
        extreme[:, 1] -= 2000
        return {
            "raw": raw,
            "extreme": extreme,
            "bound": float(rng.uniform(2, 5)),
            "smallest": float(rng.uniform(0.02, 0.1)),
        }

    def probe(answer, raw, extreme, bound, smallest):
        return {
            "knots": lambda: answer(raw.clone(), bound, smallest),
            "extreme": lambda: answer(extreme.clone(), bound, smallest),
        }


# 2. and 3. One bin, both ways


def draw_bins(rng, n):
    """Bins with slopes at their ends, as numbers named x0, w, z0, h, d0, d1, and a share."""
    w, h = rng.uniform(0.3, 2, size=(2, n))
    slopes = np.exp(rng.normal(size=(2, n)))
    x0, z0 = rng.normal(size=(2, n))
    return dict(x0=x0, w=w, z0=z0, h=h, d0=slopes[0], d1=slopes[1]), rng.uniform(0.05, 0.95, n)


def forward_by_hand(
    x, x0, w, z0, h, d0, d1, *, power=2, inner=lambda s: s, start=True, secant=True, theta_of=None
):
    s = h / w
    theta = (x - x0) / w if theta_of is None else theta_of(x, x0, w)
    t = theta * (1 - theta)
    below = s + (d0 + d1 - 2 * s) * t
    z = h * (s * theta**2 + d0 * t) / below
    slope = d1 * theta**2 + 2 * inner(s) * t + d0 * (1 - theta) ** 2
    log_slope = slope.log() - power * below.log() + (2 * s.log() if secant else 0)
    return (z + z0 if start else z), log_slope


def _forward(**options):
    def bin_forward(x, x0, w, z0, h, d0, d1):
        return forward_by_hand(x, x0, w, z0, h, d0, d1, **options)

    return bin_forward


def slopes_swapped(x, x0, w, z0, h, d0, d1):
    return forward_by_hand(x, x0, w, z0, h, d1, d0)


def slope_not_logarithm(x, x0, w, z0, h, d0, d1):
    z, log_slope = forward_by_hand(x, x0, w, z0, h, d0, d1)
    return z, log_slope.exp()


@exercise(
    "splines.bin_forward",
    read=f"{CHAPTER}#splines-bin",
    hint="at theta = 0 the slope has to be d0, at theta = 1 it has to be d1: try both.",
)
class BinForward:
    reference = staticmethod(_forward())
    parts = {"z": 2, "log_slope": 2}
    mistakes = {
        "the slopes of the two ends are exchanged: d0 is the left one": slopes_swapped,
        "z starts at 0 in every bin: how high is the curve where the bin begins?": _forward(
            start=False
        ),
        "theta is x - x0, and not its share of the width": _forward(
            theta_of=lambda x, x0, w: x - x0
        ),
        "log_slope has the denominator once: the quotient rule squares it": _forward(power=1),
        "log_slope lacks the factor s^2: at theta = 0 it should be log d0": _forward(secant=False),
        "the middle term of the slope is 2 theta (1 - theta): it has a factor s": _forward(
            inner=torch.ones_like
        ),
        "that is the slope, and not its logarithm": slope_not_logarithm,
    }

    def draw(rng):
        bins, share = draw_bins(rng, int(rng.integers(6, 12)))
        return {"x": bins["x0"] + share * bins["w"], **bins}

    def probe(answer, x, x0, w, z0, h, d0, d1):
        def moved(part):
            return lambda: answer(*(v.clone() for v in (x, x0, w, z0, h, d0, d1)))[part]

        return {"z": moved(0), "log_slope": moved(1)}


def coefficients(v, s, h, d0, d1):
    m = d0 + d1 - 2 * s
    return v * m + h * (s - d0), h * d0 - v * m, -s * v


def clamped(a, b, c):
    return 2 * c / (-b - (b**2 - 4 * a * c).clamp(min=0).sqrt())


def inverse_by_hand(z, x0, w, z0, h, d0, d1, *, root=clamped, sign=-1, scale=True, at=None):
    s = h / w
    theta = root(*coefficients(z - z0, s, h, d0, d1))
    place = theta if at is None else at(z, z0, h)
    _, log_slope = forward_by_hand(x0 + w * place, x0, w, z0, h, d0, d1)
    return x0 + (w * theta if scale else theta), sign * log_slope


def stable_inverse(z, x0, w, z0, h, d0, d1):
    s = h / w
    theta = splines.invert_rise((z - z0) / h, d0 / s, d1 / s)
    return x0 + w * theta, -splines.rise(theta, d0 / s, d1 / s)[1] - s.log()


def _inverse(**options):
    def bin_inverse(z, x0, w, z0, h, d0, d1):
        return inverse_by_hand(z, x0, w, z0, h, d0, d1, **options)

    return bin_inverse


# A steep bin in single precision, just below its upper knot: h, v = z - z0, s, d0 and d1. The
# printed discriminant rounds to less than zero, at every scale that is a power of two.
STEEP = np.array(
    [0.9828721880912781, 0.9828721284866333, 36.783138275146484, 0.29661035537719727, 1.2e-3],
    dtype=np.float32,
)


@exercise(
    "splines.bin_inverse",
    read=f"{CHAPTER}#splines-inverse",
    hint="bring the equation to a theta^2 + b theta + c = 0, and divide by what does not vanish.",
)
class BinInverse:
    reference = stable_inverse
    parts = {"x": 2, "log_slope": 1, "straight": 1, "single": 1}
    compare = {"single": close(1e-3)}
    mistakes = {
        "that is the other root, which lies outside of the bin": _inverse(
            root=lambda a, b, c: 2 * c / (-b + (b**2 - 4 * a * c).clamp(min=0).sqrt())
        ),
        "bins that are lines give NaN: what is the leading coefficient of their equation? Divide "
        "by something else": _inverse(
            root=lambda a, b, c: (-b + (b**2 - 4 * a * c).clamp(min=0).sqrt()) / (2 * a)
        ),
        "in single precision a discriminant has rounded to less than zero, and the result is NaN": (
            _inverse(root=lambda a, b, c: 2 * c / (-b - (b**2 - 4 * a * c).sqrt()))
        ),
        "log_slope is that of the other direction": _inverse(sign=1),
        "x is x0 + theta: theta is a share of the width": _inverse(scale=False),
        "the slope is taken at the share of the height: it is a function of theta": _inverse(
            at=lambda z, z0, h: (z - z0) / h
        ),
        "the discriminant is b^2 + 4ac": _inverse(
            root=lambda a, b, c: 2 * c / (-b - (b**2 + 4 * a * c).clamp(min=0).sqrt())
        ),
    }

    def draw(rng):
        bins, share = draw_bins(rng, int(rng.integers(6, 12)))
        h, v, s, d0, d1 = STEEP
        unit = np.float32(2.0 ** int(rng.integers(-3, 4)))
        return {
            "z": bins["z0"] + share * bins["h"],
            **bins,
            "single": np.array([v * unit, 0, h * unit / s, 0, h * unit, d0, d1], dtype=np.float32),
        }

    def probe(answer, z, x0, w, z0, h, d0, d1, single):
        def moved(part):
            return lambda: answer(*(v.clone() for v in (z, x0, w, z0, h, d0, d1)))[part]

        def straight():
            return answer(z.clone(), x0.clone(), h.clone(), z0.clone(), h.clone(), *2 * [h / h])[0]

        return {
            "x": moved(0),
            "log_slope": moved(1),
            "straight": straight,
            "single": lambda: answer(*single.clone()[:, None])[0] / single[2],
        }


# 4. Tails


def tails_by_hand(spline, x, bound):
    inside = x.clamp(-bound, bound)
    z, log_slope = spline(inside)
    outside = x != inside
    return torch.where(outside, x, z), torch.where(outside, 0, log_slope).sum(dim=1)


def chosen_afterwards(spline, x, bound):
    z, log_slope = spline(x)
    outside = x.abs() > bound
    return torch.where(outside, x, z), torch.where(outside, 0, log_slope).sum(dim=1)


def ends_repeated(spline, x, bound):
    z, log_slope = spline(x.clamp(-bound, bound))
    return z, torch.where(x.abs() > bound, 0, log_slope).sum(dim=1)


def slope_of_the_end(spline, x, bound):
    z, log_slope = spline(x.clamp(-bound, bound))
    return torch.where(x.abs() > bound, x, z), log_slope.sum(dim=1)


def one_side_only(spline, x, bound):
    inside = x.clamp(-bound, bound)
    z, log_slope = spline(inside)
    return torch.where(x > bound, x, z), torch.where(x > bound, 0, log_slope).sum(dim=1)


def not_summed(spline, x, bound):
    inside = x.clamp(-bound, bound)
    z, log_slope = spline(inside)
    return torch.where(x != inside, x, z), torch.where(x != inside, 0, log_slope)


def zero_outside(spline, x, bound):
    z, log_det = tails_by_hand(spline, x, bound)
    return torch.where(x.abs() > bound, 0, z), log_det


@exercise(
    "splines.tails",
    read=f"{CHAPTER}#splines-tails",
    hint="torch.where chooses values. Both gradients are computed, and 0 times infinity is NaN.",
)
class Tails:
    reference = tails_by_hand
    parts = {"z": 1, "log_det": 1, "gradient": 2}
    mistakes = {
        "the gradient is NaN: what you did not choose was computed all the same, where the spline "
        "has no value": chosen_afterwards,
        "outside, z stays at the bound: all of the tail goes to one point": ends_repeated,
        "outside, log_det counts the slope at the end of the spline: what is that of the "
        "identity?": slope_of_the_end,
        "the left tail is missing": one_side_only,
        "log_det has one entry for each number: how many determinants has one example?": not_summed,
        "outside, z is 0: the identity gives x back": zero_outside,
    }

    def draw(rng):
        bound = float(rng.uniform(1, 3))
        x = rng.uniform(-0.95, 0.95, size=(5, 3)) * bound
        x[0, 0], x[1, 1], x[2, 2], x[2, 0] = bound * np.array([-1.5, 1.4, 40.0, -30.0])
        return {"x": x, "bound": bound, "bend": float(rng.uniform(0.3, 0.7))}

    def probe(answer, x, bound, bend):
        import torch

        def spline(x):
            """From -bound to bound with a root in it, which has no value outside."""
            left = (bound + x).sqrt()
            share = left / (left + (bound - x).sqrt())
            z = bound * (bend * (2 * share - 1) + (1 - bend) * x / bound)
            return z, bend * share + bend - x / bound

        def gradient():
            y = x.clone().requires_grad_()
            z, log_det = answer(spline, y, bound)
            return torch.autograd.grad(z.sum() + log_det.sum(), y)[0][x.abs() > bound]

        return {
            "z": lambda: answer(spline, x.clone(), bound)[0],
            "log_det": lambda: answer(spline, x.clone(), bound)[1],
            "gradient": gradient,
        }


# 5. The ends of a quadratic spline


def _ends(rule):
    def end_slopes(widths, inner):
        c = rule(widths, inner)[:, None]
        slopes = torch.cat([c, inner, c], dim=1)
        area = ((slopes[:, :-1] + slopes[:, 1:]) / 2 * widths).sum(dim=1, keepdim=True)
        return slopes / area

    return end_slopes


def between(widths, inner):
    return ((inner[:, :-1] + inner[:, 1:]) / 2 * widths[:, 1:-1]).sum(dim=1)


def right_ends(widths, inner, half=0.5, share=0.5):
    first, last = widths[:, 0], widths[:, -1]
    middle = share * (first * inner[:, 0] + last * inner[:, -1]) + between(widths, inner)
    return middle / (1 - half * (first + last))


def left_at_1(widths, inner):
    one = torch.ones_like(inner[:, :1])
    slopes = torch.cat([one, inner, one], dim=1)
    area = ((slopes[:, :-1] + slopes[:, 1:]) / 2 * widths).sum(dim=1, keepdim=True)
    return torch.cat([one, inner / area, one], dim=1)


def not_divided(widths, inner):
    c = right_ends(widths, inner)[:, None]
    return torch.cat([c, inner, c], dim=1)


@exercise(
    "splines.end_slopes",
    read=f"{CHAPTER}#splines-family",
    hint="with c at both ends the area is c times something plus something: it has to be c.",
)
class EndSlopes:
    reference = staticmethod(_ends(right_ends))
    parts = {"slopes": 2, "area": 1, "ends": 1}
    mistakes = {
        "the half of a trapezoid is taken twice: the end slopes are not 1 after the division": (
            _ends(lambda widths, inner: right_ends(widths, inner, half=0.25, share=0.25))
        ),
        "the bins at the ends count in full: a trapezoid has half of each side": _ends(
            lambda widths, inner: right_ends(widths, inner, half=1.0, share=1.0)
        ),
        "the ends get the mean of the inner slopes, and are not 1 after the division": _ends(
            lambda widths, inner: inner.mean(dim=1)
        ),
        "the ends are 1 before the division, and not after it": _ends(
            lambda widths, inner: torch.ones_like(inner[:, 0])
        ),
        "the ends are 1, but the area is not: the spline does not end at the bound": left_at_1,
        "nothing is divided by the area": not_divided,
        "the bins at the ends are left out of the area": _ends(between),
    }

    def draw(rng):
        batch, bins = int(rng.integers(3, 6)), int(rng.integers(4, 8))
        return {
            "widths": rng.dirichlet(np.full(bins, 3.0), size=batch),
            "inner": np.exp(rng.normal(size=(batch, bins - 1)) + 0.7),
        }

    def probe(answer, widths, inner):
        def slopes():
            return answer(widths.clone(), inner.clone())

        def area():
            v = slopes()
            return ((v[:, :-1] + v[:, 1:]) / 2 * widths).sum(dim=1)

        return {"slopes": slopes, "area": area, "ends": lambda: slopes()[:, [0, -1]]}


# 6. The circle


def _circle(before=wrapped, after=wrapped, turn_first=False, sign=1, adds_turn=False):
    def on_the_circle(spline, x, turn):
        if turn_first:
            z, log_slope = spline(before(x + sign * turn))
            return after(z), log_slope
        z, log_slope = spline(before(x))
        return after(z + sign * turn), log_slope + (turn if adds_turn else 0)

    return on_the_circle


def with_fmod(angle):
    return torch.fmod(angle + math.pi, 2 * math.pi) - math.pi


@exercise(
    "splines.circle",
    read=f"{CHAPTER}#splines-circle",
    hint="an angle and the same angle plus a whole turn are one point: both have to give the same.",
)
class Circle:
    reference = staticmethod(_circle())
    parts = {"z": 2, "log_slope": 1, "whole_turns": 1}
    mistakes = {
        "z leaves the interval from -pi to pi": _circle(after=lambda angle: angle),
        "x is not brought to the interval before the spline, which knows no other angles": _circle(
            before=lambda angle: angle
        ),
        "z runs from 0 to 2 pi": _circle(after=lambda a: torch.remainder(a, 2 * math.pi)),
        "negative angles end up below -pi: the remainder of a negative number is negative with "
        "fmod, and not with remainder": _circle(before=with_fmod, after=with_fmod),
        "the turn comes before the spline": _circle(turn_first=True),
        "the turn goes the wrong way round": _circle(sign=-1),
        "log_slope counts the turn: what does a turn do to lengths?": _circle(adds_turn=True),
        "angles outside are moved to the end of the interval: that is another point": _circle(
            before=lambda angle: angle.clamp(-math.pi, math.pi)
        ),
    }

    def draw(rng):
        return {
            "x": np.pi * rng.uniform(-0.98, 0.98, size=12),
            "turns": 2 * np.pi * rng.permutation(np.repeat([-2, -1, 1, 2], 3)),
            "turn": float(rng.uniform(1, 3)),
            "bend": float(rng.uniform(0.3, 0.8)),
        }

    def probe(answer, x, turns, turn, bend):
        import torch

        def spline(x):
            return x + bend * torch.sin(x), torch.log(1 + bend * torch.cos(x))

        def bounded(x):
            """As a spline is: outside of the interval it is another function."""
            z, log_slope = spline(x)
            outside = x.abs() > torch.pi + 1e-9
            return torch.where(outside, 0.5 * x, z), torch.where(outside, 0.3, log_slope)

        return {
            # In both directions: some angles leave the interval at either end.
            "z": lambda: torch.cat([answer(bounded, x.clone(), t)[0] for t in (turn, -turn)]),
            "log_slope": lambda: answer(bounded, x.clone(), turn)[1],
            "whole_turns": lambda: answer(bounded, x + turns, turn)[0],
        }


# 7. Debug


class Debugged:
    """A spline through all of its bins, in pieces, so that each bug changes one of them."""

    skipped, same_slope, power = 0, False, 2

    def __init__(self, x_knots, z_knots, slopes):
        self.x, self.z, self.slopes = x_knots, z_knots, slopes

    def forward(self, x):
        k = (self.x[1:-1] <= x[:, None]).sum(dim=1) + self.skipped
        k = k.clamp(max=len(self.x) - 2)
        w, h = self.x[k + 1] - self.x[k], self.z[k + 1] - self.z[k]
        right = self.slopes[k] if self.same_slope else self.slopes[k + 1]
        return forward_by_hand(
            x, self.x[k], w, self.z[k], h, self.slopes[k], right, power=self.power
        )


def bugs(**changed):
    return type("Buggy", (Debugged,), changed)


@exercise(
    "splines.debug",
    read=f"{CHAPTER}#splines-code",
    hint="compare log_slope with autograd, and look at the curve at its knots.",
)
class Debug:
    reference = Debugged
    parts = {"z": 2, "log_slope": 1, "at_knots": 1}
    mistakes = {
        "all three bugs are still there": bugs(skipped=1, same_slope=True, power=1),
        "each number is sent to the bin after its own: which knots have been passed in the first "
        "bin?": bugs(skipped=1),
        "both ends of a bin have the slope of the left one, so the slope jumps": bugs(
            same_slope=True
        ),
        "log_slope has the denominator once: the quotient rule squares it": bugs(power=1),
        "the bin and the slope of its right end are still wrong": bugs(skipped=1, same_slope=True),
        "the bin and the logarithm of the slope are still wrong": bugs(skipped=1, power=1),
        "the right end's slope and the logarithm of the slope are still wrong": bugs(
            same_slope=True, power=1
        ),
    }

    def draw(rng):
        bins = int(rng.integers(4, 7))
        x, z = (np.cumsum(rng.uniform(0.4, 1.6, size=bins + 1)) - 3 for _ in range(2))
        # Some numbers in each bin.
        inside = x[:-1, None] + np.diff(x)[:, None] * rng.uniform(0.1, 0.9, size=(bins, 3))
        return {
            "x_knots": x,
            "z_knots": z,
            "slopes": np.exp(rng.normal(size=bins + 1)),
            "x": inside.reshape(-1),
        }

    def probe(answer, x_knots, z_knots, slopes, x):
        def spline():
            return answer(x_knots.clone(), z_knots.clone(), slopes.clone())

        return {
            "z": lambda: spline().forward(x.clone())[0],
            "log_slope": lambda: spline().forward(x.clone())[1],
            "at_knots": lambda: spline().forward(x_knots[:-1].clone())[0],
        }
