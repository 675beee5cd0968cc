"""The page that a student gets: one file without scripts that asks the network for nothing."""

import html
import re
from typing import Any

from jinja2 import BytecodeCache, Environment
from jinja2.bccache import Bucket
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from flowcourse.grading.formulas import picture

__all__ = ["FeedbackPage", "markdown"]

# What a browser may load for the page: nothing but what is in it.
POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"/>"
)
SCRIPT = re.compile(r"<script\b.*?</script>", re.IGNORECASE | re.DOTALL)


class _Renderer(IPythonRenderer):
    """nbconvert's, with formulas as pictures; what stands in them has been escaped once before."""

    def inline_math(self, body: str) -> str:
        return picture(html.unescape(body))

    def block_math(self, body: str) -> str:
        return picture(html.unescape(body), display=True)

    def latex_environment(self, name: str, body: str) -> str:
        tex = html.unescape(body)
        return picture(f"\\begin{{{name}}}{tex}\\end{{{name}}}", display=True)


def markdown(source: str) -> str:
    """Markdown to HTML: the filter of nbgrader's pages, feedback and Formgrader alike.

    Links that run a program lead nowhere. HTML stays, for the grader's own notes; a student's is
    gone before, see `harmless`.
    """
    renderer = _Renderer(escape=False, allow_harmful_protocols=False)
    return MarkdownWithMath(renderer=renderer).render(source)


class _Compiled(BytecodeCache):
    """Templates compiled for one page, for the next: that takes longer than to fill them."""

    def __init__(self) -> None:
        self.codes: dict[tuple[str, str], bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if code := self.codes.get((bucket.key, bucket.checksum)):
            bucket.bytecode_from_string(code)

    def dump_bytecode(self, bucket: Bucket) -> None:
        self.codes[bucket.key, bucket.checksum] = bucket.bytecode_to_string()


_compiled = _Compiled()


class FeedbackPage(HTMLExporter):
    """nbconvert's HTML of a graded notebook, by nbgrader's template, made fit for the mail."""

    def from_notebook_node(  # type: ignore[override]
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **options: Any
    ) -> tuple[str, dict[str, Any]]:
        """Convert, and take out the template's scripts: the students' were never there."""
        page, resources = super().from_notebook_node(nb, resources, **options)
        page = SCRIPT.sub("", page)
        return page.replace("<head>", f"<head>{POLICY}", 1), resources

    def _create_environment(self) -> Environment:
        environment = super()._create_environment()
        environment.bytecode_cache = _compiled
        return environment
