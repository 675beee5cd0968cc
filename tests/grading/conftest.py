"""A course of its own for the tests of grading: one small problem set, in a temporary folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flowcourse.checks
from flowcourse.grading.course import CONFIG

REPOSITORY = Path(__file__).parents[2]
COURSE = Path(__file__).parent / "course"


def run(command: list[str], cwd: Path, **options) -> subprocess.CompletedProcess:
    """Run a command as an instructor would, in a folder; fails with its output."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done


def nbgrader(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run `nbgrader ...` in a course."""
    return run([sys.executable, "-m", "nbgrader", *arguments], cwd)


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """A repository in small: the real package and settings, and a problem set called `tiny`.

    The package is linked file by file, so that `flowcourse.checks.tiny` can stand in it.
    """
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(COURSE / "solutions", folder / "solutions")
    shutil.copy(REPOSITORY / CONFIG, folder)
    package = folder / "flowcourse"
    (package / "checks").mkdir(parents=True)
    for path in (REPOSITORY / "flowcourse").iterdir():
        if path.name != "checks":
            (package / path.name).symlink_to(path)
    for path in [*(REPOSITORY / "flowcourse" / "checks").glob("*.py"), COURSE / "checks/tiny.py"]:
        (package / "checks" / path.name).symlink_to(path)
    return folder


@pytest.fixture(autouse=True)
def in_the_course(root, monkeypatch):
    """Work in that repository; put back what its settings change in this process."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    folders = [*flowcourse.checks.__path__, str(COURSE / "checks")]
    monkeypatch.setattr(flowcourse.checks, "__path__", folders)
    assert os.getcwd() == str(root)
