"""Points by answers that lie about what they are, or know when they are asked."""

from tests.grading.attacks.attack import Group

attack = Group("answers")

attack(
    "answers that equal everything and are zero as arrays",
    """
class Liar:
    shape = (4,)
    dtype = torch.float64
    def __eq__(self, other): return True
    __le__ = __lt__ = __ge__ = __gt__ = __ne__ = __eq__
    __hash__ = None
    def __bool__(self): return True
    def __array__(self, *a, **k):
        import numpy
        return numpy.zeros(4)
    def __getattr__(self, name): return lambda *a, **k: self
log_det = lambda *a: Liar()
Shift = Liar
told("tried")
""",
)

attack(
    "tensors that lie about themselves",
    """
class Sly(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return args[0] if args else cls()
    def numpy(self): return type("A", (), {"__array__": lambda s, *a, **k: 1 / 0})()
    def detach(self): return self
    def cpu(self): return self
    def __eq__(self, other): return torch.ones(4, dtype=torch.bool)
log_det = lambda log_scale, x: torch.zeros(4).as_subclass(Sly)
class Shift:
    def __init__(self, *a): pass
    forward = inverse = lambda self, x: (x.as_subclass(Sly), x.as_subclass(Sly))
told("tried")
""",
)

attack(
    "objects that raise, never end, or claim any length",
    """
class Endless:
    def __len__(self): return 2**62
    def __getitem__(self, i): return 0.0
    def __iter__(self):
        while True: yield 0.0
class Bad:
    def __array__(self, *a, **k): raise SystemError("no")
    def __str__(self): raise RuntimeError("nor that")
log_det = lambda *a: Endless()
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return Bad(), Bad()
    def inverse(self, x): return [[Bad()]], Bad()
told("tried")
""",
    endless=True,
)

attack(
    "numbers that are NaN, infinite or other kinds of number",
    """
class Odd(float):
    def __float__(self): return float("nan")
log_det = lambda s, x: [Odd(1.0), float("inf"), float("nan"), -0.0]
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return x * float("nan"), (x[:, 0] * 0).to(torch.complex64)
    def inverse(self, x): return (x / 0).numpy().astype("longdouble"), None
told("tried")
""",
)

attack(
    "arrays of objects, bytes, dates and nothing",
    """
import numpy as np
log_det = lambda s, x: np.array([type("T", (), {"__eq__": lambda *a: True})()] * 4, dtype=object)
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return np.array([b"x"]), np.array("2020-01-01", "M8[D]")
    def inverse(self, x): return np.zeros((5, 2, 0)), {}
told("tried")
""",
)

attack(
    "the process ended while it is probed",
    """
import os
log_det = lambda *a: os._exit(0)
class Shift:
    def __init__(self, *a): raise SystemExit(0)
""",
    shows="its process ended|SystemExit",
)

attack(
    "a fork that answers twice",
    """
import os
def log_det(*a):
    os.fork()
    return torch.zeros(4)
told("tried")
""",
)

attack(
    "exceptions that no handler expects",
    """
class Stop(BaseException):
    def __str__(self): raise Stop()
def log_det(*a): raise Stop()
class Shift:
    def __init__(self, *a): raise NotImplementedError("replace this line by your code")
""",
    shows="its process ended",
)

attack(
    "answers that count how often they are asked",
    """
asked = [0]
def log_det(log_scale, x):
    asked[0] += 1
    return torch.full((len(x),), float(asked[0] % 3 - 1), dtype=x.dtype)
class Shift:
    def __init__(self, shift):
        asked[0] += 1
    def forward(self, x):
        asked[0] += 1
        return (x, x[:, 0]) if asked[0] % 2 else (x * 0, x[:, 0] * 0 + asked[0])
    inverse = forward
told("tried")
""",
)
attack(
    "answers that change the inputs in place",
    """
def log_det(log_scale, x):
    for tensor in (log_scale, x): tensor.zero_().untyped_storage().fill_(0)
    return log_scale.sum().expand(len(x))
class Shift:
    def __init__(self, shift): self.shift = shift.mul_(0)
    def forward(self, x): return x.zero_(), x.new_ones(len(x))
    def inverse(self, z): return z.zero_(), None
told("tried")
""",
)
attack(
    "NaN in every bit pattern, infinities that cancel, zeros of both signs",
    """
import numpy as np
odd = np.array([0x7FF8000000000000, 0xFFF0000000000001, 0x7FF0000000000001, 0x8000000000000000],
               np.uint64).view(np.float64)
log_det = lambda s, x: odd
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return np.full((5, 2), np.inf) - np.inf, np.full(5, np.nan)
    def inverse(self, x): return np.full((5, 2), -np.inf), np.zeros(5)
told("tried")
""",
)
attack(
    "complex, structured and boxed numbers",
    """
import numpy as np
pairs = np.zeros(4, dtype=[("a", "<f8"), ("b", "<f8")])
log_det = lambda s, x: pairs
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return x.to(torch.complex128), np.zeros(5, np.complex64)
    def inverse(self, x): return np.array([[object()] * 2] * 5, object), pairs
told("tried")
""",
)
attack(
    "numbers of every size and byte order",
    """
import numpy as np
kinds = iter(["?", "i1", "u8", ">f8", ">i4", "e", "g", "U1", "u1", ">u2"] * 9)
def zeros(*shape): return np.zeros(shape, next(kinds))
log_det = lambda s, x: zeros(4)
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return zeros(5, 2), zeros(5) + (np.uint64(2**64 - 1) if 0 else 1)
    def inverse(self, x): return zeros(5, 2), zeros(5)
told("tried")
""",
)
attack(
    "shapes that would broadcast, and shapes of no numbers",
    """
import numpy as np
log_det = lambda s, x: np.zeros((1,))
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return np.zeros((0, 10**18)), np.float64(7)
    def inverse(self, x): return np.zeros((1,) * 31), np.zeros(())
told("tried")
""",
)
attack(
    "subnormal numbers, by the million",
    """
import numpy as np
tiny = np.full(7_000_000, 5e-324)
log_det = lambda s, x: tiny
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return tiny[:10].reshape(5, 2), tiny[:5] + 1
    def inverse(self, x): return tiny.reshape(-1, 2), None
told("tried")
""",
)
attack(
    "text as long as a message may be",
    """
import numpy as np
log_det = lambda s, x: np.array(["x" * 4_000_000] * 4)
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return np.array([["\\x00\\U0010ffff"] * 2] * 5), "\\u202e"
    def inverse(self, x): return np.array([["0", "1"]] * 5), "7"
told("tried")
""",
)
attack(
    "the global random numbers, precision and threads changed",
    """
import random
import numpy as np
torch.manual_seed = lambda seed: None
torch.set_default_dtype(torch.float16)
torch.set_num_threads(1)
torch.autograd.set_detect_anomaly(True)
np.seterr(all="raise")
np.random.seed(0); random.seed(0)
log_det = lambda s, x: torch.rand(4)
class Shift:
    def __init__(self, *a): pass
    def forward(self, x): return torch.rand(5, 2), torch.rand(5) + 1
    inverse = forward
told("tried")
""",
)
attack(
    "a thread that interrupts, again and again",
    """
import _thread, threading, time
def nag():
    while True:
        time.sleep(0.01)
        _thread.interrupt_main()
def log_det(s, x):
    threading.Thread(target=nag, daemon=True).start()
    time.sleep(0.2)
    return torch.zeros(4)
told("tried")
""",
    after=False,
)
