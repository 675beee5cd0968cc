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

from flowcourse.grading import guards, page, savings  # noqa: E402
from flowcourse.grading import preprocessors as ours  # noqa: E402

guards.guard()
savings.save()

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

# nbgrader's own steps, with ours in the place of its ClearOutput, DeduplicateIds and
# OverwriteCells, and of its Execute. `flowcourse/grading/preprocessors.py` says why.
c.Autograde.exporter_class = ours.ReadAnything
c.Autograde.sanitize_preprocessors = [
    ours.RestoreCells,
    nbgrader.OverwriteKernelspec,
    nbgrader.CheckCellMetadata,
]
c.Autograde.autograde_preprocessors = [
    ours.Grade,
    nbgrader.IgnorePattern,
    ClearMetadataPreprocessor,
    nbgrader.LimitOutput,
    nbgrader.SaveAutoGrades,
    nbgrader.AssignLatePenalties,
    nbgrader.CheckCellMetadata,
]

# What a submission may use (`flowcourse.grading.namespaces.Limits`): a cell may run ten minutes,
# for training on a slow machine; then it is stopped, its points are lost, and the next cell runs.
c.Grade.limits = {"cell_seconds": 600, "seconds": 3600, "memory": 4 << 30}

# Where students read the book, such as "https://example.org/flowcourse": feedback then links the
# sections to read again. Empty: it names them.
c.Grade.book = ""

# `nbgrader validate`, with which students try their notebook on their own machine, runs it in a
# kernel. No tag skips a cell: a skipped test would count as passed.
c.Execute.timeout = 600
c.Execute.skip_cells_with_tag = "flowcourse-never-skip"
# No history file (parallel kernels would wait for each other), and messages between nbgrader and
# the kernel encrypted where the kernel can.
c.Execute.extra_arguments = ["--HistoryManager.hist_file=:memory:"]
c.KernelManager.transport_encryption = "auto"

# Feedback and Formgrader show what a student wrote: without scripts. And feedback can be mailed: it
# is one file that loads nothing, with pictures for formulas.
c.HTMLExporter.sanitize_html = True
c.HTMLExporter.filters = {"markdown2html": page.markdown}
c.GenerateFeedback.exporter_class = page.FeedbackPage
