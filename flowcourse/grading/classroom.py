"""Grade a whole class: `flowcourse grade ASSIGNMENT`.

Submissions are judged by workers (Dask: processes of this machine, or a cluster that is there
already), each with a warm sandbox. One process, this one, writes the grade book, by nbgrader's own
`autograde`, and then the register. A submission that is in the register in its present state is not
graded again, so that the same command after a crash goes on where it was.
"""

import contextlib
import fcntl
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from nbformat.v4 import new_notebook
from nbgrader.apps import NbGraderAPI
from tqdm import tqdm

from flowcourse.grading import preprocessors
from flowcourse.grading.audit import now
from flowcourse.grading.course import NbgraderError, nbgrader_api, succeed
from flowcourse.grading.handed_in import (
    cells_of,
    digest,
    faults_named,
    read_submission,
    sources_digest,
    submission_digest,
    submissions,
)
from flowcourse.grading.judge import Verdict
from flowcourse.grading.namespaces import Limits
from flowcourse.grading.preprocessors import preload, restore
from flowcourse.grading.register import Entry, Register
from flowcourse.grading.sandbox import NoSandbox, in_sight
from flowcourse.grading.submission import check_of
from flowcourse.grading.workers import GradingError, Options, Submission, verdicts

__all__ = ["CHOICES", "GradingError", "Options", "entry_of", "grade", "submissions", "table"]

CHOICES = ("new", "changed", "all")


def grade(
    assignment: str,
    course: Path,
    root: Path,
    options: Options | None = None,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    only: str = "new",
    students: Collection[str] | None = None,
    feedback: bool = True,
    progress: bool = True,
) -> dict[str, Entry]:
    """Grade what has been handed in; returns the register: the last grading of every student.

    Args:
        assignment: name of the problem set.
        course: nbgrader's course folder.
        root: the repository, whose settings hold.
        options: how to judge.
        workers: processes on this machine.
        scheduler: address of a Dask scheduler, whose workers are used instead.
        only: `new` grades what is not in the register in its present state; `changed`, of that,
            what was graded in another state; `all` grades everything again.
        students: consider these only.
        feedback: write feedback for students as well.
        progress: show a bar, and each score as it comes.

    Raises:
        GradingError: there is nothing to grade, the workers are lost, the disk is full or the
            grade book locked; what is in the register then stays there.
    """
    options = options or Options()
    course = course.resolve()
    if not options.unsafe and in_sight(course):
        raise NoSandbox(
            f"The course folder {course} lies where the system or Python does, and so in sight of "
            "every submission: move it elsewhere."
        )
    api = nbgrader_api(course, root)
    options = replace(options, everything=options.everything or api.config.Grade.everything is True)
    if options.limits is None:
        options = replace(options, limits=Limits(**api.config.Grade.get("limits", {})))
    with faults_named(), _alone(course):
        known = cells_of(api, assignment)
        register = Register(course, assignment)
        handed_in = submissions(course, assignment)
        if missing := sorted(set(students or ()) - set(handed_in)):
            raise GradingError(
                f"Nothing handed in by {', '.join(missing)}: "
                f"expected submitted/STUDENT/{assignment}."
            )
        checks = sources_digest(root, course, assignment)
        waiting = []
        for student in students or handed_in:
            state = digest(checks, submission_digest(course, assignment, student))
            before = register.entries.get(student)
            fresh = before is None or before.digest != state
            if only == "all" or (fresh and (only == "new" or before is not None)):
                waiting.append(student)
        work = (read_submission(course, assignment, known, who, checks) for who in waiting)
        modules = preload(restore(new_notebook(), known))
        bar = tqdm(total=len(waiting), desc=assignment, unit="submission", disable=not progress)
        judged = verdicts(work, len(waiting), assignment, options, modules, workers, scheduler)
        with bar, contextlib.closing(judged):
            for submission, verdict in judged:
                entry = _enter(api, assignment, submission, verdict, feedback)
                entry = replace(entry, date=now(), checks=checks)
                register.add(entry)
                trouble = f"  {entry.troubles[0]}" if entry.troubles else ""
                if progress:
                    bar.write(f"{entry.student}: {entry.total:g}/{entry.available:g}{trouble}")
                bar.update()
    return {
        student: register.entries[student] for student in handed_in if student in register.entries
    }


