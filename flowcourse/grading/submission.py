"""Reading what was handed in, whatever it is."""

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

from flowcourse.grading.evidence import read_text

__all__ = ["TROUBLE", "check_of", "harmless", "read_files", "read_notebook"]

TROUBLE = "flowcourse_trouble"  # key of a notebook's metadata: why it could not be read
LARGEST_NOTEBOOK = 100 << 20  # bytes, outputs included; to read them takes 30 times as many
MOST_CELLS = 1000
MOST_TEXT = 4 << 20  # characters of all cells; pages of what is longer take minutes to make
NOT_DATA = (".ipynb", ".md", ".py", ".pyc")  # as nbgrader_config.py has it
LARGEST_FILES = 64 << 20  # bytes of everything beside the notebook
# Where Markdown sees the start of a tag, or of a comment.
TAG = re.compile(r"<(?=[A-Za-z][\w:.-]*(?:[\s/>]|$)|/|!|\?)")
MAKE = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}


def read_notebook(path: Path) -> NotebookNode:
    """Read a submission's notebook: its cells' kinds, texts, names and ids, and nothing else.

    Returns:
        A notebook; where the file holds none, an empty one, with the reason in its metadata.
    """
    try:
        if path.is_symlink():
            raise ValueError("it is a link, which may lead anywhere")
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("it is no file")
        if path.stat().st_size > LARGEST_NOTEBOOK:
            raise ValueError(f"it is larger than {LARGEST_NOTEBOOK >> 20} MB")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it holds no notebook")
        if content.get("nbformat") != 4:
            without_outputs = nbformat.reads(json.dumps(content), as_version=4)
            content = json.loads(nbformat.writes(without_outputs))
        return _with_limits([cell for cell in content["cells"] if isinstance(cell, dict)])
    except Exception as error:  # whatever it is, it gets a grade and a reason
        text = (error.strerror if isinstance(error, OSError) else None) or str(error)
        said = read_text(text, 200)  # without the path, which is the instructor's
        reason = f"the notebook could not be read ({type(error).__name__}: {said})"
        return new_notebook(metadata={TROUBLE: f"{reason}, so nothing in it was graded"})


def _with_limits(cells: list[dict[str, Any]]) -> NotebookNode:
    """A notebook of these cells, without those that are too many or too long."""
    kept: list[NotebookNode] = []
    size = 0
    for cell in map(_cell, cells[:MOST_CELLS]):
        if size + len(cell.source) <= MOST_TEXT:
            kept.append(cell)
            size += len(cell.source)
    if gone := len(cells) - len(kept):
        limits = f"a notebook may hold {MOST_CELLS} cells and {MOST_TEXT >> 20} MB of text"
        return new_notebook(
            cells=kept, metadata={TROUBLE: f"{gone} of its cells were left out: {limits}"}
        )
    return new_notebook(cells=kept)


def _cell(cell: dict[str, Any]) -> NotebookNode:
    source = cell.get("source", "")
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    made = MAKE.get(str(cell.get("cell_type")), new_raw_cell)(source if _is_text(source) else "")
    metadata = cell.get("metadata")
    if isinstance(metadata, dict) and isinstance(metadata.get("nbgrader"), dict):
        made.metadata.nbgrader = nbformat.from_dict(metadata["nbgrader"])
    return made


def _is_text(source: Any) -> bool:
    """Whether it is text that can be written to a file: lone surrogates cannot."""
    try:
        return isinstance(source, str) and source.encode() is not None
    except UnicodeEncodeError:
        return False


def harmless(markdown: str) -> str:
    """Markdown in which no HTML is left; formulas and comparisons stay.

    nbgrader's pages show a student's Markdown as it is. A script in it would run beside Formgrader,
    with all that its user may do on this machine.

    >>> harmless("a <b>bold</b> claim: <img src=x onerror=alert(1)> if x < y and $p(x_{<d})$")
    'a &lt;b>bold&lt;/b> claim: &lt;img src=x onerror=alert(1)> if x < y and $p(x_{<d})$'
    """
    return TAG.sub("&lt;", markdown)


def read_files(submitted: Path, graded: Path) -> dict[str, bytes]:
    """The files beside a notebook that its code may see, by their path in its folder.

    nbgrader has copied the submission's files into its folder for graded ones, and the course's own
    over them; a link it follows. So a link in a submission is left out: it may lead anywhere.

    Args:
        submitted: the folder that was handed in.
        graded: the folder that nbgrader has made of it.
    """
    found: dict[str, bytes] = {}
    size = 0
    for folder, _, names in os.walk(graded):
        for name in sorted(names):
            path = Path(folder) / name
            relative = path.relative_to(graded)
            links = [submitted / part for part in (relative, *relative.parents)]
            if path.suffix in NOT_DATA or any(link.is_symlink() for link in links):
                continue
            # A pipe would be waited for. A file that may not be read is not there for its code.
            if not path.is_file() or not os.access(path, os.R_OK):
                continue
            size += path.stat().st_size
            if size <= LARGEST_FILES:
                found[relative.as_posix()] = path.read_bytes()
    return found


def check_of(source: str) -> tuple[str, str]:
    """The exercise and the name of the answer in a test cell, `check("topic.exercise", Name)`.

    Raises:
        ValueError: the cell is something else, which this course cannot grade.
    """
    try:
        match ast.parse(source).body:
            case [ast.Expr(ast.Call(ast.Name("check"), [ast.Constant(str(e)), ast.Name(n)]))]:
                return e, n
    except SyntaxError:
        pass
    raise ValueError(
        f"Expected a test cell to be one line, check('topic.exercise', Name), and got {source!r}: "
        "release the problem set again with make exercises."
    )
