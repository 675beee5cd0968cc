r"""PixelVAE: a latent variable for the whole image, an autoregressive decoder for its pixels.

$$P(x) = \int p(z)\,P(x \mid z)\,dz
  \;\ge\; \exp\Big(\mathbb{E}_{q(z|x)}[\log P(x \mid z)] - D\big(q(z|x)\,\|\,p(z)\big)\Big)$$

The prior $p(z)$ is a standard normal, $q(z|x)$ a diagonal Gaussian whose mean and scale a network
computes, and $P(x|z)$ a PixelCNN that is given $z$. How far back the decoder looks, its *reach*,
decides what is left for $z$ to say: with reach 0 the pixels are independent given $z$, as in a
plain VAE; a decoder that sees all earlier pixels can do without $z$, and often does.

Book: `book/autoregressive/pixelvae.md`. Sources: Gulrajani et al. (2017), arXiv:1611.05013; Chen et
al. (2017), arXiv:1611.02731; Kingma & Welling (2014), arXiv:1312.6114.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flowcourse.autoregressive.pixelcnn import MaskedConv2d
from flowcourse.chain_rule import AutoregressiveModel
from flowcourse.discrete import require_levels
from flowcourse.foundations.likelihood import bits_per_dim, importance_weighted_bound
from flowcourse.nets import LatentToMaps, MapsToLatent

__all__ = [
    "Encoder",
    "GivenLatent",
    "PixelDecoder",
    "PixelVAE",
    "build",
    "gaussian_kl",
    "gaussian_log_density",
]

ACTIVE = 0.01  # variance of a posterior mean over the data, from which a latent counts as in use


def gaussian_log_density(
    z: Float[Tensor, "batch latents"],
    mean: Float[Tensor, "batch latents"],
    log_scale: Float[Tensor, "batch latents"],
) -> Float[Tensor, " batch"]:
    r"""$\log \mathcal{N}(z; \mu, e^{2s})$ with diagonal covariance, in nats; $s$ is `log_scale`."""
    noise = (z - mean) * (-log_scale).exp()
    return (-0.5 * (noise**2 + math.log(2 * math.pi)) - log_scale).sum(dim=1)


def gaussian_kl(
    mean: Float[Tensor, "batch latents"], log_scale: Float[Tensor, "batch latents"]
) -> Float[Tensor, "batch latents"]:
    r"""$D(\mathcal{N}(\mu, \sigma^2) \| \mathcal{N}(0, 1))$ of every latent, in nats.

    $$\tfrac12\left(\mu^2 + \sigma^2 - 1\right) - \log\sigma, \qquad \log\sigma = s$$

    Args:
        mean: $\mu$.
        log_scale: $s$, the logarithm of the standard deviation.

    Source: Kingma & Welling (2014), appendix B.
    """
    return 0.5 * (mean**2 + (2 * log_scale).exp() - 1) - log_scale


class Encoder(nn.Module):
    r"""The mean and the log-scale of $q(z|x)$.

    Args:
        event_shape: channels, height and width of an image.
        levels: its pixels take values 0, ..., levels - 1.
        latents: the dimension of $z$.
        hidden: feature maps.
        dropout: of features, before the last layer.
    """

    def __init__(
        self, event_shape: Sequence[int], levels: int, latents: int, hidden: int, dropout: float
    ):
        super().__init__()
        self.levels = levels
        self.net = MapsToLatent(event_shape, hidden, 2 * latents, dropout)

    def forward(
        self, x: Float[Tensor, "batch c h w"]
    ) -> tuple[Float[Tensor, "batch latents"], Float[Tensor, "batch latents"]]:
        """Mean and log-scale for images of levels, in a floating-point dtype."""
        mean, log_scale = self.net(2 * x / (self.levels - 1) - 1).chunk(2, dim=1)
        return mean, log_scale


class ResidualBlock(nn.Module):
    """ReLU, 1x1 convolution, ReLU, dropout, 1x1 convolution, plus the input; no new neighbours."""

    def __init__(self, hidden: int, colours: int, dropout: float):
        super().__init__()
        self.net = nn.Sequential(
            nn.ReLU(),
            MaskedConv2d(hidden, hidden, 1, "B", colours),
            nn.ReLU(),
            nn.Dropout(dropout),
            MaskedConv2d(hidden, hidden, 1, "B", colours),
        )

    def forward(self, h: Float[Tensor, "batch hidden h w"]) -> Float[Tensor, "batch hidden h w"]:
        """Apply the block."""
        return h + self.net(h)


class PixelDecoder(AutoregressiveModel):
    r"""$P(x \mid z)$: pixels in raster order, each given $z$ and the earlier pixels within reach.

    One masked convolution of side $2r + 1$ looks at the image, everything after it works on each
    pixel by itself. So the decoder sees exactly the earlier pixels at most $r$ rows up and $r$
    columns away, without a blind spot, and its depth does not depend on $r$.

    Args:
        event_shape: channels, height and width; with several channels each is a colour.
        levels: the pixels take values 0, ..., levels - 1.
        latents: the dimension of $z$, which is passed as `context`.
        reach: $r$. With 0 the pixels are independent given $z$ (the colours of one pixel are not).
        hidden: feature maps, a multiple of the number of channels.
        blocks: residual blocks.
        dropout: in the blocks.

    Source: Gulrajani et al. (2017), section 3.1.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        levels: int,
        latents: int,
        reach: int,
        hidden: int,
        blocks: int,
        dropout: float = 0.0,
    ):
        super().__init__(event_shape, levels)
        colours, height, width = event_shape
        if reach < 0:
            raise ValueError(f"reach counts rows and columns, from 0, and is {reach}.")
        self.reach = reach
        self.upsample = LatentToMaps(latents, hidden, (height, width))
        self.look = MaskedConv2d(colours, hidden, 2 * reach + 1, "A", colours)
        self.blocks = nn.Sequential(
            *(ResidualBlock(hidden, colours, dropout) for _ in range(blocks)), nn.ReLU()
        )
        self.out = MaskedConv2d(hidden, colours * levels, 1, "B", colours)

    def logits(self, h, context=None):
        seen, told = self.look(h.squeeze(1)), self.upsample(self._latent(context))
        return self._pixelwise(seen + told)

    def conditional(self, x, place, context=None, cache=None):
        """See `AutoregressiveModel`; with a cache, only one pixel's features are computed."""
        if cache is None:
            return super().conditional(x, place, context)
        if "maps" not in cache:
            cache["maps"] = self.upsample(self._latent(context))
        _, height, width = self.event_shape
        colour, pixel = divmod(self.order[place], height * width)
        row, column = divmod(pixel, width)
        side = self.look.kernel_size[0]
        around = F.pad(self.encode(x).squeeze(1), (self.reach,) * 4)
        window = around[:, :, row : row + side, column : column + side]
        seen = F.conv2d(window, self.look.weight * self.look.mask, self.look.bias)
        here = cache["maps"][:, :, row : row + 1, column : column + 1]
        return self._pixelwise(seen + here)[:, colour, 0, 0]

    def _pixelwise(self, features: Float[Tensor, "batch hidden h w"]) -> Tensor:
        out = self.out(self.blocks(features))
        return out.unflatten(1, (self.event_shape[0], self.levels)).movedim(2, -1)

    def _latent(self, context: Tensor | None) -> Tensor:
        if context is None:
            raise ValueError(
                "This decoder needs its latents: pass context=z, one z for each image."
            )
        return context


