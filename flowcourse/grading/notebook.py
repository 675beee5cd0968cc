"""From the text of a problem set to the notebook that nbgrader calls its source.

The text is a MyST notebook, `solutions/TOPIC/TOPIC.md`. Tags of its code cells say what each cell
is; this module checks the rules of the format, all at once, and writes nbgrader's metadata, so
that authors never see it:

- `setup`: imports and data, locked; the first code cell is one and imports `check`;
- `answer`: the student's cell, the model answer between `### BEGIN SOLUTION` and
  `### END SOLUTION`;
- `other-style`: after an answer, a second right answer; it never leaves this text;
- `check`: one line, `check("TOPIC.exercise", Name)`, worth the exercise's points;
- no tag: a demonstration.
"""

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import jupytext
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbgrader.nbgraderformat import MetadataValidator

from flowcourse.grading.preprocessors import ClearSolutions

__all__ = ["BEGIN", "END", "Problem", "ProblemSet", "SourceError", "cleared", "read_problem_set"]

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
KINDS = ("setup", "answer", "other-style", "check")
DISPLAY_TAGS = ("hide-input", "hide-cell")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}


class SourceError(ValueError):
    """A problem set's text breaks the rules of the format; the message lists every breach."""


@dataclass(frozen=True)
class Problem:
    """One exercise as it stands in the text.

    `exercise` is its full name, `bound` the variable its check reads, `answer` and `other_style`
    are the sources of two right answer cells (the second may be missing).
    """

    exercise: str
    bound: str
    answer: str
    other_style: str | None

    @property
    def answer_id(self) -> str:
        """The answer cell's nbgrader grade id."""
        return "answer-" + self.exercise.replace(".", "-")

    @property
    def check_id(self) -> str:
        """The check cell's nbgrader grade id."""
        return "check-" + self.exercise.replace(".", "-")


@dataclass(frozen=True)
class ProblemSet:
    """A topic's problems in order, and nbgrader's source notebook made from the same text."""

    topic: str
    problems: tuple[Problem, ...]
    notebook: NotebookNode


def read_problem_set(text: str, topic: str, points: Mapping[str, float]) -> ProblemSet:
    """Read a problem set.

    Args:
        text: the MyST notebook.
        topic: its name; exercises are called `topic.something`.
        points: the declared exercises in order, and what each is worth.

    Raises:
        SourceError: with every rule that the text breaks, and the cell that breaks it.
    """
    return _Reader(text, topic, points).read()


def cleared(source: str) -> str:
    """Return an answer cell's source as the release shows it."""
    cell = new_code_cell(source, metadata={"nbgrader": {"solution": True}})
    ClearSolutions().preprocess_cell(cell, {"language": "python"}, 0)
    return cell.source


@dataclass
class _Cell:
    """A cell of the text with what the reader has found out about it."""

    index: int
    node: NotebookNode
    kind: str  # one of KINDS, "demonstration" or "markdown"
    display: list[str]
    tree: ast.Module | None = None

    def __str__(self) -> str:
        lines = [line for line in self.node.source.splitlines() if line.strip()]
        return f"cell {self.index + 1} ({self.kind}, {lines[0][:50] if lines else 'empty'!r})"


