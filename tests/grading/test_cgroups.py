"""Control groups: made, limited, joined and removed, in either version, and never elsewhere."""

import os
import subprocess
from pathlib import Path

import pytest

from flowcourse.grading import cgroups
from flowcourse.grading.cgroups import WARM, grouped
from flowcourse.grading.namespaces import Limits

LIMITS = Limits(memory=1 << 30, processes=10)
MEMORY, PROCESSES = str((1 << 30) + WARM), "26"


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """A root with these groups in it, which this process is said to be in."""

    def make(own, *existing):
        for folder in existing:
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / "cgroup.procs").touch()
        monkeypatch.setattr(cgroups, "_own_groups", lambda: own)
        monkeypatch.setattr(cgroups, "_remove", lambda group: removed.append(group))
        return tmp_path

    removed = make.removed = []
    return make


def test_version_2(groups):
    root = groups({"": "user.slice/me"}, "user.slice/me")
    with grouped("box", LIMITS, root) as command:
        box = root / "user.slice/me/box"
        assert (box / "memory.max").read_text() == MEMORY
        assert (box / "pids.max").read_text() == PROCESSES
        said = subprocess.run([*command, "echo", "a b", "$HOME"], capture_output=True, text=True)
        assert said.stdout == "a b $HOME\n" and said.returncode == 0
        assert int((box / "cgroup.procs").read_text()) > 1
    assert groups.removed == [box]


def test_version_1(groups):
    own = {"memory": "a", "pids": "", "cpu": "", "": ""}
    root = groups(own, "memory/a", "pids", "cpu", "unified")
    with grouped("box", LIMITS, root) as command:
        assert (root / "memory/a/box/memory.limit_in_bytes").read_text() == MEMORY
        assert (root / "pids/box/pids.max").read_text() == PROCESSES
        assert len(list(root.rglob("box"))) == 2
        subprocess.run([*command, "true"], check=True)
        assert {len(p.read_text().split()) for p in root.rglob("box/cgroup.procs")} == {1}
    assert len(groups.removed) == 2


def test_a_plain_folder_is_no_control_group(groups):
    """Where version 1 is mounted, what version 2 has as its root is a folder like any other."""
    root = groups({"": "", "pids": "gone"}, "pids")
    with grouped("box", LIMITS, root) as command:
        assert command == []
    assert list(root.rglob("box")) == []


def test_no_groups_at_all(groups, tmp_path):
    with grouped("box", LIMITS, groups({})) as command:
        assert command == []
    assert list(tmp_path.iterdir()) == []


def test_a_group_is_removed_after_an_error_too(groups):
    root = groups({"": "me"}, "me")
    with pytest.raises(ZeroDivisionError), grouped("box", LIMITS, root):
        raise ZeroDivisionError
    assert groups.removed == [root / "me/box"]


def test_a_group_that_cannot_be_removed_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroups.time, "sleep", lambda seconds: None)
    (tmp_path / "group/child").mkdir(parents=True)
    cgroups._remove(tmp_path / "group")
    assert (tmp_path / "group/child").exists()


@pytest.mark.skipif(not Path("/proc/self/cgroup").exists(), reason="no control groups here")
def test_the_real_ones_of_this_machine():
    name = f"flowcourse-test-{os.getpid()}"
    before = set(Path("/sys/fs/cgroup").glob("*"))
    with grouped(name, LIMITS) as command:
        if not command:
            pytest.skip("this user may make no control group")
        show = [*command, "cat", "/proc/self/cgroup"]
        groups = subprocess.run(show, capture_output=True, text=True).stdout
        assert f"/{name}\n" in groups
    assert f"/{name}\n" not in Path("/proc/self/cgroup").read_text()
    assert not [p for p in Path("/sys/fs/cgroup").glob(f"*/{name}")]
    assert name not in {path.name for path in set(Path("/sys/fs/cgroup").glob("*")) - before}
