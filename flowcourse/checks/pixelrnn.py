"""What the answers to the problem set on PixelRNN must satisfy.

The mistakes are wrong on purpose. Their names are what a student reads.
"""

import math
from functools import partial
from itertools import product
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flowcourse.autoregressive import pixelrnn
from flowcourse.checks import at_most, close, equal, exercise
from flowcourse.checks.fitted import trained_once

# Topics that an answer may import, besides the modules that all topics share.
MAY_USE = ("change_of_variables", "likelihood", "nice", "realnvp", "nade", "made")

CHAPTER = "book/autoregressive/pixelrnn.md"


# 1. The mask


def mask(kind: Literal["A", "B"], height: int, width: int, colours: int) -> Tensor:
    return pixelrnn.MaskedConv2d(kind, colours, colours, (height, width), colours).mask


def only_kind(always: Literal["A", "B"]):
    return lambda kind, *sizes: mask(always, *sizes)


def _edit(change, *, only: str = "AB"):
    """The mask, with something changed about it; `change(seen, row, column)` works in place."""

    def wrong(kind, height, width, colours):
        seen = mask(kind, height, width, colours).clone()
        if kind in only:
            change(seen, height // 2, width // 2)
        return seen

    return wrong


def sees_the_whole_row(seen, row, column):
    seen[:, :, row, column + 1 :] = 1


def does_not_see_its_own_row(seen, row, column):
    seen[:, :, row, :column] = 0


def every_colour_at_the_centre(seen, row, column):
    seen[:, :, row, column] = 1


def no_colour_at_the_centre(seen, row, column):
    seen[:, :, row, column] = 0


def axes_of_the_colours_exchanged(seen, row, column):
    seen[:, :, row, column] = seen[:, :, row, column].T.clone()


@exercise(
    "pixelrnn.mask",
    read=f"{CHAPTER}#pixelrnn-masks",
    hint="write down for a 3 x 3 kernel which of its nine places come before the centre, and then "
    "for the centre which of the nine pairs of colours are allowed.",
)
class Mask:
    reference = staticmethod(mask)
    parts = {"grey_a": 1, "grey_b": 1, "one_row": 1, "colours_a": 1, "colours_b": 1}
    mistakes = {
        "mask A lets the centre through: the first layer would show a pixel its own value": (
            only_kind("B")
        ),
        "mask B hides the centre: after the first layer, what does the feature at the centre know "
        "of its own pixel?": only_kind("A"),
        "places to the right of the centre in its own row come later": _edit(sees_the_whole_row),
        "the mask is upside down: deep-learning libraries do not flip a kernel, so its first row "
        "looks at the row above": lambda *a: mask(*a).flip(2),
        "places to the left of the centre in its own row come earlier, and may be seen": _edit(
            does_not_see_its_own_row
        ),
        "mask A hides the whole centre: green may see the red of its own pixel": _edit(
            no_colour_at_the_centre, only="A"
        ),
        "mask B shows the whole centre: red must not see the blue of its own pixel": _edit(
            every_colour_at_the_centre, only="B"
        ),
        "the two axes of the colours are exchanged: the first is that of the output, as in a "
        "convolution's weight": _edit(axes_of_the_colours_exchanged),
    }

    def draw(rng):
        return {"side": int(rng.choice([3, 5, 7])), "reach": int(rng.integers(1, 5))}

    def probe(answer, side, reach):
        return {
            "grey_a": lambda: answer("A", side, side, 1),
            "grey_b": lambda: answer("B", side, side, 1),
            "one_row": lambda: answer("B", 1, 2 * reach + 1, 1),
            "colours_a": lambda: answer("A", 3, side, 3),
            "colours_b": lambda: answer("B", 3, side, 3),
        }


# 2. Skewing


def skew(x: Tensor, undo: bool = False) -> Tensor:
    outer = x.permute(2, 3, 0, 1)
    return (pixelrnn.unskew(outer) if undo else pixelrnn.skew(outer)).permute(2, 3, 0, 1)


def _shifted(x, undo, shift, extra=None):
    """Row `i` moves by `shift(i)` places; by hand, so that it can be wrong."""
    height = x.shape[2]
    extra = height - 1 if extra is None else extra
    if undo:
        width = x.shape[3] - extra
        rows = [x[:, :, i, shift(i) : shift(i) + width] for i in range(height)]
    else:
        rows = [F.pad(x[:, :, i], (shift(i), extra - shift(i))) for i in range(height)]
    return torch.stack(rows, dim=2)


def skew_to_the_left(x, undo=False):
    return _shifted(x, undo, lambda i: x.shape[2] - 1 - i)


def skew_one_too_far(x, undo=False):
    return _shifted(x, undo, lambda i: i + 1, extra=x.shape[2])


def skew_as_if_square(x, undo=False):
    if undo:
        return _shifted(x, undo, lambda i: i, extra=(x.shape[3] - 1) // 2)
    return _shifted(x, undo, lambda i: i, extra=max(x.shape[3], x.shape[2]) - 1)


def skew_by_rolling(x, undo=False):
    rows = [x[:, :, i].roll(-i if undo else i, dims=-1) for i in range(x.shape[2])]
    rolled = torch.stack(rows, dim=2)
    return rolled[..., : x.shape[3] - x.shape[2] + 1] if undo else rolled


def skew_columns(x, undo=False):
    if undo:
        return skew(x, undo)
    return skew(x.transpose(2, 3)).transpose(2, 3)


def undo_by_cropping(x, undo=False):
    return x[..., : x.shape[3] - x.shape[2] + 1] if undo else skew(x)


def undo_by_skewing(x, undo=False):
    return skew(x)


@exercise(
    "pixelrnn.skew",
    read=f"{CHAPTER}#pixelrnn-skew",
    hint="draw an image of two rows and three columns; where must pixel (i, j) go so that its left "
    "neighbour and its upper neighbour end up in one column?",
)
class Skew:
    reference = staticmethod(skew)
    parts = {"skewed": 1, "tall": 1, "back": 2}
    mistakes = {
        "the rows move the wrong way: lower rows must lie further to the right, so that the pixel "
        "above is in the column before": skew_to_the_left,
        "every row has moved one place too far: the first row stays": skew_one_too_far,
        "the new width is that of a square image: how far has the last row moved?": (
            skew_as_if_square
        ),
        "the rows wrap around: what leaves on the right must not come back on the left": (
            skew_by_rolling
        ),
        "the columns have moved down: move the rows to the right": skew_columns,
        "undo cuts the first columns out of every row: where does row i begin?": undo_by_cropping,
        "undo skews once more": undo_by_skewing,
    }

    def draw(rng):
        batch, channels, small, large = (int(n) for n in rng.integers([1, 1, 2, 4], [4, 4, 4, 7]))
        return {
            "x": rng.normal(size=(batch, channels, small, large)),
            "tall": rng.normal(size=(batch, channels, large, small)),
            "y": rng.normal(size=(batch, channels, small, small + large - 1)),
        }

    def probe(answer, x, tall, y):
        return {
            "skewed": lambda: answer(x),
            "tall": lambda: answer(tall),
            "back": lambda: answer(y, undo=True),
        }


# 3. Row LSTM


def row_lstm(gates: Tensor, weight: Tensor) -> Tensor:
    hidden, taps = weight.shape[1:]
    layer = pixelrnn.RowLSTM(2 * hidden, hidden, 1).to(gates)
    # The layer's weight has the place straight above first, then left, then right.
    straight, left, right = weight[..., 1], weight[..., 0], weight[..., 2]
    layer.state_to_state.data = torch.cat([straight, left, right], dim=1).T[None]
    with torch.no_grad():
        return layer.sweep([gates.permute(2, 3, 0, 1)]).permute(2, 3, 0, 1)


def _row_lstm(
    gates,
    weight,
    *,
    order="ofig",
    content=torch.tanh,
    squash=torch.tanh,
    forget=lambda f: f,
    flip=False,
    carry=True,
    upwards=False,
):
    """The same by hand, with one thing wrong."""
    hidden = weight.shape[1]
    h = c = gates.new_zeros(len(gates), hidden, gates.shape[3])
    rows = []
    weight = weight.flip(2) if flip else weight
    for row in reversed(gates.unbind(2)) if upwards else gates.unbind(2):
        total = row + F.conv1d(h, weight, padding=1)
        part = dict(zip(order, total.chunk(4, dim=1), strict=True))
        new = part["i"].sigmoid() * content(part["g"])
        c = forget(part["f"].sigmoid()) * c + new
        h = part["o"].sigmoid() * squash(c)
        rows.append(h)
        if not carry:
            c = torch.zeros_like(c)
    return torch.stack(rows[::-1] if upwards else rows, dim=2)


@exercise(
    "pixelrnn.row_lstm",
    read=f"{CHAPTER}#pixelrnn-row",
    hint="write the step for one row first: total gates, four pieces, c, h; then the loop.",
)
class RowLSTM:
    reference = staticmethod(row_lstm)
    parts = {"one_row": 1, "two_rows": 1, "states": 2}
    mistakes = {
        "the gates are in PyTorch's order, input, forget, content, output: the paper's is output, "
        "forget, input, content": partial(_row_lstm, order="ifgo"),
        "the content has been squashed by a sigmoid: it must be able to be negative": partial(
            _row_lstm, content=torch.sigmoid
        ),
        "h is o times c: the cell state passes through a tanh on its way out": partial(
            _row_lstm, squash=lambda c: c
        ),
        "the forget gate and the input gate are exchanged: which of them multiplies the old cell "
        "state?": partial(_row_lstm, order="oifg"),
        "nothing is ever forgotten: the old cell state is multiplied by the forget gate": partial(
            _row_lstm, forget=torch.ones_like
        ),
        "the forget gate works backwards: at 1 it keeps the old cell state": partial(
            _row_lstm, forget=lambda f: 1 - f
        ),
        "the kernel is mirrored: weight[:, :, 0] belongs to the neighbour on the upper left": (
            partial(_row_lstm, flip=True)
        ),
        "the cell state starts at zero in every row: hand it on, as h": partial(
            _row_lstm, carry=False
        ),
        "the sweep starts at the bottom: which rows may a pixel see?": partial(
            _row_lstm, upwards=True
        ),
    }

    def draw(rng):
        batch, hidden, height, width = (int(n) for n in rng.integers([1, 2, 3, 3], [4, 5, 6, 6]))
        return {
            "gates": 1.5 * rng.normal(size=(batch, 4 * hidden, height, width)),
            "weight": rng.normal(size=(4 * hidden, hidden, 3)),
        }

    def probe(answer, gates, weight):
        return {
            "one_row": lambda: answer(gates[:, :, :1].clone(), weight),
            "two_rows": lambda: answer(gates[:, :, :2].clone(), weight),
            "states": lambda: answer(gates.clone(), weight),
        }


# 4. Debug the Diagonal BiLSTM


def sweep_diagonals(gates: Tensor, weight: Tensor, from_above: bool = True) -> Tensor:
    """States of one direction: `weight[..., 0]` is for the row above, `[..., 1]` for its own."""
    batch, _, height, _ = gates.shape
    h = c = gates.new_zeros(batch, weight.shape[1], height)
    columns = []
    for column in skew(gates).unbind(3):
        near = F.pad(h, (1, 0)) if from_above else F.pad(h, (0, 1))
        kernel = weight if from_above else weight.flip(2)
        h, c = pixelrnn.lstm_cell(
            (column + F.conv1d(near, kernel)).transpose(1, 2), c.transpose(1, 2)
        )
        h, c = h.transpose(1, 2), c.transpose(1, 2)
        columns.append(h)
    return skew(torch.stack(columns, dim=3), undo=True)


def diagonal_bilstm(
    left,
    right,
    weights,
    *,
    from_above=True,
    mirrored_back=True,
    down=1,
    aside=0,
    both_moved=False,
    mirrored=True,
):
    a = sweep_diagonals(left, weights[0], from_above)
    b = sweep_diagonals(right.flip(3) if mirrored else right, weights[1], from_above)
    b = b.flip(3) if mirrored_back and mirrored else b
    height, width = a.shape[2:]

    def moved(states):
        return F.pad(states, (aside, 0, down, 0))[:, :, :height, :width]

    if down < 0:
        return a + F.pad(b[:, :, -down:], (0, 0, 0, -down))
    return (moved(a) if both_moved else a) + moved(b)


def variant(**options):
    return partial(diagonal_bilstm, **options)


@exercise(
    "pixelrnn.debug_bilstm",
    read=f"{CHAPTER}#pixelrnn-diagonal",
    hint="follow one pixel: in the skewed map, in which rows and in which column are its left "
    "neighbour and the one above? And what has the second direction seen when it gets to a pixel?",
)
class DebugBiLSTM:
    reference = staticmethod(diagonal_bilstm)
    parts = {"from_the_left": 1, "from_the_right": 2, "both": 1}
    mistakes = {
        "the layer still does what it did as handed out": variant(
            from_above=False, mirrored_back=False, down=0
        ),
        "both directions read the state of the row below: the zeros belong above the first row, "
        "not under the last": variant(from_above=False),
        "the second direction's states are still mirrored when they are added": variant(
            mirrored_back=False
        ),
        "the second direction is not moved down: at a pixel it has seen the rest of its row": (
            variant(down=0)
        ),
        "the row above is read now; the second direction comes back mirrored, and is not moved "
        "down": variant(mirrored_back=False, down=0),
        "the second direction is mirrored back now; both read the row below, and it is not moved "
        "down": variant(from_above=False, down=0),
        "the second direction is moved down now; both read the row below, and it comes back "
        "mirrored": variant(from_above=False, mirrored_back=False),
        "the second direction has moved up: its states must come from the row above": variant(
            down=-1
        ),
        "the second direction has moved aside by a column: it must move down by a row": variant(
            down=0, aside=1
        ),
        "both directions have moved down: the first one sees nothing illegal where it is": variant(
            both_moved=True
        ),
        "both directions start on the left: the second one reads the mirror image": variant(
            mirrored=False
        ),
    }

    def draw(rng):
        batch, hidden, height, width = (int(n) for n in rng.integers([1, 2, 3, 3], [4, 4, 6, 6]))
        gates = rng.normal(size=(2, batch, 4 * hidden, height, width))
        return {
            "left": gates[0],
            "right": gates[1],
            "weights": rng.normal(size=(2, 4 * hidden, hidden, 2)),
        }

    def probe(answer, left, right, weights):
        import torch

        # A direction whose gates and weights are zero has no content, so all of its states are 0.
        silent = torch.zeros_like(left)
        first, second = weights.clone(), weights.clone()
        first[1] = 0
        second[0] = 0
        return {
            "from_the_left": lambda: answer(left, silent, first),
            "from_the_right": lambda: answer(silent, right, second),
            "both": lambda: answer(left, right, weights),
        }


# 5. Predict what a pixel sees

SEEN = {"A": 4, "B": 18, "C": 20, "D": 21, "E": 18, "F": 23, "G": 24, "H": 3}


@exercise(
    "pixelrnn.predict_context",
    read=f"{CHAPTER}#pixelrnn-context",
    hint="draw the 7 x 7 image once for each model and go backwards: which features does the last "
    "layer read, which pixels has the first convolution shown them?",
)
class PredictContext:
    reference = SEEN
    parts = {"first": 1, "row": 2, "diagonal": 2, "future": 1}
    compare = dict.fromkeys(parts, equal)
    mistakes = {
        "you have counted the pixel itself: the first layer has mask A": SEEN
        | {k: SEEN[k] + 1 for k in "ABCDEFG"},
        "the triangle is missing its right side: a state reads three neighbours above": SEEN
        | {"B": 14, "C": 16, "D": 17},
        "the kernel of width 3 looks to the right, too: it carries mask B": SEEN
        | {"C": 22, "D": 24},
        "a second Row LSTM does not widen the triangle to the right: how many rows up must a path "
        "go for each column?": SEEN | {"D": 23},
        "states of the Row LSTM reach straight up only": SEEN | {"B": 10, "C": 13, "D": 14},
        "one direction along the diagonals sees up to its own column, and the first convolution "
        "one column more": SEEN | {"E": 15},
        "with both directions one legal pixel is still missing: follow the last pixel of the row "
        "above through the first convolution": SEEN | {"F": 24},
        "the second direction, not moved down, has seen all that follows in its row, except for "
        "one: the first convolution is one place behind": SEEN | {"H": 4},
        "a pixel that a model sees of itself is illegal, too": SEEN | {"H": 2},
    }

    def draw(rng):
        return {"x": rng.normal(size=(7, 7))}

    def probe(answer, x):
        """The prediction minus what autograd finds, with fresh weights: all zeros if right."""
        import torch
        import torch.nn.functional as F

        def seen(model, wide=0):
            """How many pixels the output at (3, 3) depends on; and how many are not earlier."""
            pixels = x.clone().requires_grad_()
            out = model(F.pad(pixels, (0, wide)))[3, 3]
            (slope,) = torch.autograd.grad(out, pixels)
            later = torch.arange(49).view(7, 7) >= 3 * 7 + 3
            return int((slope != 0).sum()), int((slope[later] != 0).sum())

        def conv(x, keep):
            weight = torch.rand(1, 1, *keep.shape).to(x) + 0.1
            padding = keep.shape[0] // 2, keep.shape[1] // 2
            return F.conv2d(x[None, None], weight * keep.to(x), padding=padding)[0, 0]

        def first(x):
            return conv(x, torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]))

        def row(x, width):
            gates = conv(x, torch.tensor([[1]] if width == 1 else [[1, 1, 0]]))
            state, states = torch.zeros_like(x[0]), []
            for gate in gates:
                near = F.pad(state, (1, 1)).unfold(0, 3, 1) @ torch.rand(3).to(x)
                state = torch.tanh(0.2 * (gate + near))
                states.append(state)
            return torch.stack(states)

        def diagonal(x):
            a, b = (0.1 + 0.3 * torch.rand(2)).tolist()
            places = torch.arange(x.shape[1])
            back = places[:, None] - places
            along = (a ** back.clamp(min=0) * (back >= 0)).to(x)
            state, states = torch.zeros_like(x[0]), []
            for row in x:  # each state is the input plus a times the left one plus b times above
                state = along @ (row + b * state)
                states.append(state)
            return torch.stack(states)

        def mirrored(x):
            return diagonal(x.flip(1)).flip(1)

        def down(x):
            return F.pad(x, (0, 0, 1, 0))[:-1]

        def bilstm(x):
            return diagonal(first(x)) + down(mirrored(first(x)))

        found = {
            "A": seen(first)[0],
            "B": seen(lambda x: row(first(x), 1))[0],
            "C": seen(lambda x: row(first(x), 3))[0],
            "D": seen(lambda x: row(row(first(x), 3), 3))[0],
            "E": seen(lambda x: diagonal(first(x)))[0],
            "F": seen(bilstm)[0],
            "G": seen(bilstm, wide=1)[0],
            "H": seen(lambda x: diagonal(first(x)) + mirrored(first(x)))[1],
        }
        parts = {"first": "A", "row": "BCD", "diagonal": "EFG", "future": "H"}
        return {
            part: [int(answer[k]) - found[k] for k in letters] for part, letters in parts.items()
        }


