"""Answers to the problem set `tiny`, as cells, and what a judge makes of them."""

import json
import re

from flowcourse.grading.judge import Cell

__all__ = ["CHECKS", "FULL", "HONEST", "ORDER", "SIZE", "points", "said"]

ORDER = Cell("order = ['B', 'A', 'C']")
LOG_DET = Cell("def log_det(log_scale, x):\n    return log_scale.sum().expand(len(x))")
SHIFT = Cell(
    "class Shift:\n"
    "    def __init__(self, shift): self.shift = shift\n"
    "    def forward(self, x): return x + self.shift, x.new_zeros(len(x))\n"
    "    def inverse(self, z): return z - self.shift, z.new_zeros(len(z))"
)
SIZE = Cell('def size(x):\n    """Absolute values."""\n    return torch.where(x > 0, x, -x)')
CHECKS = {
    name: Cell("", f"tiny.{name}", answer)
    for name, answer in (
        ("log_det", "log_det"),
        ("order", "order"),
        ("shift", "Shift"),
        ("debug", "size"),
    )
}
HONEST = [Cell("import torch"), ORDER, LOG_DET, SHIFT, SIZE, *CHECKS.values()]
FULL = {"tiny.log_det": 3, "tiny.order": 1.5, "tiny.shift": 4, "tiny.debug": 2}


def points(verdict):
    outcomes = [judged.outcome for judged in verdict.cells if judged.outcome]
    return {outcome.name: outcome.points for outcome in outcomes}


def said(verdict):
    """All that the grader has to say of a submission, as it would be written to a file."""
    parts = [judged.outputs for judged in verdict.cells]
    parts += [str(judged.outcome) for judged in verdict.cells if judged.outcome]
    text = json.dumps([parts, verdict.troubles], ensure_ascii=False)
    assert text.encode()  # it can be written
    return re.sub(r"(\\n)? +", " ", text)  # outcomes are wrapped
