"""Conditioners: shapes, the zero start, dropout only in training."""

import pytest
import torch

from flowcourse.nets import MLP, ResidualConvNet

NETS = {
    "mlp": (lambda **o: MLP(3, [8, 8], 5, **o), (2, 3), (2, 5)),
    "conv": (lambda **o: ResidualConvNet(3, 8, 4, blocks=2, **o), (2, 3, 4, 4), (2, 4, 4, 4)),
}


@pytest.mark.parametrize("name", NETS)
def test_output_starts_at_zero_with_the_right_shape(name):
    make, inputs, outputs = NETS[name]
    y = make()(torch.randn(inputs))
    assert y.shape == outputs and (y == 0).all()


@pytest.mark.parametrize("name", NETS)
def test_dropout_acts_in_training_only(name, torch_seed):
    make, inputs, _ = NETS[name]
    net = make(dropout=0.5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(inputs)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_weight_normalization_splits_direction_and_length():
    net = ResidualConvNet(1, 4, 2, blocks=1, normalize_weights=True)
    names = {name for name, _ in net.named_parameters()}
    assert "head.parametrizations.weight.original0" in names
