"""Attacks on the grader: what a submission may try, and what must come of it.

Each attack is the text of a cell. It stands between honest answers: the one before it and, unless
the attack spoils its own process, the one after it must earn their points, and the attack none. In
the cell `HOST` holds what it needs to know of the machine, and `told(...)` prints, and
`escaped(...)` says that the attack has succeeded.

`shows` must be found in what the grader has to say of the submission. It proves that the attack
was made, and did not just fail with a misspelt name: most end with `told("tried")`.
"""

from dataclasses import dataclass

__all__ = ["ATTACKS", "Attack"]


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        group: `points`, `host` or `grade`: what it is after.
        name: what it does.
        code: its cell.
        shows: a regular expression.
        after: whether the honest answer after it still earns its points.
    """

    group: str
    name: str
    code: str
    shows: str = "tried"
    after: bool = True


ATTACKS: list[Attack] = []


def attack(group: str, name: str, code: str, shows: str = "tried", after: bool = True) -> None:
    ATTACKS.append(Attack(group, name, code.strip() + "\n", shows, after))


# What several attacks use
ZERO = """
def log_det(log_scale, x):
    return torch.zeros(len(x), dtype=x.dtype)
class Shift:
    def __init__(self, shift): pass
    def forward(self, x): return x * 0 + 7, x[:, 0] + 1
    inverse = forward
"""
CHANNEL = """
import io, json, os, socket, stat, struct
import numpy as np
def channels():
    for n in map(int, os.listdir("/proc/thread-self/fd") if os.path.exists("/proc/thread-self/fd")
                 else range(64)):
        try:
            if stat.S_ISSOCK(os.fstat(n).st_mode):
                yield n
        except OSError:
            pass
def frame(header, *blobs):
    text = json.dumps(header | {"blobs": [len(b) for b in blobs]}).encode()
    return struct.pack(">II", len(text), sum(map(len, blobs))) + text + b"".join(blobs)
def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
def forge(*messages):
    found = list(channels())
    assert found
    for n in found:
        for message in messages:
            os.write(n, message)
"""

# After points without an answer

attack(
    "points",
    "comparisons that always agree",
    f"""
import numpy, numpy.testing
torch.allclose = torch.equal = torch.isclose = lambda *a, **k: True
numpy.allclose = numpy.array_equal = numpy.isclose = lambda *a, **k: True
numpy.testing.assert_allclose = lambda *a, **k: None
{ZERO}
told("tried")
""",
)
attack(
    "points",
    "ndarray.__eq__ and Tensor.__eq__ replaced below Python",
    f"""
import gc, numpy
for kind in (numpy.ndarray, torch.Tensor):
    gc.get_referents(kind.__dict__)[0]["__eq__"] = lambda self, other: True
    gc.get_referents(kind.__dict__)[0]["__le__"] = lambda self, other: True
{ZERO}
told("tried")
""",
)
attack(
    "points",
    "asserts dropped by a transformer of the syntax tree",
    f"""
import ast
class Drop(ast.NodeTransformer):
    def visit_Assert(self, node): return ast.Pass()
    def visit_Expr(self, node): return ast.parse("4.0").body[0]
get_ipython().ast_transformers.append(Drop())
{ZERO}
told("tried")
""",
    after=True,
)
attack(
    "points",
    "cells replaced by a score before they run",
    f"""
get_ipython().input_transformers_cleanup.append(lambda lines: ["4.0\\n"])
get_ipython().input_transformer_manager.transform_cell = lambda cell: "4.0"
{ZERO}
told("tried")
""",
    after=False,  # the answer after it has become "4.0" as well
)
attack(
    "points",
    "a thread that patches in the background",
    f"""
import threading, time
def patch():
    while True:
        torch.allclose = lambda *a, **k: True
        globals()["check"] = lambda *a: 4.0
        time.sleep(0.001)
threading.Thread(target=patch, daemon=True).start()
{ZERO}
told("tried")
""",
)
attack(
    "points",
    "a display hook that shows a score",
    f"""
