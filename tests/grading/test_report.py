"""The class report: what it counts, what it says, and that nothing in it can harm its reader."""

import csv
import re

import pytest
from nbgrader.api import Gradebook

from flowcourse.cli import main
from flowcourse.grading.course import CONFIG
from flowcourse.grading.feedback import address, summary
from flowcourse.grading.register import Entry, Register
from flowcourse.grading.release import load, read, write, write_source
from flowcourse.grading.report import findings, mistakes, page, write_report
from flowcourse.grading.sandbox import what_is_missing
from tests.book.site import Page

EVIL = "<script>alert(1)</script>"
SIGN = "the sign is kept"
MAX = {"tiny.order": 1.5, "tiny.debug": 2.0}
BLANK = ["not answered yet."]
needs_sandbox = pytest.mark.skipif(
    what_is_missing() is not None, reason="no sandbox on this machine: install bubblewrap"
)


def entry(student, order, debug, **other):
    return Entry(student, "d", {"tiny.order": order, "tiny.debug": debug}, MAX, **other)


def a_class():
    entries = [
        entry("ada", 1.5, 2),
        entry("ben", 1.5, 0, diagnoses={"tiny.debug": SIGN}, messages={"tiny.debug": ["value: x"]}),
        entry("cem", 0, 0, diagnoses={"tiny.debug": SIGN}, messages={"tiny.order": BLANK}),
        entry("=dan()", 0.5, 2, messages={"tiny.order": [f"computing it raised E: {EVIL}"]}),
        entry(EVIL, 0, 0, messages={"tiny.order": BLANK, "tiny.debug": BLANK}, troubles=[EVIL]),
    ]
    return {each.student: each for each in entries}


def test_each_exercise_of_each_student_has_a_state():
    states = {(f.student, f.exercise): f.state for f in findings(a_class())}
    assert len(states) == 10
    assert states["ada", "tiny.order"] == states["ada", "tiny.debug"] == "full"
    assert states["ben", "tiny.debug"] == "none"
    assert states["cem", "tiny.order"] == states[EVIL, "tiny.debug"] == "blank"
    assert states["=dan()", "tiny.order"] == "part"


def test_the_commonest_mistake_comes_first_with_those_who_made_it():
    entries = a_class()
    entries["eve"] = entry("eve", 0, 2, diagnoses={"tiny.order": "backwards"})
    found = [(m.name, m.students) for m in mistakes(findings(entries))]
    assert found == [(SIGN, ("ben", "cem")), ("backwards", ("eve",))]


def test_the_page_says_what_to_teach_again():
    text = re.sub(r"<[^>]*>", " ", page("tiny", a_class()))
    assert re.search(rf"2 of 5\s*:\s*{SIGN}", text)
    assert "the page, Debugging" in text
    assert "median 1.5, mean 1.5, from 0 to 3.5; 1 with all" in text
    assert "1 × a mistake that is not in the list" in text


def test_every_student_is_in_one_bar_of_the_histogram():
    bars = re.findall(r"(\d+) to (\d+) %: (\d+) student", page("tiny", a_class()))
    counts = {int(low): int(n) for low, _, n in bars}
    # 3.5, 1.5, 0, 2.5 and 0 of 3.5 points.
    assert counts == dict.fromkeys(range(0, 100, 10), 0) | {0: 2, 40: 1, 70: 1, 90: 1}


def test_the_page_is_harmless_and_asks_no_other_host(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page("tiny", a_class()))
    tags = Page(path).tags
    assert "script" not in {tag for tag, _ in tags}
    assert not [a for _, a in tags if set(a) & {"src", "href"} or any(n[:2] == "on" for n in a)]
    assert "default-src 'none'" in path.read_text()
    # As text: the reason of one student; another's name in the list of troubles, with the trouble,
    # and in the table.
    assert Page(path).text.count(EVIL) == 4


def test_one_student_and_no_mistake_make_a_page_too():
    text = page("tiny", {"ada": entry("ada", 1.5, 2)})
    assert "1 submission," in text
    assert "For the next lecture" not in text and "Troubles" not in text


def test_an_exercise_that_is_gone_is_no_obstacle():
    old = Entry("ada", "d", {"tiny.gone": 0}, {"tiny.gone": 1}, {"tiny.gone": "a mistake"})
    assert "no such exercise today" in page("tiny", {"ada": old})


