"""One warm judge for all attacks, and the machine that they are after."""

import os
import zipfile

import pytest

from flowcourse.grading import sandbox
from flowcourse.grading.judge import Judge
from flowcourse.grading.namespaces import Limits
from flowcourse.grading.submission import read_files
from tests.grading.attacks.answers_of_tiny import FULL, HONEST, points
from tests.grading.attacks.host import Host, session_key

LIMITS = Limits(
    cell_seconds=120,  # on a machine that is busy with other tests
    seconds=300,
    cpu_seconds=30,
    memory=700 << 20,
    processes=64,
    files=128,
    disk=48 << 20,
)


@pytest.fixture(scope="module")
def key():
    """A key of this session; the judge is started in it."""
    return session_key()


@pytest.fixture(scope="module")
def judge(walls, in_the_course, key):
    """Warm from the first attack on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "GRACE_SECONDS", 1)  # many attacks wait for it
        judge = Judge("tiny", limits=LIMITS)
        yield judge
        judge.close()


@pytest.fixture(scope="module")
def host(judge, key, tmp_path_factory):
    """What they are after."""
    assert points(judge.judge(HONEST)) == FULL
    host = Host(tmp_path_factory.mktemp("host"), key)
    yield host
    host.close()


@pytest.fixture(scope="module")
def handed_in(host, tmp_path_factory):
    """The files beside a notebook: some honest, the others links to what is not theirs."""
    folder = tmp_path_factory.mktemp("handed_in")
    (folder / "data.csv").write_text("4,5")
    (folder / "link.csv").symlink_to(host.folder / "secret")
    (folder / "folder").symlink_to(host.folder)
    (folder / "dangling").symlink_to("nowhere")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "tiny.ipynb").symlink_to(host.folder / "secret")
    os.mkfifo(folder / "pipe")
    (folder / os.fsdecode(b"\xff\n\x1b[31m.csv")).write_text("a name that is no text")
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(64 << 20))
    return read_files(folder, folder)
