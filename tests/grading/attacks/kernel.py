"""The host's kernel: its settings, and calls that reach past the other walls."""

from tests.grading.attacks.attack import Group

attack = Group("host")

attack(
    "settings of the kernel",
    """
import glob
for path in ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname",
             "/proc/sys/vm/overcommit_memory", "/proc/sys/user/max_user_namespaces",
             "/proc/sysrq-trigger", "/proc/1/oom_score_adj", "/sys/kernel/uevent_helper",
             *glob.glob("/sys/fs/cgroup/*/*")]:
    try:
        open(path, "w").write("1")
        if "oom_score" not in path: escaped(path)
    except OSError: pass
told("tried")
""",
)

attack(
    "mounts, namespaces, roots and users changed",
    """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
tries = {
    "mount": lambda: libc.mount(b"proc", b"/tmp", b"proc", 0, None),
    "bind": lambda: libc.mount(b"/", b"/tmp", None, 4096, None),
    "remount": lambda: libc.mount(None, b"/", None, 32 | 4096, None),
    "umount": lambda: libc.umount2(b"/tmp", 2),
    "user": lambda: libc.unshare(0x10000000),
    "mounts": lambda: libc.unshare(0x20000),
    "net": lambda: libc.unshare(0x40000000),
    "chroot": lambda: libc.chroot(b"/tmp"),
    "setuid": lambda: libc.setuid(0),
    "setgid": lambda: libc.setgid(0),
    "hostname": lambda: libc.sethostname(b"x", 1),
    "clone": lambda: libc.setns(os.open("/proc/self/ns/net", 0), 0),
}
for name, action in tries.items():
    try:
        if action() == 0: escaped(name)
    except OSError: pass
told("tried")
""",
)

attack(
    "devices made and opened",
    """
import os, stat
for n, kind in enumerate(("c", "b")):
    try:
        os.mknod(f"/tmp/device{n}", 0o600 | (stat.S_IFCHR if kind == "c" else stat.S_IFBLK),
                 os.makedev(1 if kind == "c" else 8, 1))
        escaped(kind)
    except OSError: pass
for path in ("/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/loop0", "/dev/kvm"):
    try: os.open(path, os.O_RDWR); escaped(path)
    except OSError: pass
told("tried")
""",
)

attack(
    "a terminal typed into",
    """
import fcntl, os, termios
for n in range(3):
    try: fcntl.ioctl(n, termios.TIOCSTI, b"x"); escaped(n)
    except OSError: pass
try: os.open("/dev/tty", os.O_RDWR); escaped("tty")
except OSError: pass
told("tried")
""",
)

attack(
    "shared memory and semaphores of System V",
    """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
open_before = [line for line in open("/proc/sysvipc/shm")][1:] if __import__("os").path.exists(
    "/proc/sysvipc/shm") else []
if open_before: escaped(open_before)
libc.shmget(0x5EC2E7, 4096, 0o1666)
told("tried")
""",
)

attack(
    "sockets of families that no network namespace holds back",
    """
import ctypes, socket
libc = ctypes.CDLL(None, use_errno=True)
for family in (*range(3, 10), *range(11, 46)):  # VSOCK, ALG, NETLINK, PACKET, ...
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_RAW):
        if libc.socket(family, kind, 0) >= 0: escaped(family, kind)
told("tried")
""",
)
attack(
    "the same by the calls of other processors",
    """
import ctypes, mmap, os, platform
told("tried")
def run(code):
    page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
    page.write(code)
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
if platform.machine() == "x86_64":
    x32 = bytes.fromhex("b829000040 bf28000000 be01000000 31d2 0f05 c3")
    if run(x32) >= 0: escaped("x32")  # socket(AF_VSOCK, SOCK_STREAM, 0)
    i386 = bytes.fromhex("53 b867010000 bb28000000 b901000000 31d2 cd80 5b c3")
    if run(i386) >= 0: escaped("i386")
""",
    shows="tried|crashed",
)
attack(
    "keys of the session that the grader was started in",
    """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for ring in (-3, -4, -5, -1, -2):
    for call in ((250, 219, 0, ring, 0), (250, 219, 10, ring, b"user", HOST["key"].encode(), 0),
                 (248, 217, b"user", HOST["name"].encode(), b"x", 1, ring)):
        if libc.syscall(number(*call[:2]), *call[2:]) >= 0: escaped(call)
told("tried")
""",
)
attack(
    "io_uring, programs in the kernel, faults served by hand",
    """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
room = ctypes.create_string_buffer(256)
for name, call in {"io_uring": (425, 425, 4, room), "bpf": (321, 280, 5, room, 128),
                   "perf": (298, 241, room, 0, -1, -1, 0), "userfaultfd": (323, 282, 1),
                   "userfaultfd of both": (323, 282, 0)}.items():
    if libc.syscall(number(*call[:2]), *call[2:]) >= 0: escaped(name)
told("tried")
""",
)
attack(
    "namespaces by clone, and rights in them",
    """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x02000000, 0x8000000, 0x4000000):
    for call in ((number(56, 220), flag | 17, 0, 0, 0, 0), (number(272, 97), flag)):
        pid = libc.syscall(*call)
        if pid == 0: print("ESC" + "APED", flag, flush=True); os._exit(0)
        if pid > 0: escaped(flag)
arguments = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17)
if (pid := libc.syscall(435, arguments, 88)) >= 0:
    if pid == 0: os._exit(0)
    escaped("clone3")
for name in ("user", "mnt", "net", "pid"):
    for owner in ("self", "thread-self", "1"):
        try: handle = os.open(f"/proc/{owner}/ns/{name}", os.O_RDONLY)
        except OSError: continue
        if libc.setns(handle, 0) == 0: escaped("setns", name)
told("tried")
""",
)
attack(
    "what is left for the next submission",
    """
import fcntl, os
for folder in ("/", "/dev", "/dev/pts", "/dev/mqueue", "/proc", "/tmp/matplotlib", "/var", "/run"):
    try:
        os.mkdir(os.path.join(folder, "left")); told("wrote in", folder)
    except OSError: pass
for folder in ("/", "/dev", "/var", "/run", "/opt"):
    if os.path.exists(os.path.join(folder, "left")): escaped(folder)
told("tried")
""",
    shows="(?<!wrote in /dev)\\W*tried",
)
attack(
    "more terminals than there are",
    """
import os
pairs = []
try:
    while True: pairs.append(os.openpty())
except OSError as error: told("tried", len(pairs), error)
if len(pairs) > 64: escaped(len(pairs))
for pair in pairs: os.close(pair[0]); os.close(pair[1])
""",
)