def table(assignment: str, entries: Mapping[str, Entry]) -> str:
    """The scores of a class: a line for each student, and what happened to whom."""
    width = max([len("student"), *map(len, entries)])
    lines = [f"{'student'.ljust(width)}  {assignment}"]
    for student, entry in sorted(entries.items()):
        trouble = f"  {'; '.join(entry.troubles)}" if entry.troubles else ""
        lines.append(f"{student.ljust(width)}  {entry.total:g}/{entry.available:g}{trouble}")
    return "\n".join(lines)


@contextlib.contextmanager
def _alone(course: Path) -> Iterator[None]:
    """Let no second process grade in this course; the system ends that when this one is gone."""
    folder = course / "grading"
    folder.mkdir(exist_ok=True)
    with open(folder / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise GradingError(
                f"Another flowcourse grade is at work in {course}: only one may write the grade "
                "book. Wait until it has ended."
            ) from error
        yield


def entry_of(submission: Submission, verdict: Verdict) -> Entry:
    """What the register says of a verdict."""
    outcomes = [judged.outcome for judged in verdict.cells if judged.outcome is not None]
    return Entry(
        student=submission.student,
        digest=submission.digest,
        points={outcome.name: outcome.points for outcome in outcomes},
        max_points={outcome.name: outcome.max_points for outcome in outcomes},
        diagnoses={o.name: o.diagnosis for o in outcomes if o.diagnosis},
        troubles=[*filter(None, [submission.trouble]), *verdict.troubles],
        messages={o.name: list(o.messages) for o in outcomes if o.messages},
        seed=verdict.seed,
        seconds=round(verdict.seconds, 3),
        submission=submission.contents,
        conditions=verdict.conditions,
    )


def _enter(
    api: NbGraderAPI, assignment: str, submission: Submission, verdict: Verdict, feedback: bool
) -> Entry:
    """Write a verdict where nbgrader keeps it: grade book, graded notebook, feedback."""
    entry = entry_of(submission, verdict)
    student = entry.student
    if not submission.notebook:  # nbgrader has no grade for what holds no notebook
        _enter_points(api, assignment, student, {})
        return entry
    try:
        with faults_named():  # those must not be taken for the submission's
            preprocessors.READY[assignment, assignment, student] = verdict
            succeed(api.autograde(assignment, student), f"entering {assignment} of {student}")
            if feedback:
                succeed(api.generate_feedback(assignment, student), f"feedback for {student}")
    except NbgraderError as error:  # it must not stop the class, nor cost the points
        preprocessors.READY.pop((assignment, assignment, student), None)
        trouble = f"there is no graded notebook or feedback: {_last_line(error)}"
        _enter_points(api, assignment, student, entry.points)
        return replace(entry, troubles=[*entry.troubles, trouble])
    return entry


def _enter_points(
    api: NbGraderAPI, assignment: str, student: str, points: Mapping[str, float]
) -> None:
    """Write the points of each exercise into the grade book, without nbgrader's `autograde`."""
    with api.gradebook as gradebook:
        cells = gradebook.find_notebook(assignment, assignment).source_cells
        sources = {cell.name: cell.source for cell in cells}
        gradebook.update_or_create_student(student)
        submission = gradebook.update_or_create_submission(assignment, student)
        for grade in (grade for notebook in submission.notebooks for grade in notebook.grades):
            exercise, _ = check_of(sources[grade.name])
            grade.auto_score, grade.needs_manual_grade = points.get(exercise, 0), False
        gradebook.db.commit()


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
