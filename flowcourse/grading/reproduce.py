"""Judge again what is graded, under the recorded conditions, and compare: `--reproduce`.

Nothing is written: neither the grade book, nor the register, nor any notebook.
"""

import sqlite3
import tempfile
from collections.abc import Collection
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from nbformat.v4 import new_notebook
from traitlets.config import Config

from flowcourse.grading.audit import changes
from flowcourse.grading.classroom import entry_of
from flowcourse.grading.course import nbgrader_api
from flowcourse.grading.handed_in import cells_of, faults_named, read_submission, sources_digest
from flowcourse.grading.namespaces import Limits
from flowcourse.grading.preprocessors import preload, restore
from flowcourse.grading.register import Entry, Register
from flowcourse.grading.workers import GradingError, Options, verdicts

__all__ = ["Reproduced", "reproduce"]

COMPARED = ("points", "max_points", "diagnoses", "messages", "troubles")


@dataclass(frozen=True)
class Reproduced:
    """A grade, judged again.

    Attributes:
        student: whose.
        before: as it stands in the register.
        after: as it came out now; None where that could not be tried.
        changed: what is not as it was: the submission, the checks, versions, limits.
    """

    student: str
    before: Entry
    after: Entry | None
    changed: tuple[str, ...]

    @property
    def differences(self) -> list[str]:
        """What came out differently, a line for each."""
        if self.after is None:
            return []
        old, new = asdict(self.before), asdict(self.after)
        found = []
        for name in COMPARED:
            if isinstance(old[name], dict):
                for key in sorted(old[name].keys() | new[name].keys()):
                    was, now = old[name].get(key), new[name].get(key)
                    found += [f"{name} of {key}: it was {was}, it is {now}"] if was != now else []
            elif old[name] != new[name]:
                found.append(f"{name}: it was {old[name]}, it is {new[name]}")
        return found

    @property
    def equal(self) -> bool:
        """Whether the same came out."""
        return self.after is not None and not self.differences

    def __str__(self) -> str:
        graded = f"graded {self.before.date or 'at an unknown time'}, seed {self.before.seed}"
        if self.after is None:
            said = "NOT TRIED"
        elif self.equal:
            said = f"equal, {self.after.total:g}/{self.after.available:g}"
        else:
            said = "DIFFERENT"
        lines = [f"{self.student}: {said} ({graded})"]
        lines += [f"    came out: {line}" for line in self.differences]
        lines += [f"    changed since: {line}" for line in self.changed]
        return "\n".join(lines)


def reproduce(
    assignment: str,
    course: Path,
    root: Path,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    students: Collection[str] | None = None,
    unsafe: bool = False,
) -> list[Reproduced]:
    """Judge graded submissions again, with the recorded seed and limits; returns what came out.

    A submission that has changed since is not judged: it would be another one. Where the checks or
    the versions have changed, it is, and that is said.

    Args:
        assignment: name of the problem set.
        course: nbgrader's course folder.
        root: the repository, whose code judges.
        workers: processes on this machine.
        scheduler: address of a Dask scheduler, whose workers are used instead.
        students: these only.
        unsafe: what was graded without a sandbox runs without one again.

    Raises:
        GradingError: something was asked for that is not graded, or was graded without a sandbox.
    """
    course = course.resolve()
    register = Register(course, assignment)
    chosen = list(students or sorted(register.entries))
    if not chosen or set(chosen) - set(register.entries):
        who = ", ".join(sorted(set(chosen) - set(register.entries))) or "anybody"
        raise GradingError(f"{register.path} has no grade of {who}: grade first.")
    with faults_named(), tempfile.TemporaryDirectory(prefix="flowcourse-") as scratch:
        copy = Path(scratch) / "gradebook.db"
        _copy(course / "gradebook.db", copy)
        own = Config({"CourseDirectory": {"db_url": f"sqlite:///{copy}"}})
        known = cells_of(nbgrader_api(course, root, own), assignment)
    checks = sources_digest(root, course, assignment)
    modules = preload(restore(new_notebook(), known))
    found: dict[str, Reproduced] = {}
    groups: dict[Options, list[str]] = {}
    for student in chosen:
        before = register.entries[student]
        now = read_submission(course, assignment, known, student, checks)
        if not before.conditions:
            why = "the register does not say how it was graded: that was an older version"
        elif now.contents != before.submission:
            why = "the submission: it is not what was graded then, so grade it anew"
        else:
            groups.setdefault(_options(before, unsafe), []).append(student)
            continue
        found[student] = Reproduced(student, before, None, (why,))
    for options, group in groups.items():
        work = (read_submission(course, assignment, known, who, checks) for who in group)
        with closing(
            verdicts(work, len(group), assignment, options, modules, workers, scheduler)
        ) as judged:
            for submission, verdict in judged:
                before, after = register.entries[submission.student], entry_of(submission, verdict)
                changed = changes(before.conditions, after.conditions)
                if before.checks != checks:
                    changed.insert(0, "the release, the settings or the course's code")
                found[submission.student] = Reproduced(
                    submission.student, before, after, tuple(changed)
                )
    return [found[student] for student in chosen]


def _options(before: Entry, unsafe: bool) -> Options:
    without_walls = before.conditions["sandbox"].startswith("none")
    if without_walls and not unsafe:
        raise GradingError(
            f"{before.student} was graded without a sandbox. To do that again, say --unsafe."
        )
    return Options(
        seed=before.seed,
        limits=Limits(**before.conditions["limits"]),
        unsafe=without_walls,
        everything=before.conditions["everything"],
    )


def _copy(database: Path, to: Path) -> None:
    """Copy a grade book, in which another program may just be writing."""
    if not database.is_file():
        raise GradingError(f"There is no grade book {database}.")
    with (
        closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(to)) as target,
    ):
        source.backup(target)
