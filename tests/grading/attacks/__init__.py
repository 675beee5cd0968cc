"""Attacks on the grader: what a submission may try, and what must come of it.

Each attack is the text of a cell. It stands between honest answers: the one before it and, unless
the attack spoils its own process, the one after it must earn their points, and the attack none. In
the cell `HOST` holds what it needs to know of the machine, and `told(...)` prints, and
`escaped(...)` says that the attack has succeeded.

`shows` must be found in what the grader has to say of the submission. It proves that the attack
was made, and did not just fail with a misspelt name: most end with `told("tried")`.

- `patches`, `channel`, `answers`, `inspection`: after points without an answer;
- `files`, `processes`, `kernel`: after the host;
- `resources`: after what the host has;
- `no_grade`: after no grade at all.

What is done to a notebook instead of in it is in `test_notebooks.py`.
"""

from tests.grading.attacks import (  # noqa: F401  (importing them makes the attacks)
    answers,
    channel,
    files,
    inspection,
    kernel,
    no_grade,
    patches,
    processes,
    resources,
)
from tests.grading.attacks.attack import ATTACKS, Attack

__all__ = ["ATTACKS", "Attack"]
