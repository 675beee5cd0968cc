"""What has been handed in, and what its grade depends on besides."""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from nbformat.v4 import new_notebook
from nbgrader.apps import NbGraderAPI
from sqlalchemy.exc import SQLAlchemyError

import flowcourse
from flowcourse.grading.course import CONFIG, NbgraderError
from flowcourse.grading.preprocessors import KnownCell, known_cells, plan, restore
from flowcourse.grading.submission import (
    LARGEST_NOTEBOOK,
    TROUBLE,
    read_files,
    read_notebook,
)
from flowcourse.grading.workers import GOES_ON, GradingError, Submission

__all__ = ["cells_of", "digest", "faults_named", "read_submission", "sources_digest", "submissions"]
__all__ += ["submission_digest"]

# What may be wrong with the machine, and not with a submission; as sqlite and the system name it.
FAULTS = {
    "database is locked": (
        "The grade book is locked: another program is writing to it, such as Formgrader or "
        "nbgrader. Let it end, or close it."
    ),
    "database or disk is full": "The disk is full. Make room.",
    "No space left on device": "The disk is full. Make room.",
    "Disk quota exceeded": "The disk quota is used up. Make room.",
    "File too large": "A file could not grow: the disk or a quota is full. Make room.",
    "disk I/O error": "The grade book could not be written: is the disk full, or failing?",
    "attempt to write a readonly database": "The grade book may not be written by this user.",
}


@contextlib.contextmanager
def faults_named() -> Iterator[None]:
    """Say in plain words what is wrong with the machine, as a `GradingError`."""
    try:
        yield
    except (OSError, sqlite3.Error, SQLAlchemyError, NbgraderError) as error:
        for words, meaning in FAULTS.items():
            if words in str(error):
                raise GradingError(f"{meaning} {GOES_ON}") from error
        raise


def submissions(course: Path, assignment: str) -> list[str]:
    """Students who have handed in the assignment."""
    return sorted(path.parent.name for path in course.glob(f"submitted/*/{assignment}"))


def cells_of(api: NbGraderAPI, assignment: str) -> dict[str, KnownCell]:
    """The cells of an assignment, as the grade book has them."""
    with api.gradebook as gradebook:
        if assignment not in {found.name for found in gradebook.assignments}:
            raise GradingError(
                f"The grade book knows no assignment {assignment!r}: release it first, with "
                f"nbgrader generate_assignment {assignment}."
            )
        return known_cells(gradebook.find_notebook(assignment, assignment))


def read_submission(
    course: Path, assignment: str, known: Mapping[str, KnownCell], student: str, checks: str
) -> Submission:
    """Read what a student has handed in; `checks` is what `sources_digest` gives."""
    folder = course / "submitted" / student / assignment
    path = folder / f"{assignment}.ipynb"
    notebook = restore(read_notebook(path) if path.exists() else new_notebook(), known)
    files = read_files(folder, folder) | _own_files(course / "solutions" / assignment)
    trouble = notebook.metadata.get(TROUBLE)
    if not path.exists():
        trouble = f"there is no {path.name} in what was handed in"
    contents = submission_digest(course, assignment, student)
    return Submission(
        student=student,
        digest=digest(checks, contents),
        contents=contents,
        cells=plan(notebook),
        files=files,
        trouble=trouble,
        notebook=path.exists(),
    )


def _own_files(folder: Path) -> dict[str, bytes]:
    """The course's own data files, which replace a student's of the same name."""
    return read_files(folder, folder) if folder.is_dir() else {}


def submission_digest(course: Path, assignment: str, student: str) -> str:
    """A digest of what was handed in."""
    folder = course / "submitted" / student / assignment
    parts = []
    for path in _files(sorted(folder.rglob("*"))):
        parts += [path.relative_to(folder).as_posix().encode(errors="surrogateescape")]
        state = path.stat()
        if state.st_size > LARGEST_NOTEBOOK or not os.access(path, os.R_OK):  # it is not graded
            parts += [f"{state.st_size} bytes at {state.st_mtime_ns}".encode()]
        else:
            parts += [path.read_bytes()]
    return _digest(*parts)


def sources_digest(root: Path, course: Path, assignment: str) -> str:
    """A digest of what all grades depend on: the settings, the course's code, and the release."""
    package = Path(flowcourse.__file__).parent
    released = sorted((course / "exercises" / assignment).rglob("*"))
    paths = [root / CONFIG, *sorted(package.rglob("*.py")), *_files(released)]
    return _digest(*(path.read_bytes() for path in paths))


def digest(*digests: str) -> str:
    """One digest of several."""
    return _digest(*(one.encode() for one in digests))


def _files(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def _digest(*parts: bytes) -> str:
    made = hashlib.sha256()
    for part in parts:
        made.update(len(part).to_bytes(8, "big") + part)
    return made.hexdigest()
