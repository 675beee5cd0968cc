"""How numbers get into `book/results`, and that those which are there can be measured again."""

import json

import pytest
import torch

from flowcourse import catalog, results
from flowcourse.training import RunError, runs
from flowcourse.training.storage import read_tensors, write_tensors

RECORDS = results.read_records()
CHECKPOINTS = [record for record in RECORDS if record.get("checkpoint")]


def test_there_are_records_and_checkpoints_to_measure_again():
    assert RECORDS, f"No records in {results.RESULTS}: run `make results`."
    assert CHECKPOINTS, f"No record in {results.RESULTS} has a checkpoint: run `make results`."


def test_every_preset_for_a_laptop_is_measured():
    measured = {(r["topic"], r["variant"], r["data"]) for r in RECORDS}
    for topic in catalog.TOPICS:
        for name in topic.measured:
            preset = topic.presets[name]
            data = results.data_name(preset.data, preset.data_options)
            expected = (topic.name, name, data)
            assert expected in measured, f"run `flowcourse results --only {topic.name}`"


def test_the_kept_checkpoints_are_those_of_the_records():
    there = {p.name for p in (results.RESULTS / "checkpoints").iterdir()}
    assert there == {record["checkpoint"].split("/")[-1] for record in CHECKPOINTS}
    for name in there:
        files = [results.RESULTS / "checkpoints" / name / f for f in ("run.json", runs.WEIGHTS)]
        assert sum(file.stat().st_size for file in files) <= results.KEPT_SIZE


@pytest.mark.parametrize("record", CHECKPOINTS, ids=lambda r: r["checkpoint"].split("/")[-1])
def test_the_number_of_a_committed_checkpoint_is_found_again(record):
    figures = results.reevaluate(record)
    for name, value in figures.items():
        expected = (
            pytest.approx(record[name], abs=1e-3) if isinstance(value, float) else record[name]
        )
        assert value == expected, f"{name} of {record['checkpoint']}: run `make results`."


# The machinery, at toy size


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A catalog with one small topic for integers and one for points, and a folder for records."""

    def small(name, data):
        original = catalog.topic(name)
        preset = catalog.Preset(
            data=data,
            model=dict(couplings=2, hidden=8, blocks=1) if name == "realnvp" else dict(hidden=8),
            training=dict(steps=4, batch_size=16, accelerator="cpu"),
        )
        values = {f: getattr(original, f) for f in original.__dataclass_fields__}
        return catalog.Topic(**{**values, "presets": {"laptop": preset, "paper": preset}})

    topics = (catalog.topic("likelihood"), small("nice", "digits"), small("realnvp", "circles"))
    monkeypatch.setattr(catalog, "TOPICS", topics)
    monkeypatch.setattr(results, "DRAWS", 3)
    monkeypatch.setattr(results, "REPEATS", 2)
    folder = tmp_path / "results"

    def main(**options):
        return results.main(folder=folder, runs_folder=tmp_path / "runs", **options)

    return main, folder


def test_results_are_written_for_every_preset_but_the_papers(toy, capsys):
    main, folder = toy
    assert main(seeds=[0, 1], command="flowcourse results --seeds 0 1") == 0
    assert {p.name for p in folder.glob("*.json")} == {"nice.json", "realnvp.json"}
    first, second = json.loads((folder / "nice.json").read_text())
    assert list(first) == results.KEYS == list(second)
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["checkpoint"] == "checkpoints/nice-laptop-digits-seed0"
    assert second["checkpoint"] is None
    assert first["kind"] == "bound" and first["draws"] == 3
    assert first["bits_per_dim_iw"] < first["bits_per_dim"] != second["bits_per_dim"]
    assert first["command"] == "flowcourse results --seeds 0 1"
    assert f"nice laptop, seed 0: {first['bits_per_dim']:.4f}" in capsys.readouterr().out

    points, _ = json.loads((folder / "realnvp.json").read_text())
    assert "bits_per_dim" not in points and points["kind"] == "exact"
    assert points["nats"] > points["entropy_nats"] == pytest.approx(1.7613, abs=1e-3)

    for record in (first, points):
        again = results.reevaluate(record, folder)
        assert {k: record[k] for k in again} == again
    with pytest.raises(RunError, match="keeps no checkpoint"):
        results.reevaluate(second, folder)


def test_a_second_call_uses_the_runs_that_are_there(toy, capsys):
    main, folder = toy
    main(only="nice", seeds=[0])
    before = json.loads((folder / "nice.json").read_text())[0]
    capsys.readouterr()
    main(only="nice", seeds=[0, 1])
    assert "seed0 has ended already" in capsys.readouterr().out
    after = json.loads((folder / "nice.json").read_text())
    assert [r["seed"] for r in after] == [0, 1]
    assert {**after[0], "date": before["date"]} == before


def test_changed_weights_give_another_number(toy):
    main, folder = toy
    main(only="nice", seeds=[0])
    (record,) = results.read_records(folder)
    file = folder / record["checkpoint"] / "model.safetensors"
    weights = read_tensors(file)
    name = next(name for name in weights if name.endswith("log_scale"))
    weights[name] = weights[name] + 0.01
    write_tensors(file, weights)
    again = results.reevaluate(record, folder)
    assert abs(again["bits_per_dim"] - record["bits_per_dim"]) > 1e-3


def test_large_checkpoints_are_not_kept(toy, monkeypatch):
    main, folder = toy
    monkeypatch.setattr(results, "KEPT_SIZE", 1000)
    main(only="nice", seeds=[0])
    (record,) = results.read_records(folder)
    assert record["checkpoint"] is None and not (folder / "checkpoints").exists()


def record(**changes):
    return {**dict.fromkeys(results.KEYS, 0), "topic": "t", "variant": "v", **changes}


def test_records_replace_those_of_the_same_run_and_leave_the_others(tmp_path):
    results.write_records("t", [record(seed=s, bits_per_dim=1.0) for s in (1, 0)], tmp_path)
    path = results.write_records("t", [record(seed=1, bits_per_dim=2.0)], tmp_path)
    found = [(r["seed"], r["bits_per_dim"]) for r in json.loads(path.read_text())]
    assert found == [(0, 1.0), (1, 2.0)]


def test_records_that_say_too_little_are_refused(tmp_path):
    incomplete = record()
    del incomplete["device"], incomplete["kind"]
    with pytest.raises(RunError, match="lacks kind, device"):
        results.write_records("t", [incomplete], tmp_path)
    with pytest.raises(RunError, match="this one is of 't'"):
        results.write_records("other", [record()], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_reevaluation_does_not_depend_on_the_callers_random_state(toy):
    main, folder = toy
    main(only="nice", seeds=[0])
    (kept,) = results.read_records(folder)
    torch.manual_seed(123)
    assert results.reevaluate(kept, folder)["bits_per_dim"] == kept["bits_per_dim"]
