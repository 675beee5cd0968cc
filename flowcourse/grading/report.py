"""What a class has understood, and what not: `flowcourse report ASSIGNMENT`.

Reads the register of `flowcourse grade` and the grade book, and writes in `grading/`:

- `ASSIGNMENT.html`: scores, the commonest mistakes of each exercise, every student; one page that
  asks no other host for anything and runs no script;
- `ASSIGNMENT.csv`: each exercise of each student, with the diagnosis and the reasons;
- `ASSIGNMENT-canvas.csv`, `ASSIGNMENT-moodle.csv`: the scores of the grade book, with what was
  changed by hand and late penalties in them, in the columns that those systems import.
"""

import csv
import html
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowcourse.checks import get
from flowcourse.grading.classroom import GradingError
from flowcourse.grading.course import nbgrader_api
from flowcourse.grading.register import Entry, Register

__all__ = ["Finding", "Mistake", "findings", "mistakes", "page", "write_report"]

BINS = 10  # of the histogram
MOST_URGENT = 5  # mistakes at the top of the page
STATES = {"full": "all points", "part": "some points", "none": "no points", "blank": "not answered"}


@dataclass(frozen=True)
class Finding:
    """One exercise of one student; `reasons` are the complaints about it."""

    student: str
    exercise: str
    points: float
    max_points: float
    diagnosis: str
    reasons: tuple[str, ...]

    @property
    def state(self) -> str:
        """One of `STATES`."""
        if self.points >= self.max_points:
            return "full"
        if self.reasons and all(reason.endswith("not answered yet.") for reason in self.reasons):
            return "blank"
        return "part" if self.points > 0 else "none"


@dataclass(frozen=True)
class Mistake:
    """A mistake that the checks named, and who made it."""

    exercise: str
    name: str
    students: tuple[str, ...]


def findings(entries: Mapping[str, Entry]) -> list[Finding]:
    """Every exercise of every student."""
    return [
        Finding(
            student,
            exercise,
            points,
            entry.max_points[exercise],
            entry.diagnoses.get(exercise, ""),
            tuple(entry.messages.get(exercise, ())),
        )
        for student, entry in sorted(entries.items())
        for exercise, points in entry.points.items()
    ]


def mistakes(found: Iterable[Finding]) -> list[Mistake]:
    """The named mistakes, the most frequent first; what was left as handed out is none."""
    made: dict[tuple[str, str], list[str]] = {}
    for finding in found:
        if finding.diagnosis and finding.state != "full":
            made.setdefault((finding.exercise, finding.diagnosis), []).append(finding.student)
    listed = [Mistake(*key, tuple(students)) for key, students in made.items()]
    return sorted(listed, key=lambda mistake: -len(mistake.students))


def write_report(assignment: str, course: Path, root: Path) -> list[Path]:
    """Write all files; returns where they are.

    Raises:
        GradingError: nothing has been graded yet.
    """
    register = Register(course, assignment)
    if not register.entries:
        raise GradingError(
            f"Nothing in {register.path}: grade first, with flowcourse grade {assignment}."
        )
    found = findings(register.entries)
    folder = register.path.parent
    paths = [
        folder / f"{assignment}{end}" for end in (".html", ".csv", "-canvas.csv", "-moodle.csv")
    ]
    paths[0].write_text(page(assignment, register.entries), encoding="utf-8")
    _write_csv(
        paths[1],
        ["student", "exercise", "points", "max_points", "state", "diagnosis", "reasons"],
        [
            [f.student, f.exercise, f.points, f.max_points, STATES[f.state], f.diagnosis]
            + [" ".join(f.reasons)]
            for f in found
        ],
    )
    _write_scores(assignment, course, root, paths[2], paths[3])
    return paths


# Tables for other programs


