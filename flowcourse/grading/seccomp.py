"""A filter of system calls: what the other walls around a submission do not stop.

Namespaces hide files, processes and the network, but not all of the kernel. A VSOCK socket reaches
the machine's host from any network namespace, the instructor's keyring is inherited, and memory in
a `memfd` belongs to no process, so that a watchdog does not see it. The filter refuses these calls,
and those that are there for programs of another kind and have been doors into the kernel before.
man 2 seccomp; a filter is a small program of classic BPF, linux/bpf_common.h.
"""

import ctypes
import errno
import os
import socket
import struct

__all__ = ["program", "refuse"]

# The audit number of a processor, and which of a call's numbers below it has. RISC-V and LoongArch
# number their calls as ARM does.
PROCESSORS = {
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 1),
    "riscv64": (0xC00000F3, 1),
    "loongarch64": (0xC0000102, 1),
}
NOT_THERE = {  # programs do without, and know how
    "clone3": (435, 435),  # its flags lie in memory, where no filter can look
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
FORBIDDEN = {
    # keys of the session that the grader was started in
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # memory that no process shows
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # namespaces, and with them rights
    "unshare": (272, 97),
    "setns": (308, 268),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    # programs in the kernel, and looks into it
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
}
SOCKET, SETSOCKOPT, CLONE, MMAP = (41, 198), (54, 208), (56, 220), (9, 222)
FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)  # in a network of their own
NAMESPACES = 0x7E020000  # CLONE_NEW*
SHARED, ANONYMOUS = 0x01, 0x20  # MAP_*
BUFFERS = (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF, and the same beyond their limit
X32 = 0x40000000  # set in the numbers of another set of calls, on x86_64

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions
NUMBER, PROCESSOR, ARGUMENTS = 0, 4, 16  # where they stand in what a filter sees


def refuse() -> None:
    """Put the filter before every further system call of this thread and its descendants.

    Raises:
        OSError: the kernel has no filters, or this processor's calls are not known here.
    """
    instructions = program(os.uname().machine)
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code)
    head = struct.pack("@HP", len(instructions), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    zeros = [ctypes.c_ulong(0)] * 2
    if libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), head, *zeros) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"no filter of system calls: {os.strerror(error)}")


def program(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter for a processor: instructions (code, skipped if true, skipped if false, value)."""
    if machine not in PROCESSORS:
        raise OSError(errno.ENOSYS, f"the system calls of {machine} processors are not known here")
    audit, column = PROCESSORS[machine]
    made = [
        (LOAD, 0, 0, PROCESSOR),
        (EQUAL, 1, 0, audit),
        _answer(errno.ENOSYS),  # calls of another processor that this one can play
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32),
        _answer(errno.ENOSYS),
    ]
    for calls, error in ((NOT_THERE, errno.ENOSYS), (FORBIDDEN, errno.EPERM)):
        for numbers in calls.values():
            made += [(EQUAL, 0, 1, numbers[column]), _answer(error)]
    made += _if_call(SOCKET[column], 0, [
        *[(EQUAL, len(FAMILIES) - i, 0, family) for i, family in enumerate(FAMILIES)],
        _answer(errno.EAFNOSUPPORT),
    ])  # fmt: skip
    # Megabytes for each socket, and no process's.
    made += _if_call(SETSOCKOPT[column], 2, [
        *[(EQUAL, len(BUFFERS) - 1 - i, 0, option) for i, option in enumerate(BUFFERS[:-1])],
        (EQUAL, 0, 1, BUFFERS[-1]),
        _answer(errno.EPERM),
    ])  # fmt: skip
    made += _if_call(CLONE[column], 0, [(ANY_BIT, 0, 1, NAMESPACES), _answer(errno.EPERM)])
    # Pages that were written and are no longer mapped stay, and are no process's.
    made += _if_call(
        MMAP[column], 3, [(ANY_BIT, 0, 2, SHARED), (ANY_BIT, 0, 1, ANONYMOUS), _answer(errno.EPERM)]
    )
    return [*made, (RETURN, 0, 0, ALLOW)]


def _if_call(
    number: int, argument: int, rules: list[tuple[int, int, int, int]]
) -> list[tuple[int, int, int, int]]:
    """Rules on an argument of a call; one that skips past their end allows it."""
    return [
        (EQUAL, 0, len(rules) + 2, number),
        (LOAD, 0, 0, ARGUMENTS + 8 * argument),  # its lower half
        *rules,
        (RETURN, 0, 0, ALLOW),
    ]


def _answer(error: int) -> tuple[int, int, int, int]:
    return RETURN, 0, 0, ERRNO | error
