"""Points by patching what compares, checks, probes or shows: all in the wrong process."""

from tests.grading.attacks.attack import ZERO, Group

attack = Group("points")

attack(
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

attack(
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
