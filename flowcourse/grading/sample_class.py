"""Grade a sample class with nbgrader, and compare its scores with what they must be.

    python -m flowcourse.grading.sample_class [--topics TOPIC ...] [--students NAME ...]

Writes a course folder (`_build/class` by default, with a grade book of its own): the submissions
of `flowcourse.grading.cast`, the notebooks that `nbgrader autograde` made of them, feedback as
HTML, `grades.csv` (nbgrader's export) and `scores.csv` (each exercise of each student, with the
mistake that was made and whether the check named it). Fails when a score is not as expected.
`nbgrader` and JupyterLab's Formgrader work in that folder as in any course.

Running it again grades only what has changed: a submission, its release, or the package.
"""

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Collection
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import nbformat
from nbgrader.plugins import CsvExportPlugin
from tqdm import tqdm

import flowcourse
from flowcourse.grading.cast import Student, cast, expected_points
from flowcourse.grading.course import (
    CONFIG,
    Graded,
    grade_submission,
    nbgrader_api,
    repository,
    succeed,
)
from flowcourse.grading.notebook import ProblemSet
from flowcourse.grading.release import load, read, source_files, topics, write

__all__ = ["Row", "grade_class", "table"]


@dataclass(frozen=True)
class Row:
    """One exercise of one submission: `mistake` was made in it, if any; `named` by the check."""

    topic: str
    student: str
    exercise: str
    points: float
    max_points: float
    expected: float
    mistake: str | None
    named: bool | None

    @property
    def complaint(self) -> str | None:
        """What is not as expected, if anything."""
        where = f"{self.student}, {self.exercise}"
        if self.points != self.expected:
            return f"{where}: {self.points:g} points, expected {self.expected:g}"
        if self.named is False:
            return f"{where}: the check did not name the mistake {self.mistake!r}"
        return None


def grade_class(
    names: list[str],
    course: Path,
    root: Path,
    workers: int = 1,
    only: Collection[str] | None = None,
) -> list[Row]:
    """Grade the sample class in the folder `course`; returns all rows, graded now or before.

    Args:
        names: the topics.
        course: where; made if need be.
        root: the repository.
        workers: how many submissions are graded at a time.
        only: the names of the students to grade; all by default.
    """
    package = Path(flowcourse.__file__).parent
    sources = [root / CONFIG, *sorted(package.rglob("*.py"))]
    state = _State(course.resolve(), _hash(*(path.read_bytes() for path in sources)))
    course = state.course
    write({CONFIG: f"load_subconfig({str(root / CONFIG)!r})\n".encode()}, course)
    known: dict[str, tuple[ProblemSet, Student, str]] = {}
    stale = []
    for topic in names:
        problem_set = load(topic, root)
        for student in _submit(problem_set, course, root, state):
            if only and student.name not in only:
                continue
            files = read(course / "submitted" / student.name / topic)
            digest = _hash(*(name.encode() + files[name] for name in sorted(files)))
            key = f"{topic}/{student.name}"
            known[key] = (problem_set, student, digest)
            if not state.is_current(key, digest):
                stale.append(key)
    # More threads than cores would slow down every kernel.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, max(1, len(stale))), mp_context=context) as pool:
        jobs: dict[Future[dict[str, Graded]], str] = {
            pool.submit(grade_submission, course, root, *key.split("/")): key for key in stale
        }
        for job in tqdm(as_completed(jobs), "grading", len(jobs), disable=not jobs):
            problem_set, student, digest = known[jobs[job]]
            state.save(jobs[job], digest, _rows(problem_set, student, job.result()))
    rows = [row for key in known for row in state.rows(key)]
    _export(course, root, rows)
    return rows


def _submit(problem_set: ProblemSet, course: Path, root: Path, state: "_State") -> list[Student]:
    """Release a topic in the course, if it is new or changed, and hand in the submissions."""
    topic = problem_set.topic
    files = source_files(problem_set, root)
    if read(course / "solutions" / topic) != files or not (course / "exercises" / topic).exists():
        _start_anew(topic, course, root, state)
        write(files, course / "solutions" / topic)
        succeed(nbgrader_api(course, root).generate_assignment(topic), f"releasing {topic}")
    released = read(course / "exercises" / topic)
    notebook = nbformat.reads(released[f"{topic}.ipynb"].decode(), as_version=4)
    students = cast(problem_set, notebook)
    for student in students:
        content = (nbformat.writes(student.notebook) + "\n").encode()
        write(released | {f"{topic}.ipynb": content}, course / "submitted" / student.name / topic)
    return students


