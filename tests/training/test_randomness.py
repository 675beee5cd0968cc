import torch

from flowcourse.training.randomness import NOISE, batch_indices, derive, private_randomness


def test_every_epoch_shows_every_example_once():
    n, batch, steps = 7, 4, 14  # 8 epochs; batches cross their borders
    stream = torch.cat([batch_indices(s, batch, n, seed=3) for s in range(steps)])
    epochs = stream.view(-1, n)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(n).expand(len(epochs), n))
    assert len({tuple(row.tolist()) for row in epochs}) > 1


def test_a_batch_may_be_larger_than_the_data():
    counts = torch.bincount(batch_indices(5, 30, 10, seed=0), minlength=10)
    assert torch.equal(counts, torch.full((10,), 3))


def test_another_seed_gives_another_order():
    assert not torch.equal(batch_indices(0, 50, 50, seed=0), batch_indices(0, 50, 50, seed=1))


def test_derived_seeds_differ_in_every_place():
    keys = [(p, s, a, b) for p in range(6) for s in range(4) for a in range(6) for b in range(4)]
    assert len({derive(*key) for key in keys}) == len(keys)
    torch.manual_seed(derive(NOISE, 2**40, 10**9, 7))  # in the range that torch accepts


def test_private_randomness_leaves_the_callers_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with private_randomness():
        torch.manual_seed(99)
        torch.rand(10)
    assert torch.equal(torch.rand(3), expected)
