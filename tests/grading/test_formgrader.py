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

HOSTILE = """<marquee>mine</marquee><svg onload=alert('mine')></svg>
<script>alert('mine')</script><img src=x onerror=alert('mine')>
"""


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

    def ask(path: str, method: str = "GET", header: str | None = None):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", method=method)
        request.add_header("Authorization", "token t")
        with urllib.request.urlopen(request, timeout=240) as answer:
            text = answer.read().decode()
        if header is not None:
            return answer.headers[header]
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
    notebook = json.loads(release["tiny.ipynb"])
    notebook["cells"] += [
        {"id": f"mine-{kind}", "cell_type": kind, "metadata": {}, "source": HOSTILE}
        | ({"outputs": [], "execution_count": None} if kind == "code" else {})
        for kind in ("markdown", "raw", "code")
    ]
    (folder / "tiny.ipynb").write_text(json.dumps(notebook))
    (folder / "page.html").write_text(HOSTILE)
    graded = formgrader("formgrader/api/submission/tiny/by_browser/autograde", "POST")
    assert graded["success"], graded
    submission = formgrader("formgrader/api/submission/tiny/by_browser")
    assert (submission["score"], submission["max_score"]) == (0, 10.5)

    notebooks = formgrader("formgrader/api/submitted_notebooks/tiny/tiny")
    (notebook,) = (n for n in notebooks if n["student"] == "by_browser")
    page = formgrader(f"formgrader/submissions/{notebook['id']}")
    assert "not answered yet" in page
    assert "<marquee" not in page and "<svg onload" not in page and "alert('mine')</" not in page
    assert "marquee" in page  # it is shown, as what it is
    # A file that was handed in may be looked at, as a stranger's page.
    url = f"formgrader/submissions/{notebook['id']}/page.html"
    assert formgrader(url) == HOSTILE
    policy = formgrader(url, header="Content-Security-Policy")
    assert "sandbox" in policy and "allow" not in policy
    assert formgrader("formgrader/api/assignment/tiny/generate_feedback", "POST")["success"]
    assert (root / "feedback/by_browser/tiny/tiny.html").is_file()
