"""Tables of the book, read from files: nothing measured or reported is typed into a page.

`book/results/*.json` holds what this repository measured (written by `make results`);
`book/reported.json` holds what papers printed, each row with its citation and how sure it is.
"""

import html
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Table", "measured", "problem_set", "reported", "reported_table", "results_table"]

BOOK = Path(__file__).resolve().parents[2] / "book"
UNVERIFIED = "from memory, unverified"


@dataclass(frozen=True)
class Table:
    """Rows of text that display as a table: Markdown in the book, HTML in a notebook.

    Args:
        headers: one for each column.
        rows: cells, already formatted; they may hold inline MyST, such as a citation.
        numbers: indices of the columns to align to the right.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()

    def _repr_markdown_(self) -> str:
        rule = ["---:" if i in self.numbers else ":---" for i in range(len(self.headers))]
        rows = [[cell.replace("|", r"\|") for cell in row] for row in (self.headers, *self.rows)]
        lines = [rows[0], rule, *rows[1:]]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def _repr_html_(self) -> str:
        def row(tag: str, cells: Sequence[str]) -> str:
            kinds = ["number" if i in self.numbers else "text" for i in range(len(cells))]
            inside = (
                f'<{tag} class="{kind}">{html.escape(cell)}</{tag}>'
                for kind, cell in zip(kinds, cells, strict=True)
            )
            return "<tr>" + "".join(inside) + "</tr>"

        body = "".join(row("td", cells) for cells in self.rows)
        head = row("th", self.headers)
        return f'<table class="flowcourse"><thead>{head}</thead><tbody>{body}</tbody></table>'

    def __str__(self) -> str:
        return self._repr_markdown_()


def measured(
    topics: str | Iterable[str] | None = None, folder: Path | None = None, **wanted
) -> list[dict]:
    """Return this repository's measured records.

    Args:
        topics: a name, several names, or None for all; a record's topic is its `topic` key.
        folder: where the JSON files are; `book/results` if None.
        wanted: keep the records with these values, e.g. `data="digits", variant="laptop"`.

    Raises:
        LookupError: nothing matches.
    """
    folder = BOOK / "results" if folder is None else folder
    names = [topics] if isinstance(topics, str) else topics if topics is None else list(topics)
    records = [r for path in sorted(folder.glob("*.json")) for r in json.loads(path.read_text())]
    found = [
        record
        for record in records
        if (names is None or record["topic"] in names)
        and all(record.get(key) == value for key, value in wanted.items())
    ]
    if not found:
        raise LookupError(
            f"No measured record of {names or 'any topic'} with {wanted} in {folder}, which holds "
            f"{sorted({r['topic'] for r in records}) or 'nothing'}: run `make results`."
        )
    return found


def results_table(
    topics: str | Iterable[str] | None = None, data: str = "digits", folder: Path | None = None
) -> Table:
    """Bits per dimension on held-out data, from the worst model to the best.

    The figure after ± is the standard error over the test examples. Several seeds of one variant
    make one row: their mean, with the largest standard error (the test set is the same) and the
    spread between the seeds. The time is that of training, on a processor unless it says on what.

    Args:
        topics: as for `measured`.
        data: the data set; numbers on different data are never put in one table.
        folder: as for `measured`.
    """
    records = [r for r in measured(topics, folder, data=data) if "bits_per_dim" in r]
    groups: dict[tuple[str, str], list[dict]] = {}
    for record in records:
        groups.setdefault((record["topic"], record["variant"]), []).append(record)

    def mean(runs: list[dict]) -> float:
        return statistics.fmean(run["bits_per_dim"] for run in runs)

    rows = []
    for (topic, variant), runs in sorted(groups.items(), key=lambda item: -mean(item[1])):
        values = [run["bits_per_dim"] for run in runs]
        # An en dash and no space: columns are narrow, and a range should not be broken.
        seeds = "1" if len(runs) == 1 else f"{len(runs)}: {min(values):.3f}–{max(values):.3f}"
        weighted = [run["bits_per_dim_iw"] for run in runs if run.get("bits_per_dim_iw")]
        rows.append(
            [
                variant if topic == "baselines" else f"{topic}: {variant}",
                _with_error(mean(runs), max((run.get("standard_error") or 0.0) for run in runs)),
                runs[0]["kind"],
                f"{statistics.fmean(weighted):.3f} ({runs[0]['draws']})" if weighted else "",
                seeds,
                f"{runs[0]['parameters']:,}" if runs[0].get("parameters") else "",
                _duration(runs),
            ]
        )
    weighted_by = "Importance-weighted (draws)"
    headers = ["Model", "Bits/dim", "Kind", weighted_by, "Seeds", "Parameters", "Time"]
    return Table(headers, rows, numbers=(1, 3, 5, 6))


def reported(data: str, unit: str | None = None, file: Path | None = None) -> list[dict]:
    """Return what papers reported on a data set, in order of year.

    Args:
        data: the data set.
        unit: "bits/dim" or "nats"; None for both.
        file: `book/reported.json` if None.

    Keys: `model, family, year, data, value, unit, kind, cite, verified, note`; `kind` is "exact"
    or "bound", `cite` a key of `book/references.bib`, `verified` False for a figure that was not
    checked against a source.
    """
    rows = json.loads((BOOK / "reported.json" if file is None else file).read_text())
    found = [r for r in rows if r["data"] == data and unit in (None, r["unit"])]
    return sorted(found, key=lambda r: r["year"])


def reported_table(
    data: str = "cifar10",
    models: Sequence[str] | None = None,
    unit: str | None = None,
    file: Path | None = None,
) -> Table:
    """What papers printed, each figure with its citation.

    Args:
        data: the data set.
        models: names to show, or None for all.
        unit: as for `reported`.
        file: as for `reported`.

    Raises:
        LookupError: a name is not in the file.
    """
    rows = reported(data, unit, file)
    missing = set(models or ()) - {row["model"] for row in rows}
    if missing:
        known = sorted({row["model"] for row in rows})
        raise LookupError(f"No reported figure of {sorted(missing)} on {data}; there are {known}.")
    cells = []
    for row in rows:
        if models is None or row["model"] in models:
            remarks = [row["note"]] if row["note"] else []
            remarks += [] if row["verified"] else [UNVERIFIED]
            figure = f"{row['value']:.2f} {row['unit']}"
            paper = f"{{cite:t}}`{row['cite']}`"
            cells.append([row["model"], figure, row["kind"], paper, "; ".join(remarks)])
    return Table(["Model", "Reported", "Kind", "Paper", "Remark"], cells, numbers=(1,))


def problem_set(topic: str) -> Table:
    """List the exercises of a topic's problem set: points, what is asked, what to reread."""
    from flowcourse.checks import exercises

    asked = exercises(topic)
    rows = [[e.name, f"{e.points:g}", ", ".join(e.parts), _section(e.read)] for e in asked]
    rows.append(["total", f"{sum(e.points for e in asked):g}", "", ""])
    return Table(["Exercise", "Points", "Graded parts", "Reread"], rows, numbers=(1,))


def _section(read: str) -> str:
    """Turn the `chapter.md#label` of an exercise into a cross reference."""
    page, _, label = read.partition("#")
    return f"{{ref}}`{label}`" if label else page


def _with_error(value: float, error: float) -> str:
    return f"{value:.3f} ± {error:.3f}" if error >= 0.0005 else f"{value:.3f}"


def _duration(runs: list[dict]) -> str:
    """Mean time of training, and on what unless it was a processor: such times do not compare."""
    seconds = statistics.fmean(run.get("seconds") or 0.0 for run in runs)
    if not seconds:
        return ""
    if seconds < 1:
        return "< 1 s"
    time = f"{seconds:.0f} s" if seconds < 600 else f"{math.ceil(seconds / 60)} min"
    devices = sorted({run.get("device") or "cpu" for run in runs})
    return time if all(device.startswith("cpu") for device in devices) else f"{time}, {devices[0]}"
