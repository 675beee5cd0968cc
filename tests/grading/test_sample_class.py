"""The sample class, end to end: submissions, `nbgrader autograde`, grade book, CSV, feedback."""

import csv
import html
import re
from collections import defaultdict

import pytest

from flowcourse.checks import get
from flowcourse.grading.sample_class import Row, main, table

POINTS = {"tiny.log_det": 3, "tiny.order": 1.5, "tiny.shift": 4, "tiny.debug": 2}
ZERO = dict.fromkeys(POINTS, 0)
# Worked out by hand from the parts of tests/grading/course/checks/tiny.py.
EXPECTED = {
    "perfect": POINTS,
    "blank": ZERO,
    "half_done": ZERO | {"tiny.log_det": 3, "tiny.order": 1.5},
    "other_style": POINTS,
    "import_error": POINTS | {"tiny.log_det": 0},
    "mistake_1": ZERO | {"tiny.shift": 2},  # z and log_det are right
    "mistake_2": ZERO | {"tiny.shift": 3},  # z and the way back
    "mistake_3": ZERO | {"tiny.shift": 1},  # log_det alone
    "mistake_4": ZERO | {"tiny.shift": 3},
    "mistake_5": POINTS | {"tiny.shift": 0},  # only this exercise has a fifth mistake
}


@pytest.fixture(scope="module")
def course(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("class") / "course"
    assert main(["--course", str(folder), "--workers", "2"]) == 0
    return folder


def rows(course):
    with open(course / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_score_is_as_worked_out(course):
    scores = defaultdict(dict)
    for row in rows(course):
        scores[row["student"]][row["exercise"]] = float(row["points"])
    assert scores == EXPECTED


def test_the_export_holds_the_same_scores(course, nbgrader):
    nbgrader("export", "--to", "exported.csv", cwd=course)
    assert (course / "exported.csv").read_text() == (course / "grades.csv").read_text()
    with open(course / "grades.csv", newline="") as file:
        exported = {row["student_id"]: row for row in csv.DictReader(file)}
    totals = {student: sum(points.values()) for student, points in EXPECTED.items()}
    assert {student: float(row["score"]) for student, row in exported.items()} == totals
    assert {float(row["max_score"]) for row in exported.values()} == {10.5}


def test_feedback_names_each_mistake(course):
    made = [row for row in rows(course) if row["mistake"]]
    assert len(made) == 17
    for row in made:
        path = course / "feedback" / row["student"] / "tiny/tiny.html"
        page = html.unescape(re.sub(r"<[^>]*>", "", path.read_text()))
        assert "".join(row["mistake"].split()) in "".join(page.split())
        assert row["named"] == "True"
    blank = (course / "feedback/blank/tiny/tiny.html").read_text()
    assert "not answered yet" in blank
    assert "(Score: 0.0 / 10.5)" in blank


def test_the_feedback_of_a_perfect_submission_shows_no_complaint(course):
    page = (course / "feedback/perfect/tiny/tiny.html").read_text()
    assert "(Score: 10.5 / 10.5)" in page
    assert page.count("All correct.") == len(POINTS)
    assert "Diagnosis" not in page


def graded_at(course):
    paths = course.glob("autograded/*/tiny/tiny.ipynb")
    return {path.parts[-3]: path.stat().st_mtime_ns for path in paths}


def test_a_second_run_grades_only_what_is_not_recorded(course, capsys):
    before = graded_at(course)
    command = ["--course", str(course), "--students", "blank", "perfect"]
    assert main(command) == 0
    assert graded_at(course) == before
    # As after a kill: the entry about one submission is torn.
    path = course / "grading/tiny.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    about = [line for line in lines if '"blank"' in line]
    others = [line for line in lines if '"blank"' not in line]
    path.write_text("".join(others) + about[0][:40])
    assert main(command) == 0
    after = graded_at(course)
    assert [name for name in after if after[name] != before[name]] == ["blank"]
    assert "perfect         10.5/10.5" in capsys.readouterr().out


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(FileExistsError, match="choose another folder"):
        main(["--course", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_wrong_score_or_an_unnamed_mistake_is_a_complaint():
    def complaint(points, expected, mistake=None, named=None):
        return Row("t", "s", "t.e", points, 3, expected, mistake, named).complaint

    assert complaint(3, 3) is None
    assert complaint(1, 1, "bits for nats", True) is None
    assert complaint(3, 0) == "s, t.e: 3 points, expected 0"
    assert "did not name the mistake 'bits for nats'" in complaint(1, 1, "bits for nats", False)


def test_the_table_has_a_gap_where_a_student_handed_in_nothing():
    lines = table(
        [
            Row("a", "perfect", "a.x", 2, 2, 2, None, None),
            Row("b", "perfect", "b.x", 1.5, 1.5, 1.5, None, None),
            Row("b", "mistake_1", "b.x", 0, 1.5, 0, "wrong", True),
        ]
    ).splitlines()
    assert [line.split() for line in lines] == [
        ["student", "a", "b"],
        ["perfect", "2/2", "1.5/1.5"],
        ["mistake_1", "-", "0/1.5"],
        ["mistakes", "named", "0/0", "1/1"],
    ]


def test_expected_scores_are_those_of_the_checks_in_process():
    for name in POINTS:
        exercise = get(name)
        for k, mistake in enumerate(exercise.mistakes.values(), start=1):
            assert exercise.evaluate(mistake).points == EXPECTED[f"mistake_{k}"][name]