# 6. Count the steps


def steps(kind: str, height: int, width: int) -> tuple[int, int]:
    training = {"raster": height * width, "row": height, "diagonal": height + width - 1}
    return training[kind], height * width


def _steps(kind, height, width, *, training=None, sampling=None):
    right = steps(kind, height, width)
    return (
        right[0] if training is None or kind not in training else training[kind](height, width),
        right[1] if sampling is None else sampling(kind, height, width),
    )


@exercise(
    "pixelrnn.steps",
    read=f"{CHAPTER}#pixelrnn-parallel",
    hint="which states does a state wait for? The longest chain of such waits is the answer.",
)
class Steps:
    reference = staticmethod(steps)
    parts = {"raster": 1, "row": 1, "diagonal": 1, "sampling": 1}
    compare = dict.fromkeys(parts, equal)
    mistakes = {
        "training is as sequential as sampling here: in training all pixels are known before, so "
        "a whole row or diagonal can be done at once": lambda kind, h, w: (h * w, h * w),
        "sampling is as parallel as training here: can two pixels be drawn at once if one depends "
        "on the other?": lambda kind, h, w: (steps(kind, h, w)[0],) * 2,
        "the two numbers are exchanged": lambda kind, h, w: steps(kind, h, w)[::-1],
        "the Row LSTM goes from row to row: the columns of a row are done together": partial(
            _steps, training={"row": lambda h, w: w}
        ),
        "one diagonal too many: how many columns has the skewed map?": partial(
            _steps, training={"diagonal": lambda h, w: h + w}
        ),
        "the two directions do not wait for each other": partial(
            _steps, training={"diagonal": lambda h, w: 2 * (h + w - 1)}
        ),
        "a diagonal waits for the one before: from one corner to the other there are more of them "
        "than rows": partial(_steps, training={"diagonal": lambda h, w: max(h, w)}),
        "to sample the first pixel takes a step, too": partial(
            _steps, sampling=lambda kind, h, w: h * w - 1
        ),
    }

    def draw(rng):
        height, width = rng.choice(np.arange(3, 40), size=2, replace=False)
        return {"height": int(height), "width": int(width)}

    def probe(answer, height, width):
        def numbers(kind, which):
            return lambda: int(answer(kind, height, width)[which])

        kinds = ("raster", "row", "diagonal")
        return {
            **{kind: numbers(kind, 0) for kind in kinds},
            "sampling": lambda: [numbers(kind, 1)() for kind in kinds],
        }


