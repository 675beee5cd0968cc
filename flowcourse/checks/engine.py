"""The engine: draw inputs, probe the answer and the reference alike, compare, diagnose.

Each step is a method of its own, because in grading they happen in different places: `draw`,
`grade` and the reference stay in a trusted process, and only `probe` runs beside the student's
code.
"""

import contextlib
import importlib
import io
import os
import secrets
import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowcourse.checks.compare import Comparison, close

__all__ = ["Exercise", "Failure", "Outcome", "Score", "check", "exercise", "exercises", "get"]

Values = dict[str, "np.ndarray | Failure"]

_REGISTRY: dict[str, "Exercise"] = {}
_WIDTH = 80  # `nbgrader validate` cuts longer lines


class Score(float):
    """The points earned; nbgrader reads a test cell's last value as partial credit."""

    def __repr__(self) -> str:
        return f"{float(self):g}"


@dataclass(frozen=True)
class Failure:
    """What stands in the place of an array when computing it raised an exception."""

    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


@dataclass(frozen=True)
class Outcome:
    """What an answer earned, and why.

    Attributes:
        name: the exercise, "topic.exercise".
        points: points earned.
        max_points: points available.
        messages: one complaint for each part that lost points.
        diagnosis: the name of the mistake that gives the same output, if one does.
        advice: the exercise's hint and the section to reread.
    """

    name: str
    points: float
    max_points: float
    messages: tuple[str, ...] = ()
    diagnosis: str | None = None
    advice: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"{self.name}: {self.points:g} of {self.max_points:g} points"
        if not self.messages:
            return f"{head}. All correct."
        lines = [head, *(f"- {message}" for message in self.messages)]
        if self.diagnosis:
            lines.append(f"Diagnosis: {self.diagnosis}")
        lines += self.advice
        return "\n".join(textwrap.fill(line, _WIDTH, subsequent_indent="  ") for line in lines)


@dataclass(frozen=True)
class Exercise:
    """One exercise, as `@exercise` declares it; see there for the fields."""

    name: str
    read: str
    hint: str
    reference: Any
    parts: Mapping[str, float]
    mistakes: Mapping[str, Any]
    compare: Mapping[str, Comparison]
    draw: Callable[[np.random.Generator], dict[str, Any]]
    probe: Callable[..., dict[str, Any]]

    @property
    def points(self) -> float:
        """Points available: the sum over the parts."""
        return sum(self.parts.values())

    def inputs(self, seed: int) -> dict[str, Any]:
        """Draw the inputs that a seed gives: arrays, numbers and strings."""
        return self.draw(np.random.default_rng(seed))

    def values(self, answer: Any, inputs: Mapping[str, Any], seed: int) -> Values:
        """Probe an answer: one array, or the failure that came instead, for each part.

        Everything random in the probe (networks, base samples) follows from the seed, so that
        answer, reference and mistakes meet the same numbers.
        """
        arguments = {
            k: torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v
            for k, v in inputs.items()
        }
        found: Values = {}
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            results = _attempt(self.probe, answer, **arguments)
            for part in self.parts:
                if isinstance(results, Failure):
                    found[part] = results
                else:
                    torch.manual_seed(seed + 1)
                    found[part] = _attempt(_array, results[part])
        return found

    def grade(
        self, found: Values, inputs: Mapping[str, Any], seed: int, diagnose: bool = True
    ) -> Outcome:
        """Compare an answer's values with the reference's, and name the mistake."""
        if all(map(_unanswered, found.values())):
            return Outcome(self.name, 0, self.points, ("not answered yet.",))
        expected = self.values(self.reference, inputs, seed)
        complaints = self._complaints(found, expected)
        points = sum(p for part, p in self.parts.items() if part not in complaints)
        if not complaints:
            return Outcome(self.name, points, self.points)
        diagnosis = None
        if diagnose:
            diagnosis = self._diagnose(found, expected, set(complaints), inputs, seed)
        messages = tuple(f"{part}: {text}" for part, text in complaints.items())
        if len(set(complaints.values())) == 1 and len(complaints) == len(self.parts):
            messages = (next(iter(complaints.values())),)  # one cause: say it once
        advice = tuple(filter(None, [f"Hint: {self.hint}", f"Read again: {self.read}"]))
        return Outcome(self.name, points, self.points, messages, diagnosis, advice)

    def evaluate(self, answer: Any, seed: int | None = None, diagnose: bool = True) -> Outcome:
        """Draw, probe and grade; without a seed the inputs are fresh every time.

        To diagnose a wrong answer, every mistake is probed: where only points are asked for, and
        the probe trains a model, leave that out.
        """
        if answer is ... or answer is None:
            return Outcome(self.name, 0, self.points, ("not answered yet.",))
        seed = secrets.randbelow(2**31) if seed is None else seed
        inputs = self.inputs(seed)
        return self.grade(self.values(answer, inputs, seed), inputs, seed, diagnose)

    def _complaints(self, found: Values, expected: Values) -> dict[str, str]:
        complaints = {}
        for part, right in expected.items():
            if isinstance(right, Failure):
                raise RuntimeError(f"{self.name}: the reference itself fails at {part}: {right}")
            value = found[part]
            if isinstance(value, Failure):
                if _unanswered(value):
                    complaints[part] = "not answered yet."
                else:
                    complaints[part] = f"computing it raised {value}"
            elif text := self.compare.get(part, close())(value, right):
                complaints[part] = text
        return complaints

    def _diagnose(
        self,
        found: Values,
        expected: Values,
        wrong: set[str],
        inputs: Mapping[str, Any],
        seed: int,
    ) -> str | None:
        """The mistake that is wrong in the same parts and gives the same values there."""
        for message, implementation in self.mistakes.items():
            theirs = self.values(implementation, inputs, seed)
            if set(self._complaints(theirs, expected)) != wrong:
                continue
            if all(_alike(found[part], theirs[part]) for part in wrong):
                return message
        return None