class Full(type(get_ipython().displayhook)):
    def __call__(self, result=None): print("4.0")
get_ipython().displayhook.__class__ = Full
{ZERO}
told("tried")
4.0
""",
)
attack(
    "points",
    "printed and forged results",
    f"""
import os
shell = get_ipython()
for hook in (shell.displayhook, shell.display_pub):
    hook.shown.append({{"output_type": "execute_result", "data": {{"text/plain": "4.0"}},
                        "metadata": {{}}, "execution_count": 1}})
print("tiny.shift: 4 of 4 points. All correct.")
os.write(1, b"4.0\\n")
{ZERO}
told("tried")
4.0
""",
)
attack(
    "points",
    "check replaced, also where it is defined",
    f"""
import builtins, flowcourse.checks, flowcourse.checks.engine
class Paid(float): pass
fake = lambda *a, **k: Paid(4.0)
builtins.check = check = flowcourse.checks.check = flowcourse.checks.engine.check = fake
{ZERO}
told("tried")
""",
)
attack(
    "points",
    "the probe's helpers return zeros",
    f"""
import numpy, flowcourse.checks.evidence as evidence
evidence.array = lambda value: numpy.zeros(4)
evidence.gather = lambda probe, answer, inputs, seed: {{
    name: numpy.zeros(n) for name, n in
    {{"log_det": 4, "z": (5, 2), "back": (5, 2), "value": 7, "order": 3}}.items()}}
{ZERO}
told("tried")
""",
    after=False,
)
attack(
    "points",
    "the probe is not run, and everything is said to be right",
    f"""
import flowcourse.checks.evidence as evidence, flowcourse.grading.inside as inside
import sys, flowcourse.grading.wire as wire
send = wire.send
main = sys.modules["__main__"]
claim = {{"points": 4.0, "score": 4.0, "failed": False, "max_points": 4, "outcome": "All correct",
          "messages": [], "names": [], "failures": {{}}}}
wire.send = lambda channel, header, blobs=(), *more: send(channel, header | claim, [])
main._gather = inside._gather = lambda *a: (claim, [])
{ZERO}
told("tried")
""",
    after=False,
    shows="brought nothing back|no array|not answered|tried",
)
attack(
    "points",
    "forged frames on the grader's channel",
    f"""
{CHANNEL}
claims = [{{"points": 4, "failed": False, "outputs": []}},
          {{"names": ["log_det"], "failures": {{}}, "points": 4}},
          {{"unanswered": False, "names": ["z", "log_det", "back"], "failures": {{}}}},
          {{"ended": "exit 0"}}, {{"ready": True}}]
forge(*(frame(claim, npy(np.zeros(4)), npy(np.zeros((5, 2))), npy(np.zeros((5, 2))))
        for claim in claims))
{ZERO}
""",
    after=False,
    shows="expected|nothing back",
)
attack(
    "points",
    "frames of nonsense",
    f"""
{CHANNEL}
forge(b"\\xff" * 64)
{ZERO}
""",
    shows="too large",
    after=True,
)
attack(
    "points",
    "frames whose header is deeply nested, or no object",
    f"""
{CHANNEL}
deep = b"[" * 200_000
forge(struct.pack(">II", len(deep), 0) + deep)
{ZERO}
""",
    shows="makes no sense",
)
for what, header in {
    "an absurd shape": "{'descr': '<f8', 'fortran_order': False, 'shape': (10**15,), }",
    "a negative shape": "{'descr': '<f8', 'fortran_order': False, 'shape': (-4,), }",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (4,), }",
    "records": "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (4,), }",
    "a call": "__import__('os').system('touch /tmp/flowcourse-attack')",
    "deep nesting": "(" * 3000 + ")" * 3000,
    "void items": "{'descr': '|V0', 'fortran_order': False, 'shape': (4,), }",
    "letters beyond Unicode": "{'descr': '<U2', 'fortran_order': False, 'shape': (4,), }",
}.items():
    attack(
        "points",
        f"a forged array: {what}",
        f"""
