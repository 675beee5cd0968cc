"""Make the students' notebooks from the problem sets' text.

    python -m flowcourse.grading.release [TOPIC ...] [--check]

`solutions/TOPIC/TOPIC.md` becomes `solutions/TOPIC/TOPIC.ipynb` (nbgrader's source, not
committed), and from it the real `nbgrader generate_assignment` makes `exercises/TOPIC/`
(committed). The same text gives the same bytes. With `--check` nothing is written: the command
fails and shows the difference when `exercises/` is not what `solutions/` gives.
"""

import argparse
import difflib
import json
import sys
import tempfile
from pathlib import Path

import nbformat
from traitlets.config import Config

from flowcourse import checks
from flowcourse.grading.course import nbgrader_api, repository, succeed
from flowcourse.grading.notebook import ProblemSet, SourceError, read_problem_set

__all__ = ["drift", "load", "refresh_source", "release", "topics"]

Files = dict[str, bytes]


def topics(root: Path) -> list[str]:
    """List the topics that have a problem set, in alphabetical order."""
    paths = (root / "solutions").glob("*/*.md")
    return sorted(path.stem for path in paths if path.stem == path.parent.name)


def load(topic: str, root: Path) -> ProblemSet:
    """Read a topic's problem set, with the points that its checks declare."""
    path = root / "solutions" / topic / f"{topic}.md"
    if not path.is_file():
        known = ", ".join(topics(root)) or "none"
        raise FileNotFoundError(f"no problem set {path}; there are: {known}")
    points = {exercise.name: exercise.points for exercise in checks.exercises(topic)}
    return read_problem_set(path.read_text(encoding="utf-8"), topic, points)


def source_files(problem_set: ProblemSet, root: Path) -> Files:
    """Return what nbgrader needs in its source folder: the notebook and the data files."""
    notebook = nbformat.writes(problem_set.notebook) + "\n"
    folder = root / "solutions" / problem_set.topic
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.suffix not in (".md", ".py", ".pyc", ".ipynb")
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    return {f"{problem_set.topic}.ipynb": notebook.encode(), **files}


def release(problem_sets: list[ProblemSet], root: Path) -> dict[str, Files]:
    """Run nbgrader's generate_assignment in a scratch course; return each topic's files."""
    released = {}
    no_grade_book = Config(  # what the option --no-db sets
        {"SaveCells": {"enabled": False}, "GenerateAssignment": {"no_database": True}}
    )
    with tempfile.TemporaryDirectory() as scratch:
        course = Path(scratch)
        api = nbgrader_api(course, root, no_grade_book)
        for problem_set in problem_sets:
            topic = problem_set.topic
            write(source_files(problem_set, root), course / "solutions" / topic)
            succeed(api.generate_assignment(topic), f"releasing {topic}")
            released[topic] = read(course / "exercises" / topic)
    return released


def read(folder: Path) -> Files:
    """Return the files of a folder, by their path in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def write(files: Files, folder: Path) -> None:
    """Write files that differ from what is there (so that times stay for `make`)."""
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def drift(topic: str, files: Files, root: Path) -> str:
    """Describe how `exercises/TOPIC/` differs from `files`; empty when it does not."""
    folder = root / "exercises" / topic
    present = {
        name: content for name, content in read(folder).items() if ".ipynb_checkpoints" not in name
    }
    report = []
    for name in sorted(files.keys() | present.keys()):
        old, new = present.get(name), files.get(name)
        if old == new:
            continue
        if old is None or new is None:
            report.append(f"exercises/{topic}/{name}: {'missing' if old is None else 'unexpected'}")
            continue
        report.append(f"exercises/{topic}/{name}: differs from what solutions/{topic} gives")
        if name.endswith(".ipynb"):
            changes = difflib.unified_diff(_lines(old), _lines(new), "exercises", "solutions", n=1)
            report.extend(f"    {line.rstrip()}" for line in list(changes)[:20])
    return "\n".join(report)


def _lines(notebook: bytes) -> list[str]:
    """The lines of the cells; of what is no notebook, its own lines."""
    text = notebook.decode(errors="replace")
    try:
        cells = json.loads(text)["cells"]
        return [line for cell in cells for line in "".join(cell["source"]).splitlines()]
    except (ValueError, KeyError, TypeError):
        return text.splitlines()


def refresh_source(assignment: str, **_: object) -> None:
    """Build the source notebook anew before nbgrader reads it: its `pre_convert_hook`.

    nbgrader runs this in the course folder. It only logs a hook's error and goes on, so the old
    notebook goes first: a text with an error must not release what it said yesterday.
    """
    course = Path.cwd()
    if (course / "solutions" / assignment / f"{assignment}.md").is_file():
        (course / "solutions" / assignment / f"{assignment}.ipynb").unlink(missing_ok=True)
        write_source(load(assignment, course), course)


def write_source(problem_set: ProblemSet, root: Path) -> None:
    """Write `solutions/TOPIC/TOPIC.ipynb`, nbgrader's source."""
    name = f"{problem_set.topic}.ipynb"
    content = source_files(problem_set, root)[name]
    write({name: content}, root / "solutions" / problem_set.topic)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    summary = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser("python -m flowcourse.grading.release", None, summary)
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help="default: all of solutions/")
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    options = parser.parse_args(arguments)
    root = repository()
    try:
        problem_sets = [load(topic, root) for topic in options.topics or topics(root)]
    except (FileNotFoundError, KeyError, SourceError) as error:
        print(error.args[0], file=sys.stderr)
        return 1
    released = release(problem_sets, root)
    if options.check:
        reports = [drift(topic, files, root) for topic, files in released.items()]
        reports += orphans(root) if not options.topics else []
        if any(reports):
            print("\n".join(filter(None, reports)), file=sys.stderr)
            print("Run: python -m flowcourse.grading.release", file=sys.stderr)
            return 1
        print(f"exercises/ is what solutions/ gives, for {', '.join(released)}.")
        return 0
    for problem_set in problem_sets:
        write_source(problem_set, root)
    for topic, files in released.items():
        changed = bool(drift(topic, files, root))
        folder = root / "exercises" / topic
        for stale in read(folder).keys() - files.keys():
            (folder / stale).unlink()
        write(files, folder)
        print(f"exercises/{topic}: {'written' if changed else 'unchanged'}")
    return 0


def orphans(root: Path) -> list[str]:
    """Folders of exercises/ whose problem set is gone."""
    known = topics(root)
    folders = sorted(path for path in (root / "exercises").glob("*") if path.is_dir())
    return [f"exercises/{f.name}: no solutions/{f.name}" for f in folders if f.name not in known]


if __name__ == "__main__":
    sys.exit(main())
