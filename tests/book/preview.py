"""Build one page of the book by itself and take its picture.

    python -m tests.book.preview book/coupling/nice.md [folder for the pictures]

References to other pages stay unresolved in such a build; `make book` is the judge of those.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.book.site import HTML, ROOT, browser_page, chromium, served

SLICE = 2000  # pixels of height in one picture


def screenshots(site: Path, page: Path, folder: Path) -> list[Path]:
    """Save the whole height of one built page as numbered pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with served(site) as address, browser_page(address, []) as browser:
        browser.goto(f"{address}/{page.relative_to(site)}", wait_until="load")
        browser.wait_for_timeout(1500)
        height = browser.evaluate("document.documentElement.scrollHeight")
        for number, top in enumerate(range(0, height, SLICE)):
            picture = folder / f"{page.stem}-{number:02d}.png"
            clip = {"x": 0, "y": top, "width": 1280, "height": min(SLICE, height - top)}
            browser.screenshot(path=str(picture), clip=clip, full_page=True)
            taken.append(picture)
    return taken


def build_alone(source: Path, folder: Path) -> Path:
    """Build a copy of the repository's book whose table of contents is this page only."""
    for part in ("_config.yml", "book", "flowcourse"):
        origin = ROOT / part
        (shutil.copytree if origin.is_dir() else shutil.copy)(origin, folder / part)
    (folder / "_toc.yml").write_text(f"format: jb-book\nroot: {source.with_suffix('')}\n")
    subprocess.run(["jupyter-book", "build", str(folder)], check=True)
    return folder / "_build" / "html"


def main() -> int:
    """Build, photograph, and say where the pictures are."""
    if len(sys.argv) < 2 or chromium() is None:
        print(__doc__, "\nIt needs a page, and Chromium: apt-get install chromium")
        return 2
    source = Path(sys.argv[1])
    pictures = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp(prefix="preview-"))
    if sys.argv[-1] == "--built":
        built = HTML
        pictures = Path(tempfile.mkdtemp(prefix="preview-"))
    else:
        built = build_alone(source, Path(tempfile.mkdtemp(prefix="book-")))
    for picture in screenshots(built, built / source.with_suffix(".html"), pictures):
        print(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
