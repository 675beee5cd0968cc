"""Every exercise accepts its reference and knows its mistakes; each mistake is a mutation test."""

import pytest

from flowcourse.catalog import TOPICS
from flowcourse.checks import exercises

SEEDS = range(10)
EXERCISES = [exercise for topic in TOPICS for exercise in exercises(topic.name)]
MISTAKES = [(exercise, mistake) for exercise in EXERCISES for mistake in exercise.mistakes]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.name)
def test_the_reference_earns_every_point(exercise):
    for seed in SEEDS:
        outcome = exercise.evaluate(exercise.reference, seed)
        assert outcome.points == exercise.points, f"seed {seed}: {outcome}"


@pytest.mark.parametrize(
    ("exercise", "mistake"), MISTAKES, ids=[f"{e.name}: {m[:40]}" for e, m in MISTAKES]
)
def test_a_mistake_loses_points_and_is_named(exercise, mistake):
    for seed in SEEDS:
        outcome = exercise.evaluate(exercise.mistakes[mistake], seed)
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
