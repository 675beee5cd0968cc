"""The project's own files agree with each other: pins, ranges, commands, tables, links."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import torch
import yaml
from jaxtyping import TypeCheckError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import flowcourse
from benchmarks import readme_figure
from flowcourse import status
from flowcourse.bijector import sum_event
from flowcourse.doctor import EXTRAS, read_pins
from scripts import pins

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flowcourse"
GRADING = PACKAGE / "grading"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = read_pins((ROOT / "constraints.txt").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE).group(1).split()
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
DIRECT = [
    Requirement(line)
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in lines
    if not line.startswith("flowcourse[")
]


# Versions


def test_conda_users_get_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip[-1] == "-e ."
    assert {canonicalize_name(Requirement(p).name): Requirement(p) for p in pip[:-1]} == PINS
    python = next(entry for entry in environment["dependencies"] if "python=" in entry)
    assert python == "python=" + PROJECT["requires-python"].removeprefix(">=")


def test_environment_is_as_generated():
    text = (ROOT / "constraints.txt").read_text()
    assert (ROOT / "environment.yml").read_text() == pins.environment(text)


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_ranges_admit_the_pins_and_have_a_floor(requirement):
    pin = PINS[canonicalize_name(requirement.name)]
    (pinned,) = pin.specifier
    assert pinned.operator == "=="
    assert requirement.specifier.contains(pinned.version)
    assert any(specifier.operator == ">=" for specifier in requirement.specifier)


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports from outside the standard library and this repository."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    tops = {name.partition(".")[0] for name in names}
    return tops - sys.stdlib_module_names - {"benchmarks", "flowcourse"}


@pytest.mark.parametrize(
    ("files", "needs"),
    [
        (set(PACKAGE.rglob("*.py")) - set(GRADING.rglob("*.py")), "flowcourse"),
        (set(GRADING.rglob("*.py")), "flowcourse[grading]"),
        (set((ROOT / "benchmarks").rglob("*.py")), "flowcourse[grading]"),
        (set((ROOT / "book").rglob("*.py")), "flowcourse[book]"),
    ],
    ids=["package", "grading", "benchmarks", "book"],
)
def test_what_is_imported_is_asked_for(files, needs):
    """The mathematics works without the grading stack, and nothing leans on the developer's."""
    wanted = set.union(*map(imported, files))
    providers = packages_distributions()
    declared = {canonicalize_name(asked.name) for asked, _ in pins.closure(needs)}
    assert wanted
    for name in wanted:
        assert {canonicalize_name(p) for p in providers.get(name, [name])} & declared, name


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_pins_satisfy_everything_that_an_extra_needs(extra):
    """Follows what the installed packages ask for: every one is pinned, and the pins agree."""
    needed = pins.closure(f"flowcourse[{extra}]")
    assert len(needed) > len(PROJECT["optional-dependencies"][extra])
    for asked, _ in needed:
        if asked.name == "flowcourse":
            continue
        (pinned,) = PINS[canonicalize_name(asked.name)].specifier
        assert asked.specifier.contains(pinned.version, prereleases=True), (asked, pinned)


def test_nothing_is_pinned_without_need():
    needed = {canonicalize_name(asked.name) for asked, _ in pins.closure("flowcourse[all]")}
    here = {name for name, pin in PINS.items() if pin.marker is None or pin.marker.evaluate()}
    assert here == needed - {"flowcourse"}


def test_all_is_the_sum_of_the_extras():
    (everything,) = map(Requirement, PROJECT["optional-dependencies"]["all"])
    others = PROJECT["optional-dependencies"].keys() - {"all"}
    assert everything.extras == others
    assert set(EXTRAS) == others | {""}


def test_pins_are_written_without_local_labels_and_keep_other_platforms():
    before = 'appnope==1.0.0; sys_platform == "darwin"\nnumpy==1.0\n'
    text = pins.constraints({"torch": "2.13.0+cpu", "numpy": "2.4.6"}, before)
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        'appnope==1.0.0; sys_platform == "darwin"',
        "numpy==2.4.6",
        "torch==2.13.0",
    ]


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).group(1)
    assert flowcourse.__version__ == version("flowcourse") == citation["version"] == newest


def test_stated_shapes_are_checked_on_every_call_in_tests():
    with pytest.raises(TypeCheckError, match="terms"):
        sum_event(torch.ones(2, 3, dtype=torch.int64))


# Commands


