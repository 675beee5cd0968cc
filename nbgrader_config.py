"""nbgrader's settings for this course; read by every `nbgrader` command run from here.

Folders: `solutions/` is nbgrader's source (the notebooks in it are built from the text beside
them by `make exercises`), `exercises/` its release. `submitted/`, `autograded/`, `feedback/` and
`gradebook.db` appear here when a class is graded; git ignores them: they hold students' work.
"""

import os
import sys

ROOT = os.path.dirname(os.path.abspath(__file__))


def _put_first(variable: str, folder: str) -> None:
    folders = os.environ.get(variable, "").split(os.pathsep)
    others = [other for other in folders if other not in ("", folder)]
    os.environ[variable] = os.pathsep.join([folder, *others])


# This checkout's flowcourse grades, in nbgrader and in the kernels it starts, installed or not.
_put_first("PYTHONPATH", ROOT)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
# nbgrader runs a program of this environment (alembic) by its name, activated or not.
_put_first("PATH", os.path.dirname(sys.executable))

from nbconvert.preprocessors import ClearMetadataPreprocessor  # noqa: E402
from nbgrader import preprocessors as nbgrader  # noqa: E402

from flowcourse.grading import preprocessors as ours  # noqa: E402

c = get_config()  # noqa: F821  (nbgrader provides it)

c.CourseDirectory.course_id = "flowcourse"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
# Sources beside a notebook are the instructor's; a student's own modules are no part of an answer.
c.CourseDirectory.ignore = [
    ".ipynb_checkpoints", "__pycache__", "*.pyc", "*.py", "*.md", "feedback",
]  # fmt: skip

# The release is committed and made anew each time; without this nbgrader skips what exists.
c.GenerateAssignment.force = True
c.GenerateAssignment.pre_convert_hook = "flowcourse.grading.release.refresh_source"
c.GenerateAssignment.preprocessors = [
    nbgrader.IncludeHeaderFooter,
    nbgrader.InstantiateTests,
    nbgrader.LockCells,
    ours.ClearSolutions,
    nbgrader.ClearOutput,
    nbgrader.CheckCellMetadata,
    nbgrader.ComputeChecksums,
    nbgrader.SaveCells,
    nbgrader.ClearHiddenTests,
    nbgrader.ClearMarkScheme,
    nbgrader.ComputeChecksums,
    nbgrader.CheckCellMetadata,
]

# nbgrader's own steps, with ours in the place of its ClearSolutions; of its ClearOutput,
# DeduplicateIds and OverwriteCells; of its Execute. `flowcourse/grading/preprocessors.py` says why.
c.Autograde.sanitize_preprocessors = [
    ours.RestoreCells,
    nbgrader.OverwriteKernelspec,
    nbgrader.CheckCellMetadata,
]
c.Autograde.autograde_preprocessors = [
    ours.Execute,
    nbgrader.IgnorePattern,
    ClearMetadataPreprocessor,
    nbgrader.LimitOutput,
    nbgrader.SaveAutoGrades,
    nbgrader.AssignLatePenalties,
    nbgrader.CheckCellMetadata,
]

# A cell may run ten minutes (nbgrader's own limit of 30 s is less than a training run on a slow
# machine); then it is interrupted, its points are lost, and the next cell runs.
c.Execute.timeout = 600
c.Execute.interrupt_on_timeout = True
c.Execute.error_on_timeout = {
    "ename": "CellTimeoutError",
    "evalue": "stopped after the time limit",
    "traceback": ["CellTimeoutError: this cell did not finish within the time limit."],
}
# No tag skips a cell (tags are stripped anyway): a skipped test would count as passed.
c.Execute.skip_cells_with_tag = "flowcourse-never-skip"
# No history file (parallel kernels would wait for each other), and messages between nbgrader and
# the kernel encrypted where the kernel can.
c.Execute.extra_arguments = ["--HistoryManager.hist_file=:memory:"]
c.KernelManager.transport_encryption = "auto"
