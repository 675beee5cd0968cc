"""What grading in a sandbox costs, beside plain nbgrader: seconds for each submission.

    python -m benchmarks.grading [--n 20] [--repeats 3]      write book/results/grading.json

The same right answers, handed in by `n` students, are graded in four ways, one after the other and
all over again, so that what else the machine does falls on all of them alike:

- *plain nbgrader*: `nbgrader autograde` in a course with nbgrader's own settings;
- *this course's settings*: the same command, with `nbgrader_config.py`;
- *flowcourse grade*, with one worker and with two.

A command is timed from its start to its end, imports included; medians are kept. Feedback is left
out: plain nbgrader makes it with another command. Every score is looked up, and must be full.
"""

import argparse
import json
import os
import shlex
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flowcourse.checks
from flowcourse.grading.cast import cast
from flowcourse.grading.release import load, source_files, write
from flowcourse.grading.sandbox import what_is_missing
from flowcourse.grading.submission import read_notebook
from flowcourse.results import write_records
from flowcourse.training.runs import versions

__all__ = ["WAYS", "Course", "measure", "repository", "scores"]

ROOT = Path(__file__).resolve().parents[1]
SMALL = ROOT / "tests" / "grading" / "course"  # a problem set whose answers cost nothing
CONFIG = "nbgrader_config.py"
PLAIN = """
c = get_config()
c.CourseDirectory.course_id = "plain"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
"""
NBGRADER = [sys.executable, "-m", "nbgrader"]
GRADE = [sys.executable, "-m", "flowcourse", "grade", "--regrade", "--no-feedback", "--course"]
# Each way: its course's settings, and its number of workers; None for `nbgrader autograde`.
WAYS: dict[str, tuple[str, int | None]] = {
    "plain nbgrader": ("plain", None),
    "this course's settings": ("ours", None),
    "flowcourse grade, 1 worker": ("ours", 1),
    "flowcourse grade, 2 workers": ("ours", 2),
}


def repository(folder: Path, topics: list[str]) -> Path:
    """A repository in small: the package and settings of this one, these problem sets and `tiny`.

    The package is linked file by file, so that the checks of `tiny` can stand in it.
    """
    shutil.copy(ROOT / CONFIG, folder)
    checks = folder / "flowcourse" / "checks"
    checks.mkdir(parents=True)
    linked = [path for path in (ROOT / "flowcourse").iterdir() if path.name != "checks"]
    for path in linked:
        (folder / "flowcourse" / path.name).symlink_to(path)
    for path in [*(ROOT / "flowcourse" / "checks").glob("*.py"), SMALL / "checks" / "tiny.py"]:
        (checks / path.name).symlink_to(path)
    for topic in topics:
        source = SMALL if topic == "tiny" else ROOT
        shutil.copytree(source / "solutions" / topic, folder / "solutions" / topic)
    return folder


