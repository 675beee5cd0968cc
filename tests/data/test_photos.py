"""Photo patches: a split by place, whose two sides share no pixel."""

from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch

from flowcourse.data import load
from flowcourse.data.photos import cut, patch_corners

both_sizes = pytest.mark.parametrize("size", [8, 32])


@pytest.fixture(scope="module")
def photos():
    return sklearn.datasets.load_sample_images().images


def cover(corners, size):
    """Which pixels of the two photos the patches cover."""
    covered = np.zeros((2, 427, 640), dtype=bool)
    for photo, top, left in corners:
        covered[photo, top : top + size, left : left + size] = True
    return covered


@both_sizes
def test_shapes_and_levels(size):
    data = load("photo_patches", size=size)
    assert data.event_shape == (3, size, size) and data.levels == 256
    assert data.train.dtype == torch.uint8 and data.train.is_contiguous()
    assert len(data.train) > 10 * len(data.test) and len(data.test) >= 130


@both_sizes
def test_train_and_test_share_no_pixel_and_no_jpeg_block(size):
    train, test = (cover(corners, size) for corners in patch_corners(size))
    assert train.any() and test.any() and not (train & test).any()
    # The photos are coded in blocks of 8x8 pixels; a column of blocks is on one side or on none.
    train_blocks = train.any(axis=1).reshape(2, 80, 8).any(axis=2)
    test_blocks = test.any(axis=1).reshape(2, 80, 8).any(axis=2)
    assert not (train_blocks & test_blocks).any()


@both_sizes
def test_test_patches_do_not_overlap(size):
    _, test = patch_corners(size)
    assert cover(test, size).sum() == len(test) * size**2


@both_sizes
def test_the_last_fifth_of_train_can_be_held_out(size):
    train, _ = patch_corners(size)
    border = len(train) * 4 // 5
    assert not (cover(train[:border], size) & cover(train[border:], size)).any()
    assert {photo for photo, _, _ in train[border:]} == {0, 1}


@both_sizes
def test_patches_hold_the_photos_content(size, photos):
    data = load("photo_patches", size=size)
    for x, corners in zip((data.train, data.test), patch_corners(size), strict=True):
        assert len(x) == len(corners)
        for i in range(0, len(corners), 97):
            photo, top, left = corners[i]
            for colour in range(3):
                expected = photos[photo][top : top + size, left : left + size, colour]
                assert np.array_equal(x[i, colour].numpy(), expected)


@both_sizes
def test_wiping_out_the_train_pixels_leaves_the_test_patches_as_they_are(size, photos):
    train, test = patch_corners(size)
    wiped = np.stack(photos)
    wiped[cover(train, size)] = 0
    assert torch.equal(cut(list(wiped), test, size), load("photo_patches", size=size).test)
    assert not torch.equal(cut(list(wiped), train, size), load("photo_patches", size=size).train)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="size=8 and size=32, not size=16"):
        load("photo_patches", size=16)


def test_attribution_carries_what_the_photos_own_notice_asks_for():
    notice = Path(sklearn.datasets.__file__).parent / "images" / "README.txt"
    links = [word for word in notice.read_text().split() if word.startswith("https://")]
    # The notice also links each photographer's page, which is the beginning of the photo's link.
    assert len(links) == 6
    attribution = load("photo_patches").attribution
    assert all(link in attribution for link in links)
    assert "danielbuechele" in attribution and "cut into patches" in attribution
