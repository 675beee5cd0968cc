"""The five tables on which papers compare flows, from files that you download yourself.

All steps are those of the program released with Papamakarios et al. (2017), in its order, including
those that one would do otherwise: a likelihood can only be compared on the same numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from flowcourse.data.cache import cached_file, read_cache, write_cache
from flowcourse.data.dataset import DataError, Dataset
from flowcourse.data.tables import often_smallest, uncorrelated

__all__ = ["PUBLISHED", "Published", "load_published_table"]

Parts = tuple[np.ndarray, np.ndarray]


def _without_last(share: float, rows: np.ndarray) -> Parts:
    """The rows but the last, and the last."""
    end = len(rows) - int(share * len(rows))
    return rows[:end], rows[end:]


def _standardised(train: np.ndarray, test: np.ndarray, correction: int = 0) -> Parts:
    mean, deviation = train.mean(axis=0), train.std(axis=0, ddof=correction)
    return (train - mean) / deviation, (test - mean) / deviation


def power(folder: Path) -> Parts:
    """Household power: shuffled, two columns left out, noise as wide as the last digit."""
    # The legacy generator: a newer one would shuffle in another order.
    rng = np.random.RandomState(42)
    rows = _array(folder / "power" / "data.npy")
    rng.shuffle(rows)
    rows = np.delete(rows, [1, 3], axis=1)
    n = len(rows)
    volts, active = 0.01 * rng.rand(n, 1), 0.001 * rng.rand(n, 1)
    meters = rng.rand(n, 3)
    rows = rows + np.hstack([active, volts, meters, np.zeros((n, 1))])
    return _standardised(*_without_last(0.1, rows))


def gas(folder: Path) -> Parts:
    """Gas sensors: columns with a correlation above 0.98 left out; test rows in the statistics."""
    rows = _array(folder / "gas" / "sensors.npy")
    rows = rows[:, uncorrelated(rows)]
    rows, _ = _standardised(rows, rows, correction=1)
    return _without_last(0.1, rows)


def hepmass(folder: Path) -> Parts:
    """Particle collisions: the signal only, without columns whose smallest value is frequent."""
    parts = []
    for name in ("1000_train.csv", "1000_test.csv"):
        rows = _csv(folder / "hepmass" / name)
        parts.append(rows[rows[:, 0] == 1, 1:])
    train, test = parts
    # The rows of the test file end in one number more.
    train, test = _standardised(train, test[:, : train.shape[1]], correction=1)
    kept = ~often_smallest(train)
    return train[:, kept], test[:, kept]


def miniboone(folder: Path) -> Parts:
    """Neutrinos: the released array is cleaned already."""
    return _standardised(*_without_last(0.1, _array(folder / "miniboone" / "data.npy")))


def bsds300(folder: Path) -> Parts:
    """Patches of photos, less their mean: the released arrays are ready."""
    train, validation, test = (
        _array(folder / "BSDS300" / f"{part}.npy") for part in ("train", "validation", "test")
    )
    return np.concatenate([train, validation]), test


@dataclass(frozen=True)
class Published:
    """What is known of a published table.

    Attributes:
        prepare: reads the files of a folder and gives train (with validation last) and test.
        dims: number of columns after that.
        train: rows to train on, with those for validation.
        validation: how many of them, the last, the paper holds out.
        test: rows to test on.
        attribution: whom to credit.
    """

    prepare: Callable[[Path], Parts]
    dims: int
    train: int
    validation: int
    test: int
    attribution: str


UCI = "UCI Machine Learning Repository"
PUBLISHED = {
    "power": Published(
        power, 6, 1_844_352, 184_435, 204_928,
        f"G. Hebrail and A. Berard (2006), Individual Household Electric Power Consumption, {UCI}",
    ),
    "gas": Published(
        gas, 8, 946_859, 94_685, 105_206,
        f"J. Fonollosa (2015), Gas Sensor Array Under Dynamic Gas Mixtures, {UCI}",
    ),
    "hepmass": Published(
        hepmass, 21, 350_136, 35_013, 174_987, f"D. Whiteson (2016), HEPMASS, {UCI}"
    ),
    "miniboone": Published(
        miniboone, 43, 32_840, 3_284, 3_648,
        f"B. Roe (2005), MiniBooNE Particle Identification, {UCI}",
    ),
    "bsds300": Published(
        bsds300, 63, 1_050_000, 50_000, 250_000,
        "D. Martin, C. Fowlkes, D. Tal and J. Malik (2001), A Database of Human Segmented Natural "
        "Images; patches by G. Papamakarios et al. (2017)",
    ),
}  # fmt: skip


def load_published_table(name: str, folder: str | Path | None = None) -> Dataset:
    """One of the five tables, float32, prepared as Papamakarios et al. (2017) prepare it.

    The paper's validation rows are the last of `train`: hold out `PUBLISHED[name].validation`.

    Args:
        name: `power`, `gas`, `hepmass`, `miniboone` or `bsds300`.
        folder: with the published files, one folder for each table inside. Needed once; what was
            prepared is kept under `$FLOWCOURSE_DATA`.

    Raises:
        DataError: the files are not there, or hold something else.

    Source: Papamakarios et al. (2017), appendix D, and the program released with it.
    """
    known = PUBLISHED[name]
    if cached_file(name).exists():
        arrays = read_cache(name, "folder=...")
    elif folder is None:
        raise DataError(f"{name} is not on this machine. {_ways_to_get(name)}")
    else:
        train, test = known.prepare(Path(folder).expanduser())
        for part, rows, count in (("train", train, known.train), ("test", test, known.test)):
            if rows.shape != (count, known.dims):
                raise DataError(
                    f"{name}, prepared, should have {part} of shape {(count, known.dims)} and has "
                    f"{rows.shape}: are these the published files? {_ways_to_get(name)}"
                )
        arrays = {"train": train.astype(np.float32), "test": test.astype(np.float32)}
        write_cache(name, arrays)
    return Dataset(
        name=name,
        train=torch.from_numpy(arrays["train"]),
        test=torch.from_numpy(arrays["test"]),
        levels=None,
        event_shape=(known.dims,),
        license="that of its source, see attribution",
        attribution=known.attribution,
    )


def _array(path: Path) -> np.ndarray:
    try:
        rows = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise _absent(path) from error
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, error) from error
    if rows.ndim != 2:
        raise _damaged(path, f"it should hold a table and holds an array of shape {rows.shape}")
    return rows.astype(np.float64)


def _csv(path: Path) -> np.ndarray:
    try:
        return np.loadtxt(path, delimiter=",", skiprows=1)
    except FileNotFoundError as error:
        raise _absent(path) from error
    except ValueError as error:
        raise _damaged(path, error) from error


def _absent(path: Path) -> DataError:
    return DataError(f"There is no file {path}. {_ways_to_get(path.parent.name.lower())}")


def _damaged(path: Path, reason: object) -> DataError:
    return DataError(f"{path} cannot be read ({reason}): get it again.")


# The two files in formats that need another package to read, and what makes arrays of them.
CONVERSIONS = {
    "gas": "import numpy, pandas; t = pandas.read_pickle('gas/ethylene_CO.pickle'); "
    "numpy.save('gas/sensors.npy', t.drop(columns=['Meth', 'Eth', 'Time']).to_numpy())",
    "bsds300": "import numpy, h5py; f = h5py.File('BSDS300/BSDS300.hdf5'); "
    "[numpy.save(f'BSDS300/{k}.npy', f[k][:]) for k in ('train', 'validation', 'test')]",
}


def _ways_to_get(name: str) -> str:
    convert = ""
    if name in CONVERSIONS:
        package = "pandas" if name == "gas" else "h5py"
        convert = f' In that folder run once, where {package} is installed: python -c "'
        convert += f'{CONVERSIONS[name]}" .'
    return (
        "To get it, download data.tar.gz of https://zenodo.org/records/1161203 (the data of the "
        f"MAF paper) and unpack it.{convert} Then call load({name!r}, folder=...) once with the "
        "unpacked folder, or give flowcourse train --set data.folder=... : it writes "
        f"{cached_file(name)} (set FLOWCOURSE_DATA for another place), and the folder is not "
        "needed again."
    )
