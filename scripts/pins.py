"""Keep the pins of `constraints.txt` and `environment.yml` together.

    python -m scripts.pins            write both from what is installed (make pins)

`constraints.txt` holds the exact version of every package that `flowcourse[all]` needs, directly or
through another package, and nothing else. `environment.yml` holds the same pins for conda users.
"""

import sys
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flowcourse.doctor import read_pins

__all__ = ["closure", "constraints", "environment"]

ROOT = Path(__file__).resolve().parent.parent

CONSTRAINTS_HEADER = """\
# The versions that were installed and tested together, for `pip install -c constraints.txt`.
# Written by `make pins` from the installed packages. A line with a marker is for another platform
# than the one it was written on: it is kept as it stands.
"""
ENVIRONMENT_HEADER = """\
# For conda users: conda env create -f environment.yml && conda activate flowcourse
# Written by `make pins`: the pins are those of constraints.txt.
name: flowcourse
channels:
  - conda-forge
dependencies:
  - python=3.11
  - git
  - make
  - pip
  - pip:
"""


def closure(root: str) -> list[tuple[Requirement, str]]:
    """Everything that installing `root` asks for here, with the version that is installed.

    Returns each requirement once for every package that states it, so that a caller can also
    compare the installed version with what each of them allows.

    Raises:
        PackageNotFoundError: something on the way is not installed.
    """
    found: list[tuple[Requirement, str]] = []
    seen: set[str] = set()
    waiting = [Requirement(root)]
    while waiting:
        asked = waiting.pop()
        installed = distribution(asked.name)
        found.append((asked, installed.version))
        if (key := f"{canonicalize_name(asked.name)}{sorted(asked.extras)}") in seen:
            continue
        seen.add(key)
        for needed in map(Requirement, installed.requires or []):
            extras = ("", *asked.extras)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(needed)
    return found


def constraints(installed: Mapping[str, str], before: str = "") -> str:
    """The text of `constraints.txt`.

    Args:
        installed: the version of each package. A local label such as `+cpu` is dropped: it names
            a build of the same release, and each platform has its own.
        before: the text it replaces, whose lines with a marker are kept.

    >>> constraints({"torch": "2.13.0+cpu"}).splitlines()[-1]
    'torch==2.13.0'
    """
    pins = {name: str(pin) for name, pin in read_pins(before).items() if pin.marker}
    for name, version in installed.items():
        pins[canonicalize_name(name)] = f"{canonicalize_name(name)}=={version.partition('+')[0]}"
    return CONSTRAINTS_HEADER + "".join(f"{pins[name]}\n" for name in sorted(pins))


def environment(constraints_text: str) -> str:
    """The text of `environment.yml` with the pins of a constraints file.

    >>> environment("torch==2.13.0").splitlines()[-2].strip()
    "- 'torch==2.13.0'"
    """
    pins = read_pins(constraints_text).values()
    return ENVIRONMENT_HEADER + "".join(f"      - '{pin}'\n" for pin in pins) + "      - -e .\n"


def main() -> int:
    """Write both files from the installed packages and say what changed."""
    path = ROOT / "constraints.txt"
    before = path.read_text()
    everything = closure("flowcourse[all]")
    after = constraints(
        {asked.name: version for asked, version in everything if asked.name != "flowcourse"}, before
    )
    path.write_text(after)
    (ROOT / "environment.yml").write_text(environment(after))
    old, new = read_pins(before), read_pins(after)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            print(f"{name}: {old.get(name, 'no pin')} -> {new.get(name, 'no pin')}")
    print(f"{len(new)} pins in constraints.txt and environment.yml.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
