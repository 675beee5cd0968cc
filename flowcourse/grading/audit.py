"""Under what a submission was judged: what must be the same again to give the same grade again."""

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import flowcourse
from flowcourse.grading.sandbox import Sandbox

__all__ = ["changes", "conditions", "now"]

PACKAGES = ("torch", "numpy", "scipy", "nbgrader", "cloudpickle", "distributed")


def conditions(sandbox: Sandbox) -> dict[str, Any]:
    """Versions, walls and limits of a judge, as they stand in the register: JSON."""
    return {
        "versions": {
            "flowcourse": flowcourse.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "system": f"{platform.system()} {platform.machine()}",
        "sandbox": sandbox.walls,
        "kept_by": sandbox.kept_by,
        "limits": asdict(sandbox.limits),
        "everything": sandbox.everything,
    }


def now() -> str:
    """The date and time, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two conditions, a line for each.

    >>> changes({"versions": {"torch": "2.6.0"}, "kept_by": "x"}, {"versions": {"torch": "2.7.1"}})
    ['kept_by: it was x, it is unknown', 'torch: it was 2.6.0, it is 2.7.1']
    """
    old, new = _flat(before), _flat(after)
    return [
        f"{name}: it was {old.get(name, 'unknown')}, it is {new.get(name, 'unknown')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _flat(conditions: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in conditions.items():
        flat |= dict(value) if isinstance(value, Mapping) else {name: value}
    return flat
