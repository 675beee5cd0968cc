"""From solutions/ to exercises/: the same bytes every time, no drift, nothing of the solutions."""

import json
from collections import Counter

import pytest

from flowcourse.grading import release as releasing
from flowcourse.grading.notebook import BEGIN, END

REPOSITORY = releasing.Path(__file__).parents[2]
TOPICS = releasing.topics(REPOSITORY)


def solution_lines(text: str) -> list[str]:
    """Every line that an instructor wrote for instructors: in regions and in other styles."""
    found, inside, other = [], False, False
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("```"):
            other = False
        other = other or line == ":tags: [other-style]"
        if line in (BEGIN, END):
            inside = line == BEGIN
        elif inside or other:
            found.append(line)
    return found


def leaks(text: str, released: str) -> list[str]:
    """Solution lines that the release holds more often than the text shows them openly."""
    secret, everything = solution_lines(text), [line.strip() for line in text.splitlines()]
    openly = Counter(everything) - Counter(secret)
    cells = json.loads(released)["cells"]
    shown = Counter(line.strip() for cell in cells for line in "".join(cell["source"]).splitlines())
    return [line for line in set(secret) if len(line) > 7 and shown[line] > openly[line]]


@pytest.fixture(scope="module")
def tiny_files(root, tiny):
    return releasing.release([tiny], root)["tiny"]


def test_the_same_text_gives_the_same_bytes(root, tiny, tiny_files):
    assert releasing.release([tiny], root)["tiny"] == tiny_files
    again = releasing.load("tiny", root)
    assert releasing.source_files(again, root) == releasing.source_files(tiny, root)


def test_data_is_released_and_sources_are_not(root, tiny):
    folder = root / "solutions/tiny"
    (folder / "notes.py").write_text("answer = 42")
    (folder / "data").mkdir()
    (folder / "data/more.csv").write_text("4")
    try:
        files = releasing.release([tiny], root)["tiny"]
    finally:
        (folder / "notes.py").unlink()
        (folder / "data/more.csv").unlink()
        (folder / "data").rmdir()
    assert set(files) == {"tiny.ipynb", "numbers.csv", "data/more.csv"}
    assert files["numbers.csv"] == b"1,2,3\n"


def test_the_release_is_locked_where_it_must_be(tiny_release):
    cells = {c.metadata.nbgrader.grade_id: c for c in tiny_release.cells if c.metadata}
    assert cells["setup-1"].metadata.editable is False
    assert cells["check-tiny-shift"].metadata.editable is False
    assert "editable" not in cells["answer-tiny-shift"].metadata
    assert cells["answer-tiny-shift"].metadata.deletable is False


def test_nbgraders_command_gives_the_committed_bytes(root, nbgrader, tiny_files):
    assert releasing.main(["tiny"]) == 0
    stale = root / "solutions/tiny/tiny.ipynb"
    stale.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    (root / "exercises/tiny/tiny.ipynb").write_text("yesterday's")
    nbgrader("generate_assignment", "tiny", cwd=root)
    assert releasing.read(root / "exercises/tiny") == tiny_files
    assert "BEGIN SOLUTION" in stale.read_text()


def test_a_broken_text_never_releases_yesterdays(root, tiny, monkeypatch):
    text = root / "solutions/tiny/tiny.md"
    content = text.read_text()
    releasing.write_source(tiny, root)
    text.write_text(content.replace("[setup]", "[sutep]"))
    try:
        with pytest.raises(releasing.SourceError, match="sutep"):
            releasing.refresh_source(assignment="tiny", student=".", notebooks=[])
    finally:
        text.write_text(content)
    assert not (root / "solutions/tiny/tiny.ipynb").exists()


def test_the_command_writes_checks_and_reports_drift(root, tiny_files, capsys):
    assert releasing.main(["tiny"]) == 0
    assert releasing.main(["--check"]) == 0
    notebook = root / "exercises/tiny/tiny.ipynb"
    (root / "exercises/tiny/stale.csv").write_text("1")
    (root / "exercises/gone").mkdir()
    notebook.write_text(notebook.read_text().replace("Four exercises", "Five exercises"))
    edited = notebook.read_text()
    capsys.readouterr()
    assert releasing.main(["--check"]) == 1
    complaint = capsys.readouterr().err
    assert "-Five exercises" in complaint and "+Four exercises" in complaint
    assert "exercises/tiny/stale.csv: unexpected" in complaint
    assert "exercises/gone: no solutions/gone" in complaint
    assert notebook.read_text() == edited
    (root / "exercises/gone").rmdir()
    assert releasing.main([]) == 0
    assert releasing.read(root / "exercises/tiny") == tiny_files
    assert releasing.main(["--check"]) == 0


def test_the_command_says_what_is_wrong(root, capsys):
    assert releasing.main(["unheard_of"]) == 1
    assert "no problem set" in capsys.readouterr().err


def test_no_solution_is_released(root, tiny_files):
    text = (root / "solutions/tiny/tiny.md").read_text()
    released = tiny_files["tiny.ipynb"].decode()
    assert len(solution_lines(text)) > 15
    assert leaks(text, released) == []
    # The test itself: it finds a solution where there is one.
    source = (root / "solutions/tiny/tiny.ipynb").read_text()
    assert "return x + self.the_given_shift, x.new_zeros(len(x))" in leaks(text, source)


@pytest.fixture(scope="module")
def released():
    problem_sets = [releasing.load(topic, REPOSITORY) for topic in TOPICS]
    return releasing.release(problem_sets, REPOSITORY)


@pytest.mark.parametrize("topic", TOPICS)
def test_exercises_are_what_solutions_give(topic, released):
    assert releasing.drift(topic, released[topic], REPOSITORY) == ""


@pytest.mark.parametrize("topic", TOPICS)
def test_no_solution_text_is_in_exercises(topic):
    text = (REPOSITORY / f"solutions/{topic}/{topic}.md").read_text()
    notebook = (REPOSITORY / f"exercises/{topic}/{topic}.ipynb").read_text()
    assert leaks(text, notebook) == []
    assert "BEGIN SOLUTION" not in notebook


def test_every_release_has_a_problem_set():
    assert releasing.orphans(REPOSITORY) == []