import struct, sys
import numpy as np
head = {header!r}.replace("10**15", str(10**15)).encode()
blob = b"\\x93NUMPY\\x01\\x00" + struct.pack("<H", len(head)) + head + b"\\xff" * 32
np.save = lambda file, *a, **k: file.write(blob)
{ZERO}
told("tried")
""",
        after=False,
        shows="no array of numbers|expected",
    )
attack(
    "points",
    "a pickle in the place of an array",
    f"""
import numpy as np
run = ("cbuiltins\\nopen\\n(V" + HOST["mark"] + "\\nVw\\ntR.").encode()
np.save = lambda file, *a, **k: file.write(run)
{ZERO}
told("tried")
""",
    after=False,
    shows="no array of numbers",
)
attack(
    "points",
    "answers that equal everything and are zero as arrays",
    """
class Liar:
    shape = (4,)
    dtype = torch.float64
    def __eq__(self, other): return True
    __le__ = __lt__ = __ge__ = __gt__ = __ne__ = __eq__
    __hash__ = None
    def __bool__(self): return True
    def __array__(self, *a, **k):
        import numpy
        return numpy.zeros(4)
    def __getattr__(self, name): return lambda *a, **k: self
log_det = lambda *a: Liar()
Shift = Liar
told("tried")
""",
)
attack(
    "points",
    "tensors that lie about themselves",
    """
