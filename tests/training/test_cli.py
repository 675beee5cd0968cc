import json

import numpy as np
import pytest
from matplotlib import image

from flowcourse import cli, training

TINY = (
    "--steps 6 --device cpu --set batch_size=16 --set model.hidden=8 --set model.depth=1 "
    "--set log_every=2 --set checkpoint_every=2"
).split()


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert run("train", "nice", "--data", "digits", "--out", folder, *TINY) == 0
    return folder


def test_training_says_what_it_does_and_what_comes_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("train", "nice", "--seed", 4, *TINY) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "runs" / "nice-laptop-digits-seed4"
    assert "flowcourse evaluate runs/nice-laptop-digits-seed4" in out
    recorded = json.loads((folder / "run.json").read_text())
    assert recorded["command"].startswith("flowcourse train nice --seed 4 --steps 6")
    assert recorded["training"]["seed"] == 4
    assert len((folder / "metrics.csv").read_text().splitlines()) == 1 + 3

    assert run("train", "nice", "--seed", 4, *TINY) == 0
    assert "has ended already, after step 6" in capsys.readouterr().out
    assert run("train", "nice", "--seed", 4, "--no-resume", *TINY) == 0
    assert "Training " in capsys.readouterr().out.splitlines()[0]


def test_evaluation_is_printed_and_saved_with_its_errors(digits_run, capsys):
    assert run("evaluate", digits_run, "--draws", 4, "--repeats", 2, "--device", "cpu") == 0
    out = capsys.readouterr().out
    saved = json.loads((digits_run / "evaluation.json").read_text())
    assert (
        f"bound, 2 draws averaged: {saved['bits_per_dim']:.4f} ± {saved['standard_error']:.4f}"
        in out
    )
    assert f"4 draws: {saved['bits_per_dim_iw']:.4f} ± {saved['standard_error_iw']:.4f}" in out
    assert saved["n"] == 297 and saved["kind"] == "bound" and saved["draws"] == 4
    assert saved["bits_per_dim_iw"] < saved["bits_per_dim"]

    from flowcourse import data

    again = training.evaluate(
        training.load(digits_run), data.load("digits").test, repeats=2, draws=4
    )
    assert again.bits_per_dim == saved["bits_per_dim"]
    assert again.bits_per_dim_iw == saved["bits_per_dim_iw"]


def test_samples_are_saved_as_numbers_and_as_a_picture(digits_run, capsys):
    assert run("sample", digits_run, "--n", 9, "--temperature", 0.5) == 0
    samples = np.load(digits_run / "samples.npy", allow_pickle=False)
    assert samples.shape == (9, 1, 8, 8) and samples.dtype == np.int64
    assert samples.min() >= 0 and samples.max() <= 16
    picture = image.imread(digits_run / "samples.png")
    assert picture[..., :3].min() < 0.1 and picture[..., :3].max() > 0.9
    assert "samples.png" in capsys.readouterr().out

    def drawn(*arguments):
        run("sample", digits_run, "--n", 9, *arguments)
        return np.load(digits_run / "samples.npy", allow_pickle=False)

    assert np.array_equal(drawn("--temperature", 0.5), samples)
    assert not np.array_equal(drawn("--temperature", 0.5, "--seed", 1), samples)
    assert drawn("--temperature", 1.5).std() > samples.std()


def test_points_of_the_plane_are_measured_in_nats_beside_their_entropy(tmp_path, capsys):
    arguments = ["--data", "circles", "--set", "data.n=64", "--set", "data.n_test=32"]
    assert run("train", "nice", "--out", tmp_path, *arguments, *TINY) == 0
    assert "bits/dim" not in capsys.readouterr().out
    assert run("evaluate", tmp_path) == 0
    out = capsys.readouterr().out
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert f"nats, exact: {saved['nats']:.4f}" in out
    assert f"entropy of the data, which no model beats: {saved['entropy_nats']:.4f}" in out
    assert saved["bits_per_dim"] is None and saved["n"] == 32
    assert saved["nats"] > saved["entropy_nats"]
    assert run("sample", tmp_path, "--n", 50) == 0
    assert np.load(tmp_path / "samples.npy", allow_pickle=False).shape == (50, 2)
    assert image.imread(tmp_path / "samples.png").shape[0] > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "glo"], "no topic 'glo'"),
        (["train", "nice", "--preset", "big"], "no preset 'big'"),
        (["train", "nice", "--data", "digit"], "No data set is called 'digit'"),
        (["train", "nice", "--set", "steps"], "--set expects KEY=VALUE"),
        (["train", "nice", "--set", "ema=2"], "ema should be a number"),
        (["train", "nice", "--precision", "8-bit"], "precision should be one of"),
        (["evaluate", "nowhere"], "no file nowhere/run.json"),
        (["sample", "nowhere"], "no file nowhere/run.json"),
    ],
)
def test_a_mistake_of_the_user_is_one_message_and_no_traceback(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("flowcourse: ") and message in error and "Traceback" not in error


def test_a_mistake_of_the_program_keeps_its_traceback(monkeypatch):
    def broken(args):
        raise ZeroDivisionError

    command = cli.Command("broken", "fails", lambda parser: None, broken)
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, command))
    with pytest.raises(ZeroDivisionError):
        run("broken")


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    command = cli.Command("wait", "waits", lambda parser: None, interrupted)
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, command))
    assert run("wait") == 130
    assert "the same command continues" in capsys.readouterr().err


def test_another_configuration_in_the_same_folder_is_refused(digits_run, capsys):
    assert run("train", "nice", "--out", digits_run, *TINY, "--set", "ema=0.5") == 2
    assert "ema: 0.999 there, 0.5 here" in capsys.readouterr().err


def test_topics_are_listed_with_their_presets(capsys):
    assert run("topics") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["change_of_variables", "likelihood"]
    assert any("nice" in line and "laptop (digits), paper (mnist)" in line for line in lines)


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as end:
        run("--version")
    assert end.value.code == 0 and capsys.readouterr().out.startswith("flowcourse ")