def test_help_documents_every_target():
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    documented = dict(re.findall(r"^make (\S+)\s+(\S.*)$", shown, re.MULTILINE))
    assert sorted(documented) == sorted(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_targets_can_be_planned(target):
    """Every source that a target names exists or has a rule."""
    plan = subprocess.run(
        ["make", "--dry-run", "--always-make", target], cwd=ROOT, capture_output=True, text=True
    )
    assert plan.returncode == 0, plan.stderr


def test_an_old_python_is_refused_with_a_way_out(tmp_path):
    fake = tmp_path / "python3"
    real = shutil.which("python3")
    fake.write_text(
        "#!/bin/sh\n"
        f'exec {real} -c "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])" "$2"\n'
    )
    fake.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "flowcourse").mkdir()
    (tmp_path / "book").mkdir()
    tried = subprocess.run(
        ["make", f"PYTHON={fake}", "doctor"], cwd=tmp_path, capture_output=True, text=True
    )
    assert tried.returncode != 0
    assert "3.11 or newer" in tried.stderr and "is 3.9" in tried.stderr
    assert "make PYTHON=" in tried.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / ".github/workflows").glob("*.yml"), ".ci/run"])
def test_commands_that_are_written_down_exist(page):
    text = (ROOT / page).read_text()
    commands = re.findall(r"(?:`|run: |^)make ([a-z]+)\b", text, re.MULTILINE)
    assert set(commands) <= set(TARGETS)


@pytest.mark.parametrize("workflow", ["links", "newest", "pages", "test"])
def test_workflows_call_make_with_pinned_actions(workflow):
    content = yaml.safe_load((ROOT / f".github/workflows/{workflow}.yml").read_text())
    steps = [step for job in content["jobs"].values() for step in job["steps"]]
    assert any(step.get("run", "").startswith("make ") for step in steps)
    assert all("@v" in step["uses"] for step in steps if "uses" in step)


def test_the_tests_run_on_linux_and_macos():
    content = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    systems = content["jobs"]["test"]["strategy"]["matrix"]["os"]
    assert {system.partition("-")[0] for system in systems} == {"ubuntu", "macos"}


@pytest.mark.parametrize("workflow", ["newest", "test"])
def test_the_sandbox_can_be_had_where_the_tests_run(workflow):
    content = yaml.safe_load((ROOT / f".github/workflows/{workflow}.yml").read_text())
    (job,) = content["jobs"].values()
    commands = [step.get("run", "") for step in job["steps"]]
    ready = next(i for i, run in enumerate(commands) if "install --yes bubblewrap" in run)
    assert "apparmor_restrict_unprivileged_userns=0" in commands[ready]
    assert any(run.startswith("make test") for run in commands[ready:])


def test_the_image_for_grading_is_made_of_pinned_packages_and_names_no_host():
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert [args for step, args in steps if step == "FROM"] == ["python:3.11-slim"]
    installs = [args for step, args in steps if "pip install" in args]
    assert len(installs) == 1 and "-c constraints.txt" in installs[0]
    assert not re.search(r"://|\b[\w-]+\.(?:com|org|io|net)\b|--index|--extra", "\n".join(lines))
    assert "bubblewrap" in next(args for step, args in steps if "apt-get install" in args)
    # The last user is not root.
    assert [args for step, args in steps if step == "USER"][-1] == "grader"
    assert steps[-2] == ["ENTRYPOINT", '["flowcourse"]']
    # What is copied is let through, and nothing else is: no student's work can get in.
    copied = {name for step, args in steps if step == "COPY" for name in args.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert "*" in ignored and all((ROOT / name).exists() for name in copied)


def test_ci_runs_make_test():
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().rstrip().endswith("\nmake test")


# Pages


def test_the_status_table_is_up_to_date():
    readme = (ROOT / "README.md").read_text()
    assert readme == status.insert(readme, status.table()), "run: make status"


def test_the_status_table_links_what_exists_and_says_what_does_not(tmp_path):
    (tmp_path / "book/coupling").mkdir(parents=True)
    (tmp_path / "book/coupling/nice.md").touch()
    rows = [line for line in status.table(tmp_path).splitlines() if "(/" in line]
    assert len(rows) == 1
    assert "[`nice.md`](/book/coupling/nice.md)" in rows[0]
    assert rows[0].count("to come") == 3


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="found 0 and 1"):
        status.insert(status.END, "| table |")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    assert [t for t in targets if not (ROOT / t.removeprefix("/")).exists()] == []


def test_the_readmes_code_runs(torch_seed):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["flow"].log_prob(names["moons"]).shape == names["moons"].shape[:1]
    assert names["flow"].sample(5).shape == (5, 2)


def test_the_readmes_picture_shows_the_flow(torch_seed, tmp_path):
    flow = readme_figure.fit(steps=2)
    stages = readme_figure.stages(flow, 50)
    assert len(stages) == readme_figure.COUPLINGS + 1
    assert torch.allclose(flow.bijector(stages[-1])[0], stages[0], atol=1e-4)
    readme_figure.draw(flow, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    assert readme_figure.FIGURE.stat().st_size < 200_000
