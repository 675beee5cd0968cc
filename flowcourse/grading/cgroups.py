"""Linux control groups: the kernel's own limits for a tree of processes, where they can be had.

Writable control groups are usual for root and in containers. Elsewhere the watchdog in
`flowcourse.grading.inside` keeps the same limits by looking often.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from flowcourse.grading.namespaces import Limits

__all__ = ["grouped"]

ROOT = Path("/sys/fs/cgroup")
WARM = 2 << 30  # bytes beside the submission's: the warm process, and what is written to memory


@contextlib.contextmanager
def grouped(name: str, limits: Limits, root: Path = ROOT) -> Iterator[list[str]]:
    """Make a control group for a sandbox, and remove it in the end.

    Yields:
        What to put before a command so that it runs in the group; empty where there is none.
    """
    memory, processes = str(limits.memory + WARM), str(limits.processes + 16)
    settings = {  # version 2, and version 1
        "": {"memory.max": memory, "pids.max": processes},
        "memory": {"memory.limit_in_bytes": memory},
        "pids": {"pids.max": processes},
    }
    made: list[Path] = []
    try:
        for controller, own in _own_groups().items():
            above = root / controller / own
            if not (above / "cgroup.procs").exists():  # a plain folder, or not mounted here
                continue
            group = above / name
            for file, value in settings.get(controller, {}).items():
                with contextlib.suppress(OSError):
                    group.mkdir(exist_ok=True)
                    made += [group] if group not in made else []
                    (group / file).write_text(value)
        joins = "".join(f"echo $$ > {group}/cgroup.procs; " for group in made)
        yield ["/bin/sh", "-c", f'{joins}exec "$@"', "sh"] if made else []
    finally:
        for group in made:
            _remove(group)


def _own_groups() -> dict[str, str]:
    """The path of this process's group by controller; "" is version 2."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            found |= dict.fromkeys(controllers.split(","), path.strip("/"))
    return found


def _remove(group: Path) -> None:
    """A group can be removed once the kernel has noticed that its last process is gone."""
    for _ in range(100):
        try:
            group.rmdir()
            return
        except OSError:
            time.sleep(0.02)
