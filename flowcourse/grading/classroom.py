"""Grade a whole class: `flowcourse grade ASSIGNMENT`.

Submissions are judged by workers (Dask: processes of this machine, or a cluster that is there
already), each with a warm sandbox. One process, this one, writes the grade book, by nbgrader's own
`autograde`, and then the register. A submission that is in the register in its present state is not
graded again, so that the same command after a crash goes on where it was.
"""

import contextlib
import functools
import hashlib
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nbformat.v4 import new_notebook
from nbgrader.apps import NbGraderAPI
from tqdm import tqdm

import flowcourse
from flowcourse.grading import preprocessors
from flowcourse.grading.course import NbgraderError, nbgrader_api, succeed
from flowcourse.grading.judge import SEED_BITS, Cell, Judge, Verdict
from flowcourse.grading.namespaces import Limits
from flowcourse.grading.preprocessors import KnownCell, known_cells, plan, preload, restore
from flowcourse.grading.register import Entry, Register
from flowcourse.grading.submission import TROUBLE, check_of, read_files, read_notebook

__all__ = ["CHOICES", "GradingError", "Options", "grade", "submissions", "table"]

CHOICES = ("new", "changed", "all")
AHEAD = 3  # submissions given out for each worker: none waits, and few lie about


class GradingError(RuntimeError):
    """The class could not be graded; the message says why and what to do."""


@dataclass(frozen=True)
class Options:
    """How submissions are judged.

    Attributes:
        seed: of the inputs of all checks; all submissions of one run meet the same.
        limits: what one submission may use; those of the settings (`c.Grade.limits`) if None.
        unsafe: no sandbox, see `flowcourse.grading.sandbox`.
        everything: for the course's own sample class, see there.
    """

    seed: int = field(default_factory=lambda: secrets.randbits(SEED_BITS))
    limits: Limits | None = None
    unsafe: bool = False
    everything: bool = False


@dataclass(frozen=True)
class Submission:
    """What a worker is given."""

    student: str
    digest: str
    cells: list[Cell]
    files: dict[str, bytes]
    trouble: str | None
    notebook: bool  # whether there is one, readable or not


