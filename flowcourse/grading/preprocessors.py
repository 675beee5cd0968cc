"""Small nbgrader plugins: what the text of a problem set needs, and the traps that must be closed.

`nbgrader_config.py` puts them in the place of nbgrader's own steps:

- `ClearSolutions` makes the student's release;
- `ReadAnything` reads a submission, and has an empty notebook for what is none;
- `RestoreCells` comes before a submission runs, and believes only what the student was to write;
- `Grade` runs the cells in a sandbox, and writes the points of each check where nbgrader looks.
"""

import ast
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbconvert.exporters import NotebookExporter
from nbconvert.exporters.exporter import ResourcesDict
from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from nbgrader import preprocessors as nbgrader
from nbgrader.api import Gradebook, Notebook
from nbgrader.nbgraderformat import MetadataValidator
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Bool, Dict, Integer, Unicode

from flowcourse.checks import Outcome
from flowcourse.grading.feedback import summary
from flowcourse.grading.judge import Cell, Verdict, warm_judge
from flowcourse.grading.namespaces import Limits
from flowcourse.grading.submission import TROUBLE, check_of, harmless, read_files, read_notebook

__all__ = ["READY", "STUB", "ClearSolutions", "Grade", "ReadAnything", "RestoreCells"]
__all__ += ["known_cells", "plan", "preload", "restore"]

STUB = 'raise NotImplementedError("replace this line by your code")'

Processed = tuple[NotebookNode, dict[str, Any]]


class ClearSolutions(nbgrader.ClearSolutions):
    """nbgrader's own, except that a solution at top level vanishes instead of leaving a stub.

    Inside a function the stub raises when the function is called; at top level it would raise
    when the cell runs, and stop a student who runs the whole notebook with one answer missing.
    """

    code_stub = Dict({"python": STUB}, help=nbgrader.ClearSolutions.code_stub.help).tag(config=True)

    def _replace_solution_region(self, cell: NotebookNode, language: str) -> bool:
        replaced = super()._replace_solution_region(cell, language)
        lines = cell.source.split("\n")
        cell.source = "\n".join(line for line in lines if line != STUB).rstrip()
        return replaced


class ReadAnything(NotebookExporter):
    """Reads a submission whatever it is; why it could not be read stands in its metadata."""

    def from_filename(self, filename: str, resources: Any = None, **options: Any) -> Any:
        """Convert the notebook of this name, or an empty one in its place."""
        path = Path(filename)
        resources = ResourcesDict() if resources is None else resources
        metadata = resources.setdefault("metadata", ResourcesDict())
        metadata.update(name=path.stem, path=str(path.parent))
        return super().from_notebook_node(read_notebook(path), resources=resources, **options)


class RestoreCells(NbGraderPreprocessor):
    """Rebuild a submission, and take from it only the text of the student's own cells.

    It stands for nbgrader's `DeduplicateIds` and `OverwriteCells` (with `add_missing_cells`).
    These trust the metadata of a submission: a tag such as `skip-execution` on a test cell gives
    full marks, a changed `solution` flag or a deleted answer stops the grading. Here every cell is
    made anew. Those that the grade book knows by name get their metadata from the grade book, and
    their text too when they are locked; of copies the last counts, and missing tests are put back.
    """

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> Processed:
        """Return the notebook as released, with the student's answers and own cells in it."""
        ids = resources["nbgrader"]
        with Gradebook(ids["db_url"]) as gradebook:
            known = known_cells(gradebook.find_notebook(ids["notebook"], ids["assignment"]))
        if TROUBLE in nb.metadata:
            _troubles[_key(ids)] = nb.metadata[TROUBLE]
        return restore(nb, known), resources


def restore(notebook: NotebookNode, known: "Mapping[str, KnownCell]") -> NotebookNode:
    """Rebuild a submission from what the grade book knows, see `RestoreCells`."""
    names = [_name(cell, known) for cell in notebook.cells]
    last = {name: position for position, name in enumerate(names) if name}
    cells: list[NotebookNode] = []
    for position, (cell, name) in enumerate(zip(notebook.cells, names, strict=True)):
        text = cell.source if isinstance(cell.get("source"), str) else ""
        if name and last[name] == position:
            made = known[name].make(text)
        else:
            made = MAKE.get(cell.cell_type, new_raw_cell)(text)
        if made.cell_type != "code" and not (name and known[name].source == made.source):
            made.source = harmless(made.source)
        made.id = cell.get("id", made.id)
        cells.append(made)
    _add_missing(cells, known)
    trouble = {key: notebook.metadata[key] for key in (TROUBLE,) if key in notebook.metadata}
    return new_notebook(cells=cells, metadata=trouble)


def _name(cell: NotebookNode, known: "Mapping[str, KnownCell]") -> str | None:
    metadata = cell.get("metadata", {}).get("nbgrader")
    name = metadata.get("grade_id") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) and name in known else None


def _add_missing(cells: list[NotebookNode], known: "Mapping[str, KnownCell]") -> None:
    """Put back each missing cell that is not the student's to write, after its predecessor."""
    present = {cell.metadata.nbgrader.grade_id: cell for cell in cells if cell.metadata}
    position = 0
    for name, source in known.items():
        if name in present:
            position = 1 + next(i for i, cell in enumerate(cells) if cell is present[name])
        elif source.locked or source.metadata.grade or source.metadata.task:
            cells.insert(position, source.make(source.source))
            position += 1


MAKE = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}


