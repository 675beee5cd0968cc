"""From the cells of a submission to points and reasons.

Cells run in a sandbox. Each check is decided here: inputs are drawn with a seed of the grader's,
the probe travels in, arrays come out, and they are compared with the reference's in this process.
When a cell ends its process (a crash, a limit), a fresh one runs the other cells again, so that one
cell costs its own points and no more.
"""

import base64
import binascii
import contextlib
import hashlib
import importlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from flowcourse.checks import Outcome, get
from flowcourse.checks.engine import Key
from flowcourse.checks.evidence import Failure
from flowcourse.grading.audit import conditions
from flowcourse.grading.evidence import read_text
from flowcourse.grading.namespaces import Limits
from flowcourse.grading.sandbox import CellResult, Died, Sandbox, Submission

__all__ = ["SEED_BITS", "Cell", "Judge", "Judged", "Verdict", "close_judge", "warm_judge"]

SEED_BITS = 62  # too many to try all, from what an answer sees
PNG = b"\x89PNG\r\n\x1a\n"
LONGEST_TEXT = 100_000  # characters of one output
MOST_OUTPUTS = 200  # of one cell
MOST_PIXELS = 25_000_000  # of one picture


@dataclass(frozen=True)
class Cell:
    """A code cell: to be run, or a check of the variable `answer`."""

    source: str
    exercise: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Judged:
    """What became of a cell: outputs that are safe to show, and the outcome of a check."""

    outputs: list[dict[str, Any]] = field(default_factory=list)
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of a submission.

    Attributes:
        cells: one for each cell, in order.
        troubles: what went wrong besides wrong answers, such as a cell that ran out of memory.
        seed: of the inputs; the same seed gives the same inputs and the same verdict.
        seconds: wall time.
        conditions: under which it was reached, see `flowcourse.grading.audit`.
    """

    cells: list[Judged]
    troubles: list[str]
    seed: int
    seconds: float
    conditions: dict[str, Any] = field(default_factory=dict)


class Judge:
    """Grades submissions of one problem set; keep it, it is warm.

    Args:
        topic: the problem set.
        seed: of the inputs of every check; a fresh one by default. All submissions meet the same
            inputs, so the reference is asked once; no student can know them beforehand.
        preload: modules to import before the first submission.
        limits: what one submission may use.
        unsafe: no walls, see `Sandbox`.
        everything: see `Sandbox`.
    """

    def __init__(
        self,
        topic: str,
        seed: int | None = None,
        preload: Sequence[str] = (),
        limits: Limits | None = None,
        unsafe: bool = False,
        everything: bool = False,
    ):
        self.seed = secrets.randbits(SEED_BITS) if seed is None else seed
        usable = importlib.import_module(f"flowcourse.checks.{topic}").MAY_USE
        self.sandbox = Sandbox(usable, preload, limits, unsafe, everything)
        self._keys: dict[str, Key] = {}

    def close(self) -> None:
        """End the sandbox."""
        self.sandbox.close()

    def judge(self, cells: Sequence[Cell], files: Mapping[str, bytes] | None = None) -> Verdict:
        """Run the cells of a submission and decide its checks."""
        started = time.monotonic()
        with _one_thread(), _Runner(self.sandbox, files or {}) as runner:
            judged = []
            for number, cell in enumerate(cells, start=1):
                runner.number = number
                if cell.exercise is None:
                    result = runner.run(cell.source)
                    judged.append(Judged(clean(result.outputs)))
                else:
                    judged.append(Judged(outcome=self._decide(runner, cell)))
        seconds = time.monotonic() - started
        return Verdict(judged, runner.troubles, self.seed, seconds, conditions(self.sandbox))

    def _decide(self, runner: "_Runner", cell: Cell) -> Outcome:
        assert cell.exercise is not None and cell.answer is not None
        exercise = get(cell.exercise)
        if cell.exercise not in self._keys:
            self._keys[cell.exercise] = Key(exercise, *self._seeds(cell.exercise))
        key = self._keys[cell.exercise]
        evidence = runner.gather(exercise, cell.answer, key)
        if evidence is None:
            return exercise.unanswered
        return key.grade(key.settle(evidence))

    def _seeds(self, exercise: str) -> tuple[int, int]:
        """The seeds of an exercise's inputs, and of the noise in its probe.

        An answer sees the second, and its own inputs. Neither tells it the inputs that only
        `measure` is to see, nor those of another exercise, as one seed for all would.
        """
        digest = hashlib.sha256(f"{self.seed} {exercise}".encode()).digest()
        first, second = (int.from_bytes(digest[i : i + 8], "big") >> 2 for i in (0, 8))
        return first, second


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute references on one core: sums come out the same on every machine.

    There is a judge for each core. Where all of them had threads on all cores, these would wait
    for each other, and on a busy machine take minutes for what takes a second.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_warm: dict[tuple[Any, ...], Judge] = {}


def warm_judge(
    topic: str,
    seed: int | None = None,
    preload: Sequence[str] = (),
    limits: Limits | None = None,
    unsafe: bool = False,
    everything: bool = False,
) -> Judge:
    """The judge of this process: the last one where nothing has changed, for it is warm."""
    key = (topic, seed, tuple(preload), limits, unsafe, everything)
    if key not in _warm:
        close_judge()
        _warm[key] = Judge(topic, seed, preload, limits, unsafe, everything)
    return _warm[key]


def close_judge() -> None:
    """End the judge of this process, if there is one."""
    while _warm:
        _warm.popitem()[1].close()


class _Runner:
    """A submission's process, and a new one in its place whenever it has ended."""

    def __init__(self, sandbox: Sandbox, files: Mapping[str, bytes]):
        self.sandbox = sandbox
        self.files = files
        self.number = 0
        self.troubles: list[str] = []
        sandbox.start()  # which is not the submission's time
        self._deadline = time.monotonic() + sandbox.limits.seconds
        self._late = False
        self._done: list[str] = []
        self._submission: Submission | None = None

    def __enter__(self) -> "_Runner":
        return self

    def __exit__(self, *_: object) -> None:
        if self._submission is not None:
            self._submission.close()

    def run(self, source: str) -> CellResult:
        """Run a cell; what ended its process is reported as its error."""
        try:
            result = self._live().run(source)
        except Died as reason:
            self._report(reason)
            return CellResult([_stopped(str(reason))])
        if result.stopped is None:
            self._done.append(source)
            return result
        self.troubles.append(f"cell {self.number}: {result.stopped}")
        return CellResult([*result.outputs[: MOST_OUTPUTS - 1], _stopped(result.stopped)])

    def gather(self, exercise: Any, answer: str, key: Key) -> Any:
        """Probe an answer; what ended its process stands in the place of the arrays."""
        try:
            return self._live().gather(exercise, answer, key.inputs, key.noise)
        except Died as reason:
            self._report(reason)
            return Failure("Stopped", str(reason))

    def _report(self, reason: Died) -> None:
        self._submission = None
        if not self._late:  # else all cells that are left would say the same
            self.troubles.append(f"cell {self.number}: {reason}")
        self._late = time.monotonic() >= self._deadline

    def _live(self) -> Submission:
        """The process, with all cells run so far; those that end it are left out the next time."""
        while True:
            if time.monotonic() >= self._deadline:
                if self._submission is not None:
                    self._submission.close()
                raise Died(f"the submission took longer than {self.sandbox.limits.seconds:g} s")
            if self._submission is not None:
                return self._submission
            submission = self.sandbox.submission(self.files, self._deadline)
            for position, source in enumerate(self._done):
                try:
                    submission.run(source)
                except Died:
                    del self._done[position]
                    break
            else:
                self._submission = submission


