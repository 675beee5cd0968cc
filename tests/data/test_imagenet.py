"""Downsampled ImageNet from tiny files in the two published formats, read from disk when needed."""

import os
import pickle

import numpy as np
import pytest
import torch

from flowcourse.data import DataError, Dataset, available, imagenet, load, summary
from flowcourse.data.cache import cache_folder
from flowcourse.training import TrainingConfig, train

COUNTS = {"train": 20, "test": 5}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(imagenet, "COUNTS", COUNTS)


def published(folder, name="imagenet32", form="npz", change=None):
    """The eleven files of a data set of 20 and 5 images; returns all images and labels."""
    rng = np.random.default_rng(0)
    size = imagenet.PIXELS[name]
    folder.mkdir(exist_ok=True)
    whole = {}
    for part, stems in imagenet.FILES.items():
        n = COUNTS[part] // len(stems)
        for stem in stems:
            batch = {
                "data": rng.integers(256, size=(n, 3 * size**2), dtype=np.uint8),
                "labels": rng.integers(1, 1001, size=n).tolist(),
                "mean": rng.random(3 * size**2),
            }
            if change is not None:
                change(stem, batch)
            whole.setdefault(part, []).append((batch["data"], batch["labels"]))
            if form == "npz":
                np.savez(folder / f"{stem}.npz", **batch)
            else:
                (folder / stem).write_bytes(pickle.dumps(batch, protocol=form))
    return whole


@pytest.mark.parametrize("form", ["npz", 2, 4])
@pytest.mark.parametrize("name", imagenet.PIXELS)
def test_what_was_published_is_what_is_read(tmp_path, name, form):
    whole = published(tmp_path / "files", name, form)
    data = load(name, folder=tmp_path / "files")
    size = imagenet.PIXELS[name]
    assert data.event_shape == summary(name).event_shape == (3, size, size)
    assert data.train.shape == (20, 3, size, size) and data.levels == 256
    for part in ("train", "test"):
        rows = np.concatenate([data for data, _ in whole[part]])
        labels = np.concatenate([labels for _, labels in whole[part]])
        assert np.array_equal(getattr(data, part).flatten(1).numpy(), rows)
        assert getattr(data, f"{part}_labels").tolist() == (labels - 1).tolist()
    # Red, then green, then blue, and in each row by row: as the authors wrote their rows.
    assert data.train[0, 1, 2, 3] == whole["train"][0][0][0, size**2 + 2 * size + 3]


def test_the_files_are_needed_once(tmp_path):
    folder = tmp_path / "files"
    published(folder)
    assert "imagenet32" not in available()
    first = load("imagenet32", folder=folder)
    for file in folder.iterdir():
        file.unlink()
    assert "imagenet32" in available() and "imagenet64" not in available()
    assert torch.equal(load("imagenet32").train, first.train)
    assert [p.name for p in cache_folder().iterdir()] == ["imagenet32"]


def test_examples_are_read_when_they_are_indexed_and_writing_stays_in_memory(tmp_path):
    published(tmp_path / "files")
    data = load("imagenet32", folder=tmp_path / "files")
    address = data.train.untyped_storage().data_ptr()
    with open(f"/proc/{os.getpid()}/maps") as maps:
        mapped = [line for line in maps if "imagenet32/train.npy" in line]
    spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in mapped]
    assert any(low <= address < high for low, high in spans)
    before = data.train[3].clone()
    data.train[3] = 0
    assert torch.equal(load("imagenet32").train[3], before)


class Pixels(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(256))

    def forward(self, x):
        return torch.log_softmax(self.logits, 0)[x.long()].flatten(1).sum(1)


def test_the_training_loop_takes_it_as_it_is(tmp_path):
    published(tmp_path / "files")
    mapped = load("imagenet32", folder=tmp_path / "files")
    held = Dataset("held", mapped.train.clone(), mapped.test.clone(), 256, (3, 32, 32))
    config = TrainingConfig(
        steps=4, batch_size=8, validation=4, validate_every=2, log_every=1, accelerator="cpu"
    )
    one, two = (train(Pixels(), x, config, verbose=False).history for x in (mapped, held))
    assert [row["nats"] for row in one] == [row["nats"] for row in two]


def test_without_files_the_way_to_get_them_is_shown(tmp_path):
    with pytest.raises(DataError) as error:
        load("imagenet64")
    message = str(error.value)
    assert "image-net.org" in message and "64x64" in message and "folder=" in message
    with pytest.raises(DataError, match="has no file train_data_batch_1 or"):
        load("imagenet64", folder=tmp_path)


def one_more(stem, batch):
    if stem == "val_data":
        batch["data"], batch["labels"] = batch["data"][[0] * 6], batch["labels"] + [1]


def one_less(stem, batch):
    if stem == "train_data_batch_3":
        batch["data"], batch["labels"] = batch["data"][:1], batch["labels"][:1]


def wrong_size(stem, batch):
    batch["data"] = batch["data"][:, :300]


def wrong_labels(stem, batch):
    batch["labels"] = [0] * len(batch["labels"])


def no_images(stem, batch):
    del batch["mean"]
    batch["images"] = batch["data"]
    batch["data"] = np.array(["text"] * len(batch["labels"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (one_more, "hold 5 images for test and holds 6"),
        (one_less, "hold 20 images for train.* holds 19"),
        (wrong_size, "rows of 3072 bytes"),
        (wrong_labels, "with labels 0 to 0"),
        (no_images, "rows of 3072 bytes"),
    ],
)
def test_other_files_are_refused_and_nothing_is_left_behind(tmp_path, change, message):
    published(tmp_path / "files", change=change)
    with pytest.raises(DataError, match=message):
        load("imagenet32", folder=tmp_path / "files")
    assert not list(cache_folder().iterdir())


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_pickle_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published(tmp_path / "files", form=4)
    (tmp_path / "files" / "train_data_batch_2").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(DataError, match="asks for posix.mkdir, not for arrays"):
        load("imagenet32", folder=tmp_path / "files")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("damage", [b"", b"x" * 300])
def test_damage_is_named(tmp_path, damage):
    published(tmp_path / "files")
    load("imagenet32", folder=tmp_path / "files")
    (cache_folder() / "imagenet32" / "train.npy").write_bytes(damage)
    with pytest.raises(DataError, match="train.npy is damaged.*delete"):
        load("imagenet32")
