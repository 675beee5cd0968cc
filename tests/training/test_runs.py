import json
import shutil

import pytest
import torch

import flowcourse
from flowcourse.training import RunError, load, plan, runs, train

TINY = {
    **{"steps": 4, "batch_size": 8, "warmup_steps": 0, "log_every": 1, "accelerator": "cpu"},
    **{"model.hidden": 8, "model.depth": 1, "checkpoint_every": 2},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A finished run of NICE and the model that it ended with."""
    folder = tmp_path_factory.mktemp("runs") / "nice"
    chosen = plan("nice", options=TINY)
    description = {**chosen.description(), "command": "flowcourse train nice"}
    data = runs.load_data(description)
    model = runs.build(description, data, 0)
    result = train(model, data, chosen.config, folder, description=description, verbose=False)
    return folder, result.model, data


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of the saved run, to break."""
    return shutil.copytree(saved[0], tmp_path / "copy")


def test_a_plan_starts_from_the_preset_and_applies_changes():
    chosen = plan("nice", data="circles", options={**TINY, "seed": 7, "data.n": 50})
    preset = flowcourse.catalog.topic("nice").presets["laptop"]
    assert chosen.name == "nice-laptop-circles-seed7"
    assert chosen.data_options == {"n": 50}
    assert chosen.model == {**preset.model, "hidden": 8, "depth": 1}
    assert chosen.config.steps == 4
    assert chosen.config.learning_rate == preset.training["learning_rate"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(topic="nise"), "no topic 'nise'.*nice"),
        (dict(topic="nice", preset="huge"), "no preset 'huge'.*laptop"),
        (dict(topic="likelihood"), "no preset 'laptop'.*no model to train"),
        (dict(topic="nice", options={"modl.hidden": 3}), "no group of options 'modl'"),
        (dict(topic="nice", options={"hidden": 3}), "no training option 'hidden'"),
    ],
)
def test_plans_that_cannot_be_made_say_what_there_is(arguments, message):
    with pytest.raises(RunError, match=message):
        plan(**arguments)


def test_options_that_the_model_or_the_data_do_not_have_are_refused():
    chosen = plan("nice", options={"model.colour": "red"})
    data = runs.load_data(chosen.description())
    with pytest.raises(RunError, match=r"nice.build does not accept .*colour"):
        runs.build(chosen.description(), data, 0)
    with pytest.raises(RunError, match="no option sizes"):
        runs.load_data(plan("nice", options={"data.sizes": 3}).description())
    with pytest.raises(RunError, match="No data set is called 'digit'"):
        runs.load_data(plan("nice", data="digit").description())


def test_initial_weights_come_from_the_seed_alone():
    description = plan("nice", options=TINY).description()
    data = runs.load_data(description)
    torch.manual_seed(0)
    first = runs.build(description, data, 3)
    torch.manual_seed(1)
    again, other = runs.build(description, data, 3), runs.build(description, data, 4)
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("complete", [True, False])
def test_a_saved_run_comes_back_as_the_model_that_was_trained(saved, tmp_path, complete):
    folder, model, data = saved
    if not complete:  # as the small checkpoints of the book are
        for name in ("run.json", "model.safetensors"):
            shutil.copy(folder / name, tmp_path / name)
        folder = tmp_path
    state = torch.random.get_rng_state()
    back = flowcourse.load(folder)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not back.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    z = data.test[:5].float() + 0.5
    assert torch.equal(back.flow.log_prob(z), model.flow.log_prob(z))


def test_the_description_says_what_a_reader_needs(saved):
    run = json.loads((saved[0] / "run.json").read_text())
    assert run["topic"] == "nice" and run["preset"] == "laptop"
    assert run["data"] == {"name": "digits", "options": {}}
    assert run["event_shape"] == [1, 8, 8] and run["levels"] == 17
    assert run["model"]["hidden"] == 8 and run["training"]["steps"] == 4
    assert run["parameters"] == sum(p.numel() for p in saved[1].parameters())
    assert run["command"] == "flowcourse train nice" and run["date"] and run["device"]
    assert run["versions"].keys() == {"flowcourse", "python", "torch", "lightning-fabric", "numpy"}


@pytest.mark.parametrize("name", ["run.json", "model.safetensors"])
def test_a_damaged_file_is_named(copy, name):
    (copy / name).write_bytes((copy / name).read_bytes()[:-20])
    with pytest.raises(RunError, match=f"{name} is damaged"):
        load(copy)


def test_missing_files_are_named(copy, tmp_path):
    with pytest.raises(RunError, match="no file .*run.json"):
        load(tmp_path / "nowhere")
    (copy / "model.safetensors").unlink()
    with pytest.raises(RunError, match="has not ended.*flowcourse train nice"):
        load(copy)
    shutil.rmtree(copy / "checkpoint")
    with pytest.raises(RunError, match="no file .*model.safetensors"):
        load(copy)


def test_weights_of_another_model_are_refused(copy):
    run = json.loads((copy / "run.json").read_text())
    run["model"]["hidden"] = 9
    (copy / "run.json").write_text(json.dumps(run))
    with pytest.raises(RunError, match="(?s)do not fit the model that nice.*size mismatch"):
        load(copy)


def test_a_run_without_a_topic_cannot_be_rebuilt_and_says_so(tmp_path, histogram, counts):
    options = plan("nice", options=TINY).config
    train(histogram(), counts, options, tmp_path, verbose=False)
    with pytest.raises(RunError, match="lacks data, model, topic"):
        load(tmp_path)