class Course:
    """A scratch course in which `n` students have handed in the same right answers.

    Args:
        folder: where.
        settings: "plain", or "ours" for those of the repository.
        topic: the problem set.
        n: the number of students.
        root: the repository, see `repository`.
    """

    def __init__(self, folder: Path, settings: str, topic: str, n: int, root: Path):
        self.folder, self.topic, self.n, self.root = folder, topic, n, root
        problem_set = load(topic, root)
        config = PLAIN if settings == "plain" else f"load_subconfig({str(root / CONFIG)!r})\n"
        write({CONFIG: config.encode()}, folder)
        write(source_files(problem_set, root), folder / "solutions" / topic)
        self.run([*NBGRADER, "generate_assignment", topic], folder)
        released = folder / "exercises" / topic
        answers = cast(problem_set, read_notebook(released / f"{topic}.ipynb"))[0].notebook
        answers.metadata = json.loads((released / f"{topic}.ipynb").read_text())["metadata"]
        for number in range(n):
            submitted = folder / "submitted" / f"student{number:03d}" / topic
            shutil.copytree(released, submitted)
            (submitted / f"{topic}.ipynb").write_text(json.dumps(answers), encoding="utf-8")

    def grade(self, workers: int | None) -> float:
        """Grade everybody anew; returns seconds."""
        if workers is None:
            command = [*NBGRADER, "autograde", self.topic, "--force"]
        else:
            command = [*GRADE, str(self.folder), self.topic, "--workers", str(workers)]
        started = time.perf_counter()
        self.run(command, self.folder if workers is None else self.root)
        seconds = time.perf_counter() - started
        lost = [score for score, available in self.scores() if score != available]
        if lost or len(self.scores()) != self.n:
            raise RuntimeError(
                f"Expected full points for {self.n} right submissions of {self.topic}; "
                f"{shlex.join(command)} gave {self.scores()}."
            )
        return seconds

    def scores(self) -> list[tuple[float, float]]:
        """Each submission's points, earned and available, from the grade book."""
        return scores(self.folder)

    def run(self, command: list[str], cwd: Path) -> None:
        """Run a command with this repository's package, or say what it printed."""
        # nbgrader runs alembic by its name, from an environment that is activated.
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}
        environment["PATH"] = programs
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stdout}{done.stderr}")


def scores(course: Path) -> list[tuple[float, float]]:
    """Each submission's points, earned and available, from the grade book of a course."""
    query = """
        select sum(grade.auto_score), sum(grade_cells.max_score) from grade
        join grade_cells on grade.cell_id = grade_cells.id
        group by grade.notebook_id
    """
    with sqlite3.connect(course / "gradebook.db") as gradebook:
        return [(earned or 0.0, available) for earned, available in gradebook.execute(query)]


def measure(topic: str, n: int, repeats: int, root: Path, folder: Path) -> list[dict[str, Any]]:
    """Time all ways of grading one problem set; returns a record for each."""
    courses = {
        settings: Course(folder / f"{topic}-{settings}", settings, topic, n, root)
        for settings in ("plain", "ours")
    }
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, (settings, workers) in WAYS.items():
            seconds[way].append(courses[settings].grade(workers))
            print(f"{topic}, {way}: {seconds[way][-1] / n:.2f} s a submission", flush=True)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    one, two = medians["flowcourse grade, 1 worker"], medians["flowcourse grade, 2 workers"]
    return [
        {
            "topic": "grading",
            "variant": way,
            "data": topic,
            "seed": 0,
            "seconds_per_submission": round(medians[way] / n, 3),
            "ratio": round(medians[way] / medians["plain nbgrader"], 3),
            "workers": workers or 1,
            "efficiency": round(one / (2 * two), 3) if workers == 2 else None,
            "n": n,
            "repeats": repeats,
            "cores": os.cpu_count(),
            "seconds": round(sum(seconds[way]), 1),
            "device": "cpu",
            "command": f"python -m benchmarks.grading --n {n} --repeats {repeats}",
            "versions": {**versions(), "nbgrader": version("nbgrader")},
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "checkpoint": None,
        }
        for way, (_, workers) in WAYS.items()
    ]


def main() -> int:
    """Measure, and write the results file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--topics", nargs="+", default=["tiny", "likelihood"], metavar="TOPIC")
    parser.add_argument("--n", type=int, default=20, help="submissions of each; default: 20")
    parser.add_argument("--repeats", type=int, default=3, help="of every way; default: 3")
    args = parser.parse_args()
    if missing := what_is_missing():
        print(f"{missing} Grading in a sandbox is not measured here.")
        return 0
    flowcourse.checks.__path__.append(str(SMALL / "checks"))
    with tempfile.TemporaryDirectory(prefix="flowcourse-grading-") as scratch:
        root = repository(Path(scratch), args.topics)
        for topic in args.topics:
            records = measure(topic, args.n, args.repeats, root, root)
            print("in", write_records("grading", records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
