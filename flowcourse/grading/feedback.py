"""What a student reads first in the feedback: each exercise, the points, what to do next."""

import html
from collections.abc import Iterable

from flowcourse.checks import Outcome, get

__all__ = ["address", "summary"]


def summary(outcomes: Iterable[Outcome], book: str = "") -> str:
    """A table of all exercises, in HTML as a notebook's text may hold.

    Args:
        outcomes: of the checks.
        book: address of the built book, for links to its sections; none without it.
    """
    rows = [_row(outcome, book) for outcome in outcomes]
    # Feedback pages give tables no space between their columns.
    heads = ("Exercise", "Points", "Right", "What to do")
    head = "<tr>" + "".join(f"<th>{word}&emsp;</th>" for word in heads) + "</tr>"
    return f"<table>\n<thead>{head}</thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>\n</table>"


def address(read: str, book: str) -> str | None:
    """The address of a section that an exercise names, such as `book/coupling/nice.md#nice-scale`.

    >>> address("book/coupling/nice.md#nice-scale", "https://example.org/course/")
    'https://example.org/course/book/coupling/nice.html#nice-scale'
    """
    page, _, label = read.partition("#")
    if not book or not page.endswith(".md"):
        return None
    return f"{book.rstrip('/')}/{page.removesuffix('.md')}.html" + (f"#{label}" if label else "")


def _row(outcome: Outcome, book: str) -> str:
    exercise = get(outcome.name)
    cell = "check-" + outcome.name.replace(".", "-")
    name = f'<a href="#{cell}">{html.escape(outcome.name)}</a>'
    wrong = {message.partition(": ")[0] for message in outcome.messages} & set(exercise.parts)
    # A complaint without the name of a part is about all of them.
    right = [p for p in exercise.parts if p not in wrong] if wrong or not outcome.messages else []
    todo = ""
    if outcome.messages:
        link = address(exercise.read, book)
        section = html.escape(exercise.read)
        again = f'<a href="{html.escape(link)}">{section}</a>' if link else section
        todo = f"{html.escape(outcome.diagnosis or outcome.messages[0])}<br>Read again: {again}"
    cells = [
        name,
        f"{outcome.points:g}/{outcome.max_points:g}",
        html.escape(", ".join(right)),
        todo,
    ]
    return "<tr>" + "".join(f"<td>{text}&emsp;</td>" for text in cells).replace("\n", " ") + "</tr>"
