"""The two decisions about a test cell, without a kernel and with a small one."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from nbgrader.utils import determine_grade

from flowcourse.grading.preprocessors import Execute, score_problem


def result(text: str):
    return new_output("execute_result", {"text/plain": text})


@pytest.mark.parametrize("text", ["0", "2.5", "3", "3.0", "1e-1"])
def test_a_number_within_the_points_is_a_score(text):
    assert score_problem([result(text)], 3) is None


@pytest.mark.parametrize("text", ["3.1", "-1", "nan", "inf", "-inf", "'3'", "None", "", "3 points"])
def test_anything_else_is_none(text):
    assert score_problem([result(text)], 3)


def test_silence_and_other_outputs_are_no_score():
    assert "0 results" in score_problem([], 3)
    assert "0 results" in score_problem([new_output("stream", text="3")], 3)
    assert "0 results" in score_problem([new_output("display_data", {"text/plain": "3"})], 3)
    assert "2 results" in score_problem([result("3"), result("3")], 3)


def test_an_error_stays_an_error():
    assert score_problem([new_output("error", ename="E", evalue="", traceback=[])], 3) is None


@pytest.fixture(scope="module")
def executed() -> dict[str, nbformat.NotebookNode]:
    sources = {
        "quiet": "2",
        "noisy": "import os, sys\nprint('w', file=sys.stderr)\nos.write(2, b'from C')\n2",
        "silent": "x = 2",
        "endless": "while True:\n    try:\n        while True: pass\n    except ValueError: pass",
        "after": "2",
    }
    notebook = new_notebook()
    for name, source in sources.items():
        cell = new_code_cell(source)
        cell.metadata.nbgrader = {"grade": True, "grade_id": name, "points": 3, "solution": False}
        notebook.cells.append(cell)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST")  # with it, kernels let what C writes pass by
        Execute(timeout=4).preprocess(notebook, {"metadata": {}})
    return {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells}


def test_stderr_costs_nothing_and_is_kept(executed):
    cell = executed["noisy"]
    assert determine_grade(cell) == (2, 3)
    assert "from C" in "".join(o.text for o in cell.outputs if o.output_type == "stream")


def test_no_result_scores_nothing(executed):
    assert determine_grade(executed["silent"]) == (0, 3)
    assert executed["silent"].outputs[0].ename == "NoScore"


def test_a_cell_without_end_is_stopped_and_the_next_one_runs(executed):
    assert determine_grade(executed["quiet"]) == (2, 3)
    assert determine_grade(executed["endless"]) == (0, 3)
    assert determine_grade(executed["after"]) == (2, 3)