class GivenLatent(AutoregressiveModel):
    """A decoder with one latent for all images: an exact model of its own, the mixture's component.

    Args:
        decoder: gives the conditionals.
        z: the latent, shape `(latents,)`.
    """

    z: Tensor

    def __init__(self, decoder: PixelDecoder, z: Float[Tensor, " latents"]):
        super().__init__(decoder.event_shape, decoder.levels, decoder.order)
        self.decoder = decoder
        self.register_buffer("z", z)

    def logits(self, h, context=None):
        return self.decoder.logits(h, self.z.expand(len(h), -1))

    def conditional(self, x, place, context=None, cache=None):
        return self.decoder.conditional(x, place, self.z.expand(len(x), -1), cache)


class PixelVAE(nn.Module):
    r"""A VAE with an autoregressive decoder; every likelihood of it is a **bound**.

    Args:
        encoder: from images to the mean and the log-scale of $q(z|x)$.
        decoder: $P(x|z)$, with `context=z`.
        latents: the dimension of $z$.
        free_nats: training charges each latent at least this much, used or not; 0 charges what it
            costs. Only `forward` in training mode knows of it: every number that is reported is a
            bound without it.

    Source: Gulrajani et al. (2017), section 3.1; free bits: Kingma et al. (2016), appendix C.8.
    """

    kind = "bound"

    def __init__(
        self,
        encoder: nn.Module,
        decoder: AutoregressiveModel,
        latents: int,
        free_nats: float = 0.0,
    ):
        super().__init__()
        if free_nats < 0:
            raise ValueError(f"free_nats is an allowance, 0 or more, and is {free_nats}.")
        self.encoder = encoder
        self.decoder = decoder
        self.latents = latents
        self.free_nats = free_nats

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one example."""
        return self.decoder.event_shape

    @property
    def levels(self) -> int:
        """How many values a pixel takes."""
        return self.decoder.levels

    # Bounds

    def posterior(
        self, x: Tensor
    ) -> tuple[Float[Tensor, "batch latents"], Float[Tensor, "batch latents"]]:
        r"""Mean and log-scale of $q(z|x)$, the approximate posterior of each image."""
        parameter = next(self.encoder.parameters())
        return self.encoder(require_levels(x, self.levels).to(parameter.dtype))

    def terms(self, x: Tensor) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch latents"]]:
        r"""Where the nats of the bound go.

        Returns:
            $\log P(x \mid \mu + \sigma\epsilon)$ at one draw of standard normal noise,
            and $D(q(z_j|x) \| p(z_j))$ of every latent. The first minus the sum of
            the second is one draw of the evidence lower bound (ELBO).

        Source: Kingma & Welling (2014), eqs. 7 and 10.
        """
        mean, log_scale = self.posterior(x)
        z = mean + log_scale.exp() * torch.randn_like(mean)
        return self.decoder.log_prob(x, context=z), gaussian_kl(mean, log_scale)

    def forward(self, x: Tensor) -> Float[Tensor, " batch"]:
        r"""What training maximises, in nats: one draw of the ELBO.

        In training mode with free nats $\lambda$, the mean of each latent's divergence
        over the batch is replaced by $\max(\lambda, \cdot)$: still a lower bound, since
        it only subtracts more.
        """
        log_p, kl = self.terms(x)
        if self.training and self.free_nats:
            average = kl.mean(dim=0)
            kl = kl + (average.clamp(min=self.free_nats) - average)
        return log_p - kl.sum(dim=1)

    def log_weight(self, x: Tensor) -> Float[Tensor, " batch"]:
        r"""$\log P(x|z) + \log p(z) - \log q(z|x)$ at one draw of $z \sim q(z|x)$, in nats.

        Its mean is the ELBO, and the mean of its exponential is $P(x)$.
        """
        mean, log_scale = self.posterior(x)
        z = mean + log_scale.exp() * torch.randn_like(mean)
        zero = torch.zeros_like(z)
        ratio = gaussian_log_density(z, zero, zero) - gaussian_log_density(z, mean, log_scale)
        return self.decoder.log_prob(x, context=z) + ratio

    def log_prob(self, x: Tensor, draws: int = 1) -> Float[Tensor, " batch"]:
        r"""A lower bound on $\log P(x)$ in nats: one draw of the ELBO, or importance-weighted.

        Source: Burda et al. (2016), eq. 8.
        """
        if draws < 1:
            raise ValueError(f"Expected one draw or more and got draws={draws}.")
        if draws == 1:
            log_p, kl = self.terms(x)
            return log_p - kl.sum(dim=1)
        return importance_weighted_bound(torch.stack([self.log_weight(x) for _ in range(draws)]))

    def bits_per_dim(self, x: Tensor, draws: int = 1) -> Float[Tensor, " batch"]:
        r"""An upper bound on $-\log_2 P(x) / D$ for each example; tighter with more draws."""
        return bits_per_dim(-self.log_prob(x, draws), math.prod(self.event_shape))

    @torch.no_grad()
    def figures(self, x: Tensor) -> dict[str, float]:
        """How much the latents are used on a set of examples: what `evaluate` adds to its result.

        Returns:
            `kl_nats`, the mean over examples of the sum over latents, and `active_units`, the
            number of latents whose posterior mean varies from example to example by more than a
            hundredth of the prior's variance (Burda et al., 2016, section 5.2).
        """
        parts = [self.posterior(batch) for batch in x.split(256)]
        mean, log_scale = (torch.cat(part) for part in zip(*parts, strict=True))
        return {
            "kl_nats": gaussian_kl(mean, log_scale).sum(dim=1).mean().item(),
            "active_units": float((mean.var(dim=0) > ACTIVE).sum()),
        }

    # Samples

    @torch.no_grad()
    def sample(
        self, n: int, temperature: float = 1.0, *, z: Tensor | None = None
    ) -> Int[Tensor, "n *event"]:
        """Draw images: a latent from the *prior*, then the pixels one after the other.

        Args:
            n: how many.
            temperature: scales the latent and divides the logits of the pixels, so that whichever
                of the two holds the image is cooled.
            z: one latent for each image instead of a draw from the prior.
        """
        if z is None:
            like = next(self.parameters())
            z = torch.randn(n, self.latents, dtype=like.dtype, device=like.device)
        return self.decoder.sample(n, temperature, context=temperature * z)


def build(
    event_shape: Sequence[int],
    levels: int | None,
    *,
    latents: int = 16,
    reach: int | None = None,
    hidden: int = 64,
    blocks: int = 2,
    dropout: float = 0.0,
    free_nats: float = 0.0,
) -> PixelVAE:
    """A PixelVAE for images of one shape.

    Args:
        event_shape: channels, height and width.
        levels: the pixels take values 0, ..., levels - 1.
        latents: the dimension of the latent variable.
        reach: how many rows up and columns away the decoder sees; None for the whole image.
        hidden: feature maps of encoder and decoder.
        blocks: residual blocks of the decoder.
        dropout: in encoder and decoder.
        free_nats: of each latent, in training; see `PixelVAE`.
    """
    if levels is None or len(event_shape) != 3:
        raise ValueError(
            f"PixelVAE models images with levels, of shape (channels, height, width), not examples "
            f"of shape {tuple(event_shape)} with levels={levels}."
        )
    reach = max(event_shape[1:]) - 1 if reach is None else reach
    encoder = Encoder(event_shape, levels, latents, hidden, dropout)
    decoder = PixelDecoder(event_shape, levels, latents, reach, hidden, blocks, dropout)
    return PixelVAE(encoder, decoder, latents, free_nats)