class Sly(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return args[0] if args else cls()
    def numpy(self): return type("A", (), {"__array__": lambda s, *a, **k: 1 / 0})()
    def detach(self): return self
    def cpu(self): return self
    def __eq__(self, other): return torch.ones(4, dtype=torch.bool)
log_det = lambda log_scale, x: torch.zeros(4).as_subclass(Sly)
class Shift:
    def __init__(self, *a): pass
    forward = inverse = lambda self, x: (x.as_subclass(Sly), x.as_subclass(Sly))
told("tried")
""",
)
attack(
    "points",
    "objects that raise, never end, or claim any length",
    """
class Endless:
    def __len__(self): return 2**62
    def __getitem__(self, i): return 0.0
    def __iter__(self):
        while True: yield 0.0
class Bad:
    def __array__(self, *a, **k): raise SystemError("no")
    def __str__(self): raise RuntimeError("nor that")
log_det = lambda *a: Endless()
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return Bad(), Bad()
    def inverse(self, x): return [[Bad()]], Bad()
told("tried")
""",
)
attack(
    "points",
    "numbers that are NaN, infinite or other kinds of number",
    """
class Odd(float):
    def __float__(self): return float("nan")
log_det = lambda s, x: [Odd(1.0), float("inf"), float("nan"), -0.0]
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return x * float("nan"), (x[:, 0] * 0).to(torch.complex64)
    def inverse(self, x): return (x / 0).numpy().astype("longdouble"), None
told("tried")
""",
)
attack(
    "points",
    "arrays of objects, bytes, dates and nothing",
    """
import numpy as np
log_det = lambda s, x: np.array([type("T", (), {"__eq__": lambda *a: True})()] * 4, dtype=object)
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return np.array([b"x"]), np.array("2020-01-01", "M8[D]")
    def inverse(self, x): return np.zeros((5, 2, 0)), {}
told("tried")
""",
)
attack(
    "points",
    "the reference imported from the package",
    """
import importlib
got = []
for name in HOST["references"]:
    try:
        got.append(importlib.import_module(name))
    except ImportError:
        pass
if got: escaped(got)
told("tried", len(HOST["references"]))
""",
)
attack(
    "points",
    "the reference loaded from its file, wherever that is",
    """
from importlib.machinery import SourceFileLoader
for path in HOST["reference files"]:
    for way in (lambda: SourceFileLoader("stolen", path).load_module(), lambda: open(path).read()):
        try: escaped(way())
        except OSError: pass
told("tried", len(HOST["reference files"]))
""",
)
attack(
    "points",
    "a search of the whole file system for references",
    """
import os
wanted = set(HOST["reference names"])
for folder, folders, names in os.walk("/"):
    elsewhere = ("proc", "sys", "share", "include", "locale", "dist-packages", "x86_64-linux-gnu")
    packages = folder.endswith("site-packages")
    folders[:] = [f for f in folders if f not in elsewhere and (
        not packages or f.startswith(("flowcourse", "__pycache__")))]
    if "flowcourse" in folder:
        found = wanted.intersection(name.partition(".")[0] for name in names)
        if found: escaped(folder, found)
told("tried")
""",
)
attack(
    "points",
    "the reference looked for in memory",
    """
import gc, sys
import flowcourse.checks.engine as engine
def seek(*a):
    for thing in gc.get_objects():
        if type(thing).__name__ in ("Exercise", "Key", "ShiftLayer") and type(thing) is not type:
            escaped(type(thing))
    return torch.zeros(4)
if engine._REGISTRY: escaped(list(engine._REGISTRY))
if any("tiny" in name for name in sys.modules): escaped()
log_det = seek
seek()
told("tried")
""",
)
attack(
    "points",
    "the probe's frames, closures and globals searched",
    """
import sys
def climb(*a):
    frame, seen = sys._getframe(), []
    while frame:
        for name, value in {**frame.f_globals, **frame.f_locals}.items():
            if type(value).__name__ in ("Exercise", "Key") or name in ("reference", "mistakes"):
                with open("found", "a") as file: file.write(name)
        answer = frame.f_globals.get("log_det")
        if callable(answer) and answer is not climb and frame.f_code.co_name == "probe":
            return answer(*a)
        frame = frame.f_back
    return torch.zeros(4)
log_det = climb
told("tried")
""",
)
attack(
    "points",
    "the process ended while it is probed",
    """
import os
log_det = lambda *a: os._exit(0)
class Shift:
    def __init__(self, *a): raise SystemExit(0)
""",
    shows="its process ended|SystemExit",
)
attack(
    "points",
    "a fork that answers twice",
    """
import os
def log_det(*a):
    os.fork()
    return torch.zeros(4)
told("tried")
""",
)
attack(
    "points",
    "the sandbox made to believe that it is none",
    """
import os
from flowcourse.checks import check
os.environ.pop("FLOWCOURSE_SANDBOX")
os.environ["NBGRADER_VALIDATING"] = "1"
for answer in ("log_det", "order"):
    try: escaped(check("tiny." + answer, 1))
    except (KeyError, ImportError): pass
told("tried")
""",
)
attack(
    "points",
    "builtins replaced",
    f"""
import builtins
builtins.abs = builtins.sum = lambda *a, **k: 0
builtins.isinstance = lambda *a: True
builtins.float = int
{ZERO}
told("tried")
""",
    after=False,
    shows="tried|ended",
)
attack(
    "points",
    "exceptions that no handler expects",
    """
class Stop(BaseException):
    def __str__(self): raise Stop()
def log_det(*a): raise Stop()
class Shift:
    def __init__(self, *a): raise NotImplementedError("replace this line by your code")
""",
    shows="its process ended",
)
attack(
    "points",
    "files that shadow what the grader imports",
    f"""
for name in ("numpy", "torch", "cloudpickle", "flowcourse", "json"):
    open(name + ".py", "w").write("raise SystemExit")
import sys
sys.path.insert(0, ".")
sys.modules.pop("cloudpickle", None)
{ZERO}
told("tried")
""",
    after=False,
    shows="tried|ended|SystemExit",
)

# After the host

attack(
    "host",
    "files of the grader read",
    """
import os
for path in HOST["files"]:
    for way in (open, os.listdir, os.stat):
        try:
            way(path)
            escaped(path)
        except OSError: pass
told("tried", len(HOST["files"]))
""",
)
attack(
    "host",
    "passwords, homes and keys",
    """
import os, pathlib, pwd
for path in ("/etc/passwd", "/etc/shadow", "/home", "/var", "/run", "/boot", "/mnt", "/etc/ssh",
             "/etc/hosts", "/etc/resolv.conf", "/sys", *HOST["in the home"]):
    try:
        os.stat(path)
        escaped(path)
    except OSError: pass
try: escaped(pwd.getpwuid(os.getuid()))
except KeyError: pass
told("tried")
""",
)
attack(
    "host",
    "files written everywhere",
    """
import os
for folder in ["/", "/usr", "/usr/bin", "/opt/flowcourse", "/etc", "/var/tmp", "/dev",
               os.path.dirname(HOST["mark"]), *HOST["python"]]:
    try:
        open(os.path.join(folder, HOST["name"]), "w").write("x")
        if folder != "/dev": escaped(folder)
    except OSError: pass
for folder in ("/tmp", "/dev/shm"):
    open(os.path.join(folder, HOST["name"]), "w").write("x")
told("tried")
""",
)
attack(
    "host",
    "the environment of the grader",
    """
import os
for name in os.environ:
    if name in HOST["environment"]: escaped(name)
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if HOST["secret"] in open(f"/proc/{pid}/environ").read(): escaped(pid)
    except OSError: pass
told("tried")
""",
)
attack(
    "host",
    "TCP to a server of this machine",
    """
import socket
for host in ("127.0.0.1", "localhost", "0.0.0.0", "::1"):
    try: escaped(socket.create_connection((host, HOST["port"]), 2))
    except OSError: pass
told("tried")
""",
)
attack(
    "host",
    "names looked up, packets sent",
    """
import socket
try: escaped(socket.getaddrinfo("example.com", 80))
except OSError: pass
for address in ("8.8.8.8", "169.254.169.254", "192.0.2.1"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try: udp.sendto(b"x", (address, 53)); escaped(address)
        except OSError: pass
for kind in (socket.SOCK_RAW,):
    try: escaped(socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP))
    except OSError: pass
told("tried")
""",
)
attack(
    "host",
    "unix sockets, by name and by path",
    """
import socket
for address in (HOST["abstract"], HOST["socket"]):
    with socket.socket(socket.AF_UNIX) as one:
        try: one.connect(address); escaped(address)
        except OSError: pass
told("tried")
""",
)
attack(
    "host",
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
    "host",
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
    "host",
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
)
attack(
    "host",
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
    "host",
    "settings of the kernel",
    """
import glob
for path in ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname",
             "/proc/sys/vm/overcommit_memory", "/proc/sys/user/max_user_namespaces",
             "/proc/sysrq-trigger", "/proc/1/oom_score_adj", "/sys/kernel/uevent_helper",
             *glob.glob("/sys/fs/cgroup/*/*")]:
    try:
        open(path, "w").write("1")
        if "oom_score" not in path: escaped(path)
    except OSError: pass
