"""The counted bytes against sums by hand, saved-tensor hooks, and the CPU's own tensors."""

import json

import pytest
import torch
from torch import nn

from benchmarks import memory as benchmark
from flowcourse.coupling import glow, realnvp
from flowcourse.results import RESULTS
from flowcourse.training.memory import Allocations, activation_bytes, tensor_bytes
from flowcourse.training.steps import recompute_steps

FLOAT = 4


def test_tensors_are_counted_while_they_live():
    old = torch.zeros(100)
    with Allocations([old]) as counted:
        a = torch.zeros(10)
        b = a.view(2, 5)  # the same memory
        assert counted.now == 10 * FLOAT
        c = torch.zeros(5, dtype=torch.float64)
        assert counted.now == counted.most == 10 * FLOAT + 5 * 8
        old.add_(1)
        _ = old[:3]
        del a
        assert counted.now == 10 * FLOAT + 5 * 8
        del b, c
        assert counted.now == 0 and counted.most == 10 * FLOAT + 5 * 8


class Chain(nn.Module):
    """tanh after tanh: each keeps its result for the backward pass, and nothing else does."""

    def __init__(self, depth):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.depth = depth

    def forward(self, x):
        h = x + self.weight
        for _ in range(self.depth):
            h = torch.tanh(h)
        return h.sum(1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_chain_needs_what_can_be_summed_by_hand(device):
    # All but a chain's length is the same, so one more link costs one activation, exactly.
    batch, width = 4, 1000
    needs = [
        activation_bytes(Chain(depth).to(device), torch.zeros(batch, width, device=device))
        for depth in (5, 6, 7)
    ]
    assert needs[1] - needs[0] == needs[2] - needs[1] == batch * width * FLOAT


def saved_bytes(model, x):
    """Bytes that the forward pass saves for the backward pass, by autograd's own hooks."""
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # kept, so that no address is given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(x)
    there = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), x)}
    return sum(s.nbytes() for address, s in storages.items() if address not in there)


MODELS = {
    "realnvp": lambda: realnvp.build((3, 8, 8), 256, hidden=8, blocks=1, dropout=0.1),
    "glow": lambda: glow.build((3, 8, 8), 256, scales=2, steps=2, hidden=16),
}
X = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)


def on_cpu(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        model(X)
    return model


def on_meta(name):
    with torch.device("meta"):
        return MODELS[name]()


@pytest.mark.parametrize("name", MODELS)
def test_the_peak_is_what_autograd_saves_and_a_little_in_passing(name, torch_seed):
    model = on_cpu(name)
    saved = saved_bytes(model, X)
    assert saved < activation_bytes(model, X) < 1.1 * saved


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("recompute", [False, True])
def test_meta_counts_the_bytes_that_the_cpu_really_makes(name, recompute, torch_seed):
    real, unreal = on_cpu(name), on_meta(name)
    for model in (real, unreal):
        recompute_steps(model, recompute)
    counted = activation_bytes(unreal, X.to("meta"))
    assert counted == activation_bytes(real, X)
    # In bfloat16, autocast's rules differ a little from device to device.
    mixed = activation_bytes(unreal, X.to("meta"), precision="bf16-mixed")
    truth = activation_bytes(real, X, precision="bf16-mixed")
    assert mixed == pytest.approx(truth, rel=0.15) and mixed != counted


def test_recomputed_memory_hardly_grows_with_depth():
    def grows(recompute):
        a, b = (benchmark.measure("meta", k, recompute, 2, "32-true", 64) for k in (4, 8))
        return b["activation_bytes"] - a["activation_bytes"]

    # What is left is the input of every step: 3 maps of 12 x 16 x 16 for a step of Glow.
    assert grows(True) == pytest.approx(4 * 2 * 3 * 12 * 16 * 16 * FLOAT, rel=0.1)
    assert grows(False) > 5 * grows(True)


def test_the_recorded_bytes_are_counted_again(tmp_path):
    records = json.loads((RESULTS / "memory.json").read_text())
    counted = [r for r in records if r["variant"].startswith("counted") and r["steps"] <= 2]
    assert len(counted) >= 4
    for record in counted:
        keys = ("steps", "recompute", "batch", "precision", "width")
        again = benchmark.measure("meta", *(record[key] for key in keys))
        assert again["activation_bytes"] == record["activation_bytes"]


def test_the_benchmark_writes_what_it_counts(tmp_path, capsys):
    arguments = f"--steps 1 --batch 2 --width 4 --out {tmp_path}".split()
    assert benchmark.main(arguments) == 0
    kept, recomputed = json.loads((tmp_path / "memory.json").read_text())
    assert kept["activation_bytes"] > recomputed["activation_bytes"] > 0
    assert "K=  1" in capsys.readouterr().out


def test_bytes_of_tensors():
    assert tensor_bytes([torch.zeros(2, 3), torch.zeros(4, dtype=torch.uint8)]) == 28
