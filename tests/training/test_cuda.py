"""What runs on a GPU runs there: every topic's laptop preset, in both precisions, a few steps.

These tests need nothing of `conftest.py`, so a bare machine with a GPU can run this file alone:

    python -m pytest -c /dev/null --noconftest --import-mode=importlib tests/training/test_cuda.py
"""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks import memory as benchmark
from flowcourse import catalog, load
from flowcourse.training import runs, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
TRAINABLE = [topic.name for topic in catalog.TOPICS if "laptop" in topic.presets]
OPTIONS = dict(steps=3, log_every=1, warmup_steps=0, accelerator="cuda", checkpoint_every=2)


def run(topic, folder=None, model=None, **options):
    plan = runs.plan(topic, options=OPTIONS | options)
    description = replace(plan, model=plan.model | (model or {})).description()
    data = runs.load_data(description)
    built = runs.build(description, data, plan.config.seed)
    result = train(built, data, plan.config, folder, description=description, verbose=False)
    return [row["nats"] for row in result.history], result.model, data


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("topic", TRAINABLE)
def test_a_laptop_preset_trains_on_cuda(topic, precision):
    losses, model, _ = run(topic, precision=precision)
    assert len(losses) == 3 and all(map(math.isfinite, losses))
    assert all(p.is_cuda and p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("topic", ["realnvp", "glow"])
def test_the_first_loss_is_that_of_the_cpu(topic):
    # Without noise from the two devices' generators: what is left is rounding and dequantization.
    cuda, _, _ = run(topic, model={"dropout": 0.0})
    cpu, _, _ = run(topic, model={"dropout": 0.0}, accelerator="cpu")
    assert cuda[0] == pytest.approx(cpu[0], rel=0.02)


@pytest.mark.parametrize("option", ["recompute", "channels_last"])
@pytest.mark.parametrize("topic", ["realnvp", "glow"])
def test_options_do_not_change_the_losses(topic, option):
    assert run(topic, **{option: True})[0] == pytest.approx(run(topic)[0], rel=1e-3)


def test_a_run_moves_from_the_cpu_to_cuda_and_back(tmp_path):
    # The fused optimizer of CUDA reads the state of the CPU's, and the other way around.
    digits = runs.plan("glow", options=OPTIONS | dict(steps=6, accelerator="cpu"))
    description = digits.description()
    data = runs.load_data(description)

    class Stop(Exception):
        pass

    def go(accelerator, passes=None):
        config = replace(digits.config, accelerator=accelerator, channels_last=True)
        model = runs.build(description, data, 0)
        calls = []

        def stop(*_):
            calls.append(1)
            if passes is not None and len(calls) > 1 + passes * config.micro_batches:
                raise Stop

        model.register_forward_pre_hook(stop)
        return train(model, data, config, tmp_path, description=description, verbose=False)

    with pytest.raises(Stop):
        go("cpu", 3)  # its last checkpoint is after step 2
    with pytest.raises(Stop):
        go("cuda", 3)  # steps 3 and 4, and a checkpoint after step 4
    result = go("cpu")
    assert [row["step"] for row in result.history] == list(range(1, 7))
    assert all(math.isfinite(row["nats"]) for row in result.history)
    assert load(tmp_path).sample(2).shape == (2, 1, 8, 8)


def test_counted_memory_is_close_to_what_cuda_hands_out():
    for recompute in (False, True):
        measured, counted = (
            benchmark.measure(device, 8, recompute, 64, "bf16-mixed")["activation_bytes"]
            for device in ("cuda", "meta")
        )
        assert counted == pytest.approx(measured, rel=0.3)
