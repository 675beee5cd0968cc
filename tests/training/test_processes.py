"""Real processes: killed without warning, and several at once."""

import ast
import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from flowcourse import cli, training
from flowcourse.training.randomness import batch_indices
from flowcourse.training.storage import read_json

# Dropout and dequantization noise in NICE; batch normalization's running averages in RealNVP.
NICE = (
    "train nice --data digits --device cpu --steps 150 --set batch_size=32 --set model.hidden=16 "
    "--set model.depth=1 --set model.dropout=0.3 --set warmup_steps=5 --set log_every=1 "
    "--set checkpoint_every=5 --set validation=32 --set validate_every=10"
).split()
REALNVP = (
    "train realnvp --data moons --device cpu --steps 8 --set batch_size=32 --set model.hidden=8 "
    "--set model.blocks=1 --set model.dropout=0.3 --set model.batch_norm=true --set log_every=1 "
    "--set data.n=128 --set validation=32 --set validate_every=2"
).split()


def command(*arguments, module="flowcourse"):
    return [sys.executable, "-m", module, *map(str, arguments)]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def here(*arguments):
    assert cli.main([str(argument) for argument in arguments]) == 0


def columns(folder):
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: float(v) for k, v in row.items() if v and k != "seconds"} for row in rows]


def assert_same_run(folder, whole, tolerance):
    for row, expected in zip(columns(folder), columns(whole), strict=True):
        assert row == pytest.approx(expected, rel=tolerance, abs=tolerance)
    weights, expected = training.load(folder).state_dict(), training.load(whole).state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=100 * tolerance, atol=tolerance)


def kill_after_a_checkpoint(line, folder):
    """Start a command, kill it and its children once it has saved, and return the step it saved."""
    process = subprocess.Popen(
        line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    state = folder / "checkpoint" / "state.json"
    deadline = time.monotonic() + 240
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    assert state.exists() and not (folder / "model.safetensors").exists(), output
    return read_json(state)["step"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """NICE, trained without interruption in one process."""
    folder = tmp_path_factory.mktemp("whole")
    here(*NICE, "--out", folder)
    return folder


def test_a_killed_run_continues_to_the_losses_of_an_uninterrupted_one(tmp_path, whole, capsys):
    step = kill_after_a_checkpoint(command(*NICE, "--out", tmp_path), tmp_path)
    assert 0 < step < 150
    capsys.readouterr()
    here(*NICE, "--out", tmp_path)
    assert f"after step {step} of 150" in capsys.readouterr().out
    assert_same_run(tmp_path, whole, 0.0)


def test_a_killed_run_of_two_processes_is_finished_by_one(tmp_path, whole):
    # `--devices 2` starts the second process by itself.
    kill_after_a_checkpoint(command(*NICE, "--devices", 2, "--out", tmp_path), tmp_path)
    assert read_json(tmp_path / "run.json")["device"].startswith("2 x cpu")
    here(*NICE, "--out", tmp_path)
    assert_same_run(tmp_path, whole, 1e-5)


def test_a_killed_run_of_one_process_is_finished_by_two(tmp_path, whole):
    kill_after_a_checkpoint(command(*NICE, "--out", tmp_path), tmp_path)
    line = command(*NICE, "--devices", 2, "--out", tmp_path)
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Continuing in" in done.stdout
    assert_same_run(tmp_path, whole, 1e-5)


SHARE = """
import sys
from pathlib import Path
import torch
from flowcourse.data import Dataset
from flowcourse.training import TrainingConfig, train
from flowcourse.training.devices import make_fabric

class Recorded(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.__getitem__ and isinstance(args[1], torch.Tensor):
            read.append(args[1].tolist())
        return super().__torch_function__(func, types, args, kwargs)

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(1))
    def forward(self, x):
        return -((x.as_subclass(torch.Tensor) - self.mean) ** 2).sum(1)

read = []
x = torch.arange(64.0)[:, None].as_subclass(Recorded)
options = TrainingConfig(steps=3, batch_size=16, micro_batches=4, devices=2, accelerator="cpu")
train(Model(), Dataset("numbers", x, x, None, (1,)), options, verbose=False)
rank = torch.distributed.get_rank()
Path(sys.argv[1], f"{rank}.txt").write_text(repr(read))
torch.distributed.destroy_process_group()
"""


def test_each_process_reads_its_own_micro_batches_and_no_others(tmp_path):
    script = tmp_path / "share.py"
    script.write_text(SHARE)
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*line, str(script), str(tmp_path)],
        env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (ast.literal_eval((tmp_path / f"{r}.txt").read_text()) for r in range(2))
    # Once, to set themselves up, both see the whole first batch; then two micro-batches each.
    assert first.pop(0) == second.pop(0) == batch_indices(0, 16, 64, 0).tolist()
    for step in range(3):
        mine, theirs = (read[2 * step : 2 * step + 2] for read in (first, second))
        assert [len(rows) for rows in mine + theirs] == [4] * 4
        assert sum(mine + theirs, []) == batch_indices(step, 16, 64, 0).tolist()
    assert len(first) == len(second) == 6


def test_two_processes_under_torchrun_reach_the_losses_of_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    here(*REALNVP, "--out", one)
    torchrun = ["--nproc-per-node", "2", "--standalone", "-m", "flowcourse"]
    line = command(*torchrun, *REALNVP, "--out", two, module="torch.distributed.run")
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 x cpu" in done.stdout and done.stdout.count("saved in") == 1
    assert_same_run(two, one, 1e-6)
