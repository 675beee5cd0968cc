"""One topic, one name, four places: the table is complete and everything in it exists."""

from pathlib import Path

import pytest
import torch

from flowcourse import data
from flowcourse.catalog import TOPICS, Preset, Topic, instances, topic
from flowcourse.training import TrainingConfig

ROOT = Path(__file__).parents[1]
PRESETS = [(t, name) for t in TOPICS for name in t.presets]


@pytest.mark.parametrize("entry", TOPICS, ids=lambda t: t.name)
@pytest.mark.parametrize("place", ["chapter", "problem_set", "test", "checks"])
def test_each_topic_has_its_places(entry, place):
    assert (ROOT / getattr(entry, place)).is_file()


@pytest.mark.parametrize("entry", TOPICS, ids=lambda t: t.name)
def test_each_topic_has_its_module_and_paper(entry):
    assert entry.import_module().__doc__.strip()
    bibliography = (ROOT / "book/references.bib").read_text()
    assert f"{{{entry.paper}," in bibliography


def test_names_are_unique_and_unknown_names_are_explained():
    names = [t.name for t in TOPICS]
    assert len(set(names)) == len(names)
    with pytest.raises(KeyError, match="Known topics: change_of_variables"):
        topic("nicer")
    with pytest.raises(KeyError, match="no preset 'huge'"):
        topic("nice").preset("huge")


def test_every_preset_whose_name_starts_with_paper_is_left_to_gpus():
    names = dict.fromkeys(
        ["laptop", "paper-cifar10", "additive", "paper-imagenet32"], Preset("digits")
    )
    entry = Topic("a", "part", "title", "summary", "key", presets=names)
    assert entry.measured == ["laptop", "additive"] and entry.paper_preset == "paper-cifar10"
    with pytest.raises(KeyError, match="starts with 'paper'"):
        _ = topic("likelihood").paper_preset


def test_instances_are_the_same_every_time():
    for (bijector, x), (again, y) in zip(
        instances("realnvp").values(), instances("realnvp").values(), strict=True
    ):
        assert torch.equal(x, y) and torch.equal(bijector(x)[0], again(y)[0])


@pytest.mark.parametrize(("entry", "name"), PRESETS, ids=lambda v: getattr(v, "name", v))
def test_presets_build_and_configure(entry, name):
    preset = entry.presets[name]
    assert preset.data in data.NAMES
    TrainingConfig(**preset.training)
    spec = data.summary(preset.data, **preset.data_options)
    shape, levels = spec.event_shape, spec.levels
    with torch.device("meta"):
        model = entry.build(shape, levels, **preset.model)
    x = torch.zeros(2, *shape, device="meta")
    inputs = [x]
    if getattr(model, "class_conditional", False):
        inputs.append(torch.zeros(2, dtype=torch.int64, device="meta"))
    if getattr(model, "needs_conditions", False):
        inputs.append(torch.zeros(2, *shape, device="meta"))
    assert model(*inputs).shape == (2,)
    count = sum(p.numel() for p in model.parameters())
    if entry.paper_parameters is not None and name == entry.paper_preset:
        assert count == entry.paper_parameters
