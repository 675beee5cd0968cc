"""The traps of nbgrader 0.9.6, set in submissions and graded by the real `nbgrader autograde`.

One class, one command; every student is a trap. Under nbgrader's own settings each of them is
graded wrongly: silence and tags earn full marks, a warning costs everything, a deleted cell or a
changed flag stops the grading.
"""

import copy
import json

import nbformat
import pytest
from nbgrader.api import Gradebook

from flowcourse.grading.release import main

FULL = {"tiny.log_det": 3, "tiny.order": 1.5, "tiny.shift": 4, "tiny.debug": 2}
ZERO = dict.fromkeys(FULL, 0)

NOISE = """
import logging, os, sys, warnings
print("to stderr", file=sys.stderr)
warnings.warn("a warning")
logging.basicConfig()
logging.warning("a log")
os.write(2, b"from below Python")
from tqdm import tqdm
list(tqdm(range(3)))
"""


def cells_by_id(notebook):
    return {c.metadata.nbgrader.grade_id: c for c in notebook.cells if "nbgrader" in c.metadata}


def is_check(cell):
    return cell.metadata.get("nbgrader", {}).get("grade", False)


def noisy(notebook):
    """Right answers that write to stderr in every way, when called and when the test prints."""
    cells = cells_by_id(notebook)
    body = NOISE.strip().replace("\n", "\n    ")
    for name, args in {"log_det": "log_scale, x", "debug": "x"}.items():
        cell = cells[f"answer-tiny-{name}"]
        bound = {"log_det": "log_det", "debug": "size"}[name]
        cell.source += f"\n_{bound} = {bound}\ndef {bound}({args}):\n    {body}\n"
        cell.source += f"    return _{bound}({args})\n"
    # stderr that no engine can catch: it is written while the test cell runs, not by the answer.
    cells["answer-tiny-shift"].source += (
        "\nimport builtins, os\nbuiltins.print = (lambda p: lambda *a, **k: "
        "(os.write(2, b'noise'), p(*a, **k)))(print)\n"
    )


def silent_tests(notebook):
    """The test function is replaced: it returns nothing, text, too much. It is never called."""
    cells = cells_by_id(notebook)
    for name, value in zip(FULL, ["None", "'fine'", "1000", "float('nan')"], strict=True):
        cells["answer-" + name.replace(".", "-")].source += f"\ncheck = lambda *a: {value}"


def tagged(notebook):
    """Tags that make the execution skip a cell, or ignore its error, on every cell."""
    for cell in notebook.cells:
        cell.metadata.tags = ["skip-execution", "flowcourse-never-skip", "raises-exception"]
        cell.metadata.foreign = {"a": 1}


def tags_as_text(notebook):
    """The tags are a string, so that a search for a tag finds any part of it."""
    for cell in notebook.cells:
        cell.metadata.tags = "skip-execution flowcourse-never-skip"


def without_tests(notebook):
    """Every test, the locked imports and one answer are deleted."""
    gone = ("setup-1", "answer-tiny-order")
    notebook.cells = [
        cell
        for cell in notebook.cells
        if not is_check(cell) and cell.metadata.get("nbgrader", {}).get("grade_id") not in gone
    ]


def empty(notebook):
    """Nothing at all is handed in."""
    notebook.cells = []


def edited_tests(notebook):
    """Tests say what they like, claim more points, are unlocked, are made answers or text."""
    cells = cells_by_id(notebook)
    changes = {
        "log_det": {"source": "3.0"},
        "order": {"source": "1.5", "points": 1000},
        "shift": {"source": "4.0", "solution": True, "locked": False},
        "debug": {"source": "fine", "cell_type": "markdown", "locked": False, "grade": False},
    }
    for name, change in changes.items():
        cell = cells[f"check-tiny-{name}"]
        cell.source = change.pop("source")
        if "cell_type" in change:
            cell.cell_type = change.pop("cell_type")
            del cell["outputs"], cell["execution_count"]
        cell.metadata.nbgrader.update(change)


def copied(notebook):
    """Cells are copied with their metadata: a test before its answer, an old answer before."""
    cells = cells_by_id(notebook)
    old = copy.deepcopy(cells["answer-tiny-order"])
    old.source = "order = ['C', 'C', 'C']"
    early = [cells["check-tiny-shift"], old, cells["check-tiny-order"]]
    for position, cell in enumerate(early, start=1):
        twin = copy.deepcopy(cell)
        # the same id twice, as an editor's copy would not make
        notebook.cells.insert(position, twin)