def exercise(name: str, *, read: str, hint: str = "") -> Callable[[type], Exercise]:
    """Declare an exercise; the decorated class is a record of what it must satisfy.

    Args:
        name: "topic.exercise".
        read: the section to reread, such as "book/coupling/nice.md, Additive coupling".
        hint: one sentence for a student whose answer is wrong, and undiagnosed or not.

    The class has:
        reference: the right implementation, or the right value.
        draw(rng): fresh inputs, as a dict of numpy arrays, numbers and strings.
        probe(answer, **inputs): runs an implementation (arrays arrive as torch tensors) and returns
            a dict with a value for each part: an array, a number, a string or a list of them, or a
            function of no arguments that computes it, so that a failure costs that part alone.
        parts: points by part.
        mistakes: at least four wrong implementations or values, by the message that names them.
        compare: optional; how a part is compared if not by `close()`.
    """
    topic, _, short = name.partition(".")
    if not topic or not short:
        raise ValueError(f"Expected an exercise name of the form 'topic.exercise', got {name!r}.")

    def register(record: type) -> Exercise:
        fields = vars(record)
        missing = {"reference", "draw", "probe", "parts", "mistakes"} - set(fields)
        if missing:
            raise TypeError(f"Exercise {name!r} lacks {', '.join(sorted(missing))}.")
        if len(fields["mistakes"]) < 4:
            raise TypeError(f"Exercise {name!r} must diagnose at least four mistakes.")
        if name in _REGISTRY:
            raise ValueError(f"Exercise {name!r} is declared twice.")
        _REGISTRY[name] = Exercise(
            name=name,
            read=read,
            hint=hint,
            reference=fields["reference"],
            parts=fields["parts"],
            mistakes=fields["mistakes"],
            compare=fields.get("compare", {}),
            draw=fields["draw"],
            probe=fields["probe"],
        )
        return _REGISTRY[name]

    return register


def get(name: str) -> Exercise:
    """Look up an exercise by "topic.exercise"; raises KeyError with the known names."""
    topic = name.partition(".")[0]
    known = {e.name: e for e in exercises(topic)}
    if name not in known:
        raise KeyError(f"There is no exercise {name!r}. Known: {', '.join(known)}.")
    return known[name]


def exercises(topic: str) -> list[Exercise]:
    """All exercises of a problem set, in the order in which they are declared."""
    module = f"flowcourse.checks.{topic}"
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise KeyError(f"There is no problem set {topic!r}: {module} does not exist.") from error
    return [e for e in _REGISTRY.values() if e.name.startswith(f"{topic}.")]


def check(name: str, answer: Any) -> Score:
    """Check a student's answer: print what is right and wrong, and return the points."""
    outcome = get(name).evaluate(answer)
    if outcome.messages and "NBGRADER_VALIDATING" in os.environ:
        raise Incomplete(outcome)
    print(outcome)
    return Score(outcome.points)


class Incomplete(Exception):
    """Points were lost, under `nbgrader validate`: that command shows errors, not what is printed.

    The outcome stands in the place of a traceback, which would only show this file.
    """

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


@contextlib.contextmanager
def _quiet():
    """Drop what a probe prints: stderr in a test cell would cost its points in nbgrader."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _attempt(compute: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """The value, or the failure in its place: a student's code may raise anything."""
    try:
        return compute(*arguments, **named)
    except Exception as error:
        return Failure(type(error).__name__, str(error))


def _unanswered(value: "np.ndarray | Failure") -> bool:
    """Whether the line that a release leaves in an answer's place has raised."""
    if not isinstance(value, Failure):
        return False
    return value.kind == "NotImplementedError" and "replace this line" in value.message


def _array(value: Any) -> np.ndarray:
    if callable(value) and not isinstance(value, Tensor):
        value = value()
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "biufU":
        raise TypeError(f"expected numbers or strings, got {type(value).__name__}")
    return array


def _alike(a: "np.ndarray | Failure", b: "np.ndarray | Failure") -> bool:
    if isinstance(a, Failure) or isinstance(b, Failure):
        return isinstance(a, Failure) and isinstance(b, Failure) and a.kind == b.kind
    if a.dtype.kind not in "biuf" or b.dtype.kind not in "biuf":
        return a.shape == b.shape and bool((a == b).all())
    # Two answers with NaN or infinity in the same places made the same mistake.
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True))
