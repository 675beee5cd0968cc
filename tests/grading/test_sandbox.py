"""The sandbox by itself: what a submission gets, its limits, what comes after an end."""

import os
import signal
import time

import pytest

from flowcourse.checks import get
from flowcourse.checks.evidence import Failure
from flowcourse.grading import sandbox as module
from flowcourse.grading.namespaces import Limits
from flowcourse.grading.sandbox import MOST_VALUES, Died, Sandbox, read_values
from tests.grading.attacks.attack import CHANNEL

LIMITS = Limits(
    cell_seconds=120,
    seconds=600,
    cpu_seconds=5,
    memory=500 << 20,
    processes=20,
    files=64,
    disk=8 << 20,
    output=4000,
)


@pytest.fixture(scope="module")
def box(walls, in_the_course):
    with Sandbox(limits=LIMITS) as box:
        yield box


def printed(result):
    return "".join(output.get("text", "") for output in result.outputs)


def test_cells_share_their_names_files_and_folder(box):
    with box.submission({"a/b.csv": b"1,2", "ü.txt": b"\xff"}) as submission:
        submission.run("import os\nx = open('a/b.csv').read()")
        shown = submission.run("print(x, sorted(os.listdir()), os.path.getsize('ü.txt'))")
    assert printed(shown) == "1,2 ['a', 'ü.txt'] 1\n"


def test_submissions_share_nothing(box):
    with box.submission({"a.csv": b"1"}) as submission:
        submission.run("import math, os\nmath.pi = 3\nopen('/tmp/mine', 'w').write('x')\nleft = 1")
    with box.submission() as submission:
        look = (
            "import math, os\nprint(math.pi, os.listdir(), os.listdir('/tmp'), 'left' in globals())"
        )
        shown = printed(submission.run(look))
    assert shown.startswith("3.14") and "mine" not in shown and shown.endswith("False\n")
    assert "a.csv" not in shown


def test_it_says_what_it_is(box):
    """Without rights, network or a home; the course's own package, without its answers."""
    look = """
import os, socket
print(os.environ["FLOWCOURSE_SANDBOX"], os.getuid() == 0, socket.gethostname(), os.getpid() < 50)
from flowcourse import bijector, nets, plot
import flowcourse.checks
print(sorted(os.listdir(os.path.dirname(flowcourse.checks.__file__))))
"""
    with box.submission() as submission:
        lines = printed(submission.run(look)).splitlines()
    assert lines[0] == "1 False sandbox True"
    assert set(eval(lines[1])) == {*module.CHECKS_FILES}


LIMITED = {
    "memory": (
        "block = bytearray(1 << 30); block[::4096] = b'x' * (1 << 18)",
        "memory|MemoryError",
    ),
    "processes": (
        "import os, time\nfor _ in range(40):\n    if not os.fork(): time.sleep(99)",
        "processes or threads|temporarily unavailable|BlockingIOError",
    ),
    "files": ("kept = [open('/dev/null') for _ in range(99)]", "Too many open files"),
    "disk": ("open('big', 'wb').write(bytes(16 << 20))", "No space left|File too large"),
    "output": ("print('x' * 10_000)", "the rest of this output was cut"),
}


@pytest.mark.parametrize("limit", LIMITED)
def test_a_limit_is_kept_and_named(box, limit):
    code, reason = LIMITED[limit]
    with box.submission() as submission:
        try:
            result = submission.run(code)
            said = printed(result) + str(result.outputs)
        except Died as died:
            said = str(died)
    assert any(words in said for words in reason.split("|")), said
    with box.submission() as submission:
        assert printed(submission.run("print(1)")) == "1\n"


def test_processor_time_is_limited(box):
    with box.submission() as submission, pytest.raises(Died, match="processor time"):
        submission.run("while True: pass")


def test_time_is_limited_for_what_reacts_and_what_does_not(box, monkeypatch):
    monkeypatch.setattr(box, "limits", Limits(cell_seconds=1, seconds=100))
    with box.submission() as submission:
        result = submission.run("import time\ntime.sleep(60)")
        assert result.stopped == "it ran longer than 1 s"
        assert result.outputs[-1]["ename"] == "KeyboardInterrupt"
        assert submission.run("").stopped is None
        with pytest.raises(Died, match="ran longer than 1 s and did not react"):
            submission.run("import signal\nsignal.signal(2, signal.SIG_IGN)\ntime.sleep(60)")


