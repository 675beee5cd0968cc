r"""The course's data: one function, `load`, and one result, `Dataset`.

- Offline, always there: scikit-learn's 8x8 `digits`, `photo_patches` cut from scikit-learn's two
  sample photos, and 2-D toys whose true density and entropy are known.
- Tables of continuous measurements, offline: `diabetes`, `wine`, `breast_cancer`, and
  `grey_patches`, the photos prepared as papers on density estimation prepare theirs.
- A time series, offline: `eeg`, windows of four recorded channels, the past to train on and the
  future to test on.
- Pairs, of something to predict and a picture to predict it from: `digit_halves`, `noisy_digits`,
  `noisy_patches`.
- On request: `mnist`, `fashion_mnist` and `cifar10`, from OpenML (`download=True`, kept under
  `$FLOWCOURSE_DATA` or `~/.cache/flowcourse`), and the first two from a folder of IDX files.
- From files that you download yourself: `imagenet32` and `imagenet64`, mapped into memory, and the
  five tables of the MAF paper, `power`, `gas`, `hepmass`, `miniboone` and `bsds300`.

Nothing here touches the network unless `download=True` is passed.
"""

from flowcourse.data.dataset import DataError, Dataset
from flowcourse.data.names import LOCAL, NAMES, OFFLINE, ONLINE, TABLES
from flowcourse.data.registry import Summary, available, load, summary

__all__ = ["LOCAL", "NAMES", "OFFLINE", "ONLINE", "TABLES", "DataError", "Dataset"]
__all__ += ["Summary", "available", "load", "summary"]
