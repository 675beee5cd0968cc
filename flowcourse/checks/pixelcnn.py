"""What the answers to the problem set on PixelCNN must satisfy.

The mistakes are wrong on purpose. Their names are what a student reads.
"""

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowcourse.autoregressive import pixelcnn
from flowcourse.chain_rule import one_hot, raster
from flowcourse.checks import at_most, close, equal, exercise
from flowcourse.checks.fitted import trained_once
from flowcourse.data.digits import load_binary_digits

# Topics that an answer may import, besides the modules that all topics share.
MAY_USE = ("change_of_variables", "likelihood", "nade", "made", "pixelrnn")

CHAPTER = "book/autoregressive/pixelcnn.md"


# 1. The mask


def kernel_mask(inputs, outputs, height, width, kind, colours):
    return pixelcnn.kernel_mask(inputs, outputs, (height, width), kind, colours)


def exchanged(inputs, outputs, height, width, kind, colours):
    return kernel_mask(inputs, outputs, height, width, {"A": "B", "B": "A"}[kind], colours)


def always(kind, inputs, outputs, height, width, _, colours):
    return kernel_mask(inputs, outputs, height, width, kind, colours)


def columns_first(inputs, outputs, height, width, kind, colours):
    return kernel_mask(inputs, outputs, width, height, kind, colours).transpose(2, 3)


def looks_ahead(inputs, outputs, height, width, kind, colours):
    return kernel_mask(inputs, outputs, height, width, kind, colours).flip(2, 3)


def colours_reversed(inputs, outputs, height, width, kind, colours):
    return kernel_mask(inputs, outputs, height, width, kind, colours).flip(0, 1)


def groups_interleaved(inputs, outputs, height, width, kind, colours):
    mask = kernel_mask(inputs, outputs, height, width, kind, colours)
    source = torch.arange(inputs).reshape(colours, -1).T.flatten()
    target = torch.arange(outputs).reshape(colours, -1).T.flatten()
    return mask[target][:, source]