@pytest.fixture
def course(root, tmp_path):
    """A course folder whose grade book and register hold the class."""
    register = Register(tmp_path, "tiny")
    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db") as gradebook:
        gradebook.add_assignment("tiny")
        gradebook.add_notebook("tiny", "tiny")
        gradebook.add_grade_cell("all", "tiny", "tiny", max_score=3.5, cell_type="code")
        for each in a_class().values():
            register.add(each)
            gradebook.add_student(each.student, lms_user_id="77", email="a@b.example")
            submission = gradebook.add_submission("tiny", each.student)
            grade = submission.notebooks[0].grades[0]
            grade.auto_score = each.total
            if each.student == "ada":
                grade.manual_score, submission.notebooks[0].late_submission_penalty = 3.0, 1.0
        gradebook.db.commit()
    return tmp_path


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_tables_hold_what_other_programs_import(course, root):
    _, exercises, canvas, moodle = write_report("tiny", course, root)
    found = rows(exercises)
    assert len(found) == 10
    assert [row["state"] for row in found if row["student"] == "ada"] == ["all points"] * 2
    assert [row["diagnosis"] for row in found if row["student"] == "ben"] == ["", SIGN]
    # A spreadsheet must not run what a student is called.
    assert {row["student"] for row in found} == {"ada", "ben", "cem", "'=dan()", EVIL}
    possible, *students = rows(canvas)
    assert possible["Student"].strip() == "Points Possible" and possible["tiny"] == "3.5"
    scores = {row["SIS Login ID"]: float(row["tiny"]) for row in students}
    assert scores["ada"] == 2.0  # changed by hand to 3, and one point off for being late
    assert scores["ben"] == 1.5 and students[0]["ID"] == "77"
    assert {row["Username"]: float(row["tiny"]) for row in rows(moodle)} == scores


def test_the_command_says_where_the_report_is(course, root, capsys):
    assert main(["report", "tiny", "--course", str(course)]) == 0
    assert "grading/tiny.html" in capsys.readouterr().out
    assert main(["report", "other", "--course", str(course)]) == 2
    assert "grade first, with flowcourse grade other" in capsys.readouterr().err


# What a student sees first


def test_the_summary_of_feedback_names_right_parts_mistakes_and_sections(tiny):
    from flowcourse.checks import get

    shift = get("tiny.shift")
    wrong = [shift.evaluate(answer) for answer in shift.mistakes.values()]
    outcomes = [shift.evaluate(shift.reference), *wrong, get("tiny.order").unanswered]
    lines = summary(outcomes).splitlines()[3:-2]
    assert len(lines) == len(outcomes)
    assert "4/4" in lines[0] and "z, log_det, back" in lines[0] and "Read again" not in lines[0]
    for line, outcome in zip(lines[1:-1], wrong, strict=True):
        assert outcome.diagnosis in line and "Read again: the page, Shifts" in line
    assert "not answered yet." in lines[-1]


def test_sections_are_links_where_the_address_of_the_book_is_known():
    read = "book/coupling/nice.md#nice-scale"
    assert address(read, "https://example.org") == (
        "https://example.org/book/coupling/nice.html#nice-scale"
    )
    assert address(read, "") is None and address("the page", "https://example.org") is None


@needs_sandbox
def test_the_feedback_of_a_broken_notebook_says_why_it_has_no_points(root, nbgrader, tmp_path):
    """By nbgrader's own commands: its reader of submissions must be this course's."""
    (tmp_path / CONFIG).write_text(f"load_subconfig({str(root / CONFIG)!r})\n")
    write(read(root / "solutions" / "tiny"), tmp_path / "solutions" / "tiny")
    write_source(load("tiny", root), tmp_path)
    nbgrader("generate_assignment", "tiny", cwd=tmp_path)
    write({"tiny.ipynb": b'{"cells": ['}, tmp_path / "submitted" / "ada" / "tiny")
    nbgrader("autograde", "tiny", cwd=tmp_path)
    nbgrader("generate_feedback", "tiny", cwd=tmp_path)
    text = Page(tmp_path / "feedback/ada/tiny/tiny.html").text
    assert "the notebook could not be read (JSONDecodeError" in text
    assert "Score: 0.0 / 10.5" in text
