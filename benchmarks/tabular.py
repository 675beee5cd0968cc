r"""One table of density estimation on tables of measurements: every model on the same rows.

    python -m benchmarks.tabular            write book/results/tabular.json (minutes to an hour)
    python -m benchmarks.tabular --data wine diabetes --models MAF --seeds 0

The models are those that topics of the catalog offer (`Topic.tabular`), and the normal density
that maximum likelihood gives in closed form. All see the same standardised columns and the same
split; what is trained holds out the last fifth of its training rows, and the weights with the best
loss there are tested. Numbers are mean negative log-likelihoods in nats, exact.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from flowcourse import data
from flowcourse.autoregressive_flows.linear import whitening
from flowcourse.catalog import TOPICS
from flowcourse.data import Dataset
from flowcourse.flow import Flow, StandardNormal
from flowcourse.results import write_records
from flowcourse.training import TrainingConfig, evaluate, runs, train

__all__ = ["DATA", "GAUSSIAN", "config", "fit_gaussian", "measure", "models"]

DATA = data.TABLES
GAUSSIAN = "Gaussian"
VALIDATION_SHARE = 0.2
# The same for every model and table. Of three settings of rate, decay and dropout this one had the
# lowest loss on the held-out rows of wine and of diabetes, for MAF with PLU; no other was tried.
TRAINING: dict[str, Any] = dict(
    learning_rate=3e-3, weight_decay=1.0, warmup_steps=50, clip_norm=20.0, ema=0.99,
    schedule="cosine", accelerator="cpu", micro_batches=1,
)  # fmt: skip


def models() -> dict[str, tuple[str, dict[str, Any]]]:
    """Topic and options of every trained model of the table, by its name in the table."""
    return {name: (t.name, dict(options)) for t in TOPICS for name, options in t.tabular.items()}


def config(table: Dataset, seed: int) -> TrainingConfig:
    """How to train on a table: more rows, larger batches and more steps."""
    large = len(table.train) > 10_000
    return TrainingConfig(
        **TRAINING,
        steps=600 if large else 500,
        batch_size=256 if large else 64,
        validation=round(VALIDATION_SHARE * len(table.train)),
        validate_every=50 if large else 20,
        seed=seed,
    )


def fit_gaussian(table: Dataset) -> Flow:
    """The normal density of largest likelihood on all training rows, in double precision."""
    train = table.train.double()
    return Flow(
        whitening(train.mean(dim=0), train.T.cov(correction=0)), StandardNormal(*table.event_shape)
    ).double()


def fit(name: str, table: Dataset, seed: int) -> tuple[nn.Module, float | None]:
    """A fitted model, and its loss in nats on the held-out rows if it was trained."""
    if name == GAUSSIAN:
        return fit_gaussian(table), None
    topic, options = models()[name]
    model = runs.build({"topic": topic, "model": options}, table, seed)
    result = train(model, table, config(table, seed), verbose=False)
    return result.model, result.best_validation


def measure(name: str, table: Dataset, seed: int) -> dict[str, Any]:
    """Fit one model and test it: a record as in the other files of `book/results`."""
    started = time.perf_counter()
    model, validation = fit(name, table, seed)
    seconds = time.perf_counter() - started
    result = evaluate(model, table.test)
    if name == GAUSSIAN:
        dims = table.event_shape[0]
        parameters = dims + dims * (dims + 1) // 2
    else:
        parameters = sum(p.numel() for p in model.parameters())
    return {
        "topic": "tabular",
        "variant": name,
        "data": table.name,
        "seed": seed,
        "nats": result.nats,
        "standard_error": result.standard_error_nats,
        "validation_nats": validation,
        "kind": result.kind,
        "parameters": parameters,
        "seconds": round(seconds, 1),
        "device": "cpu",
        "command": "python -m benchmarks.tabular",
        "versions": runs.versions(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "checkpoint": None,
    }


def tasks(
    tables: Sequence[str], names: Sequence[str], seeds: Sequence[int]
) -> Iterator[tuple[str, str, int]]:
    """Which table, which model, which seed; nothing about the normal density depends on a seed."""
    for table in tables:
        for name in names:
            for seed in seeds if name != GAUSSIAN else [0]:
                yield table, name, seed


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write each record as soon as it is there."""
    known = [GAUSSIAN, *models()]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tabular")
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--models", nargs="+", choices=known, default=known)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)  # small products gain nothing from more
    for table, name, seed in tasks(args.data, args.models, args.seeds):
        record = measure(name, data.load(table), seed)
        path = write_records("tabular", [record])
        print(
            f"{table:14} {name:14} seed {seed}: log-likelihood {-record['nats']:.3f} ± "
            f"{record['standard_error']:.3f} nats, {record['seconds']:.0f} s, in {path}"
        )


if __name__ == "__main__":
    main()
