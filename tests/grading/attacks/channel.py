"""Points by what is said to the grader: forged messages, and arrays that are none."""

from tests.grading.attacks.attack import CHANNEL, ZERO, Group

attack = Group("channel")

attack(
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
    "a forged reply with a million names",
    f"""
{CHANNEL}
n = 10**6
forge(frame({{"names": ["a"] * n, "failures": {{}}}}, *[b""] * n))
{ZERO}
""",
    after=False,
    shows="expected|nothing back|too large|large",
)
attack(
    "forged replies that claim failures and unanswered checks by the thousand",
    f"""
{CHANNEL}
forge(frame({{"names": [], "failures": {{str(n): ["E", "x" * 50] for n in range(50_000)}}}}))
{ZERO}
""",
    after=False,
    shows="expected|brought nothing|nothing back",
)
attack(
    "every later check answered in advance",
    f"""
{CHANNEL}
honest = {{"names": ["z", "log_det", "back", "order", "value"], "failures": {{}}}}
arrays = [npy(np.ones(shape)) for shape in ((5, 2), 5, (5, 2), 3, 7)]
forge(frame({{"outputs": [], "failed": False}}), *[frame(honest, *arrays)] * 40)
{ZERO}
""",
    after=False,
    shows="expected|nothing back",
)
attack(
    "a reply that comes byte by byte",
    f"""
{CHANNEL}
import time
told("tried")
for byte in frame({{"outputs": []}})[:-1]:
    for n in channels(): os.write(n, bytes([byte]))
    time.sleep(0.5)
""",
    shows="ran longer|makes no sense|too large",
    endless=True,
)
attack(
    "a message that never ends, and numbers that JSON does not know",
    f"""
{CHANNEL}
text = b'{{"blobs": [], "outputs": NaN, "failed": ' + b"9" * 5000 + b"}}"
forge(struct.pack(">II", len(text), 0) + text)
{ZERO}
""",
    shows="makes no sense",
)
attack(
    "outputs nested as deep as a message may be",
    f"""
{CHANNEL}
deep = "[" * 400 + "]" * 400
text = ('{{"blobs": [], "failed": false, "outputs": [' + deep + ', {{"output_type": "stream", '
        '"name": ' + deep + '}}, {{"output_type": "error", "ename": "E", "evalue": "tried", '
        '"traceback": ' + deep + "}}]}}").encode()
forge(struct.pack(">II", len(text), 0) + text)
{ZERO}
""",
    after=False,
)
attack(
    "the grader's order socket looked for, and orders sent to all",
    f"""
{CHANNEL}
import signal
for n in channels():
    with socket.socket(fileno=os.dup(n)) as one:
        for order in (socket.SCM_RIGHTS, socket.SCM_CREDENTIALS):
            try: one.sendmsg([b"i"], [(socket.SOL_SOCKET, order, struct.pack("i", 1))])
            except OSError: pass
{ZERO}
""",
    shows="too large|expected|makes no sense|tried|no answer|ran longer",
    after=False,
)
