"""The attacks on the host once more, by a grader that is an ordinary user."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.grading.attacks.host import REPOSITORY

USER = 1234
# Python may lie where only root can read, such as in /root. In a private view of the file system
# the ways to it are folders that let everybody through, with nothing else in them.
VIEW = """
set -e
for way in $WAYS; do
    mkdir -p "$PLACE/$(basename "$way")"
    mount --rbind "$way" "$PLACE/$(basename "$way")"
    mount -t tmpfs -o mode=755 tmpfs "$(dirname "$way")"
    mkdir "$way"
    mount --rbind "$PLACE/$(basename "$way")" "$way"
done
exec setpriv --reuid=$USER_ID --regid=$USER_ID --clear-groups "$@"
"""


def closed():
    """The folder, of those that lead to Python or the repository, in which others find nothing."""
    ways = set()
    for path in {Path(sys.prefix), Path(sys.base_prefix).resolve(), REPOSITORY}:
        for folder in [path, *path.parents][::-1]:
            if folder.parent != folder and not folder.parent.stat().st_mode & 0o001:
                ways.add(str(folder))
                break
    return sorted(ways)


@pytest.fixture
def place():
    """A folder that everybody reaches; pytest's are root's alone."""
    with tempfile.TemporaryDirectory(prefix="flowcourse-user-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="the attacks ran as an ordinary user already")
@pytest.mark.skipif(
    not (shutil.which("unshare") and shutil.which("setpriv")), reason="no unshare or no setpriv"
)
def test_the_host_is_as_safe_when_the_grader_is_an_ordinary_user(walls, place):
    home = place / "home"
    home.mkdir()
    os.chown(home, USER, USER)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment |= {
        "HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(REPOSITORY),
        "PLACE": str(place),
        "USER_ID": str(USER),
        "WAYS": " ".join(closed()),
    }
    view = ["unshare", "--mount", "sh", "-c", VIEW, "sh"]
    if subprocess.run([*view, "true"], env=environment, capture_output=True).returncode:
        pytest.skip("this root may not mount")
    python = [*view, sys.executable]
    if subprocess.run([*python, "-c", "import torch"], env=environment).returncode:
        pytest.skip("Python or its packages lie where an ordinary user may not read")
    command = [*python, "-m", "pytest", str(Path(__file__).with_name("test_attacks.py"))]
    command += ["-k", "host- or resources-memory or controls", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--basetemp={home / 'tmp'}"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "passed" in done.stdout and "failed" not in done.stdout, done.stdout
