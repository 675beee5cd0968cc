"""The front door: names, options, messages, and what a `Dataset` refuses."""

import dataclasses
import pickle

import pytest
import torch

from flowcourse.data import LOCAL, NAMES, OFFLINE, ONLINE, DataError, Dataset, available, load
from flowcourse.data.registry import LOADERS


def test_every_name_has_a_loader():
    assert tuple(LOADERS) == NAMES == OFFLINE + ONLINE + LOCAL


def test_a_bare_machine_has_the_offline_sets():
    assert available() == OFFLINE


@pytest.mark.parametrize("name", OFFLINE)
class TestOffline:
    def test_same_name_same_tensors(self, name):
        one, two = load(name), load(name)
        assert torch.equal(one.train, two.train)
        assert torch.equal(one.test, two.test)

    def test_no_example_is_in_train_and_in_test(self, name):
        # Different originals can look alike in black and white, and by half: the grey digits count.
        data = load("digits" if name in ("binary_digits", "digit_halves") else name)
        train = {row.tobytes() for row in data.train.numpy()}
        assert not [row for row in data.test.numpy() if row.tobytes() in train]

    def test_says_under_which_terms_it_comes(self, name):
        data = load(name)
        assert data.name == name and data.license and data.attribution

    def test_can_be_sent_to_another_process(self, name):
        data = load(name)
        sent = pickle.loads(pickle.dumps(data))
        assert torch.equal(sent.test, data.test)
        if data.log_density is not None:
            assert torch.equal(sent.log_density(data.test[:9]), data.log_density(data.test[:9]))


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match="'imagenet'") as error:
        load("imagenet")
    assert all(name in str(error.value) for name in NAMES)


def test_unknown_option_lists_the_options():
    with pytest.raises(TypeError, match="no option colour.*n, n_test, seed, noise"):
        load("moons", colour="red")
    with pytest.raises(TypeError, match="its options are: none"):
        load("digits", seed=3)


@pytest.mark.parametrize("name", ONLINE)
def test_nothing_is_fetched_unasked_and_the_message_shows_the_ways(name):
    with pytest.raises(DataError, match="download=True") as error:
        load(name)
    assert all(offline in str(error.value) for offline in OFFLINE)
    assert ("folder=" in str(error.value)) == (name != "cifar10")


def test_digits_are_scikit_learns_in_their_order():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    data = load("digits")
    assert data.train.shape == (1500, 1, 8, 8) and data.test.shape == (297, 1, 8, 8)
    assert data.levels == 17 and data.train.max() == 16 and data.train.dtype == torch.uint8
    together = torch.cat([data.train, data.test]).flatten(1).double()
    assert torch.equal(together, torch.from_numpy(pixels))
    assert torch.equal(torch.cat([data.train_labels, data.test_labels]), torch.from_numpy(labels))


def test_binary_digits_are_the_same_digits_in_black_and_white():
    grey, binary = load("digits"), load("binary_digits")
    assert binary.levels == 2 and torch.equal(binary.train_labels, grey.train_labels)
    for part in ("train", "test"):
        assert torch.equal(getattr(binary, part) == 1, getattr(grey, part) >= 8)


def test_digit_halves_are_the_digits_cut_in_two():
    digits, halves = load("digits"), load("digit_halves")
    assert halves.event_shape == (1, 4, 8) and torch.equal(halves.test_labels, digits.test_labels)
    for part in ("train", "test"):
        whole = torch.cat([getattr(halves, f"{part}_conditions"), getattr(halves, part)], dim=2)
        assert torch.equal(whole, getattr(digits, part))


@pytest.mark.parametrize(
    ("name", "clean", "deviation"), [("noisy_digits", "digits", 4), ("noisy_patches", None, 25)]
)
def test_noisy_pictures_are_the_clean_ones_and_gaussian_noise(name, clean, deviation):
    pairs, original = load(name), load(clean) if clean else load("photo_patches", size=32)
    noise = []
    for part in ("train", "test"):
        assert torch.equal(getattr(pairs, part), getattr(original, part))
        noise.append((getattr(pairs, f"{part}_conditions") - getattr(pairs, part)).flatten())
    whole = torch.cat(noise).double()
    n = len(whole)
    # Five standard errors of the mean, the deviation, and the fraction within one deviation.
    assert abs(whole.mean()) < 5 * deviation / n**0.5
    assert abs(whole.std() / deviation - 1) < 5 / (2 * n) ** 0.5
    assert abs((whole.abs() < deviation).double().mean() - 0.682689) < 5 * (0.217 / n) ** 0.5


def test_the_noise_has_a_seed_and_a_deviation():
    one, other = load("noisy_digits"), load("noisy_digits", seed=1)
    assert not torch.equal(one.train_conditions, other.train_conditions)
    less = load("noisy_digits", deviation=1.0)
    torch.testing.assert_close(
        less.test_conditions - less.test, (one.test_conditions - one.test) / 4, atol=1e-5, rtol=0
    )
    with pytest.raises(ValueError, match="positive deviation, and got 0"):
        load("noisy_digits", deviation=0)


def test_photo_patches_with_fewer_bits_keep_the_highest():
    full, coarse = load("photo_patches"), load("photo_patches", bits=3)
    assert coarse.levels == 8 and torch.equal(coarse.test, full.test // 32)
    with pytest.raises(ValueError, match="bits=9"):
        load("photo_patches", bits=9)


PIXELS = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
GOOD = Dataset("toy", PIXELS, PIXELS[:1], levels=2, event_shape=(1, 2, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event_shape": (2, 2)}, "shape"),
        ({"test": PIXELS[:0]}, "n > 0"),
        ({"test": PIXELS + 2}, "0..1"),
        ({"test": PIXELS.long() - 1}, "-1"),
        ({"train": PIXELS.float()}, "integers"),
        ({"levels": None}, "continuous"),
        ({"test_labels": torch.zeros(2)}, "one label"),
        ({"train_conditions": torch.zeros(3, 1)}, "4 rows and has 3"),
    ],
)
def test_a_dataset_refuses_what_contradicts_itself(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GOOD, **change)


def test_a_dataset_of_bytes_may_use_all_256_levels():
    full = torch.arange(256, dtype=torch.uint8).reshape(256, 1)
    assert Dataset("bytes", full, full, levels=256, event_shape=(1,)).levels == 256
