"""What a reader's browser gets: whole pages, resolved references, and no other host."""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from flowcourse.catalog import TOPICS
from tests.book.site import (
    HTML,
    ROOT,
    Page,
    all_pages,
    browser_page,
    chromium,
    served,
    written_pages,
)

PAGES = written_pages()
needs_book = pytest.mark.skipif(not PAGES, reason="the book is not built: run `make book`")
needs_browser = pytest.mark.skipif(
    chromium() is None, reason="no Chromium found: `apt-get install chromium` to open the pages"
)
each_page = pytest.mark.parametrize(
    "path", PAGES, ids=[str(page.relative_to(HTML)) for page in PAGES]
)

# Attributes that make a browser fetch something when the page is shown (not when it is clicked).
FETCHES = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src",
    "audio": "src", "embed": "src", "object": "data", "link": "href", "use": "href",
}  # fmt: skip
NOT_FETCHED = {"canonical", "license", "author", "next", "prev", "search", "index"}
REMOTE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
CSS_REMOTE = re.compile(r"""(@import\s+|url\(\s*)["']?(https?:)?//""", re.IGNORECASE)
# Names of XML vocabularies look like addresses, but nothing is fetched from them.
VOCABULARIES = re.compile(r"https?://www\.w3\.org/[\w/#.-]+")


@cache
def parsed(path: Path) -> Page:
    return Page(path)


@needs_book
@pytest.mark.parametrize("path", all_pages(), ids=lambda path: str(path.relative_to(HTML)))
def test_page_asks_no_other_host(path):
    page = parsed(path)
    remote = [
        attrs[FETCHES[tag]]
        for tag, attrs in page.tags
        if tag in FETCHES
        and REMOTE.match(attrs.get(FETCHES[tag], ""))
        and not (tag == "link" and set(attrs.get("rel", "").split()) <= NOT_FETCHED)
    ]
    assert not remote, f"{path.name} loads {remote}"
    styles = page.inline["style"] + " ".join(attrs.get("style", "") for _, attrs in page.tags)
    assert not CSS_REMOTE.search(styles)
    scripts = VOCABULARIES.sub("", page.inline["script"])
    assert "://" not in scripts, f"an inline script of {path.name} names another host"


@needs_book
def test_stylesheets_ask_no_other_host():
    sheets = list((HTML / "_static").rglob("*.css"))
    assert sheets
    asking = [
        sheet.name for sheet in sheets if CSS_REMOTE.search(sheet.read_text(errors="replace"))
    ]
    assert not asking


@needs_book
@each_page
def test_page_is_whole(path):
    page = parsed(path)
    assert page.title.strip() and not page.title.startswith("<no title>")
    # The theme repeats the heading once, for print.
    assert sum(tag == "h1" for tag, _ in page.tags) == 2
    classes = {name for _, attrs in page.tags for name in attrs.get("class", "").split()}
    assert not classes & {"problematic", "system-message"}
    left_over = re.findall(
        r"\{(?:ref|numref|eq|cite\S*|prf:ref|doc|glue\S*)\}`\S*|\?\?|WARNING", page.text
    )
    assert not left_over, f"unresolved markup in {path.name}"
    assert not re.search(r"\bundefined\b(?! (?:at|on|for|when|where))", page.text)


@needs_book
@each_page
def test_every_link_inside_the_book_leads_somewhere(path):
    broken = []
    for tag, attrs in parsed(path).tags:
        href = attrs.get("href", "")
        if tag != "a" or not href or urlparse(href).scheme or REMOTE.match(href):
            continue
        target, _, fragment = unquote(href).partition("#")
        file = (path.parent / target).resolve() if target else path
        if not file.is_file():
            broken.append(href)
        elif fragment and file.suffix == ".html" and fragment not in parsed(file).ids():
            broken.append(href)
    assert not broken, f"broken links in {path.name}: {broken}"


@needs_book
@each_page
def test_launch_and_download_buttons_fit_the_format_of_the_page(path):
    """Binder opens any notebook; Colab opens only those that the repository keeps as `.ipynb`."""
    source = path.relative_to(HTML).with_suffix("")
    problem_set = source.parts[0] == "exercises"
    notebook = problem_set or "```{code-cell}" in (ROOT / source.with_suffix(".md")).read_text()
    links = [attrs["href"] for tag, attrs in parsed(path).tags if tag == "a" and "href" in attrs]
    places = {host: [link for link in links if host in link] for host in ("mybinder", "colab")}
    assert len(places["mybinder"]) == notebook and len(places["colab"]) == problem_set
    suffix = ".ipynb" if problem_set else ".md"
    assert all(link.endswith(f"{source}{suffix}") for found in places.values() for link in found)
    downloads = [link for link in links if "_sources/" in link and link.endswith(".ipynb")]
    assert len(downloads) == notebook


@needs_book
def test_numbered_equations_have_numbers_and_targets():
    references = 0
    for path in PAGES:
        for tag, attrs in parsed(path).tags:
            target, _, fragment = attrs.get("href", "").partition("#")
            if tag == "a" and fragment.startswith("equation-"):
                references += 1
                file = (path.parent / target).resolve() if target else path
                assert fragment in parsed(file).ids()
    assert references, "the book refers to no equation at all"


@needs_book
@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_problem_set_sends_the_student_to_a_section_that_exists(topic):
    checks = pytest.importorskip(f"flowcourse.checks.{topic.name}", reason="no problem set yet")
    from flowcourse.checks import exercises

    assert checks
    for exercise in exercises(topic.name):
        page, _, label = exercise.read.partition("#")
        found = [path for path in PAGES if path.stem == Path(page).stem]
        assert found, f"{exercise.name}: the book has no page {page}"
        assert not label or any(label in parsed(path).ids() for path in found), exercise.name


@needs_book
@needs_browser
def test_every_page_opens_in_a_browser_without_any_other_host():
    """Scripts and fonts are loaded for real; a formula counts as shown when MathJax typeset it."""
    foreign: list[str] = []
    errors: list[str] = []
    with served(HTML) as address, browser_page(address, foreign) as page:
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "response",
            lambda answer: answer.status >= 400 and errors.append(f"{answer.status} {answer.url}"),
        )
        for path in all_pages():
            formulas = sum(
                "math" in attrs.get("class", "").split() for _, attrs in parsed(path).tags
            )
            page.goto(f"{address}/{path.relative_to(HTML)}", wait_until="load")
            if formulas:
                page.wait_for_function("window.MathJax?.startup?.promise !== undefined")
                page.evaluate("MathJax.startup.promise")
                assert page.locator("mjx-container").count() >= formulas, path.name
                assert page.locator("mjx-merror").count() == 0, f"broken formula in {path.name}"
    assert not foreign, f"pages asked other hosts: {sorted(set(foreign))}"
    assert not errors, errors
