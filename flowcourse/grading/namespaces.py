"""A wall around each submission, inside the sandbox: namespaces, private mounts, no capabilities.

bubblewrap gives the sandbox its view of the machine once. The warm process in it then forks once
for each submission, and the fork calls `isolate`: it sees no other process, writes to memory of
limited size, and can gain no privilege, and `seccomp` refuses the calls that walk around all this.
Linux only; man 7 user_namespaces, man 7 pid_namespaces.
"""

import contextlib
import ctypes
import os
import re
import resource
import signal
import struct
import sys
from dataclasses import dataclass

from flowcourse.grading import seccomp

__all__ = ["Limits", "adopt", "become_nobody", "isolate", "limit_resources", "new_process"]

NOBODY = 65534
MOST_FILES = 1 << 15  # in each folder that may be written to
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x8000000, 0x10000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
SYS_CAPSET_VERSION_3 = 0x20080522


@dataclass(frozen=True)
class Limits:
    """What one submission may use.

    Attributes:
        cell_seconds: wall time of one cell, or of one check.
        seconds: wall time of the whole submission.
        cpu_seconds: processor time of one process.
        memory: bytes, of all processes together.
        processes: how many at a time, threads included.
        files: open files of one process; all together may have four times as many.
        disk: bytes written, all files together.
        output: bytes of a cell's printed and displayed output that are kept.
        evidence: bytes of the arrays that one check brings back.
    """

    cell_seconds: float = 600
    seconds: float = 3600
    cpu_seconds: int = 1800
    memory: int = 4 << 30
    processes: int = 128
    files: int = 256
    disk: int = 256 << 20
    output: int = 2 << 20
    evidence: int = 64 << 20


def become_nobody() -> None:
    """Leave the rights of root for good, if this process has them."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        # Changing the user hides a process's own /proc files from it, and `isolate` needs them.
        _call("prctl", PR_SET_DUMPABLE, 1)


def adopt() -> None:
    """Become the parent of all descendants whose own parent ends, so that none is lost sight of."""
    if sys.platform == "linux":
        _call("prctl", PR_SET_CHILD_SUBREAPER, 1)


def new_process(limits: Limits) -> None:
    """Return in a fork that is alone in namespaces of its own; the caller itself never returns.

    Three forks stand in a row: one outside, which passes signals on and reports the end; the first
    process of the new namespace, whose end ends everything in it; and the one that returns.
    """
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC)
    with contextlib.suppress(OSError):  # denied already, in the namespace above
        _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")
    if first := os.fork():
        _stand_for(first)
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
    isolate(limits)
    os.nice(5)  # what watches it goes first
    if second := os.fork():
        _stand_for(second)
    os.setsid()  # a signal to its own group must not reach the warm process
    signal.signal(signal.SIGINT, signal.default_int_handler)


def isolate(limits: Limits) -> None:
    """Private mounts for what may be written, limits, and no way back to any privilege."""
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    with contextlib.suppress(OSError):
        # Refused where the sandbox was made by root and parts of its /proc are covered. Then that
        # one stays: it shows that other processes exist, and lets none of them be touched.
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    room = f"size={limits.disk},nr_inodes={MOST_FILES},mode=700"  # empty files take memory as well
    for folder in ("/tmp", "/dev/shm"):
        _mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, room)
    with contextlib.suppress(OSError):  # read-only under a covered /proc
        _write("/proc/sys/user/max_user_namespaces", "0")
    limit_resources(limits)
    if _kernel() >= (5, 14):  # before, it counted the user's processes on the whole machine
        resource.setrlimit(resource.RLIMIT_NPROC, (limits.processes, limits.processes))
    _drop_capabilities()
    seccomp.refuse()


def _kernel() -> tuple[int, ...]:
    numbers = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return tuple(map(int, numbers.groups())) if numbers else (0, 0)


def limit_resources(limits: Limits) -> None:
    """Limits that the kernel keeps for each process."""
    for which, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_FSIZE, limits.disk),
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_DATA, _data_size() + limits.memory),
    ):
        resource.setrlimit(which, (value, value))


def _data_size() -> int:
    """Bytes that count towards RLIMIT_DATA already: what was imported before the fork."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0


def _stand_for(child: int) -> None:
    """Pass interrupts on to the child, collect what ends, and end as the child does."""
    os.closerange(0, 1 << 16)  # a debugger could take the grader's files from here
    signal.signal(signal.SIGINT, lambda *_: os.kill(child, signal.SIGINT))
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _drop_capabilities() -> None:
    for capability in range(64):
        with contextlib.suppress(OSError):  # beyond the last that this kernel knows
            _call("prctl", PR_CAPBSET_DROP, capability)
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1)
    header = struct.pack("=Ii", SYS_CAPSET_VERSION_3, 0)
    _call("capset", header, struct.pack("=6I", *[0] * 6))


def _call(name: str, *arguments: int | bytes | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    values = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    if name == "prctl":  # variadic: unused arguments must be zero
        values += [ctypes.c_ulong(0)] * (5 - len(values))
    if getattr(libc, name)(*values) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    texts = [text.encode() if text is not None else None for text in (source, target, kind)]
    _call("mount", *texts, flags, data.encode() if data is not None else None)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
