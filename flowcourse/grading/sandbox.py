"""A place to run a submission in, from which nothing can be reached and nothing is believed.

    with Sandbox(problem_set) as sandbox, sandbox.submission(files) as submission:
        submission.run("x = 1")
        submission.gather(exercise, "answer", inputs, seed)

On Linux the walls are bubblewrap and namespaces: no network, no home, a read-only system, no
solutions, no references of what is asked, limits on time, memory, processes and disk. Where they
cannot be had, `Sandbox` refuses; `unsafe=True` runs without them, and says what that means.
"""

import contextlib
import functools
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cloudpickle

import flowcourse
from flowcourse.checks.engine import Exercise
from flowcourse.checks.evidence import Failure, Values
from flowcourse.grading import wire
from flowcourse.grading.cgroups import grouped
from flowcourse.grading.evidence import PACKAGE_INSIDE, read_array, read_text
from flowcourse.grading.inside import FILES_TOGETHER
from flowcourse.grading.namespaces import Limits

__all__ = ["CellResult", "Died", "NoSandbox", "Sandbox", "Submission", "UNSAFE"]
__all__ += ["in_sight", "what_is_missing"]

PACKAGE = Path(flowcourse.__file__).parent
START_SECONDS = 300  # to import everything, on a slow and busy machine
MOST_VALUES = 1000  # of one check
GRACE_SECONDS = 3  # between an interrupt and the end
# Of the checks, what knows no answer.
CHECKS_FILES = (
    "__init__.py", "compare.py", "engine.py", "evidence.py", "fitted.py", "held_out.py",
)  # fmt: skip
# Of this package, what the program inside needs.
OWN_FILES = ("__init__.py", "wire.py", "namespaces.py", "seccomp.py", "inside.py")

UNSAFE = (
    "UNSAFE: submissions run without a sandbox, as you. Their code can read and change your files, "
    "the grade book and other submissions, use the network, and read the reference solutions. "
    "Scores are still decided outside."
)
WAYS_OUT = (
    "Ways out: install bubblewrap (Debian, Ubuntu: apt install bubblewrap); grade in the Docker "
    "image that Dockerfile describes (see the book's page for instructors); or, for submissions "
    "that you trust as your own code, say --unsafe (nbgrader: c.Grade.unsafe = True). " + UNSAFE
)


class NoSandbox(RuntimeError):
    """Submissions cannot be isolated on this machine; the message says why, and the ways out."""


class Died(RuntimeError):
    """The process of a submission has ended; the message is the reason, for its author."""


@dataclass(frozen=True)
class CellResult:
    """What a cell gave.

    Attributes:
        outputs: as in a notebook, not to be believed.
        stopped: why it was interrupted, if it was.
    """

    outputs: list[dict[str, Any]]
    stopped: str | None = None


def what_is_missing() -> str | None:
    """Why submissions cannot be isolated on this machine, as far as a look can tell."""
    if sys.platform != "linux":
        return "Submissions can be isolated on Linux only."
    if shutil.which("bwrap") is None:
        return "bubblewrap (the program bwrap) is not installed."
    return None


