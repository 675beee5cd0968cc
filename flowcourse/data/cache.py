"""Where downloaded data are kept: `NAME.npz` and its checksum, in one folder.

The folder is `$FLOWCOURSE_DATA`, or `~/.cache/flowcourse` when that is not set. The checksum file
`NAME.npz.sha256` has the format of the command `sha256sum`, which can verify it too.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np

from flowcourse.data.dataset import DataError

__all__ = ["cache_folder", "cached_file", "read_cache", "write_cache"]


def cache_folder() -> Path:
    """The folder for downloaded data; it need not exist yet."""
    return Path(os.environ.get("FLOWCOURSE_DATA") or "~/.cache/flowcourse").expanduser()


def cached_file(name: str) -> Path:
    """Where the arrays of a data set are, or would be."""
    return cache_folder() / f"{name}.npz"


def write_cache(name: str, arrays: dict[str, np.ndarray]) -> None:
    """Keep arrays under a name. Stopped at any moment, this leaves no half-written data set."""
    path = cached_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{name}-") as scratch:
        data, checksum = Path(scratch, path.name), Path(scratch, "checksum")
        with data.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        checksum.write_text(f"{_sha256(data)}  {path.name}\n")
        # The checksum goes first: alone it means nothing, and data without it would be refused.
        os.replace(checksum, _checksum_file(path))
        os.replace(data, path)


def read_cache(name: str, option: str = "download=True") -> dict[str, np.ndarray]:
    """Read back what `write_cache` kept.

    Args:
        name: of the data set.
        option: with which `load` gets the data again.

    Raises:
        DataError: the file's checksum is missing or differs.
    """
    path = cached_file(name)
    remedy = f"Delete {path} and call load({name!r}, {option}) to get it again."
    try:
        expected = _checksum_file(path).read_text().split()[0]
    except (OSError, IndexError) as error:
        raise DataError(f"{_checksum_file(path)} is missing or empty. {remedy}") from error
    found = _sha256(path)
    if found != expected:
        raise DataError(
            f"{path} is damaged: its sha256 should be {expected} and is {found}. {remedy}"
        )
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _checksum_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
