"""Problem sets as they are graded: right answers earn every point, no reference is in sight."""

import inspect
from pathlib import Path

import cloudpickle
import nbformat
import pytest

from flowcourse.catalog import TOPICS
from flowcourse.checks import exercises
from flowcourse.grading.cast import cast
from flowcourse.grading.judge import Judge
from flowcourse.grading.preprocessors import plan
from flowcourse.grading.release import load, release
from flowcourse.grading.sandbox import Sandbox, pack, what_is_missing

ROOT = Path(__file__).parents[2]

needs_sandbox = pytest.mark.skipif(what_is_missing() is not None, reason=str(what_is_missing()))


@needs_sandbox
@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_right_answers_earn_every_point(topic):
    problem_set = load(topic.name, ROOT)
    notebook = release([problem_set], ROOT)[topic.name][f"{topic.name}.ipynb"]
    students = cast(problem_set, nbformat.reads(notebook.decode(), as_version=4))
    judge = Judge(topic.name)
    try:
        for student in students:
            if student.name in ("perfect", "other_style"):
                verdict = judge.judge(plan(student.notebook))
                outcomes = [cell.outcome for cell in verdict.cells if cell.outcome]
                lost = [str(outcome) for outcome in outcomes if outcome.messages]
                assert not lost and not verdict.troubles, "\n".join([*lost, *verdict.troubles])
                assert len(outcomes) == len(exercises(topic.name))
    finally:
        judge.close()


def carried(value, seen):
    """Everything that a function of a payload can reach by name: functions, classes, values."""
    if id(value) in seen:
        return
    seen[id(value)] = value
    if inspect.isfunction(value):
        names = {value.__code__, *filter(inspect.iscode, value.__code__.co_consts)}
        wanted = {name for code in names for name in code.co_names}
        reached = [v for name, v in value.__globals__.items() if name in wanted]
        reached += [cell.cell_contents for cell in value.__closure__ or ()]
    elif inspect.isclass(value) and value.__module__.startswith("flowcourse.checks"):
        reached = list(vars(value).values())
    else:
        reached = []
    for other in reached:
        carried(other, seen)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_what_travels_into_the_sandbox_holds_no_answer(topic):
    """The probe goes by value: the reference and the mistakes must not go with it."""
    for exercise in exercises(topic.name):
        probe, _ = cloudpickle.loads(pack(exercise, exercise.inputs(0)))
        seen = {}
        carried(probe, seen)
        homes = {
            (getattr(v, "__module__", ""), getattr(v, "__qualname__", "")) for v in seen.values()
        }
        for answer in (exercise.reference, *exercise.mistakes.values()):
            home = getattr(answer, "__module__", None), getattr(answer, "__qualname__", None)
            assert home not in homes, f"{exercise.name} carries {home}"
        modules = {module for module, _ in homes}
        modules |= {value.__name__ for value in seen.values() if inspect.ismodule(value)}
        owned = {module for module in modules if topic.owns(module)}
        assert not owned, f"{exercise.name} carries {owned}"


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_a_topic_is_hidden_with_all_its_modules(topic):
    sandbox = Sandbox(other.name for other in TOPICS if other is not topic)
    modules = ["flowcourse." + path[:-3].replace("/", ".") for path in sandbox._package_files()]
    assert not [module for module in modules if topic.owns(module)]
    assert "flowcourse.bijector" in modules and not topic.owns("flowcourse.bijector")
