"""What the book needs from Sphinx beyond its configuration file.

1. **Fresh outputs.** Executed notebooks are cached by the text of their cells, which does not
   change when the library they call changes. The cache's folder is therefore named after the
   state of everything a page can read: the package, the measured results, the reported figures,
   and which files the status page can link to. A change there runs every page again; no change
   runs none.
2. **Pages in parallel.** Sphinx executes one page after the other. So the pages that the cache
   lacks are executed before it reads any, one on each core with a thread of its own, into the
   cache where Sphinx finds them. A page that fails is not cached: Sphinx meets it again and says
   what is wrong.
3. **Honest launch buttons.** Colab opens only `.ipynb` files from the repository, so the button
   is taken off the pages kept as Markdown. Binder opens those as notebooks through jupytext,
   which the file `postBuild` tells it to do.
"""

import hashlib
import logging
import os
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from myst_nb.core.read import is_myst_markdown_notebook
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).resolve().parents[2]
READ_BY_PAGES = ("flowcourse/**/*.py", "book/results/*.json", "book/reported.json")
LINKED_BY_PAGES = ("book/*/*.md", "exercises/*/*.ipynb", "tests/*/test_*.py")


def state_of_sources(root: Path = ROOT) -> str:
    """Return a short digest of every file that an executed page may read or link to."""
    digest = hashlib.sha256()
    for patterns, read in ((READ_BY_PAGES, True), (LINKED_BY_PAGES, False)):
        for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest() if read else b"")
    return digest.hexdigest()[:16]


def name_cache_after_sources(app: Sphinx, config: Config) -> None:
    """Point the execution cache at this state; being an `env` value, a change rereads pages."""
    cache = Path(app.outdir).parent / ".jupyter_cache" / state_of_sources()
    config.nb_execution_cache_path = str(cache)  # type: ignore[attr-defined]


def execute_in_parallel(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Fill the cache with the outputs of the pages that are about to be read."""
    cache = get_cache(app.config.nb_execution_cache_path)
    paths = [env.doc2path(name) for name in docnames]
    pages = [
        cache.add_nb_to_project(path, read_data={"type": "plugin", "name": "myst_nb_md"}).pk
        for path in paths
        if path.endswith(".md") and is_myst_markdown_notebook(Path(path).read_text())
    ]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logger = logging.getLogger("flowcourse.book")
    logger.setLevel(logging.INFO)  # each process says what it executes
    load_executor("local-parallel", cache, logger).run_and_cache(
        filter_pks=pages, timeout=app.config.nb_execution_timeout
    )


def fix_launch_buttons(app, pagename, templatename, context, doctree) -> None:
    """Keep only launch buttons that work for this page's file format."""
    if not app.env.doc2path(pagename).endswith(".md"):
        return
    for group in context.get("header_buttons", []):
        if group.get("label") != "launch-buttons":
            continue
        group["buttons"] = [b for b in group["buttons"] if b["text"] != "Colab"]


def setup(app: Sphinx) -> dict:
    """Connect the parts; the theme adds its buttons at priority 501, so ours runs later."""
    app.connect("config-inited", name_cache_after_sources)
    app.connect("env-before-read-docs", execute_in_parallel)
    app.connect("html-page-context", fix_launch_buttons, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
