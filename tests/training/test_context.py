"""A conditional model is given its context, in training, validation, evaluation, sampling."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flowcourse import catalog
from flowcourse.data import load
from flowcourse.training import RunError, TrainingConfig, evaluate, train
from flowcourse.training.context import context_for
from flowcourse.training.pictures import save_samples


def config(**options):
    return TrainingConfig(
        **dict(steps=200, batch_size=64, learning_rate=0.1, ema=0.9, accelerator="cpu") | options
    )


def conditional_entropy(x, labels):
    """Nats of independent counts, given the class: no histogram of each class fits better."""
    total = 0.0
    for label in labels.unique():
        part = x[labels == label]
        p = torch.stack([torch.bincount(c.long(), minlength=4) / len(part) for c in part.T])
        total -= len(part) / len(x) * torch.special.xlogy(p, p).sum().item()
    return total


def test_training_reaches_the_entropy_given_the_class(labelled, histogram):
    model, data = labelled
    given = train(model(), data, config(), verbose=False).history[-1]["nats"]
    alone = train(histogram(), data, config(), verbose=False).history[-1]["nats"]
    assert given == pytest.approx(conditional_entropy(data.train, data.train_labels), abs=0.02)
    assert given < alone - 0.3


def test_held_out_examples_keep_their_own_labels(labelled):
    model, data = labelled
    result = train(model(), data, config(validation=20, validate_every=200), verbose=False)
    x, labels = data.train[-20:], data.train_labels[-20:]
    with torch.no_grad():
        expected = -result.model(x, labels).mean().item()
        exchanged = -result.model(x, 1 - labels).mean().item()
    assert result.best_validation == pytest.approx(expected, rel=1e-5)
    assert exchanged > expected + 1


def test_evaluation_passes_each_batch_its_labels(labelled):
    model, data = labelled
    trained = train(model(), data, config(), verbose=False).model
    found = evaluate(trained, data.test, context=data.test_labels, batch_size=7)
    with torch.no_grad():
        nats = -trained(data.test, data.test_labels).double().mean().item()
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert found.bits_per_dim == pytest.approx(nats / (3 * math.log(2)), rel=1e-5)


def test_other_models_never_see_labels(labelled, histogram):
    _, data = labelled
    assert context_for(histogram(), data, "test") is None


def test_a_class_conditional_model_without_labels_is_an_error(labelled):
    model, data = labelled
    bare = replace(data, train_labels=None, test_labels=None)
    with pytest.raises(RunError, match="conditioned on labels, and counts has none"):
        train(model(), bare, config(), verbose=False)
    with pytest.raises(RunError, match="conditional and got no context"):
        evaluate(model(), bare.test)


class HistogramOfPicture(nn.Module):
    """One histogram for each of two conditions, told apart by the first number of a picture."""

    needs_conditions = True

    def __init__(self, of_class):
        super().__init__()
        self.of_class = of_class
        self.kind = of_class.kind

    def forward(self, x, context):
        return self.of_class(x, (context[:, 0, 0, 0] > 0).long())

    def bits_per_dim(self, x, draws=1, context=None):
        return self.of_class.bits_per_dim(x, context=(context[:, 0, 0, 0] > 0).long())


def test_a_model_of_pairs_is_given_the_conditions_and_not_the_labels(labelled):
    model, data = labelled
    pictures = [
        labels[:, None, None, None].expand(-1, 1, 2, 2).float()
        for labels in (data.train_labels, data.test_labels)
    ]
    wrong = dict(train_labels=1 - data.train_labels, test_labels=1 - data.test_labels)
    pairs = replace(data, train_conditions=pictures[0], test_conditions=pictures[1], **wrong)
    result = train(HistogramOfPicture(model()), pairs, config(), verbose=False)
    expected = conditional_entropy(data.train, data.train_labels)
    assert result.history[-1]["nats"] == pytest.approx(expected, abs=0.02)
    context = context_for(result.model, pairs, "test")
    assert context is pictures[1]
    found = evaluate(result.model, pairs.test, context=context, batch_size=7)
    as_labels = evaluate(result.model.of_class, data.test, context=data.test_labels)
    assert found.nats == pytest.approx(as_labels.nats, rel=1e-6)
    with pytest.raises(RunError, match="conditioned on conditions, and counts has none"):
        context_for(result.model, data, "test")


def test_samples_are_drawn_of_the_classes_of_the_data_beside_them(tmp_path, monkeypatch):
    digits = load("digits")
    small = dict(channels=4, blocks=1, first_kernel=3, classes=10)
    model = catalog.topic("pixelcnn").build((1, 8, 8), 17, **small).eval()
    asked = []
    sample = model.sample

    def recorded(n, temperature, context):
        asked.append(context)
        return sample(n, temperature, context=context)

    monkeypatch.setattr(model, "sample", recorded)
    few = replace(digits, test=digits.test[:5], test_labels=digits.test_labels[:5])
    written = save_samples(model, few, tmp_path, n=12)
    assert [path.name for path in written] == ["samples.npy", "samples.png"]
    assert np.load(written[0]).shape == (12, 1, 8, 8)
    assert torch.equal(asked[0], digits.test_labels[:5].repeat(3)[:12])
