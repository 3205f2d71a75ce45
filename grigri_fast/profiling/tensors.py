"""What the tensors of a step are for: their bytes over the step, by kind and stage.

A dispatch mode sees every operation, and notes when a storage is made and when it goes. The same
works with fake tensors, which have sizes but no bytes, so that a step can be estimated without the
device that it is for.
"""

import contextlib
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
class _Entry:
    """A storage: its bytes, what it is for, where it was made, from when to when it was there."""

    num_bytes: int
    kind: str
    stage: str
    born: int
    died: int | None = None


@dataclass(frozen=True)
class Account:
    """What a ledger has written down.

    Attributes:
        kinds: what memory was for, as it is to be stacked: what stays first.
        series: bytes of each kind after each operation; lists of one length.
        phases: where parts of the step began, as (operation, name).
    """

    kinds: list[str]
    series: dict[str, list[int]]
    phases: list[tuple[int, str]]

    @property
    def totals(self) -> list[int]:
        """Bytes after each operation."""
        return [sum(values) for values in zip(*self.series.values(), strict=True)]

    @property
    def peak_at(self) -> int:
        """The operation after which most was in use."""
        totals = self.totals
        return totals.index(max(totals))

    @property
    def peak(self) -> int:
        """The most bytes that were in use."""
        return max(self.totals)

    def at_peak(self) -> dict[str, int]:
        """Return the bytes of each kind when most was in use."""
        return {kind: self.series[kind][self.peak_at] for kind in self.kinds}


class Ledger(TorchDispatchMode):
    """Writes down the storages that are made while it is entered, and those it is told of.

    Memory that kernels take for themselves is no tensor, and is not seen.

    Args:
        model: its parameters and buffers are entered; hooks tell which stage computes.
        device: storages elsewhere are ignored.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self._model, self._device = model, device
        self._known: dict[int, _Entry] = {}  # by the storage's id, while it is there
        self._refs: dict[int, weakref.ref] = {}
        self._entries: list[_Entry] = []
        self._phases: list[tuple[int, str]] = []
        self._now = 0
        self._stages = stages(model)
        self._stage = _BEFORE
        self.enter(model.parameters(), WEIGHTS)
        self.enter(model.buffers(), BUFFERS)

    def enter(self, tensors: Iterable[torch.Tensor], kind: str) -> None:
        """Say what tensors are for, whether they are known already or not."""
        for tensor in tensors:
            entry = self._entry(tensor)
            if entry is not None:
                entry.kind = kind

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note where a part of the step begins. What a forward pass leaves is its activations."""
        if not self._phases or self._phases[-1][1] != name:
            self._phases.append((self._now, name))
        yield
        if name == "forward":
            for entry in self._known.values():
                if entry.kind == TEMPORARY:
                    entry.kind = ACTIVATIONS + entry.stage

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Follow everything that is computed meanwhile."""
        with contextlib.ExitStack() as stack:
            for name, module in self._stages:
                hook = module.register_forward_pre_hook(
                    lambda *_, name=name: setattr(self, "_stage", name)
                )
                stack.callback(hook.remove)
            for parameter in self._model.parameters():
                if parameter.requires_grad:
                    hook = parameter.register_post_accumulate_grad_hook(self._gradient)
                    stack.callback(hook.remove)
            stack.enter_context(self)
            yield

    def account(self) -> Account:
        """Return what was written down, by kind over the operations."""
        names = dict.fromkeys(name for name, _ in self._stages)
        order = [WEIGHTS, BUFFERS, OPTIMIZER, GRADIENTS, INPUT]
        order += [ACTIVATIONS + name for name in (_BEFORE, *names)] + [TEMPORARY]
        changes: dict[str, Counter] = {kind: Counter() for kind in order}
        for entry in self._entries:
            changes[entry.kind][entry.born] += entry.num_bytes
            if entry.died is not None:
                changes[entry.kind][entry.died] -= entry.num_bytes
        series = {}
        for kind, changed in changes.items():
            used, values = 0, []
            for operation in range(self._now + 1):
                used += changed[operation]
                values.append(used)
            if any(values):
                series[kind] = values
        return Account([kind for kind in order if kind in series], series, self._phases)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        self._now += 1
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self._entry(tensor)
        return made

    def _entry(self, tensor: torch.Tensor) -> _Entry | None:
        """Return what is written about a tensor's storage, which is new where nothing is."""
        if tensor.device.type != self._device.type or tensor.layout != torch.strided:
            return None
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._known:
            entry = _Entry(storage.nbytes(), TEMPORARY, self._stage, self._now)
            self._entries.append(entry)
            self._known[key] = entry
            # PyTorch keeps one Python object per storage for as long as there is one.
            self._refs[key] = weakref.ref(storage, lambda _, key=key: self._died(key))
        return self._known[key]

    def _died(self, key: int) -> None:
        self._known.pop(key).died = self._now
        del self._refs[key]

    def _gradient(self, parameter: torch.Tensor) -> None:
        self.enter([parameter.grad], GRADIENTS)


def stages(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the parts that a network computes one after the other, by name.

    They are its children; where nearly everything stands in one of them, that one's children, and
    so on. Layers before the first block are the stem, those after the last one the head.
    """
    parts = list(model.named_children())
    while True:
        deep = [i for i, (_, part) in enumerate(parts) if _has_blocks(part)]
        if len(deep) != 1:
            break
        (i,) = deep
        name, part = parts[i]
        inner = [(f"{name}.{child}", module) for child, module in part.named_children()]
        parts[i : i + 1] = inner
    blocks = [i for i, (_, part) in enumerate(parts) if any(True for _ in part.children())]
    if not blocks:
        return [(f"{name} {type(part).__name__}", part) for name, part in parts]
    first, last = blocks[0], blocks[-1]
    return [
        ("stem" if i < first else "head" if i > last else name, part)
        for i, (name, part) in enumerate(parts)
    ]


def _has_blocks(module: nn.Module) -> bool:
    return any(any(True for _ in child.children()) for child in module.children())
