"""Grade a sample class with nbgrader, and compare its scores with what they must be.

    python -m flowcourse.grading.sample_class [--topics TOPIC ...] [--students NAME ...]

Writes a course folder (`_build/class` by default, with a grade book of its own): the submissions
of `flowcourse.grading.cast`, graded as by `flowcourse grade`, the notebooks that came out,
feedback as HTML, `grades.csv` (nbgrader's export) and `scores.csv` (each exercise of each student,
with the mistake that was made and whether the check named it). Fails when a score is not as
expected. `nbgrader` and JupyterLab's Formgrader work in that folder as in any course.

Running it again grades only what has changed: a submission, its release, or the package.
"""

import argparse
import csv
import os
import shutil
import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import nbformat
from nbgrader.plugins import CsvExportPlugin

from flowcourse.grading.cast import Student, cast, expected_points
from flowcourse.grading.classroom import Options, grade
from flowcourse.grading.course import CONFIG, nbgrader_api, repository, succeed
from flowcourse.grading.notebook import ProblemSet
from flowcourse.grading.register import Entry
from flowcourse.grading.release import load, read, source_files, topics, write
from flowcourse.grading.sandbox import what_is_missing

__all__ = ["Row", "grade_class", "table"]

MARK = "sample-class"  # a file that says that the folder may be written to


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
    course = course.resolve()
    if course.exists() and any(course.iterdir()) and not (course / MARK).is_file():
        raise FileExistsError(
            f"{course} is no sample class but has files in it: choose another folder"
        )
    write({MARK: b"", CONFIG: f"load_subconfig({str(root / CONFIG)!r})\n".encode()}, course)
    # The invented students answer with the checks' own mistakes, which no real student can see.
    # What they hand in is this course's own code: where no sandbox can be had, it runs without.
    missing = what_is_missing()
    if missing:
        print(f"{missing} The sample class, which is the course's own code, runs without.")
    options = Options(everything=True, unsafe=missing is not None)
    rows = []
    for topic in names:
        problem_set = load(topic, root)
        students = {s.name: s for s in _submit(problem_set, course, root)}
        chosen = [name for name in students if not only or name in only]
        entries = grade(topic, course, root, options, workers=workers, students=chosen)
        for name in chosen:
            rows += _rows(problem_set, students[name], entries[name])
    _export(course, root, rows)
    return rows


def _submit(problem_set: ProblemSet, course: Path, root: Path) -> list[Student]:
    """Release a topic in the course, if it is new or changed, and hand in the submissions."""
    topic = problem_set.topic
    files = source_files(problem_set, root)
    if read(course / "solutions" / topic) != files or not (course / "exercises" / topic).exists():
        _start_anew(topic, course, root)
        write(files, course / "solutions" / topic)
        succeed(nbgrader_api(course, root).generate_assignment(topic), f"releasing {topic}")
    released = read(course / "exercises" / topic)
    notebook = nbformat.reads(released[f"{topic}.ipynb"].decode(), as_version=4)
    students = cast(problem_set, notebook)
    for student in students:
        content = (nbformat.writes(student.notebook) + "\n").encode()
        write(released | {f"{topic}.ipynb": content}, course / "submitted" / student.name / topic)
    return students


def _start_anew(topic: str, course: Path, root: Path) -> None:
    """Forget a topic: nbgrader refuses to change an assignment that has submissions."""
    (course / "grading" / f"{topic}.jsonl").unlink(missing_ok=True)
    for folder in [*course.glob(f"*/*/{topic}"), *course.glob(f"*/{topic}")]:
        shutil.rmtree(folder)
    with nbgrader_api(course, root).gradebook as gradebook:
        if topic in {assignment.name for assignment in gradebook.assignments}:
            gradebook.remove_assignment(topic)


def _rows(problem_set: ProblemSet, student: Student, entry: Entry) -> list[Row]:
    rows = []
    for name in (problem.exercise for problem in problem_set.problems):
        mistake = student.mistakes.get(name)
        rows.append(
            Row(
                topic=problem_set.topic,
                student=student.name,
                exercise=name,
                points=entry.points[name],
                max_points=entry.max_points[name],
                expected=expected_points(student, name),
                mistake=mistake,
                named=entry.diagnoses.get(name) == mistake if mistake else None,
            )
        )
    return rows


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
