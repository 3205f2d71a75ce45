"""A GPU without a GPU: fake CUDA tensors, which have shapes and a device and no numbers.

What mixes devices raises, as on a GPU. What would make the host wait for the device is counted: a
copy to the device that is not from pinned memory and asynchronous, a copy to the host, a number
that is asked for.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from emulated_graph import WAITING
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from grigri_fast.models import normalize

CUDA = torch.device("cuda", 0)

_COPIES = {
    torch.ops.aten._to_copy.default: "non_blocking",
    torch.ops.aten.copy_.default: 2,
    torch.ops.aten._copy_from.default: 2,
}
_FUSED = {torch._fused_sgd_, torch._fused_adam_, torch._fused_adamw_}


class WithoutDriver(TorchFunctionMode):
    """Does otherwise what asks the driver for the current device before it looks at the tensors.

    That is indexing by ``[]`` and ``~``, for which there are operations; numbers of Python that are
    put on the GPU, whose values are forgotten; fused optimizers, which only have a kernel; and
    autograd, which there cannot be: a backward pass only gives each of ``trained`` a gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[nn.Parameter] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None):
        if func is torch.Tensor.__getitem__:
            return _indexed(*args)
        if func is torch.Tensor.__setitem__:
            tensor, index, value = args
            part = _indexed(tensor, index)
            return part.copy_(value) if isinstance(value, torch.Tensor) else part.fill_(value)
        if func in (torch.tensor, torch.Tensor.new_tensor):
            kwargs = dict(kwargs or {})
            of_args = func is torch.Tensor.new_tensor
            device = kwargs.pop("device", args[0].device if of_args else None)
            made = torch.tensor(args[-1], **kwargs)
            return made if device is None else _without_value(made).to(device)
        if func is torch.Tensor.to:
            args = (_without_value(args[0]), *args[1:])
        if func is torch.Tensor.__invert__:
            return torch.bitwise_not(*args)
        if func in _FUSED:
            tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
            assert all(t.device == CUDA for t in tensors), "tensors on two devices"
            return None
        if func is torch.Tensor.backward:
            for p in self.trained:
                p.grad = torch.empty_like(p)
            return None
        return func(*args, **(kwargs or {}))


def _copy_(self: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Do what ``copy_`` does, which asks the driver, too, where autograd could be."""
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.aten.copy_.default(self, source, non_blocking)


def _without_value(tensor: torch.Tensor) -> torch.Tensor:
    """Return a fake tensor that has forgotten the numbers it was made of."""
    is_known = isinstance(tensor, FakeTensor) and tensor.constant is not None
    return torch.empty(tensor.shape, dtype=tensor.dtype) if is_known else tensor


def _indexed(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    """Return ``tensor[index]`` for numbers, slices without steps, None, ... and one tensor."""
    if isinstance(index, torch.Tensor):
        return torch.ops.aten.index.Tensor(tensor, [index])
    parts = list(index) if isinstance(index, tuple) else [index]
    num_used = sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (tensor.ndim - num_used)
    dim = 0
    for part in parts:
        if isinstance(part, int):
            tensor = tensor.select(dim, part)
        elif part is None:
            tensor, dim = tensor.unsqueeze(dim), dim + 1
        else:
            tensor = torch.ops.aten.slice.Tensor(tensor, dim, part.start, part.stop)
            dim += 1
    return tensor


class WaitCounter(TorchDispatchMode):
    """Notes each operation that would make the host wait for the device, in ``waits``."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None):
        kwargs = kwargs or {}
        given = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
        on_gpu = [t for t in given if t.device.type == "cuda"]
        if func in WAITING and on_gpu:
            self.waits.append(str(func))
            raise AssertionError(f"{func}: the host waits for the device")
        made = func(*args, **kwargs)
        if func in _COPIES:
            where = _COPIES[func]
            is_async = kwargs.get("non_blocking", False)
            if isinstance(where, int) and len(args) > where:
                is_async = args[where]
            source = args[1] if isinstance(where, int) else args[0]
            target = args[0] if isinstance(where, int) else made
            self._check(func, source, target, is_async)
        return made

    def _check(self, func: Any, source: torch.Tensor, target: torch.Tensor, is_async: bool) -> None:
        kinds = (source.device.type, target.device.type)
        if kinds == ("cpu", "cuda") and not (is_async and source.is_pinned()):
            self.waits.append(f"{func}: a blocking copy to the device of {tuple(source.shape)}")
        elif kinds == ("cuda", "cpu"):
            self.waits.append(f"{func}: a copy to the host of {tuple(source.shape)}")


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[WithoutDriver]:
    """Let PyTorch believe that there is an H100, and make every tensor a fake one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    stream = SimpleNamespace(is_capturing=lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.Tensor, "copy_", _copy_)
    normalize.forget_constants()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    fake.cache_enabled = False
    with fake, torch.no_grad(), WithoutDriver() as mode:
        yield mode
    normalize.forget_constants()


def to_fake_cuda(model: nn.Module) -> nn.Module:
    """Replace the tensors of a module by fake ones on the GPU."""
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(_on_gpu(p), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, _on_gpu(buffer))
    return model


def _on_gpu(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)
