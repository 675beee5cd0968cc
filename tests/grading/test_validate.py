"""`nbgrader validate`: what a student sees before handing in."""

import copy

import nbformat
import pytest


@pytest.fixture
def validate(tiny, tiny_release, root, tmp_path, nbgrader):
    """Fill in answers by exercise, validate; returns the command's output."""

    def run(answers: dict[str, str]) -> str:
        notebook = copy.deepcopy(tiny_release)
        for problem in tiny.problems:
            for cell in notebook.cells:
                if cell.metadata.get("nbgrader", {}).get("grade_id") == problem.answer_id:
                    cell.source = answers.get(problem.exercise, problem.answer)
        path = tmp_path / "tiny.ipynb"
        path.write_text(nbformat.writes(notebook))
        (tmp_path / "numbers.csv").write_text("1,2,3\n")
        return nbgrader("validate", str(path), cwd=root)

    return run


def test_right_answers_pass_even_noisy_ones(validate):
    noisy = (
        "import logging, sys, warnings\n"
        "def size(x):\n"
        "    print('to stderr', file=sys.stderr)\n"
        "    warnings.warn('a warning')\n"
        "    logging.warning('a log')\n"
        "    return abs(x)"
    )
    assert "Success! Your notebook passes all the tests." in validate({"tiny.debug": noisy})


def test_a_wrong_answer_is_explained_and_no_line_is_cut(validate):
    wrong = "def log_det(log_scale, x):\n    return -log_scale.sum().expand(len(x))"
    output = validate({"tiny.log_det": wrong, "tiny.order": "order = ..."})
    assert "VALIDATION FAILED ON 2 CELL(S)" in output
    assert "Diagnosis: your log_det is the negative of the expected one" in output
    assert "not answered yet" in output
    report = output[output.index("The following cell failed") :]
    # nbgrader cuts a line at 87 columns and puts three dots in the place of the rest.
    assert not [line for line in report.splitlines() if line.endswith("...")]
    assert "Traceback" not in report
