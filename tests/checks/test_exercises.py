"""Every exercise accepts its reference and knows its mistakes; each mistake is a mutation test."""

import ast
import importlib
from functools import lru_cache
from pathlib import Path

import jupytext
import pytest

from flowcourse.catalog import TOPICS
from flowcourse.checks import exercises
from flowcourse.checks.engine import Key

ROOT = Path(__file__).parents[2]

SEEDS = range(3)
EXERCISES = [exercise for topic in TOPICS for exercise in exercises(topic.name)]
MISTAKES = [(exercise, mistake) for exercise in EXERCISES for mistake in exercise.mistakes]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)
def test_the_reference_earns_every_point(exercise):
    for seed in SEEDS:
        outcome = exercise.evaluate(exercise.reference, seed)
        assert outcome.points == exercise.points, f"seed {seed}: {outcome}"


# Diagnosing probes every mistake; the tests of one exercise follow each other, and share its keys.
@lru_cache(maxsize=len(SEEDS))
def key(name, seed):
    return Key({exercise.name: exercise for exercise in EXERCISES}[name], seed)


@pytest.mark.parametrize(
    ("exercise", "mistake"), MISTAKES, ids=[f"{e.name}: {m[:40]}" for e, m in MISTAKES]
)
def test_a_mistake_loses_points_and_is_named(exercise, mistake):
    for seed in SEEDS:
        shared = key(exercise.name, seed)
        found = exercise.values(exercise.mistakes[mistake], shared.inputs, shared.noise)
        outcome = shared.grade(found)
        assert outcome.points < exercise.points, f"seed {seed}: the mistake was not noticed"
        assert outcome.diagnosis == mistake, f"seed {seed}: {outcome}"


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)
def test_inputs_are_fresh_and_repeatable(exercise):
    first, again, other = exercise.inputs(1), exercise.inputs(1), exercise.inputs(2)
    assert repr(first) == repr(again)
    assert repr(first) != repr(other), "draw ignores its generator: the answer could be hard-coded"


@pytest.mark.parametrize("topic", TOPICS, ids=lambda t: t.name)
def test_a_problem_set_has_at_least_four_exercises(topic):
    assert len(exercises(topic.name)) >= 4


@pytest.mark.parametrize("topic", TOPICS, ids=lambda t: t.name)
def test_answers_import_only_what_the_problem_set_may_use(topic):
    """The topic itself, or a later one, would be the answer ready-made."""
    allowed = importlib.import_module(f"flowcourse.checks.{topic.name}").MAY_USE
    hidden = [t for t in TOPICS if t.name not in allowed]
    notebook = jupytext.read(ROOT / topic.problem_set, fmt="md:myst")
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules = {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        else:
            continue
        forbidden = {module for module in modules if any(t.owns(module) for t in hidden)}
        assert not forbidden, f"line {node.lineno} imports {forbidden}"


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)
def test_the_section_to_reread_exists(exercise):
    chapter, _, label = exercise.read.partition("#")
    assert f"({label})=" in (ROOT / chapter).read_text(encoding="utf-8")
