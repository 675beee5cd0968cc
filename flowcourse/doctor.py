"""What is installed, which device is used, what is missing and how to get it: `flowcourse doctor`.

The libraries that could be missing are imported where they are used: a page about gaps must open
when there are gaps.
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

__all__ = ["Package", "inspect", "main", "read_pins", "remedy", "table"]

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"

EXTRAS = {
    "": "The course's code",
    "book": "Building the book",
    "lab": "The problem sets in JupyterLab",
    "grading": "Releasing and grading problem sets",
    "dev": "Running the checks",
}

# What is needed besides Python: the command's names, what it is for, and how to get it.
COMMANDS = (
    (("git",), "versions of the course", "install git with the system's package manager"),
    (("make",), "the commands of the README", "install GNU make (macOS: xcode-select --install)"),
    (
        ("chromium", "chromium-browser", "google-chrome"),
        "the tests that open built pages",
        "install Chromium or Chrome (Debian: apt-get install chromium)",
    ),
    (
        ("bwrap",),
        "the sandbox that submissions are graded in (Linux)",
        "install bubblewrap (Debian: apt-get install bubblewrap)",
    ),
)


@dataclass(frozen=True)
class Package:
    """One direct requirement of flowcourse, and what is installed of it.

    Attributes:
        name: the package.
        extra: the extra that asks for it, "" for what is always needed.
        asked: the versions that `pyproject.toml` allows.
        installed: the installed version, None if there is none.
        tested: the version pinned in `constraints.txt`, None if it is not pinned.
    """

    name: str
    extra: str
    asked: str
    installed: str | None
    tested: str | None

    @property
    def verdict(self) -> str:
        """One of "missing", "wrong version", "ok, not the tested version" and "ok"."""
        if self.installed is None:
            return "missing"
        if not SpecifierSet(self.asked).contains(self.installed, prereleases=True):
            return "wrong version"
        # A local label such as +cpu names a build of the same release.
        if self.tested not in (None, self.installed.partition("+")[0]):
            return "ok, not the tested version"
        return "ok"


def read_pins(text: str) -> dict[str, Requirement]:
    r"""The pins of a constraints file by package name.

    >>> str(read_pins("# tested together\nTorch==2.13.0\n")["torch"].specifier)
    '==2.13.0'
    """
    lines = (line.strip() for line in text.splitlines())
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def inspect(requirements: Iterable[str], pins: Mapping[str, Requirement]) -> list[Package]:
    """Compare requirements, written as in a package's metadata, with what is installed.

    Args:
        requirements: lines such as `mypy>=1.15; extra == "dev"`.
        pins: the tested versions, see `read_pins`.
    """
    packages = []
    for requirement in map(Requirement, requirements):
        # A requirement that holds without an extra belongs to no extra.
        extras = [""] if _holds(requirement, "") else [e for e in EXTRAS if _holds(requirement, e)]
        pin = pins.get(canonicalize_name(requirement.name))
        packages += [
            Package(
                name=requirement.name,
                extra=extra,
                asked=str(requirement.specifier),
                installed=_installed(requirement.name),
                tested=None if pin is None else str(pin.specifier).removeprefix("=="),
            )
            for extra in extras
        ]
    return packages


def table(packages: Iterable[Package]) -> str:
    """What is installed, grouped by what it is for."""
    packages = list(packages)
    row = "{:26}{:16}{:16}{:18}{}"
    lines = [row.format("Package", "installed", "tested", "asked for", "")]
    for extra, purpose in EXTRAS.items():
        lines.append(f"{purpose}{f' (extra {extra!r})' if extra else ''}")
        lines += [
            row.format(f"  {p.name}", p.installed or "-", p.tested or "-", p.asked, p.verdict)
            for p in packages
            if p.extra == extra
        ]
    return "\n".join(line.rstrip() for line in lines)


def remedy(package: Package) -> str:
    """The command that gets a package in a version that is allowed."""
    extra = f"[{package.extra}]" if package.extra else ""
    if CONSTRAINTS.exists():
        return f"{sys.executable} -m pip install -c {CONSTRAINTS} -e '{ROOT}{extra}'"
    return f"{sys.executable} -m pip install --upgrade 'flowcourse{extra}'"


def _holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device() -> str:
    """The device that `--device auto` picks, as Lightning Fabric does: a GPU if torch sees one."""
    try:
        import torch
    except ImportError as error:
        return f"unknown: torch cannot be imported ({error})"
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return "cuda: " + ", ".join(f"{g.name} ({g.total_memory / 2**30:.0f} GiB)" for g in gpus)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    size = f"{os.cpu_count()} cores, {memory:.0f} GiB"
    if torch.backends.mps.is_available():
        return f"mps: Apple GPU (shares {size})"
    return f"cpu: {size}, {torch.get_num_threads()} threads; torch sees no GPU"


def _data() -> list[str]:
    """Which data sets load without the network, and how to get the others."""
    try:
        from flowcourse import data
    except ImportError as error:
        return [f"  unknown: flowcourse.data cannot be imported ({error})"]
    here = data.available()
    lines = [f"  {'here':10}{', '.join(here)}"]
    for name in data.NAMES:
        if name not in here:
            command = f"from flowcourse.data import load; load({name!r}, download=True)"
            lines.append(f'  {"not here":10}{name}: {sys.executable} -c "{command}"')
    return lines


def main() -> int:
    """Print the report; returns 1 if the course's code lacks something it needs, else 0."""
    print(f"Python {platform.python_version()} ({sys.executable}), {platform.platform()}")
    print(f"Device: {_device()}\n")
    try:
        requirements = requires("flowcourse") or []
    except PackageNotFoundError:
        print(f"flowcourse is not installed here: {sys.executable} -m pip install -e '{ROOT}'")
        return 1
    pins = read_pins(CONSTRAINTS.read_text()) if CONSTRAINTS.exists() else {}
    packages = inspect(requirements, pins)
    print(table(packages))
    print("\nData sets")
    print("\n".join(_data()))

    lacking = [p for p in packages if not p.verdict.startswith("ok")]
    gaps = {
        f"{p.name} {p.asked} ({EXTRAS[p.extra].lower()}): {p.verdict}; get it with\n"
        f"      {remedy(p)}"
        for p in lacking
    }
    gaps |= {
        f"{names[0]} ({purpose}): not found; {how}"
        for names, purpose, how in COMMANDS
        if not any(map(shutil.which, names))
    }
    print("\nMissing" if gaps else "\nNothing is missing.")
    for gap in sorted(gaps):
        print(f"  {gap}")
    return 1 if any(p.extra == "" for p in lacking) else 0


if __name__ == "__main__":
    sys.exit(main())