def _stopped(reason: str) -> dict[str, Any]:
    return {
        "output_type": "error",
        "ename": "Stopped",
        "evalue": reason,
        "traceback": [f"Stopped: {reason}."],
    }


def clean(outputs: Sequence[Any]) -> list[dict[str, Any]]:
    """Outputs made anew from what came out of a sandbox: text and pictures, nothing that runs."""
    kept: list[dict[str, Any]] = []
    for output in list(outputs)[:MOST_OUTPUTS]:
        match output:
            case {"output_type": "stream", "name": "stdout" | "stderr" as name, "text": str(text)}:
                kept.append({"output_type": "stream", "name": name, "text": _text(text)})
            case {"output_type": "error", "ename": str(name), "evalue": str(value)}:
                lines = output.get("traceback")
                lines = lines if isinstance(lines, list) else []
                error = {"output_type": "error", "ename": _text(name), "evalue": _text(value)}
                text = _text("\n".join(line for line in lines if isinstance(line, str)))
                kept.append(error | {"traceback": text.split("\n")})
            case {"output_type": "display_data" | "execute_result", "data": {**data}}:
                plain, picture = data.get("text/plain"), data.get("image/png")
                content = {"text/plain": _text(plain)} if isinstance(plain, str) else {}
                if isinstance(picture, str) and _is_png(picture):
                    content["image/png"] = picture
                shown = {"output_type": "display_data", "data": content, "metadata": {}}
                kept += [shown] if content else []
    return kept


def _text(text: str) -> str:
    return read_text(text, LONGEST_TEXT)


def _is_png(value: str) -> bool:
    """Whether it is a picture that a browser can show: a small file may state a huge size."""
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return False
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    return content.startswith(PNG) and 0 < width * height <= MOST_PIXELS
