import os

import pytest
import torch

from flowcourse.training import RunError
from flowcourse.training import storage as s


def test_tensors_come_back_as_they_were(tmp_path):
    shared = torch.randn(3, 4)
    tensors = {
        "float64": torch.randn(2, dtype=torch.float64),
        "bfloat16": torch.randn(2, 2).bfloat16(),
        "flag": torch.tensor(True),
        "levels": torch.arange(5),
        "empty": torch.empty(0),
        "transposed": shared.T,
        "shared": shared,
    }
    s.write_tensors(tmp_path / "t.safetensors", tensors)
    back = s.read_tensors(tmp_path / "t.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name


def test_json_comes_back_and_refuses_what_is_no_json(tmp_path):
    value = {"losses": [0.1, 1 / 3, 1e-300], "best": None}
    s.write_json(tmp_path / "a.json", value)
    assert s.read_json(tmp_path / "a.json") == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        s.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert s.read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("read", [s.read_json, s.read_tensors])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(RunError, match="There is no file .*gone.*flowcourse train"):
        read(tmp_path / "gone")


@pytest.mark.parametrize("content", [b"", b"{", b"\x00\xff\x80abc", b"\x10" * 40])
@pytest.mark.parametrize("read", [s.read_json, s.read_tensors])
def test_a_damaged_file_is_named(tmp_path, read, content):
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(RunError, match="bad is damaged .*--no-resume"):
        read(tmp_path / "bad")


def test_a_truncated_checkpoint_is_named(tmp_path):
    s.write_checkpoint(tmp_path, {"step": 1}, {"w": torch.ones(100)})
    file = tmp_path / "step-00000001.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(RunError, match="is damaged"):
        s.read_checkpoint(tmp_path)


def test_there_is_no_checkpoint_before_the_first(tmp_path):
    assert s.read_checkpoint(tmp_path / "checkpoint") is None


class Killed(BaseException):
    """What a kill looks like from inside: nothing after it runs."""


@pytest.mark.parametrize("moment", range(4))
def test_dying_at_any_moment_leaves_the_old_checkpoint_or_the_new_one(
    tmp_path, monkeypatch, moment
):
    def state(step):
        return {"step": step}, {"w": torch.full((2,), float(step))}

    s.write_checkpoint(tmp_path, *state(1))
    calls = 0
    replace = os.replace

    def dying(source, target):
        # Moments 0 and 2 are just before the two moves of a checkpoint, 1 and 3 just after.
        nonlocal calls
        for _ in range(2):
            if calls == moment:
                raise Killed
            calls += 1
            if calls % 2:
                replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(Killed):
        s.write_checkpoint(tmp_path, *state(2))
    monkeypatch.undo()

    found, tensors = s.read_checkpoint(tmp_path)
    assert found == {"step": 2 if moment == 3 else 1}
    assert torch.equal(tensors["w"], torch.full((2,), float(found["step"])))
    # The next checkpoint clears away what was left behind.
    s.write_checkpoint(tmp_path, *state(3))
    assert {p.name for p in tmp_path.iterdir()} == {"state.json", "step-00000003.safetensors"}
