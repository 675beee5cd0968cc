"""A class as `flowcourse grade` takes it: who is graded when, and what a kill leaves behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import dask
import pytest
from nbgrader.api import Gradebook

from flowcourse.cli import main
from flowcourse.grading import handed_in
from flowcourse.grading.classroom import GradingError, grade
from flowcourse.grading.course import CONFIG, nbgrader_api, succeed
from flowcourse.grading.judge import close_judge
from flowcourse.grading.register import Register
from flowcourse.grading.release import source_files, write

RIGHT, WRONG = "order = ['B', 'A', 'C']", "order = ['A', 'B', 'C']"
STUDENTS = ("ada", "ben", "cem", "dan", "eva", "fay")


def hand_in(course, student, answer):
    folder = course / "submitted" / student / "tiny"
    shutil.copytree(course / "exercises" / "tiny", folder, dirs_exist_ok=True)
    notebook = json.loads((folder / "tiny.ipynb").read_text())
    for cell in notebook["cells"]:
        if cell["metadata"].get("nbgrader", {}).get("grade_id") == "answer-tiny-order":
            cell["source"] = answer
    (folder / "tiny.ipynb").write_text(json.dumps(notebook))


@pytest.fixture(scope="module")
def released(walls, root, tiny, tmp_path_factory):
    """A course with six submissions, and nothing graded."""
    course = tmp_path_factory.mktemp("released")
    write(source_files(tiny, root), course / "solutions" / "tiny")
    write({CONFIG: f"load_subconfig({str(root / CONFIG)!r})\n".encode()}, course)
    succeed(nbgrader_api(course, root).generate_assignment("tiny"), "releasing tiny")
    for number, student in enumerate(STUDENTS):
        hand_in(course, student, RIGHT if number % 2 else WRONG)
    return course


@pytest.fixture
def course(released, tmp_path):
    """A copy of it to change."""
    shutil.copytree(released, tmp_path / "course")
    return tmp_path / "course"


def lines(course):
    path = course / "grading" / "tiny.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line)["student"] for line in text.split("\n")[:-1]]


def book(course):
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        found = gradebook.assignment_submissions("tiny")
        return {submission.student.id: submission.score for submission in found}


def scores(course):
    return {name: entry.total for name, entry in Register(course, "tiny").entries.items()}


EXPECTED = {student: 1.5 * (number % 2) for number, student in enumerate(STUDENTS)}


def test_after_kill_9_the_same_command_goes_on(course):
    """What was graded stays and is not graded twice; a student in the middle is graded once."""
    command = [sys.executable, "-m", "flowcourse", "grade", "tiny", "--course", str(course)]
    command += ["--workers", "1", "--seed", "3"]
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 400
        while len(lines(course)) < 2 and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    done = lines(course)
    assert 2 <= len(done) < len(STUDENTS)
    states = {name: Register(course, "tiny").entries[name] for name in done}
    subprocess.run(command, check=True, capture_output=True)
    assert sorted(lines(course)) == sorted(STUDENTS)  # nobody twice
    assert scores(course) == book(course) == EXPECTED
    after = Register(course, "tiny").entries
    assert {name: after[name] for name in done} == states
    assert all((course / f"feedback/{name}/tiny/tiny.html").is_file() for name in STUDENTS)
    # The workers and sandboxes of the process that was killed have ended with it.
    for _ in range(200):
        mine = ["pgrep", "-g", str(first.pid)]
        if subprocess.run(mine, capture_output=True).returncode:
            break
        time.sleep(0.1)
    else:
        pytest.fail("processes of the killed command are left")


def test_who_is_graded_when(course, root, capsys):
    def graded(*arguments):
        before = len(lines(course))
        assert main(["grade", "tiny", "--course", str(course), *arguments]) == 0
        return lines(course)[before:]

    for student in STUDENTS[3:]:
        shutil.rmtree(course / "submitted" / student)
    assert graded("--student", "ada", "--no-feedback") == ["ada"]
    assert not (course / "feedback").exists()
    assert graded("--student", "ada") == []
    hand_in(course, "ada", RIGHT)
    # Ben and Cem are new, and wait for their turn.
    assert graded("--only", "changed") == ["ada"]
    assert scores(course) == {"ada": 1.5}
    assert graded("--only", "changed") == []
    seed = Register(course, "tiny").entries["ada"].seed
    assert graded("--student", "ada", "--regrade") == ["ada"]
    assert Register(course, "tiny").entries["ada"].seed != seed
    shutil.rmtree(course / "submitted" / "cem")
    assert graded() == ["ben"]
    said = capsys.readouterr().out
    assert "ben      1.5/10.5" in said
    assert "flowcourse report tiny" in said
    assert scores(course) == book(course) == {"ada": 1.5, "ben": 1.5}


def test_workers_that_are_there_already(course, root):
    """Here one in this process; a cluster's are elsewhere, and get all by the network too."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0",
                      memory_limit=0, protocol="tcp") as cluster:  # fmt: skip
        try:
            entries = grade(
                "tiny", course, root, scheduler=cluster.scheduler_address, progress=False,
                students=["ada", "ben"], feedback=False,
            )  # fmt: skip
        finally:
            close_judge()
    assert {name: entry.total for name, entry in entries.items()} == {"ada": 0, "ben": 1.5}
    assert book(course) == {"ada": 0, "ben": 1.5}


def test_no_scheduler_at_the_address(course, capsys):
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        command = ["grade", "tiny", "--course", str(course), "--scheduler", "tcp://127.0.0.1:9"]
        assert main(command) == 2
    said = capsys.readouterr().err
    assert "The scheduler tcp://127.0.0.1:9 cannot be reached" in said
    assert "the same command goes on" in said
    assert lines(course) == []


def test_what_cannot_be_graded_says_so(course, root, capsys):
    def refused(*arguments):
        assert main(["grade", *arguments, "--course", str(course)]) == 2
        return capsys.readouterr().err

    assert "The grade book knows no assignment 'large': release it first" in refused("large")
    assert "Nothing handed in by zoe: expected submitted/STUDENT/tiny" in refused(
        "tiny", "--student", "zoe"
    )
    shutil.rmtree(course / "submitted")
    assert grade("tiny", course, root, progress=False) == {}


def test_only_one_command_grades_a_course(course, root):
    from flowcourse.grading.classroom import _alone

    (course / "grading").mkdir(exist_ok=True)
    with _alone(course), pytest.raises(GradingError, match="only one may write the grade book"):
        grade("tiny", course, root, progress=False)


def test_a_submission_without_a_notebook(course, root):
    """Handed in under another name, or nothing at all: zero, and the reason."""
    folder = course / "submitted/ben/tiny"
    (folder / "tiny.ipynb").rename(folder / "tiny (1).ipynb")
    shutil.rmtree(course / "submitted/cem/tiny")
    (course / "submitted/cem/tiny").mkdir()
    for student in ("ben", "cem"):
        entry = grade("tiny", course, root, students=[student], progress=False)[student]
        assert entry.total == 0 and entry.available == 10.5
        assert entry.troubles == ["there is no tiny.ipynb in what was handed in"]
    assert book(course) == {"ben": 0, "cem": 0}


def test_large_files_are_not_read_to_see_whether_they_changed(course):
    before = handed_in.submission_digest(course, "tiny", "ada")
    path = course / "submitted/ada/tiny/large.bin"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    started = time.process_time()
    first = handed_in.submission_digest(course, "tiny", "ada")
    os.utime(path, (1, 1))
    second = handed_in.submission_digest(course, "tiny", "ada")
    assert time.process_time() - started < 5
    assert len({before, first, second}) == 3
