"""Autoregressive models."""

from flowcourse.catalog.table import Topic

__all__ = ["TOPICS"]


TOPICS: tuple[Topic, ...] = ()
