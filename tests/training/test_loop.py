import csv
import math
import sys

import numpy as np
import pytest
import torch
from matplotlib import image
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from flowcourse import data
from flowcourse.autoregressive_flows import tarflow
from flowcourse.coupling import nice
from flowcourse.data import Dataset
from flowcourse.training import RunError, TrainingConfig, TrainingDiverged, train
from flowcourse.training.pictures import save_samples
from flowcourse.training.storage import read_checkpoint


def config(**options):
    return TrainingConfig(
        **{
            **dict(steps=12, batch_size=16, learning_rate=0.05, accelerator="cpu", ema=0.9),
            **dict(log_every=1, checkpoint_every=4),
            **options,
        }
    )


def gaussian(n=64, features=2, seed=0):
    x = torch.randn(n, features, generator=torch.Generator().manual_seed(seed)) * 2 + 1
    return Dataset("gaussian", x, x, None, (features,))


class Gaussian(nn.Module):
    """Learned mean and log-scale; `normalize` adds batch normalization in front."""

    def __init__(self, features=2, normalize=False):
        super().__init__()
        self.norm = nn.BatchNorm1d(features) if normalize else nn.Identity()
        self.mean = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, x):
        scale = self.log_scale.exp()
        return torch.distributions.Normal(self.mean, scale).log_prob(self.norm(x)).sum(1)


def quiet(model, data, options, folder=None, **more):
    return train(model, data, options, folder, verbose=False, **more)


def test_training_reaches_the_best_likelihood_there_is(histogram, counts):
    # No histogram fits better than the frequencies, whose loss is their entropy.
    options = config(steps=400, batch_size=64, learning_rate=0.1)
    result = quiet(histogram(), counts, options)
    p = torch.stack([torch.bincount(c.long(), minlength=4) / 64.0 for c in counts.train.T])
    entropy = -torch.special.xlogy(p, p).sum().item()
    assert result.history[-1]["nats"] == pytest.approx(entropy, abs=2e-3)
    assert result.history[-1]["nats"] >= entropy - 1e-5
    assert result.history[-1]["bits_per_dim"] == pytest.approx(
        result.history[-1]["nats"] / (3 * math.log(2))
    )
    learned = torch.softmax(result.model.logits, -1)
    torch.testing.assert_close(learned, p, atol=0.01, rtol=0)
    assert not result.model.training


def test_only_a_likelihood_of_levels_is_logged_in_bits_per_dim(histogram, counts):
    (row,) = quiet(histogram(), counts, config(steps=1)).history
    assert row["bits_per_dim"] == pytest.approx(row["nats"] / (3 * math.log(2)))
    # The same integers, but their density with noise on them: that has no bits per dimension.
    noisy = tarflow.build((3,), 4, patch=1, width=8, blocks=1, layers=1, heads=1, noise=0.1)
    (row,) = quiet(noisy, counts, config(steps=1)).history
    assert row["bits_per_dim"] is None and math.isfinite(row["nats"])


def test_continuous_data_have_no_bits_per_dim():
    result = quiet(Gaussian(), gaussian(), config(steps=2))
    assert [row["bits_per_dim"] for row in result.history] == [None, None]


def test_the_loss_does_not_depend_on_how_a_batch_is_cut(histogram, counts, losses):
    runs = [losses(quiet(histogram(), counts, config(micro_batches=m)).history) for m in (1, 2, 8)]
    for row in zip(*runs, strict=True):
        assert [r["nats"] for r in row] == pytest.approx([row[0]["nats"]] * 3, abs=1e-6)


def test_the_callers_random_state_is_left_as_it_was(histogram, counts):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    quiet(histogram(0.5), counts, config(steps=2))
    assert torch.equal(torch.rand(2), expected)


