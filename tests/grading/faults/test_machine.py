"""A full disk, a locked grade book, a clock that is set: named, and mended by the same command."""

import itertools
import resource
import sqlite3
import subprocess
import threading
import time
from contextlib import closing, contextmanager

import pytest

from flowcourse.cli import main
from flowcourse.grading import course as course_module
from flowcourse.grading.judge import Cell, Judge
from flowcourse.grading.namespaces import Limits
from flowcourse.grading.register import Register

# In every process of the grading, at one moment of a clock that nobody can set.
CLOCK = """
import time
_true = time.time
time.time = lambda: _true() + ({by} if time.monotonic() >= {at} else 0)
"""


def grade(course, *options):
    """The command, in this process."""
    return main(["grade", "tiny", "--course", str(course.folder), *options])


# The grade book


@contextmanager
def locked(course, kind="EXCLUSIVE"):
    """Another program is writing to the grade book."""
    with closing(sqlite3.connect(course.folder / "gradebook.db")) as other:
        other.execute(f"begin {kind}")
        yield other
        other.rollback()


@pytest.mark.parametrize("kind", ["EXCLUSIVE", "IMMEDIATE"])
def test_a_locked_grade_book_is_named_and_costs_nothing(one, kind, monkeypatch, capsys):
    monkeypatch.setattr(course_module, "PATIENCE", 1)
    with locked(one, kind):
        assert grade(one) == 2
    assert "The grade book is locked: another program is writing to it" in capsys.readouterr().err
    assert one.graded() == 0
    assert grade(one) == 0
    one.assert_complete()


def test_a_grade_book_that_is_locked_for_a_while_is_waited_for(one):
    with closing(sqlite3.connect(one.folder / "gradebook.db", check_same_thread=False)) as other:
        other.execute("begin exclusive")
        timer = threading.Timer(7, other.rollback)  # sqlite's own patience is 5 seconds
        timer.start()
        assert grade(one) == 0
        timer.join()
    one.assert_complete()


# The disk


def test_a_file_that_cannot_grow_is_named_and_costs_nothing(one, chance, capsys):
    """As with a quota; wherever it stops, what was written before must be whole."""
    folder = one.folder
    database = (folder / "gradebook.db").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    small = chance.choice([4096, 20_000, database // 2])  # a page of feedback is larger
    resource.setrlimit(resource.RLIMIT_FSIZE, (small, hard))
    try:
        status = grade(one)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert status == 2 and "the same command goes on" in said, said
    assert one.graded() == 0
    assert grade(one) == 0
    one.assert_complete()


def test_a_full_disk_is_named_and_costs_nothing(course, chance, rounds, tmp_path):
    if not rounds:
        pytest.skip("by make faults")
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={chance.randrange(800, 1500)}k"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(disk)], check=False)
    if done.returncode:
        pytest.skip("a small disk cannot be mounted here: not root, or in a container")
    small = course
    try:
        subprocess.run(["cp", "-a", str(course.folder), str(disk / "course")], check=True)
        small.folder = disk / "course"
        grading = small.start()
        assert grading.end() == 2, grading.said()
        assert "the same command goes on" in grading.said() and "Traceback" not in grading.said()
        before = small.graded()
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        again = small.start()
        assert again.end() == 0, again.said()
        assert before < small.graded()
        small.assert_complete()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


# The clock


def test_the_clock_is_set_while_a_class_is_graded(course, chance, rounds, tmp_path):
    """Limits go by a clock that nobody sets. Dask's waits do not: it may give up, and goes on."""
    if not rounds:
        pytest.skip("by make faults")
    by = chance.choice([-86400, -600, 600, 86400])
    moment = time.monotonic() + chance.uniform(0, 20)
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK.format(by=by, at=moment))
    grading = course.start(clock=str(tmp_path / "clock"))
    if status := grading.end():
        assert status == 2 and "the same command goes on" in grading.said(), grading.said()
        again = course.start()
        assert again.end() == 0, again.said()
    course.assert_complete()
    for entry in Register(course.folder, "tiny").entries.values():
        assert 0 < entry.seconds < 300


def test_a_limit_is_kept_while_the_clock_jumps(walls, monkeypatch):
    moments = itertools.cycle([0.0, 1e9, -1e9])
    monkeypatch.setattr(time, "time", lambda: next(moments))
    judge = Judge("tiny", limits=Limits(cell_seconds=1))
    verdict = judge.judge([Cell("while True: pass"), Cell("order = 1")])
    judge.close()
    assert verdict.cells[0].outputs[0]["ename"] == "KeyboardInterrupt"
    assert 1 < verdict.seconds < 60