class _Reader:
    def __init__(self, text: str, topic: str, points: Mapping[str, float]):
        self.topic, self.points = topic, points
        self.errors: list[str] = []
        notebook = jupytext.reads(text, fmt="md:myst")
        self.cells = [self._cell(i, node) for i, node in enumerate(notebook.cells)]

    def fail(self, where: _Cell | None, message: str) -> None:
        self.errors.append(f"{where}: {message}" if where else message)

    def read(self) -> ProblemSet:
        for cell in self.cells:
            if cell.kind == "markdown":
                cell.node.source = self._with_points(cell)
            elif cell.kind != "answer" and (BEGIN in cell.node.source or END in cell.node.source):
                self.fail(cell, "a solution region outside a cell tagged `answer`")
        self._check_opening()
        pairs = self._pairs()
        problems = tuple(problem for _, _, problem in pairs)
        self._check_declared([problem.exercise for problem in problems])
        self._check_independence()
        if not any(problem.other_style for problem in problems):
            self.fail(None, "at least one answer needs a second one, tagged `other-style`")
        if self.errors:
            where = f"solutions/{self.topic}/{self.topic}.md"
            listing = "\n".join(f"  - {error}" for error in self.errors)
            raise SourceError(f"{where} breaks the format of problem sets:\n{listing}")
        names = {answer.index: problem.answer_id for answer, _, problem in pairs}
        names |= {check.index: problem.check_id for _, check, problem in pairs}
        points = {problem.check_id: self.points[problem.exercise] for problem in problems}
        return ProblemSet(self.topic, problems, self._notebook(names, points))

    # Reading and checking

    def _cell(self, index: int, node: NotebookNode) -> _Cell:
        if node.cell_type != "code":
            return _Cell(index, node, "markdown", [])
        tags = node.metadata.get("tags", [])
        kinds = [tag for tag in tags if tag in KINDS]
        display = [tag for tag in tags if tag in DISPLAY_TAGS]
        cell = _Cell(index, node, kinds[0] if kinds else "demonstration", display)
        if len(kinds) > 1 or len(kinds) + len(display) < len(tags):
            allowed = ", ".join(KINDS + DISPLAY_TAGS)
            self.fail(cell, f"tags {tags}: expected at most one kind, and only {allowed}")
        if display and cell.kind not in ("setup", "demonstration"):
            self.fail(cell, f"tags {display} are for setup and demonstration cells")
        cell.tree = self._parse(cell, node.source)
        return cell

    def _parse(self, cell: _Cell, source: str, when: str = "") -> ast.Module | None:
        try:
            return ast.parse(TransformerManager().transform_cell(source))
        except SyntaxError as error:
            self.fail(cell, f"syntax error{when} in its line {error.lineno}: {error.msg}")
            return None

    def _with_points(self, cell: _Cell) -> str:
        """Fill in `{{TOPIC.exercise.points}}` and `{{TOPIC.points}}`."""

        def fill(match: re.Match[str]) -> str:
            name = match[1]
            if name != self.topic and name not in self.points:
                self.fail(cell, f"{match[0]}: no such exercise; declared: {', '.join(self.points)}")
                return match[0]
            n = sum(self.points.values()) if name == self.topic else self.points[name]
            return f"{n:g} point" + ("" if n == 1 else "s")

        return re.sub(r"\{\{\s*([\w.]+?)\.points\s*\}\}", fill, cell.node.source)

    def _check_opening(self) -> None:
        if not self.cells or not self.cells[0].node.source.startswith("# "):
            self.fail(None, "the first cell must be markdown that starts with `# Title`")
        code = [cell for cell in self.cells if cell.kind != "markdown"]
        if not code or code[0].kind != "setup":
            self.fail(None, "the first code cell must be tagged `setup`")
        elif "check" not in _bound(code[0].tree):
            self.fail(code[0], "must import check: `from flowcourse.checks import check`")

    def _pairs(self) -> list[tuple[_Cell, _Cell, Problem]]:
        """Pair each answer cell with its check cell."""
        pairs = []
        answer: _Cell | None = None
        other: _Cell | None = None
        for previous, cell in zip([None, *self.cells], self.cells, strict=False):
            if cell.kind == "answer":
                if answer:
                    self.fail(answer, "an answer without its own check cell after it")
                answer, other = cell, None
            elif cell.kind == "other-style":
                if previous is None or previous is not answer:
                    self.fail(cell, "must come directly after the answer cell it replaces")
                other = cell
            elif cell.kind == "check":
                if not answer:
                    self.fail(cell, "a check without an answer cell of its own before it")
                elif problem := self._problem(answer, other, cell):
                    pairs.append((answer, cell, problem))
                answer = other = None
        if answer:
            self.fail(answer, "an answer without its own check cell after it")
        return pairs

    def _problem(self, answer: _Cell, other: _Cell | None, check: _Cell) -> Problem | None:
        match check.tree.body if check.tree else []:
            case [
                ast.Expr(
                    ast.Call(
                        ast.Name("check"),
                        [ast.Constant(str(exercise)), ast.Name(name)],
                        keywords=[],
                    )
                )
            ]:
                pass
            case _:
                self.fail(check, 'expected exactly one line, check("TOPIC.exercise", Name)')
                return None
        self._check_answer(answer, name)
        if other and other.tree and name not in _bound(other.tree):
            self.fail(other, f"does not bind {name}, which the check reads")
        source = other.node.source if other else None
        return Problem(exercise, name, answer.node.source, source)

    def _check_answer(self, cell: _Cell, name: str) -> None:
        delimiters = ("BEGIN SOLUTION", "END SOLUTION")
        lines = [line.strip() for line in cell.node.source.splitlines()]
        marks = [line for line in lines if any(mark in line for mark in delimiters)]
        if not marks or marks != [BEGIN, END] * (len(marks) // 2):
            self.fail(cell, f"its solution must stand between lines `{BEGIN}` and `{END}`")
            return
        if cell.tree and name not in _bound(cell.tree):
            self.fail(cell, f"does not bind {name}, which the check reads")
        tree = self._parse(cell, cleared(cell.node.source), " once the solution is removed,")
        if tree and name not in _bound(tree):
            self.fail(
                cell,
                f"does not bind {name} once the solution is removed: "
                f"put `{name} = ...` or a skeleton before the region",
            )

    def _check_declared(self, used: list[str]) -> None:
        for name in dict.fromkeys(used):
            if name not in self.points:
                declared = ", ".join(self.points)
                self.fail(None, f"check({name!r}): not declared; declared are: {declared}")
            if used.count(name) > 1:
                self.fail(None, f"check({name!r}) stands {used.count(name)} times, expected once")
        for name in self.points:
            if name not in used:
                self.fail(None, f"{name} is declared but has no check cell")
        if not self.errors and used != list(self.points):
            self.fail(None, f"expected the declared order {list(self.points)}, got {used}")

    def _check_independence(self) -> None:
        """An answer must not lean on an earlier answer: one mistake would cost twice."""
        given = {name for cell in self.cells if cell.kind == "setup" for name in _bound(cell.tree)}
        earlier: set[str] = set()
        for cell in self.cells:
            if cell.kind == "answer" and cell.tree:
                nodes = list(ast.walk(cell.tree))
                names = [node for node in nodes if isinstance(node, ast.Name)]
                read = {name.id for name in names if isinstance(name.ctx, ast.Load)}
                own = {name.id for name in names if isinstance(name.ctx, ast.Store)}
                own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
                own |= _bound(cell.tree)
                if borrowed := sorted((read & earlier) - own - given):
                    self.fail(cell, f"uses {', '.join(borrowed)} of an earlier answer")
                earlier |= _bound(cell.tree)

    # Writing

    def _notebook(self, names: dict[int, str], points: dict[str, float]) -> NotebookNode:
        """Write the source notebook; `names` are grade ids of answers and checks by cell index."""
        nodes = []
        counts: Counter[str] = Counter()
        for cell in self.cells:
            if cell.kind == "other-style":
                continue
            counts[cell.kind] += 1
            name = names.get(cell.index, f"{cell.kind}-{counts[cell.kind]}")
            make = new_markdown_cell if cell.kind == "markdown" else new_code_cell
            node = make(cell.node.source)
            # jupytext gives no lasting ids, and random ones would change the release every time.
            node.id = hashlib.sha256(f"{self.topic}/{name}".encode()).hexdigest()[:16]
            node.metadata = NotebookNode({"tags": cell.display} if cell.display else {})
            if cell.kind in ("setup", "answer", "check"):
                node.metadata.nbgrader = NotebookNode(
                    grade=cell.kind == "check",
                    grade_id=name,
                    locked=cell.kind != "answer",
                    schema_version=MetadataValidator.schema_version,
                    solution=cell.kind == "answer",
                    task=False,
                )
            if name in points:
                node.metadata.nbgrader.points = points[name]
            nodes.append(node)
        return new_notebook(cells=nodes, metadata=METADATA)


def _bound(tree: ast.Module | None) -> set[str]:
    """Names that a cell binds at top level."""
    names: set[str] = set()
    for node in tree.body if tree else []:
        match node:
            case ast.FunctionDef(name) | ast.ClassDef(name):
                names.add(name)
            case ast.Import(aliases) | ast.ImportFrom(_, aliases):
                names |= {(alias.asname or alias.name).split(".")[0] for alias in aliases}
            case ast.Assign() | ast.AnnAssign(value=ast.expr()):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {
                    part.id
                    for target in targets
                    for part in ast.walk(target)
                    if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
                }
    return names
