"""What the answers to the problem set on TarFlow must satisfy.

The mistakes are wrong on purpose. Their names are what a student reads.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flowcourse.autoregressive_flows import tarflow
from flowcourse.checks import exercise
from flowcourse.checks.compare import close

# Topics that an answer may import, besides the modules that all topics share.
MAY_USE = ("change_of_variables", "likelihood")

CHAPTER = "book/autoregressive_flows/tarflow.md"


# 1. Patches


class Cut:
    """Patches through the reference bijector."""

    @staticmethod
    def cut(x, patch):
        z, _ = tarflow.Patches(x.shape[1:], patch)(x)
        return z.unflatten(1, (-1, x.shape[1] * patch**2))

    @staticmethod
    def join(z, patch, shape):
        return tarflow.Patches(shape, patch).inverse(z.flatten(1))[0]


def _cut_by(order):
    """Patches with their axes in another order; of (rows, p, columns, q) a letter each."""

    class Wrong:
        @staticmethod
        def axes():
            return [0, *(1 + "crpsq".index(letter) for letter in order)]

        @classmethod
        def cut(cls, x, patch):
            parts = x.unflatten(2, (-1, patch)).unflatten(4, (-1, patch)).permute(cls.axes())
            return parts.reshape(len(x), -1, x.shape[1] * patch**2)

        @classmethod
        def join(cls, z, patch, shape):
            c, h, w = shape
            sizes = [len(z), c, h // patch, patch, w // patch, patch]
            parts = z.reshape([sizes[axis] for axis in cls.axes()])
            back = torch.tensor(cls.axes()).argsort().tolist()
            return parts.permute(back).reshape(len(z), c, h, w)

    return Wrong


class WithoutMoving:
    @staticmethod
    def cut(x, patch):
        return x.reshape(len(x), -1, x.shape[1] * patch**2)

    @staticmethod
    def join(z, patch, shape):
        return z.reshape(len(z), *shape)


@exercise(
    "tarflow.patches",
    read=f"{CHAPTER}#tarflow-patches",
    hint="give both sides of the image an axis of their own for the patch, then move the axes.",
)
class Patches:
    reference = Cut
    parts = {"patches": 1, "image": 1}
    mistakes = {
        "the numbers are only regrouped as they lie in memory: a patch is a square, and its rows "
        "do not lie side by side": WithoutMoving,
        "the patches go down the columns first: from left to right, then from top to bottom": (
            _cut_by("srcpq")
        ),
        "inside a patch the channels come last: channel by channel, row by row": _cut_by("rspqc"),
        "inside a patch rows and columns are exchanged": _cut_by("rscqp"),
        "each token holds pixels that lie far apart, as a squeeze would take them for one channel: "
        "a patch holds neighbours": _cut_by("pqcrs"),
    }

    def draw(rng):
        patch = int(rng.integers(2, 4))
        channels = int(rng.integers(2, 4))
        rows, columns = (int(n) for n in rng.choice([2, 3, 4, 5], size=2, replace=False))
        # As many patches in a row as a patch has pixels would hide a wrong order.
        shape = (channels, rows * patch, columns * patch)
        return {
            "x": rng.normal(size=(3, *shape)),
            "z": rng.normal(size=(3, rows * columns, channels * patch**2)),
            "patch": patch,
        }

    def probe(answer, x, z, patch):
        return {
            "patches": lambda: answer.cut(x.clone(), patch),
            "image": lambda: answer.join(z.clone(), patch, tuple(x.shape[1:])),
        }


# 2. Causal attention


def _attend(mask=None, scale=None, axis=-1, hide=-math.inf, after=False):
    """Attention with one of its pieces changed."""

    def attention(q, k, v):
        n, d = q.shape[-2:]
        scores = q @ k.transpose(-1, -2) * (d**-0.5 if scale is None else scale(q))
        hidden = torch.ones(n, n).triu(1).bool() if mask is None else mask(n)
        if after:
            return scores.softmax(dim=-1).masked_fill(hidden, 0) @ v
        return scores.masked_fill(hidden, hide).softmax(dim=axis) @ v

    return attention


def _reference_attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@exercise(
    "tarflow.attention",
    read=f"{CHAPTER}#tarflow-attention",
    hint="what a place may not see gets the score minus infinity before the softmax, which then "
    "gives it the weight 0.",
)
class Attention:
    reference = staticmethod(_reference_attention)
    parts = {"answer": 2, "first": 1}
    mistakes = {
        "every place sees all places, those after it too: then the Jacobian of the flow is not "
        "triangular": _attend(mask=lambda n: torch.zeros(n, n).bool()),
        "every place sees itself and those after it: the mask is turned round": _attend(
            mask=lambda n: torch.ones(n, n).tril(-1).bool()
        ),
        "a hidden score is set to 0, and exp(0) is 1: which score has the weight 0?": _attend(
            hide=0.0
        ),
        "weights are set to 0 after the softmax: then those that are left do not sum to 1": (
            _attend(after=True)
        ),
        "scores are not divided by the square root of d": _attend(scale=lambda q: 1.0),
        "scores are divided by d and not by its square root": _attend(
            scale=lambda q: 1 / q.shape[-1]
        ),
        "scores are divided by the square root of the whole width: a head has d numbers": _attend(
            scale=lambda q: (q.shape[1] * q.shape[-1]) ** -0.5
        ),
        "the softmax runs over the places that ask and not over those that answer": _attend(
            axis=-2
        ),
    }

    def draw(rng):
        # More numbers in a head than heads, so that their counts cannot be mistaken.
        heads, n, d = (int(k) for k in rng.integers([2, 4, 4], [4, 7, 7]))
        return {name: 1.5 * rng.normal(size=(2, heads, n, d)) for name in "qkv"}

    def probe(answer, q, k, v):
        return {
            "answer": lambda: answer(q.clone(), k.clone(), v.clone()),
            "first": lambda: answer(q.clone(), k.clone(), v.clone())[:, :, 0],
        }


# 3. The block


class ByHand:
    """A block in pieces, so that each mistake changes one of them."""

    def __init__(self, net):
        self.net = net

    def shifted(self, said):
        return torch.cat([torch.zeros_like(said[:, :1]), said[:, :-1]], dim=1)

    def parameters(self, x):
        return self.shifted(self.net(x)).chunk(2, dim=2)

    def log_det(self, log_scale):
        return -log_scale.sum(dim=(1, 2))

    def forward(self, x):
        shift, log_scale = self.parameters(x)
        return (x - shift) * (-log_scale).exp(), self.log_det(log_scale)

    def undo(self, z, shift, log_scale):
        return z * log_scale.exp() + shift

    def inverse(self, z):
        x = torch.zeros_like(z)
        for place in range(z.shape[1]):
            shift, log_scale = self.parameters(x)
            x = x.clone()
            x[:, place] = self.undo(z, shift, log_scale)[:, place]
        return x, -self.log_det(self.parameters(x)[1])


class SeesItself(ByHand):
    def shifted(self, said):
        return said


class SeesTheNext(ByHand):
    def shifted(self, said):
        return torch.cat([said[:, 1:], torch.zeros_like(said[:, :1])], dim=1)


class MovesTheFirst(ByHand):
    def parameters(self, x):
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        return self.net(before).chunk(2, dim=2)


class AveragesTheLogDet(ByHand):
    def log_det(self, log_scale):
        return -log_scale.mean(dim=(1, 2))


class NegativeLogDet(ByHand):
    def log_det(self, log_scale):
        return log_scale.sum(dim=(1, 2))


class SumsOverTheBatch(ByHand):
    def log_det(self, log_scale):
        return super().log_det(log_scale).sum().expand(len(log_scale))


class Multiplies(ByHand):
    def forward(self, x):
        shift, log_scale = self.parameters(x)
        return (x - shift) * log_scale.exp(), -self.log_det(log_scale)

    def undo(self, z, shift, log_scale):
        return z * (-log_scale).exp() + shift

    def inverse(self, z):
        x, log_det = super().inverse(z)
        return x, -log_det


class ExchangesTheTwo(ByHand):
    def parameters(self, x):
        return super().parameters(x)[::-1]


class InvertsInOnePass(ByHand):
    def inverse(self, z):
        shift, log_scale = self.parameters(z)
        return self.undo(z, shift, log_scale), -self.log_det(log_scale)


@exercise(
    "tarflow.block",
    read=f"{CHAPTER}#tarflow-block",
    hint="what the network says at patch i are the parameters of patch i + 1; the inverse knows "
    "them only once patch i has been found.",
)
class Block:
    reference = ByHand
    parts = {"z": 1, "log_det": 1, "x": 2, "inverse_log_det": 1}
    mistakes = {
        "the parameters of a patch depend on the patch itself: nothing has been shifted, and there "
        "is no inverse": SeesItself,
        "the parameters of a patch come from the patch after it": SeesTheNext,
        "the first patch is moved: nothing is known of it, and here it passes unchanged": (
            MovesTheFirst
        ),
        "log_det is the mean over the numbers: the determinant is the product over all of them": (
            AveragesTheLogDet
        ),
        "your log_dets are the negatives of the expected ones: which direction is each for?": (
            NegativeLogDet
        ),
        "log_det is summed over the batch: it is that of one example": SumsOverTheBatch,
        "forward multiplies by exp(alpha): here exp(alpha) is the standard deviation, and forward "
        "divides by it": Multiplies,
        "shift and log-scale are exchanged: the first half of what the network says is the shift": (
            ExchangesTheTwo
        ),
        "the inverse takes its parameters from z in one pass: they depend on x, patch by patch": (
            InvertsInOnePass
        ),
    }

    def draw(rng):
        patches, numbers = (int(n) for n in rng.integers([3, 2], [6, 5]))
        return {
            "x": rng.normal(size=(4, patches, numbers)),
            "weight": 0.5 * rng.normal(size=(numbers, 2 * numbers)),
            "bias": 0.5 * rng.normal(size=(2 * numbers,)),
        }

    def probe(answer, x, weight, bias):
        import torch

        def net(h):
            """At each place something of what is there and before."""
            places = torch.arange(1, h.shape[1] + 1).to(h)[:, None]
            return torch.tanh(h.cumsum(dim=1) @ weight / places.sqrt() + bias)

        block = answer(net)
        return {
            "z": lambda: block.forward(x.clone())[0],
            "log_det": lambda: block.forward(x.clone())[1],
            "x": lambda: block.inverse(x.clone())[0],
            "inverse_log_det": lambda: block.inverse(x.clone())[1],
        }


# 4. Kept keys and values


class Keeps:
    """Keys and values of all positions so far."""

    def __init__(self, project):
        self.project = project
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def keep(self, k, v):
        self.keys.append(k)
        self.values.append(v)

    def scale(self, q):
        return q.shape[-1] ** -0.5

    def step(self, h):
        q, k, v = self.project(h)
        self.keep(k, v)
        keys, values = torch.stack(self.keys, dim=1), torch.stack(self.values, dim=1)
        weights = (torch.einsum("bd,bnd->bn", q, keys) * self.scale(q)).softmax(dim=1)
        return torch.einsum("bn,bnd->bd", weights, values)


class KeepsTheLastTwo(Keeps):
    def keep(self, k, v):
        super().keep(k, v)
        self.keys, self.values = self.keys[-2:], self.values[-2:]


class ForgetsItself(Keeps):
    """Except for the first, which has nothing else to see."""

    def step(self, h):
        q, k, v = self.project(h)
        if not self.keys:
            self.keep(k, v)
            return v
        keys, values = torch.stack(self.keys, dim=1), torch.stack(self.values, dim=1)
        self.keep(k, v)
        weights = (torch.einsum("bd,bnd->bn", q, keys) * self.scale(q)).softmax(dim=1)
        return torch.einsum("bn,bnd->bd", weights, values)


class ProjectsAllAgain(Keeps):
    """Keeps inputs in the place of keys and values."""

    def __init__(self, project):
        super().__init__(project)
        self.inputs: list[Tensor] = []

    def step(self, h):
        self.inputs.append(h)
        self.keys, self.values = [], []
        for earlier in self.inputs[:-1]:
            _, k, v = self.project(earlier)
            self.keep(k, v)
        return super().step(h)


class SharesOneMemory(Keeps):
    """Lists that belong to the class: the second sequence remembers the first."""

    def __init__(self, project):
        # A memory for each projection stands in for one of the class, which would outlive a check.
        if not hasattr(project, "memory"):
            project.memory = ([], [])
        self.project = project
        self.keys, self.values = project.memory


class PairsThemWrongly(Keeps):
    def keep(self, k, v):
        self.keys.append(k)
        self.values.insert(0, v)


class DoesNotScale(Keeps):
    def scale(self, q):
        return 1.0


@exercise(
    "tarflow.kept",
    read=f"{CHAPTER}#tarflow-kept",
    hint="a new position asks once, and its key and value are kept for all that come later.",
)
class Kept:
    reference = Keeps
    parts = {"answers": 2, "second_sequence": 1, "projections": 1}
    compare = {"projections": close(0.0)}
    mistakes = {
        "only the last two positions are kept: later ones must see all before them": (
            KeepsTheLastTwo
        ),
        "a position does not see itself": ForgetsItself,
        "earlier inputs are projected again at every step: the answers are right, and the work is "
        "that of whole passes": ProjectsAllAgain,
        "a second sequence sees the first: the memory belongs to the class, or to a default "
        "argument": SharesOneMemory,
        "keys and values are kept in opposite orders": PairsThemWrongly,
        "scores are not divided by the square root of d": DoesNotScale,
    }

    def draw(rng):
        n, width, d = (int(k) for k in rng.integers([4, 3, 3], [7, 6, 6]))
        return {
            "first": rng.normal(size=(2, n, width)),
            "second": rng.normal(size=(3, n, width))[:2],
            "weight": rng.normal(size=(3, width, d)),
        }

    def probe(answer, first, second, weight):
        import torch

        counted = []

        def project(h):
            counted.append(h.numel() // h.shape[-1])
            return h @ weight[0], h @ weight[1], h @ weight[2]

        def run(sequence):
            layer = answer(project)
            return torch.stack([layer.step(h.clone()) for h in sequence.unbind(1)], dim=1)

        answers = run(first)
        projections = sum(counted) / len(first)
        return {
            "answers": lambda: answers,
            "second_sequence": lambda: run(second),
            "projections": lambda: projections,
        }


# 5. Denoising


def _denoise(step=lambda sigma, score: sigma**2 * score, total=torch.sum, of=lambda log_p: log_p):
    """One step along a gradient, with one of its pieces changed."""

    def denoise(log_prob, y, sigma):
        y = y.detach().requires_grad_()
        (score,) = torch.autograd.grad(total(of(log_prob(y))), y)
        return (y + step(sigma, score)).detach()

    return denoise


class _OfLogProb:
    """What the reference asks of a flow."""

    def __init__(self, log_prob):
        self.log_prob = lambda y, context: log_prob(y)


def _reference_denoise(log_prob, y, sigma):
    return tarflow.denoised(_OfLogProb(log_prob), y, sigma)


@exercise(
    "tarflow.denoise",
    read=f"{CHAPTER}#tarflow-denoising",
    hint="check with Gaussian data of mean 0: the mean of the clean value lies between 0 and y.",
)
class Denoise:
    reference = staticmethod(_reference_denoise)
    parts = {"clean": 2, "alone": 1}
    mistakes = {
        "the step goes down the density: noise pushes away from where data are, and cleaning must "
        "push back": _denoise(step=lambda sigma, score: -(sigma**2) * score),
        "the step is sigma times the score: which power has the units of y?": _denoise(
            step=lambda sigma, score: sigma * score
        ),
        "the step is half as long: that is the step of a diffusion in time, and not of the "
        "posterior mean": _denoise(step=lambda sigma, score: sigma**2 * score / 2),
        "the gradient is that of the mean over the batch: an example moves less in a larger "
        "batch": _denoise(total=torch.mean),
        "the gradient is that of the density and not of its logarithm": _denoise(of=torch.exp),
        "the step is added twice": _denoise(step=lambda sigma, score: 2 * sigma**2 * score),
    }

    def draw(rng):
        dims = int(rng.integers(2, 4))
        return {
            "y": rng.normal(size=(5, dims)),
            "ends": rng.normal(size=(3, dims)),
            "sigma": float(rng.uniform(0.5, 0.9)),
        }

    def probe(answer, y, ends, sigma):
        def log_prob(points):
            """Data at three points with the same weight, seen through noise."""
            distance = (points[:, None] - ends).square().sum(dim=2)
            return (-distance / (2 * sigma**2)).logsumexp(dim=1)

        return {
            "clean": lambda: answer(log_prob, y.clone(), sigma),
            "alone": lambda: answer(log_prob, y[:1].clone(), sigma),
        }


# 6. Guidance


def lean(given: Tensor, free: Tensor, weight: float) -> Tensor:
    return given + weight * (given - free)


def _guide(combine=lean, scales=None, both=True):
    """Guided sampling of one patch, with one of its pieces changed."""

    def sample(z, given, free, weight):
        (shift, log_scale), (free_shift, free_log_scale) = given, free
        shift = combine(shift, free_shift, weight)
        if scales is not None:
            scale = scales(log_scale, free_log_scale, weight)
            return z * scale + shift, scale.abs().log().sum(dim=1)
        if both:
            log_scale = combine(log_scale, free_log_scale, weight)
        return z * log_scale.exp() + shift, log_scale.sum(dim=1)

    return sample


def _guide_the_patches(z, given, free, weight):
    found, without = (z * log_scale.exp() + shift for shift, log_scale in (given, free))
    return lean(found, without, weight), given[1].sum(dim=1)


def _unguided_log_det(z, given, free, weight):
    return _guide()(z, given, free, weight)[0], given[1].sum(dim=1)


@exercise(
    "tarflow.guidance",
    read=f"{CHAPTER}#tarflow-guidance",
    hint="with weight 0 the patch is that of the label, and with -1 that without a label.",
)
class Guidance:
    reference = staticmethod(_guide())
    parts = {"x": 2, "log_det": 1}
    mistakes = {
        "weight 0 gives the patch without a label: guidance starts from the label and goes "
        "beyond it": _guide(lambda a, b, w: b + w * (a - b)),
        "guidance leans towards what is said without a label": _guide(
            lambda a, b, w: a + w * (b - a)
        ),
        "only the shift is guided": _guide(both=False),
        "the scales are guided and not their logarithms: they may turn negative": _guide(
            scales=lambda a, b, w: lean(a.exp(), b.exp(), w)
        ),
        "two patches are drawn and then extrapolated: guidance acts on the parameters": (
            _guide_the_patches
        ),
        "log_det is that of the unguided flow": _unguided_log_det,
    }

    def draw(rng):
        n = int(rng.integers(3, 6))
        return {
            "z": rng.normal(size=(4, n)),
            "given": rng.normal(size=(2, 4, n)),
            "free": rng.normal(size=(2, 4, n)),
            "weight": float(rng.uniform(1.2, 2.5)),
        }

    def probe(answer, z, given, free, weight):
        def call():
            return answer(z.clone(), tuple(given.clone()), tuple(free.clone()), weight)

        return {"x": lambda: call()[0], "log_det": lambda: call()[1]}


# 7. Bits

NORMAL = 0.5 * math.log(2 * math.pi)
NATS_IN_A_BIT = math.log(2)


def _bits(
    constant=NORMAL,
    scale=lambda levels: math.log(levels / 2),
    log_det=lambda mean, dims: mean,
    unit=NATS_IN_A_BIT,
):
    """Bits per dimension from what a program of TarFlow returns, with one piece changed."""

    def bits(z, mean_log_det, levels):
        dims = z[0].numel()
        squares = 0.5 * z.square().flatten(1).mean(dim=1)
        return (squares + constant - log_det(mean_log_det, dims) + scale(levels)) / unit

    return bits


@exercise(
    "tarflow.bits",
    read=f"{CHAPTER}#tarflow-bits",
    hint="write the loss for one number: the squares and the log-determinant are means over all "
    "numbers, and the map from levels to -1 to 1 has a slope, too.",
)
class Bits:
    reference = staticmethod(_bits())
    parts = {"bits": 3}
    mistakes = {
        "the map from levels to -1 to 1 is left out: what is its slope?": _bits(
            scale=lambda levels: 0.0
        ),
        "the map is taken for one to 0 to 1: the interval from -1 to 1 is twice as long": _bits(
            scale=math.log
        ),
        "the slope of the map is counted with the wrong sign: on the larger scale the density is "
        "smaller": _bits(scale=lambda levels: -math.log(levels / 2)),
        "the constant of the normal density is left out, as in the training loss": _bits(
            constant=0.0
        ),
        "the log-determinant is divided by the number of dimensions again: it is a mean already": (
            _bits(log_det=lambda mean, dims: mean / dims)
        ),
        "the log-determinant has the wrong sign": _bits(log_det=lambda mean, dims: -mean),
        "the answer is in nats": _bits(unit=1.0),
    }

    def draw(rng):
        patches, numbers = (int(n) for n in rng.integers([3, 4], [8, 13]))
        return {
            "z": rng.normal(size=(5, patches, numbers)),
            "mean_log_det": rng.uniform(1, 3, size=5),
            "levels": int(rng.choice([8, 17, 32, 256])),
        }

    def probe(answer, z, mean_log_det, levels):
        return {"bits": lambda: answer(z.clone(), mean_log_det.clone(), levels)}
