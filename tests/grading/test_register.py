"""The register: what is written stays, what is torn counts as not written."""

import json
from dataclasses import asdict

import pytest

from flowcourse.grading.register import Entry, Register


def entry(student, points=1.0, digest="d"):
    return Entry(student, digest, {"t.a": points, "t.b": 0.5}, {"t.a": 2, "t.b": 1})


def test_the_last_entry_of_a_student_holds(tmp_path):
    register = Register(tmp_path, "t")
    for one in (entry("a"), entry("b"), entry("a", 2.0)):
        register.add(one)
    assert register.entries == {"a": entry("a", 2.0), "b": entry("b")}
    assert Register(tmp_path, "t").entries == register.entries
    assert len(register.path.read_text().splitlines()) == 3
    assert (entry("a").total, entry("a").available) == (1.5, 3)


def test_nothing_is_made_by_reading(tmp_path):
    assert Register(tmp_path, "t").entries == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("written", range(0, 200, 7))
def test_a_torn_line_counts_as_not_written(tmp_path, written):
    register = Register(tmp_path, "t")
    register.add(entry("a"))
    line = json.dumps(asdict(entry("b\u2028ä\ud800")))
    with open(register.path, "a") as file:
        file.write(line[:written])
    again = Register(tmp_path, "t")
    assert set(again.entries) == {"a"}
    again.add(entry("c"))
    assert set(Register(tmp_path, "t").entries) == {"a", "c"}


def test_only_a_torn_line(tmp_path):
    (tmp_path / "grading").mkdir()
    (tmp_path / "grading/t.jsonl").write_text('{"student": "a')
    register = Register(tmp_path, "t")
    assert register.entries == {}
    register.add(entry("a"))
    assert set(Register(tmp_path, "t").entries) == {"a"}


def test_any_text_survives(tmp_path):
    odd = Entry("ä \u2028\x85", "d", {}, {}, {"t.a": "line\nbreak"}, ["\ud800 \x1b[31m"], 7, 0.25)
    Register(tmp_path, "t").add(odd)
    assert list(Register(tmp_path, "t").entries.values()) == [odd]


def test_assignments_have_registers_of_their_own(tmp_path):
    Register(tmp_path, "t").add(entry("a"))
    assert Register(tmp_path, "u").entries == {}
