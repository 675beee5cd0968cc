"""The sample class: invented students whose scores are known before they are graded.

`perfect` gives the model answers, `blank` hands in the release, `half_done` answers the first half,
`other_style` gives right answers written differently, `import_error` starts with an import that
fails, and `mistake_1`, `mistake_2`, ... make the first, second, ... typical mistake of every
exercise, those that the checks can name.
"""

import copy
from dataclasses import dataclass

from nbformat import NotebookNode

from flowcourse.checks import get
from flowcourse.grading.notebook import Problem, ProblemSet

__all__ = ["Student", "cast", "expected_points"]


@dataclass(frozen=True)
class Student:
    """One submission: its notebook, and what was done to each exercise.

    `right` are the exercises answered correctly, `mistakes` maps an exercise to the name of the
    mistake made in it; what is in neither is not answered.
    """

    name: str
    notebook: NotebookNode
    right: frozenset[str]
    mistakes: dict[str, str]


def cast(problem_set: ProblemSet, release: NotebookNode) -> list[Student]:
    """Write every student's submission, starting from the release as a student would."""
    problems = problem_set.problems
    everything = {p.exercise: p.answer for p in problems}

    def student(name: str, answers: dict[str, str], mistakes: dict[str, str]) -> Student:
        notebook = copy.deepcopy(release)
        cells = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell for cell in notebook.cells}
        for problem in problems:
            if problem.exercise in answers:
                cells[problem.answer_id].source = answers[problem.exercise]
        return Student(name, notebook, frozenset(answers.keys() - mistakes.keys()), mistakes)

    half = problems[: (len(problems) + 1) // 2]
    first = problems[0].exercise
    broken = "import a_module_that_does_not_exist\n\n" + everything[first]
    students = [
        student("perfect", everything, {}),
        student("blank", {}, {}),
        student("half_done", {p.exercise: p.answer for p in half}, {}),
        student("other_style", {p.exercise: p.other_style or p.answer for p in problems}, {}),
    ]
    failing = student("import_error", everything | {first: broken}, {})
    students.append(
        Student(failing.name, failing.notebook, failing.right - {first}, failing.mistakes)
    )
    names = {p.exercise: list(get(p.exercise).mistakes) for p in problems}
    for k in range(max(len(mistakes) for mistakes in names.values())):
        made = {name: mistakes[k] for name, mistakes in names.items() if k < len(mistakes)}
        answers = {p.exercise: _wrong(p, made[p.exercise]) for p in problems if p.exercise in made}
        students.append(student(f"mistake_{k + 1}", everything | answers, made))
    return students


def _wrong(problem: Problem, mistake: str) -> str:
    """An answer cell that binds one of the check's own wrong implementations."""
    return (
        "from flowcourse.checks import get\n\n"
        f"{problem.bound} = get({problem.exercise!r}).mistakes[{mistake!r}]"
    )


def expected_points(student: Student, exercise: str) -> float:
    """What an exercise must score; for a mistake, the partial credit its check gives in-process."""
    declared = get(exercise)
    if exercise in student.mistakes:
        mistake = declared.mistakes[student.mistakes[exercise]]
        return declared.evaluate(mistake, diagnose=False).points
    return declared.points if exercise in student.right else 0
