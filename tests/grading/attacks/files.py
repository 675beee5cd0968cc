"""The host's files, environment and network."""

from tests.grading.attacks.attack import Group

attack = Group("host")

attack(
    "files of the grader read",
    """
import os
for path in HOST["files"]:
    for way in (open, os.listdir, os.stat):
        try:
            way(path)
            escaped(path)
        except OSError: pass
told("tried", len(HOST["files"]))
""",
)

attack(
    "passwords, homes and keys",
    """
import os, pathlib, pwd
for path in ("/etc/passwd", "/etc/shadow", "/home", "/var", "/run", "/boot", "/mnt", "/etc/ssh",
             "/etc/hosts", "/etc/resolv.conf", "/sys", *HOST["in the home"]):
    try:
        os.stat(path)
        escaped(path)
    except OSError: pass
try: escaped(pwd.getpwuid(os.getuid()))
except KeyError: pass
told("tried")
""",
)

attack(
    "files written everywhere",
    """
import os
for folder in ["/", "/usr", "/usr/bin", "/opt/flowcourse", "/etc", "/var/tmp", "/dev",
               os.path.dirname(HOST["mark"]), *HOST["python"]]:
    try:
        open(os.path.join(folder, HOST["name"]), "w").write("x")
        if folder != "/dev": escaped(folder)
    except OSError: pass
for folder in ("/tmp", "/dev/shm"):
    open(os.path.join(folder, HOST["name"]), "w").write("x")
told("tried")
""",
)

attack(
    "the environment of the grader",
    """
import os
for name in os.environ:
    if name in HOST["environment"]: escaped(name)
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if HOST["secret"] in open(f"/proc/{pid}/environ").read(): escaped(pid)
    except OSError: pass
told("tried")
""",
)

attack(
    "a link in what was handed in",
    """
import os
told("tried", sorted(os.listdir()))
for name in ("link.csv", "folder/secret", "tiny.ipynb"):
    if os.path.exists(name): escaped(name)
assert open("data.csv").read() == "4,5"
""",
    shows=r"tried \['bomb.zip', 'data.csv', '[^']*\.csv'\]",
)

attack(
    "files inherited from the grader",
    """
import os
for n in range(64):
    try: target = os.readlink(f"/proc/self/fd/{n}")
    except OSError:
        try: os.fstat(n); target = "open, and not to be named"
        except OSError: continue
        size = None
    if target.startswith("/") and not target.startswith(("/tmp/", "/dev/", "/proc/")):
        escaped(n, target)
told("tried")
""",
)

attack(
    "TCP to a server of this machine",
    """
import socket
for host in ("127.0.0.1", "localhost", "0.0.0.0", "::1"):
    try: escaped(socket.create_connection((host, HOST["port"]), 2))
    except OSError: pass
told("tried")
""",
)

attack(
    "names looked up, packets sent",
    """
import socket
try: escaped(socket.getaddrinfo("example.com", 80))
except OSError: pass
for address in ("8.8.8.8", "169.254.169.254", "192.0.2.1"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try: udp.sendto(b"x", (address, 53)); escaped(address)
        except OSError: pass
for kind in (socket.SOCK_RAW,):
    try: escaped(socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP))
    except OSError: pass
told("tried")
""",
)

attack(
    "unix sockets, by name and by path",
    """
import socket
for address in (HOST["abstract"], HOST["socket"]):
    with socket.socket(socket.AF_UNIX) as one:
        try: one.connect(address); escaped(address)
        except OSError: pass
told("tried")
""",
)
