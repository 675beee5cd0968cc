"""The filter of system calls: its program run by hand for every processor, and by the kernel."""

import errno
import json
import os
import socket
import subprocess
import sys

import pytest

from flowcourse.grading import seccomp
from flowcourse.grading.seccomp import CLONE, MMAP, PROCESSORS, SETSOCKOPT, SOCKET, program

ALLOWED = 0


def verdict(machine, number, *arguments, audit=None):
    """What the filter answers to a call: an error number, or `ALLOWED`."""
    seen = {0: number, 4: PROCESSORS[machine][0] if audit is None else audit}
    for i in range(6):
        value = arguments[i] if i < len(arguments) else 0
        seen |= {16 + 8 * i: value & 0xFFFFFFFF, 20 + 8 * i: value >> 32}
    instructions = program(machine)
    place, register = 0, 0
    for _ in range(len(instructions)):  # there are no loops
        code, if_true, if_false, value = instructions[place]
        place += 1
        match code:
            case seccomp.LOAD:
                register = seen[value]
            case seccomp.RETURN:
                return ALLOWED if value == seccomp.ALLOW else value & 0xFFFF
            case seccomp.EQUAL:
                place += if_true if register == value else if_false
            case seccomp.AT_LEAST:
                place += if_true if register >= value else if_false
            case seccomp.ANY_BIT:
                place += if_true if register & value else if_false
            case _:
                raise AssertionError(code)
    raise AssertionError("the program does not end")


@pytest.fixture(params=sorted(PROCESSORS))
def machine(request):
    return request.param


def test_calls_that_are_refused(machine):
    column = PROCESSORS[machine][1]
    for numbers in seccomp.FORBIDDEN.values():
        assert verdict(machine, numbers[column]) == errno.EPERM
    for numbers in seccomp.NOT_THERE.values():
        assert verdict(machine, numbers[column]) == errno.ENOSYS


def test_what_programs_need_is_allowed(machine):
    column = PROCESSORS[machine][1]
    usual = {"read": (0, 63), "write": (1, 64), "openat": (257, 56), "execve": (59, 221)}
    usual |= {"futex": (202, 98), "sched_yield": (24, 124), "exit_group": (231, 94)}
    for numbers in usual.values():
        assert verdict(machine, numbers[column], 40, 40, 40, 40) == ALLOWED


def test_sockets_of_three_families(machine):
    number = SOCKET[PROCESSORS[machine][1]]
    allowed = {f for f in range(60) if verdict(machine, number, f, 1, 0) == ALLOWED}
    assert allowed == {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6}
    # The kernel reads the lower half, and so must the filter.
    assert verdict(machine, number, (1 << 32) | 40) == errno.EAFNOSUPPORT


def test_buffers_of_sockets_stay_as_they_are(machine):
    number = SETSOCKOPT[PROCESSORS[machine][1]]
    refused = {o for o in range(100) if verdict(machine, number, 3, 1, o) == errno.EPERM}
    assert refused == {7, 8, 32, 33}


def test_threads_and_processes_but_no_namespaces(machine):
    number = CLONE[PROCESSORS[machine][1]]
    thread = 0x3D0F00  # as pthread_create asks
    assert verdict(machine, number, thread) == verdict(machine, number, 17) == ALLOWED
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(machine, number, flag | 17) == errno.EPERM


def test_pages_that_are_shared_have_a_file(machine):
    number = MMAP[PROCESSORS[machine][1]]
    shared, shared_validate, private, anonymous = 1, 3, 2, 0x20
    for allowed in (private | anonymous, private, shared, shared_validate):
        assert verdict(machine, number, 0, 4096, 3, allowed) == ALLOWED
    for refused in (shared | anonymous, shared_validate | anonymous):
        assert verdict(machine, number, 0, 4096, 3, refused) == errno.EPERM


def test_calls_in_the_way_of_another_processor_are_not_there(machine):
    i386 = 0x40000003
    assert verdict(machine, 1, audit=i386) == errno.ENOSYS
    assert verdict(machine, seccomp.X32 + SOCKET[0], 1, 1) == errno.ENOSYS


def test_an_unknown_processor_is_refused():
    with pytest.raises(OSError, match="s390x processors are not known"):
        program("s390x")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_the_kernel_runs_it():
    """In a process of its own: there is no way back."""
    code = """
import ctypes, json, mmap, os, socket, subprocess, threading
from flowcourse.grading.namespaces import _call
from flowcourse.grading.seccomp import refuse
_call("prctl", 38, 1)  # no new privileges: an ordinary user needs that
refuse()
def error(action):
    try: action()
    except OSError as error: return error.errno
threading.Thread(target=print).start()
left, right = socket.socketpair()
print(json.dumps([
    error(lambda: socket.socket(40, socket.SOCK_STREAM)),
    error(lambda: mmap.mmap(-1, 4096)),
    error(lambda: left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)),
    error(lambda: os.memfd_create("x")),
    subprocess.run(["true"]).returncode,
    socket.socket().family,
]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = [errno.EAFNOSUPPORT, *[errno.EPERM] * 3, 0, socket.AF_INET]
    assert json.loads(done.stdout.splitlines()[-1]) == expected


@pytest.mark.skipif(not hasattr(os, "uname") or sys.platform != "linux", reason="Linux only")
def test_this_machines_processor_is_known():
    assert os.uname().machine in PROCESSORS
