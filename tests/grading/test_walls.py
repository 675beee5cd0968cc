"""The sandbox as its user meets it: refusals, what it hides, time that is counted once."""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from flowcourse.cli import main
from flowcourse.grading import sandbox as module
from flowcourse.grading import wire
from flowcourse.grading.judge import Cell, Judge, close_judge, warm_judge
from flowcourse.grading.namespaces import Limits
from flowcourse.grading.sandbox import NoSandbox, Sandbox, in_sight, what_is_missing

ORDER = [Cell("order = ['B', 'A', 'C']"), Cell("", "tiny.order", "order")]


# Refusing


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_refused_with_the_ways_out(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    assert what_is_missing() == "Submissions can be isolated on Linux only."
    with pytest.raises(NoSandbox) as refused:
        Sandbox().start()
    said = str(refused.value)
    assert "Linux only" in said and "Docker" in said and "--unsafe" in said
    assert "Their code can read and change your files" in said


def test_no_bubblewrap_is_refused_with_its_name(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NoSandbox, match=r"bubblewrap \(the program bwrap\) is not installed"):
        Sandbox().submission()


def test_a_sandbox_that_is_not_ready_in_time_is_refused_with_the_reason(walls, monkeypatch):
    def late(*_):
        raise TimeoutError

    monkeypatch.setattr(wire, "receive", late)
    box = Sandbox()
    with pytest.raises(NoSandbox, match="did not start within 300 s. Is the machine very busy"):
        box.start()
    assert box._process is None


def test_a_course_in_sight_of_the_submissions_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "_python_folders", lambda: [str(tmp_path)])
    assert in_sight(tmp_path / "course") and in_sight(Path("/usr/src/course"))
    assert main(["grade", "tiny", "--course", str(tmp_path / "course")]) == 2
    assert "in sight of every submission: move it elsewhere" in capsys.readouterr().err


# Hiding


@pytest.fixture
def elsewhere():
    """A folder outside of /tmp, in whose place a submission has its own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="flowcourse-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("place", ["beside Python", "the environment itself"])
def test_a_checkout_where_python_lies_is_hidden(walls, elsewhere, monkeypatch, place):
    """Its files are not there; what Python needs is."""
    prefix = elsewhere / "prefix"
    checkout = prefix / "src" / "course" if place == "beside Python" else prefix
    package = checkout / "flowcourse"
    shutil.copytree(module.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for secret in ("solutions/tiny/tiny.md", "tests/secret.py", "gradebook.db", ".git/HEAD"):
        (checkout / secret).parent.mkdir(parents=True, exist_ok=True)
        (checkout / secret).write_text("secret")
    (prefix / "lib").mkdir(exist_ok=True)
    (prefix / "lib" / "needed").write_text("needed")
    before = module._python_folders()
    monkeypatch.setattr(module, "_python_folders", lambda: [*before, str(prefix)])
    monkeypatch.setattr(module, "PACKAGE", package)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    look = f"""
import os
for folder, _, names in os.walk({str(elsewhere)!r}):
    for name in names:
        path = os.path.join(folder, name)
        print("FOUND", os.path.relpath(path, {str(prefix)!r}), os.path.getsize(path))
"""
    with Sandbox() as box, box.submission() as submission:
        shown = submission.run(look).outputs[0]["text"]
    found = {line.split()[1] for line in shown.splitlines() if not line.endswith(" 0")}
    assert found == {"lib/needed"}


# Counting time


def test_a_submission_has_its_time_once_whatever_dies(walls):
    """A cell that ends the process makes the others run again, in what is left of the time."""
    judge = Judge("tiny", limits=Limits(seconds=4, cell_seconds=60))
    judge.sandbox.start()
    cells = [Cell("import time; time.sleep(2)"), Cell("import os; os._exit(1)"), *ORDER * 3]
    started = time.monotonic()
    verdict = judge.judge(cells)
    seconds = time.monotonic() - started
    judge.close()
    assert seconds < 4 + module.GRACE_SECONDS + 8  # the latter for a busy machine
    assert [judged.outcome.points for judged in verdict.cells if judged.outcome] == [1.5] * 3 or (
        verdict.troubles[-1].endswith("the submission took longer than 4 s")
    )


def test_the_end_of_the_time_is_said_once(walls):
    judge = Judge("tiny", limits=Limits(seconds=1, cell_seconds=60))
    cells = [Cell("while True: pass"), *ORDER, Cell("1"), *ORDER]
    verdict = judge.judge(cells)
    judge.close()
    assert [judged.outcome.points for judged in verdict.cells if judged.outcome] == [0, 0]
    first, second = verdict.troubles
    assert first.startswith("cell 1: it ran longer than")
    assert second == "cell 2: the submission took longer than 1 s"
    said = [j.outcome.messages for j in verdict.cells if j.outcome]
    assert all("took longer than 1 s" in str(messages) for messages in said)


# Keeping warm


def test_a_process_has_one_judge_and_keeps_it_while_nothing_changes(walls):
    first = warm_judge("tiny", 1)
    first.sandbox.start()
    process = first.sandbox._process
    assert warm_judge("tiny", 1) is first
    second = warm_judge("tiny", 2)
    assert second is not first and process.poll() is not None
    close_judge()
    assert warm_judge("tiny", 2) is not second
    close_judge()
