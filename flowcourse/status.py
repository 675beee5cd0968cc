"""The status table of the README and of the book, generated from the catalog.

python -m flowcourse.status       write the table into README.md (make status)
"""

import sys
from pathlib import Path

from flowcourse.catalog import TOPICS, Topic

__all__ = ["insert", "table"]

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "<!-- status: written by `make status` from flowcourse/catalog/ -->"
END = "<!-- end of status -->"


def _places(topic: Topic) -> dict[str, str]:
    """What a reader looks for and where it is; the problem set is the student's copy."""
    return {
        "Chapter": topic.chapter,
        "Code": topic.module.replace(".", "/") + ".py",
        "Problem set": f"exercises/{topic.name}/{topic.name}.ipynb",
        "Tests": topic.test,
    }


def table(root: Path = ROOT) -> str:
    """One row for each topic of the catalog, in Markdown, with a link to each file that exists.

    The links start with `/`, which GitHub and the book both read as the top of the repository.

    Args:
        root: the repository whose files are looked for.
    """
    rows = [["Topic", "About", *_places(TOPICS[0])]]
    rows.append(["---"] * len(rows[0]))
    for topic in TOPICS:
        cells = [
            f"[`{Path(path).name}`](/{path})" if (root / path).exists() else "to come"
            for path in _places(topic).values()
        ]
        rows.append([topic.title, topic.summary, *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def insert(text: str, generated: str) -> str:
    """Put a generated table between the two marker lines of a page.

    Raises:
        ValueError: the page does not hold each marker exactly once.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(
            f"Expected the lines {BEGIN!r} and {END!r} once each, and found {text.count(BEGIN)} "
            f"and {text.count(END)}: put them where the status table belongs."
        )
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{generated}\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Write the table into README.md."""
    readme = ROOT / "README.md"
    readme.write_text(insert(readme.read_text(), table()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
