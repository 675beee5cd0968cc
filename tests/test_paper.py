"""The GPU cell of the chapters: what it shows anywhere, and its training path at toy size."""

import math

import pytest
import torch

from flowcourse import catalog, load
from flowcourse.paper import paper_run, wants_gpu
from flowcourse.training import RunError, context_for, runs

TRAINABLE = [topic for topic in catalog.TOPICS if topic.presets]
TINY = {
    "nice": {"model.hidden": 8, "model.depth": 1},
    "realnvp": {"model.hidden": 4, "model.blocks": 1},
    "glow": {"model.hidden": 4, "model.steps": 1},
    "flowpp": {
        "model.layout": ["checkerboard", "squeeze", "channels"],
        "model.filters": 4,
        "model.blocks": 1,
        "model.components": 2,
        "model.encoder_filters": 4,
    },
    "dequantization": {"model.hidden": 4, "model.couplings": 2, "model.final_couplings": 2},
    "iaf": {"model.layers": 1},
    "tarflow": {"model.blocks": 1, "model.layers": 1, "model.width": 8},
}


@pytest.mark.parametrize("topic", TRAINABLE, ids=lambda topic: topic.name)
def test_paper_setting_is_shown_without_data_or_gpu(topic, capsys, monkeypatch):
    monkeypatch.delenv("FLOWCOURSE_GPU", raising=False)
    assert paper_run(topic.name) is None
    shown = capsys.readouterr().out
    assert topic.title in shown and topic.preset(topic.paper_preset).data in shown
    assert f"flowcourse train {topic.name} --preset {topic.paper_preset} " in shown
    if topic.paper_parameters is not None:
        assert f"parameters  {topic.paper_parameters:,} (" in shown


@pytest.mark.parametrize("topic", TRAINABLE, ids=lambda topic: topic.name)
def test_training_path_at_toy_size(topic, capsys, tmp_path):
    """What a GPU would do with the paper's preset, on the CPU with the laptop's and two steps."""
    options = {"steps": 2, "warmup_steps": 0, "batch_size": 8, "accelerator": "cpu"}
    found = paper_run(
        topic.name,
        "laptop",
        options=options | TINY.get(topic.name, {}),
        training=True,
        runs_folder=tmp_path,
    )
    assert found is not None and math.isfinite(found.nats)
    shown = capsys.readouterr().out
    assert "2 steps" in shown and f"({found.kind})" in shown
    (folder,) = tmp_path.iterdir()
    model = load(folder)
    context = context_for(model, runs.load_data(runs.read_run(folder)), "test")
    given = {} if context is None else {"context": context[:2]}
    assert torch.isfinite(model.sample(2, **given).double()).all()


def test_parameter_count_is_that_of_the_real_model(capsys):
    paper_run("nice", "laptop", training=False)
    built = catalog.topic("nice").build(
        (1, 8, 8), 17, **catalog.topic("nice").preset("laptop").model
    )
    assert f"parameters  {sum(p.numel() for p in built.parameters()):,}" in capsys.readouterr().out


def test_a_gpu_is_used_only_when_asked_for(monkeypatch):
    for there, asked, expected in [(True, "1", True), (True, "0", False), (False, "1", False)]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setenv("FLOWCOURSE_GPU", asked)
        assert wants_gpu() is expected


def test_unknown_preset_is_named():
    with pytest.raises(RunError, match="laptop"):
        paper_run("nice", "supercomputer")
