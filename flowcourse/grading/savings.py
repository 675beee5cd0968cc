"""What nbgrader does anew for each submission, done once; used by `nbgrader_config.py`."""

import functools

from nbgrader import api

__all__ = ["save"]


def save() -> None:
    """Keep the engine of a grade book: with it goes every query that SQLAlchemy has compiled.

    nbgrader opens the grade book ten times for a submission. Closing it still closes the file.
    """
    if not hasattr(api.create_engine, "cache_clear"):
        api.create_engine = functools.lru_cache(maxsize=8)(api.create_engine)
