"""Messages between the grader and a sandbox: a JSON header and raw blobs, each of limited size.

Both ends speak it, and neither ever unpickles what came from the sandbox.
"""

import json
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

__all__ = ["Broken", "Closed", "Message", "receive", "send"]

Message = tuple[dict[str, Any], list[bytes]]
_LENGTHS = struct.Struct(">II")  # of the header, of all blobs together
_HEADER = 8 << 20  # bytes


class Closed(ConnectionError):
    """The other end is gone."""


class Broken(ConnectionError):
    """What came is no message, or is larger than was agreed."""


def send(
    channel: socket.socket,
    header: dict[str, Any],
    blobs: Sequence[bytes] = (),
    deadline: float | None = None,
) -> None:
    """Send one message.

    Raises:
        TimeoutError: the deadline, a value of `time.monotonic()`, has passed.
        Closed: the other end is gone.
    """
    text = json.dumps(header | {"blobs": [len(blob) for blob in blobs]}).encode()
    try:
        channel.settimeout(None if deadline is None else max(0.01, deadline - time.monotonic()))
        channel.sendall(_LENGTHS.pack(len(text), sum(map(len, blobs))) + text)
        for blob in blobs:
            channel.sendall(blob)
    except TimeoutError:
        raise TimeoutError("the other end does not read") from None
    except OSError as error:
        raise Closed(str(error)) from error


def receive(channel: socket.socket, limit: int, deadline: float | None = None) -> Message:
    """Wait for one message.

    Args:
        channel: a stream socket.
        limit: of the blobs together, in bytes.
        deadline: a value of `time.monotonic()`; None waits for ever.

    Raises:
        TimeoutError: the deadline has passed.
        Closed: the other end is gone.
        Broken: what came is no message, or is larger than `limit`.
    """
    header_length, blobs_length = _LENGTHS.unpack(_read(channel, _LENGTHS.size, deadline))
    if header_length > _HEADER or blobs_length > limit:
        raise Broken(f"a message of {header_length} and {blobs_length} bytes is too large")
    try:
        header = json.loads(_read(channel, header_length, deadline))
        lengths = header.pop("blobs")
        valid = all(type(n) is int and n >= 0 for n in lengths) and sum(lengths) == blobs_length
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise Broken("the header of a message makes no sense") from error
    if not valid:
        raise Broken("the blobs of a message do not have the stated lengths")
    return header, [_read(channel, n, deadline) for n in lengths]


def _read(channel: socket.socket, n: int, deadline: float | None) -> bytes:
    parts = []
    while n:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("no answer in time")
        channel.settimeout(left)
        try:
            part = channel.recv(min(n, 1 << 20))
        except TimeoutError:
            raise TimeoutError("no answer in time") from None
        except OSError as error:
            raise Closed(str(error)) from error
        if not part:
            raise Closed("the other end has closed the connection")
        parts.append(part)
        n -= len(part)
    return b"".join(parts)
