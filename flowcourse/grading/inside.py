"""The program inside the sandbox: a warm process that forks once for each submission.

    python -m flowcourse.grading.inside FD OPTIONS

It has imported what a problem set imports, so that a submission costs its own code and no more. A
fork runs the cells of one submission and brings back their outputs, and the arrays of each check.
Once it has run a student's code it is the student's: the grader believes nothing of what it sends.
"""

import base64
import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowcourse.grading import wire
from flowcourse.grading.namespaces import (
    Limits,
    adopt,
    become_nobody,
    limit_resources,
    new_process,
)

WATCH_SECONDS = 0.05
WORK = Path("/tmp/work")
# What of a rich output is kept: what cannot hold a script. Everything has a text form.
KINDS = ("text/plain", "image/png")
FILES_TOGETHER = 4  # times the open files of one process: each may hold memory of the kernel's
MOST_DISPLAYS = 100  # of one cell
MOST_FRAMES = 20  # of a traceback
LONGEST = 2000  # characters of an error's message, or of a part of its traceback


def main() -> None:
    """Import, then fork for each submission until the grader hangs up."""
    control = socket.socket(fileno=int(sys.argv[1]))
    options = json.loads(sys.argv[2])
    limits = Limits(**options["limits"])
    if options["isolated"]:
        become_nobody()
    adopt()
    for name in options["preload"]:
        with contextlib.suppress(ImportError):  # a function that is imported, or a hidden module
            importlib.import_module(name)
    shell = _shell()
    wire.send(control, {"ready": True})
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if not descriptors:  # an order for a submission that has ended in the meantime
            continue
        channel = socket.socket(fileno=descriptors[0])
        child = os.fork()
        if child == 0:
            control.close()
            _submission(shell, channel, limits, options["isolated"])
        channel.close()
        wire.send(control, {"ended": _watch(child, control, limits)})


# One submission, in a process of its own


def _submission(shell: Any, channel: socket.socket, limits: Limits, isolated: bool) -> None:
    """Serve the grader's requests, one after the other; never returns."""
    if isolated:
        new_process(limits)
        work = WORK
    else:
        os.setsid()
        limit_resources(limits)
        work = Path(os.environ["FLOWCOURSE_WORK"])
        shutil.rmtree(work, ignore_errors=True)  # another's
    work.mkdir(exist_ok=True)
    os.chdir(work)
    os.environ["HOME"] = str(work)
    _seed()
    streams = _Streams(work.parent, limits.output)
    me = os.getpid()
    requests = {"files": _write_files, "cell": _run_cell, "check": _gather}
    try:
        while True:
            header, blobs = wire.receive(channel, limits.disk)
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                reply, attached = requests[header["request"]](shell, header, blobs, streams)
            except (KeyboardInterrupt, SystemExit) as stop:
                # Between a cell's code and the reply to it, its output is lost: say why.
                name = type(stop).__name__
                stopped = _error(name, "stopped", [])
                reply, attached = {"failure": [name, "stopped"], "outputs": [stopped]}, []
            finally:  # an interrupt that comes late, or from the student's code, stops nothing else
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            if os.getpid() != me:  # the student's code has forked
                os._exit(0)
            wire.send(channel, reply, attached)
    except wire.Closed:
        os._exit(0)
    finally:  # at once: leaving in the usual way waits for threads, and tidies up for seconds
        os._exit(1)


def _seed() -> None:
    """The same random numbers for every submission, each time: a grade can be reproduced.

    A check draws its own in the probe, from the grader's seed.
    """
    import random

    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def _write_files(shell: Any, header: dict, blobs: list[bytes], streams: "_Streams") -> wire.Message:
    for name, content in zip(header["names"], blobs, strict=True):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return {}, []


def _run_cell(shell: Any, header: dict, blobs: list[bytes], streams: "_Streams") -> wire.Message:
    """Run one cell, as a notebook does; returns its outputs in the notebook format."""
    shown: list[dict[str, Any]] = []
    shell.display_pub.shown = shell.displayhook.shown = shown
    with streams:
        result = shell.run_cell(header["source"], store_history=True, silent=False)
        error = result.error_before_exec or result.error_in_exec
    if error is not None:
        # The shell has printed a traceback with colours; a plain one is added as an output.
        _shorten(error)
        lines = shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__)
        evalue, traceback = str(error)[:LONGEST], [line[:LONGEST] for line in lines]
        shown.append(_error(type(error).__name__, evalue, traceback))
    outputs = _first(streams.outputs() + shown, streams.limit)
    return {"outputs": outputs, "failed": error is not None}, []


