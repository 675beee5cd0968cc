"""A class of 500: every score as it must be, and how long it takes.

    python -m benchmarks.class500 [--n 500] [--topic TOPIC] [--workers N]

The submissions are those of the sample class (`flowcourse.grading.cast`: right answers in two
styles, half of them, none, each typical mistake, an import that fails), over and over, and between
them some that crash, loop for ever, hold no JSON, or no notebook. `flowcourse grade` grades them,
feedback included, and every exercise of every student must have the points that are known
beforehand. The time is written to `book/results/grading.json`.

The problem set is `change_of_variables` unless told otherwise: it is the first that a class meets,
and its answers are formulas, which cost little, so that what is measured is the engine.
"""

import argparse
import copy
import functools
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from benchmarks.grading import CONFIG, NBGRADER, repository, scores
from flowcourse.checks import get
from flowcourse.grading.cast import Student, cast, expected_points
from flowcourse.grading.notebook import ProblemSet
from flowcourse.grading.register import Entry, Register
from flowcourse.grading.release import load, read, source_files, write
from flowcourse.grading.sandbox import what_is_missing
from flowcourse.results import write_records
from flowcourse.training.runs import versions

__all__ = ["HandedIn", "a_class", "complaints", "main"]

TOPIC = "change_of_variables"
CELL_SECONDS = 30  # what ends a loop; nothing that is right takes as long on a busy machine
# The kinds of trouble, and how many of 100 have it.
TROUBLES = {"crash": 3, "loop": 1, "unreadable": 2, "missing": 1}
CRASH = "import os\nos._exit(3)"
LOOP = "while True:\n    pass"


@dataclass(frozen=True)
class HandedIn:
    """A submission, and what must come of it.

    Attributes:
        name: of the student.
        kind: of the sample class, or of `TROUBLES`.
        files: what is handed in.
        points: what each exercise must score.
        trouble: whether a reason must be given besides the messages of the checks.
    """

    name: str
    kind: str
    files: dict[str, bytes]
    points: dict[str, float]
    trouble: bool