def test_a_check_that_takes_too_long_says_so(box, monkeypatch):
    monkeypatch.setattr(box, "limits", Limits(cell_seconds=2, seconds=100))
    exercise = get("tiny.debug")
    with box.submission() as submission:
        submission.run("import time\nsize = lambda x: time.sleep(60)")
        found = submission.gather(exercise, "size", exercise.inputs(0), 0)
    assert found == Failure("Stopped", "it ran longer than 2 s")


def test_a_sandbox_that_is_killed_is_replaced(box, monkeypatch):
    def kill():
        os.kill(box._process.pid, signal.SIGKILL)
        return box._process

    with box.submission() as submission:
        submission.run("x = 1")
        first = kill()
        with pytest.raises(Died):
            submission.run("import time\ntime.sleep(60)")
    with box.submission() as submission:
        assert printed(submission.run("print(2)")) == "2\n"
    second = kill()
    second.wait()
    assert box._control.recv(1) == b""  # what was inside it is gone as well
    monkeypatch.setattr(second, "poll", lambda: None)  # as if it had ended since
    with box.submission() as submission:
        assert printed(submission.run("print(3)")) == "3\n"
    assert len({first, second, box._process}) == 3


def test_what_a_submission_leaves_running_ends_with_it(box):
    leave = """
import os, time
for _ in range(5):
    if not os.fork():
        os.setsid()
        time.sleep(99)
"""
    with box.submission() as submission:
        submission.run(leave)
    started = time.monotonic()
    with box.submission() as submission:
        alone = "import os\nprint(len([p for p in os.listdir('/proc') if p.isdigit()]))"
        assert int(printed(submission.run(alone))) < 8
    assert time.monotonic() - started < 60


def test_without_walls_a_submission_runs_and_is_limited_all_the_same(in_the_course):
    """Only where it is asked for: as this user, with the network and the files of this machine."""
    with Sandbox(unsafe=True, limits=Limits(memory=800 << 20, processes=100)) as box:
        with box.submission({"a.csv": b"1"}) as submission:
            look = (
                "import os\nprint(os.getuid(), open('a.csv').read(), os.path.exists('/etc/passwd'))"
            )
            assert printed(submission.run(look)) == f"{os.getuid()} 1 True\n"
        with box.submission() as submission:
            look = "import os\nprint(os.listdir())"
            assert printed(submission.run(look)) == "[]\n"
            with pytest.raises(Died, match="exit 3"):
                submission.run("import os\nos._exit(3)")


def test_values_that_no_check_can_have_brought_back():
    assert read_values({"unanswered": True}, []) is None
    for header in ({}, {"names": 3, "failures": {}}, {"names": [], "failures": []}):
        assert "nothing back" in str(read_values(header, []))
    many = {"names": ["a"] * (MOST_VALUES + 1), "failures": {}}
    assert "more than" in str(read_values(many, [b""] * len(many["names"])))
    odd = read_values({"names": [[1], None], "failures": {"c": 7, "d": ["E", "m"]}}, [b"", b""])
    assert set(odd) == {"[1]", "None", "c", "d"}
    assert all(isinstance(value, Failure) for value in odd.values())
    assert str(read_values({"failure": "x"}, [])).startswith("RuntimeError")


def test_a_reply_after_the_end_of_a_submission_reaches_no_other(box):
    """What is sent late is lost with its channel."""
    late = f"""{CHANNEL}
if not os.fork():
    import time
    time.sleep(0.3)
    forge(frame({{"outputs": [{{"output_type": "stream", "name": "stdout", "text": "FORGED"}}]}}))
    os._exit(0)
"""
    with box.submission() as submission:
        submission.run(late)
    with box.submission() as submission:
        assert printed(submission.run("import time\ntime.sleep(0.6)\nprint(3)")) == "3\n"