def test_the_seed_decides_the_losses(histogram, counts, losses):
    first, again, other = (
        losses(quiet(histogram(0.5), counts, config(seed=seed)).history) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_micro_batches_of_an_update_see_different_noise(counts):
    seen = []

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            seen.append(torch.rand(1).item())
            return self.w.expand(len(x))

    quiet(Noisy(), counts, config(steps=3, micro_batches=4, weight_decay=0.1, clip_norm=1.0))
    assert len(seen) == 1 + 3 * 4 and len(set(seen)) == len(seen)


# Interruptions


def interrupted(model, data, options, folder, after):
    """Train until the loss of update number `after`, where something breaks."""
    calls = 0

    def breaks(*_):
        nonlocal calls
        calls += model.training  # validation does not count
        if calls > 1 + after * options.micro_batches:  # one pass initialises
            raise InterruptedError

    handle = model.register_forward_pre_hook(breaks)
    with pytest.raises(InterruptedError):
        quiet(model, data, options, folder)
    handle.remove()


@pytest.mark.parametrize("after", [2, 4, 7, 11])
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_an_interrupted_run_continues_to_the_same_weights(
    tmp_path, histogram, counts, losses, after, precision
):
    options = config(validation=16, validate_every=3, precision=precision)
    whole = quiet(histogram(0.3), counts, options, tmp_path / "whole")
    interrupted(histogram(0.3), counts, options, tmp_path / "cut", after)
    continued = quiet(histogram(0.3), counts, options, tmp_path / "cut")

    assert losses(continued.history) == losses(whole.history)
    assert torch.equal(continued.model.logits, whole.model.logits)
    assert continued.model.logits.dtype == whole.model.logits.dtype

    def metrics(name):
        with (tmp_path / name / "metrics.csv").open() as file:
            return losses(csv.DictReader(file))

    assert metrics("cut") == metrics("whole")
    assert [int(row["step"]) for row in metrics("cut")] == list(range(1, 13))
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("cut", "whole")]
    assert files[0] == files[1]


def test_running_averages_survive_an_interruption(tmp_path, losses):
    data, options = gaussian(), config(validation=16, validate_every=2)
    whole = quiet(Gaussian(normalize=True), data, options, tmp_path / "whole")
    interrupted(Gaussian(normalize=True), data, options, tmp_path / "cut", 6)
    continued = quiet(Gaussian(normalize=True), data, options, tmp_path / "cut")
    assert losses(continued.history) == losses(whole.history)
    assert torch.equal(continued.model.norm.running_mean, whole.model.norm.running_mean)
    assert continued.model.norm.num_batches_tracked > 0


def test_a_run_that_has_ended_is_only_read(tmp_path, histogram, counts, capsys):
    first = quiet(histogram(), counts, config(), tmp_path)
    stamp = (tmp_path / "checkpoint" / "state.json").stat().st_mtime_ns
    again = train(histogram(), counts, config(), tmp_path)
    assert "has ended already, after step 12" in capsys.readouterr().out
    assert (tmp_path / "checkpoint" / "state.json").stat().st_mtime_ns == stamp
    assert torch.equal(again.model.logits, first.model.logits)
    assert again.history == first.history


