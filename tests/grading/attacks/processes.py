"""The host's processes: signals, tracing, privileges."""

from tests.grading.attacks.attack import Group

attack = Group("host")

attack(
    "the grader's processes killed",
    """
import os, signal
assert os.getpid() < 50 and os.getuid(), "no namespace of its own: too dangerous"
for pid in [*HOST["processes"], 1]:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGSTOP, signal.SIGKILL):
        if pid in (os.getpid(), os.getppid()): continue
        try: os.kill(pid, number)
        except OSError: pass
told("tried")
""",
    shows="tried|its process ended|was killed",
)

attack(
    "everything killed",
    """
import os, signal
assert os.getpid() < 50 and os.getuid(), "no namespace of its own: too dangerous"
try: os.kill(-1, signal.SIGKILL)
except OSError: pass
try: os.killpg(0, signal.SIGKILL)
except OSError: pass
told("tried")
""",
    shows="tried|killed",
)

attack(
    "the first process stopped, and the warm one signalled through its parent",
    """
import os, signal
assert os.getpid() < 50 and os.getuid(), "no namespace of its own: too dangerous"
for pid in (1, os.getppid(), 2, 3):
    if pid == os.getpid(): continue
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1):
        try: os.kill(pid, number)
        except OSError: pass
try: told("tried")
except KeyboardInterrupt: told("tried")
""",
    shows="tried|KeyboardInterrupt|ended",
    after=False,  # the interrupt may come later
)

attack(
    "other processes traced, their memory and files opened",
    """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
foreign = []
if not os.path.exists("/proc/self"):  # a /proc of the processes around this one
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try: status = open(f"/proc/{pid}/status").read()
        except OSError: continue
        if len(status.partition("NSpid:")[2].splitlines()[0].split()) == 1: foreign.append(pid)
for pid in [*foreign, *HOST["processes"]]:
    for file in ("mem", "environ", "maps", "fd/0", "root/usr/bin", "cwd", "ns/user"):
        try:
            open(f"/proc/{pid}/{file}", "rb").read(1)
            escaped(pid, file)
        except OSError: pass
for pid in HOST["processes"]:
    if libc.ptrace(16, pid, 0, 0) == 0: escaped("ptrace", pid)
    if libc.syscall(434, pid, 0) >= 0: escaped("pidfd", pid)
first = libc.syscall(434, 1, 0)
for number in range(32):  # what the process that stands for this one holds
    stolen = libc.syscall(438, first, number, 0)
    if stolen >= 0:
        try:
            if os.write(stolen, HOST["secret"].encode()): told("wrote", number)
        except OSError: pass
told("tried", len(foreign))
""",
)

attack(
    "programs that give privileges, and a sandbox of one's own",
    """
import os, shutil, subprocess
for command in (["su", "-c", "id"], ["sudo", "-n", "id"], ["mount"], ["newgrp"],
                ["bwrap", "--dev-bind", "/", "/", "true"], ["unshare", "-r", "true"],
                ["chsh", "-s", "/bin/sh"]):
    if shutil.which(command[0]):
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=3)
        if done.returncode == 0 and command[0] != "mount": escaped(command)
told("tried")
""",
)

attack(
    "a process that stays behind",
    """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import signal
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)",
                                  HOST["name"]])
    os._exit(0)
os.wait()
told("tried")
""",
)

attack(
    "a higher priority, another scheduler, never the one that memory is taken from",
    """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
tries = {
    "nice": lambda: os.setpriority(os.PRIO_PROCESS, 0, -5),
    "fifo": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)),
    "rr": lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)),
    "oom": lambda: os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"-999"),
    "of others": lambda: os.setpriority(os.PRIO_PROCESS, HOST["processes"][0], 19),
}
for name, action in tries.items():
    try: action(); escaped(name)
    except OSError: pass
import resource
for which in (resource.RLIMIT_NPROC, resource.RLIMIT_DATA, resource.RLIMIT_CPU,
              resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE):
    soft, hard = resource.getrlimit(which)
    if hard == resource.RLIM_INFINITY and which != resource.RLIMIT_NPROC: escaped(which)
    try: resource.setrlimit(which, (hard + 1, hard + 1)); escaped(which)
    except (OSError, ValueError): pass
told("tried")
""",
)
attack(
    "signals by other ways: process descriptors, alarms, parents' deaths",
    """
import ctypes, os, signal
assert os.getpid() < 50 and os.getuid(), "no namespace of its own: too dangerous"
libc = ctypes.CDLL(None, use_errno=True)
for pid in HOST["processes"]:
    descriptor = libc.syscall(434, pid, 0)
    if descriptor >= 0: escaped(pid)
    if libc.syscall(number(234, 131), pid, pid, 9) == 0: escaped("tgkill", pid)
    if libc.syscall(number(129, 138), pid, 9, None) == 0: escaped("rt_sigqueueinfo", pid)
first = libc.syscall(434, 1, 0)
for number in (9, 19, 2): libc.syscall(424, first, number, None, 0)
import fcntl
read, write = os.pipe()
for owner in (*HOST["processes"], -1, 1):
    try:
        fcntl.fcntl(read, fcntl.F_SETOWN, owner)
        fcntl.fcntl(read, 10, signal.SIGKILL)  # F_SETSIG
        fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC)
        os.write(write, b"x")
    except OSError: pass
try: told("tried")
except KeyboardInterrupt: told("tried")
""",
    shows="tried|KeyboardInterrupt|killed|ended",
    after=False,
)
attack(
    "an alarm that is set for the time of the check",
    """
import os, signal
log_det = lambda s, x: (signal.alarm(1), signal.pause())
told("tried")
""",
)
