"""Where nbgrader trusts the files of a submission, and must not; used by `nbgrader_config.py`.

Before any plugin is asked, nbgrader copies what was handed in and reads its `timestamp.txt`. What
it does not expect there costs the student the whole grade, or the instructor more than that.
"""

import os
import sys
from datetime import datetime
from pathlib import Path

from nbgrader.converters import base
from nbgrader.coursedir import CourseDirectory
from nbgrader.utils import find_all_files, parse_utc

__all__ = ["guard"]


LONGEST_TIMESTAMP = 1000  # bytes
LARGEST_COPY = 1 << 30  # bytes of all files beside a notebook
FORMGRADER = "nbgrader.server_extensions.formgrader.handlers"


def guard() -> None:
    """Put what is below in the place of nbgrader's own, in this process."""
    base.find_all_files = _regular_files
    CourseDirectory.get_existing_timestamp = _timestamp
    # Formgrader's server shows the files of a submission to its user's browser. Under this policy
    # a page among them is a stranger's: else a script in it could do all that its reader may.
    if handlers := sys.modules.get(FORMGRADER):
        handlers.SubmissionFilesHandler.content_security_policy = "sandbox"


def _regular_files(path: str, exclude: list[str] | None = None) -> list[str]:
    """The files to copy: no pipes or devices, and no links, which may lead to any of this machine.

    A link to a file that is not there would cost the student every point, one to /dev/zero would
    fill the disk, as would a file with a hole that says it has a terabyte.
    """
    kept = []
    size = 0
    for file in find_all_files(path, exclude):
        if os.path.isfile(file) and not os.path.islink(file) and os.access(file, os.R_OK):
            size += os.path.getsize(file)
            if size <= LARGEST_COPY:
                kept.append(file)
    return kept


def _timestamp(self: CourseDirectory, folder: str) -> datetime | None:
    """When it was handed in, if the submission says so in a way that can be read."""
    path = Path(folder) / "timestamp.txt"
    if not path.is_file() or path.is_symlink() or path.stat().st_size > LONGEST_TIMESTAMP:
        return None
    try:
        return parse_utc(path.read_text(encoding="utf-8").strip())
    except (OSError, ValueError, OverflowError) as error:
        self.log.warning("There is no date in %s: %s", path, error)
        return None