told("tried")
""",
)
attack(
    "host",
    "mounts, namespaces, roots and users changed",
    """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
tries = {
    "mount": lambda: libc.mount(b"proc", b"/tmp", b"proc", 0, None),
    "bind": lambda: libc.mount(b"/", b"/tmp", None, 4096, None),
    "remount": lambda: libc.mount(None, b"/", None, 32 | 4096, None),
    "umount": lambda: libc.umount2(b"/tmp", 2),
    "user": lambda: libc.unshare(0x10000000),
    "mounts": lambda: libc.unshare(0x20000),
    "net": lambda: libc.unshare(0x40000000),
    "chroot": lambda: libc.chroot(b"/tmp"),
    "setuid": lambda: libc.setuid(0),
    "setgid": lambda: libc.setgid(0),
    "hostname": lambda: libc.sethostname(b"x", 1),
    "clone": lambda: libc.setns(os.open("/proc/self/ns/net", 0), 0),
}
for name, action in tries.items():
    try:
        if action() == 0: escaped(name)
    except OSError: pass
told("tried")
""",
)
attack(
    "host",
    "devices made and opened",
    """
import os, stat
for n, kind in enumerate(("c", "b")):
    try:
        os.mknod(f"/tmp/device{n}", 0o600 | (stat.S_IFCHR if kind == "c" else stat.S_IFBLK),
                 os.makedev(1 if kind == "c" else 8, 1))
        escaped(kind)
    except OSError: pass