def _start_anew(topic: str, course: Path, root: Path, state: "_State") -> None:
    """Forget a topic: nbgrader refuses to change an assignment that has submissions."""
    state.forget(topic)
    for folder in [*course.glob(f"*/*/{topic}"), *course.glob(f"*/{topic}")]:
        shutil.rmtree(folder)
    with nbgrader_api(course, root).gradebook as gradebook:
        if topic in {assignment.name for assignment in gradebook.assignments}:
            gradebook.remove_assignment(topic)


def _rows(problem_set: ProblemSet, student: Student, graded: dict[str, Graded]) -> list[Row]:
    rows = []
    for problem in problem_set.problems:
        points, max_points, text = graded[problem.check_id]
        mistake = student.mistakes.get(problem.exercise)
        # The message is wrapped to fit nbgrader's 80 columns: compare without white space.
        named = "".join(mistake.split()) in "".join(text.split()) if mistake else None
        expected = expected_points(student, problem.exercise)
        topic, name = problem_set.topic, student.name
        rows.append(
            Row(topic, name, problem.exercise, points, max_points, expected, mistake, named)
        )
    return rows


class _State:
    """The course folder's record of what has been graded; survives interruption.

    Each submission is recorded with a digest of its files. The whole folder belongs to one
    version of the package and the settings: with another one, everything starts anew.
    """

    def __init__(self, course: Path, version: str):
        self.course, self.path = course, course / "state.json"
        if course.exists() and any(course.iterdir()) and not self.path.is_file():
            raise FileExistsError(
                f"{course} is no sample class but has files in it: choose another folder"
            )
        content = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.version = version
        self.graded: dict[str, dict] = content.get("graded", {})
        if content.get("version") != version:
            shutil.rmtree(course, ignore_errors=True)
            course.mkdir(parents=True)
            self.graded = {}
            self._write()

    def is_current(self, key: str, digest: str) -> bool:
        return self.graded.get(key, {}).get("digest") == digest

    def rows(self, key: str) -> list[Row]:
        return [Row(**row) for row in self.graded[key]["rows"]]

    def save(self, key: str, digest: str, rows: list[Row]) -> None:
        self.graded[key] = {"digest": digest, "rows": [asdict(row) for row in rows]}
        self._write()

    def forget(self, topic: str) -> None:
        self.graded = {k: v for k, v in self.graded.items() if not k.startswith(f"{topic}/")}
        self._write()

    def _write(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"version": self.version, "graded": self.graded}, indent=1))
        part.replace(self.path)


def _hash(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()


def _export(course: Path, root: Path, rows: list[Row]) -> None:
    api = nbgrader_api(course, root)
    plugin = CsvExportPlugin(parent=api)
    plugin.to = str(course / "grades.csv")
    with api.gradebook as gradebook:
        plugin.export(gradebook)
    with open(course / "scores.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(Row.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def table(rows: list[Row]) -> str:
    """Lay out the scores: a line for each student, a column for each topic."""
    names = list(dict.fromkeys(row.topic for row in rows))
    students = list(dict.fromkeys(row.student for row in rows))
    lines = [["student", *names]]
    for student in students:
        line = [student]
        for topic in names:
            mine = [row for row in rows if (row.student, row.topic) == (student, topic)]
            points, available = (sum(r.points for r in mine), sum(r.max_points for r in mine))
            line.append(f"{points:g}/{available:g}" if mine else "-")
        lines.append(line)
    made = ["mistakes named"]
    for topic in names:
        named = [row.named for row in rows if row.topic == topic and row.mistake]
        made.append(f"{sum(map(bool, named))}/{len(named)}")
    lines.append(made)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    summary = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser("python -m flowcourse.grading.sample_class", None, summary)
    parser.add_argument("--topics", nargs="+", metavar="TOPIC", help="default: all of solutions/")
    parser.add_argument("--students", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--course", type=Path, metavar="DIR", help="default: _build/class")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N")
    options = parser.parse_args(arguments)
    root = repository()
    course = options.course or root / "_build" / "class"
    names = options.topics or topics(root)
    rows = grade_class(names, course, root, options.workers, options.students)
    print(table(rows))
    print(f"Each exercise: {course / 'scores.csv'}; feedback: {course / 'feedback'}")
    complaints = [row.complaint for row in rows if row.complaint]
    for complaint in complaints:
        print(f"NOT AS EXPECTED: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
