"""The audit trail: what is recorded of a grade, and that it is enough to give the grade again."""

import hashlib
import json
import shutil

import pytest

from flowcourse.cli import main
from flowcourse.grading import audit, reproduce
from flowcourse.grading.classroom import GradingError
from flowcourse.grading.course import CONFIG, nbgrader_api, succeed
from flowcourse.grading.register import Register
from flowcourse.grading.release import source_files, write

# Points that hang on chance: the global generators, and the hash of a word.
RANDOM = """
import random, numpy, torch
def log_det(log_scale, x):
    lucky = hash("word") % 7 + random.random() + numpy.random.rand() + float(torch.rand(()))
    return torch.full((len(x),), lucky, dtype=x.dtype)
"""
ANSWERS = {
    "ada": {"answer-tiny-order": "order = ['B', 'A', 'C']"},
    "ben": {"answer-tiny-log_det": RANDOM, "answer-tiny-order": "order = ['A', 'B', 'C']"},
}


@pytest.fixture(scope="module")
def graded(walls, root, tiny, tmp_path_factory):
    """A course with two graded submissions."""
    course = tmp_path_factory.mktemp("course")
    write(source_files(tiny, root), course / "solutions" / "tiny")
    write({CONFIG: f"load_subconfig({str(root / CONFIG)!r})\n".encode()}, course)
    succeed(nbgrader_api(course, root).generate_assignment("tiny"), "releasing tiny")
    for student, answers in ANSWERS.items():
        folder = course / "submitted" / student / "tiny"
        shutil.copytree(course / "exercises" / "tiny", folder)
        notebook = json.loads((folder / "tiny.ipynb").read_text())
        for cell in notebook["cells"]:
            name = cell["metadata"].get("nbgrader", {}).get("grade_id")
            cell["source"] = answers.get(name, cell["source"])
        (folder / "tiny.ipynb").write_text(json.dumps(notebook))
    assert main(["grade", "tiny", "--course", str(course), "--workers", "1"]) == 0
    return course


@pytest.fixture
def course(graded, tmp_path):
    """A copy of it to change."""
    shutil.copytree(graded, tmp_path / "course")
    return tmp_path / "course"


def contents(folder):
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def again(course, *arguments):
    return main(["grade", "tiny", "--course", str(course), "--reproduce", *arguments])


def test_the_register_says_how_each_grade_came_about(graded):
    entry = Register(graded, "tiny").entries["ben"]
    assert entry.total == 0 and entry.available == 10.5
    assert entry.date[:2] == "20" and entry.date[-1] == "Z"
    assert len(entry.submission) == len(entry.checks) == 64
    versions = entry.conditions["versions"]
    assert {"flowcourse", "torch", "numpy", "nbgrader", "python"} <= set(versions)
    assert entry.conditions["sandbox"].startswith("bubblewrap ")
    assert "watchdog" in entry.conditions["kept_by"]
    # Those of nbgrader_config.py, and the rest of the defaults.
    assert entry.conditions["limits"]["cell_seconds"] == 600
    assert entry.conditions["limits"]["processes"] == 128


def test_a_grade_is_reproduced_exactly_and_nothing_is_changed(graded, capsys):
    before = contents(graded)
    assert again(graded) == 0
    said = capsys.readouterr().out
    assert "ada: equal, 1.5/10.5" in said and "ben: equal, 0/10.5" in said
    assert "2 of 2 grades reproduced exactly; nothing was changed." in said
    assert contents(graded) == before


def edit(course, student, **changed):
    """Change what the register says about a student."""
    path = course / "grading" / "tiny.jsonl"
    entries = {e["student"]: e for e in map(json.loads, path.read_text().splitlines())}
    entry = entries[student]
    for name, value in changed.items():
        if isinstance(value, dict):
            entry[name].update(value)
        else:
            entry[name] = value
    path.write_text("".join(json.dumps(e) + "\n" for e in entries.values()))
    return entry


def test_a_changed_submission_is_not_judged_in_its_place(course, capsys):
    path = course / "submitted/ada/tiny/tiny.ipynb"
    path.write_text(path.read_text() + "\n")
    assert again(course, "--student", "ada") == 1
    said = capsys.readouterr().out
    assert "ada: NOT TRIED" in said
    assert "changed since: the submission: it is not what was graded then" in said


def test_a_changed_score_version_or_check_is_said(course, capsys):
    entry = edit(course, "ada", points={"tiny.order": 0.5})
    versions = entry["conditions"]["versions"] | {"torch": "1.0"}
    edit(course, "ada", checks="0", conditions={"versions": versions})
    assert again(course, "--student", "ada") == 1
    said = capsys.readouterr().out
    assert "ada: DIFFERENT" in said
    assert "came out: points of tiny.order: it was 0.5, it is 1.5" in said
    assert "changed since: the release, the settings or the course's code" in said
    assert "changed since: torch: it was 1.0, it is " in said


def test_recorded_limits_hold_again(course, capsys):
    limits = Register(course, "tiny").entries["ada"].conditions["limits"]
    edit(course, "ada", conditions={"limits": limits | {"seconds": 0.0}})
    assert again(course, "--student", "ada") == 1
    assert "it is ['cell 1: the submission took longer than 0 s']" in capsys.readouterr().out


def test_no_walls_are_not_left_out_unasked(course, root):
    edit(course, "ada", conditions={"sandbox": "none: --unsafe"})
    with pytest.raises(GradingError, match="say --unsafe"):
        reproduce.reproduce("tiny", course, root, students=["ada"])


def test_what_is_not_graded_cannot_be_reproduced(course, capsys):
    assert again(course, "--student", "cem") == 2
    assert "has no grade of cem" in capsys.readouterr().err


def test_an_entry_of_an_older_version_is_no_obstacle(course, capsys):
    edit(course, "ada", date="")
    path = course / "grading" / "tiny.jsonl"
    old = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in old:
        del entry["conditions"]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in old))
    assert again(course, "--student", "ada") == 1
    assert "does not say how it was graded" in capsys.readouterr().out


def test_differences_are_lines_for_people():
    same = {"versions": {"torch": "2"}, "limits": {"memory": 1}}
    assert audit.changes(same, same) == []
    assert audit.changes({}, {"limits": {"memory": 1}}) == ["memory: it was unknown, it is 1"]