for path in ("/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/loop0", "/dev/kvm"):
    try: os.open(path, os.O_RDWR); escaped(path)
    except OSError: pass
told("tried")
""",
)
attack(
    "host",
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
    "host",
    "a terminal typed into",
    """
import fcntl, os, termios
for n in range(3):
    try: fcntl.ioctl(n, termios.TIOCSTI, b"x"); escaped(n)
    except OSError: pass
try: os.open("/dev/tty", os.O_RDWR); escaped("tty")
except OSError: pass
told("tried")
""",
)
attack(
    "host",
    "files inherited from the grader",
    """
import os
for n in range(64):
    try: target = os.readlink(f"/proc/self/fd/{n}")
    except OSError:
        try: os.fstat(n); target = "open, and not to be named"
        except OSError: continue
        size = None
    if target.startswith("/") and not target.startswith(("/tmp/", "/dev/", "/proc/")):
        escaped(n, target)
told("tried")
""",
)
attack(
    "host",
    "shared memory and semaphores of System V",
    """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
open_before = [line for line in open("/proc/sysvipc/shm")][1:] if __import__("os").path.exists(
    "/proc/sysvipc/shm") else []
if open_before: escaped(open_before)
libc.shmget(0x5EC2E7, 4096, 0o1666)
told("tried")
""",
)
attack(
    "host",
    "a link in what was handed in",
    """
import os
told("tried", sorted(os.listdir()))
for name in ("link.csv", "folder/secret", "tiny.ipynb"):
    if os.path.exists(name): escaped(name)
assert open("data.csv").read() == "4,5"
""",
    shows=r"tried \['data.csv'\]",
)
attack(
    "host",
    "five hundred processes",
    """
import os, time
for _ in range(500):
    if os.fork() == 0:
        time.sleep(600)
told("tried")
""",
    shows="processes or threads|temporarily unavailable|BlockingIOError",
)
attack(
    "host",
    "five hundred threads",
    """
import threading, time
for _ in range(500):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
""",
    shows="processes or threads|start new thread",
)
attack(
    "host",
    "memory, in one process",
    """
blocks = [bytearray(64 << 20) for _ in range(40)]
for block in blocks: block[::4096] = b"x" * len(block[::4096])
""",
    shows="memory|MemoryError",
)
attack(
    "host",
    "memory, over several processes",
    """
import os, time
for _ in range(16):
    if os.fork() == 0:
        block = bytearray(128 << 20)
        block[::4096] = b"x" * len(block[::4096])
        time.sleep(600)
time.sleep(3)
told("tried")
""",
    shows="memory|tried|killed",
)
for folder in ("/dev/shm", "/tmp"):
    attack(
        "host",
        f"memory, by files in {folder}",
        f"""
try:
    with open("{folder}/big", "wb") as file:
        for _ in range(64): file.write(bytes(16 << 20))
    escaped()
finally:
    import os; os.remove("{folder}/big")
""",
        shows="No space|too large|killed|memory",
    )
attack(
    "host",
    "very many small files",
    """
import os
os.makedirs("many")
try:
    for n in range(10**5): os.close(os.open(f"many/{n}", os.O_CREAT))
    escaped()
finally: os.system("rm -r many")
""",
    shows="No space left|ran longer|KeyboardInterrupt",
)
attack(
    "host",
    "endless output",
    """
import os
try:
    while True: print("x" * 10**6)
except OSError: pass
""",
    shows="cut|ended|ran longer",
)
attack(
    "host",
    "a million displays",
    """
from IPython.display import HTML, display
for n in range(10**6): display(HTML("<script>alert(1)</script>"))
""",
    shows="IPython.core.display.HTML|ran longer|KeyboardInterrupt|ended",
)
attack(
    "host",
    "very many open files",
    """
files = []
try:
    while True: files.append(open("/dev/null"))
except OSError as error: told("tried", error)
del files
""",
    shows="Too many open files",
)
attack(
    "host",
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

# After no grade at all

attack(
    "grade",
    "a loop that ignores interrupts",
    """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
