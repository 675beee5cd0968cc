"""What only a GPU can say: training steps of the papers' settings, and what options are worth.

    python -m benchmarks.gpu                 write book/results/gpu.json
    python -m benchmarks.gpu steps           only the training steps
    python -m benchmarks.gpu options         only the options

*Steps*: two updates of every preset of a paper, at full size, in `bf16-mixed`, through the training
loop, on random images; the second one is timed. With activations kept and, for flows, recomputed.
*Options*: seconds of a forward and a backward pass of Glow with and without an option, taken in
turn, so that what else the machine does falls on both; medians are kept.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowcourse import catalog, data
from flowcourse.bijector import Compose
from flowcourse.catalog import GPU_PRESET
from flowcourse.data import Dataset
from flowcourse.results import RESULTS, write_records
from flowcourse.training import runs, train
from flowcourse.training.devices import pick_device
from flowcourse.training.steps import compile_steps

__all__ = ["PRESETS", "has_steps", "options", "random_data", "step", "steps"]

PRESETS = [(t.name, p) for t in catalog.TOPICS for p in t.presets if p.startswith(GPU_PRESET)]


# Training steps


def random_data(spec: data.Summary, n: int) -> Dataset:
    """Noise, classes and conditions, with the shape and levels of a real data set."""
    generator = torch.Generator().manual_seed(0)
    shape = (n, *spec.event_shape)
    if spec.levels is None:
        x = torch.randn(shape, generator=generator)
    else:
        x = torch.randint(spec.levels, shape, dtype=torch.uint8, generator=generator)
    labels = torch.arange(n) % 10
    return Dataset(
        "noise", x, x[:2], spec.levels, spec.event_shape, train_labels=labels, train_conditions=x
    )


def step(
    topic: str,
    preset: str,
    recompute: bool,
    device: str = "cuda",
    precision: str = "bf16-mixed",
    model: dict[str, Any] | None = None,
    **training: Any,
) -> dict[str, Any]:
    """Two updates; the record has seconds and examples per second of the second, and peak bytes.

    Args:
        topic: name in the catalog.
        preset: name of one of its presets.
        recompute: see `TrainingConfig`.
        device: `cuda` or `cpu`; there is no peak on the latter.
        precision: see `TrainingConfig`.
        model: changes to the preset's model.
        **training: changes to the preset's training.
    """
    changes = dict(
        # On noise, a paper's rate without its warm-up would diverge.
        steps=2, warmup_steps=0, learning_rate=1e-6, validation=0, patience=None, log_every=1,
        accelerator=device, precision=precision, recompute=recompute,
    )  # fmt: skip
    plan = runs.plan(topic, preset, options=changes | training)
    plan = dataclasses.replace(plan, model=plan.model | (model or {}))
    spec = data.summary(plan.data, **plan.data_options)
    built = runs.build(plan.description(), spec, plan.config.seed)
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    result = train(built, random_data(spec, plan.config.batch_size), plan.config, verbose=False)
    first, second = (row["seconds"] for row in result.history)
    return _record(
        f"{topic}, {preset}, {precision}, {'recomputed' if recompute else 'kept'}",
        plan.data,
        recompute=recompute,
        precision=precision,
        parameters=sum(p.numel() for p in built.parameters()),
        batch=plan.config.batch_size,
        micro_batches=plan.config.micro_batches,
        nats=result.history[-1]["nats"],
        seconds_per_step=second - first,
        examples_per_second=plan.config.batch_size / (second - first),
        peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else None,
        seconds=round(result.seconds, 1),
    )


def steps(chosen: Iterable[tuple[str, str]] = PRESETS) -> Iterable[dict[str, Any]]:
    """The records of all presets; one that does not fit says so."""
    for topic, preset in chosen:
        for recompute in (False, True) if has_steps(topic, preset) else (False,):
            try:
                yield step(topic, preset, recompute)
            except torch.OutOfMemoryError:
                plan, how = runs.plan(topic, preset), "recomputed" if recompute else "kept"
                yield _record(f"{topic}, {preset}, {how}", plan.data, out_of_memory=True)


def has_steps(topic: str, preset: str) -> bool:
    """Whether a preset's model is a composition, whose steps can be computed again."""
    plan = runs.plan(topic, preset)
    with torch.device("meta"):
        model = runs.build(plan.description(), data.summary(plan.data, **plan.data_options), 0)
    return any(isinstance(module, Compose) for module in model.modules())


# Options


def options(
    device: str = "cuda",
    batch: int = 64,
    rounds: int = 10,
    hidden: int = 512,
    steps: int = 8,
    compiled: bool = True,
) -> Iterable[dict[str, Any]]:
    """Ratios of seconds, option on to option off, of Glow with one scale."""
    shape = (3, 32, 32)

    def glow() -> nn.Module:
        torch.manual_seed(0)
        with torch.device(device):
            return catalog.topic("glow").build(shape, 256, scales=1, steps=steps, hidden=hidden)

    x = torch.randint(256, (batch, *shape), dtype=torch.uint8, device=device)
    channels_last = x.contiguous(memory_format=torch.channels_last)

    def passes(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
        with torch.no_grad():
            model(x)

        def run() -> None:
            with torch.autocast(device, torch.bfloat16):
                loss = -model(x).mean()
            loss.backward()

        return run

    plain = passes(glow(), x)
    turned = glow().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    yield _ratio("channels_last", plain, passes(turned, channels_last), rounds, device)

    def updates(fused: bool) -> Callable[[], None]:
        parameters = list(glow().parameters())
        for p in parameters:
            p.grad = torch.randn_like(p)
        optimizer = torch.optim.AdamW(parameters, lr=1e-9, fused=fused)

        def run() -> None:
            optimizer.step()

        return run

    yield _ratio("fused AdamW, the update alone", updates(False), updates(True), rounds, device)
    if compiled:
        model = glow()
        run = passes(model, x)
        started = time.perf_counter()
        compile_steps(model)
        run()
        seconds = round(time.perf_counter() - started, 1)
        yield _ratio("compile", plain, run, rounds, device) | {"seconds_to_compile": seconds}


def _ratio(
    name: str, off: Callable[[], None], on: Callable[[], None], rounds: int, device: str
) -> dict[str, Any]:
    times: dict[Callable[[], None], list[float]] = {off: [], on: []}
    for k in range(rounds + 2):
        for run in times:
            _synchronize(device)
            started = time.perf_counter()
            run()
            _synchronize(device)
            if k >= 2:  # warm
                times[run].append(time.perf_counter() - started)
    before, after = statistics.median(times[off]), statistics.median(times[on])
    return _record(
        f"option: {name}",
        "noise",
        seconds_off=before,
        seconds_on=after,
        ratio=after / before,
        rounds=rounds,
    )


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _record(variant: str, data_name: str, **figures: Any) -> dict[str, Any]:
    return {
        "topic": "gpu",
        "variant": variant,
        "data": data_name,
        "seed": 0,
        **figures,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "command": "python -m benchmarks.gpu",
        "versions": runs.versions(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "checkpoint": None,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the records, one by one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("steps", "options"), help="default: both")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of gpu.json")
    args = parser.parse_args(argv)
    pick_device("cuda")
    parts: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {"steps": steps, "options": options}
    for name in [args.what] if args.what else parts:
        for record in parts[name]():
            write_records("gpu", [record], args.out)
            shown = {
                key: f"{value:.4g}"
                for key, value in record.items()
                if isinstance(value, float) or key in ("peak_bytes", "out_of_memory")
            }
            print(record["variant"], shown, flush=True)
    print("in", args.out / "gpu.json")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
