"""The page that a student gets: formulas without the network, and nothing that could run."""

import re
import time
from pathlib import Path

import nbgrader
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from flowcourse.grading.formulas import LONGEST, picture
from flowcourse.grading.page import POLICY, FeedbackPage, markdown
from flowcourse.grading.preprocessors import restore
from flowcourse.grading.submission import harmless
from tests.book.site import Page

OURS = set("p code a img ul li blockquote pre br div svg title path".split())
FORMGRADER = Path(nbgrader.__file__).parent / "server_extensions" / "formgrader"


@pytest.fixture
def page(tmp_path):
    def make(*texts):
        notebook = restore(new_notebook(cells=[new_markdown_cell(text) for text in texts]), {})
        exporter = FeedbackPage(
            sanitize_html=True,
            filters={"markdown2html": markdown},
            template_name="feedback",
            extra_template_basedirs=[str(FORMGRADER / "templates")],
            extra_template_paths=[str(FORMGRADER / "static/node_modules/bootstrap/dist/css")],
        )
        scores = {"notebook": "tiny", "score": 1, "max_score": 2, "late_penalty": 0}
        made, _ = exporter.from_notebook_node(notebook, {"nbgrader": scores})
        (tmp_path / "page.html").write_text(made)
        return made, Page(tmp_path / "page.html")

    return make


def test_formulas_are_pictures_that_say_their_tex(page):
    made, parsed = page(r"Let $x_{<d} \le 1$ and", "$$\\E[q(x)] = \\KL(p\\,\\Vert\\,q)$$")
    assert made.count("<svg ") == 2
    assert 'aria-label="x_{&lt;d} \\le 1"' in made
    assert "text-align: center" in made and "$" not in parsed.text


def test_nothing_runs_and_nothing_is_loaded(page):
    made, parsed = page(
        "<script>alert(1)</script> [a](javascript:alert(1))",
        "![spy](https://example.org/pixel.png) <img src=x onerror=alert(1)>",
        "$<script>alert(2)</script>$ and $$\\unknown{</svg><script>alert(3)</script>}$$",
    )
    assert not [tag for tag, _ in parsed.tags if tag == "script"]
    assert not [a for _, a in parsed.tags if any(name.startswith("on") for name in a)]
    links = [a.get("href") or "" for tag, a in parsed.tags if tag == "a"]
    assert not [link for link in links if link.startswith("javascript")]
    # A picture elsewhere stays a reference, and the policy keeps the browser from asking for it.
    assert made.index(POLICY) < made.index("example.org")
    assert "default-src 'none'; img-src data:" in POLICY


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "text <img src=x onerror=alert(1)> text",
        "<img\nsrc=x\nonerror=alert(1)>",
        "<svg/onload=alert(1)>",
        "<a:b onmouseover=alert(1)>x",
        "<a} onmouseover=alert(1)>x",
        "<div\n\nonclick=alert(1)>x</div>",
        "<!-- --><iframe srcdoc='<script>alert(1)</script>'>",
        "<![CDATA[<script>alert(1)</script>]]><?php <script>alert(1)</script>",
        "- <details open ontoggle=alert(1)>\n\n> <body onload=alert(1)>",
        "`code` <b\tonclick=alert(1)>x</b> <x",
        "[a](javascript:alert(1)) [b](<java\nscript:alert(1)>) ![c](javascript:alert(1))",
        "[a](&#106;avascript:alert(1)) <javascript:alert(1)> [x]: javascript:alert(1)\n\n[x]",
        "$<img src=x onerror=alert(1)>$ $$<script>alert(1)</script>$$",
        "\\begin{a}<img src=x onerror=alert(1)>\\end{a}",
        "&lt;img src=x onerror=alert(1)&gt; &amp;lt;script&gt;",
    ],
)
def test_markdown_of_a_student_holds_no_html_for_any_of_nbgraders_pages(text, tmp_path):
    shown = markdown(harmless(text))
    (tmp_path / "page.html").write_text(shown)
    for tag, attributes in Page(tmp_path / "page.html").tags:
        assert tag in OURS, shown
        assert not [name for name in attributes if name.startswith("on")], shown
        where = "".join(str(attributes.get(n) or "") for n in ("href", "src"))
        assert "script:" not in "".join(where.split()).lower(), shown


@pytest.mark.parametrize(
    "tex", [r"\begin{cases} a \\ b \end{cases}", "{", "$", r"\frac{", "x" * (LONGEST + 1), ""]
)
def test_what_cannot_be_typeset_stays_as_tex(tex):
    assert picture(tex).startswith("<code>")


def test_no_formula_of_a_student_takes_long():
    for tex in ("{" * 60 + "x" + "}" * 60, r"\sqrt{" * 40 + "x" + "}" * 40, "x^{" * 90 + "}" * 90):
        started = time.process_time()
        assert len(picture(tex)) < 300_000
        assert time.process_time() - started < 10


def test_every_formula_of_the_problem_sets_but_cases_is_a_picture():
    tex = set()
    for path in (Path(__file__).parents[2] / "solutions").glob("*/*.md"):
        found = re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", path.read_text(), re.DOTALL)
        tex |= {(display or inline).strip() for display, inline in found}
    plain = [one for one in tex if picture(one).startswith("<code>")]
    assert len(tex) > 100
    assert [one for one in plain if r"\begin{" not in one] == []
