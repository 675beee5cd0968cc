"""The papers' settings at toy size: every option of a preset, with few and narrow layers."""

import inspect
import json
import math

import pytest
import torch

from benchmarks import gpu
from flowcourse import catalog
from flowcourse.catalog import TOPICS, instances
from flowcourse.training import RunError, runs

# What makes a network large, by the name of its option, and what it is here.
TOY = dict(
    hidden=6, depth=2, blocks=1, steps=1, couplings=2, final_couplings=1, layers=1, head=6,
    channels=12, filters=8, latents=2, masks=2, components=2, kernel=3, first_kernel=3,
    noise_couplings=2, noise_hidden=6, noise_blocks=1, encoder_filters=4, encoder_blocks=1,
    condition_channels=6, condition_hidden=6, residual_blocks=1, width=8, heads=2, scales=2,
    units=2,
)  # fmt: skip


def toy(topic, preset):
    """Small values for the sizes that a preset names, or leaves to the defaults of its model."""
    model = runs.plan(topic, preset).model
    build = inspect.signature(catalog.topic(topic).import_module().build)
    model = {name: p.default for name, p in build.parameters.items()} | model
    small = {name: TOY[name] for name in model.keys() & TOY.keys()}
    if isinstance(model.get("hidden"), list | tuple):
        small["hidden"] = [TOY["hidden"]] * len(model["hidden"])
    return small


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(("topic", "preset"), gpu.PRESETS)
def test_a_training_step_of_a_paper_preset_runs(topic, preset, precision):
    sizes = dict(batch_size=2, micro_batches=1)
    record = gpu.step(topic, preset, False, "cpu", precision, toy(topic, preset), **sizes)
    assert math.isfinite(record["nats"]) and record["nats"] > 0
    assert record["precision"] == precision and record["parameters"] < 2_000_000
    if precision == "bf16-mixed" and gpu.has_steps(topic, preset):
        again = gpu.step(topic, preset, True, "cpu", precision, toy(topic, preset), **sizes)
        assert again["nats"] == record["nats"]


CASES = [(t.name, name) for t in TOPICS for name in instances(t.name)]


@pytest.mark.parametrize(("topic", "instance"), CASES)
def test_networks_may_compute_in_bfloat16_and_the_flow_itself_never_does(topic, instance):
    # A latent with 8 bits of precision would lose the noise between two levels of 8-bit data.
    bijector, x, *context = instances(topic)[instance]
    z, log_det = bijector(x, *context)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, mixed_log_det = bijector(x, *context)
    assert mixed.dtype == mixed_log_det.dtype == x.dtype
    torch.testing.assert_close(mixed, z, rtol=0.1, atol=0.1)
    torch.testing.assert_close(mixed_log_det, log_det, rtol=0.1, atol=0.3)


def test_options_are_compared_in_turn():
    sizes = dict(batch=2, rounds=2, hidden=4, steps=1, compiled=False)
    records = {r["variant"]: r for r in gpu.options("cpu", **sizes)}
    assert set(records) == {"option: channels_last", "option: fused AdamW, the update alone"}
    for record in records.values():
        assert record["ratio"] == record["seconds_on"] / record["seconds_off"] > 0
        assert record["rounds"] == 2


def test_records_are_written_one_by_one(tmp_path, monkeypatch, capsys):
    def some():
        yield gpu._record("a", "noise", seconds_per_step=2.0)
        yield gpu._record("b", "noise", out_of_memory=True)
        raise RuntimeError("the machine is taken away")

    monkeypatch.setattr(gpu, "pick_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(gpu, "steps", some)
    with pytest.raises(RuntimeError):
        gpu.main(["steps", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert [r["variant"] for r in written] == ["a", "b"] and written[0]["topic"] == "gpu"
    assert "seconds_per_step" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match="'cuda' was asked for"):
        gpu.main(["--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_preset_that_does_not_fit_says_so(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu, "step", full)
    (record,) = gpu.steps([("nade", "paper")])
    assert record["out_of_memory"] and record["data"] == "binary_mnist"