def odd_metadata(notebook):
    """Metadata of the wrong shape, unknown and borrowed names, an unknown kernel."""
    notebook.metadata = {"kernelspec": {"name": "no-such-kernel", "display_name": "?"}}
    strange = [None, [], {"grade_id": ["x"]}, {"grade_id": "unknown", "grade": True}, {}]
    for value in strange:
        cell = nbformat.v4.new_code_cell("1 + 1", metadata={"nbgrader": value})
        notebook.cells.append(cell)


def old_outputs(notebook):
    """Tests bring their results with them; nothing is answered."""
    for cell in notebook.cells:
        if is_check(cell):
            points = {"text/plain": str(cell.metadata.nbgrader.points)}
            cell.outputs = [nbformat.v4.new_output("execute_result", points)]


def claims(notebook):
    """Every test is tagged to be skipped, edited, and brings a result with it."""
    tagged(notebook)
    old_outputs(notebook)
    edited_tests(notebook)


def disorder(notebook):
    """Copies of cells, and metadata that makes no sense."""
    copied(notebook)
    odd_metadata(notebook)


# student: the notebook that it starts from, what is done to it, and what it must score
CLASS = {
    "noisy": ("solved", noisy, FULL),
    "silent_tests": ("solved", silent_tests, FULL),
    "claims_right": ("solved", claims, FULL),
    "claims_blank": ("blank", claims, ZERO),
    "tags_as_text": ("blank", tags_as_text, ZERO),
    "without_tests": ("solved", without_tests, FULL | {"tiny.order": 0}),
    "empty": ("blank", empty, ZERO),
    "disorder": ("solved", disorder, FULL),
}


@pytest.fixture(scope="module")
def graded(root, tiny, tiny_release, nbgrader):
    """The whole class of traps, graded; returns each student's points by exercise."""
    solved = copy.deepcopy(tiny_release)
    for problem in tiny.problems:
        cells_by_id(solved)[problem.answer_id].source = problem.answer
    starts = {"solved": solved, "blank": tiny_release}
    for student, (start, trap, _) in CLASS.items():
        notebook = copy.deepcopy(starts[start])
        trap(notebook)
        folder = root / "submitted" / student / "tiny"
        folder.mkdir(parents=True)
        (folder / "tiny.ipynb").write_text(json.dumps(notebook))
    (root / "submitted/noisy/tiny/torch.py").write_text("raise SystemError('not torch')")
    (root / "submitted/noisy/tiny/numbers.csv").write_text("changed")
    assert main(["tiny"]) == 0  # as `make exercises`
    nbgrader("generate_assignment", "tiny", cwd=root)
    nbgrader("autograde", "tiny", cwd=root)
    points = {}
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}") as gradebook:
        for student in CLASS:
            grades = gradebook.find_submission_notebook("tiny", "tiny", student).grades
            points[student] = {g.name[6:].replace("-", ".", 1): g.score for g in grades}
    return points


@pytest.mark.parametrize("student", CLASS)
def test_a_trap_changes_no_score(student, graded):
    assert graded[student] == CLASS[student][2]


def test_what_is_kept_of_a_submission(root, graded):
    """No foreign metadata, the course's own data files, no module that hides another."""
    notebook = nbformat.read(root / "autograded/claims_right/tiny/tiny.ipynb", as_version=4)
    assert all(set(cell.metadata) <= {"nbgrader", "execution"} for cell in notebook.cells)
    assert (root / "autograded/noisy/tiny/numbers.csv").read_text() == "1,2,3\n"
    assert not (root / "autograded/noisy/tiny/torch.py").exists()


def test_a_test_cell_shows_what_the_grader_says_and_nothing_else(root, graded):
    notebook = nbformat.read(root / "autograded/noisy/tiny/tiny.ipynb", as_version=4)
    outputs = cells_by_id(notebook)["check-tiny-shift"].outputs
    assert [output.output_type for output in outputs] == ["stream", "execute_result"]
    assert outputs[0].text == "tiny.shift: 4 of 4 points. All correct.\n"
    assert outputs[1].data == {"text/plain": "4"}
