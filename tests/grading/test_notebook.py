"""The format of a problem set's text: what it becomes, and what each broken rule says."""

import re
from pathlib import Path

import nbformat
import pytest

from flowcourse.grading.notebook import SourceError, cleared, read_problem_set
from flowcourse.grading.preprocessors import STUB

TEXT = (Path(__file__).parent / "course/solutions/tiny/tiny.md").read_text()
POINTS = {"tiny.log_det": 3, "tiny.order": 1.5, "tiny.shift": 4, "tiny.debug": 2}


def by_id(notebook):
    return {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells if cell.metadata}


def test_tags_become_nbgraders_metadata():
    notebook = read_problem_set(TEXT, "tiny", POINTS).notebook
    nbformat.validate(notebook)
    cells = by_id(notebook)
    answer, check = cells["answer-tiny-order"], cells["check-tiny-order"]
    flags = ("grade", "solution", "locked")
    assert [answer.metadata.nbgrader[flag] for flag in flags] == [False, True, False]
    assert [check.metadata.nbgrader[flag] for flag in flags] == [True, False, True]
    assert [cells["setup-1"].metadata.nbgrader[flag] for flag in flags] == [False, False, True]
    assert check.metadata.nbgrader.points == 1.5
    assert "points" not in answer.metadata.nbgrader
    demonstration = next(cell for cell in notebook.cells if cell.source.startswith("print("))
    assert demonstration.metadata == {}


def test_points_in_prose_come_from_the_checks():
    notebook = read_problem_set(TEXT, "tiny", POINTS | {"tiny.debug": 1}).notebook
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "Four exercises, 9.5 points." in prose
    assert "## 1. Scales (3 points)" in prose
    assert "## 4. Debug (1 point)" in prose


def test_cell_ids_repeat_and_differ():
    first, second = (read_problem_set(TEXT, "tiny", POINTS).notebook for _ in range(2))
    ids = [cell.id for cell in first.cells]
    assert ids == [cell.id for cell in second.cells]
    assert len(set(ids)) == len(ids)


def test_an_id_stays_when_cells_come_before_it():
    longer = TEXT.replace("## 1.", "Another paragraph.\n\n+++\n\n## 1.", 1)
    before = by_id(read_problem_set(TEXT, "tiny", POINTS).notebook)
    after = by_id(read_problem_set(longer, "tiny", POINTS).notebook)
    assert {k: c.id for k, c in before.items()} == {k: c.id for k, c in after.items()}


def test_other_styles_leave_the_notebook():
    problem_set = read_problem_set(TEXT, "tiny", POINTS)
    assert "class Shift(torch.nn.Module)" in problem_set.problems[2].other_style
    assert all("torch.nn.Module" not in cell.source for cell in problem_set.notebook.cells)


def test_regions_in_functions_become_stubs_and_at_top_level_vanish():
    source = (
        "def f(x):\n    ### BEGIN SOLUTION\n    return x\n    ### END SOLUTION\n"
        "g = ...\n### BEGIN SOLUTION\ng = 3\n### END SOLUTION"
    )
    assert cleared(source) == f"def f(x):\n    {STUB}\ng = ..."


RULES = {
    # what is replaced, by what, and what the message must say
    "syntax": ("log_scale.sum()", "log_scale.sum(", "cell 4 (answer, 'def log_det(log_scale, x):"),
    "unknown tag": ("[answer]", "[answr]", "at most one kind, and only setup, answer"),
    "two kinds": ("[setup]", "[setup, check]", "at most one kind"),
    "display tag on an answer": ("[answer]", "[answer, hide-input]", "are for setup and demonstr"),
    "no title": ("# A small problem set", "A small problem set", "starts with `# Title`"),
    "no setup": (":tags: [setup]\n", "", "first code cell must be tagged `setup`"),
    "no check imported": ("from flowcourse.checks import check", "", "must import check"),
    "unknown exercise": ('"tiny.order"', '"tiny.odor"', "check('tiny.odor'): not declared"),
    "exercise not checked": ('"tiny.order"', '"tiny.odor"', "tiny.order is declared but has no"),
    "checked twice": ('"tiny.order"', '"tiny.shift"', "check('tiny.shift') stands 2 times"),
    "check of two lines": ("order)", "order)\nprint()", "expected exactly one line, check("),
    "check of an expression": ('tiny.order", order', 'tiny.order", order[0]', "exactly one line"),
    "no name in the answer": ('", order)', '", odor)', "does not bind odor, which the check reads"),
    "nothing visible": ("order = ...", "#", "does not bind order once the solution is removed"),
    "end missing": ("    ### END SOLUTION\n```", "```", "between lines `### BEGIN SOLUTION`"),
    "region elsewhere": ("numbers = ", "### BEGIN SOLUTION\nn = ", "outside a cell tagged `answ"),
    "other style misplaced": ("[check]", "[other-style]", "must come directly after the answer"),
    "other style without name": ("log_det = lambda", "l = lambda", "does not bind log_det"),
    "answer without check": (":tags: [check]\n", "", "an answer without its own check cell"),
    "check without answer": (":tags: [answer]\n", "", "a check without an answer cell"),
    "unknown points": ("{{tiny.order.points}}", "{{tiny.odor.points}}", "no such exercise"),
    "leaning answer": ('order = ["B"', 'order = log_det and ["B"', "uses log_det of an earlier"),
    "syntax once cleared": ("order = ...", "if x:", "once the solution is removed"),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule_is_reported(rule):
    old, new, message = RULES[rule]
    assert old in TEXT
    with pytest.raises(SourceError, match=re.escape(message)):
        read_problem_set(TEXT.replace(old, new, 1), "tiny", POINTS)


def test_the_order_of_exercises_is_the_declared_one():
    shuffled = dict(reversed(POINTS.items()))
    with pytest.raises(SourceError, match="expected the declared order"):
        read_problem_set(TEXT, "tiny", shuffled)


def test_another_style_is_required():
    others = re.compile(r"```{code-cell} ipython3\n:tags: \[other-style\].*?```\n", re.DOTALL)
    with pytest.raises(SourceError, match="at least one answer needs a second one"):
        read_problem_set(others.sub("", TEXT), "tiny", POINTS)


def test_all_broken_rules_are_reported_at_once():
    text = TEXT.replace("[setup]", "[sutep]").replace('"tiny.order"', '"tiny.odor"')
    with pytest.raises(SourceError) as caught:
        read_problem_set(text, "tiny", POINTS)
    message = str(caught.value)
    assert message.startswith("solutions/tiny/tiny.md breaks the format of problem sets:\n  - ")
    assert "sutep" in message and "tiny.odor" in message