# 7. Train on mirrored rows

HEIGHT, WIDTH = 2, 5
FLIP = 0.05
# The entropy is 4.46 nats. Whoever cannot see the last pixel of the row above from the start of the
# next stays above 4.95; the reference reaches 4.5 to 4.6.
LIMIT = 4.8


def states() -> Tensor:
    """Every binary image of the experiment, as 0 and 1."""
    every = torch.tensor(list(product([0, 1], repeat=HEIGHT * WIDTH)))
    return every.view(-1, 1, HEIGHT, WIDTH)


def mirrored_rows(rng: np.random.Generator, n: int) -> np.ndarray:
    """Images whose rows are the row above in the mirror, with a few pixels flipped."""
    rows = [rng.integers(2, size=(n, WIDTH))]
    for _ in range(HEIGHT - 1):
        rows.append(rows[-1][:, ::-1] ^ (rng.random((n, WIDTH)) < FLIP))
    return np.stack(rows, axis=1)[:, None].astype(np.int64)


def true_log_prob(x: Tensor) -> Tensor:
    """The log-probability that `mirrored_rows` gives to an image, in nats."""
    flipped = (x[:, :, 1:] != x[:, :, :-1].flip(3)).flatten(1).double()
    each = flipped * math.log(FLIP) + (1 - flipped) * math.log(1 - FLIP)
    return each.sum(dim=1) - WIDTH * math.log(2)


