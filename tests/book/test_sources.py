"""The book's sources: each topic has its place, each citation an entry, each line one sentence."""

import importlib.util
import re

import pytest
import yaml

from flowcourse.catalog import TOPICS
from tests.book.site import ROOT

BOOK = ROOT / "book"
PAGES = sorted(BOOK.rglob("*.md"))
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def files_of(caption: str) -> list[str]:
    (part,) = [part for part in TOC["parts"] if part["caption"].lower() == caption.lower()]
    return [chapter["file"] for chapter in part["chapters"]]


def prose(text: str) -> list[str]:
    """The lines of a page outside front matter, code, math and directives' options."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^ *(`{3,})\{code-(?:cell|block)\}.*?^ *\1$", "", text, flags=re.DOTALL | re.M)
    text = re.sub(r"^ *```\w+$.*?^ *```$", "", text, flags=re.DOTALL | re.M)
    text = re.sub(r"^\$\$.*?^\$\$.*?$", "", text, flags=re.DOTALL | re.M)
    return text.splitlines()


def test_every_topic_is_in_the_table_of_contents_in_teaching_order():
    for part in dict.fromkeys(topic.part for topic in TOPICS):
        chapters = [t.chapter.removesuffix(".md") for t in TOPICS if t.part == part]
        captions = [c["caption"] for c in TOC["parts"] if c["chapters"][0]["file"] == chapters[0]]
        assert len(captions) == 1, f"_toc.yml has no part that starts with {chapters[0]}"
        assert files_of(captions[0]) == chapters
    assert files_of("problem sets") == [f"exercises/{t.name}/{t.name}" for t in TOPICS]


def test_an_error_or_a_warning_in_a_cell_fails_the_build():
    execute, sphinx = CONFIG["execute"], CONFIG["sphinx"]["config"]
    assert execute["execute_notebooks"] == "cache"
    assert execute["stderr_output"] == "error" and not execute.get("allow_errors")
    assert sphinx["nb_execution_raise_on_error"] is True
    for page in PAGES:
        tags = re.findall(
            r"\b(?:skip-execution|raises-exception|remove-stderr)\b", page.read_text()
        )
        assert not tags, f"{page.name} hides what went wrong with {tags}"


@each_page
def test_one_sentence_on_each_line(page):
    # Not the end of a sentence: an initial, an abbreviation, the number of a list item. What ends
    # in emphasis may be a heading that runs into its paragraph.
    ends = re.compile(
        r"(?<!\b[A-Z])(?<!e\.g)(?<!i\.e)(?<!\bal)(?<!\bvs)(?<!\d)[.!?][\"')”]* +[A-Z]"
    )
    several = [line for line in prose(page.read_text()) if ends.search(line)]
    assert not several, "\n".join(several)


@each_page
def test_labels_are_not_used_twice(page):
    labels = re.findall(r"^\(([\w-]+)\)=$|^\$\$ \(([\w-]+)\)$|^ *:(?:name|label): ([\w-]+)$",
                        page.read_text(), flags=re.M)  # fmt: skip
    flat = [name for groups in labels for name in groups if name]
    assert len(flat) == len(set(flat))


def test_bibliography_has_each_key_once_and_every_paper_of_the_catalog():
    keys = re.findall(r"^@\w+\{([\w]+),$", (BOOK / "references.bib").read_text(), flags=re.M)
    assert len(keys) == len(set(keys))
    assert {topic.paper for topic in TOPICS} <= set(keys)


def test_outputs_are_cached_by_the_state_of_what_pages_read(tmp_path):
    spec = importlib.util.spec_from_file_location("book_ext", BOOK / "_ext" / "flowcourse_book.py")
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    states = [extension.state_of_sources(tmp_path)]
    changes = {
        "flowcourse/coupling/nice.py": "x = 1",
        "flowcourse/coupling/nice.py ": "x = 1",
        "book/results/nice.json": "[]",
        "exercises/nice/nice.ipynb": "",
    }
    for path, text in changes.items():
        file = tmp_path / path.strip()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text if path == path.strip() else text + "  # changed")
        states.append(extension.state_of_sources(tmp_path))
    assert len(set(states)) == len(states)
    (tmp_path / "exercises/nice/nice.ipynb").write_text("pages link to this file; none reads it")
    assert extension.state_of_sources(tmp_path) == states[-1]