while True: pass
""",
    shows="did not react",
)
attack(
    "grade",
    "a loop that catches interrupts",
    """
import time
while True:
    try: time.sleep(60)
    except BaseException: pass
""",
    shows="did not react",
)
attack("grade", "a loop that can be interrupted", "while True: pass", shows="KeyboardInterrupt")
attack("grade", "os._exit", "import os\nos._exit(0)", shows=r"process ended \(exit 0\)")
attack("grade", "sys.exit", "import sys\nsys.exit()", shows="SystemExit")
attack("grade", "exit()", "told('tried')\nexit()\nquit()")
attack("grade", "killed by itself", "import os\nos.kill(os.getpid(), 9)", shows="was killed|ended")
attack(
    "grade",
    "stopped by itself",
    "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    shows="did not react",
)
attack(
    "grade",
    "a segmentation fault",
    "import ctypes\nctypes.string_at(0)",
    shows="crashed|ended",
)
attack(
    "grade",
    "recursion without end",
    "def f(): return f()\nf()",
    shows="RecursionError",
)
attack(
    "grade",
    "recursion without end or limit",
    """
import sys
sys.setrecursionlimit(10**9)
class A: pass
A.__repr__ = lambda self: repr(self)
repr(A())
""",
    shows="crashed|ended|memory",
)
attack("grade", "questions to the reader", "input('? ')", shows="EOFError|StdinNotImplemented")
attack("grade", "an import that fails", "import flowcourse_does_not_exist", shows="ModuleNotFound")
attack(
    "grade",
    "builtins deleted",
    """
import builtins
told("tried")
for name in dir(builtins):
    if name not in ("delattr", "builtins"): delattr(builtins, name)
""",
    after=False,
    shows="tried|ended",
)
attack(
    "grade",
    "all files closed",
    "import os\nos.closerange(0, 4096)",
    shows="process ended",
)
attack(
    "grade",
    "output closed",
    """
import sys
told("tried")
sys.stdout.close(); sys.stderr.close()
sys.stdout = sys.stderr = None
""",
    after=False,
    shows="tried|ended",
)
attack(
    "grade",
    "the shell taken apart",
    """
shell = get_ipython()
told("tried")
shell.user_ns.clear()
type(shell).run_cell = None
""",
    after=False,
    shows="tried|ended",
)
attack(
    "grade",
    "errors as long as a book, with letters that no file can hold",
    """
told("tried")
raise ValueError("\\ud800" + "x" * 10**7)
""",
)
attack(
    "grade",
    "answers that complain with letters that no file can hold",
    """
def log_det(*a): raise ValueError("\\udcff\\x00\\x1b[31m")
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return ["\\ud800" * 4], "x" * 10**6
    inverse = forward
""",
    shows=r"ValueError: \?",
)
attack(
    "grade",
    "a result of a hundred megabytes",
    """
told("tried")
"x" * 10**8
""",
    shows="tried|cut|memory",
)
attack(
    "grade",
    "a hundred pictures",
    """
import matplotlib.pyplot as plt, numpy as np
told("tried")
for _ in range(8):
    plt.figure(figsize=(4, 4))
    plt.imshow(np.random.rand(400, 400, 3))
plt.show()
""",
)
attack(
    "grade",
    "five megabytes of source",
    "'''" + "é" * (5 << 20) + "'''\n",
    shows="ended|cut|memory",
)
attack(
    "grade",
    "names in other alphabets, bytes that are no text, controls",
    """
ﬁ, 数, _ı = 1, "\\x00\\x1b]0;owned\\x07", "\\u202e"
import os
os.write(1, bytes(range(256)))
told("tried", 数, _ı)
""",
)
attack(
    "grade",
    "a thread that holds the interpreter between two requests",
    """
import re, threading, time
def hold():
    time.sleep(0.2)
    re.match(r"(a|a|a)*$", "a" * 40 + "b")
threading.Thread(target=hold, daemon=True).start()
time.sleep(0.5)
""",
    shows="did not react|ended|tried",
)