def a_class(problem_set: ProblemSet, released: dict[str, bytes], n: int) -> list[HandedIn]:
    """Invent `n` submissions, the same for the same `n`."""
    chance = random.Random(n)
    notebook = f"{problem_set.topic}.ipynb"
    release = nbformat.reads(released[notebook].decode(), as_version=4)
    students = cast(problem_set, release)
    kinds = [kind for kind, share in TROUBLES.items() for _ in range(max(1, share * n // 100))]
    kinds = kinds[:n] + [students[i % len(students)].name for i in range(n - len(kinds))]
    chance.shuffle(kinds)
    by_name = {student.name: student for student in students}
    expected = {student.name: _expected(problem_set, student) for student in students}
    made = []
    for number, kind in enumerate(kinds):
        honest = by_name.get(kind, by_name["perfect"])
        points = dict(expected[honest.name])
        files = released | {notebook: _bytes(honest.notebook)}
        if kind in ("crash", "loop"):
            problem = chance.choice(problem_set.problems)
            source = CRASH if kind == "crash" else LOOP
            files[notebook] = _bytes(_with(honest.notebook, problem.answer_id, source))
            points[problem.exercise] = 0
        elif kind in ("unreadable", "missing"):
            points = dict.fromkeys(points, 0.0)
            files[notebook] = files[notebook][:-100]
            if kind == "missing":
                del files[notebook]
        # An interrupted loop is an error in its cell, which is there to see; no other reason.
        trouble = kind in TROUBLES and kind != "loop"
        made.append(HandedIn(f"{kind}-{number:03d}", kind, files, points, trouble))
    return made


def _expected(problem_set: ProblemSet, student: Student) -> dict[str, float]:
    return {
        problem.exercise: _points(student.mistakes.get(problem.exercise), problem.exercise)
        if problem.exercise in student.mistakes
        else expected_points(student, problem.exercise)
        for problem in problem_set.problems
    }


@functools.cache
def _points(mistake: str, exercise: str) -> float:
    """The partial credit of a mistake."""
    declared = get(exercise)
    return declared.evaluate(declared.mistakes[mistake], diagnose=False).points


def _bytes(notebook: NotebookNode) -> bytes:
    return (nbformat.writes(notebook) + "\n").encode()


def _with(notebook: NotebookNode, grade_id: str, source: str) -> NotebookNode:
    changed = copy.deepcopy(notebook)
    for cell in changed.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id:
            cell.source = source
    return changed


def complaints(made: list[HandedIn], entries: dict[str, Entry]) -> list[str]:
    """What is not as it must be."""
    found = []
    for one in made:
        entry = entries.get(one.name)
        if entry is None:
            found.append(f"{one.name}: not graded")
            continue
        found += [
            f"{one.name}, {name}: {entry.points.get(name)} points, expected {points:g}"
            for name, points in one.points.items()
            if entry.points.get(name) != points
        ]
        if one.trouble and not entry.troubles:
            found.append(f"{one.name}: no reason is given")
        if entry.troubles and one.kind not in TROUBLES:
            found.append(f"{one.name}: {'; '.join(entry.troubles)}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Make the class, grade it, check it; returns 1 if a score is not as it must be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=500, help="submissions; default: 500")
    parser.add_argument("--topic", default=TOPIC, help=f"default: {TOPIC}")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-record", action="store_true", help="do not write the result")
    args = parser.parse_args(arguments)
    if missing := what_is_missing():
        print(f"{missing} Grading in a sandbox is not measured here.")
        return 0
    with tempfile.TemporaryDirectory(prefix="flowcourse-class-") as scratch:
        root = repository(Path(scratch), [args.topic])
        with open(root / CONFIG, "a") as config:
            # The mistakes of the sample class are the checks' own, which no student can see.
            config.write("\nc.Grade.everything = True\n")
            config.write(f'c.Grade.limits = {{"cell_seconds": {CELL_SECONDS}}}\n')
        made, course = _hand_in(args.topic, args.n, root)
        kinds = Counter(one.kind for one in made)
        print(f"{args.n} submissions:", ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
        seconds = _grade(args.topic, course, root, args.workers)
        entries = Register(course, args.topic).entries
        found = complaints(made, entries)
        booked = sorted(earned for earned, _ in scores(course))
        if booked != sorted(sum(one.points.values()) for one in made):
            found.append("The grade book has other sums than the register.")
    for complaint in found:
        print(f"NOT AS EXPECTED: {complaint}", file=sys.stderr)
    print(
        f"{len(entries)} graded in {seconds:.0f} s with {args.workers} workers: "
        f"{seconds / args.n:.2f} s a submission, {60 * args.n / seconds:.0f} submissions a minute; "
        f"{'every score is as it must be' if not found else f'{len(found)} complaints'}."
    )
    if not found and not args.no_record:
        print("in", write_records("grading", [_record(args, seconds)]))
    return 1 if found else 0


def _hand_in(topic: str, n: int, root: Path) -> tuple[list[HandedIn], Path]:
    problem_set = load(topic, root)
    course = root / "course"
    write({CONFIG: f"load_subconfig({str(root / CONFIG)!r})\n".encode()}, course)
    write(source_files(problem_set, root), course / "solutions" / topic)
    _run([*NBGRADER, "generate_assignment", topic], course, root)
    made = a_class(problem_set, read(course / "exercises" / topic), n)
    for one in made:
        folder = course / "submitted" / one.name / topic
        folder.mkdir(parents=True)
        write(one.files, folder)
    return made, course


def _grade(topic: str, course: Path, root: Path, workers: int) -> float:
    command = [sys.executable, "-m", "flowcourse", "grade", topic, "--course", str(course)]
    started = time.monotonic()
    _run([*command, "--workers", str(workers), "--seed", "0"], root, root)
    return time.monotonic() - started


def _run(command: list[str], cwd: Path, root: Path) -> None:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": programs}
    subprocess.run(command, cwd=cwd, env=environment, check=True)


def _record(args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    return {
        "topic": "grading",
        "variant": f"class of {args.n}",
        "data": args.topic,
        "seed": 0,
        "seconds_per_submission": round(seconds / args.n, 3),
        "submissions_per_minute": round(60 * args.n / seconds, 1),
        "ratio": None,
        "workers": args.workers,
        "efficiency": None,
        "n": args.n,
        "repeats": 1,
        "cores": os.cpu_count(),
        "seconds": round(seconds, 1),
        "device": "cpu",
        "command": f"python -m benchmarks.class500 --n {args.n} --topic {args.topic}",
        "versions": {**versions(), "nbgrader": version("nbgrader")},
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "checkpoint": None,
    }


if __name__ == "__main__":
    sys.exit(main())