class Sandbox:
    """A warm process behind walls, that runs one submission after the other.

    Args:
        usable: topics that the problem set may use; all others are not there.
        preload: modules to import before the first submission, such as those of the setup cell.
        limits: what one submission may use.
        unsafe: run without walls; only for code that you trust.
        everything: show all topics and their checks, for submissions that the course wrote itself.

    Raises:
        NoSandbox: there is no way to isolate a submission here.
    """

    def __init__(
        self,
        usable: Iterable[str] = (),
        preload: Iterable[str] = (),
        limits: Limits | None = None,
        unsafe: bool = False,
        everything: bool = False,
    ):
        self.usable = frozenset(usable)
        self.preload = ["torch", "matplotlib.pyplot", "flowcourse.checks.evidence", *preload]
        self.limits = limits or Limits()
        self.unsafe = unsafe
        self.everything = everything
        self.walls = "none: --unsafe"  # for the audit trail: what isolates it, once it runs,
        self.kept_by = "nobody yet"  # and who keeps the limits of memory and processes
        self._process: subprocess.Popen | None = None
        self._control: socket.socket | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Make it warm, if it is not; where that is not done before, the first submission waits."""
        if self._process is None or self._process.poll() is not None:
            self._start()

    def submission(
        self, files: Mapping[str, bytes] | None = None, deadline: float | None = None
    ) -> "Submission":
        """Start a fresh process with these files in its working folder; a context manager.

        Args:
            files: by their path in that folder.
            deadline: a value of `time.monotonic()`; by default, the limit of seconds from now on.
        """
        self.start()
        assert self._control is not None
        here, there = socket.socketpair()
        with there:
            try:
                socket.send_fds(self._control, [b"s"], [there.fileno()])
            except OSError:  # it ended since we looked: once more, with a new one
                here.close()
                self.close()
                return self.submission(files, deadline)
        submission = Submission(self, here, deadline)
        if files:
            names = sorted(files)
            submission.ask({"request": "files", "names": names}, [files[name] for name in names])
        return submission

    def close(self) -> None:
        """End the warm process and everything in it."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._control = None
        self._stack.close()

    def end(self, order: bytes) -> None:
        """Interrupt (`i`) or end (`k`) the running submission."""
        assert self._control is not None
        try:
            self._control.send(order)
        except OSError:
            self.close()

    def reason(self, seconds: float = 10) -> str:
        """Why the submission has ended, as the warm process tells; it waits for that."""
        assert self._control is not None
        try:
            header, _ = wire.receive(self._control, 0, time.monotonic() + seconds)
            return str(header["ended"])
        except (wire.Closed, wire.Broken, TimeoutError, KeyError):
            self.close()  # and a new one for the next submission
            return "lost"

    def _start(self) -> None:
        self.close()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="flowcourse-")))
        here, there = socket.socketpair()
        options = {
            "preload": self.preload,
            "limits": asdict(self.limits),
            "isolated": not self.unsafe,
        }
        program = [sys.executable, "-m", "flowcourse.grading.inside", str(there.fileno())]
        program.append(json.dumps(options))
        environment: dict[str, str] = {}
        if self.unsafe:
            command = program
            environment = self._environment(str(PACKAGE.parent))
            environment |= {"FLOWCOURSE_WORK": str(folder / "work"), "PATH": os.environ["PATH"]}
            self.kept_by = "limits of each process"
        else:
            group = self._stack.enter_context(grouped(folder.name, self.limits))
            command = [*group, *self._walls(), "--", *program]
            self.walls = _bubblewrap()
            self.kept_by = "control groups and watchdog" if group else "watchdog"
        with there, open(folder / "log", "w+") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd="/",
                pass_fds=[there.fileno()],
            )
            self._control = here
            there.close()
            try:
                wire.receive(here, 0, time.monotonic() + START_SECONDS)
            except TimeoutError as error:
                self.close()
                raise NoSandbox(
                    f"The sandbox did not start within {START_SECONDS} s. Is the machine very "
                    "busy? The same command goes on; with fewer workers it may go faster."
                ) from error
            except (wire.Closed, wire.Broken) as error:
                log.seek(0)
                said = log.read().strip() or str(error)
                self.close()
                raise NoSandbox(
                    f"The sandbox does not start on this machine; it said:\n{said}\n{WAYS_OUT}"
                ) from error

    def _environment(self, package: str) -> dict[str, str]:
        return {
            "FLOWCOURSE_SANDBOX": "1",
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "MPLCONFIGDIR": "/tmp/matplotlib",
            "OMP_NUM_THREADS": "1",
            "PATH": "/usr/bin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",  # a set of words has the same order each time
            "PYTHONPATH": package,
        }

    # The walls

    def _walls(self) -> list[str]:
        """The bubblewrap command: what is in sight, and nothing else is."""
        if missing := what_is_missing():
            raise NoSandbox(f"{missing} {WAYS_OUT}")
        arguments = ["bwrap", "--die-with-parent", "--new-session", "--clearenv"]
        arguments += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
        arguments += ["--hostname", "sandbox", "--cap-drop", "ALL"]
        if os.geteuid() == 0:
            # The mounts are made by root, and the program inside then becomes nobody.
            arguments += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        else:
            arguments += ["--unshare-user"]
        for name, value in self._environment(PACKAGE_INSIDE).items():
            arguments += ["--setenv", name, value]
        arguments += ["--ro-bind", "/usr", "/usr"]
        for top in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
            if os.path.islink(top):
                arguments += ["--symlink", os.readlink(top), top]
            else:
                arguments += ["--ro-bind-try", top, top]
        for file in ("ld.so.cache", "fonts", "alternatives", "localtime"):
            arguments += ["--ro-bind-try", f"/etc/{file}", f"/etc/{file}"]
        binds = {folder: folder for folder in _python_folders()}
        inside = f"{PACKAGE_INSIDE}/flowcourse"
        binds |= {f"{inside}/{path}": str(PACKAGE / path) for path in self._package_files()}
        # Folders on the way would be closed to anyone but root.
        on_the_way = {parent for path in binds for parent in Path(path).parents}
        for parent in sorted(on_the_way - {Path("/")}):
            arguments += ["--perms", "0755", "--dir", str(parent)]
        for target, source in binds.items():
            arguments += ["--ro-bind", source, target]
        for copy in _package_copies():
            arguments += ["--tmpfs", copy]
        for path in _checkout_in_sight():
            hide = ["--tmpfs"] if path.is_dir() else ["--ro-bind", os.devnull]
            arguments += [*hide, str(path)]
        arguments += ["--proc", "/proc", "--dev", "/dev"]
        for folder in ("/tmp", "/dev/shm"):
            arguments += ["--perms", "1777", "--tmpfs", folder]
        # An ordinary user could write there, and what is left would outlive a submission. And pages
        # of /dev/zero that are mapped and let go stay, and are no process's.
        arguments += ["--dev-bind", "/dev/null", "/dev/zero", "--remount-ro", "/dev"]
        arguments += ["--perms", "0777", "--dir", "/tmp/matplotlib"]
        for fonts in _font_lists():
            arguments += ["--ro-bind", str(fonts), f"/tmp/matplotlib/{fonts.name}"]
        return [*arguments, "--remount-ro", "/", "--chdir", "/tmp"]

    def _package_files(self) -> list[str]:
        """Files of the package that are in sight: support modules and the topics that are usable.

        A hidden file is not there at all: an import hook could be walked around.
        """
        from flowcourse.catalog import TOPICS

        hidden = [topic for topic in TOPICS if topic.name not in self.usable]
        found = []
        for folder, _, names in os.walk(PACKAGE, followlinks=True):
            for name in sorted(names):
                relative = (Path(folder) / name).relative_to(PACKAGE)
                module = ".".join(("flowcourse", *relative.with_suffix("").parts))
                part = relative.parts[0]
                checks = part == "checks" and name not in CHECKS_FILES
                answers = checks or any(topic.owns(module) for topic in hidden)
                foreign = part == "grading" and name not in OWN_FILES
                if relative.suffix == ".py" and not foreign and (self.everything or not answers):
                    found.append(relative.as_posix())
        return sorted(found)