def one_row_off(inputs, outputs, height, width, kind, colours):
    mask = kernel_mask(inputs, outputs, height, width, kind, colours)
    mask[:, :, : height // 2] = 0
    mask[:, :, : max(height // 2 - 1, 0)] = 1
    return mask


def colours_ignored(inputs, outputs, height, width, kind, colours):
    return kernel_mask(inputs, outputs, height, width, kind, 1)


@exercise(
    "pixelcnn.mask",
    read=f"{CHAPTER}#pixelcnn-masks",
    hint="write down the 3 x 3 mask of one colour first; colours matter at the centre alone.",
)
class KernelMask:
    reference = kernel_mask
    parts = {"A": 1, "B": 1, "row": 1, "colours_A": 1, "colours_B": 1}
    mistakes = {
        "A and B are exchanged: which of them may look at the pixel itself?": exchanged,
        "the centre is hidden in both kinds: if no layer may look at its own position, what "
        "happens to the nearest pixels in a deep stack?": partial(always, "A"),
        "the centre is open in both kinds: the first layer sees the very value that is to be "
        "predicted": partial(always, "B"),
        "the mask is transposed: in the order of reading, is the whole row above earlier, or the "
        "whole column to the left?": columns_first,
        "the mask keeps what comes later and hides what comes before": looks_ahead,
        "the colours are in reverse order: red is drawn first, so red maps see least": (
            colours_reversed
        ),
        "the channels of a colour are neighbours: the first third is red, not every third "
        "channel": groups_interleaved,
        "the row just above the centre is hidden: range(height // 2) ends one before the centre": (
            one_row_off
        ),
        "the centre is the same for all colours: what may a blue map see of the same pixel?": (
            colours_ignored
        ),
    }

    def draw(rng):
        return {
            "inputs": int(rng.integers(2, 4)),
            "outputs": int(rng.integers(2, 4)),
            "height": int(rng.choice([5, 7])),
            "width": int(rng.choice([3, 9])),
        }

    def probe(answer, inputs, outputs, height, width):
        def mask(kind, colours=1, rows=height):
            return answer(colours * inputs, colours * outputs, rows, width, kind, colours)

        return {
            "A": lambda: mask("A"),
            "B": lambda: mask("B"),
            "row": lambda: mask("A", rows=1),
            "colours_A": lambda: mask("A", colours=3),
            "colours_B": lambda: mask("B", colours=3),
        }


# 2. Debug a network whose loss is too good


class Net(nn.Module):
    """One stack of masked convolutions, for one colour; the options are faults."""

    first, later = "A", "B"
    masked_once = flipped = skips = doubled = False
    dtype = torch.float64

    def __init__(self, levels, channels, layers):
        super().__init__()
        sizes = [levels, *[channels] * layers, levels]
        self.levels = levels
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(sizes, sizes[1:], strict=False)
        )
        for k, layer in enumerate(self.layers):
            nn.init.normal_(layer.weight, std=0.3)
            mask = pixelcnn.kernel_mask(1, 1, (3, 3), self.first if k == 0 else self.later)
            self.register_buffer(f"mask{k}", mask.transpose(2, 3) if self.flipped else mask)
        self.double()

    def logits(self, x):
        h = start = one_hot(x.double(), self.levels)
        for k, layer in enumerate(self.layers):
            weight = layer.weight if self.masked_once else layer.weight * self._buffers[f"mask{k}"]
            if self.masked_once and k == 0:
                weight = weight * self.mask0
            h = F.conv2d(h if k == 0 else h.tanh(), weight, layer.bias, padding=1)
        return (h + start if self.skips else h).movedim(1, -1)

    def log_prob(self, x):
        log_p = self.logits(x).log_softmax(-1)
        if self.doubled:
            log_p = self.logits(x).log_softmax(1)
        return log_p.gather(-1, x.long().unsqueeze(-1)).flatten(1).sum(1)


def faulty(**faults):
    return type("Faulty", (Net,), faults)


@exercise(
    "pixelcnn.debug_leak",
    read=f"{CHAPTER}#pixelcnn-leak",
    hint="look at one output with autograd: which inputs have a slope that is not zero?",
)
class DebugLeak:
    reference = Net
    parts = {"illegal": 2, "missing": 1, "mass": 1}
    compare = {"illegal": equal, "missing": equal, "mass": close(1e-6)}
    mistakes = {
        "the network still does what it did as handed out": faulty(
            first="B", later="A", skips=True, doubled=True
        ),
        "the first layer has mask B: it sees the value that it predicts": faulty(first="B"),
        "mask A is used in every layer: a path from the pixel next door takes one step, and the "
        "network makes several": faulty(later="A"),
        "the masks are in the wrong order, B first and A after it": faulty(first="B", later="A"),
        "only the first layer is masked: the later ones pass on what their neighbours saw": faulty(
            masked_once=True
        ),
        "the input is added to the output: a skip connection from the image goes around all "
        "masks": faulty(skips=True),
        "the softmax runs over an axis of the image: each pixel's probabilities must sum to one "
        "over its levels": faulty(doubled=True),
        "the masks are transposed: rows above come first, then what is left in the row": faulty(
            flipped=True
        ),
    }

    def draw(rng):
        return {"x": rng.integers(0, 3, size=(4, 5, 5)), "channels": int(rng.integers(6, 10))}

    def probe(answer, x, channels):
        from itertools import product

        import torch

        model = answer(3, channels, 4)
        torch.manual_seed(int(x.sum()))
        mixture = torch.randn(3).double()

        def seen():
            """Which pixel's logits change, in any example, when another pixel's value changes."""
            base = model.logits(x).double() @ mixture
            rows = []
            for i in range(25):
                moved = x.flatten(1).clone()
                moved[:, i] = (moved[:, i] + 1) % 3
                change = model.logits(moved.reshape(-1, 5, 5)).double() @ mixture - base
                rows.append((change.abs() > 1e-12).any(0).flatten())
            return torch.stack(rows, dim=1)

        earlier = torch.ones(25, 25).tril(-1).bool()
        states = torch.tensor(list(product(range(3), repeat=4))).reshape(-1, 2, 2)
        return {
            "illegal": lambda: (seen() & ~earlier).sum(),
            "missing": lambda: (~seen() & earlier).sum(dim=1),
            "mass": lambda: model.log_prob(states).double().exp().sum(),
        }


# 3. Predict blind spots

STACKS = {"A": 36, "B": 29, "C": 6, "D": 6, "E": 2, "F": 0}


@exercise(
    "pixelcnn.blind_spot",
    read=f"{CHAPTER}#pixelcnn-blind-spot",
    hint="going up by one row, how many columns to the right can one layer go? And going up by "
    "two rows?",
)
class BlindSpot:
    reference = STACKS
    parts = {"few_layers": 2, "many_layers": 2, "two_stacks": 1}
    compare = {"few_layers": equal, "many_layers": equal, "two_stacks": equal}
    mistakes = {
        "these are the pixels that are seen: asked are the earlier ones that are not": {
            "A": 4, "B": 11, "C": 34, "D": 34, "E": 38, "F": 40,
        },
        "twice as many layers do not shrink the blind spot: its cause is the shape of the kernel, "
        "not their number": STACKS | {"D": 0},
        "a stack that is deep enough does not see everything: from the row above, can a layer come "
        "from further right than one column?": STACKS | {"C": 0, "D": 0, "E": 0},
        "later pixels count, too: among the 81 pixels only 40 come before the centre": {
            letter: count + 41 for letter, count in STACKS.items()
        },
        "a 5 x 5 kernel climbs two columns to the right for each row, not one": STACKS | {"E": 6},
        "the blind spot lies on one side only: to the left, a path may first go left in its own "
        "row and in every row above": STACKS | {"C": 12, "D": 12, "E": 4},
        "two stacks have no blind spot: the vertical one sees whole rows": STACKS | {"F": 6},
    }  # fmt: skip

    def draw(rng):
        return {"x": rng.normal(size=(1, 1, 9, 9))}

    def probe(answer, x):
        """The prediction minus what autograd finds, with positive weights: all zeros if right."""
        import torch
        import torch.nn.functional as F

        def convolve(h, size, centre):
            kernel = torch.rand(1, 1, size, size).double() + 0.1
            kernel[:, :, size // 2 + 1 :] = 0
            kernel[:, :, size // 2, size // 2 + int(centre) :] = 0
            return F.conv2d(h, kernel, padding=size // 2)

        def missing(network):
            image = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(network(image)[0, 0, 4, 4], image)
            return int((slope.flatten()[:40] == 0).sum())

        def stack(layers, size):
            def network(h):
                for k in range(layers):
                    h = convolve(h, size, centre=k > 0)
                return h

            return network

        def two_stacks(image):
            v, h = image, image
            for k in range(8):
                v = F.conv2d(F.pad(v, (1, 1, 1, 0)), torch.rand(1, 1, 2, 3).double() + 0.1)
                row = torch.rand(1, 1, 1, 3).double() + 0.1
                row[..., 1 + int(k > 0) :] = 0
                h = F.conv2d(F.pad(h, (1, 1)), row) + F.pad(v, (0, 0, 1, 0))[:, :, :-1]
            return h

        found = {
            "A": missing(stack(1, 3)),
            "B": missing(stack(2, 3)),
            "C": missing(stack(8, 3)),
            "D": missing(stack(16, 3)),
            "E": missing(stack(8, 5)),
            "F": missing(two_stacks),
        }

        def differences(letters):
            return [int(answer[letter]) - found[letter] for letter in letters]

        return {
            "few_layers": lambda: differences("AB"),
            "many_layers": lambda: differences("CDE"),
            "two_stacks": lambda: differences("F"),
        }


# 4. The gate, with a class


def gated(a, table, labels, colours):
    if table is not None:
        a = a + table[labels][:, :, None, None]
    return pixelcnn.gate(a, colours)


def halves(a, table, labels, colours, first=torch.tanh, second=torch.sigmoid):
    if table is not None:
        a = a + table[labels][:, :, None, None]
    one, two = a.unflatten(1, (colours, 2, -1)).unbind(2)
    return (first(one) * second(two)).flatten(1, 2)


def halves_of_everything(a, table, labels, colours):
    return gated(a, table, labels, 1)


def class_of_the_first(a, table, labels, colours):
    return gated(a, table, labels if labels is None else labels[:1].expand(len(a)), colours)


def class_after_the_gate(a, table, labels, colours):
    out = gated(a, None, None, colours)
    if table is None:
        return out
    shift = table[labels].unflatten(1, (colours, 2, -1))[:, :, 0].flatten(1)
    return out + shift[:, :, None, None]


def class_in_the_features_only(a, table, labels, colours):
    if table is not None:
        table = table.unflatten(1, (colours, 2, -1)).clone()
        table[:, :, 1] = 0
        table = table.flatten(1)
    return gated(a, table, labels, colours)


def class_along_the_row(a, table, labels, colours):
    if table is None:
        return gated(a, None, None, colours)
    shift = table[labels].mean(dim=1)[:, None, None, None]
    return gated(a + shift, None, None, colours)


@exercise(
    "pixelcnn.gate",
    read=f"{CHAPTER}#pixelcnn-gate",
    hint="for one pixel, one colour and two channels this is tanh(a0 + t0) * sigmoid(a1 + t1).",
)
class Gate:
    reference = gated
    parts = {"plain": 1, "classes": 2, "colours": 1, "both": 1}
    mistakes = {
        "the gate has no sigmoid: what should be able to close, and lies between 0 and 1?": partial(
            halves, second=torch.tanh
        ),
        "tanh and sigmoid are exchanged: the first half holds the features": partial(
            halves, first=torch.sigmoid, second=torch.tanh
        ),
        "there is no tanh on the features": partial(halves, first=lambda a: a),
        "the halves are those of all channels, so that one colour opens and closes another: which "
        "maps of blue could then be seen in red?": halves_of_everything,
        "the class of the first example is used for the whole batch: table[labels] has one row "
        "for each example": class_of_the_first,
        "the class is added after the gate: it should shift what goes into tanh and sigmoid": (
            class_after_the_gate
        ),
        "the class shifts the features and not the gate": class_in_the_features_only,
        "the class adds the same number to all channels: each channel has a shift of its own, "
        "the same at all positions": class_along_the_row,
    }

    def draw(rng):
        batch, channels = int(rng.integers(3, 6)), int(rng.integers(2, 4))
        return {
            "a": rng.normal(size=(batch, 2 * channels, 3, 4)),
            "coloured": rng.normal(size=(batch, 6 * channels, 3, 4)),
            "table": rng.normal(size=(4, 2 * channels)),
            "coloured_table": rng.normal(size=(4, 6 * channels)),
            # The first two differ, so that one class for all is noticed.
            "labels": rng.permutation(4)[:3].repeat(2)[:batch],
        }

    def probe(answer, a, coloured, table, coloured_table, labels):
        return {
            "plain": lambda: answer(a, None, None, 1),
            "classes": lambda: answer(a, table, labels, 1),
            "colours": lambda: answer(coloured, None, None, 3),
            "both": lambda: answer(coloured, coloured_table, labels, 3),
        }


# 5. One layer of two stacks


def layer(v, h, vertical, horizontal, link, *, shift=(1, 0), below=0, masked=True, old=False):
    """One layer, with one thing wrong unless all options are left alone."""
    size = vertical.shape[-1]
    reach = size // 2
    rows = vertical.shape[-2]
    new = F.conv2d(F.pad(v, (reach, reach, rows - 1 - below, below)), vertical)
    said = F.conv2d(v if old else new, link)
    down, right = shift
    if down > 0:
        said = F.pad(said, (0, 0, down, 0))[:, :, :-down]
    elif down < 0:
        said = F.pad(said, (0, 0, 0, -down))[:, :, -down:]
    if right:
        said = F.pad(said, (right, 0))[:, :, :, :-right]
    if masked:
        horizontal = horizontal.clone()
        horizontal[..., reach + 1 :] = 0
    return new, F.conv2d(F.pad(h, (reach, reach)), horizontal) + said


def hides_itself(v, h, vertical, horizontal, link):
    horizontal = horizontal.clone()
    horizontal[..., horizontal.shape[-1] // 2] = 0
    return layer(v, h, vertical, horizontal, link)


def speaks_back(v, h, vertical, horizontal, link):
    new, along = layer(v, h, vertical, horizontal, link)
    return new + along, along


@exercise(
    "pixelcnn.two_stacks",
    read=f"{CHAPTER}#pixelcnn-two-stacks",
    hint="set v to zero everywhere but at one position and ask which outputs may know of it.",
)
class TwoStacks:
    reference = layer
    parts = {"vertical": 1, "horizontal": 2, "larger": 1, "looks_back": 1}
    compare = {"looks_back": equal}
    mistakes = {
        "the vertical stack is not moved down: it includes its own row, right of the pixel as "
        "well": partial(layer, shift=(0, 0)),
        "the vertical stack is moved up: row i of the horizontal stack needs what was computed for "
        "row i - 1": partial(layer, shift=(-1, 0)),
        "the vertical stack is moved to the right, not down": partial(layer, shift=(0, 1)),
        "the vertical kernel is centred, so that it looks at rows below: pad on top only": partial(
            layer, below=1
        ),
        "the horizontal kernel is not masked: it looks at pixels to the right": partial(
            layer, masked=False
        ),
        "the horizontal kernel does not see its own position: its maps already know nothing of the "
        "pixel itself, so this is mask B": hides_itself,
        "the link takes the vertical maps of the layer before: the paper takes those just "
        "computed": partial(layer, old=True),
        "the horizontal stack speaks to the vertical one: then it sees what lies to the right of "
        "other pixels": speaks_back,
    }

    def draw(rng):
        height, width = (int(n) for n in rng.integers(4, 7, size=2))
        return {
            "v": rng.normal(size=(2, 3, height, width)),
            "h": rng.normal(size=(2, 3, height, width)),
            "vertical": rng.normal(size=(3, 3, 2, 3)),
            "horizontal": rng.normal(size=(3, 3, 1, 3)),
            "link": rng.normal(size=(3, 3, 1, 1)),
            "tall": rng.normal(size=(3, 3, 3, 5)),
            "long": rng.normal(size=(3, 3, 1, 5)),
        }

    def probe(answer, v, h, vertical, horizontal, link, tall, long):
        import torch

        def looks_back():
            """At the output of the second layer: which inputs have a slope that is not zero."""
            start = v[:1].clone().requires_grad_()
            # The horizontal stack starts empty, so all that it knows comes from the rows above.
            down, along = answer(start, torch.zeros_like(start), vertical, horizontal, link)
            down, along = answer(down, along, vertical, horizontal, link)
            (slope,) = torch.autograd.grad(along[0, :, 2, 2].sum(), start)
            return slope[0].ne(0).any(dim=0)

        return {
            "vertical": lambda: answer(v, h, vertical, horizontal, link)[0],
            "horizontal": lambda: answer(v, h, vertical, horizontal, link)[1],
            "larger": lambda: torch.cat(answer(v, h, tall, long, link)),
            "looks_back": looks_back,
        }


# 6. Sampling


def sample(
    logits_of, noise, *, order="raster", together=False, greedy=False, turned=False, own_noise=True
):
    """Draw by the noise, with one thing wrong unless all options are left alone."""
    x = torch.zeros_like(noise, dtype=torch.int64)
    colours, height, width = noise.shape[1:]
    places = {
        "raster": raster((colours, height, width)),
        "planes": list(range(noise[0].numel())),
        "columns": [
            (c * height + i) * width + j
            for j in range(width)
            for i in range(height)
            for c in range(colours)
        ],
    }[order]
    flat, u = x.view(len(x), -1), noise.flatten(1)
    first = logits_of(x).flatten(1, -2) if together else None
    for place, index in enumerate(places):
        logits = (logits_of(x).flatten(1, -2) if first is None else first)[:, index]
        below = logits.softmax(-1).cumsum(-1)[:, :-1]
        if greedy:
            flat[:, index] = logits.argmax(-1)
        else:
            level = u[:, index if own_noise else place, None]
            level = 1 - level if turned else level
            flat[:, index] = (level >= below).sum(-1)
    return x


@exercise(
    "pixelcnn.sample",
    read=f"{CHAPTER}#pixelcnn-sampling",
    hint="write the four loops of a sampler: row, column, colour, and the levels; only the last "
    "may be done at once.",
)
class Sample:
    reference = sample
    parts = {"grey": 2, "colour": 2}
    compare = {"grey": equal, "colour": equal}
    mistakes = {
        "every pixel takes its likeliest level: that is the mode of each conditional, not a draw": (
            partial(sample, greedy=True)
        ),
        "all pixels are drawn from one pass over an empty image: a pixel must know those that were "
        "drawn before it": partial(sample, together=True),
        "the red plane is finished before the green one starts: in this order a pixel's three "
        "colours come one after the other": partial(sample, order="planes"),
        "the image is filled column by column: the model was trained in the order of reading": (
            partial(sample, order="columns")
        ),
        "the noise is used in the order of drawing: noise[:, c, i, j] decides x[:, c, i, j]": (
            partial(sample, own_noise=False)
        ),
        "the noise is used upside down: level 0 belongs to the smallest numbers": partial(
            sample, turned=True
        ),
    }

    def draw(rng):
        height, width = (int(n) for n in rng.integers(3, 5, size=2))
        return {
            "grey": rng.uniform(size=(12, 1, height, width)),
            "colour": rng.uniform(size=(12, 3, height, width)),
            "levels": int(rng.integers(3, 5)),
        }

    def probe(answer, grey, colour, levels):
        import torch
        import torch.nn.functional as F

        from flowcourse.chain_rule import raster

        def network(shape):
            """Logits that are a linear function of all earlier dimensions."""
            dims = shape[0] * shape[1] * shape[2]
            place = torch.tensor(raster(shape)).argsort()
            earlier = (place[:, None] > place[None, :]).double()
            weight = torch.randn(dims, levels, dims, levels).double() * earlier[:, None, :, None]

            def logits_of(x):
                code = F.one_hot(x.long(), levels).double().flatten(1, -2)
                out = torch.einsum("ipjq,bjq->bip", weight, code)
                return out.reshape(len(x), *shape, levels)

            return logits_of

        return {
            "grey": lambda: answer(network(tuple(grey.shape[1:])), grey),
            "colour": lambda: answer(network(tuple(colour.shape[1:])), colour),
        }


# 7. Train one on black and white digits

# On ten draws the reference reached 0.437 to 0.482 bits/dim; with mask A in all layers it stays at
# 0.496 or more, and a histogram of each pixel by itself at about 0.57.
LIMIT = 0.495


class Masked(nn.Module):
    """Three masked layers; `log_probs(x)` of each pixel given the earlier ones, in nats."""

    def __init__(self, first="A", later="B", unmasked=False, reach=2, base=1.0):
        super().__init__()
        kinds = [first, later, later]
        sides = [2 * reach + 1, *[3 if reach else 1] * 2]
        self.convolutions = nn.ModuleList(
            pixelcnn.MaskedConv2d(1 if k == 0 else 24, 24, side, kind)
            for k, (side, kind) in enumerate(zip(sides, kinds, strict=True))
        )
        if unmasked:
            for convolution in self.convolutions:
                convolution.mask.fill_(1)
        self.last = nn.Conv2d(24, 1, 1)
        self.base = base

    def log_probs(self, x):
        x = x.to(self.last.weight.dtype)
        h = 2 * x.unsqueeze(1) - 1
        for convolution in self.convolutions:
            h = F.relu(convolution(h))
        logits = self.last(h).squeeze(1)
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none") / self.base


def train(images: Tensor, steps: int = 120, sign: int = -1, **faults) -> nn.Module:
    model = Masked(**faults)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps)
    for _ in range(steps):
        batch = images[torch.randint(len(images), (32,))]
        loss = sign * model.log_probs(batch).sum(dim=(1, 2)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def fit_by(**options):
    return trained_once(train, **options)


@exercise(
    "pixelcnn.train_digits",
    read=f"{CHAPTER}#pixelcnn-experiment",
    hint="three masked layers of 24 channels, the first one 5 x 5 with mask A, and 120 steps of "
    "Adam with batches of 32 are enough.",
)
class TrainDigits:
    reference = staticmethod(fit_by())
    parts = {"held_out_bits": 2, "looks_back": 1, "sums_to_one": 1}
    compare = {
        "held_out_bits": at_most(LIMIT, "bits/dim"),
        "looks_back": equal,
        "sums_to_one": close(1e-4),
    }
    mistakes = {
        "the loss is too good to be true, and each pixel sees itself: which mask has the first "
        "layer?": fit_by(first="B", steps=40),
        "nothing is masked: what is left to be predicted?": fit_by(unmasked=True, steps=20),
        "mask A in every layer: what becomes of the nearest pixels?": fit_by(later="A", steps=60),
        "each pixel is predicted without looking at any other: how large are the kernels?": fit_by(
            reach=0, steps=40
        ),
        "the loss goes down while the likelihood does, too: which of them should fall?": fit_by(
            steps=20, sign=1
        ),
        "log_probs are in bits: the check expects nats, and takes the logarithms apart itself": (
            fit_by(base=math.log(2))
        ),
    }

    def draw(rng):
        images = load_binary_digits().train[:, 0].numpy()[rng.permutation(1500)]
        # Eight questions about each held-out image, one for each row: what comes at this place,
        # given what is before it? The value itself and all later ones are noise, so that no answer
        # can look them up.
        truth = images[1200:].reshape(300, 64).repeat(8, axis=0)
        place = (
            8 * np.tile(np.arange(8), 300)
            + rng.permuted(np.tile(np.arange(8), (300, 1)), axis=1).ravel()
        )
        known = np.arange(64) < place[:, None]
        asked = np.where(known, truth, rng.integers(2, size=truth.shape)).reshape(-1, 8, 8)
        value = truth[np.arange(len(truth)), place].astype(np.int64)
        return {"images": images[:1200], "asked": asked, "place": place, "value": value}

    def probe(answer, images, asked, place):
        import torch

        log_probs = answer(images.clone()).log_probs
        each = torch.arange(len(asked))

        def branches():
            """Log-probabilities of both values at the place that is asked for."""
            found = []
            for level in (0, 1):
                x = asked.flatten(1).clone()
                x[each, place] = level
                with torch.no_grad():
                    found.append(log_probs(x.reshape(-1, 8, 8)).flatten(1)[each, place])
            return torch.stack(found, dim=1)

        def changes():
            """What a change of each pixel does to the log-probabilities of all of them."""
            with torch.no_grad():
                x, rows = asked[:6].flatten(1), []
                base = log_probs(asked[:6]).flatten(1)
                for i in range(64):
                    other = x.clone()
                    other[:, i] = 1 - other[:, i]
                    moved = log_probs(other.reshape(-1, 8, 8)).flatten(1)
                    rows.append((moved - base).abs().amax(dim=0))
                return torch.stack(rows)

        return {"branches": branches, "changes": changes}

    def measure(evidence, value):
        def held_out_bits():
            right = evidence["branches"].double().gather(1, value[:, None])
            return -right.mean() / math.log(2)

        def looks_back():
            """How many pixels' log-probabilities change when a later pixel does."""
            return (evidence["changes"].tril(-1) > 1e-4).sum()

        def sums_to_one():
            return evidence["branches"].double().exp().sum(dim=1)

        return {
            "held_out_bits": held_out_bits,
            "looks_back": looks_back,
            "sums_to_one": sums_to_one,
        }
