"""Run nbgrader in a course folder from Python, with the repository's `nbgrader_config.py`."""

import functools
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from nbgrader.utils import is_grade
from sqlalchemy.exc import SAWarning
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

__all__ = [
    "CONFIG",
    "Graded",
    "NbgraderError",
    "grade_submission",
    "nbgrader_api",
    "repository",
    "succeed",
]

CONFIG = "nbgrader_config.py"


class NbgraderError(RuntimeError):
    """A step of nbgrader failed; the message holds its log."""


class Graded(NamedTuple):
    """A test cell's points in the grade book, and the text that its check printed."""

    points: float
    max_points: float
    text: str


def repository() -> Path:
    """Return the repository's root: the nearest folder upwards that holds nbgrader's settings."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / CONFIG).is_file():
            return folder
    raise FileNotFoundError(
        f"no {CONFIG} in {here} or above it: run this from a checkout of the repository"
    )


def nbgrader_api(course: Path, root: Path, extra: Config | None = None) -> NbGraderAPI:
    """Return nbgrader's API for the course folder `course`, with the settings of `root`.

    Args:
        course: the folder with `solutions/`, `submitted/` and so on; may be another than `root`.
        root: the repository.
        extra: settings that differ, as options on nbgrader's command line would.
    """
    config: Config = PyFileConfigLoader(CONFIG, path=str(root)).load_config()
    config.CourseDirectory.root = str(course.resolve())
    config.merge(extra or {})
    return NbGraderAPI(CourseDirectory(config=config), config=config)


def succeed(result: dict[str, Any], doing: str) -> None:
    """Raise `NbgraderError` when an API call's result says that it failed."""
    if not result["success"]:
        log = "\n".join(result.get(key, "") for key in ("log", "error")).strip()
        raise NbgraderError(f"nbgrader failed at {doing}; its log:\n{log}")


@functools.cache
def _worker_api(course: Path, root: Path) -> NbGraderAPI:
    # nbgrader 0.9.6 makes SQLAlchemy complain about the order in which it adds a submission.
    warnings.filterwarnings("ignore", category=SAWarning)
    # Graders take turns at writing to the grade book: wait for it rather than fail.
    extra = Config()
    extra.CourseDirectory.db_url = f"sqlite:///{course / 'gradebook.db'}?timeout=60"
    # The invented students answer with the checks' own mistakes, which no real student can see.
    extra.Grade.everything = True
    return nbgrader_api(course, root, extra)


def grade_submission(course: Path, root: Path, topic: str, student: str) -> dict[str, Graded]:
    """Autograde one submission and write its feedback; returns each test cell's result by id.

    The course's grade book and folders change as `nbgrader autograde` and `generate_feedback` do.
    """
    api = _worker_api(course, root)
    succeed(api.autograde(topic, student), f"autograding {topic} of {student}")
    succeed(api.generate_feedback(topic, student), f"writing feedback on {topic} for {student}")
    path = course / "autograded" / student / topic / f"{topic}.ipynb"
    texts = {
        cell.metadata.nbgrader.grade_id: "\n".join(
            output.text for output in cell.outputs if output.output_type == "stream"
        )
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code" and is_grade(cell)
    }
    with api.gradebook as gradebook:
        grades = gradebook.find_submission_notebook(topic, topic, student).grades
        return {
            grade.name: Graded(grade.score, grade.max_score, texts[grade.name]) for grade in grades
        }