class Submission:
    """One submission's process. All its methods raise `Died` when it ends."""

    def __init__(self, sandbox: Sandbox, channel: socket.socket, deadline: float | None = None):
        self.sandbox = sandbox
        self.limits = sandbox.limits
        self._channel = channel
        self._deadline = deadline or time.monotonic() + self.limits.seconds
        self._ended: str | None = None
        self._stopped: str | None = None  # why the last request was interrupted

    def __enter__(self) -> "Submission":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, and wait until nothing of it is left."""
        if self._ended is None:
            self._channel.close()
            self.sandbox.end(b"k")
            self._ended = self.sandbox.reason()

    def run(self, source: str) -> CellResult:
        """Run one cell."""
        header, _ = self.ask({"request": "cell", "source": source})
        outputs = header.get("outputs")
        return CellResult(outputs if isinstance(outputs, list) else [], self._stopped)

    def gather(
        self, exercise: Exercise, answer: str, inputs: Mapping[str, Any], seed: int
    ) -> Values | Failure | None:
        """Probe the variable `answer`; None when there is nothing in it."""
        payload = pack(exercise, inputs)
        request = {"request": "check", "answer": answer, "seed": seed}
        header, blobs = self.ask(request, [payload])
        if self._stopped is not None:
            return Failure("Stopped", self._stopped)
        return read_values(header, blobs)

    def ask(self, header: dict[str, Any], blobs: Iterable[bytes] = ()) -> wire.Message:
        """Send a request and wait for the reply; what takes too long is stopped."""
        now = time.monotonic()
        deadline = min(now + self.limits.cell_seconds, self._deadline)
        self._stopped = None
        try:
            wire.send(self._channel, header, list(blobs), deadline)
            try:
                return self._reply(deadline)
            except TimeoutError:
                self.sandbox.end(b"i")
                self._stopped = f"it ran longer than {max(0, deadline - now):.3g} s"
                return self._reply(time.monotonic() + GRACE_SECONDS)
        except TimeoutError:
            self.sandbox.end(b"k")
            late = time.monotonic() >= self._deadline
            raise self._died("deadline" if late else "time") from None
        except wire.Closed:
            raise self._died() from None
        except wire.Broken as error:
            self.sandbox.end(b"k")
            raise self._died(str(error)) from None

    def _reply(self, deadline: float) -> wire.Message:
        return wire.receive(self._channel, self.limits.evidence, deadline)

    def _died(self, why: str | None = None) -> Died:
        self._channel.close()
        told = self.sandbox.reason()
        self._ended = why or told
        return Died(_explain(self._ended, self.limits))


def pack(exercise: Exercise, inputs: Mapping[str, Any]) -> bytes:
    """The probe and its inputs, by value: the sandbox lacks the file that declares them."""
    module = importlib.import_module(exercise.probe.__module__)
    cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps((exercise.probe, exercise.shown(inputs)))
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def read_values(header: dict[str, Any], blobs: list[bytes]) -> Values | Failure | None:
    """What a check brought back: arrays, failures in their place; None for no answer."""
    if header.get("unanswered"):
        return None
    if "failure" in header:
        return _failure(header["failure"])
    names, failures = header.get("names"), header.get("failures")
    if not isinstance(names, list) or not isinstance(failures, dict):
        return Failure("RuntimeError", "the check brought nothing back")
    if len(names) + len(failures) > MOST_VALUES:
        return Failure("RuntimeError", f"the check brought more than {MOST_VALUES} values back")
    found: Values = {str(name): _failure(failure) for name, failure in failures.items()}
    found |= {str(name): read_array(blob) for name, blob in zip(names, blobs, strict=False)}
    return found


def _failure(value: Any) -> Failure:
    match value:
        case [str(kind), str(message)]:
            return Failure(read_text(kind, 100), read_text(message, 2000))
    return Failure("RuntimeError", "the check failed and did not say how")


def _explain(reason: str, limits: Limits) -> str:
    gib = limits.memory / (1 << 30)
    known = {
        "time": f"it ran longer than {limits.cell_seconds:g} s and did not react to an interrupt",
        "deadline": f"the submission took longer than {limits.seconds:g} s",
        "memory": f"it used more than {gib:g} GiB of memory",
        "processes": f"it ran more than {limits.processes} processes or threads",
        "files": f"its processes had more than {FILES_TOGETHER * limits.files} files open",
        "lost": "the sandbox around it ended as well, probably for want of memory",
        "exit -9": "its process was killed (too much processor time or memory)",
        "exit -24": f"it used more than {limits.cpu_seconds} s of processor time",
        "exit 1": "its process ended in an error that nothing caught",
        "exit -11": "its process crashed (segmentation fault)",
    }
    return known.get(reason, f"its process ended ({reason})")


def _python_folders() -> list[str]:
    """Where Python and the installed packages are, without what /usr already shows."""
    folders = {os.path.realpath(sys.base_prefix), os.path.realpath(sys.prefix), sys.prefix}
    folders |= {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "purelib")}
    shown: list[str] = []
    for folder in sorted(folders):  # a parent comes before what is in it
        if not any(Path(folder).is_relative_to(other) for other in ["/usr", *shown]):
            shown.append(folder)
    return shown


def _package_copies() -> list[str]:
    """Installed copies of this package, which hold every reference."""
    candidates = {Path(entry) / "flowcourse" for entry in sys.path if entry} | {PACKAGE}
    roots = ["/usr", *_python_folders()]
    return sorted(
        str(path)
        for path in candidates
        if path.is_dir() and any(path.is_relative_to(root) for root in roots)
    )


def in_sight(folder: Path) -> bool:
    """Whether a sandbox shows a folder of this machine, because the system or Python lies there."""
    return any(folder.resolve().is_relative_to(shown) for shown in ["/usr", *_python_folders()])


def _checkout_in_sight() -> list[Path]:
    """Where this package's repository lies in what is shown: all of it but Python itself.

    Its solutions, its tests and its history would tell every answer.
    """
    roots = {PACKAGE.parent, Path(flowcourse.__file__).resolve().parents[1]}
    needed = {Path(path) for path in _python_folders()}
    needed |= {Path(sys.prefix) / path for path in ("bin", "lib", "lib64", "include", "pyvenv.cfg")}
    return sorted(
        path
        for root in roots
        if in_sight(root) and (root / "solutions").is_dir()
        for path in root.iterdir()
        if not path.is_symlink() and not any(other.is_relative_to(path) for other in needed)
    )


@functools.cache
def _bubblewrap() -> str:
    """Its version, as it says itself."""
    done = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "bubblewrap"


def _font_lists() -> list[Path]:
    """Matplotlib's list of fonts: to find them takes it seconds, or minutes on a slow disk."""
    import matplotlib.font_manager  # which makes the list, where there is none yet

    return sorted(Path(matplotlib.get_cachedir()).glob("fontlist-*.json"))