@dataclass(frozen=True)
class KnownCell:
    """A cell of the source notebook, from the grade book."""

    cell_type: str
    source: str
    locked: bool
    metadata: NotebookNode

    def make(self, text: str) -> NotebookNode:
        """Make the cell, with the student's text where that is allowed."""
        metadata = {"nbgrader": copy.deepcopy(self.metadata)}
        return MAKE[self.cell_type](self.source if self.locked else text, metadata=metadata)


def known_cells(notebook: Notebook) -> dict[str, KnownCell]:
    """The cells of a source notebook by their names, as the grade book keeps them."""
    grades = {cell.name: cell for cell in notebook.grade_cells}
    tasks = {cell.name: cell for cell in notebook.task_cells}
    solutions = {cell.name for cell in notebook.solution_cells}
    known = {}
    for cell in notebook.source_cells:
        metadata = NotebookNode(
            grade=cell.name in grades,
            grade_id=cell.name,
            locked=cell.locked,
            solution=cell.name in solutions,
            task=cell.name in tasks,
            schema_version=MetadataValidator.schema_version,
            cell_type=cell.cell_type,
            checksum=cell.checksum,
        )
        if scored := grades.get(cell.name) or tasks.get(cell.name):
            metadata.points = scored.max_score
        known[cell.name] = KnownCell(cell.cell_type, cell.source, cell.locked, metadata)
    return known


# Verdicts that were reached elsewhere, by (assignment, notebook, student), for `Grade` to enter.
READY: dict[tuple[str, str, str], Verdict] = {}
# Why a submission could not be read, likewise, from `RestoreCells` for `Grade`: nbgrader writes a
# notebook to disk between the two, and what stands in that could be the student's.
_troubles: dict[tuple[str, str, str], str] = {}


class Grade(NbGraderPreprocessor):
    """Decide a submission, and write the points where nbgrader looks: the test cells' outputs.

    It stands for nbgrader's `Execute`, which runs a submission as the instructor, in the process
    that also decides the score. Here cells run in a sandbox, checks are decided outside, and every
    output is made anew: nothing in the graded notebook was written by the submission.
    """

    unsafe = Bool(False, help="Run submissions without a sandbox, as you.").tag(config=True)
    everything = Bool(False, help="Show all topics; for the course's own sample class.").tag(
        config=True
    )
    limits = Dict({}, help="Limits of a submission, see flowcourse.grading.Limits.").tag(
        config=True
    )
    book = Unicode("", help="Address of the built book, for links in feedback.").tag(config=True)
    seed = Integer(None, allow_none=True, help="Of the inputs; None draws one.").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> Processed:
        """Return the notebook with outputs and points in it."""
        ids = resources["nbgrader"]
        verdict = READY.pop(_key(ids), None)
        if verdict is None:
            files = read_files(self._submitted(ids), Path(resources["metadata"]["path"]))
            limits = Limits(**self.limits)
            options = (preload(nb), limits, self.unsafe, self.everything)
            verdict = warm_judge(ids["assignment"], self.seed, *options).judge(plan(nb), files)
        if trouble := _troubles.pop(_key(ids), None):
            nb.metadata[TROUBLE] = trouble
        outcomes = [judged.outcome for judged in verdict.cells if judged.outcome is not None]
        nb.cells.insert(0, new_markdown_cell(summary(outcomes, self.book)))
        enter(verdict, nb)
        return nb, resources

    def _submitted(self, ids: dict[str, str]) -> Path:
        course = self.parent.parent.coursedir  # of the exporter, of the converter
        folder = course.submitted_directory
        return Path(course.format_path(folder, ids["student"], ids["assignment"]))


def plan(notebook: NotebookNode) -> list[Cell]:
    """What is to be done with each code cell of a restored submission."""
    return [_cell(cell) for cell in notebook.cells if cell.cell_type == "code"]


def _cell(cell: NotebookNode) -> Cell:
    metadata = cell.metadata.get("nbgrader", {})
    if metadata.get("grade") and not metadata.get("solution"):
        return Cell(cell.source, *check_of(cell.source))
    return Cell(cell.source)


def preload(notebook: NotebookNode) -> list[str]:
    """Modules that the instructor's own cells import."""
    names = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("locked"):
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Import):
                    names += [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def _key(ids: Mapping[str, str]) -> tuple[str, str, str]:
    return ids["assignment"], ids["notebook"], ids["student"]


def enter(verdict: Verdict, notebook: NotebookNode) -> None:
    """Write a verdict into the code cells of a notebook, and its troubles at the top."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, (cell, judged) in enumerate(zip(cells, verdict.cells, strict=True), start=1):
        cell.execution_count = number
        outputs = [from_dict(output) for output in judged.outputs]
        if judged.outcome is not None:
            outputs = _scored(judged.outcome, number)
        cell.outputs = outputs
    troubles = [*filter(None, [notebook.metadata.pop(TROUBLE, None)]), *verdict.troubles]
    if troubles:
        notes = "\n".join(f"- {trouble}" for trouble in troubles)
        notebook.cells.insert(0, new_markdown_cell(f"**Notes on the grading**\n\n{notes}"))


def _scored(outcome: Outcome, number: int) -> list[NotebookNode]:
    """What a test cell shows; nbgrader reads the number of the result as partial credit."""
    points = {"text/plain": f"{outcome.points:g}"}
    return [
        new_output("stream", name="stdout", text=f"{outcome}\n"),
        new_output("execute_result", points, execution_count=number),
    ]