def test_starting_again_deletes_what_was_there(tmp_path, histogram, counts):
    quiet(histogram(), counts, config(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    options = config(steps=3, seed=1)
    result = quiet(histogram(), counts, options, tmp_path, resume=False)
    assert [row["step"] for row in result.history] == [1, 2, 3]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_another_configuration_is_refused_by_the_name_of_what_differs(tmp_path, histogram, counts):
    quiet(histogram(), counts, config(), tmp_path, description={"model": {"hidden": 8}})
    with pytest.raises(RunError) as error:
        options = config(learning_rate=0.1, log_every=3)
        quiet(histogram(), counts, options, tmp_path, description={"model": {"hidden": 16}})
    message = str(error.value)
    assert "learning_rate: 0.05 there, 0.1 here" in message
    assert "model.hidden: 8 there, 16 here" in message
    assert "log_every" not in message
    assert "--no-resume" in message and "--out" in message


def test_a_saved_model_without_its_checkpoint_is_not_overwritten(tmp_path, histogram, counts):
    quiet(histogram(), counts, config(), tmp_path)
    (tmp_path / "checkpoint" / "state.json").unlink()
    with pytest.raises(RunError, match="no checkpoint to continue from"):
        quiet(histogram(), counts, config(), tmp_path)


def test_a_run_folder_holds_safetensors_json_csv_and_no_pickle(tmp_path, histogram, counts):
    quiet(histogram(), counts, config(validation=16), tmp_path)
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {
        "run.json",
        "metrics.csv",
        "model.safetensors",
        "checkpoint/state.json",
        "checkpoint/step-00000012.safetensors",
    }
    for name in files:  # pickles start with 0x80, torch.save's with a zip header
        assert not (tmp_path / name).read_bytes().startswith((b"\x80", b"PK"))


def test_no_folder_writes_nothing(tmp_path, monkeypatch, histogram, counts):
    monkeypatch.chdir(tmp_path)
    assert quiet(histogram(), counts, config()).run_dir is None
    assert list(tmp_path.iterdir()) == []


# Gradients


def gradients(model, data, options):
    """The gradient that each update used, as one vector."""
    used = []

    def record(optimizer, *_):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        used.append(torch.cat([p.grad.flatten() for p in parameters]).clone())

    handle = register_optimizer_step_pre_hook(record)
    try:
        quiet(model, data, options)
    finally:
        handle.remove()
    return used


def test_gradients_are_those_of_the_mean_loss_and_are_clipped_to_the_norm():
    data, options = gaussian(), dict(steps=1, batch_size=64, micro_batches=4)
    x = data.train
    # d(-log N)/d(mean) = -(x - mean), d/d(log scale) = 1 - x^2 at mean 0, scale 1.
    expected = torch.cat([-x.mean(0), (1 - x**2).mean(0)])
    (free,) = gradients(Gaussian(), data, config(clip_norm=None, **options))
    torch.testing.assert_close(free, expected, rtol=1e-5, atol=1e-5)
    (clipped,) = gradients(Gaussian(), data, config(clip_norm=0.1, **options))
    torch.testing.assert_close(clipped, 0.1 * expected / expected.norm(), rtol=1e-4, atol=1e-6)
    (loose,) = gradients(Gaussian(), data, config(clip_norm=1e3, **options))
    torch.testing.assert_close(loose, expected, rtol=1e-5, atol=1e-5)


def test_updates_follow_the_schedule():
    rates = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    options = dict(steps=4, learning_rate=1.0, schedule="constant", warmup_steps=4)
    history = quiet(Gaussian(), gaussian(), config(**options)).history
    handle.remove()
    assert rates == [0.25, 0.5, 0.75, 1.0] == [row["lr"] for row in history]


def test_bfloat16_trains_and_keeps_float32_weights():
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2), Gaussian())
    result = quiet(model, gaussian(), config(steps=30, precision="bf16-mixed"))
    assert all(p.dtype == torch.float32 for p in result.model.parameters())
    assert result.history[-1]["nats"] < result.history[0]["nats"]


def test_bfloat16_is_for_networks_and_data_keep_their_digits():
    seen = []

    class Watching(Gaussian):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    data = gaussian()
    quiet(Watching(), data, config(steps=2, precision="bf16-mixed"))
    rounded = data.train.bfloat16().float()
    assert not torch.equal(rounded, data.train)
    known = {value.item() for value in data.train.flatten()}
    assert {value.item() for x in seen for value in x.flatten()} <= known


# Layers with a state of their own


def test_running_averages_move_by_the_mean_of_the_micro_batches():
    x = gaussian(n=32).train
    data = Dataset("gaussian", x, x, None, (2,))
    options = config(steps=1, batch_size=32, micro_batches=4)
    model = quiet(Gaussian(normalize=True), data, options).model
    # All 32 examples are in the batch, so the mean of the micro-batches' means is theirs. The
    # initial pass makes one step of 0.1 towards it, the update another.
    mean = x.mean(0)
    torch.testing.assert_close(model.norm.running_mean, (1 - 0.9**2) * mean)


