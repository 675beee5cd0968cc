"""A course of its own for the tests of grading: one small problem set, in a temporary folder."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

import flowcourse.checks
from flowcourse.grading.course import CONFIG
from flowcourse.grading.notebook import ProblemSet
from flowcourse.grading.release import load, release
from flowcourse.grading.sandbox import what_is_missing

# Its checks belong to a package made below; pytest must not import them a second time.
collect_ignore = ["course"]

REPOSITORY = Path(__file__).parents[2]
COURSE = Path(__file__).parent / "course"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Logs name files whose names are no text, which pytest-xdist cannot send."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


@pytest.fixture(scope="package")
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
    for path in [*(REPOSITORY / "flowcourse/checks").glob("*.py"), COURSE / "checks/tiny.py"]:
        (package / "checks" / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="package", autouse=True)
def in_the_course(root):
    """Work in that repository, and let this process find its checks too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("PYTHONPATH", str(root))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(sys, "path", list(sys.path))  # the settings add to it
        folders = [*flowcourse.checks.__path__, str(COURSE / "checks")]
        patch.setattr(flowcourse.checks, "__path__", folders)
        yield


@pytest.fixture(scope="session")
def nbgrader() -> Callable[..., str]:
    """Run `nbgrader ...` as an instructor does; returns all that it printed, must succeed."""

    def run(*arguments: str, cwd: Path | None = None) -> str:
        command = [sys.executable, "-m", "nbgrader", *arguments]
        # With pytest's variable, kernels do not collect what C code writes to stderr.
        env = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="package")
def tiny(in_the_course, root) -> ProblemSet:
    """The small problem set, read."""
    return load("tiny", root)


@pytest.fixture(scope="package")
def tiny_release(in_the_course, root, tiny) -> NotebookNode:
    """Its release."""
    content = release([tiny], root)["tiny"]["tiny.ipynb"]
    return nbformat.reads(content.decode(), as_version=4)


@pytest.fixture(scope="session")
def walls() -> None:
    """Skip where submissions cannot be isolated; where they must be, fail."""
    if missing := what_is_missing():
        if os.environ.get("CI") and sys.platform == "linux":
            pytest.fail(f"{missing} The attacks must run here.")
        pytest.skip(missing)
