"""Small models and data whose best likelihood is known by counting."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from flowcourse.data import Dataset

LEVELS = 4
SHAPE = (3,)


class Histogram(nn.Module):
    """Independent categorical pixels with learned logits: `model(x)` is exact, in nats."""

    kind = "exact"

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(*SHAPE, LEVELS))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        log_p = torch.log_softmax(self.dropout(self.logits), dim=-1)
        return log_p.expand(len(x), *SHAPE, LEVELS).gather(2, x.long()[..., None]).sum((1, 2))

    def bits_per_dim(self, x, draws=1):
        return -self(x) / (x[0].numel() * torch.log(torch.tensor(2.0)))


@pytest.fixture
def histogram():
    """The class of the model."""
    return Histogram


@pytest.fixture
def counts():
    """Integers with different frequencies at each place."""
    generator = torch.Generator().manual_seed(0)
    p = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.2, 0.3]])
    x = torch.multinomial(p, 96, replacement=True, generator=generator).T.to(torch.uint8)
    return Dataset("counts", x[:64], x[64:], LEVELS, SHAPE)


@pytest.fixture
def losses():
    """The columns of a history that must not depend on when and where it was made."""

    def pick(history):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in history]

    return pick


class HistogramOfClass(Histogram):
    """One histogram for each class: `model(x, labels)`."""

    class_conditional = True

    def __init__(self, classes: int = 2):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(classes, *SHAPE, LEVELS))

    def forward(self, x, context):
        log_p = torch.log_softmax(self.logits, dim=-1)[context]
        return log_p.gather(2, x.long()[..., None]).sum((1, 2))

    def bits_per_dim(self, x, draws=1, context=None):
        return -self(x, context) / (x[0].numel() * torch.log(torch.tensor(2.0)))


@pytest.fixture
def labelled(counts):
    """The counts, and as label whether the first one is large; and a model that needs it."""
    labels = [(x[:, 0] > 0).long() for x in (counts.train, counts.test)]
    return HistogramOfClass, replace(counts, train_labels=labels[0], test_labels=labels[1])
