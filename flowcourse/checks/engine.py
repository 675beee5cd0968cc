"""The engine: draw inputs, probe the answer and the reference alike, compare, diagnose.

Each step is a function of its own, because in grading they happen in different places: only `probe`
runs beside the student's code, and `draw`, `measure`, the reference and the comparison stay in a
trusted process.
"""

import importlib
import inspect
import os
import secrets
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowcourse.checks.compare import Comparison, at_most, close
from flowcourse.checks.evidence import Failed, Failure, Values, array, attempt, gather, tensors

__all__ = ["Exercise", "Key", "Outcome", "Score", "check", "exercise", "exercises", "get"]

_REGISTRY: dict[str, "Exercise"] = {}
_WIDTH = 80  # `nbgrader validate` cuts longer lines


class Score(float):
    """The points earned; nbgrader reads a test cell's last value as partial credit."""

    def __repr__(self) -> str:
        return f"{float(self):g}"


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
    measure: Callable[..., dict[str, Any]] | None = None

    @property
    def points(self) -> float:
        """Points available: the sum over the parts."""
        return sum(self.parts.values())

    def inputs(self, seed: int) -> dict[str, Any]:
        """Draw the inputs that a seed gives: arrays, numbers and strings."""
        return self.draw(np.random.default_rng(seed))

    def shown(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs that the probe, and so an answer, gets to see: those that it names."""
        names = list(inspect.signature(self.probe).parameters)[1:]
        return {name: inputs[name] for name in names}

    def values(self, answer: Any, inputs: Mapping[str, Any], seed: int) -> Values:
        """Probe an answer: one array, or the failure that came instead, for each part."""
        return self.settle(gather(self.probe, answer, self.shown(inputs), seed), inputs)

    def settle(self, evidence: Values | Failure, inputs: Mapping[str, Any]) -> Values:
        """The value of each part, from what the probe brought back."""
        if isinstance(evidence, Failure):
            return dict.fromkeys(self.parts, evidence)
        if self.measure is None:
            absent = Failure("KeyError", "the probe brought nothing back under this name")
            return {part: evidence.get(part, absent) for part in self.parts}
        names = list(inspect.signature(self.measure).parameters)[1:]
        wanted = tensors({name: inputs[name] for name in names})
        results = attempt(self.measure, _Evidence(evidence), **wanted)
        if isinstance(results, Failure):
            return dict.fromkeys(self.parts, results)
        return {part: attempt(array, results[part]) for part in self.parts}

    def evaluate(self, answer: Any, seed: int | None = None, diagnose: bool = True) -> Outcome:
        """Draw, probe and grade; without a seed the inputs are fresh every time.

        To diagnose a wrong answer, every mistake is probed: where only points are asked for, and
        the probe trains a model, leave that out.
        """
        if answer is ... or answer is None:
            return self.unanswered
        key = Key(self, secrets.randbelow(2**31) if seed is None else seed)
        return key.grade(self.values(answer, key.inputs, key.noise), diagnose)

    @property
    def unanswered(self) -> Outcome:
        """The outcome of an answer that is not there."""
        return Outcome(self.name, 0, self.points, ("not answered yet.",))


class Key:
    """The answer key of an exercise for one seed: inputs, right values, and each mistake's.

    What the reference and the mistakes give is computed once, however many answers are graded.

    Args:
        exercise: what is asked.
        seed: of the inputs.
        noise: of what is random in the probe, and so known to answers; the same seed if None.
    """

    def __init__(self, exercise: Exercise, seed: int, noise: int | None = None):
        self.exercise = exercise
        self.seed = seed
        self.noise = seed if noise is None else noise
        self.inputs = exercise.inputs(seed)
        self._mistakes: dict[str, Values] = {}

    @cached_property
    def expected(self) -> dict[str, np.ndarray]:
        """What the reference gives."""
        expected = {}
        found = self.exercise.settle(self._evidence, self.inputs)
        for part, value in found.items():
            if isinstance(value, Failure):
                name = self.exercise.name
                raise RuntimeError(f"{name}: the reference itself fails at {part}: {value}")
            expected[part] = value
        return expected

    @cached_property
    def _evidence(self) -> Values | Failure:
        """What the probe brings back of the reference."""
        exercise = self.exercise
        shown = exercise.shown(self.inputs)
        return gather(exercise.probe, exercise.reference, shown, self.noise)

    def settle(self, evidence: Values | Failure) -> Values:
        """The value of each part, from what the probe brought back from a sandbox.

        Computing with an array that is far larger than the reference's could take all memory.
        """
        if not isinstance(evidence, Failure) and not isinstance(self._evidence, Failure):
            sizes = [v.size for v in self._evidence.values() if not isinstance(v, Failure)]
            most = 1000 + 4 * max(sizes, default=0)
            evidence = {
                name: Failure("ValueError", f"expected at most {most} numbers, got {value.size}")
                if not isinstance(value, Failure) and value.size > most
                else value
                for name, value in evidence.items()
            }
        return self.exercise.settle(evidence, self.inputs)

    def grade(self, found: Values, diagnose: bool = True) -> Outcome:
        """Compare an answer's values with the reference's, and name the mistake."""
        exercise = self.exercise
        if all(map(_unanswered, found.values())):
            return exercise.unanswered
        complaints = self._complaints(found)
        points = sum(p for part, p in exercise.parts.items() if part not in complaints)
        if not complaints:
            return Outcome(exercise.name, points, exercise.points)
        diagnosis = self._diagnose(found, set(complaints)) if diagnose else None
        messages = tuple(f"{part}: {text}" for part, text in complaints.items())
        if len(set(complaints.values())) == 1 and len(complaints) == len(exercise.parts):
            messages = (next(iter(complaints.values())),)  # one cause: say it once
        hint = f"Hint: {exercise.hint}" if exercise.hint else None
        advice = tuple(filter(None, [hint, f"Read again: {exercise.read}"]))
        return Outcome(exercise.name, points, exercise.points, messages, diagnosis, advice)

    def _complaints(self, found: Values) -> dict[str, str]:
        complaints = {}
        for part, right in self.expected.items():
            value = found[part]
            if isinstance(value, Failure):
                if _unanswered(value):
                    complaints[part] = "not answered yet."
                else:
                    complaints[part] = f"computing it raised {value}"
            elif text := self.exercise.compare.get(part, close())(value, right):
                complaints[part] = text
        return complaints

    def _diagnose(self, found: Values, wrong: set[str]) -> str | None:
        """The mistake that is wrong in the same parts and gives the same values there."""
        for message, implementation in self.exercise.mistakes.items():
            if message not in self._mistakes:
                theirs = self.exercise.values(implementation, self.inputs, self.noise)
                self._mistakes[message] = theirs
            theirs = self._mistakes[message]
            if set(self._complaints(theirs)) != wrong:
                continue
            if all(_alike(found[part], theirs[part]) for part in wrong):
                return message
        return None


class _Evidence(Mapping[str, Tensor]):
    """What a probe brought back, as tensors; asking for what failed raises that failure."""

    def __init__(self, values: Values):
        self.values_by_name = values

    def __getitem__(self, name: str) -> Tensor:
        absent = Failure("KeyError", f"the probe brought no {name!r} back")
        value = self.values_by_name.get(name, absent)
        if isinstance(value, Failure):
            raise Failed(value)
        return torch.from_numpy(value)

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)


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
        measure(evidence, **inputs): optional; computes the parts from what the probe brought back,
            away from the student's code, so that no answer can claim a number. `evidence[name]` is
            a tensor. Probe and measure get the inputs that they name as parameters; an input that
            only `measure` names is never seen by an answer.
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
        claimed = any(isinstance(c, at_most) for c in fields.get("compare", {}).values())
        if claimed and "measure" not in fields:
            raise TypeError(
                f"Exercise {name!r} compares by `at_most`, with a number that an answer could just "
                "claim: let `probe` bring back the evidence, and compute the number in `measure`."
            )
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
            measure=fields.get("measure"),
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
    if "FLOWCOURSE_SANDBOX" in os.environ:  # there is nothing to compare with in there
        print(f"{name}: compared with the reference when the notebook is graded.")
        return Score(0)
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


def _unanswered(value: "np.ndarray | Failure") -> bool:
    """Whether the line that a release leaves in an answer's place has raised."""
    if not isinstance(value, Failure):
        return False
    return value.kind == "NotImplementedError" and "replace this line" in value.message


def _alike(a: "np.ndarray | Failure", b: "np.ndarray | Failure") -> bool:
    if isinstance(a, Failure) or isinstance(b, Failure):
        return isinstance(a, Failure) and isinstance(b, Failure) and a.kind == b.kind
    if a.dtype.kind not in "biuf" or b.dtype.kind not in "biuf":
        return a.shape == b.shape and bool((a == b).all())
    # Two answers with NaN or infinity in the same places made the same mistake.
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True))
