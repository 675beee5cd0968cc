"""Formgrader, as in `make lab`: a server on the course, driven through its own API."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from flowcourse.grading.release import main, read


@pytest.fixture
def formgrader(root, tmp_path):
    """Start a Jupyter server with Formgrader; returns a function that asks it for JSON or HTML."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    extensions = {"nbgrader.server_extensions.formgrader": True}
    command = [sys.executable, "-m", "jupyter_server", "--allow-root", "--no-browser"]
    command += [f"--ServerApp.port={port}", "--IdentityProvider.token=t"]
    command += [f"--ServerApp.jpserver_extensions={extensions}", "--ServerApp.port_retries=0"]
    environment = os.environ | {
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
    }
    log = open(tmp_path / "log", "w+")
    server = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)

    def ask(path: str, method: str = "GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", method=method)
        request.add_header("Authorization", "token t")
        with urllib.request.urlopen(request, timeout=240) as answer:
            text = answer.read().decode()
        return json.loads(text) if "/api/" in path else text

    try:
        for _ in range(300):
            try:
                ask("formgrader/")
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.2)
        yield ask
    finally:
        server.terminate()
        server.wait(timeout=30)
        log.close()


def test_an_instructor_releases_and_grades_in_the_browser(formgrader, root):
    assert main(["tiny"]) == 0
    release = read(root / "exercises/tiny")
    made = formgrader("formgrader/api/assignment/tiny/assign", "POST")
    assert made["success"], made
    assert read(root / "exercises/tiny") == release

    folder = root / "submitted/by_browser/tiny"
    folder.mkdir(parents=True)
    for name, content in release.items():
        (folder / name).write_bytes(content)
    graded = formgrader("formgrader/api/submission/tiny/by_browser/autograde", "POST")
    assert graded["success"], graded
    submission = formgrader("formgrader/api/submission/tiny/by_browser")
    assert (submission["score"], submission["max_score"]) == (0, 10.5)

    notebooks = formgrader("formgrader/api/submitted_notebooks/tiny/tiny")
    (notebook,) = (n for n in notebooks if n["student"] == "by_browser")
    page = formgrader(f"formgrader/submissions/{notebook['id']}")
    assert "not answered yet" in page
    assert formgrader("formgrader/api/assignment/tiny/generate_feedback", "POST")["success"]
    assert (root / "feedback/by_browser/tiny/tiny.html").is_file()
