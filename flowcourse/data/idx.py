"""The IDX file format, in which MNIST and Fashion-MNIST were published."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from flowcourse.data.dataset import DataError

__all__ = ["read_idx", "read_idx_folder"]

UNSIGNED_BYTE = 8
FILES = {
    "train": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


def read_idx(path: str | Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, plain or compressed (`.gz`).

    The format is two zero bytes, a type code, the number of axes, one big-endian 32-bit size for
    each axis, then the values in row-major order.

    Returns:
        a uint8 array of the stated shape.

    Raises:
        DataError: the file is not IDX, not of unsigned bytes, or not as long as its header says.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): get the file again.") from error
    magic = content[:4]
    if len(magic) < 4 or magic[:3] != bytes([0, 0, UNSIGNED_BYTE]):
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes: it should begin with the bytes 00 00 08 "
            f"and begins with {magic[:3].hex(' ') or 'nothing'}. Get the file again."
        )
    start = 4 + 4 * magic[3]
    shape = tuple(int.from_bytes(content[place : place + 4], "big") for place in range(4, start, 4))
    if len(content) != start + math.prod(shape):
        raise DataError(
            f"{path} is damaged: its header promises {magic[3]} axes {shape}, so {start} + "
            f"{math.prod(shape)} bytes, and it holds {len(content)}. Get the file again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def read_idx_folder(folder: str | Path) -> dict[str, np.ndarray]:
    """Read the four files of an MNIST-like set.

    Returns:
        `train` and `test` of shape `(n, 1, rows, columns)`, `train_labels` and `test_labels`.

    Raises:
        DataError: a file is missing or damaged, or images and labels differ in number.
    """
    folder = Path(folder).expanduser()
    arrays = {part: read_idx(_find(folder, stem)) for part, stem in FILES.items()}
    for part in ("train", "test"):
        images, labels = arrays[part], arrays[f"{part}_labels"]
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DataError(
                f"{folder} should hold images (n, rows, columns) and n labels for {part}, and "
                f"holds shapes {images.shape} and {labels.shape}: the files do not belong together."
            )
        arrays[part] = images[:, None]
    return arrays


def _find(folder: Path, stem: str) -> Path:
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    expected = ", ".join(FILES.values())
    raise DataError(
        f"{folder} has no file {stem} or {stem}.gz. A folder of IDX files holds these four, each "
        f"plain or with .gz: {expected}."
    )