def test_a_layer_that_initialises_itself_sees_the_first_batch_once(tmp_path):
    class Standardize(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(2))
            self.gaussian = Gaussian()
            self.register_buffer("initialized", torch.tensor(False))
            self.sizes = []

        def forward(self, x):
            if not self.initialized:
                self.sizes.append(len(x))
                self.shift.data.copy_(x.mean(0))
                self.initialized.fill_(True)
            return self.gaussian(x - self.shift)

    data, options = gaussian(n=16), config(learning_rate=1e-3, steps=6)
    model = Standardize()
    history = quiet(model, data, options, tmp_path / "whole").history
    assert model.sizes == [16] and model.initialized
    torch.testing.assert_close(model.shift, data.train.mean(0), atol=0.02, rtol=0)

    interrupted(Standardize(), data, options, tmp_path / "cut", 5)
    again = quiet(Standardize(), data, options, tmp_path / "cut").history
    assert [row["nats"] for row in again] == [row["nats"] for row in history]


# Validation


@pytest.mark.parametrize("cut", [False, True])
def test_early_stopping_keeps_the_best_averaged_weights(tmp_path, cut):
    # Training pulls the mean from 0 to 10, past the held-out examples at 2.
    x = torch.cat([torch.full((64, 1), 10.0), torch.full((16, 1), 2.0)])
    data = Dataset("apart", x, x, None, (1,))
    options = config(
        steps=500, learning_rate=0.2, schedule="constant", validation=16, validate_every=1,
        patience=7, checkpoint_every=1,
    )  # fmt: skip

    def model():
        model = Gaussian(features=1)
        model.log_scale.requires_grad_(False)
        return model

    if cut:  # two updates before it would have stopped, with the best weights five behind
        steps = quiet(model(), data, options).steps
        interrupted(model(), data, options, tmp_path, steps - 2)
    result = quiet(model(), data, options, tmp_path)
    curve = [row["validation"] for row in result.history]
    best = curve.index(min(curve))
    assert 0 < best and result.steps == len(curve) == best + 1 + 7 < 500
    assert result.best_validation == min(curve)
    held_out = -result.model(x[-16:]).mean().item()
    assert held_out == pytest.approx(min(curve), abs=1e-6)
    assert abs(result.model.mean.item() - 2) < 0.2


def test_validation_has_no_dropout_and_the_averaged_weights(histogram, counts):
    result = quiet(histogram(0.5), counts, config(validation=16, validate_every=12))
    held_out = -result.model(counts.train[-16:]).mean().item()
    assert result.history[-1]["validation"] == pytest.approx(held_out, abs=1e-6)


def test_every_validation_sees_the_same_noise():
    class Noisy(Gaussian):
        def forward(self, x):
            return super().forward(x + torch.rand_like(x))

    options = config(learning_rate=1e-9, validation=16, validate_every=4)
    history = quiet(Noisy(), gaussian(), options).history
    values = [row["validation"] for row in history if row["validation"] is not None]
    assert len(values) == 3 and values == pytest.approx([values[0]] * 3, abs=1e-6)


def test_without_patience_training_goes_on():
    options = config(steps=20, validation=16, validate_every=5)
    history = quiet(Gaussian(), gaussian(), options).history
    assert [r["step"] for r in history if r["validation"] is not None] == [5, 10, 15, 20]


def test_the_held_out_examples_are_not_trained_on(counts, histogram):
    poisoned = counts.train.clone()
    poisoned[48:] = 3
    data = Dataset("poisoned", poisoned, counts.test, 4, (3,))
    held = config(validation=16, validate_every=100, ema=0.0)
    free = config(ema=0.0)
    first_48 = Dataset("first", counts.train[:48], counts.test, 4, (3,))
    a, b = quiet(histogram(), data, held).history, quiet(histogram(), first_48, free).history
    assert [r["nats"] for r in a] == [r["nats"] for r in b]


# What can go wrong


