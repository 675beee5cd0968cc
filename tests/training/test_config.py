import math

import pytest
import torch

from flowcourse.training import RunError, TrainingConfig, learning_rate


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(steps=0), "steps should be a whole number, 1 or more and is 0"),
        (dict(steps="many"), "steps should be"),
        (dict(steps=True), "steps should be"),
        (dict(batch_size=9, micro_batches=2), "cannot be cut into micro_batches=2"),
        (dict(learning_rate=0.0), "learning_rate should be a positive number"),
        (dict(learning_rate=math.nan), "learning_rate should be"),
        (dict(ema=1.0), "ema should be a number from 0"),
        (dict(clip_norm=0), "clip_norm should be a positive number, or None"),
        (dict(weight_decay=-1e-4), "weight_decay should be"),
        (dict(schedule="linear"), "one of constant, cosine, one_cycle"),
        (dict(schedule="one_cycle", warmup_steps=5), "has its own rise"),
        (dict(precision="16-mixed"), "one of 32-true, 64-true, bf16-mixed"),
        (dict(accelerator="tpu"), "one of auto, cpu, cuda, mps"),
        (dict(seed=-1), "seed should be"),
        (dict(sample_every=-1), "sample_every should be a whole number, 0 or more"),
        (dict(recompute=1), "recompute should be true or false and is 1"),
        (dict(compile="yes"), "compile should be true or false"),
        (dict(patience=3), "needs held-out examples"),
        (dict(learning_rat=1e-3), "did you mean 'learning_rate'"),
        (dict(zzz=1), "there are steps, batch_size"),
    ],
)
def test_impossible_options_are_refused_with_what_is_expected(options, message):
    with pytest.raises(RunError, match=message):
        TrainingConfig.from_options({"steps": 10, **options})


def test_steps_must_be_given():
    with pytest.raises(RunError, match="how many steps"):
        TrainingConfig.from_options({"seed": 1})


def test_where_a_run_is_executed_is_no_part_of_its_identity():
    one = TrainingConfig(steps=10, devices=1, accelerator="cpu", log_every=1)
    assert one.identity() == TrainingConfig(steps=10, devices=2).identity()
    how = dict(recompute=True, channels_last=True, compile=True, sample_every=5)
    assert one.identity() == TrainingConfig(steps=10, **how).identity()
    assert one.identity() != TrainingConfig(steps=10, seed=1).identity()


def test_constant_schedule_after_a_linear_warm_up():
    config = TrainingConfig(steps=10, learning_rate=8.0, schedule="constant", warmup_steps=4)
    assert [learning_rate(s, config) for s in range(6)] == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


@pytest.mark.parametrize("steps", [10, 37, 1000])
@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_schedules_agree_with_pytorch(schedule, steps):
    config = TrainingConfig(steps=steps, learning_rate=0.3, schedule=schedule)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    if schedule == "cosine":
        theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    else:
        theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, total_steps=steps)
    for step in range(steps):
        assert learning_rate(step, config) == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-6, abs=1e-12
        )
        optimizer.step()
        if step + 1 < steps:
            theirs.step()


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_schedules_are_positive_and_bounded_in_the_shortest_runs(schedule, steps):
    config = TrainingConfig(steps=steps, learning_rate=1.0, schedule=schedule)
    assert all(0 < learning_rate(s, config) <= 1.0 for s in range(steps))
