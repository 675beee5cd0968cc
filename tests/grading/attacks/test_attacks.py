"""Attacks on the grader, judged one after the other by the same warm judge.

Each must leave the honest answers their points, earn none itself, be given a reason, leave the
host untouched, and not trouble the submission after it.
"""

import re
from dataclasses import replace

import pytest

from flowcourse.grading.judge import Cell
from tests.grading.attacks import ATTACKS
from tests.grading.attacks.answers_of_tiny import (
    CHECKS,
    FULL,
    HONEST,
    ORDER,
    SIZE,
    points,
    said,
)

TOLD = """
def told(*words): print(*words)
def escaped(*words): print("ESC" + "APED", *words)
def number(x86, other):
    import os
    return x86 if os.uname().machine == "x86_64" else other
"""


@pytest.mark.parametrize(
    "attack", ATTACKS.values(), ids=lambda attack: f"{attack.group}-{attack.name}"
)
def test_attack(attack, judge, host, handed_in):
    known = f"HOST = {host.description(judge)!r}\n{TOLD}"
    cells = [Cell(f"import torch\n{known}"), ORDER, CHECKS["order"], Cell(attack.code)]
    cells += [CHECKS["log_det"], CHECKS["shift"], SIZE, CHECKS["debug"]]
    limits = judge.sandbox.limits
    if attack.endless:
        judge.sandbox.limits = replace(limits, cell_seconds=3)
    verdict = judge.judge(cells, handed_in)
    judge.sandbox.limits = limits
    text = said(verdict)
    earned = points(verdict)
    assert "ESCAPED" not in text, text[:5000]
    assert re.search(attack.shows, text), text[:5000]
    assert (earned["tiny.log_det"], earned["tiny.shift"]) == (0, 0), text[:5000]
    assert earned["tiny.order"] == 1.5
    assert earned["tiny.debug"] in ((2,) if attack.after else (0, 2)), text[:5000]
    for judged in verdict.cells:
        if judged.outcome and judged.outcome.points < judged.outcome.max_points:
            assert judged.outcome.messages
    host.assert_untouched()
    assert points(judge.judge(HONEST)) == FULL


def test_there_are_enough_attacks_and_no_two_alike():
    assert len(ATTACKS) >= 130
    assert len({attack.code for attack in ATTACKS.values()}) == len(ATTACKS)
    groups = {"points", "channel", "answers", "inspection", "host", "resources", "grade"}
    assert {attack.group for attack in ATTACKS.values()} == groups


def test_controls(judge):
    """Nothing, everything, and something wrong, by the judge that has seen all attacks."""
    assert points(judge.judge(HONEST)) == FULL
    assert points(judge.judge(list(CHECKS.values()))) == dict.fromkeys(FULL, 0)
    wrong = Cell("def log_det(log_scale, x):\n    return -log_scale.sum().expand(len(x))")
    verdict = judge.judge([*HONEST[:-4], wrong, *CHECKS.values()])
    assert points(verdict) == FULL | {"tiny.log_det": 0}
    assert "your log_det is the negative" in said(verdict)
