"""The table of density estimation: against scipy, complete, and measured again where fast."""

import numpy as np
import pytest
import scipy.stats
import torch

from benchmarks import tabular
from flowcourse import data, plot
from flowcourse.results import read_records

NAMES = [tabular.GAUSSIAN, *tabular.models()]


@pytest.mark.parametrize("name", tabular.DATA)
def test_the_normal_density_is_scipys_and_its_record_is_found_again(name):
    table = data.load(name)
    train, test = (part.double().numpy() for part in (table.train, table.test))
    truth = scipy.stats.multivariate_normal(train.mean(axis=0), np.cov(train.T, bias=True))
    again = tabular.measure(tabular.GAUSSIAN, table, 0)
    assert -again["nats"] == pytest.approx(truth.logpdf(test).mean(), rel=1e-6)
    spread = truth.logpdf(test).std(ddof=1) / len(test) ** 0.5
    assert again["standard_error"] == pytest.approx(spread, rel=1e-4)
    (record,) = plot.measured("tabular", data=name, variant=tabular.GAUSSIAN)
    assert record["nats"] == pytest.approx(again["nats"], abs=1e-4)
    assert record["parameters"] == again["parameters"]


@pytest.mark.parametrize("name", tabular.DATA)
def test_every_model_is_recorded_on_every_table(name):
    records = [r for r in read_records() if r["topic"] == "tabular" and r["data"] == name]
    assert {r["variant"] for r in records} == set(NAMES), "run: python -m benchmarks.tabular"
    assert all(r["kind"] == "exact" and r["standard_error"] > 0 for r in records)


@pytest.mark.parametrize("name", tabular.models())
def test_models_of_the_table_train_on_the_training_rows_only(name, monkeypatch):
    table = data.load("wine")
    monkeypatch.setitem(tabular.TRAINING, "warmup_steps", 0)
    short = tabular.config(table, 0)
    monkeypatch.setattr(
        tabular, "config", lambda *_: short.__class__(**{**vars(short), "steps": 3})
    )
    spoilt = data.Dataset("wine", table.train, table.test + 100, None, table.event_shape)
    one, other = (tabular.measure(name, t, 0) for t in (table, spoilt))
    assert one["validation_nats"] == other["validation_nats"] and one["nats"] < other["nats"]
    assert one["parameters"] > 0 and one["topic"] == "tabular"


def test_a_fifth_of_the_training_rows_is_held_out():
    table = data.load("diabetes")
    assert tabular.config(table, 0).validation == round(0.2 * len(table.train))


def test_the_normal_density_needs_no_seeds():
    tasks = list(tabular.tasks(["wine"], NAMES, [0, 1]))
    assert len(tasks) == 1 + 2 * (len(NAMES) - 1) and tasks[0] == ("wine", tabular.GAUSSIAN, 0)


def test_records_are_written_one_by_one(monkeypatch, tmp_path, capsys):
    written = []
    monkeypatch.setattr(tabular, "write_records", lambda topic, rows: written.extend(rows))
    threads = torch.get_num_threads()
    tabular.main(["--data", "wine", "--models", tabular.GAUSSIAN])
    torch.set_num_threads(threads)
    assert [r["data"] for r in written] == ["wine"]
    assert "log-likelihood" in capsys.readouterr().out
