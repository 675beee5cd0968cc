"""How a verdict gets into a notebook, and how what was handed in gets out of one."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbgrader.utils import determine_grade

from flowcourse.checks import Outcome
from flowcourse.grading.judge import Judged, Verdict
from flowcourse.grading.preprocessors import enter, plan, preload
from flowcourse.grading.submission import TROUBLE, check_of


def test_cell(grade_id="t", points=3):
    cell = new_code_cell('check("tiny.shift", Shift)')
    cell.metadata.nbgrader = {
        "grade": True, "grade_id": grade_id, "points": points, "solution": False, "locked": True,
    }  # fmt: skip
    return cell


test_cell.__test__ = False  # makes a cell; is no test


def test_nbgrader_reads_the_points_and_a_student_the_reasons():
    outcome = Outcome("tiny.shift", 1.5, 3, ("x: largest error 2.",), "it adds twice")
    notebook = new_notebook(cells=[new_code_cell("x = 1"), test_cell()])
    output = {"output_type": "stream", "name": "stdout", "text": "hi"}
    enter(Verdict([Judged([output]), Judged(outcome=outcome)], [], 0, 0.1), notebook)
    assert determine_grade(notebook.cells[1]) == (1.5, 3)
    assert "Diagnosis: it adds twice" in notebook.cells[1].outputs[0].text
    assert notebook.cells[0].outputs == [output]
    nbformat.validate(notebook)


def test_troubles_stand_at_the_top():
    notebook = new_notebook(cells=[new_code_cell("x")], metadata={TROUBLE: "not readable"})
    enter(Verdict([Judged()], ["cell 1: it ran too long"], 0, 0.1), notebook)
    assert notebook.cells[0].cell_type == "markdown" and TROUBLE not in notebook.metadata
    assert notebook.cells[0].source.splitlines()[2:] == [
        "- not readable",
        "- cell 1: it ran too long",
    ]


def test_a_plan_runs_cells_and_decides_checks():
    answer = new_code_cell("class Shift: pass")
    cells = plan(new_notebook(cells=[new_markdown_cell("text"), answer, test_cell()]))
    assert [(cell.exercise, cell.answer) for cell in cells] == [
        (None, None),
        ("tiny.shift", "Shift"),
    ]


@pytest.mark.parametrize(
    "source", ["3.0", "", "check(", "check('a.b', X, 1)", "check('a.b', X)\n3", "check('a.b', f())"]
)
def test_a_test_cell_that_is_no_check_is_refused(source):
    with pytest.raises(ValueError, match="one line, check"):
        check_of(source)


def test_only_what_the_instructor_imports_is_imported_beforehand():
    ours = new_code_cell("import math\nfrom flowcourse import data, plot")
    ours.metadata.nbgrader = {"locked": True, "grade": False}
    theirs = new_code_cell("import antigravity")
    assert preload(new_notebook(cells=[ours, theirs])) == [
        "math",
        "flowcourse.data",
        "flowcourse.plot",
    ]
