"""How much memory a training step needs, counted tensor by tensor, on any device or on none.

On torch's `meta` device tensors have a shape and no numbers, so a network that fills eight GPUs is
counted on a laptop in seconds.
"""

import weakref
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

__all__ = ["Allocations", "activation_bytes", "tensor_bytes"]


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of some tensors' numbers.

    >>> tensor_bytes([torch.zeros(3), torch.zeros(2, dtype=torch.float64)])
    28
    """
    return sum(t.numel() * t.element_size() for t in tensors)


def activation_bytes(model: nn.Module, *inputs: Tensor, precision: str = "32-true") -> int:
    """The most bytes that a forward and a backward pass occupy, besides weights and gradients.

    Counted are activations that are kept, activations and gradients in passing, and nothing that an
    implementation of an operation sets aside for itself; nor that memory is given out in blocks.

    Args:
        model: `model(*inputs)` gives log-likelihoods; its gradients are overwritten.
        *inputs: one micro-batch, on the model's device, usually `meta`.
        precision: of the training; `bf16-mixed` is imitated on `meta`, which autocast passes by.
    """
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    there = [*model.parameters(), *model.buffers(), *inputs]
    there += [p.grad for p in model.parameters() if p.grad is not None]
    device = inputs[0].device.type
    mixed = precision == "bf16-mixed"
    imitation = _Bfloat16OnMeta() if mixed and device == "meta" else None
    with Allocations(there) as counted, imitation or nullcontext():
        with torch.autocast("cpu" if device == "meta" else device, torch.bfloat16, enabled=mixed):
            loss = -model(*inputs).mean()
        if imitation is not None:
            imitation.weights = None
        # What `loss.backward()` calls, which would switch the imitation off.
        ones = torch.ones_like(loss)
        _engine_run_backward((loss,), (ones,), False, False, (), True, True)
    return counted.most


class Allocations(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside, while they live.

    Args:
        there: tensors that are not counted, nor what shares memory with them.

    Attributes:
        now: bytes that live.
        most: the largest value of `now` so far.
    """

    def __init__(self, there: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.most = 0
        # Storages by address, which is theirs for as long as they live.
        self.known = {t.untyped_storage()._cdata for t in there}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for value in tree_iter(made):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address not in self.known:
            self.known.add(address)
            weakref.finalize(storage, self._free, address, size)
            self.now += size
            self.most = max(self.most, self.now)

    def _free(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.now -= size


_BFLOAT16: set[Any] = {
    *(torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose2d, F.linear),
    *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum),
    *(Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, F.scaled_dot_product_attention),
}
_FLOAT32: set[Any] = {
    *(torch.exp, torch.log, torch.log1p, torch.expm1, torch.pow, torch.rsqrt, torch.sum),
    *(torch.prod, torch.cumsum, torch.logsumexp, torch.softmax, torch.log_softmax),
    *(Tensor.exp, Tensor.log, Tensor.log1p, Tensor.pow, Tensor.__pow__, Tensor.rsqrt, Tensor.sum),
    *(Tensor.prod, Tensor.cumsum, Tensor.logsumexp, Tensor.softmax, Tensor.log_softmax),
    *(F.softmax, F.log_softmax, F.softplus, F.layer_norm, F.group_norm),
}


class _Bfloat16OnMeta(TorchFunctionMode):
    """The commonest rules of `torch.autocast`: what is computed in which precision.

    Attributes:
        weights: each in bfloat16, kept until the forward pass ends; None from then on.
    """

    def __init__(self):
        super().__init__()
        self.weights: dict[Tensor, Tensor] | None = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _BFLOAT16 or func in _FLOAT32:
            cast = self._lower if func in _BFLOAT16 else _upper
            args, kwargs = tree_map_only(Tensor, cast, (args, kwargs))
        return func(*args, **kwargs)

    def _lower(self, t: Tensor) -> Tensor:
        if t.dtype != torch.float32:
            return t
        if self.weights is None or not (t.is_leaf and t.requires_grad):
            return t.to(torch.bfloat16)
        if t not in self.weights:
            self.weights[t] = t.to(torch.bfloat16)
        return self.weights[t]


def _upper(t: Tensor) -> Tensor:
    return t.to(torch.float32) if t.dtype == torch.bfloat16 else t
