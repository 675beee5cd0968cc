"""Tables of continuous measurements, offline: three that scikit-learn ships, and photo patches.

Where a column holds the same value again and again, a density can grow without bound. So columns
that do, such as one of zeros and ones, are left out, and the others get uniform noise as wide as
their last digit, once and for all. Papers on density estimation do the same, each for other tables
(Papamakarios et al., 2017, appendix D).
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import sklearn.datasets
import torch

from flowcourse.data.dataset import Dataset
from flowcourse.data.photos import ATTRIBUTION, load_photo_patches

__all__ = ["blurred", "load_table", "often_smallest", "patch_differences", "uncorrelated"]

TEST_SHARE = 0.2
SEED = 0
# Both as in the program of Papamakarios et al. (2017), for GAS and for HEPMASS.
MOST_CORRELATED = 0.98
OFTEN = 5

SHIPPED: dict[str, Callable] = {
    "diabetes": partial(sklearn.datasets.load_diabetes, scaled=False),
    "wine": sklearn.datasets.load_wine,
    "breast_cancer": sklearn.datasets.load_breast_cancer,
}
SOURCES = {
    "diabetes": (
        "none stated by its source, https://www4.stat.ncsu.edu/~boos/var.select/diabetes.html",
        "B. Efron, T. Hastie, I. Johnstone and R. Tibshirani (2004), Least Angle Regression",
    ),
    "wine": (
        "CC BY 4.0 (UCI Machine Learning Repository)",
        "S. Aeberhard and M. Forina (1991), Wine, UCI Machine Learning Repository, "
        "doi:10.24432/C5PC7J",
    ),
    "breast_cancer": (
        "CC BY 4.0 (UCI Machine Learning Repository)",
        "W. Wolberg, O. Mangasarian, N. Street and W. Street (1993), Breast Cancer Wisconsin "
        "(Diagnostic), UCI Machine Learning Repository, doi:10.24432/C5DW2B",
    ),
}


def load_table(name: str) -> Dataset:
    """One of the shipped tables, float32, each column with mean 0 and deviation 1 on train.

    - `diabetes`: 8 of 10 columns for 442 patients; `wine`: 13 for 178 wines; `breast_cancer`: 21
      of 30 for 569 tumours. Left out are the columns of `often_smallest`, and of those that nearly
      agree all but one (`uncorrelated`). A fifth of the rows, drawn once, is the test set; the rest
      come in the order of that draw, so that the last of them can be held out.
    - `grey_patches`: 8x8 patches of two photos, split as `photo_patches` are, see
      `patch_differences`.

    Args:
        name: `diabetes`, `wine`, `breast_cancer` or `grey_patches`.
    """
    rng = np.random.default_rng(SEED)
    if name == "grey_patches":
        photos = load_photo_patches(size=8)
        train, test = (patch_differences(part.numpy(), rng) for part in (photos.train, photos.test))
        terms = (photos.license, ATTRIBUTION)
    else:
        raw = SHIPPED[name]().data
        rows = rng.permutation(blurred(raw[:, ~often_smallest(raw)], rng))
        end = len(rows) - round(TEST_SHARE * len(rows))
        columns = uncorrelated(rows[:end])
        train, test = rows[:end, columns], rows[end:, columns]
        terms = SOURCES[name]
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    license, attribution = terms
    return Dataset(
        name=name,
        train=torch.from_numpy((train - mean) / deviation).float(),
        test=torch.from_numpy((test - mean) / deviation).float(),
        levels=None,
        event_shape=(train.shape[1],),
        license=license,
        attribution=attribution,
    )


def blurred(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add uniform noise to every column, as wide as the smallest difference of two values."""
    steps = [np.diff(np.unique(column)) for column in x.T]
    # What rounding makes of equal numbers is no step.
    widths = [
        step[step > 1e-6 * np.abs(column).max()].min()
        for step, column in zip(steps, x.T, strict=True)
    ]
    return x + widths * rng.random(x.shape)


def often_smallest(x: np.ndarray) -> np.ndarray:
    """Which columns hold their smallest value more than five times.

    Source: Papamakarios et al. (2017), the program (`hepmass`).
    """
    return (x == x.min(axis=0)).sum(axis=0) > OFTEN


def uncorrelated(x: np.ndarray) -> list[int]:
    """Columns that remain when the first of any two with a correlation above 0.98 is left out.

    They are left out one by one, and correlations are counted anew each time.

    Source: Papamakarios et al. (2017), the program (`gas`).
    """
    close = np.corrcoef(x.T) > MOST_CORRELATED
    kept = list(range(x.shape[1]))
    while doubled := [i for i in kept if close[i, kept].sum() > 1]:
        kept.remove(doubled[0])
    return kept


def patch_differences(patches: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Patches `(n, 3, 8, 8)` as `(n, 63)`: grey with noise, less the patch's mean, less one pixel.

    The last pixel is left out because the 64 differences sum to zero: with it, all data would lie
    on a plane, where a density can be infinite.

    Source: the preparation of BSDS300, Uria et al. (2013), section 5.2.
    """
    grey = np.round(patches.astype(np.float64).mean(axis=1)).reshape(len(patches), -1)
    noisy = (grey + rng.random(grey.shape)) / 256
    return (noisy - noisy.mean(axis=1, keepdims=True))[:, :-1]
