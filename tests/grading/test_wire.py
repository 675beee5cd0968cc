"""Messages between the grader and a sandbox: whole, of limited size, and never believed."""

import json
import socket
import struct
import threading
import time

import pytest

from flowcourse.grading import wire


@pytest.fixture
def ends():
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def soon():
    return time.monotonic() + 60


def raw(text, *blobs):
    return struct.pack(">II", len(text), sum(map(len, blobs))) + text + b"".join(blobs)


def test_what_is_sent_arrives(ends):
    here, there = ends
    for header, blobs in (({}, []), ({"a": [1, "ä\ud800"]}, [b"", b"x" * 3]), ({"b": None}, [b""])):
        wire.send(here, header, blobs, soon())
        assert wire.receive(there, 3, soon()) == (header, blobs)


def test_a_message_may_be_larger_than_any_buffer(ends):
    here, there = ends
    blobs = [bytes(5 << 20), b"x" * (3 << 20)]
    thread = threading.Thread(target=wire.send, args=(here, {"n": 1}, blobs))
    thread.start()
    assert wire.receive(there, 8 << 20, soon()) == ({"n": 1}, blobs)
    thread.join()


BROKEN = {
    "no JSON": raw(b"{"),
    "no object": raw(b"[1]"),
    "no text": raw(b"\xff\xfe\xfd"),
    "nothing": raw(b""),
    "no lengths": raw(b"{}"),
    "lengths that are none": raw(b'{"blobs": 3}'),
    "lengths that are text": raw(b'{"blobs": ["1"]}', b"x"),
    "truth for a length": raw(b'{"blobs": [true]}', b"x"),
    "a negative length": raw(b'{"blobs": [2, -1]}', b"x"),
    "a length too many": raw(b'{"blobs": [1, 1]}', b"x"),
    "a length with a fraction": raw(b'{"blobs": [1.0]}', b"x"),
    "a number of a million digits": raw(b'{"blobs": [1' + b"0" * 10**6 + b"]}"),
    "nesting": raw(b'{"blobs": ' + b"[" * 10**6),
    "a header too large": struct.pack(">II", (8 << 20) + 1, 0),
    "blobs too large": struct.pack(">II", 2, 11) + b"{}",
    "lengths of four gigabytes": b"\xff" * 8,
}


@pytest.mark.parametrize("what", BROKEN)
def test_nonsense_is_refused(ends, what):
    here, there = ends
    thread = threading.Thread(target=here.sendall, args=(BROKEN[what],), daemon=True)
    thread.start()
    with pytest.raises(wire.Broken):
        wire.receive(there, 10, soon())
    there.close()


@pytest.mark.parametrize("part", [b"", b"\0\0", raw(b'{"blobs": []}')[:-1]])
def test_an_end_in_the_middle_is_an_end(ends, part):
    here, there = ends
    here.sendall(part)
    here.close()
    with pytest.raises(wire.Closed):
        wire.receive(there, 10, soon())


@pytest.mark.parametrize("part", [b"", b"\0\0", raw(b'{"blobs": []}')[:-1]])
def test_silence_has_an_end(ends, part):
    here, there = ends
    here.sendall(part)
    with pytest.raises(TimeoutError):
        wire.receive(there, 10, time.monotonic() + 0.05)
    with pytest.raises(TimeoutError):
        wire.receive(there, 10, time.monotonic() - 1)


def test_sending_to_who_does_not_read_has_an_end(ends):
    with pytest.raises(TimeoutError, match="does not read"):
        wire.send(ends[0], {}, [bytes(32 << 20)], time.monotonic() + 0.05)


def test_sending_to_who_is_gone(ends):
    ends[1].close()
    with pytest.raises(wire.Closed):
        wire.send(ends[0], {}, [bytes(1 << 20)])


def test_a_deadline_of_before_does_not_hold_later(ends):
    here, there = ends
    wire.send(here, {}, [], time.monotonic() + 0.05)
    wire.send(there, {}, [])
    assert here.gettimeout() is not None
    wire.send(here, {}, [])
    assert here.gettimeout() is None


def test_the_header_is_plain_ascii(ends):
    here, there = ends
    wire.send(here, {"text": "\ud800ü"})
    length, _ = struct.unpack(">II", there.recv(8))
    assert json.loads(there.recv(length).decode("ascii"))["text"] == "\ud800ü"
