"""What the tests of faults share: a class with known scores, and a grading that can be disturbed.

`make test` tries each fault once; `make faults` tries them at many random moments.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from benchmarks.grading import scores
from flowcourse.grading.cast import cast, expected_points
from flowcourse.grading.course import CONFIG, nbgrader_api, succeed
from flowcourse.grading.register import Register
from flowcourse.grading.release import source_files, write

KINDS = ("perfect", "blank", "half_done", "other_style", "import_error")
STUDENTS = 10
PATIENCE = 300  # seconds, for what takes a few on a quiet machine


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, default=0, help="of each fault; 0: one short one")


def pytest_generate_tests(metafunc):
    """`seed` is of the moment: one in `make test`, many in `make faults`."""
    if "seed" in metafunc.fixturenames:
        rounds = metafunc.config.getoption("rounds", default=0)
        metafunc.parametrize("seed", range(max(1, rounds)))


@pytest.fixture
def rounds(request):
    return request.config.getoption("rounds", default=0)


class Class:
    """A course, handed in and not graded yet, with what must come of it."""

    def __init__(self, folder, root, expected):
        self.folder, self.root, self.expected = folder, root, expected

    def command(self, *options):
        command = [sys.executable, "-m", "flowcourse", "grade", "tiny", "--course"]
        return [*command, str(self.folder), "--workers", "2", *options]

    def start(self, *options, clock=None):
        """Start to grade, in a session of its own."""
        environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [clock, str(self.root)]))
        return Grading(self, self.command(*options), environment)

    def graded(self):
        """How many entries the register has."""
        path = self.folder / "grading" / "tiny.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def assert_complete(self):
        """Nothing is lost, nothing counts twice, and every score is right."""
        lines = (self.folder / "grading/tiny.jsonl").read_text().splitlines()
        assert sorted(json.loads(line)["student"] for line in lines) == sorted(self.expected)
        entries = Register(self.folder, "tiny").entries
        assert {name: entry.points for name, entry in entries.items()} == self.expected
        assert not [e.troubles for e in entries.values() if e.troubles]
        booked = sorted(earned for earned, _ in scores(self.folder))
        assert booked == sorted(sum(points.values()) for points in self.expected.values())
        for name in self.expected:
            assert (self.folder / f"autograded/{name}/tiny/tiny.ipynb").is_file()
            assert (self.folder / f"feedback/{name}/tiny/tiny.html").is_file()


class Grading:
    """A `flowcourse grade` at work, and all of its processes."""

    def __init__(self, course, command, environment):
        self.course = course
        self.log = open(course.folder.parent / "log", "w+")
        self.process = subprocess.Popen(
            command,
            cwd=course.root,
            env=environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_for(self, entries, seconds=0.0):
        """Wait until so many are graded, and some seconds more, or until it has ended."""
        until = time.monotonic() + PATIENCE
        while self.course.graded() < entries and self.process.poll() is None:
            assert time.monotonic() < until, self.said()
            time.sleep(0.02)
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            time.sleep(0.02)

    def session(self):
        """Its processes that live, this one first."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
        return sorted(found)

    def workers(self):
        """The processes of Dask's workers, which `spawn` has started."""
        return [pid for pid in self.session() if "spawn_main" in _command(pid)]

    def kill(self, pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def end(self):
        """Wait for its end; returns its status. Nothing that it has started may outlive it."""
        status = self.process.wait(timeout=PATIENCE)
        until = time.monotonic() + 60
        while (left := self.session()) and time.monotonic() < until:
            time.sleep(0.1)
        assert not left, [_command(pid) for pid in left]
        return status

    def said(self):
        self.log.seek(0)
        return self.log.read()


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@pytest.fixture(scope="package")
def handed_in(walls, in_the_course, root, tiny, tiny_release, tmp_path_factory):
    """A course in which a class has handed in, and what each exercise must score."""
    folder = tmp_path_factory.mktemp("handed_in")
    write(source_files(tiny, root), folder / "solutions" / "tiny")
    write({CONFIG: f"load_subconfig({str(root / CONFIG)!r})\n".encode()}, folder)
    succeed(nbgrader_api(folder, root).generate_assignment("tiny"), "releasing tiny")
    students = {student.name: student for student in cast(tiny, tiny_release)}
    expected = {}
    for number in range(STUDENTS):
        student = students[KINDS[number % len(KINDS)]]
        name = f"{student.name}{number}"
        submitted = folder / "submitted" / name / "tiny"
        shutil.copytree(folder / "exercises" / "tiny", submitted)
        (submitted / "tiny.ipynb").write_text(nbformat.writes(student.notebook))
        names = [problem.exercise for problem in tiny.problems]
        expected[name] = {exercise: expected_points(student, exercise) for exercise in names}
    return folder, expected


@pytest.fixture
def course(handed_in, root, tmp_path):
    folder, expected = handed_in
    shutil.copytree(folder, tmp_path / "course")
    return Class(tmp_path / "course", root, expected)


@pytest.fixture
def one(course):
    """The course with one student, whom the command itself judges, without workers."""
    for folder in (course.folder / "submitted").iterdir():
        if folder.name != "perfect0":
            shutil.rmtree(folder)
    course.expected = {"perfect0": course.expected["perfect0"]}
    return course


@pytest.fixture
def chance(seed):
    return random.Random(seed)
