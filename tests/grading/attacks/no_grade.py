"""No grade at all: cells that never end, end everything, or leave nothing to read."""

from tests.grading.attacks.attack import Group

attack = Group("grade")

attack(
    "a loop that ignores interrupts",
    """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
while True: pass
""",
    shows="did not react",
    endless=True,
)

attack(
    "a loop that catches interrupts",
    """
import time
while True:
    try: time.sleep(60)
    except BaseException: pass
""",
    shows="did not react",
    endless=True,
)

attack(
    "a loop that can be interrupted", "while True: pass", shows="KeyboardInterrupt", endless=True
)

attack("os._exit", "import os\nos._exit(0)", shows=r"process ended \(exit 0\)")

attack("sys.exit", "import sys\nsys.exit()", shows="SystemExit")

attack("exit()", "told('tried')\nexit()\nquit()")

attack("killed by itself", "import os\nos.kill(os.getpid(), 9)", shows="was killed|ended")

attack(
    "stopped by itself",
    "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    shows="did not react",
    endless=True,
)

attack(
    "a segmentation fault",
    "import ctypes\nctypes.string_at(0)",
    shows="crashed|ended",
)

attack(
    "recursion without end",
    "def f(): return f()\nf()",
    shows="RecursionError",
)

attack(
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

attack("questions to the reader", "input('? ')", shows="EOFError|StdinNotImplemented")

attack("an import that fails", "import flowcourse_does_not_exist", shows="ModuleNotFound")

attack(
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
    "all files closed",
    "import os\nos.closerange(0, 4096)",
    shows="process ended",
)

attack(
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
    "errors as long as a book, with letters that no file can hold",
    """
told("tried")
raise ValueError("\\ud800" + "x" * 10**7)
""",
)

attack(
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
    "names in other alphabets, bytes that are no text, controls",
    """
ﬁ, 数, _ı = 1, "\\x00\\x1b]0;owned\\x07", "\\u202e"
import os
os.write(1, bytes(range(256)))
told("tried", 数, _ı)
""",
)

attack(
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
    endless=True,
)

attack(
    "an audit hook that forbids everything",
    """
import sys
told("tried")
def forbid(event, arguments): raise PermissionError(event)
sys.addaudithook(forbid)
""",
    after=False,
    shows="tried|ended",
)
attack(
    "trace and profile functions that raise",
    """
import sys, threading
told("tried")
def trace(*a): raise RuntimeError("traced")
threading.settrace(trace); threading.setprofile(trace)
sys.setprofile(trace)
""",
    after=False,
    shows="tried|ended|traced",
)
attack(
    "functions replaced that the program around the cells uses",
    """
import os, signal, time
told("tried")
os.getpid = lambda: 1
signal.signal = time.sleep = os.dup2 = lambda *a: None
""",
    after=False,
    shows="tried|ended",
)
attack(
    "a display that is nested without end, and one that lies about its kind",
    """
class Deep:
    def _repr_mimebundle_(self, **k):
        deep = []
        for _ in range(10**5): deep = [deep]
        return {"text/plain": deep, "image/png": "<script>alert(1)</script>", "text/html": "<b>",
                "application/javascript": "alert(1)", "text/latex": "$$", "x" * 10**6: "y"}
from IPython.display import display
display(Deep())
told("tried")
deep = []
for _ in range(10**5): deep = [deep]
""",
    shows="tried|ended",
)
attack(
    "ends that are never reached: finalizers, handlers at exit, threads",
    """
import atexit, threading, time, weakref
class Last:
    def __del__(self): time.sleep(600)
last = Last()
atexit.register(time.sleep, 600)
threading.Thread(target=time.sleep, args=(600,)).start()
told("tried")
""",
)
