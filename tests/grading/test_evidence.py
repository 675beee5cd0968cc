"""Arrays and texts that came from a sandbox: read without running or believing anything."""

import io
import struct
import sys

import numpy as np
import pytest

import flowcourse
from flowcourse.checks import at_most, close, equal, same_distribution
from flowcourse.checks.evidence import Failure
from flowcourse.grading.evidence import read_array, read_text
from flowcourse.grading.sandbox import read_values


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), **options)
    return file.getvalue()


def forged(descr="<f8", shape="(4,)", content=bytes(32), order="False", version=(1, 0)):
    head = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}"
    head = head.encode() if isinstance(head, str) else head
    size = struct.pack("<H" if version == (1, 0) else "<I", len(head))
    return b"\x93NUMPY" + bytes(version) + size + head + content


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(3),
        np.array([True, False]),
        np.array(["B", "ä", ""]),
        np.zeros((0, 3), np.float32),
        np.array([1, 2], ">i2"),
        np.array([1.5], "longdouble"),
        np.array([np.nan, np.inf, -np.inf], np.float16),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_arrays_come_back_as_they_were(array, version):
    read = read_array(npy(array, version=version))
    assert read.dtype == array.dtype and read.flags.owndata and read.flags.writeable
    np.testing.assert_array_equal(read, array)


REFUSED = {
    "nothing": b"",
    "no array": b"PK\x03\x04" + bytes(99),
    "half a header": npy(np.zeros(4))[:20],
    "half the content": npy(np.zeros(4))[:-8],
    "more than was said": npy(np.zeros(4)) + bytes(8),
    "objects": npy(np.array([None], dtype=object)),
    "records": npy(np.zeros(2, dtype=[("a", "f8")])),
    "bytes": npy(np.array([b"x"])),
    "dates": npy(np.array("2020-01-01", "M8[D]")),
    "complex numbers": npy(np.array(1j)),
    "nothing of no length": forged("|V0"),
    "an absurd shape": forged(shape=f"({10**15},)"),
    "a shape beyond integers": forged(shape=f"({10**30}, 0)"),
    "a shape that overflows": forged(shape=f"({2**32}, {2**32})"),
    "a shape of text": forged(shape="('4',)"),
    "many axes": forged(shape=str((1,) * 40), content=bytes(8)),
    "a call": forged(shape="__import__('os').getpid()"),
    "deep nesting": forged(shape="(" * 4000),
    "a long header": forged(shape="(4,)" + " " * 60000),
    "another version": forged(version=(3, 0)),
    "a version to come": forged(version=(9, 0)),
    "a kind of its own": forged("evil"),
    "letters beyond Unicode": forged("<U2", content=b"\xff" * 32),
    "letters beyond Unicode, the other way round": forged(">U2", content=b"\xff" * 32),
    "text of no length": forged("<U0", content=b""),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_array_of_numbers_or_text_is_a_failure(what):
    found = read_array(REFUSED[what])
    assert isinstance(found, Failure) and found.message.startswith("the answer gave no array")
    assert len(found.message) <= 500


def test_failures_and_names_are_read_as_text():
    header = {"names": ["a", 3], "failures": {"b": ["E" * 999, "\ud800" + "m" * 9999], "c": 1}}
    found = read_values(header, [npy(np.zeros(2)), npy(np.zeros(2)), npy(np.zeros(2))])
    assert set(found) == {"a", "3", "b", "c"}
    assert found["b"].message.startswith("?m") and len(str(found["b"])) < 2300
    assert found["c"].kind == "RuntimeError"
    for nonsense in ({}, {"names": 1, "failures": {}}, {"names": [], "failures": []}):
        assert read_values(nonsense, []).message == "the check brought nothing back"
    assert read_values({"failure": {"x": 1}}, []).kind == "RuntimeError"
    assert read_values({"unanswered": True}, []) is None


def test_text_can_be_written_and_names_no_folder_of_this_machine():
    package = flowcourse.__path__[0]
    text = read_text(f"\udcff at {sys.prefix}/lib/x.py, {package}/flow.py", 100)
    assert text.encode() and text.startswith("? at /lib/x.py, ")
    assert sys.prefix not in text and package not in text
    assert read_text("x" * 11, 10) == "x" * 10 + "\n[the rest was cut]"


HOSTILE = [
    np.zeros((0,)),
    np.zeros((0, 3)),
    np.zeros((0, 0)),
    np.zeros((1, 3)),
    np.zeros((5, 0)),
    np.array("x" * 10**6),
    np.array(["\ud800"]),
    np.array([np.nan] * 3),
    np.array([[np.inf] * 3] * 500),
    np.array(np.finfo("longdouble").max),
    np.array([2**64 - 1] * 3, np.uint64),
    np.array([True] * 3),
    np.zeros((1,) * 32),
]


@pytest.mark.parametrize("compare", [close(), equal, at_most(1, "nats"), same_distribution])
@pytest.mark.parametrize("expected", [np.array(0.5), np.full(3, 0.5), np.array(["A", "B"])])
@pytest.mark.parametrize("answer", HOSTILE, ids=lambda a: f"{a.dtype}-{a.shape}"[:30])
def test_no_array_stops_a_comparison(compare, expected, answer):
    """It is made in the grader's own process: an exception would end there, and long texts too."""
    if expected.dtype.kind == "U" and compare is not equal:
        return  # no reference is text there
    if compare is same_distribution:
        expected = np.random.default_rng(0).normal(size=(500, 3))
    complaint = compare(answer, expected)
    low = isinstance(compare, at_most) and answer.size and answer.dtype.kind in "biuf"
    assert complaint is None if low and answer.max() <= 1 else len(complaint) < 300


def test_a_few_samples_are_no_sample():
    """One point contradicts no distribution: all that were asked for must be there."""
    samples = np.random.default_rng(0).normal(size=(500, 2))
    assert "expected shape" in same_distribution(samples[:1], samples)
    assert same_distribution(samples[::-1], samples) is None
