r"""Slow teachers, fast students: autoregressive flows distilled into inverse autoregressive flows.

    python -m benchmarks.distillation                   write book/results/distillation.json
    python -m benchmarks.distillation --data eeg --seeds 0

A teacher is a checkpoint of `book/results`, trained on data by maximum likelihood. A student is an
IAF that sees no data: it minimises its divergence from the teacher, on its own samples. A record
says how far it got, in nats, what it says of held-out data, by its exact density, and by how much
faster it samples: ratios of a core's times that were measured in turns, medians over rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import flowcourse
from flowcourse import data, results
from flowcourse.autoregressive_flows.iaf_distillation import (
    fit_reverse_kl,
    log_ratios,
    power_loss,
    variances,
)
from flowcourse.autoregressive_flows.maf_conditioner import Conditioner
from flowcourse.bijector import Compose
from flowcourse.data import Dataset
from flowcourse.flow import Flow
from flowcourse.training import TrainingConfig, runs
from flowcourse.training.storage import write_json, write_tensors

__all__ = ["STUDENTS", "Student", "continuous", "in_turns", "measure", "whole_passes"]

TOPIC = "distillation"
SAMPLES = 4096  # for each divergence and variance
TIMED, ROUNDS = 100, 15


@dataclass(frozen=True)
class Student:
    """What learns from which teacher, and how.

    Attributes:
        data: the data set that the teacher was trained on.
        teacher: its checkpoint.
        model: options of `iaf.build`.
        training: options of `fit_reverse_kl`.
        cooling: start with a target so many times as hot, and cool it until 7/10 of the updates.
        power: weight of the power loss, 0 for none; it looks at the training data: at the spectrum
            of series, and at the variance of each pixel.
    """

    data: str
    teacher: str
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    cooling: float = 1.0
    power: float = 0.0


# The students of one teacher have one size and one number of updates. Few things were tried before:
# a power loss of 30 on digits, which was too much, and one or four layers on the series.
_CIRCLES = Student(
    data="circles",
    teacher="splines-circles-circles-seed0",
    model=dict(layers=8, hidden=[64], transformer="affine"),
    training=dict(steps=1500),
)
_DIGITS = Student(
    data="digits",
    teacher="iaf-maf-digits-seed0",
    model=dict(layers=5, hidden=[256], transformer="affine"),
    training=dict(steps=1200, batch_size=128, learning_rate=2e-3),
)
_EEG = Student(
    data="eeg",
    teacher="iaf-wavenet-eeg-seed0",
    model=dict(layers=2, dilations=[1, 2, 4, 8], channels=16, transformer="affine"),
    training=dict(steps=400, batch_size=128),
)
STUDENTS: dict[str, Student] = {
    "circles": _CIRCLES,
    "circles, cooled": replace(_CIRCLES, cooling=20.0),
    "digits": _DIGITS,
    "digits, power loss": replace(_DIGITS, power=3.0),
    "eeg": _EEG,
    "eeg, power loss": replace(_EEG, power=3.0),
}


def continuous(model: nn.Module) -> Flow:
    """The flow itself; of discrete data, behind the map from pixels to numbers without bounds.

    Teacher and student share that map, which divergences do not feel, and rounding does.
    """
    if isinstance(model, Flow):
        return model
    flow = cast(Flow, model.flow)
    steps = cast(Compose, flow.bijector)
    return Flow(Compose(*(steps[k] for k in range(1, len(steps)))), flow.base)


def penalty_and_heat(student: Student, model: nn.Module, dataset: Dataset) -> dict[str, Any]:
    """What a student minimises besides the divergence, as options of `fit_reverse_kl`."""
    options: dict[str, Any] = {}
    if student.power and dataset.levels is None:
        options["penalty"] = power_loss(dataset.train, student.power)
    elif student.power:
        noisy = dataset.train + torch.rand(dataset.train.shape)
        preprocessing = cast(Compose, cast(Flow, model.flow).bijector)[0]
        numbers, _ = preprocessing(noisy)
        options["penalty"] = power_loss(numbers, student.power, variances)
    if student.cooling > 1:
        options["heat"] = partial(_falling, student.cooling)
    return options


def _falling(hottest: float, progress: float) -> float:
    return max(1.0, hottest ** (1 - progress / 0.7))


@contextmanager
def whole_passes(model: nn.Module) -> Iterator[None]:
    """For a while, let every inverse pass over all dimensions once for each block."""
    conditioners = [m for m in model.modules() if isinstance(m, Conditioner)]
    for net in conditioners:
        net.one_by_one = partial(Conditioner.one_by_one, net)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for net in conditioners:
            del net.one_by_one


def in_turns(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds that a core spends on each function, one after the other, again and again."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    with torch.no_grad():
        for function in functions.values():
            function()  # the first call of a function is slower than later ones
        for _ in range(rounds):
            for name, function in functions.items():
                started = time.process_time()
                function()
                seconds[name].append(time.process_time() - started)
    return seconds


def speeds(teacher: Flow, student: Flow) -> dict[str, float]:
    """How many times as long as its student a teacher takes for the same number of samples."""

    def naive() -> None:
        with whole_passes(teacher):
            teacher.sample(TIMED)

    seconds = in_turns(
        {
            "student": lambda: student.sample(TIMED),
            "teacher": lambda: teacher.sample(TIMED),
            "teacher, whole passes": naive,
        },
        ROUNDS,
    )

    def ratio(name: str) -> float:
        pairs = zip(seconds[name], seconds["student"], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 2)

    return {
        "speedup": ratio("teacher"),
        "speedup_over_whole_passes": ratio("teacher, whole passes"),
    }


def compared(teacher: Flow, student: Flow, seed: int) -> dict[str, float]:
    """The divergence of a student from its teacher, and the share of the variance that it has."""
    torch.manual_seed(seed)
    with torch.no_grad():
        ratios = log_ratios(student, teacher.log_prob, SAMPLES).double()
        own, theirs = (flow.sample(SAMPLES).var(dim=0).sum() for flow in (student, teacher))
    return {
        "kl_nats": ratios.mean().item(),
        "kl_standard_error": (ratios.std() / SAMPLES**0.5).item(),
        "variance_ratio": (own / theirs).item(),
    }


def save(folder: Path, model: nn.Module, student: Student, config: TrainingConfig, d: Dataset):
    """Write what `flowcourse.load` reads."""
    run = {
        "topic": "iaf",
        "preset": TOPIC,
        "data": {"name": student.data, "options": {}},
        "model": dict(student.model),
        "event_shape": list(d.event_shape),
        "levels": d.levels,
        "training": asdict(config),
        "parameters": sum(p.numel() for p in model.parameters()),
        "command": f"python -m benchmarks.{TOPIC}",
        "versions": runs.versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "run.json", run)
    write_tensors(folder / runs.WEIGHTS, model.state_dict())


def measure(variant: str, seed: int, folder: Path = results.RESULTS) -> dict[str, Any]:
    """Train one student, keep it, and compare it with its teacher: a record."""
    student = STUDENTS[variant]
    dataset = data.load(student.data)
    teacher = flowcourse.load(results.RESULTS / "checkpoints" / student.teacher)
    model = runs.build({"topic": "iaf", "model": student.model}, dataset, seed)
    flows = continuous(teacher), continuous(model)
    torch.manual_seed(seed)
    started = time.perf_counter()
    fit_reverse_kl(
        flows[1], flows[0].log_prob, **student.training, **penalty_and_heat(student, model, dataset)
    )
    seconds = time.perf_counter() - started
    model.eval()
    name = f"{TOPIC}-{variant.replace(', ', '-').replace(' ', '-')}-seed{seed}"
    config = TrainingConfig(
        steps=student.training["steps"], seed=seed, ema=0.0, accelerator="cpu", micro_batches=1
    )
    record: dict[str, Any] = {
        "topic": TOPIC,
        "variant": variant,
        "data": student.data,
        "seed": seed,
        "entropy_nats": dataset.entropy_nats,
        "checkpoint": f"checkpoints/{name}",
    }
    with tempfile.TemporaryDirectory() as scratch:
        place = folder if seed == results.KEPT_SEED else Path(scratch)
        save(place / record["checkpoint"], model, student, config, dataset)
        record |= results.reevaluate(record, place)
    if seed != results.KEPT_SEED:
        record["checkpoint"] = None
    return record | {
        **compared(*flows, seed),
        **speeds(*flows),
        "teacher": student.teacher,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(seconds, 1),
        "device": "cpu",
        "command": f"python -m benchmarks.{TOPIC}",
        "versions": runs.versions(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write each record as soon as it is there."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{TOPIC}")
    names = sorted({student.data for student in STUDENTS.values()})
    parser.add_argument("--data", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)  # small products gain nothing from more
    for variant in (v for v, student in STUDENTS.items() if student.data in args.data):
        for seed in args.seeds:
            record = measure(variant, seed)
            results.write_records(TOPIC, [record])
            print(
                f"{variant}, seed {seed}: KL {record['kl_nats']:.3f} ± "
                f"{record['kl_standard_error']:.3f} nats, {record['speedup']:.1f} times as fast"
            )


if __name__ == "__main__":
    main()
