r"""TarFlow: an autoregressive flow whose conditioner is a transformer on the patches of an image.

An image is cut into patches $x_1, \dots, x_N$. A block of the flow moves each of them by what the
patches before it say, number by number:

$$z_i = \bigl(x_i - \mu_i(x_{<i})\bigr) \odot e^{-\alpha_i(x_{<i})}, \qquad
  \log\left|\det \frac{\partial z}{\partial x}\right| = -\sum_i \sum_d \alpha_i(x_{<i})_d .$$

A causal transformer finds all $\mu_i$ and $\alpha_i$ in one pass. The next block goes through the
patches in the opposite order, so every patch is soon moved by all others. Sampling goes patch by
patch, and keeps keys and values.

Book: `book/autoregressive_flows/tarflow.md`. Source: Zhai et al. (2025), arXiv:2412.06329, and the
program released with it.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from flowcourse.autoregressive_flows.maf import AffineTransformer, Autoregressive, Conditioner
from flowcourse.autoregressive_flows.tarflow_sampling import (
    Guided,
    LabelledFlow,
    NoisyFlow,
    denoised,
    guided,
)
from flowcourse.bijector import Bijector, Compose, Inverse
from flowcourse.coupling.flowpp import TurnedFlow
from flowcourse.coupling.glow import Permutation
from flowcourse.coupling.realnvp import preprocess
from flowcourse.flow import Flow, StandardNormal
from flowcourse.foundations.change_of_variables import Affine
from flowcourse.foundations.likelihood import DequantizedFlow
from flowcourse.nets.symmetry import SYMMETRIES
from flowcourse.nets.transformer import CausalTransformer, Kept

__all__ = [
    "AffineTransformer",
    "Autoregressive",
    "Guided",
    "LabelledFlow",
    "NoisyFlow",
    "Patches",
    "TransformerConditioner",
    "build",
    "denoised",
    "guided",
]


class Patches(Bijector):
    """Images as vectors, patch after patch from the top left; nothing moves, so log|det| = 0.

    `(c, h, w)` becomes `c * h * w` numbers: the rows of patches from left to right, and of each
    patch its channels, rows and columns.

    Args:
        event_shape: `(channels, height, width)`; the patch must divide height and width.
        patch: side of a patch in pixels.

    Source: Zhai et al. (2025).
    """

    def __init__(self, event_shape: Sequence[int], patch: int):
        super().__init__()
        channels, height, width = event_shape
        if height % patch or width % patch:
            raise ValueError(
                f"{height} x {width} pixels cannot be cut into patches of {patch} x {patch}: "
                "choose a patch that divides both sides."
            )
        self.patch, self.rows, self.channels = patch, height // patch, channels

    def forward(self, x, context=None):
        cut = "b c (rows p) (columns q) -> b (rows columns c p q)"
        return rearrange(x, cut, p=self.patch, q=self.patch), x.new_zeros(x.shape[0])

    def inverse(self, z, context=None):
        join = "b (rows columns c p q) -> b c (rows p) (columns q)"
        sizes = dict(rows=self.rows, c=self.channels, p=self.patch, q=self.patch)
        return rearrange(z, join, **sizes), z.new_zeros(z.shape[0])


class TransformerConditioner(Conditioner):
    r"""Parameters of every patch from the patches before it, by a causal transformer.

    The transformer reads patches $1, \dots, N$, and what it says at patch $i$ are the parameters of
    patch $i + 1$. The first patch, of which nothing is known, has all parameters 0: the block does
    not move it, and the next block, in the opposite order, moves it last.

    Parameters start at 0, so a new block is the identity.

    Args:
        dims: of the vectors, a multiple of `numbers`.
        outputs: parameters of each number.
        numbers: of each patch.
        width: numbers of the transformer at each patch.
        layers: of the transformer.
        heads: of its attention.
        classes: number of classes, 0 for none; the context then is a class of each example, an
            integer of shape `(batch,)`, whose learned vector is added at every patch.
        dropout: see `CausalTransformer`.

    Raises:
        ValueError: patches that do not divide the vector; or, when called, no class.

    Source: Zhai et al. (2025), eqs. 3 and 5, and the released program.
    """

    def __init__(
        self,
        dims: int,
        outputs: int,
        numbers: int,
        *,
        width: int,
        layers: int,
        heads: int,
        classes: int = 0,
        dropout: float = 0.0,
    ):
        if dims % numbers:
            raise ValueError(f"{dims} numbers cannot be cut into patches of {numbers}.")
        super().__init__([slice(start, start + numbers) for start in range(0, dims, numbers)])
        self.outputs, self.numbers = outputs, numbers
        self.read = nn.Linear(numbers, width)
        self.position = nn.Parameter(0.01 * torch.randn(dims // numbers, width))
        self.classes = nn.Parameter(0.01 * torch.randn(classes, width)) if classes else None
        self.transformer = CausalTransformer(width, layers, heads, dropout=dropout)
        self.write = nn.Linear(width, outputs * numbers)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(self, x, context=None):
        patches = x.unflatten(1, (-1, self.numbers))
        said = self._say(patches, self.position, self._vectors(x, context))
        h = torch.cat([torch.zeros_like(said[:, :1]), said[:, :-1]], dim=1)
        return rearrange(h, "b patches (outputs n) -> b (outputs patches n)", n=self.numbers)

    def one_by_one(self, like, context=None):
        kept: Kept = {}
        vectors = self._vectors(like, context)
        parameters = like.new_zeros(like.shape[0], self.outputs * self.numbers)
        for place in self.position.split(1):
            found = yield parameters
            parameters = self._say(found[:, None], place, vectors, kept)[:, 0]

    def _say(
        self,
        patches: Float[Tensor, "batch patches numbers"],
        position: Float[Tensor, "patches width"],
        vectors: Tensor | float,
        kept: Kept | None = None,
    ) -> Float[Tensor, "batch patches outputs_times_numbers"]:
        return self.write(self.transformer(self.read(patches) + position + vectors, kept))

    def _vectors(self, x: Tensor, context: Tensor | None) -> Tensor | float:
        if self.classes is None:
            return 0.0
        if context is None or context.shape != (len(x),):
            found = "none" if context is None else f"shape {tuple(context.shape)}"
            raise ValueError(
                f"A conditioner of {len(self.classes)} classes expects context=classes, integers "
                f"of shape ({len(x)},), and got {found}."
            )
        return self.classes[context][:, None]


def build(
    event_shape: Sequence[int],
    levels: int | None,
    *,
    patch: int = 2,
    width: int = 768,
    blocks: int = 8,
    layers: int = 8,
    heads: int = 12,
    noise: float | None = None,
    preprocessing: str = "centred",
    classes: int = 0,
    forget: float = 0.1,
    turn: float = 0.0,
    dropout: float = 0.0,
) -> Flow | DequantizedFlow | NoisyFlow:
    """TarFlow for images `(c, h, w)` or vectors `(d,)`; the sizes are the paper's for ImageNet 64.

    Args:
        event_shape: shape of one example.
        levels: number of levels of discrete data, or None for continuous data.
        patch: side of a patch in pixels; of vectors, how many numbers are a patch.
        width: of the transformers.
        blocks: autoregressive blocks, whose order alternates.
        layers: of each block's transformer.
        heads: of its attention; the released program has heads of 64 numbers.
        noise: standard deviation of Gaussian noise on discrete data, where the data span -1 to 1;
            the model is then a `NoisyFlow`. None for uniform noise, and a bound on the integers.
        preprocessing: of discrete data, "centred" (-1 to 1, as in the program) or RealNVP's
            "logit", which is for uniform noise.
        classes: number of classes, if the model is to know the labels, see `LabelledFlow`.
        forget: how often a label is withheld in training, so that guidance is possible.
        turn: how often an image is turned or mirrored in training, see `flowpp.TurnedFlow`.
        dropout: in the transformers.

    Raises:
        ValueError: a choice that does not exist, or choices that exclude each other.

    The released program bounds no log-scale, and adds the mean of all class vectors where a label
    is withheld; here |alpha| < 7, and "no label" has a vector of its own. Dropout and turned images
    are additions for small data.

    Source: Zhai et al. (2025), and the released program.
    """
    if preprocessing not in ("centred", "logit"):
        raise ValueError(f"preprocessing is 'centred' or 'logit', not {preprocessing!r}.")
    if noise is not None and (levels is None or preprocessing == "logit"):
        raise ValueError(
            f"noise={noise} is for discrete data that are centred; here levels={levels} and "
            f"preprocessing={preprocessing!r}: set noise=None, or preprocessing='centred'."
        )
    square = len(event_shape) == 3 and event_shape[1] == event_shape[2]
    if turn and (classes or noise is not None or levels is None or not square):
        raise ValueError(
            f"turn={turn} is for square images with uniform noise and without classes: set turn=0."
        )
    steps: list[Bijector] = []
    if levels is not None and preprocessing == "logit":
        steps.append(preprocess(levels))
    elif levels is not None:
        # Integers with noise in [0, 1) fill 0 to `levels`, and integers alone 0 to `levels - 1`.
        span = levels if noise is None else levels - 1
        steps.append(Affine(shift=-1.0, scale=2 / span))
    dims = math.prod(event_shape)
    if len(event_shape) == 3:
        steps.append(Patches(event_shape, patch))
        numbers = event_shape[0] * patch**2
    elif len(event_shape) == 1:
        numbers = patch
    else:
        raise ValueError(f"TarFlow expects (c, h, w) or (d,) and got {tuple(event_shape)}.")
    transformer = AffineTransformer()

    def backwards() -> Bijector:
        """The patches from the last to the first."""
        return Permutation(torch.arange(dims).unflatten(0, (-1, numbers)).flip(0).flatten())

    for block in range(blocks):
        conditioner = TransformerConditioner(
            dims,
            transformer.outputs,
            numbers,
            width=width,
            layers=layers,
            heads=heads,
            classes=classes + 1 if classes else SYMMETRIES if turn else 0,
            dropout=dropout,
        )
        step = Autoregressive(conditioner, transformer)
        # Every second block goes from the last patch to the first, and puts them back.
        steps.append(Compose(backwards(), step, backwards()) if block % 2 else step)
    if len(event_shape) == 3:
        steps.append(Inverse(Patches(event_shape, patch)))
    bijector, base = Compose(*steps), StandardNormal(*event_shape)
    flow = LabelledFlow(bijector, base, classes, forget) if classes else Flow(bijector, base)
    model: Flow | DequantizedFlow | NoisyFlow = flow
    if noise is not None and levels is not None:
        model = NoisyFlow(flow, levels, sigma=noise * (levels - 1) / 2)
    elif turn and levels is not None:
        model = TurnedFlow(flow, levels, None, turn)
    elif levels is not None:
        model = DequantizedFlow(flow, levels)
    model.class_conditional = bool(classes)
    return model
