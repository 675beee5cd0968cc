"""SIGKILL at random moments: then the same command again, and all is as if nothing had been."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.grading.faults.conftest import PATIENCE, STUDENTS


def test_a_worker_and_then_the_main_process_are_killed(course, chance):
    """Workers are replaced while it runs; what is lost with the main process is graded again."""
    grading = course.start()
    grading.wait_for(chance.randrange(3), chance.uniform(0, 2))
    if workers := grading.workers():
        grading.kill(chance.choice(workers))
    grading.wait_for(chance.randrange(2, STUDENTS), chance.uniform(0, 1))
    grading.kill(grading.process.pid)
    grading.end()
    again = course.start()
    assert again.end() == 0, again.said()
    course.assert_complete()


def test_only_workers_are_killed(course, chance, rounds):
    """The command itself goes on to its end, if not the same submission's worker dies each time."""
    if not rounds:
        pytest.skip("by make faults")
    grading = course.start()
    for entries in sorted(chance.sample(range(1, STUDENTS - 1), 2)):
        grading.wait_for(entries, chance.uniform(0, 0.5))
        if workers := grading.workers():
            grading.kill(chance.choice(workers))
    assert grading.end() == 0, grading.said()
    course.assert_complete()


def test_the_scheduler_is_killed(course, chance, tmp_path):
    """It is another process here; the command says so, and the next one goes on without it."""
    environment = os.environ | {"PYTHONPATH": str(course.root)}
    started = []

    def start(*arguments):
        log = open(tmp_path / f"log{len(started)}", "w+")
        command = [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]]
        started.append(
            subprocess.Popen(command, cwd=course.root, env=environment, stdout=log, stderr=log)
        )
        return started[-1]

    try:
        file = tmp_path / "scheduler.json"
        options = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
        scheduler = start("dask_scheduler", *options, "--scheduler-file", str(file))
        options = ["--nthreads", "1", "--no-dashboard", "--death-timeout", "30"]
        start("dask_worker", *options, "--scheduler-file", str(file))
        address = _address(file, scheduler)
        grading = course.start("--scheduler", address)
        grading.wait_for(chance.randrange(1, STUDENTS - 4), chance.uniform(0, 0.5))
        scheduler.kill()
        assert grading.end() == 2, grading.said()
        assert re.search("scheduler .* (is lost|cannot be reached)", grading.said())
        assert "the same command goes on" in grading.said()
        assert "Traceback" not in grading.said()
    finally:
        for process in started:
            process.kill()
            process.wait(timeout=PATIENCE)
    assert 0 < course.graded() < STUDENTS
    again = course.start()
    assert again.end() == 0, again.said()
    course.assert_complete()


def _address(file, scheduler):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and scheduler.poll() is None:
        try:
            return json.loads(file.read_text())["address"]
        except (OSError, ValueError):
            time.sleep(0.1)
    raise AssertionError("the scheduler did not start")


def test_nothing_is_said_that_worries_and_one_at_a_time_may_grade(course):
    """A quiet start and end; and a second command meanwhile is refused."""
    first = course.start()
    first.wait_for(1)
    first.process.send_signal(signal.SIGSTOP)  # it must not be done before the second has started
    second = subprocess.run(
        course.command(), cwd=course.root, capture_output=True, text=True, timeout=PATIENCE
    )
    first.process.send_signal(signal.SIGCONT)
    assert second.returncode == 2, second.stderr
    assert "Another flowcourse grade is at work" in second.stderr
    assert first.end() == 0, first.said()
    for words in ("Port 8787", "still alive", "Traceback", "Warning", "WARNING"):
        assert words not in first.said(), first.said()
    course.assert_complete()