def _error(ename: str, evalue: str, traceback: list[str]) -> dict[str, Any]:
    """An error as an output of a notebook."""
    return {"output_type": "error", "ename": ename, "evalue": evalue, "traceback": traceback}


def _shorten(error: BaseException | None) -> None:
    """Cut tracebacks after some frames: it takes seconds to show those of endless recursion."""
    for _ in range(MOST_FRAMES):  # of errors that led to one another
        trace = error.__traceback__ if error is not None else None
        for _ in range(MOST_FRAMES):
            trace = trace.tb_next if trace is not None else None
        if trace is not None:
            trace.tb_next = None
        error = error.__context__ if error is not None else None


def _first(outputs: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """As many outputs as fit: a larger message would not be taken."""
    found: list[dict[str, Any]] = []
    size = 0
    for output in outputs:
        size += len(json.dumps(output))
        if size > limit:
            cut = "\n[the rest of the output was cut]\n"
            return [*found, {"output_type": "stream", "name": "stderr", "text": cut}]
        found.append(output)
    return found


def _gather(shell: Any, header: dict, blobs: list[bytes], streams: "_Streams") -> wire.Message:
    """Run an exercise's probe on the answer; returns arrays, or failures in their place."""
    import cloudpickle
    import numpy as np

    from flowcourse.checks.evidence import Failure, gather

    if header["answer"] not in shell.user_ns:
        return {"failure": ["NameError", f"{header['answer']} is not defined"]}, []
    answer = shell.user_ns[header["answer"]]
    if answer is ... or answer is None:
        return {"unanswered": True}, []
    probe, inputs = cloudpickle.loads(blobs[0])
    with streams:  # what C code writes is dropped as well
        found = gather(probe, answer, inputs, header["seed"])
    if isinstance(found, Failure):
        return {"failure": [found.kind, found.message]}, []
    names, failures, arrays = [], {}, []
    for name, value in found.items():
        if isinstance(value, Failure):
            failures[name] = [value.kind, value.message]
        else:
            file = io.BytesIO()
            np.save(file, value, allow_pickle=False)
            names.append(name)
            arrays.append(file.getvalue())
    return {"names": names, "failures": failures}, arrays


class _Streams:
    """Standard output and error of a cell, also what C code and child processes write."""

    def __init__(self, folder: Path, limit: int):
        self.limit = limit
        self.files = [open(folder / f"stream-{n}", "w+b", buffering=0) for n in (1, 2)]
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]

    def __enter__(self) -> None:
        for descriptor, file in enumerate(self.files, start=1):
            file.seek(0)
            file.truncate()
            os.dup2(file.fileno(), descriptor)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        with open(os.devnull, "wb") as nothing:
            for descriptor in (1, 2):
                os.dup2(nothing.fileno(), descriptor)

    def outputs(self) -> list[dict[str, Any]]:
        """What was written, as outputs of a notebook; each stream cut at its limit."""
        found = []
        for name, file in zip(("stdout", "stderr"), self.files, strict=True):
            file.seek(0)
            text = file.read(self.limit // 4).decode(errors="replace")
            if file.read(1):
                text += "\n[the rest of this output was cut]\n"
            if text:
                found.append({"output_type": "stream", "name": name, "text": text})
        return found


def _shell() -> Any:
    """IPython, as a notebook's kernel has it, without files or threads of its own."""
    import matplotlib_inline.backend_inline as inline
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Publisher(DisplayPublisher):
        shown: list[dict[str, Any]] = []

        def publish(self, data: Any, *_: Any, **__: Any) -> None:
            if len(self.shown) < MOST_DISPLAYS:
                self.shown.append({"output_type": "display_data", "data": _kept(data)})

        def clear_output(self, wait: bool = False) -> None:
            self.shown.clear()

    class Hook(DisplayHook):
        shown: list[dict[str, Any]] = []

        def write_output_prompt(self) -> None:
            pass

        def write_format_data(self, format_dict: Mapping[str, Any], md_dict: Any = None) -> None:
            self.shown.append({"output_type": "execute_result", "data": _kept(format_dict)})

    class Shell(InteractiveShell):
        display_pub_class = Publisher
        displayhook_class = Hook

        def enable_gui(self, gui: Any = None) -> None:
            """Do nothing: there is no screen, and pictures are made without one."""

        def showtraceback(self, *_: Any, **__: Any) -> None:
            """Show nothing: the error is an output of its own."""

        def showsyntaxerror(self, *_: Any, **__: Any) -> None:
            """Show nothing, likewise."""

        def _format_exception_for_storage(self, *_: Any, **__: Any) -> list[str]:
            """Keep no traceback: of endless recursion, it takes half a minute to write it out."""
            return []

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.xmode = "Context"
    shell = Shell.instance(config=config)
    shell.enable_matplotlib("inline")
    inline.configure_inline_support(shell, "inline")
    return shell


def _kept(data: Mapping[str, Any]) -> dict[str, str]:
    kept = {}
    for kind in KINDS:
        value = data.get(kind)
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode()
        if isinstance(value, str):
            kept[kind] = value
    return kept


# Watching it from outside


def _watch(child: int, control: socket.socket, limits: Limits) -> str:
    """Wait for the end of a submission, and bring it about where it must be; returns the reason.

    While it runs, the grader may send `i` (interrupt the running cell) or `k` (end it).
    """
    reason = ""
    look = 0.0
    control.settimeout(WATCH_SECONDS)
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            _clear()
            control.settimeout(None)
            code = os.waitstatus_to_exitcode(status)
            # Who stands for the process hands on the number of a signal in eight bits.
            return reason or f"exit {code - 256 if code > 191 else code}"
        try:
            order = control.recv(1)
        except TimeoutError:
            order = None
        if order == b"i":
            os.kill(child, signal.SIGINT)
        elif order is not None:  # asked for, or the grader is gone
            reason = reason or "ended"
        elif (started := time.monotonic()) > look:
            reason = reason or _too_much(limits)
            # Many processes take long to look at: orders must not wait for that.
            look = time.monotonic() + 5 * (time.monotonic() - started)
        if reason:
            _end(child)


def _end(child: int) -> None:
    """End a submission with everything that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # without walls: its session
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)  # with walls: the first process dies with it
    time.sleep(WATCH_SECONDS)


def _clear() -> None:
    """End what a submission has left behind, and wait until it is gone."""
    with contextlib.suppress(ChildProcessError):  # raised when there is none any more
        while True:
            for pid in _descendants():
                if pid != os.getpid():
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)


def _too_much(limits: Limits) -> str:
    """Which limit the processes of the submission exceed together, if any."""
    pids = _descendants()  # none on other systems than Linux: the limits of each process hold
    states = {pid: _numbers(f"/proc/{pid}/status") or {} for pid in pids}
    if sum(state.get("Threads", 0) for state in states.values()) > limits.processes:
        return "processes"
    if sum(_open_files(pid, limits) for pid in pids) > FILES_TOGETHER * limits.files:
        return "files"
    # What has been swapped out, and the tables of pages, are memory too.
    other = sum(s.get("VmSwap", 0) + s.get("VmPTE", 0) for s in states.values())
    # What is resident counts memory that processes share several times over, but is quick to ask.
    resident = {pid: state.get("VmRSS", 0) for pid, state in states.items()}
    if (other + sum(resident.values())) * 1024 <= limits.memory:
        return ""
    for pid in pids:
        shares = _numbers(f"/proc/{pid}/smaps_rollup")
        if shares is not None:  # a process can make itself unreadable: then all counts
            resident[pid] = shares.get("Pss", 0)
    return "memory" if (other + sum(resident.values())) * 1024 > limits.memory else ""


def _numbers(path: str) -> dict[str, int] | None:
    """The numbers in a file of /proc by their names; none if the process is gone.

    Returns:
        None if the process has made the file unreadable.
    """
    found = {}
    try:
        with open(path) as file:
            for line in file:
                name, _, value = line.partition(":")
                first = value.split()[:1]
                if first and first[0].isdigit():
                    found[name] = int(first[0])
    except PermissionError:
        return None
    except OSError:
        return {}
    return found


def _open_files(pid: int, limits: Limits) -> int:
    """How many files a process has open; as many as it may, if it hides them."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:
        return limits.files
    except OSError:
        return 0


def _descendants() -> list[int]:
    """This process and those that descend from it; none where there is no /proc."""
    if not os.path.isdir("/proc/self"):
        return []
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                # The name of the program, in brackets, may itself hold brackets and blanks.
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
    found: set[int] = set()
    new = {os.getpid()}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return sorted(found)


if __name__ == "__main__":
    main()
