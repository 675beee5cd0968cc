"""What has been graded, and how: one line for each grading, added at the end and never changed.

`grading/ASSIGNMENT.jsonl` in the course folder. A process that is killed leaves at most one torn
line, which counts as not written. The last line about a student holds.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Entry", "Register"]


@dataclass(frozen=True)
class Entry:
    """The grading of one submission.

    Attributes:
        student: who handed it in.
        digest: of the submission, the release and the course's code.
        points: earned, by exercise.
        max_points: available, by exercise.
        diagnoses: the name of the mistake that was recognised, by exercise.
        messages: what was complained about, by exercise.
        troubles: what went wrong besides wrong answers.
        seed: of the inputs of the checks.
        seconds: wall time in the sandbox.
        date: when, in UTC.
        submission: digest of what was handed in.
        checks: digest of the release, the settings and the course's code.
        conditions: versions, sandbox and limits, see `flowcourse.grading.audit`.
    """

    student: str
    digest: str
    points: dict[str, float]
    max_points: dict[str, float]
    diagnoses: dict[str, str] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    messages: dict[str, list[str]] = field(default_factory=dict)
    seed: int = 0
    seconds: float = 0.0
    date: str = ""
    submission: str = ""
    checks: str = ""
    conditions: dict[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Points of all exercises."""
        return sum(self.points.values())

    @property
    def available(self) -> float:
        """Points to be had."""
        return sum(self.max_points.values())


class Register:
    """The entries of one assignment, by student."""

    def __init__(self, course: Path, assignment: str):
        self.path = course / "grading" / f"{assignment}.jsonl"
        self.entries = {entry.student: entry for entry in self._read()}

    def add(self, entry: Entry) -> None:
        """Write an entry; once this returns, it survives whatever happens."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            file.truncate(self._whole())  # it must start on a line of its own
            file.write(json.dumps(asdict(entry)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries[entry.student] = entry

    def _read(self) -> Iterator[Entry]:
        if not self.path.is_file():
            return
        for line in self.path.read_bytes()[: self._whole()].splitlines():
            yield Entry(**json.loads(line))

    def _whole(self) -> int:
        """The length of the file without a torn line at its end, in bytes."""
        return self.path.read_bytes().rfind(b"\n") + 1
