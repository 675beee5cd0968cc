"""What is done to a notebook, or put in its place: the real `nbgrader autograde`, and the class.

Every submission gets a grade and a reason, by both commands the same; none stops the others or
costs them a point. Controls are in the same class: honest, blank and wrong.
"""

import copy
import json
import os
import re
import shutil

import nbformat
import pytest
from nbgrader.api import Gradebook

from flowcourse.cli import main
from flowcourse.grading.course import CONFIG, nbgrader_api, succeed
from flowcourse.grading.register import Register
from flowcourse.grading.release import source_files, write
from tests.grading.attacks.answers_of_tiny import FULL

ZERO = dict.fromkeys(FULL, 0)
UNREADABLE = "could not be read"
CELL = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}


def by_id(notebook, name):
    return next(c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == name)


def text(folder, content):
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "tiny.ipynb").write_bytes(data)


def no_json(folder, notebook):
    text(folder, json.dumps(notebook)[:-20])


def empty_file(folder, notebook):
    text(folder, "")


def no_text(folder, notebook):
    text(folder, b"\x80\xff" + json.dumps(notebook).encode("utf-16"))


def no_notebook(folder, notebook):
    text(folder, '["not", "a", "notebook"]')


def no_cells(folder, notebook):
    text(folder, '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}')


def cells_of_no_kind(folder, notebook):
    cells = [None, 3, [], {}, {"cell_type": [1], "source": {"a": 1}}, {"source": ["x", 1]}]
    cells += [{"cell_type": "code", "source": "\ud800", "metadata": {"nbgrader": {"a": [[]]}}}]
    text(folder, json.dumps(notebook | {"cells": [*cells, *notebook.cells]}))


def old_format(folder, notebook):
    text(folder, nbformat.writes(nbformat.convert(notebook, 3), version=3))


def format_of_the_future(folder, notebook):
    text(folder, json.dumps(notebook | {"nbformat": 5}))


def format_that_is_no_number(folder, notebook):
    text(folder, json.dumps(notebook | {"nbformat": "four", "nbformat_minor": []}))


def nested(folder, notebook):
    text(folder, '{"nbformat": 4, "cells": ' + "[" * 100_000)


def folder_in_its_place(folder, notebook):
    (folder / "tiny.ipynb").unlink()
    (folder / "tiny.ipynb").mkdir()


def pipe_in_its_place(folder, notebook):
    (folder / "tiny.ipynb").unlink()
    os.mkfifo(folder / "tiny.ipynb")


def link_in_its_place(folder, notebook):
    (folder / "tiny.ipynb").unlink()
    (folder / "tiny.ipynb").symlink_to("../../honest/tiny/tiny.ipynb")


def larger_than_may_be(folder, notebook):
    with open(folder / "tiny.ipynb", "r+b") as file:
        file.truncate(200 << 30)


def fifty_megabytes_of_output(folder, notebook):
    output = nbformat.v4.new_output("stream", name="stdout", text="0123456789," * (50 << 20 >> 4))
    by_id(notebook, "answer-tiny-order").outputs = [output] * 2
    text(folder, json.dumps(notebook))


def thousands_of_cells(folder, notebook):
    text(
        folder, json.dumps(notebook | {"cells": notebook.cells + [CELL | {"source": ""}] * 30_000})
    )


def a_cell_as_long_as_a_library(folder, notebook):
    cell = CELL | {"source": "# é\n" * (2 << 20)}
    text(folder, json.dumps(notebook | {"cells": [cell, *notebook.cells]}))


def missing_cells(folder, notebook):
    gone = {"check-tiny-order", "answer-tiny-debug", "setup-1"}
    cells = [
        c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") not in gone
    ]
    text(folder, json.dumps(notebook | {"cells": cells}))


def cell_ids_twice(folder, notebook):
    cells = [cell | {"id": "same"} for cell in [*notebook.cells, *notebook.cells[-2:]]]
    text(folder, json.dumps(notebook | {"cells": cells}))


