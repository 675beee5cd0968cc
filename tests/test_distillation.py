"""Teachers and students: complete records, a divergence that is found again, inverses by passes."""

import dataclasses

import pytest
import torch

import flowcourse
from benchmarks import distillation
from flowcourse import data, plot, results
from flowcourse.autoregressive_flows.iaf import build
from flowcourse.catalog import perturbed
from flowcourse.flow import Flow, StandardNormal
from flowcourse.training import evaluate

NAMES = list(distillation.STUDENTS)


def loaded(record) -> tuple[Flow, Flow]:
    """The teacher and the student of a record, behind what they share."""
    folders = (
        results.RESULTS / "checkpoints" / record["teacher"],
        results.RESULTS / record["checkpoint"],
    )
    return tuple(distillation.continuous(flowcourse.load(folder)) for folder in folders)


@pytest.mark.parametrize("name", NAMES)
def test_every_student_is_recorded_and_its_divergence_is_found_again(name, monkeypatch):
    monkeypatch.setattr(distillation, "SAMPLES", 1024)
    records = plot.measured("distillation", variant=name)
    assert {r["seed"] for r in records} == {0, 1, 2}, "run: python -m benchmarks.distillation"
    assert all(r["kl_nats"] > 0 and r["kl_standard_error"] > 0 for r in records)
    (kept,) = (r for r in records if r["seed"] == results.KEPT_SEED)
    again = distillation.compared(*loaded(kept), seed=5)
    error = (again["kl_standard_error"] ** 2 + kept["kl_standard_error"] ** 2) ** 0.5
    assert abs(again["kl_nats"] - kept["kl_nats"]) < 6 * error
    assert again["variance_ratio"] == pytest.approx(kept["variance_ratio"], rel=0.2)


@pytest.mark.parametrize("name", ["digits", "eeg"])
def test_a_student_is_no_better_on_data_than_its_teacher(name):
    (record,) = plot.measured("distillation", variant=name, seed=results.KEPT_SEED)
    test = data.load(record["data"]).test
    teacher = flowcourse.load(results.RESULTS / "checkpoints" / record["teacher"])
    of_teacher = evaluate(teacher, test, 1, 1)
    key = "nats" if of_teacher.bits_per_dim is None else "bits_per_dim"
    assert record[key] > getattr(of_teacher, key)


def test_behind_the_pixels_flows_have_the_divergence_that_they_have_in_front():
    torch.manual_seed(0)
    models = [build((1, 2, 2), 5, layers=1, hidden=[8]).double() for _ in range(2)]
    for model in models:
        perturbed(model, 0.2)
    whole = [m.flow for m in models]
    behind = [distillation.continuous(m) for m in models]
    numbers = behind[0].sample(20)
    pixels, _ = whole[0].bijector[0].inverse(numbers)
    torch.testing.assert_close(
        whole[0].log_prob(pixels) - whole[1].log_prob(pixels),
        behind[0].log_prob(numbers) - behind[1].log_prob(numbers),
    )
    flow = Flow(whole[0].bijector, StandardNormal(1, 2, 2))
    assert distillation.continuous(flow) is flow


def test_whole_passes_give_the_same_and_are_undone_afterwards():
    flow = build((5,), None, reads="data", layers=2, dilations=[1, 2], channels=3).double()
    perturbed(flow, 0.3)
    z = torch.randn(4, 5, dtype=torch.float64)
    plain = flow.bijector.inverse(z)
    evaluations = []
    for module in flow.modules():
        if hasattr(module, "one_by_one"):
            module.register_forward_hook(lambda *_: evaluations.append(1))
    with distillation.whole_passes(flow):
        torch.testing.assert_close(flow.bijector.inverse(z), plain)
    # Five for each of two layers, and one for the constants.
    assert len(evaluations) == 11
    flow.bijector.inverse(z)
    assert len(evaluations) == 12


def test_functions_are_timed_in_turns():
    order = []
    seconds = distillation.in_turns(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3
    )
    assert order == ["a", "b"] * 4 and {len(times) for times in seconds.values()} == {3}


def test_a_target_cools_down_to_itself():
    student = dataclasses.replace(distillation.STUDENTS["circles, cooled"], cooling=9.0)
    heat = distillation.penalty_and_heat(student, None, data.load("circles"))["heat"]
    assert heat(0.0) == 9 and heat(0.35) == pytest.approx(3) and heat(0.7) == heat(1.0) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_leaves_a_record_and_keeps_one_seed(seed, tmp_path, monkeypatch):
    short = dataclasses.replace(
        distillation.STUDENTS["digits, power loss"],
        model=dict(layers=1, hidden=[8]),
        training=dict(steps=2, batch_size=8),
    )
    monkeypatch.setitem(distillation.STUDENTS, "digits, power loss", short)
    monkeypatch.setattr(distillation, "SAMPLES", 64)
    monkeypatch.setattr(results, "DRAWS", 2)
    monkeypatch.setattr(results, "REPEATS", 1)
    record = distillation.measure("digits, power loss", seed, tmp_path)
    assert record["kind"] == "bound" and record["bits_per_dim_iw"] < record["bits_per_dim"]
    assert record["speedup"] > 0 and record["speedup_over_whole_passes"] > 0
    assert (record["checkpoint"] is not None) == (seed == results.KEPT_SEED)
    assert any(tmp_path.iterdir()) == (seed == results.KEPT_SEED)
