"""The names that `load` knows, in the order in which the course meets them."""

__all__ = ["LOCAL", "NAMES", "OFFLINE", "ONLINE", "PUBLISHED_TABLES", "TABLES"]

TOYS = ("moons", "circles", "pinwheel", "checkerboard", "eight_gaussians")
PAIRS = ("digit_halves", "noisy_digits", "noisy_patches")
TABLES = ("diabetes", "wine", "breast_cancer", "grey_patches")
OFFLINE = ("digits", "binary_digits", "photo_patches", *PAIRS, *TOYS, *TABLES, "eeg")
ONLINE = ("mnist", "binary_mnist", "fashion_mnist", "cifar10")
PUBLISHED_TABLES = ("power", "gas", "hepmass", "miniboone", "bsds300")
LOCAL = ("imagenet32", "imagenet64", *PUBLISHED_TABLES)
NAMES = (*OFFLINE, *ONLINE, *LOCAL)
