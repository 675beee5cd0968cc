"""The measured numbers of the book: `make results` writes them, the tests measure them again.

`book/results/TOPIC.json` is a list of records. Each says what was trained, on what, with which
seed, command and versions, what came out, and where its checkpoint is, if it is kept: a folder with
`run.json` and `model.safetensors`, which `flowcourse.load` reads.
"""

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowcourse import catalog, training
from flowcourse.training import Evaluation, RunError, runs
from flowcourse.training.storage import read_json, write_json

__all__ = ["data_name", "main", "measure", "read_records", "reevaluate", "write_records"]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "book" / "results"
# Every record is measured with these, so that its number can be found again.
DRAWS, REPEATS, SEED = 64, 8, 0
# Kept in the repository: one seed, and no more than this in bytes.
KEPT_SEED, KEPT_SIZE = 0, 3 * 2**20
# A record of bits per dimension has these. Other quantities, such as a model's further `figures`,
# go by their own names.
KEYS = (
    "topic variant data seed bits_per_dim bits_per_dim_iw draws standard_error kind parameters "
    "seconds device command versions date checkpoint"
).split()


def main(
    only: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    preset: str | None = None,
    resume: bool = True,
    command: str = "flowcourse results",
    folder: Path = RESULTS,
    runs_folder: Path = Path("runs"),
) -> int:
    """Train, measure and record every preset that a laptop can train.

    Args:
        only: one topic; None for all.
        seeds: of the training runs.
        preset: one preset; None for all that a laptop can train.
        resume: use runs that have ended or were interrupted; False trains again.
        command: what the records say they were made by.
        folder: where the records go.
        runs_folder: where the runs are kept.
    """
    topics = [catalog.topic(only)] if only else catalog.TOPICS
    for name, chosen in [(t.name, p) for t in topics for p in t.measured if preset in (None, p)]:
        for seed in seeds:
            record = measure(name, chosen, seed, command, folder, runs_folder, resume)
            path = write_records(name, [record], folder)
            unit = "bits_per_dim" if "bits_per_dim" in record else "nats"
            print(
                f"{name} {chosen}, seed {seed}: {record[unit]:.4f} ± "
                f"{record['standard_error']:.4f} {unit} ({record['kind']}), in {path}"
            )
    return 0


def measure(
    topic: str,
    preset: str,
    seed: int,
    command: str,
    folder: Path,
    runs_folder: Path,
    resume: bool = True,
) -> dict[str, Any]:
    """Train one run, or take it where it stands, and measure it on the test set, on the CPU."""
    plan = runs.plan(topic, preset, options={"seed": seed})
    kept = catalog.topic(topic).preset(preset).kept
    run_folder = runs_folder / plan.name
    line = f"flowcourse train {topic} --preset {preset} --data {plan.data} --seed {seed}"
    description = {**plan.description(), "command": line}
    data = runs.load_data(description)
    model = runs.build(description, data, seed)
    result = training.train(
        model, data, plan.config, run_folder, resume=resume, description=description
    )
    run = training.read_run(run_folder)
    evaluation = _evaluate(run_folder)
    record = {
        "topic": topic,
        "variant": preset,
        "data": data_name(plan.data, plan.data_options),
        "seed": seed,
        **_figures(evaluation, data.entropy_nats),
        "parameters": run["parameters"],
        "seconds": round(result.seconds, 1),
        "device": run["device"],
        "command": command,
        "versions": run["versions"],
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "checkpoint": _keep(run_folder, folder, seed) if kept else None,
    }
    return record


def data_name(data: str, options: Mapping[str, Any]) -> str:
    """What a record calls its data: with other options it would be another data set.

    >>> data_name("photo_patches", {"size": 8, "bits": 5})
    'photo_patches (size=8, bits=5)'
    """
    named = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"{data} ({named})" if named else data


def _evaluate(folder: Path) -> Evaluation:
    data = runs.load_data(training.read_run(folder))
    model = training.load(folder)
    context = training.context_for(model, data, "test")
    return training.evaluate(model, data.test, REPEATS, DRAWS, SEED, context=context)


def _figures(evaluation: Evaluation, entropy_nats: float | None) -> dict[str, Any]:
    if evaluation.bits_per_dim is None:
        return {
            "nats": evaluation.nats,
            "entropy_nats": entropy_nats,
            "standard_error": evaluation.standard_error_nats,
            "kind": evaluation.kind,
            **evaluation.figures,
        }
    return {
        "bits_per_dim": evaluation.bits_per_dim,
        "bits_per_dim_iw": evaluation.bits_per_dim_iw,
        "draws": evaluation.draws,
        "standard_error": evaluation.standard_error,
        "kind": evaluation.kind,
        **evaluation.figures,
    }


def _keep(run_folder: Path, folder: Path, seed: int) -> str | None:
    """Copy a small checkpoint beside the records; returns where it is, from their folder."""
    names = ("run.json", runs.WEIGHTS)
    size = sum((run_folder / name).stat().st_size for name in names)
    if seed != KEPT_SEED or size > KEPT_SIZE:
        return None
    kept = Path("checkpoints") / run_folder.name
    (folder / kept).mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(run_folder / name, folder / kept / name)
    return kept.as_posix()


def reevaluate(record: Mapping[str, Any], folder: Path = RESULTS) -> dict[str, Any]:
    """Measure the checkpoint of a record again, with the same noise.

    Args:
        record: one with a checkpoint.
        folder: the folder of the records, from which the checkpoint's path starts.

    Returns:
        The measured part of a record: `bits_per_dim` or `nats`, and what belongs to it.
    """
    if not record.get("checkpoint"):
        raise RunError(
            f"The record of {record['topic']}, seed {record['seed']}, keeps no checkpoint: only "
            f"those of seed {KEPT_SEED} and of at most {KEPT_SIZE} bytes are kept, unless the "
            "preset says otherwise."
        )
    return _figures(_evaluate(folder / record["checkpoint"]), record.get("entropy_nats"))


def write_records(topic: str, records: Iterable[Mapping[str, Any]], folder: Path = RESULTS) -> Path:
    """Put records into `TOPIC.json`, in the place of those with the same variant, data and seed.

    Raises:
        RunError: a record of bits per dimension lacks a key, or belongs to another topic.
    """
    path = folder / f"{topic}.json"
    merged = {_key(record): record for record in (read_json(path) if path.exists() else [])}
    for record in records:
        missing = [key for key in KEYS if key not in record and "bits_per_dim" in record]
        if missing or record["topic"] != topic:
            raise RunError(
                f"A record of {topic} should name that topic and have the keys {', '.join(KEYS)}; "
                f"this one is of {record['topic']!r} and lacks {', '.join(missing) or 'none'}."
            )
        merged[_key(record)] = dict(record)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, [merged[key] for key in sorted(merged)])
    return path


def _key(record: Mapping[str, Any]) -> str:
    return json.dumps([record.get(name) for name in ("variant", "data", "seed")])


def read_records(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All records, in the order of the files' names."""
    return [record for path in sorted(folder.glob("*.json")) for record in read_json(path)]
