"""Small nbgrader plugins: what the text of a problem set needs, and the traps that must be closed.

`nbgrader_config.py` puts them in the place of nbgrader's own steps:

- `ClearSolutions` makes the student's release;
- `RestoreCells` comes before a submission runs and believes only what the student was asked to write;
- `Execute` runs the cells and leaves in each test cell a number of points or an error, nothing between.
"""

import math
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from nbgrader import preprocessors as nbgrader
from nbgrader import utils
from nbgrader.api import Gradebook, Notebook, SourceCell
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
    """Rebuild what a submission may not change: locked cells, metadata, tags, missing tests.

    It stands for nbgrader's `DeduplicateIds` and `OverwriteCells` (with `add_missing_cells`).
    These trust the metadata of a submission: a tag such as `skip-execution` on a test cell gives
    full marks, a changed `solution` flag or a deleted answer stops the grading. Here every cell
    known to the grade book gets its metadata from the grade book, every other cell has none.
    """

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> Processed:
        """Return the notebook as released, with the student's answers and own cells in it."""
        ids = resources["nbgrader"]
        with Gradebook(ids["db_url"]) as gradebook:
            notebook = gradebook.find_notebook(ids["notebook"], ids["assignment"])
            sources = {cell.name: cell for cell in notebook.source_cells}
            cells = self._known_cells(nb, sources)
            for cell in nb.cells:
                if not any(cell is known for known in cells.values()):
                    cell.metadata = NotebookNode()
            for name, cell in cells.items():
                self._restore(cell, sources[name], notebook)
            self._add_missing(nb, cells, notebook)
        kept = ("kernelspec", "language_info")
        nb.metadata = NotebookNode({k: v for k, v in nb.metadata.items() if k in kept})
        return nb, resources

    def _known_cells(
        self, nb: NotebookNode, sources: dict[str, SourceCell]
    ) -> dict[str, NotebookNode]:
        """Find the cell of each name in the grade book; of copies the last one counts."""
        cells: dict[str, NotebookNode] = {}
        for cell in nb.cells:
            metadata = cell.metadata.get("nbgrader")
            name = metadata.get("grade_id") if isinstance(metadata, dict) else None
            if isinstance(name, str) and name in sources:
                if name in cells:
                    self.log.warning("Cell '%s' exists more than once, the last one counts", name)
                cells[name] = cell
        return cells

    def _restore(self, cell: NotebookNode, source: SourceCell, notebook: Notebook) -> None:
        if cell.cell_type != source.cell_type:
            self.log.warning("Cell '%s' was made a %s cell", source.name, cell.cell_type)
            make = new_code_cell if source.cell_type == "code" else new_markdown_cell
            restored = make(source=cell.source, id=cell.id)
            cell.clear()
            cell.update(restored)
        if source.locked and cell.source != source.source:
            self.log.warning("Cell '%s' is locked and was changed: restored", source.name)
            cell.source = source.source
        cell.metadata = NotebookNode(nbgrader=_metadata(source, notebook))

    def _add_missing(
        self, nb: NotebookNode, cells: dict[str, NotebookNode], notebook: Notebook
    ) -> None:
        """Put each missing cell back (not the student's own answers), after its predecessor."""
        position = 0
        for source in notebook.source_cells:
            metadata = _metadata(source, notebook)
            if source.name in cells:
                known = cells[source.name]
                position = 1 + next(i for i, cell in enumerate(nb.cells) if cell is known)
            elif source.locked or metadata["grade"] or metadata["task"]:
                self.log.warning("Cell '%s' was missing: added", source.name)
                make = new_code_cell if source.cell_type == "code" else new_markdown_cell
                cell = make(source=source.source, metadata={"nbgrader": metadata})
                nb.cells.insert(position, cell)
                position += 1


def _metadata(source: SourceCell, notebook: Notebook) -> NotebookNode:
    """Build the nbgrader metadata of a cell from the grade book alone."""
    points = {
        cell.name: cell.max_score for cell in [*notebook.grade_cells, *notebook.task_cells]
    }
    metadata = NotebookNode(
        grade=source.name in {cell.name for cell in notebook.grade_cells},
        grade_id=source.name,
        locked=source.locked,
        solution=source.name in {cell.name for cell in notebook.solution_cells},
        task=source.name in {cell.name for cell in notebook.task_cells},
        schema_version=3,
        cell_type=source.cell_type,
        checksum=source.checksum,
    )
    if source.name in points:
        metadata.points = points[source.name]
    return metadata


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