class Breaks(Gaussian):
    """Its log-likelihood, or only its gradient, is lost once the mean has moved far enough."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        y = super().forward(x)
        if self.mean.abs().max() < 0.3:
            return y
        return y * math.nan if self.how == "loss" else y + torch.sqrt(0 * self.mean.sum())


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_divergence_stops_says_where_and_keeps_the_last_checkpoint(tmp_path, how):
    options = config(steps=50, schedule="constant", checkpoint_every=2)
    with pytest.raises(TrainingDiverged) as error:
        quiet(Breaks(how), gaussian(), options, tmp_path)
    message = str(error.value)
    assert how in message and "nan" in message
    assert "after 7 updates, at learning rate 0.05" in message
    assert "checkpoint after step 6 is kept" in message and "lower learning_rate" in message
    state, tensors = read_checkpoint(tmp_path / "checkpoint")
    assert state["step"] == 6
    assert all(t.isfinite().all() for t in tensors.values())


def test_divergence_before_anything_was_saved_says_so():
    with pytest.raises(TrainingDiverged, match="Nothing was saved"):
        quiet(Breaks("loss"), gaussian(), config(steps=50, schedule="constant"))


def test_a_model_without_parameters_and_data_all_held_out_are_refused(counts, histogram):
    with pytest.raises(RunError, match="no parameters"):
        quiet(nn.Identity(), counts, config())
    with pytest.raises(RunError, match="holds out all 64"):
        quiet(histogram(), counts, config(validation=64))


def test_devices_that_are_not_there_and_shares_that_do_not_fit_are_refused(
    monkeypatch, counts, histogram
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match="'cuda' was asked for and PyTorch .* --device auto"):
        quiet(histogram(), counts, config(accelerator="cuda"))
    with pytest.raises(RunError, match="3 processes cannot share micro_batches=2"):
        quiet(histogram(), counts, config(devices=3))


# What is shown


def test_lines_are_printed_where_there_is_no_terminal(counts, histogram, capsys):
    train(histogram(), counts, config(steps=20))
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert shown.err == ""
    assert "12 parameters for 20 steps on cpu" in lines[0]
    assert len(lines) == 1 + 10 and lines[-1].startswith("step 20/20: ")
    assert " nats, " in lines[-1] and lines[-1].endswith(" bits/dim")


def test_a_bar_is_shown_in_a_terminal(counts, histogram, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train(histogram(), counts, config(steps=20, validation=16, validate_every=10))
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1
    assert "20/20" in shown.err and "bits/dim, validation " in shown.err


def test_quiet_is_quiet(counts, histogram, capsys):
    quiet(histogram(), counts, config(validation=16, validate_every=2, patience=1))
    assert capsys.readouterr() == ("", "")


# Samples along the way


def test_samples_are_drawn_from_the_averages_and_change_nothing(tmp_path, losses):
    digits = data.load("digits")

    def run(name, options, **more):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nice.build(digits.event_shape, 17, hidden=8, depth=1, dropout=0.2)
        return quiet(model, digits, options, tmp_path / name, **more)

    def pictures(name):
        return {p.name for p in (tmp_path / name).glob("samples/*")}

    plain, drawn = run("plain", config()), run("drawn", config(sample_every=5))
    assert losses(drawn.history) == losses(plain.history)
    expected = {f"step-000000{step}.{kind}" for step in ("05", "10") for kind in ("png", "npy")}
    assert pictures("drawn") == expected and not pictures("plain")
    assert image.imread(tmp_path / "drawn" / "samples" / "step-00000010.png").ndim == 3
    # The averages, not the weights of the last update: drawn again from a run that ends there.
    ended = run("ended", config(steps=10, sample_every=10))
    save_samples(ended.model, digits, tmp_path, name="again")
    last = np.load(tmp_path / "ended" / "samples" / "step-00000010.npy")
    assert np.array_equal(np.load(tmp_path / "again.npy"), last)
    # A run that starts again leaves no pictures of the one before.
    run("drawn", config(), resume=False)
    assert not pictures("drawn")
