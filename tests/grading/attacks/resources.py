"""What the host has: memory, processes, disk, and the time of the grader itself."""

from tests.grading.attacks.attack import Group

attack = Group("resources")

attack(
    "five hundred processes",
    """
import os, time
for _ in range(500):
    if os.fork() == 0:
        time.sleep(600)
told("tried")
""",
    shows="processes or threads|temporarily unavailable|BlockingIOError",
)

attack(
    "five hundred threads",
    """
import threading, time
for _ in range(500):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
""",
    shows="processes or threads|start new thread",
)

attack(
    "memory, in one process",
    """
blocks = [bytearray(64 << 20) for _ in range(40)]
for block in blocks: block[::4096] = b"x" * len(block[::4096])
""",
    shows="memory|MemoryError",
)

attack(
    "memory, over several processes",
    """
import os, time
for _ in range(16):
    if os.fork() == 0:
        block = bytearray(128 << 20)
        block[::4096] = b"x" * len(block[::4096])
        time.sleep(600)
time.sleep(1.5)
told("tried")
""",
    shows="memory|tried|killed",
)

for folder in ("/dev/shm", "/tmp"):
    attack(
        f"memory, by files in {folder}",
        f"""
try:
    with open("{folder}/big", "wb") as file:
        for _ in range(64): file.write(bytes(16 << 20))
    escaped()
finally:
    import os; os.remove("{folder}/big")
""",
        shows="No space|too large|killed|memory",
    )

attack(
    "very many small files",
    """
import os
os.makedirs("many")
try:
    for n in range(10**5): os.close(os.open(f"many/{n}", os.O_CREAT))
    escaped()
finally: os.system("rm -r many")
""",
    shows="No space left|ran longer|KeyboardInterrupt",
)

attack(
    "endless output",
    """
import os
try:
    while True: print("x" * 10**6)
except OSError: pass
""",
    shows="cut|ended|ran longer",
)

attack(
    "a million displays",
    """
from IPython.display import HTML, display
for n in range(10**6): display(HTML("<script>alert(1)</script>"))
""",
    shows="IPython.core.display.HTML|ran longer|KeyboardInterrupt|ended",
    endless=True,
)

attack(
    "very many open files",
    """
files = []
try:
    while True: files.append(open("/dev/null"))
except OSError as error: told("tried", error)
del files
""",
    shows="Too many open files",
)

attack(
    "a result of a hundred megabytes",
    """
told("tried")
"x" * 10**8
""",
    shows="tried|cut|memory",
)

attack(
    "five megabytes of source",
    "'''" + "é" * (5 << 20) + "'''\n",
    shows="ended|cut|memory",
)

attack(
    "memory that no process shows",
    """
import ctypes, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall(number(319, 279), b"x", 0) >= 0: escaped("memfd_create")
if libc.syscall(447, 0) >= 0: escaped("memfd_secret")
if libc.shmget(0, 1 << 20, 0o1600) >= 0: escaped("shmget")
if libc.msgget(0, 0o1600) >= 0: escaped("msgget")
try:
    mmap.mmap(-1, 1 << 20); escaped("shared pages")
except OSError: pass
try:
    with open("/dev/zero", "r+b") as zero: mmap.mmap(zero.fileno(), 1 << 20); escaped("zero")
except (OSError, ValueError): pass
told("tried")
""",
)
attack(
    "memory, by tables of pages that are never written",
    """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
size = 1 << 40
start = libc.mmap(None, size, 1, 0x4022, -1, 0)  # to be read, private, without reserve
libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), 15)  # no huge pages
import numpy as np
block = np.ones(450 << 17)  # most of what is allowed; the tables are to be the rest
for n in range(0, size, 1 << 36):
    page = (ctypes.c_ubyte * (1 << 36)).from_address(start + n)
    np.ndarray(1 << 15, np.uint8, page, strides=(2 << 20,)).sum()
""",
    shows="it used more than|was killed|ended as well",
)
attack(
    "memory, in a process that cannot be looked into",
    """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
for n in range(3):
    if os.fork() == 0:
        libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
        block = bytearray(300 << 20)
        block[::4096] = b"x" * len(block[::4096])
        time.sleep(600)
time.sleep(600)
""",
    shows="it used more than|was killed|ended as well",
)
attack(
    "very many open files of many processes",
    """
import os, time
for _ in range(12):
    if os.fork() == 0:
        held = [open("/dev/null") for _ in range(100)]
        time.sleep(600)
time.sleep(600)
""",
    shows="files open",
)
attack(
    "memory, in sockets and pipes",
    """
import fcntl, os, socket
held, size = [], 0
try:
    while True:
        pair = socket.socketpair()
        held.append(pair)
        for one in pair:
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
            try:
                while True: size += one.send(bytes(1 << 16))
            except BlockingIOError: pass
except OSError as error: told("tried", len(held), size >> 20, error)
if size > 200 << 20: escaped(size)
del held
""",
)
attack(
    "memory, in names, attributes and holes of files",
    """
import os
size = 0
try:
    for n in range(200):
        with open(f"sparse-{n}", "wb") as file: file.truncate(40 << 20)
        for k in range(100):
            os.setxattr(f"sparse-{n}", f"user.{k}", bytes(60_000)); size += 60_000
except OSError as error: told("tried", error)
if size > 200 << 20: escaped(size)
told("tried")
os.system("rm -f sparse-*")
""",
)
attack(
    "folders as deep as they go",
    """
import os
here = os.getcwd()
try:
    for n in range(5000): os.mkdir("d" * 200); os.chdir("d" * 200)
except OSError as error: told(error)
os.chdir(here)
told("tried")
""",
    shows="tried|ran longer",
)
attack(
    "an archive that was handed in and is larger inside",
    """
import zipfile
with zipfile.ZipFile("bomb.zip") as archive:
    assert sum(entry.file_size for entry in archive.infolist()) > 48 << 20
    archive.extractall("bomb")
escaped()
""",
    shows="No space|too large",
)
attack(
    "an answer with as many numbers as a message holds",
    """
import numpy as np
log_det = lambda s, x: np.zeros(60 << 20, np.uint8)
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return np.zeros((5, 2, 10**6)), np.zeros((10**6, 5))
    def inverse(self, x): return np.zeros((2**20, 2), np.float16), None
told("tried")
""",
    shows="expected.*numbers|too large",
    after=True,
)
attack(
    "a picture that is small and shown large",
    """
import struct, zlib
from IPython.display import Image, display
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
n = 30_000
rows = zlib.compress(bytes(n * 20), 9)
png = b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", n, n, 8, 2, 0, 0, 0))
display(Image(png + chunk(b"IDAT", rows) + chunk(b"IEND", b"")))
told("tried")
""",
)
attack(
    "processes that come and go by the thousand",
    """
import os
for _ in range(500):
    pid = os.posix_spawn("/bin/true", ["true"], {}) if os.path.exists("/bin/true") else os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
told("tried")
""",
    shows="tried|KeyboardInterrupt|ran longer",
)