class Averages(pixelrnn.PixelRNN):
    def log_prob(self, x, context=None):
        return super().log_prob(x, context) / self.dims


class SeesItself(pixelrnn.PixelRNN):
    def __init__(self, *shape, **options):
        super().__init__(*shape, **options)
        self.first = pixelrnn.MaskedConv2d("B", 1, self.first.out_channels, (3, 3))


class IsNotMovedDown(pixelrnn.DiagonalBiLSTM):
    def sweep(self, gates):
        left = self.along_diagonals(gates[0], 0)
        return left + self.along_diagonals(gates[1].flip(1), 1).flip(1)


class SeesTheRestOfItsRow(pixelrnn.PixelRNN):
    def __init__(self, *shape, hidden, **options):
        super().__init__(*shape, hidden=hidden, **options)
        self.layers[0] = IsNotMovedDown(2 * hidden, hidden, 1)


def train(
    images: Tensor,
    steps: int = 150,
    *,
    model_type: type[pixelrnn.PixelRNN] = pixelrnn.PixelRNN,
    sign: int = -1,
    **options,
) -> pixelrnn.PixelRNN:
    model = model_type((1, HEIGHT, WIDTH), 2, layers=1, hidden=20, head=16, kernel=3, **options)
    model.double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.03, total_steps=steps)
    for _ in range(steps):
        batch = images[torch.randint(len(images), (128,))]
        loss = sign * model.log_prob(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def fit_by(**options):
    return trained_once(train, **options)


@exercise(
    "pixelrnn.train_mirror",
    read=f"{CHAPTER}#pixelrnn-line-end",
    hint="look at a few images first: on which pixel does the first one of a row depend, and does "
    "your model see it?",
)
class TrainMirror:
    reference = staticmethod(fit_by())
    parts = {"expected_nll": 3, "mass": 1}
    compare = {"expected_nll": at_most(LIMIT, "nats"), "mass": close(1e-3)}
    mistakes = {
        "a Row LSTM sees a triangle: which pixels at the right of the row above are outside it?": (
            fit_by(steps=30, kind="row", width=3)
        ),
        "the second direction sees one pixel less than you need: what has the first convolution "
        "shown it of the last pixel of a row?": fit_by(steps=30, line_end=False),
        "the probabilities do not sum to one, because a pixel sees itself: which mask has the "
        "first layer?": fit_by(steps=30, model_type=SeesItself),
        "the probabilities do not sum to one, because a pixel sees the rest of its row: was the "
        "second direction moved down?": fit_by(steps=30, model_type=SeesTheRestOfItsRow),
        "training stopped before it had begun: how many steps did it take?": fit_by(steps=2),
        "the loss goes down while the likelihood does, too: which of them should fall?": fit_by(
            steps=5, sign=1
        ),
        "log_prob is averaged over the pixels: what is the probability of a whole image?": fit_by(
            steps=20, model_type=Averages
        ),
    }

    def draw(rng):
        return {"images": mirrored_rows(rng, 3000)}

    def probe(answer, images):
        import torch

        model = answer(images.clone())

        def log_p():
            with torch.no_grad():
                return model.log_prob(states())

        return {"log_p": log_p}

    def measure(evidence):
        # The true distribution is known, so the expectation over it is exact.
        weight = true_log_prob(states()).exp()

        def expected_nll():
            log_p = evidence["log_p"].double()
            if log_p.shape != weight.shape:
                raise ValueError(f"expected shape {tuple(weight.shape)}, got {tuple(log_p.shape)}")
            return -(weight * log_p).sum()

        return {
            "expected_nll": expected_nll,
            "mass": lambda: evidence["log_p"].double().exp().sum(),
        }