def submissions(course: Path, assignment: str) -> list[str]:
    """Students who have handed in the assignment."""
    return sorted(path.parent.name for path in course.glob(f"submitted/*/{assignment}"))


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
        GradingError: there is nothing to grade, or the workers are lost; what is in the register
            then stays there.
    """
    options = options or Options()
    course = course.resolve()
    api = nbgrader_api(course, root)
    if options.limits is None:
        options = replace(options, limits=Limits(**api.config.Grade.get("limits", {})))
    known = _known(api, assignment)
    register = Register(course, assignment)
    handed_in = submissions(course, assignment)
    if missing := sorted(set(students or ()) - set(handed_in)):
        raise GradingError(
            f"Nothing handed in by {', '.join(missing)}: expected submitted/STUDENT/{assignment}."
        )
    state = _digest(*(path.read_bytes() for path in _sources(root, course, assignment)))
    waiting = []
    for student in students or handed_in:
        digest = _digest(state.encode(), *_contents(course / "submitted" / student / assignment))
        before = register.entries.get(student)
        fresh = before is None or before.digest != digest
        if only == "all" or (fresh and (only == "new" or before is not None)):
            waiting.append((student, digest))
    work = (_read(course, assignment, known, *who) for who in waiting)
    modules = preload(restore(new_notebook(), known))
    judge = functools.partial(_judge, assignment, options, modules)
    bar = tqdm(total=len(waiting), desc=assignment, unit="submission", disable=not progress)
    with bar:
        for submission, verdict in _verdicts(work, judge, workers, scheduler, len(waiting)):
            entry = _enter(api, assignment, submission, verdict, feedback)
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


# Judging, in workers


def _judge(
    assignment: str, options: Options, modules: list[str], submission: Submission
) -> Verdict:
    judge = _warm_judge(assignment, options, tuple(modules))
    return judge.judge(submission.cells, submission.files)


@functools.lru_cache(maxsize=1)
def _warm_judge(assignment: str, options: Options, modules: tuple[str, ...]) -> Judge:
    return Judge(
        assignment, options.seed, modules, options.limits, options.unsafe, options.everything
    )


def _verdicts(
    work: Iterator[Submission],
    judge: Callable[[Submission], Verdict],
    workers: int,
    scheduler: str | None,
    n: int,
) -> Iterator[tuple[Submission, Verdict]]:
    """Judge submissions on workers; yields each with its verdict as it comes."""
    if not n:
        return
    from distributed import Client, KilledWorker, LocalCluster, as_completed

    cluster = None
    if scheduler is None:
        cluster = LocalCluster(
            n_workers=min(workers, n),
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            memory_limit=0,  # the sandbox has its own
        )
    try:
        with Client(cluster or scheduler, set_as_default=False) as client:
            ahead = AHEAD * max(1, len(client.scheduler_info()["workers"]))
            running: dict[Any, Submission] = {}
            results = as_completed(loop=client.loop)

            def give_out() -> None:
                for submission in work:
                    future = client.submit(judge, submission, pure=False, retries=2)
                    running[future] = submission
                    results.add(future)
                    if len(running) >= ahead:
                        return

            give_out()
            while running:
                future = next(results)
                submission = running.pop(future)
                try:
                    verdict = future.result()
                except KilledWorker as error:
                    raise GradingError(
                        f"The workers that judged {submission.student} were killed again and "
                        f"again ({error}). What was graded is kept: the same command goes on."
                    ) from error
                yield submission, verdict
                give_out()
    except OSError as error:
        raise GradingError(
            f"The scheduler {scheduler or 'of this machine'} cannot be reached: {error}. What was "
            "graded is kept: the same command goes on."
        ) from error
    finally:
        if cluster is not None:
            # On a busy machine a worker may take longer to end than Dask waits: it ends with this
            # process, and what was graded is entered already.
            with contextlib.suppress(TimeoutError):
                cluster.close()


# Reading and writing, here


def _known(api: NbGraderAPI, assignment: str) -> dict[str, KnownCell]:
    with api.gradebook as gradebook:
        if assignment not in {found.name for found in gradebook.assignments}:
            raise GradingError(
                f"The grade book knows no assignment {assignment!r}: release it first, with "
                f"nbgrader generate_assignment {assignment}."
            )
        return known_cells(gradebook.find_notebook(assignment, assignment))


def _read(
    course: Path, assignment: str, known: Mapping[str, KnownCell], student: str, digest: str
) -> Submission:
    folder = course / "submitted" / student / assignment
    path = folder / f"{assignment}.ipynb"
    notebook = restore(read_notebook(path) if path.exists() else new_notebook(), known)
    files = read_files(folder, folder) | _own_files(course / "solutions" / assignment)
    trouble = notebook.metadata.get(TROUBLE)
    if not path.exists():
        trouble = f"there is no {path.name} in what was handed in"
    return Submission(student, digest, plan(notebook), files, trouble, path.exists())


def _own_files(folder: Path) -> dict[str, bytes]:
    """The course's own data files, which replace a student's of the same name."""
    return read_files(folder, folder) if folder.is_dir() else {}


def _enter(
    api: NbGraderAPI, assignment: str, submission: Submission, verdict: Verdict, feedback: bool
) -> Entry:
    """Write a verdict where nbgrader keeps it: grade book, graded notebook, feedback."""
    student = submission.student
    outcomes = [judged.outcome for judged in verdict.cells if judged.outcome is not None]
    points = {outcome.name: outcome.points for outcome in outcomes}
    troubles = [*filter(None, [submission.trouble]), *verdict.troubles]
    if submission.notebook:
        try:
            preprocessors.READY[assignment, assignment, student] = verdict
            succeed(api.autograde(assignment, student), f"entering {assignment} of {student}")
            if feedback:
                succeed(api.generate_feedback(assignment, student), f"feedback for {student}")
        except NbgraderError as error:  # it must not stop the class, nor cost the points
            preprocessors.READY.pop((assignment, assignment, student), None)
            troubles.append(f"there is no graded notebook or feedback: {_last_line(error)}")
            _enter_points(api, assignment, student, points)
    else:  # nbgrader has no grade for what holds no notebook
        _enter_points(api, assignment, student, {})
    return Entry(
        student=student,
        digest=submission.digest,
        points=points,
        max_points={outcome.name: outcome.max_points for outcome in outcomes},
        diagnoses={o.name: o.diagnosis for o in outcomes if o.diagnosis},
        troubles=troubles,
        messages={o.name: list(o.messages) for o in outcomes if o.messages},
        seed=verdict.seed,
        seconds=round(verdict.seconds, 3),
    )


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


def _sources(root: Path, course: Path, assignment: str) -> list[Path]:
    """Files that a grade depends on besides the submission."""
    package = Path(flowcourse.__file__).parent
    released = sorted((course / "exercises" / assignment).rglob("*"))
    return [root / "nbgrader_config.py", *sorted(package.rglob("*.py")), *_files(released)]


def _contents(folder: Path) -> Iterator[bytes]:
    for path in _files(sorted(folder.rglob("*"))):
        yield path.relative_to(folder).as_posix().encode(errors="surrogateescape")
        yield path.read_bytes()


def _files(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
