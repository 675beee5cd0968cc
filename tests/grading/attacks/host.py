"""This machine as an attack would like to have it, and whether it still is as it was."""

import ctypes
import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flowcourse.catalog import TOPICS

__all__ = ["REPOSITORY", "Host", "running", "session_key"]

REPOSITORY = Path(__file__).parents[3]


class Host:
    """Things of this machine that an attack would like to have, and whether it has."""

    def __init__(self, folder, key):
        self.secret = secrets.token_hex(16)
        self.name = f"flowcourse-attack-{secrets.token_hex(8)}"
        self.key = key
        self.folder = folder
        self.mark = folder / self.name
        (folder / "secret").write_text(self.secret)
        (folder / "gradebook.db").write_text(self.secret)
        self.canary = subprocess.Popen(["sleep", "3600"])
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.abstract, self.unix = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0{self.name}")
        self.unix.bind(str(folder / "s"))
        self.sockets = [self.tcp, self.abstract, self.unix]
        for one in self.sockets:
            one.listen()
            one.setblocking(False)

    def close(self):
        for one in self.sockets:
            one.close()
        self.canary.kill()
        self.canary.wait()

    def description(self, judge):
        checks = REPOSITORY / "tests/grading/course/checks/tiny.py"
        package = REPOSITORY / "flowcourse"
        topics = [t.module for t in TOPICS if importlib.util.find_spec(t.module)]
        checked = [path.stem for path in (package / "checks").glob("*.py")]
        answers = [stem for stem in checked if stem in {t.name for t in TOPICS}]
        modules = [*topics, *(f"flowcourse.checks.{name}" for name in ["tiny", *answers])]
        paths = [module.replace(".", "/") + ".py" for module in modules]
        files = [str(checks), str(checks.parent)]
        files += [f"{root}/{path}" for path in paths for root in (REPOSITORY, "/opt/flowcourse")]
        course = [self.folder, self.folder / "secret", self.folder / "gradebook.db", checks]
        warm = judge.sandbox._process.pid
        return {
            "references": modules,
            "reference files": files,
            "reference names": [name.rpartition(".")[2] for name in modules],
            "files": beside_python([*course, REPOSITORY, *REPOSITORY.iterdir()]),
            "in the home": beside_python(Path.home().iterdir()),
            "mark": str(self.mark),
            "name": self.name,
            "key": self.key,
            "secret": "".join(self.secret),
            "python": [sys.prefix, sys.base_prefix, os.path.dirname(json.__file__)],
            "environment": [name for name in os.environ if name.startswith(("PYTEST", "FLOWC"))],
            "port": self.tcp.getsockname()[1],
            "abstract": f"\0{self.name}",
            "socket": str(self.folder / "s"),
            "processes": [os.getpid(), self.canary.pid, warm],
        }

    def assert_untouched(self):
        assert self.canary.poll() is None
        for one in self.sockets:
            with pytest.raises(BlockingIOError):
                one.accept()
        places = [self.folder, Path.home(), REPOSITORY, *map(Path, ("/", "/tmp", "/var/tmp"))]
        assert not [p for p in (*places, Path("/dev/shm")) if (p / self.name).exists()]
        assert not Path("/tmp/flowcourse-attack").exists()
        assert (self.folder / "secret").read_text() == self.secret
        assert sorted(path.name for path in self.folder.iterdir()) == [
            "gradebook.db",
            "s",
            "secret",
        ]
        assert not list(running(self.name))


def beside_python(paths):
    """These, but not the way to Python, which is in sight wherever Python is installed."""
    programs = {Path(sys.prefix), Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    return [str(p) for p in paths if not any(program.is_relative_to(p) for program in programs)]


def running(word):
    """Processes of this machine with a word in their command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if word.encode() in command.split(b"\0") and int(path.parent.name) != os.getpid():
            yield path.parent.name


def session_key():
    """The name of a new key in this process's session, as a log-in leaves them, if it has any."""
    name = f"flowcourse-key-{secrets.token_hex(8)}"
    calls = {"x86_64": (248, 250)}.get(os.uname().machine, (217, 219))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(calls[1], 1, None)  # a session of its own, so that no other is changed
    libc.syscall(calls[0], b"user", name.encode(), b"secret", 6, -3)
    return name
