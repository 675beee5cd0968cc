"""Take pictures of one page of the book, to look at it.

    python -m tests.book.preview book/coupling/nice.md            build this page alone, then look
    python -m tests.book.preview book/coupling/nice.md --built    the page as `make book` left it

A page built alone cannot resolve references to other pages; `make book` is the judge of those.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.book.site import HTML, ROOT, browser_page, served

SLICE = 2000  # pixels of height in one picture


def screenshots(site: Path, page: Path, folder: Path) -> list[Path]:
    """Save the whole height of one built page as numbered pictures."""
    taken = []
    with served(site) as address, browser_page(address, []) as browser:
        browser.set_viewport_size({"width": 1280, "height": SLICE})
        browser.goto(f"{address}/{page.relative_to(site)}", wait_until="load")
        browser.wait_for_timeout(1500)
        height = browser.evaluate("document.documentElement.scrollHeight")
        for number, top in enumerate(range(0, height, SLICE)):
            picture = folder / f"{page.stem}-{number:02d}.png"
            # Scrolling, because one tall picture is blank beyond the browser's texture size.
            browser.evaluate(f"window.scrollTo(0, {top})")
            browser.screenshot(path=str(picture))
            taken.append(picture)
    return taken


def build_alone(source: Path, folder: Path) -> Path:
    """Build a copy of the repository's book whose table of contents is this page only."""
    shutil.copy(ROOT / "_config.yml", folder)
    for part in ("book", "flowcourse", "exercises"):
        shutil.copytree(ROOT / part, folder / part)
    (folder / "_toc.yml").write_text(f"format: jb-book\nroot: {source.with_suffix('')}\n")
    builder = Path(sys.executable).with_name("jupyter-book")
    subprocess.run([builder, "build", folder], check=True)
    return folder / "_build" / "html"


def main() -> int:
    """Build, photograph, and say where the pictures are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--built", action="store_true", help="do not build it again")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="preview-"))
    site = HTML if args.built else build_alone(args.page, work)
    for picture in screenshots(site, site / args.page.with_suffix(".html"), work):
        print(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
