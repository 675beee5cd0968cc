r"""Formulas as pictures inside a page: no script, no font and no network is needed to read them.

Feedback is a file that is mailed and opened anywhere. MathJax would need the network, or megabytes
of program in every file. Matplotlib typesets most of TeX's mathematics; what it cannot, such as
`\begin{cases}`, stays as TeX. The outlines of the glyphs become an SVG that scales with the text.
"""

import functools
import html
import re

from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from matplotlib.path import Path
from matplotlib.textpath import TextPath

__all__ = ["picture"]

LONGEST = 1000  # characters: students write formulas, too
LARGEST = 200_000  # characters of a picture
SIZE = 10.0  # units an em
# The macros of the book (`_config.yml`), and TeX that Matplotlib knows by another name, or not.
MACROS = {
    "E": r"\mathbb{E}",
    "R": r"\mathbb{R}",
    "N": r"\mathcal{N}",
    "I": r"\mathbf{I}",
    "KL": r"\mathrm{KL}",
    "diag": r"\mathrm{diag}",
    "logdet": r"\mathrm{log\,|det|}",
    "sg": r"\mathrm{sg}",
    "given": r"\,|\,",
    "le": r"\leq",
    "ge": r"\geq",
    "lvert": "|",
    "rvert": "|",
    "lVert": r"\Vert",
    "rVert": r"\Vert",
    "tfrac": r"\frac",
    "operatorname": r"\mathrm",
    "text": r"\mathrm",
    **dict.fromkeys(
        [size + side for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r", "m")], ""
    ),
}
_parser = MathTextParser("path")
_font = FontProperties(size=SIZE, math_fontfamily="cm")


@functools.lru_cache(maxsize=4096)
def picture(tex: str, display: bool = False) -> str:
    r"""HTML of a formula, without its dollars: an SVG, or the TeX itself where that cannot be.

    >>> picture("x^2")[:26], "<path" in picture("x^2")
    ('<svg role="img" aria-label', True)
    >>> picture("\\unknown{<x>}")
    '<code>\\unknown{&lt;x&gt;}</code>'
    """
    body = _svg(tex)
    return f'<div style="text-align: center; margin: 1em 0">{body}</div>' if display else body


def _svg(tex: str) -> str:
    shown = html.escape(" ".join(tex.split()))
    words = re.sub(r"\\([A-Za-z]+)(?![A-Za-z]) ?", _expand, " ".join(tex.split()))
    try:
        if len(tex) > LONGEST:
            raise ValueError("too long")
        _, _, depth, *_ = _parser.parse(f"${words}$", dpi=72, prop=_font)
        outline = TextPath((0, 0), f"${words}$", prop=_font, usetex=False)
    except (ValueError, RuntimeError, RecursionError):  # TeX that it does not know
        return f"<code>{shown}</code>"
    path = _path(outline)
    if not path or len(path) > LARGEST:
        return f"<code>{shown}</code>"
    box = outline.get_extents()
    left, bottom, width, height = box.x0 - 0.2, box.y0 - 0.2, box.width + 0.4, box.height + 0.4
    em = 1.2 / SIZE  # the letters of the surrounding text are a little larger
    return (
        f'<svg role="img" aria-label="{shown}" style="vertical-align: {bottom * em:.3f}em; '
        f'max-width: 100%" width="{width * em:.3f}em" height="{height * em:.3f}em" '
        f'viewBox="{left:.1f} {-bottom - height:.1f} {width:.1f} {height:.1f}" '
        f'fill="currentColor"><title>{shown}</title><path d="{path}"/></svg>'
    )


def _expand(match: re.Match[str]) -> str:
    return MACROS[match[1]] + " " if match[1] in MACROS else match[0]


def _path(outline: Path) -> str:
    """The outline in the language of SVG, whose second axis points down."""
    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
    parts = []
    for points, code in outline.iter_segments(simplify=False, curves=True):
        if code == Path.CLOSEPOLY:
            parts.append("Z")
        else:
            pairs = points.reshape(-1, 2) * (1, -1)
            parts.append(letters[code] + " ".join(f"{x:.2f},{y:.2f}" for x, y in pairs))
    return "".join(parts)
