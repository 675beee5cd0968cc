"""Memory of a training step against depth, with activations kept and computed again.

    python -m benchmarks.memory                    count on torch's meta device, on any machine
    python -m benchmarks.memory --device cuda      measure what the allocator hands out

Glow with 1 scale and K steps, width 512, on random images: what a forward and a backward pass need
besides weights and gradients. Counting gives the same bytes every time; the allocator adds what
cuDNN sets aside, and rounds. Both are written to `book/results/memory.json`.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowcourse import catalog
from flowcourse.results import RESULTS, write_records
from flowcourse.training.memory import activation_bytes
from flowcourse.training.runs import versions
from flowcourse.training.steps import recompute_steps

__all__ = ["allocated", "measure"]

STEPS = (1, 2, 4, 8, 16, 32)
SHAPE, LEVELS, HIDDEN = (3, 32, 32), 256, 512
REPEATS = 5


def measure(
    device: str, steps: int, recompute: bool, batch: int, precision: str, hidden: int = HIDDEN
) -> dict[str, Any]:
    """One record: bytes and, on CUDA, the median seconds of a forward and a backward pass."""
    on_gpu = device == "cuda"
    started = time.perf_counter()
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = catalog.topic("glow").build(SHAPE, LEVELS, scales=1, steps=steps, hidden=hidden)
        x = torch.zeros(batch, *SHAPE, dtype=torch.uint8)
        if on_gpu:
            x = torch.randint(LEVELS, (batch, *SHAPE), dtype=torch.uint8)
            with torch.no_grad():
                model(x)  # actnorm sets itself up
        recompute_steps(model, recompute)
        if on_gpu:
            size, seconds = allocated(model, x, precision)
        else:
            size, seconds = activation_bytes(model, x, precision=precision), None
    return {
        "topic": "memory",
        "variant": f"{'measured' if on_gpu else 'counted'}, {precision}, "
        f"{'recomputed' if recompute else 'kept'}",
        "data": f"steps={steps}, batch={batch}, width={hidden}",
        "seed": 0,
        "steps": steps,
        "batch": batch,
        "width": hidden,
        "recompute": recompute,
        "precision": precision,
        "activation_bytes": size,
        "seconds_per_pass": seconds,
        "seconds": round(time.perf_counter() - started, 1),
        "device": torch.cuda.get_device_name() if on_gpu else "none: counted on meta",
        "command": f"python -m benchmarks.memory --device {device} --precision {precision}",
        "versions": versions(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "checkpoint": None,
    }


def allocated(model: nn.Module, x: Tensor, precision: str) -> tuple[int, float]:
    """The peak of CUDA's allocator during a pass, above what was there before, and its seconds."""
    times, peaks = [], []
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        before, started = torch.cuda.memory_allocated(), time.perf_counter()
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = -model(x).mean()
        loss.backward()
        del loss
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    return peaks[-1], statistics.median(times[1:])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("meta", "cuda"), default="meta")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, metavar="K")
    parser.add_argument("--batch", type=int, default=64, help="images of a micro-batch")
    parser.add_argument("--width", type=int, default=HIDDEN, help="of the conditioners")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="bf16-mixed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of memory.json")
    args = parser.parse_args(argv)
    for steps in args.steps:
        for recompute in (False, True):
            record = measure(args.device, steps, recompute, args.batch, args.precision, args.width)
            write_records("memory", [record], args.out)
            seconds = record["seconds_per_pass"]
            print(
                f"K={steps:3} {record['variant']:34} {record['activation_bytes'] / 2**20:9.1f} MiB"
                + (f"  {1000 * seconds:7.1f} ms" if seconds else ""),
                flush=True,
            )
    print("in", args.out / "memory.json")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
