"""The doctor finds what is missing, wrong or untested, and only fails for what is required."""

import re
import subprocess
import sys
from importlib.metadata import requires, version

import pytest
import torch

from flowcourse import data, doctor
from flowcourse.doctor import inspect, read_pins, remedy

REQUIREMENTS = [
    "torch>=2.6",
    "absent-core>=1.0",
    "numpy<0.1",
    'absent-dev>=3; extra == "dev"',
    'absent-book<2,>=1; extra == "book"',
    'nothing-here; python_version < "3"',
]


def test_each_requirement_gets_its_verdict():
    packages = {p.name: p for p in inspect(REQUIREMENTS, {})}
    assert {name: p.verdict for name, p in packages.items()} == {
        "torch": "ok",
        "absent-core": "missing",
        "numpy": "wrong version",
        "absent-dev": "missing",
        "absent-book": "missing",
    }
    assert packages["torch"].installed == version("torch")
    assert [packages[f"absent-{extra}"].extra for extra in ("core", "dev", "book")] == [
        "",
        "dev",
        "book",
    ]


@pytest.mark.parametrize(
    ("pin", "verdict"),
    [(version("packaging"), "ok"), ("0.0.1", "ok, not the tested version")],
)
def test_an_untested_version_is_said_to_be_one(pin, verdict):
    (package,) = inspect(["packaging"], read_pins(f"packaging=={pin}"))
    assert package.verdict == verdict


def test_a_build_label_is_no_other_version(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: "2.13.0+cpu")
    (package,) = inspect(["torch>=2.6"], read_pins("torch==2.13.0"))
    assert package.verdict == "ok"


def test_the_remedy_names_the_extra():
    book, core = inspect(['absent-book; extra == "book"', "absent-core"], {})
    assert remedy(book).startswith(f"{sys.executable} -m pip install")
    assert remedy(book).endswith("[book]'")
    assert "[" not in remedy(core)


def run(monkeypatch, capsys, requirements):
    monkeypatch.setattr(doctor, "requires", lambda name: requirements)
    code = doctor.main()
    return code, capsys.readouterr().out


def test_a_missing_requirement_fails_and_says_how_to_get_it(monkeypatch, capsys):
    code, text = run(monkeypatch, capsys, REQUIREMENTS)
    assert code == 1
    missing = text.partition("\nMissing\n")[2]
    assert "absent-core >=1.0 (the course's code): missing; get it with" in missing
    assert "numpy <0.1 (the course's code): wrong version" in missing
    assert "absent-dev >=3 (running the checks): missing" in missing


def test_a_missing_extra_is_reported_but_no_failure(monkeypatch, capsys):
    code, text = run(monkeypatch, capsys, ["torch>=2.6", 'absent-dev; extra == "dev"'])
    assert code == 0
    assert "absent-dev" in text.partition("\nMissing\n")[2]


def test_nothing_missing_is_said(monkeypatch, capsys):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/bin/{name}")
    code, text = run(monkeypatch, capsys, ["torch>=2.6"])
    assert code == 0
    assert "Nothing is missing." in text


def test_missing_commands_are_reported(monkeypatch, capsys):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    code, text = run(monkeypatch, capsys, ["torch>=2.6"])
    assert code == 0
    for command in ("git", "make", "chromium"):
        assert f"{command} (" in text.partition("\nMissing\n")[2]


def test_every_data_set_is_listed(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("FLOWCOURSE_DATA", str(tmp_path))
    _, text = run(monkeypatch, capsys, ["torch>=2.6"])
    section = text.partition("\nData sets\n")[2].partition("\n\n")[0]
    here, *others = section.splitlines()
    for name in data.NAMES:
        (line,) = [line for line in (here, *others) if name in re.findall(r"\w+", line)]
        assert (line == here) == (name in data.available())
        assert line == here or f"load({name!r}, download=True)" in line


def test_the_gpu_is_named_when_torch_sees_one(monkeypatch):
    class Gpu:
        name = "Some GPU"
        total_memory = 80 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Gpu)
    assert doctor._device() == "cuda: Some GPU (80 GiB), Some GPU (80 GiB)"


def test_this_environment_is_whole():
    assert [p.name for p in inspect(requires("flowcourse"), {}) if p.verdict != "ok"] == []


def test_the_report_opens_without_torch(tmp_path):
    """A module that cannot be imported stands in for a broken installation of torch."""
    (tmp_path / "torch.py").write_text("raise ImportError('broken on purpose')\n")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import flowcourse.doctor as d; "
    done = subprocess.run(
        [sys.executable, "-c", script + "sys.exit(d.main())"], capture_output=True, text=True
    )
    assert "broken on purpose" in done.stdout, done.stderr
    assert done.returncode in (0, 1)
