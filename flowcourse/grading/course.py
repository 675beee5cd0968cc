"""Run nbgrader in a course folder from Python, with the repository's `nbgrader_config.py`."""

import warnings
from pathlib import Path
from typing import Any

from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from sqlalchemy.exc import SAWarning
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

__all__ = ["CONFIG", "NbgraderError", "nbgrader_api", "repository", "succeed"]

CONFIG = "nbgrader_config.py"
PATIENCE = 60  # seconds to wait for a grade book that another program is writing to

# nbgrader 0.9.6 makes SQLAlchemy complain about the order in which it adds a submission.
warnings.filterwarnings("ignore", category=SAWarning, module="nbgrader")


class NbgraderError(RuntimeError):
    """A step of nbgrader failed; the message holds its log."""


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
    if "db_url" not in config.CourseDirectory:
        # sqlite's own patience, of five seconds, ends before Formgrader has saved a large class.
        grade_book = course.resolve() / "gradebook.db"
        config.CourseDirectory.db_url = f"sqlite:///{grade_book}?timeout={PATIENCE}"
    config.merge(extra or {})
    return NbGraderAPI(CourseDirectory(config=config), config=config)


def succeed(result: dict[str, Any], doing: str) -> None:
    """Raise `NbgraderError` when an API call's result says that it failed."""
    if not result["success"]:
        log = "\n".join(result.get(key, "") for key in ("log", "error")).strip()
        raise NbgraderError(f"nbgrader failed at {doing}; its log:\n{log}")
