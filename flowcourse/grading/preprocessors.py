"""Small nbgrader plugins: what the text of a problem set needs, and the traps that must be closed.

`nbgrader_config.py` puts them in the place of nbgrader's own steps:

- `ClearSolutions` makes the student's release;
- `RestoreCells` comes before a submission runs, and believes only what the student was to write;
- `Execute` runs the cells, and leaves in each test cell a number of points or an error.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from nbgrader import preprocessors as nbgrader
from nbgrader import utils
from nbgrader.api import Gradebook, Notebook
from nbgrader.nbgraderformat import MetadataValidator
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Dict

__all__ = ["STUB", "ClearSolutions", "Execute", "RestoreCells", "score_problem"]

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
            known = _known_cells(gradebook.find_notebook(ids["notebook"], ids["assignment"]))
        names = [self._name(cell, known) for cell in nb.cells]
        last = {name: position for position, name in enumerate(names) if name}
        cells: list[NotebookNode] = []
        for position, (cell, name) in enumerate(zip(nb.cells, names, strict=True)):
            text = cell.source if isinstance(cell.get("source"), str) else ""
            if name and last[name] == position:
                made = known[name].make(text)
                if made.source != text or made.cell_type != cell.cell_type:
                    self.log.warning("Cell '%s' was changed: restored", name)
            else:
                made = MAKE.get(cell.cell_type, new_raw_cell)(text)
            made.id = cell.get("id", made.id)
            cells.append(made)
        self._add_missing(cells, known)
        return new_notebook(cells=cells), resources

    def _name(self, cell: NotebookNode, known: dict[str, "_KnownCell"]) -> str | None:
        metadata = cell.get("metadata", {}).get("nbgrader")
        name = metadata.get("grade_id") if isinstance(metadata, dict) else None
        return name if isinstance(name, str) and name in known else None

    def _add_missing(self, cells: list[NotebookNode], known: dict[str, "_KnownCell"]) -> None:
        """Put back each missing cell that is not the student's to write, after its predecessor."""
        present = {cell.metadata.nbgrader.grade_id: cell for cell in cells if cell.metadata}
        position = 0
        for name, source in known.items():
            if name in present:
                position = 1 + next(i for i, cell in enumerate(cells) if cell is present[name])
            elif source.locked or source.metadata.grade or source.metadata.task:
                self.log.warning("Cell '%s' was missing: added", name)
                cells.insert(position, source.make(source.source))
                position += 1


MAKE = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}


@dataclass(frozen=True)
class _KnownCell:
    """A cell of the source notebook, from the grade book."""

    cell_type: str
    source: str
    locked: bool
    metadata: NotebookNode

    def make(self, text: str) -> NotebookNode:
        """Make the cell, with the student's text where that is allowed."""
        metadata = {"nbgrader": copy.deepcopy(self.metadata)}
        return MAKE[self.cell_type](self.source if self.locked else text, metadata=metadata)


def _known_cells(notebook: Notebook) -> dict[str, _KnownCell]:
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
        known[cell.name] = _KnownCell(cell.cell_type, cell.source, cell.locked, metadata)
    return known


class Execute(nbgrader.Execute):
    """Run the cells, then leave in each test cell either a number of points or an error.

    nbgrader's rule for a test cell is: any stderr, 0; a number, that many points; anything else,
    full marks. So a warning costs everything and a test that says nothing gives everything.
    Here stderr costs nothing (it is kept, as stdout), and whatever is not one number between 0
    and the cell's points is an error that says so, which nbgrader scores 0.
    """

    def preprocess_cell(
        self, cell: NotebookNode, resources: dict[str, Any], index: int
    ) -> Processed:
        """Run one cell; settle its outputs when it is an automatic test."""
        cell, resources = super().preprocess_cell(cell, resources, index)
        if cell.cell_type == "code" and utils.is_grade(cell) and not utils.is_solution(cell):
            for output in cell.outputs:
                if output.output_type == "stream":
                    output.name = "stdout"
            problem = score_problem(cell.outputs, float(cell.metadata.nbgrader.points))
            if problem:
                text = f"No points: {problem}."
                error = new_output("error", ename="NoScore", evalue=problem, traceback=[text])
                cell.outputs.insert(0, error)
        return cell, resources


def score_problem(outputs: list[NotebookNode], max_points: float) -> str | None:
    """Say why the outputs of a test cell are no score; None when they are one, or an error."""
    if any(output.output_type == "error" for output in outputs):
        return None
    results = [output for output in outputs if output.output_type == "execute_result"]
    if len(results) != 1:
        return f"the test cell gave {len(results)} results where one number was expected"
    try:
        points = float(results[0].data.get("text/plain", ""))
    except ValueError:
        return "the test cell's result is no number"
    if not (math.isfinite(points) and 0 <= points <= max_points):
        return f"the test cell's result is not between 0 and {max_points:g} points"
    return None
