"""What a run shows while it trains, and the same numbers in a file."""

import csv
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

__all__ = ["Progress", "write_metrics"]

COLUMNS = ("step", "nats", "bits_per_dim", "validation", "lr", "seconds")


class Progress:
    """A bar in a terminal; elsewhere, where a bar would be noise, a line at each tenth of the way.

    The lines go to standard output: in a notebook, anything on standard error looks like a fault.

    Args:
        steps: number of updates in all.
        done: updates done before.
        dims: dimensions of an example of discrete data, to convert nats to bits per dimension.
        enabled: False shows nothing.
    """

    def __init__(self, steps: int, done: int, dims: int | None, enabled: bool):
        self.steps = steps
        self.done = done
        self.dims = dims
        self.enabled = enabled
        self.validation: float | None = None
        terminal = enabled and sys.stderr.isatty()
        self.lines = enabled and not terminal
        self.bar = tqdm(total=steps, initial=done, unit="step", disable=not terminal)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        if self.enabled:
            tqdm.write(text)

    def bits_per_dim(self, nats: float) -> float | None:
        """Bits per dimension of discrete data, None for continuous data."""
        if self.dims is None:
            return None
        from flowcourse.foundations.likelihood import bits_per_dim

        return bits_per_dim(nats, self.dims)

    def row(
        self, step: int, nats: float, validation: float | None, lr: float, seconds: float
    ) -> dict[str, Any]:
        """One line of the metrics file; also what the bar shows of the validation from here on."""
        self.validation = validation if validation is not None else self.validation
        values = (step, nats, self.bits_per_dim(nats), validation, lr, seconds)
        return dict(zip(COLUMNS, values, strict=True))

    def advance(self, nats: float) -> None:
        """Count one update and show its loss."""
        self.done += 1
        tenth = self.done * 10 // self.steps > (self.done - 1) * 10 // self.steps
        if self.lines and tenth:
            self.say(f"step {self.done}/{self.steps}: {self._text(nats)}")
        self.bar.set_postfix_str(self._text(nats), refresh=False)
        self.bar.update()

    def _text(self, nats: float) -> str:
        bits = self.bits_per_dim(nats)
        text = f"{nats:.3f} nats" + (f", {bits:.3f} bits/dim" if bits is not None else "")
        return text + (f", validation {self.validation:.3f} nats" if self.validation else "")


def write_metrics(path: Path, rows: Iterable[Mapping[str, Any]], append: bool = False) -> None:
    """Write rows as CSV; a value that is not there is an empty cell."""
    with path.open("a" if append else "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not append:
            writer.writeheader()
        writer.writerows(rows)