def _write_scores(assignment: str, course: Path, root: Path, canvas: Path, moodle: Path) -> None:
    canvas_rows: list[list[object]] = []
    moodle_rows: list[list[object]] = []
    with nbgrader_api(course, root).gradebook as gradebook:
        available = gradebook.find_assignment(assignment).max_score
        for submission in gradebook.assignment_submissions(assignment):
            student = submission.student
            score = max(0.0, submission.score - submission.late_submission_penalty)
            names = [name for name in (student.last_name, student.first_name) if name]
            name = ", ".join(names) or student.id
            canvas_rows.append([name, student.lms_user_id or "", "", student.id, "", score])
            moodle_rows.append([student.id, student.email or "", score])
    ids = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
    possible: list[object] = ["    Points Possible", "", "", "", "", available]
    _write_csv(canvas, [*ids, assignment], [possible, *sorted(canvas_rows, key=str)])
    _write_csv(moodle, ["Username", "Email address", assignment], sorted(moodle_rows, key=str))


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows([_harmless(value) for value in row] for row in rows)


def _harmless(value: object) -> object:
    """Text that a spreadsheet would take for a formula, marked as text: students can write it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value


# The page


def page(assignment: str, entries: Mapping[str, Entry]) -> str:
    """The report as one HTML page; everything that students wrote is escaped."""
    found = findings(entries)
    named = mistakes(found)
    shares = [entry.total / entry.available if entry.available else 0 for entry in entries.values()]
    title = _text(f"{assignment}: what the class has understood")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        + "\n".join(
            filter(
                None,
                [
                    _summary(entries, shares),
                    _histogram(shares),
                    _urgent(named, len(entries)),
                    _exercises(found, named),
                    _troubles(entries),
                    _students(entries, found),
                ],
            )
        )
        + "\n</body>\n</html>\n"
    )


def _summary(entries: Mapping[str, Entry], shares: Sequence[float]) -> str:
    totals = [entry.total for entry in entries.values()]
    available = max(entry.available for entry in entries.values())
    median, mean = statistics.median(totals), statistics.fmean(totals)
    full = sum(share >= 1 for share in shares)
    return (
        f"<p>{_count(len(totals), 'submission')}, {available:g} points to be had: median "
        f"{median:g}, mean {mean:.1f}, from {min(totals):g} to {max(totals):g}; {full} with all "
        "points. Scores on this page are those of the checks, before changes by hand.</p>"
    )


def _histogram(shares: Sequence[float]) -> str:
    """Scores in tenths of the points, drawn."""
    counts = Counter(min(int(share * BINS), BINS - 1) for share in shares)
    width, height, top = 560, 150, max(counts.values())
    step = width / BINS
    parts = []
    for k in range(BINS):
        n = counts[k]
        tall = n / top * height
        x, y = k * step, height - tall + 20
        label = f"{100 * k // BINS} to {100 * (k + 1) // BINS} %: {_count(n, 'student')}"
        parts.append(
            f'<rect x="{x + 2:.1f}" y="{y:.1f}" width="{step - 4:.1f}" height="{tall:.1f}">'
            f"<title>{label}</title></rect>"
        )
        if n:
            parts.append(f'<text x="{x + step / 2:.1f}" y="{y - 5:.1f}">{n}</text>')
    parts += [
        f'<text x="{k * step:.1f}" y="{height + 38}">{100 * k // BINS}</text>'
        for k in range(BINS + 1)
    ]
    parts.append(f'<line x1="0" x2="{width}" y1="{height + 20}" y2="{height + 20}"/>')
    return (
        f'<figure><svg viewBox="-16 0 {width + 32} {height + 44}" role="img" '
        f'aria-label="histogram of scores">{"".join(parts)}</svg>'
        "<figcaption>Students by score, in % of the points</figcaption></figure>"
    )


def _urgent(named: Sequence[Mistake], n: int) -> str:
    if not named:
        return ""
    items = [
        f"<li><strong>{len(m.students)} of {n}</strong>: {_text(m.name)} "
        f"<small>({_short(m.exercise)}; {_text(_section(m.exercise))})</small></li>"
        for m in named[:MOST_URGENT]
    ]
    return f"<h2>For the next lecture</h2>\n<ol>{''.join(items)}</ol>"


def _exercises(found: Sequence[Finding], named: Sequence[Mistake]) -> str:
    rows = []
    for exercise in dict.fromkeys(finding.exercise for finding in found):
        mine = [finding for finding in found if finding.exercise == exercise]
        share = sum(f.points for f in mine) / (sum(f.max_points for f in mine) or 1)
        states = Counter(finding.state for finding in mine)
        bar = "".join(
            f'<i class="{state}" style="width:{100 * states[state] / len(mine):.2f}%" '
            f'title="{states[state]} with {words}"></i>'
            for state, words in STATES.items()
        )
        cells = [
            f"<td>{_short(exercise)}</td><td class=n>{100 * share:.0f} %</td>",
            *(f"<td class=n>{states[state] or ''}</td>" for state in STATES),
            f'<td class="bar">{bar}</td><td class=why>{_why(mine, named)}</td>',
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{words}</th>" for words in STATES.values())
    return (
        "<h2>Exercises</h2>\n<table><thead><tr><th>exercise</th><th>points earned</th>"
        f"{heads}<th></th><th>mistakes, by how many made them</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _why(mine: Sequence[Finding], named: Sequence[Mistake]) -> str:
    """The mistakes of an exercise, and the answers whose mistake no check recognised."""
    items = [
        f"<details><summary>{len(m.students)} × {_text(m.name)}</summary>"
        f"{_text(', '.join(m.students))}</details>"
        for m in named
        if m.exercise == mine[0].exercise
    ]
    other = [f for f in mine if f.state in ("part", "none") and not f.diagnosis]
    if other:
        reasons = "".join(
            f"<li>{_text(f.student)}: {_text(' '.join(f.reasons) or 'no reason recorded')}</li>"
            for f in other
        )
        items.append(
            f"<details><summary>{len(other)} × a mistake that is not in the list</summary>"
            f"<ul>{reasons}</ul></details>"
        )
    return "".join(items)


def _troubles(entries: Mapping[str, Entry]) -> str:
    items = [
        f"<li>{_text(student)}: {_text('; '.join(entry.troubles))}</li>"
        for student, entry in sorted(entries.items())
        if entry.troubles
    ]
    return f"<h2>Troubles</h2>\n<ul>{''.join(items)}</ul>" if items else ""


def _students(entries: Mapping[str, Entry], found: Sequence[Finding]) -> str:
    names = list(dict.fromkeys(finding.exercise for finding in found))
    cells = {(finding.student, finding.exercise): finding for finding in found}
    rows = []
    for student, entry in sorted(entries.items()):
        row = [f"<th>{_text(student)}</th>"]
        for name in names:
            finding = cells.get((student, name))
            if finding is None:
                row.append("<td></td>")
                continue
            why = _text(finding.diagnosis or " ".join(finding.reasons))
            row.append(f'<td class="n {finding.state}" title="{why}">{finding.points:g}</td>')
        row.append(f"<td class=n><strong>{entry.total:g}</strong></td>")
        rows.append(f"<tr>{''.join(row)}</tr>")
    heads = "".join(f"<th>{_short(name)}</th>" for name in names)
    return (
        f"<h2>Students</h2>\n<table><thead><tr><th>student</th>{heads}<th>total</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _section(exercise: str) -> str:
    """What to reread; an exercise may have been renamed since it was graded."""
    try:
        return get(exercise).read
    except KeyError:
        return "no such exercise today"


def _short(exercise: str) -> str:
    return _text(exercise.partition(".")[2])


def _text(text: str) -> str:
    return html.escape(text)


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


STYLE = """
:root { color-scheme: light; --full: #8fc9a8; --part: #f0d78c; --none: #e8a598; --blank: #d9d9d9; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
figure { margin: 1.5rem 0; max-width: 36rem; } figcaption { text-align: center; }
svg rect { fill: #0072b2; } svg line { stroke: #444; }
svg text { font-size: 12px; text-anchor: middle; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.6rem; }
th, td { text-align: left; vertical-align: top; }
.n { font-variant-numeric: tabular-nums; text-align: right; }
td.full, i.full { background: var(--full); } td.part, i.part { background: var(--part); }
td.none, i.none { background: var(--none); } td.blank, i.blank { background: var(--blank); }
.bar { min-width: 7rem; } .why { min-width: 28rem; }
.bar i { display: inline-block; height: 0.8rem; }
summary { cursor: pointer; } small { color: #555; } li { margin: 0.2rem 0; }
@media print { details { display: block; } }
"""
