"""Attacks on the grader, judged one after the other by the same warm judge.

Each must leave the honest answers their points, earn none itself, be given a reason, leave the
host untouched, and not trouble the submission after it.
"""

import importlib.util
import json
import os
import re
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flowcourse.catalog import TOPICS
from flowcourse.grading.judge import Cell, Judge
from flowcourse.grading.namespaces import Limits
from flowcourse.grading.submission import read_files

REPOSITORY = Path(__file__).parents[2]
LIMITS = Limits(
    cell_seconds=15,
    seconds=90,
    cpu_seconds=30,
    memory=700 << 20,
    processes=64,
    files=128,
    disk=48 << 20,
)


def _attacks():
    spec = importlib.util.spec_from_file_location("attacks", Path(__file__).with_name("attacks.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["attacks"] = module
    spec.loader.exec_module(module)
    return module.ATTACKS


ATTACKS = _attacks()
TOLD = """
def told(*words): print(*words)
def escaped(*words): print("ESC" + "APED", *words)
"""

ORDER = Cell("order = ['B', 'A', 'C']")
LOG_DET = Cell("def log_det(log_scale, x):\n    return log_scale.sum().expand(len(x))")
SHIFT = Cell(
    "class Shift:\n"
    "    def __init__(self, shift): self.shift = shift\n"
    "    def forward(self, x): return x + self.shift, x.new_zeros(len(x))\n"
    "    def inverse(self, z): return z - self.shift, z.new_zeros(len(z))"
)
SIZE = Cell('def size(x):\n    """Absolute values."""\n    return torch.where(x > 0, x, -x)')
CHECKS = {
    name: Cell("", f"tiny.{name}", answer)
    for name, answer in (
        ("log_det", "log_det"),
        ("order", "order"),
        ("shift", "Shift"),
        ("debug", "size"),
    )
}
HONEST = [Cell("import torch"), ORDER, LOG_DET, SHIFT, SIZE, *CHECKS.values()]
FULL = {"tiny.log_det": 3, "tiny.order": 1.5, "tiny.shift": 4, "tiny.debug": 2}


def points(verdict):
    outcomes = [judged.outcome for judged in verdict.cells if judged.outcome]
    return {outcome.name: outcome.points for outcome in outcomes}


def said(verdict):
    """All that the grader has to say of a submission, as it would be written to a file."""
    parts = [judged.outputs for judged in verdict.cells]
    parts += [str(judged.outcome) for judged in verdict.cells if judged.outcome]
    text = json.dumps([parts, verdict.troubles], ensure_ascii=False)
    assert text.encode()  # it can be written
    return re.sub(r"(\\n)? +", " ", text)  # outcomes are wrapped


class Host:
    """Things of this machine that an attack would like to have, and whether it has."""

    def __init__(self, folder):
        self.secret = secrets.token_hex(16)
        self.name = f"flowcourse-attack-{secrets.token_hex(8)}"
        self.folder = folder
        self.mark = folder / self.name
        (folder / "secret").write_text(self.secret)
        (folder / "gradebook.db").write_text(self.secret)
        self.canary = subprocess.Popen(["sleep", "3600"])
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.abstract, self.unix = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0{self.name}")
        self.unix.bind(str(folder / "s"))
        self.sockets = [self.tcp, self.abstract, self.unix]
        for one in self.sockets:
            one.listen()
            one.setblocking(False)

    def close(self):
        for one in self.sockets:
            one.close()
        self.canary.kill()
        self.canary.wait()

    def description(self, judge):
        checks = REPOSITORY / "tests/grading/course/checks/tiny.py"
        package = REPOSITORY / "flowcourse"
        topics = [t.module for t in TOPICS if importlib.util.find_spec(t.module)]
        checked = [path.stem for path in (package / "checks").glob("*.py")]
        answers = [stem for stem in checked if stem in {t.name for t in TOPICS}]
        modules = [*topics, *(f"flowcourse.checks.{name}" for name in ["tiny", *answers])]
        paths = [module.replace(".", "/") + ".py" for module in modules]
        files = [str(checks), str(checks.parent)]
        files += [f"{root}/{path}" for path in paths for root in (REPOSITORY, "/opt/flowcourse")]
        course = [self.folder, self.folder / "secret", self.folder / "gradebook.db", checks]
        warm = judge.sandbox._process.pid
        return {
            "references": modules,
            "reference files": files,
            "reference names": [name.rpartition(".")[2] for name in modules],
            "files": beside_python([*course, REPOSITORY, *REPOSITORY.iterdir()]),
            "in the home": beside_python(Path.home().iterdir()),
            "mark": str(self.mark),
            "name": self.name,
            "secret": "".join(self.secret),
            "python": [sys.prefix, sys.base_prefix, os.path.dirname(json.__file__)],
            "environment": [name for name in os.environ if name.startswith(("PYTEST", "FLOWC"))],
            "port": self.tcp.getsockname()[1],
            "abstract": f"\0{self.name}",
            "socket": str(self.folder / "s"),
            "processes": [os.getpid(), self.canary.pid, warm],
        }

    def assert_untouched(self):
        assert self.canary.poll() is None
        for one in self.sockets:
            with pytest.raises(BlockingIOError):
                one.accept()
        places = [self.folder, Path.home(), REPOSITORY, *map(Path, ("/", "/tmp", "/var/tmp"))]
        assert not [p for p in (*places, Path("/dev/shm")) if (p / self.name).exists()]
        assert not Path("/tmp/flowcourse-attack").exists()
        assert (self.folder / "secret").read_text() == self.secret
        assert not list(running(self.name))


def beside_python(paths):
    """These, but not the way to Python, which is in sight wherever Python is installed."""
    programs = {Path(sys.prefix), Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    return [str(p) for p in paths if not any(program.is_relative_to(p) for program in programs)]


def running(word):
    """Processes of this machine with a word in their command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if word.encode() in command.split(b"\0") and int(path.parent.name) != os.getpid():
            yield path.parent.name


@pytest.fixture(scope="module")
def judge(walls, in_the_course):
    judge = Judge("tiny", limits=LIMITS)
    yield judge
    judge.close()


@pytest.fixture(scope="module")
def host(judge, tmp_path_factory):
    assert points(judge.judge(HONEST)) == FULL  # it is warm from here on
    host = Host(tmp_path_factory.mktemp("host"))
    yield host
    host.close()


@pytest.fixture(scope="module")
def handed_in(host, tmp_path_factory):
    """The files beside a notebook: one of them honest, the others links to what is not theirs."""
    folder = tmp_path_factory.mktemp("handed_in")
    (folder / "data.csv").write_text("4,5")
    (folder / "link.csv").symlink_to(host.folder / "secret")
    (folder / "folder").symlink_to(host.folder)
    (folder / "dangling").symlink_to("nowhere")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "tiny.ipynb").symlink_to(host.folder / "secret")
    os.mkfifo(folder / "pipe")
    return read_files(folder, folder)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.group}-{attack.name}")
def test_attack(attack, judge, host, handed_in):
    known = f"HOST = {host.description(judge)!r}\n{TOLD}"
    cells = [Cell(f"import torch\n{known}"), ORDER, CHECKS["order"], Cell(attack.code)]
    cells += [CHECKS["log_det"], CHECKS["shift"], SIZE, CHECKS["debug"]]
    verdict = judge.judge(cells, handed_in)
    text = said(verdict)
    earned = points(verdict)
    assert "ESCAPED" not in text, text[:5000]
    assert re.search(attack.shows, text), text[:5000]
    assert (earned["tiny.log_det"], earned["tiny.shift"]) == (0, 0), text[:5000]
    assert earned["tiny.order"] == 1.5
    assert earned["tiny.debug"] in ((2,) if attack.after else (0, 2)), text[:5000]
    for judged in verdict.cells:
        if judged.outcome and judged.outcome.points < judged.outcome.max_points:
            assert judged.outcome.messages
    host.assert_untouched()
    assert points(judge.judge(HONEST)) == FULL


def test_there_are_enough_attacks_and_no_two_alike():
    assert len(ATTACKS) >= 60
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert {attack.group for attack in ATTACKS} == {"points", "host", "grade"}


def test_controls(judge):
    """Nothing, everything, and something wrong, by the judge that has seen all attacks."""
    assert points(judge.judge(HONEST)) == FULL
    assert points(judge.judge(list(CHECKS.values()))) == dict.fromkeys(FULL, 0)
    wrong = Cell("def log_det(log_scale, x):\n    return -log_scale.sum().expand(len(x))")
    verdict = judge.judge([*HONEST[:-4], wrong, *CHECKS.values()])
    assert points(verdict) == FULL | {"tiny.log_det": 0}
    assert "your log_det is the negative" in said(verdict)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="is no root already")
def test_the_host_is_as_safe_when_the_grader_is_an_ordinary_user(walls, tmp_path_factory):
    try:
        subprocess.run([sys.executable, "-c", "import torch"], user=65534, check=True)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("Python or its packages lie where an ordinary user may not read")
    folder = tmp_path_factory.mktemp("nobody")
    for path in (folder, *list(folder.parents)[:2]):  # pytest's are root's alone
        path.chmod(path.stat().st_mode | 0o055)
    home = folder / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    command = [sys.executable, "-m", "pytest", str(Path(__file__)), "-k", "host- or controls", "-q"]
    command += ["-p", "no:cacheprovider", f"--basetemp={home / 'tmp'}", "-x"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment |= {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environment,
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