def full_marks_by_metadata(folder, notebook):
    for cell in notebook.cells:
        cell.metadata.tags = ["skip-execution", "flowcourse-never-skip"]
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("grade"):
            marks |= {"points": 1000, "solution": True, "locked": False, "checksum": "0"}
            cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "1000"})]
            cell.source = "1000"
        elif marks.get("solution"):
            cell.source = "pass"
    notebook.metadata.nbgrader = {"score": 10.5, "points": 10.5}
    notebook.metadata.flowcourse_trouble = "nothing is wrong"
    text(folder, json.dumps(notebook))


def failing_import(folder, notebook):
    cell = by_id(notebook, "answer-tiny-shift")
    cell.source = "import a_module_that_does_not_exist\n" + cell.source
    text(folder, json.dumps(notebook))


def ended_by_itself(folder, notebook):
    cell = CELL | {"source": "import os\nos._exit(0)"}
    cells = [*notebook.cells[:6], cell, *notebook.cells[6:]]
    text(folder, json.dumps(notebook | {"cells": cells}))


def strange_files(folder, notebook):
    """Files beside it: with holes, pipes, links, other notebooks, dates that are none."""
    with open(folder / "holes.bin", "wb") as file:
        file.truncate(1 << 40)
    with open(folder / "timestamp.txt", "wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(folder / "pipe.csv")
    (folder / "zero.csv").symlink_to("/dev/zero")
    (folder / "away").symlink_to("/")
    (folder / "scratch.ipynb").write_text("{")
    (folder / "tiny (1).ipynb").write_text(json.dumps(notebook))
    (folder / os.fsdecode(b"\xff\n.csv")).write_text("1")
    (folder / "tiny.html").write_text("<script>alert(1)</script>")
    (folder / "numbers.csv").unlink()
    (folder / "numbers.csv").mkdir()
    (folder / "gradebook.db").write_text("mine")


def untouched(folder, notebook):
    pass


def wrong(folder, notebook):
    by_id(notebook, "answer-tiny-order").source = "order = ['A', 'B', 'C']"
    text(folder, json.dumps(notebook))


# student: what is done, from an honest notebook or (blank) a release; the points; the reason
CLASS = {
    "honest": (untouched, FULL, None),
    "blank": (None, ZERO, None),
    "wrong": (wrong, FULL | {"tiny.order": 0}, None),
    **{
        trap.__name__: (trap, ZERO, UNREADABLE)
        for trap in (
            no_json, empty_file, no_text, no_notebook, no_cells, format_of_the_future,
            format_that_is_no_number, nested, folder_in_its_place, pipe_in_its_place,
            link_in_its_place, larger_than_may_be,
        )
    },
    "cells_of_no_kind": (cells_of_no_kind, FULL, None),
    "old_format": (old_format, FULL, None),
    "fifty_megabytes_of_output": (fifty_megabytes_of_output, FULL, None),
    "thousands_of_cells": (thousands_of_cells, FULL, "of its cells were left out"),
    "a_cell_as_long_as_a_library": (a_cell_as_long_as_a_library, FULL, "1 of its cells were left"),
    "missing_cells": (missing_cells, FULL | {"tiny.debug": 0}, None),
    "cell_ids_twice": (cell_ids_twice, FULL, None),
    "full_marks_by_metadata": (full_marks_by_metadata, ZERO, None),
    "failing_import": (failing_import, FULL | {"tiny.shift": 0}, None),
    "ended_by_itself": (ended_by_itself, FULL, r"its process ended \(exit 0\)"),
    "strange_files": (strange_files, FULL, None),
}  # fmt: skip


@pytest.fixture(scope="module")
def handed_in(walls, root, tiny, tiny_release, tmp_path_factory):
    """A course in which all of them have handed in, and nothing is graded."""
    course = tmp_path_factory.mktemp("course")
    write(source_files(tiny, root), course / "solutions" / "tiny")
    write({CONFIG: f"load_subconfig({str(root / CONFIG)!r})\n".encode()}, course)
    succeed(nbgrader_api(course, root).generate_assignment("tiny"), "releasing tiny")
    honest = copy.deepcopy(tiny_release)
    for problem in tiny.problems:
        by_id(honest, problem.answer_id).source = problem.answer
    for student, (trap, _, _) in CLASS.items():
        folder = course / "submitted" / student / "tiny"
        shutil.copytree(course / "exercises" / "tiny", folder)
        if trap is not None:
            text(folder, json.dumps(honest))
            trap(folder, copy.deepcopy(honest))
    return course


def points_in(course):
    points = {}
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        for student in CLASS:
            grades = gradebook.find_submission_notebook("tiny", "tiny", student).grades
            points[student] = {g.name[6:].replace("-", ".", 1): g.score for g in grades}
            assert not any(grade.needs_manual_grade for grade in grades)
    return points


def expected():
    return {student: points for student, (_, points, _) in CLASS.items()}


def notes(course, student):
    notebook = nbformat.read(course / "autograded" / student / "tiny/tiny.ipynb", as_version=4)
    first = notebook.cells[0].source
    return first if first.startswith("**Notes on the grading**") else ""


@pytest.fixture(scope="module")
def graded(handed_in, nbgrader):
    """The course graded by `nbgrader autograde`, after a copy of it by `flowcourse grade`."""
    again = handed_in.parent / "again"
    shutil.copytree(
        handed_in, again, symlinks=True, ignore=lambda f, names: [n for n in names if special(f, n)]
    )
    for path in handed_in.rglob("*"):
        if special(path.parent, path.name):
            special_copy(path, again / path.relative_to(handed_in))
    assert main(["grade", "tiny", "--course", str(again), "--workers", "2"]) == 0
    nbgrader("autograde", "tiny", cwd=handed_in)
    return handed_in, again


def special(folder, name):
    """What shutil cannot copy, or would fill the disk with."""
    path = os.path.join(folder, name)
    if os.path.islink(path) or os.path.isdir(path):
        return False
    return not os.path.isfile(path) or os.path.getsize(path) > 100 << 20


def special_copy(path, target):
    if path.is_fifo():
        os.mkfifo(target)
    else:
        target.touch()
        os.truncate(target, path.stat().st_size)


def test_nbgrader_gives_each_its_grade(graded):
    assert points_in(graded[0]) == expected()


def test_flowcourse_gives_each_the_same_grade(graded):
    assert points_in(graded[1]) == expected()
    entries = Register(graded[1], "tiny").entries
    assert {student: entry.points for student, entry in entries.items()} == expected()


@pytest.mark.parametrize("student", CLASS)
def test_the_reason_is_given(student, graded):
    reason = CLASS[student][2]
    trouble = "; ".join(Register(graded[1], "tiny").entries[student].troubles)
    page = (graded[1] / f"feedback/{student}/tiny/tiny.html").read_text()
    if reason is None:
        assert not trouble
        assert [notes(course, student) for course in graded] == ["", ""]
        return
    assert re.search(reason, trouble)
    assert all(re.search(reason, notes(course, student)) for course in graded)
    assert re.search(reason, page)
    assert all(str(course) not in page + trouble for course in graded)


def test_what_is_copied_of_strange_files(graded):
    for course in graded:
        kept = {path.name for path in (course / "autograded/strange_files/tiny").iterdir()}
        assert not kept & {"holes.bin", "pipe.csv", "zero.csv", "away", "scratch.ipynb"}
        assert (course / "autograded/strange_files/tiny/numbers.csv").read_text() == "1,2,3\n"
    page = (graded[1] / "feedback/strange_files/tiny/tiny.html").read_text()
    assert "tiny.shift" in page and "alert(1)" not in page
