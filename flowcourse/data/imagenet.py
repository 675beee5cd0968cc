"""Downsampled ImageNet, from files that you download yourself, read from disk as it is needed.

64x64 pixels of 1.3 million photos are 16 GB. They are written once, as an array in a file, and from
then on mapped into memory: an example is read when it is indexed, and processes on one machine
share what has been read.
"""

import codecs
import math
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap

from flowcourse.data.cache import cache_folder
from flowcourse.data.dataset import DataError, Dataset

__all__ = ["COUNTS", "PIXELS", "is_converted", "load_imagenet"]

PIXELS = {"imagenet32": 32, "imagenet64": 64}
COUNTS = {"train": 1_281_167, "test": 50_000}
FILES = {"train": [f"train_data_batch_{k}" for k in range(1, 11)], "test": ["val_data"]}
CLASSES = 1000
# What a pickle of a dict of arrays calls. Anything else in a pickle is refused, not run.
HARMLESS = {
    **dict.fromkeys(
        [("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")],
        np.empty(0).__reduce__()[0],
    ),
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}


def load_imagenet(name: str, folder: str | Path | None = None) -> Dataset:
    """1281167 and 50000 colour images of 32x32 or 64x64 pixels, 256 levels; test is "validation".

    Papers up to Flow++ measure on an earlier downsampling (van den Oord et al., 2016), which is no
    longer distributed; bits per dimension on the two cannot be compared.

    Args:
        name: `imagenet32` or `imagenet64`.
        folder: of the published files, `.npz` or pickled: `train_data_batch_1` to
            `train_data_batch_10` and `val_data`. Needed once; then it can be deleted.

    Raises:
        DataError: the files are not there, or hold something else.
    """
    if not is_converted(name):
        if folder is None:
            raise DataError(f"{name} is not on this machine. {_ways_to_get(name)}")
        _convert(name, Path(folder).expanduser())
    shape = (3, PIXELS[name], PIXELS[name])
    parts = {part: _mapped(name, part, (COUNTS[part], *shape)) for part in COUNTS}
    labels = {part: _mapped(name, f"{part}_labels", (COUNTS[part],)) for part in COUNTS}
    return Dataset(
        name=name,
        train=parts["train"],
        test=parts["test"],
        levels=256,
        event_shape=shape,
        license="ImageNet's terms of access: for research and education, not for commerce",
        attribution="P. Chrabaszcz, I. Loshchilov and F. Hutter (2017), A Downsampled Variant of "
        "ImageNet, arXiv:1707.08819; J. Deng et al. (2009), ImageNet",
        train_labels=labels["train"].long(),
        test_labels=labels["test"].long(),
    )


def is_converted(name: str) -> bool:
    """Has this data set been written to `$FLOWCOURSE_DATA` before?"""
    return (cache_folder() / name).is_dir()


def _mapped(name: str, part: str, shape: tuple[int, ...]) -> torch.Tensor:
    path = cache_folder() / name / f"{part}.npy"
    try:
        # "c": what a program writes into the tensor stays in its memory and out of the file.
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, name, error) from error
    if array.shape != shape:
        raise _damaged(path, name, f"it should have shape {shape} and has {array.shape}")
    return torch.from_numpy(array)


def _damaged(path: Path, name: str, reason: object) -> DataError:
    return DataError(f"{path} is damaged ({reason}): delete {path.parent}. {_ways_to_get(name)}")


def _convert(name: str, folder: Path) -> None:
    """Write all parts beside their final place, then move them there in one step."""
    kept, size = cache_folder() / name, PIXELS[name]
    kept.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=kept.parent, prefix=f".{name}-"))
    try:
        for part, count in COUNTS.items():
            images = open_memmap(scratch / f"{part}.npy", "w+", np.uint8, (count, 3, size, size))
            labels = open_memmap(scratch / f"{part}_labels.npy", "w+", np.int16, (count,))
            done = 0
            for path, rows, classes in _batches(folder, part, name):
                end = done + len(rows)
                if end > count:
                    raise DataError(
                        f"{folder} should hold {count} images for {part} and holds {end} or more."
                    )
                if rows.dtype != np.uint8 or rows.shape[1:] != (math.prod(images.shape[1:]),):
                    raise DataError(
                        f"{path} should hold rows of {math.prod(images.shape[1:])} bytes for "
                        f"{name} and holds {rows.dtype} of shape {rows.shape}."
                    )
                images[done:end] = rows.reshape(-1, *images.shape[1:])
                labels[done:end] = classes - 1  # the files count from 1
                done = end
            if done != count or labels.min() < 0 or labels.max() >= CLASSES:
                raise DataError(
                    f"{folder} should hold {count} images for {part}, with labels 1 to {CLASSES}, "
                    f"and holds {done}, with labels {labels.min() + 1} to {labels.max() + 1}."
                )
            images.flush()
            labels.flush()
        if not is_converted(name):  # another process may have been faster
            os.replace(scratch, kept)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _batches(folder: Path, part: str, name: str) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    for stem in FILES[part]:
        found = [p for p in (folder / f"{stem}.npz", folder / stem) if p.is_file()]
        if not found:
            raise DataError(f"{folder} has no file {stem} or {stem}.npz. {_ways_to_get(name)}")
        try:
            batch = _read(found[0])
            yield found[0], np.asarray(batch["data"]), np.asarray(batch["labels"], dtype=np.int64)
        except (OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            raise DataError(f"{found[0]} cannot be read ({error}): get it again.") from error


def _read(path: Path) -> Any:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in ("data", "labels")}
    with path.open("rb") as file:
        return _ArraysOnly(file).load()


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return HARMLESS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, not for arrays") from None


def _ways_to_get(name: str) -> str:
    size = PIXELS[name]
    return (
        f"To get it, register at https://image-net.org, download the training and the validation "
        f"images of size {size}x{size} (downsampled, npz or pickled), unpack all eleven files into "
        f"one folder, and call load({name!r}, folder=...) once, or give flowcourse train "
        f"--set data.folder=... : it writes {cache_folder() / name} (set FLOWCOURSE_DATA for "
        "another place), and the folder is not needed again."
    )
