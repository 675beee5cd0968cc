"""The names that `load` knows, in the order in which the course meets them."""

__all__ = ["LOCAL", "NAMES", "OFFLINE", "ONLINE"]

TOYS = ("moons", "circles", "pinwheel", "checkerboard", "eight_gaussians")
PAIRS = ("digit_halves", "noisy_digits", "noisy_patches")
OFFLINE = ("digits", "binary_digits", "photo_patches", *PAIRS, *TOYS)
ONLINE = ("mnist", "binary_mnist", "fashion_mnist", "cifar10")
LOCAL = ("imagenet32", "imagenet64")
NAMES = (*OFFLINE, *ONLINE, *LOCAL)
