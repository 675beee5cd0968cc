"""Networks that many topics share; none of them is invertible, and none needs to be."""

from flowcourse.nets.conv import ResidualConvNet
from flowcourse.nets.latent import LatentToMaps, MapsToLatent
from flowcourse.nets.mlp import MLP, zero_init

__all__ = ["MLP", "LatentToMaps", "MapsToLatent", "ResidualConvNet", "zero_init"]
