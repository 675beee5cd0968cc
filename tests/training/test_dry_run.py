"""What a dry run says, against the models themselves."""

import re

import pytest
import torch
from torch import nn

from flowcourse import catalog, cli, data
from flowcourse.coupling import realnvp
from flowcourse.training import RunError, TrainingConfig, runs
from flowcourse.training.dry_run import LINES, dry_run, layers, memory, schedule
from flowcourse.training.memory import tensor_bytes

PAPERS = [(t.name, p) for t in catalog.TOPICS for p in t.presets if p.startswith("paper")]


def meta(topic, preset):
    plan = runs.plan(topic, preset)
    with torch.device("meta"):
        return runs.build(plan.description(), data.summary(plan.data, **plan.data_options), 0)


def test_glow_on_eight_devices_that_are_not_here(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = "train glow --preset paper-cifar10 --device cuda --devices 8 --precision bf16-mixed"
    small = ["--set", "model.steps=2", "--set", "model.hidden=16"]
    assert cli.main([*line.split(), "--dry-run", *small]) == 0
    shown = capsys.readouterr().out
    model = catalog.topic("glow").build(
        (3, 32, 32), 256, scales=3, steps=2, hidden=16, permutation="direct"
    )
    assert f"{sum(p.numel() for p in model.parameters()):,} in all" in shown
    assert "2 x these 3" in shown and "GlowCoupling > GlowNet" in shown
    assert "Memory on each of 8 devices, bf16-mixed, a micro-batch of 64" in shown
    assert "512 examples = 8 micro-batches of 64, 1 on each device\n" in shown
    assert "200,000 updates, 2,048.0 passes over the data" in shown
    assert "rises to 0.001 in 976 updates, then stays there" in shown
    assert "cifar10: 50,000 training examples of shape (3, 32, 32), 256 levels, 146 MiB" in shown
    assert "data.download=true" in shown and "with recompute=true" in shown


def test_nothing_is_read_written_or_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWCOURSE_DATA", str(tmp_path / "none"))
    assert cli.main(["train", "nice", "--preset", "paper", "--dry-run"]) == 0
    assert "mnist: 60,000 training examples" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("topic", "preset"), PAPERS)
def test_the_tree_of_a_paper_model_is_short_and_adds_up(topic, preset):
    model = meta(topic, preset)
    lines = layers(model)
    assert 1 <= len(lines) <= LINES and all(len(line) < 130 for line in lines)
    counts = [int(line.split()[-1].replace(",", "")) for line in lines]
    depths = [len(line) - len(line.lstrip()) for line in lines]
    assert counts[0] == sum(p.numel() for p in model.parameters())
    # The lines one level below the first are parts of it, and nothing is counted twice.
    assert sum(c for c, d in zip(counts, depths, strict=True) if d == 2) <= counts[0]


def test_what_repeats_is_written_once():
    def pair():
        return [nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([*pair(), *pair(), *pair(), nn.Linear(2, 2)])

    counts = [line.split(maxsplit=0)[0].rsplit(maxsplit=1) for line in layers(Model())]
    assert [(name.strip(), int(n)) for name, n in counts] == [
        ("Model", 57),
        ("3 x these 3", 51),
        ("Linear (weight 3x2, bias 3)", 9),
        ("Tanh", 0),
        ("Linear (weight 2x3, bias 2)", 8),
        ("Linear (weight 2x2, bias 2)", 6),
    ]


def small_memory(**options):
    config = TrainingConfig(steps=10, batch_size=8, **options)
    with torch.device("meta"):
        model = realnvp.build((3, 8, 8), 256, hidden=8, blocks=1)
    x = torch.zeros(4, 3, 8, 8, dtype=torch.uint8, device="meta")
    return model, memory(model, [x], config)


def test_fixed_memory_is_that_of_the_true_tensors():
    model, found = small_memory()
    real = realnvp.build((3, 8, 8), 256, hidden=8, blocks=1)
    optimizer = torch.optim.AdamW(real.parameters())
    real(torch.zeros(4, 3, 8, 8, dtype=torch.uint8)).mean().backward()
    optimizer.step()
    kept = found["kept"]
    assert kept["weights"] == tensor_bytes([*real.parameters(), *real.buffers()])
    assert kept["gradients"] == tensor_bytes(p.grad for p in real.parameters())
    moments = [
        value
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    ]
    assert kept["optimizer"] == tensor_bytes(moments)
    assert kept["averages"] == kept["weights"]
    assert found["recomputed"] | {"activations": 0} == kept | {"activations": 0}
    assert 0 < found["recomputed"]["activations"] < kept["activations"]


def test_several_processes_and_validation_need_more():
    _, one = small_memory()
    _, more = small_memory(devices=2, validation=10)
    assert more["kept"]["gradients"] == 2 * one["kept"]["gradients"]
    assert more["kept"]["averages"] == 2 * one["kept"]["averages"]
    assert more["kept"]["activations"] == one["kept"]["activations"]


def test_models_without_steps_and_models_of_classes(capsys):
    shown = dry_run(runs.plan("pixelcnn", "classes", options={"precision": "64-true"}))
    assert "recompute" not in shown and "together, about" in shown
    size = float(re.search(r"weights +([\d.]+) (?:KiB|MiB)", shown).group(1))
    half = dry_run(runs.plan("pixelcnn", "classes"))
    assert float(re.search(r"weights +([\d.]+) (?:KiB|MiB)", half).group(1)) < size


def test_what_cannot_run_is_refused_by_a_dry_run_too():
    with pytest.raises(RunError, match="3 processes cannot share micro_batches=2"):
        dry_run(runs.plan("nice", options={"devices": 3}))
    with pytest.raises(RunError, match="no option colour"):
        dry_run(runs.plan("nice", options={"data.colour": 1}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "constant"}, "is 0.5 at first and stays there"),
        ({}, "is 0.5 at first and falls to 0 along half a cosine"),
        ({"schedule": "one_cycle"}, "rises along a cosine to 0.5 in 30 % of the run"),
        ({"schedule": "constant", "warmup_steps": 5}, "rises to 0.5 in 5 updates, then stays"),
    ],
)
def test_the_rate_in_words(options, words):
    assert schedule(TrainingConfig(steps=10, learning_rate=0.5, **options)).startswith(words)
