"""Memory by tensor: what the bytes of a step are for, over the step, by kind and stage.

A dispatch mode sees every operation, and notes when a storage is made and when it is freed. The
same works with fake tensors, which have sizes but no bytes, so that a step can be estimated without
the device that it is for.
"""

import contextlib
import itertools
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

WEIGHTS, BUFFERS, GRADIENTS = "weights", "buffers", "gradients"
OPTIMIZER, INPUT, TEMPORARY = "optimizer state", "input batch", "temporary"
ACTIVATIONS = "activations: "  # and the stage
_BEFORE = "normalised images"  # what is computed before the first stage


@dataclass
class _Storage:
    """A storage: its bytes, what it is for, the stage that made it, and when it was there.

    Times are numbers of operations.
    """

    num_bytes: int
    kind: str
    stage: str
    made_at: int
    freed_at: int | None = None


@dataclass(frozen=True)
class Timeline:
    """Memory over the operations of a step.

    Attributes:
        series: bytes after each operation, by kind: what stays first. All lists are of one length.
        phases: where parts of the step began, as (operation, name).
    """

    series: dict[str, list[int]]
    phases: list[tuple[int, str]]

    @property
    def totals(self) -> list[int]:
        """Bytes after each operation."""
        return [sum(values) for values in zip(*self.series.values(), strict=True)]

    @property
    def peak(self) -> int:
        """The most bytes that were in use."""
        return max(self.totals)

    def at_peak(self) -> dict[str, int]:
        """Return the bytes of each kind after the operation with the most in use."""
        peak_at = self.totals.index(self.peak)
        return {kind: values[peak_at] for kind, values in self.series.items()}


class TensorTracker(TorchDispatchMode):
    """Follows the storages that are made while it is active, and labelled ones.

    What kernels allocate for themselves is no tensor, and is not seen; nor are storages on another
    device. The model's parameters and buffers are labelled; hooks tell which stage computes.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self._model, self._device = model, device
        self._alive: dict[int, _Storage] = {}  # by the storage's id
        self._refs: dict[int, weakref.ref] = {}
        self._all: list[_Storage] = []
        self._phases: list[tuple[int, str]] = []
        self._now = 0
        self._stages = stages(model)
        self._stage = _BEFORE
        self.label(model.parameters(), WEIGHTS)
        self.label(model.buffers(), BUFFERS)

    def label(self, tensors: Iterable[torch.Tensor], kind: str) -> None:
        """Set what tensors are for, whether they are followed already or not."""
        for tensor in tensors:
            storage = self._storage_of(tensor)
            if storage is not None:
                storage.kind = kind

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note where a part of the step begins. What a forward pass leaves is its activations."""
        if not self._phases or self._phases[-1][1] != name:
            self._phases.append((self._now, name))
        yield
        if name == "forward":
            for storage in self._alive.values():
                if storage.kind == TEMPORARY:
                    storage.kind = ACTIVATIONS + storage.stage

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Follow everything that is computed in this context."""
        with contextlib.ExitStack() as stack:
            for name, module in self._stages:
                hook = module.register_forward_pre_hook(
                    lambda *_, name=name: setattr(self, "_stage", name)
                )
                stack.callback(hook.remove)
            for parameter in self._model.parameters():
                if parameter.requires_grad:
                    hook = parameter.register_post_accumulate_grad_hook(
                        lambda parameter: self.label([parameter.grad], GRADIENTS)
                    )
                    stack.callback(hook.remove)
            stack.enter_context(self)
            yield

    def timeline(self) -> Timeline:
        """Return the memory by kind over the operations."""
        names = dict.fromkeys(name for name, _ in self._stages)
        order = [WEIGHTS, BUFFERS, OPTIMIZER, GRADIENTS, INPUT]
        order += [ACTIVATIONS + name for name in (_BEFORE, *names)] + [TEMPORARY]
        changes: dict[str, Counter] = {kind: Counter() for kind in order}
        for storage in self._all:
            changes[storage.kind][storage.made_at] += storage.num_bytes
            if storage.freed_at is not None:
                changes[storage.kind][storage.freed_at] -= storage.num_bytes
        series = {}
        for kind, changed in changes.items():
            values = list(itertools.accumulate(changed[i] for i in range(self._now + 1)))
            if any(values):
                series[kind] = values
        return Timeline(series, self._phases)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        self._now += 1
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self._storage_of(tensor)
        return made

    def _storage_of(self, tensor: torch.Tensor) -> _Storage | None:
        """Return a tensor's storage, which is new where it has not been seen."""
        if tensor.device.type != self._device.type or tensor.layout != torch.strided:
            return None
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._alive:
            self._alive[key] = _Storage(storage.nbytes(), TEMPORARY, self._stage, self._now)
            self._all.append(self._alive[key])
            # PyTorch keeps one Python object per storage for as long as there is one.
            self._refs[key] = weakref.ref(storage, lambda _: self._freed(key))
        return self._alive[key]

    def _freed(self, key: int) -> None:
        self._alive.pop(key).freed_at = self._now
        del self._refs[key]


def stages(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the parts that a network computes one after the other, by name.

    They are its children; where nearly everything stands in one of them, that one's children, and
    so on. Layers before the first block are the stem, those after the last one the head.
    """
    parts = list(model.named_children())
    while True:
        deep = [i for i, (_, part) in enumerate(parts) if any(map(_has_children, part.children()))]
        if len(deep) != 1:
            break
        (i,) = deep
        name, part = parts[i]
        parts[i : i + 1] = [(f"{name}.{child}", inner) for child, inner in part.named_children()]
    blocks = [i for i, (_, part) in enumerate(parts) if _has_children(part)]
    if not blocks:
        return [(f"{name} {type(part).__name__}", part) for name, part in parts]
    first, last = blocks[0], blocks[-1]
    return [
        ("stem" if i < first else "head" if i > last else name, part)
        for i, (name, part) in enumerate(parts)
    ]


def _has_children(module: nn.Module) -> bool:
    return any(True for _ in module.children())
