"""Points by finding the right answer: on the disk, in memory, on the stack, in the seeds."""

from tests.grading.attacks.attack import Group

attack = Group("inspection")

attack(
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
    "the inputs of all exercises drawn from the seed that the probe comes with",
    """
import sys
import numpy as np
def log_det(log_scale, x):
    seeds, frame = {torch.initial_seed(), torch.initial_seed() - 1}, sys._getframe()
    while frame:
        values = [*frame.f_locals.values()]
        values += [v for d in values if type(d) is dict for v in d.values()]
        seeds |= {v for v in values if type(v) is int and v >= 0}
        frame = frame.f_back
    for seed in seeds:
        drawn = np.random.default_rng(seed).normal(size=3)
        if np.allclose(drawn, log_scale.numpy()): return torch.full((4,), 12345.0)
    return torch.full((4,), float(len(seeds)))
class Shift:
    def __init__(self, shift): self.shift = shift
    def forward(self, x):
        # the same stream of random numbers for every exercise would show here
        return x * 0 + 7, x[:, 0] + 1
    inverse = forward
told("tried")
""",
    shows="got [1-9]\\d?\\.?\\d*\\.",
)
attack(
    "what is sent in for a check kept, and read with the next",
    """
import cloudpickle
loads, kept = cloudpickle.loads, []
def keep(blob, *a, **k):
    kept.append(bytes(blob))
    return loads(blob, *a, **k)
cloudpickle.loads = keep
def log_det(log_scale, x):
    for blob in kept:
        for word in (b"bits where nats", b"NegativeShift", b"mistakes", b"reference", b"tiny.py"):
            if word in blob: return torch.full((4,), 12345.0)
    return torch.full((4,), float(len(kept)))
class Shift:
    def __init__(self, shift):
        found = [loads(blob) for blob in kept]
        names = [code.co_name for probe, _ in found for code in [probe.__code__]]
        inputs = [set(inputs) for _, inputs in found]
        self.wrong = float(names != ["probe"] * len(found) or {"shift", "x"} not in inputs)
    def forward(self, x): return x * 0 + 12345 * self.wrong + 7, x[:, 0] + 1
    inverse = forward
told("tried")
""",
    shows="got [1-9]\\.",
)
attack(
    "its own memory read for what the course has written",
    """
words = [b"your log_det is the " + b"negative of", b"takes the shift for a " + b"scale"]
import re
found = set()
try: maps = open("/proc/self/maps").read()
except OSError: maps = ""
with open("/proc/self/mem", "rb") if maps else open("/dev/null", "rb") as memory:
    for line in maps.splitlines():
        place = re.match(r"(\\w+)-(\\w+) rw.. \\S+ \\S+ 0 ", line)
        if not place: continue
        start, end = (int(number, 16) for number in place.groups())
        if end - start > 64 << 20: continue
        try:
            memory.seek(start); content = memory.read(end - start)
        except (OSError, ValueError): continue
        # this cell's own text is in memory as well, but in two pieces
        found |= {word for word in words if word in content.replace(word + b"\\0", b"")}
del words
told("tried", len(maps))
""",
)
attack(
    "notebooks, caches and history of others looked for",
    """
import os
for folder in (".", "/tmp", "/dev/shm", os.path.expanduser("~"), *HOST["in the home"]):
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith((".ipynb", ".db", ".sqlite", ".jsonl")): escaped(place, name)
        if place.endswith(("__pycache__", ".ipython", ".jupyter")): escaped(place)
told("tried")
""",
)
