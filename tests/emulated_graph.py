"""CUDA graphs on a CPU: what a capture may and may not do, without a GPU.

As on a GPU, a capture computes nothing: what it has changed is put back, and what it has allocated
stays where it is, to be written to by each replay. A replay makes the same operations on the same
tensors, whatever Python has done in between, so what is decided in Python is decided once. To ask
for a number is an error.
"""

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

# What would make the host wait for the device, or ask it for a decision.
WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
}


class SmallNetwork(nn.Sequential):
    """A network for images of 8 x 8 pixels, with statistics and with random numbers."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(64, 3),
        )


class _Tape(TorchDispatchMode):
    """Writes down each operation, and a copy of the memory from outside that one is given."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple, dict, Any]] = []
        self.outside: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._inside: set[int] = set()  # the places of what the capture has made

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None):
        if func in WAITING:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._inside | self.outside.keys():
                # All are kept, not only those that the schema names: batch_norm does not say that
                # it changes the running statistics.
                self.outside[storage.data_ptr()] = (storage, storage.clone())
        made = func(*args, **kwargs)
        self._inside |= {_place(t) for t in _tensors(made)} - self.outside.keys()
        self.operations.append((func, args, kwargs, made))
        return made


class EmulatedGraphs:
    """See :class:`grigri_fast.training.graphs.Graphs`.

    Attributes:
        num_captures, num_replays, num_released: how often each was done.
        alive: the captured work that has not been dropped, each with its ``number``.
        fails: an error that the next capture meets, after its work.
    """

    def __init__(self) -> None:
        self.num_captures = self.num_replays = self.num_released = 0
        self.fails: Exception | None = None
        self.alive: weakref.WeakSet[Callable[[], None]] = weakref.WeakSet()

    def on_stream(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.num_captures += 1
        random = torch.get_rng_state()
        tape = _Tape()
        try:
            with tape:
                work()
            if self.fails is not None:
                raise self.fails
        finally:
            torch.set_rng_state(random)
            for storage, before in tape.outside.values():
                storage.copy_(before)
        for _, _, _, made in tape.operations:
            for tensor in _tensors(made):
                if tensor.is_floating_point() and _place(tensor) not in tape.outside:
                    tensor.detach().fill_(torch.nan)  # nobody should read it before a replay

        def replay() -> None:
            self.num_replays += 1
            with torch.no_grad():
                for func, args, kwargs, made in tape.operations:
                    again = func(*args, **kwargs)
                    given = {_place(tensor) for tensor in _tensors((args, kwargs))}
                    for old, new in zip(_tensors(made), _tensors(again), strict=True):
                        if _place(old) not in given:  # neither a view nor changed in place
                            old.detach().copy_(new)

        replay.number = self.num_captures
        self.alive.add(replay)
        return replay

    def release(self) -> None:
        self.num_released += 1
        assert not self.alive, "memory of captured work that is still there"


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor)]


def _place(tensor: torch.Tensor) -> int:
    """Return the address of a tensor's memory, which it shares with its views."""
    return tensor.untyped_storage().data_ptr()
