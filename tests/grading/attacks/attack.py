"""What an attack is, and what several of them use."""

from dataclasses import dataclass

__all__ = ["ATTACKS", "CHANNEL", "ZERO", "Attack", "Group"]


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        group: what it is after.
        name: what it does.
        code: its cell.
        shows: a regular expression, found in what the grader has to say of the submission.
        after: whether the honest answer after it still earns its points.
        endless: whether only the limit of time ends it.
    """

    group: str
    name: str
    code: str
    shows: str
    after: bool
    endless: bool


ATTACKS: dict[str, Attack] = {}  # by name


class Group:
    """Makes the attacks of one group."""

    def __init__(self, name: str):
        self.name = name

    def __call__(
        self,
        name: str,
        code: str,
        shows: str = "tried",
        after: bool = True,
        endless: bool = False,
    ) -> None:
        """Add an attack, see `Attack`. Once more is no harm: doctests import a module again."""
        attack = Attack(self.name, name, code.strip() + "\n", shows, after, endless)
        if ATTACKS.setdefault(name, attack) != attack:
            raise ValueError(f"Two attacks are called {name!r}.")


# Wrong answers, for attacks that would make them right.
ZERO = """
def log_det(log_scale, x):
    return torch.zeros(len(x), dtype=x.dtype)
class Shift:
    def __init__(self, shift): pass
    def forward(self, x): return x * 0 + 7, x[:, 0] + 1
    inverse = forward
"""
# The grader's channel found among the open files, and messages as the grader reads them.
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
