"""Several processes that train one model: who this one is, and what they tell each other.

torchrun starts them and says in the environment who each is. They talk by torch.distributed: NCCL
between GPUs, gloo between CPUs and for all that is decided on the host. With one process nothing
here does anything.

PyTorch is imported where it is needed: the command line asks who it is before it loads anything.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import GrigriError
from . import signals

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")

# One that hangs is waited for so long; one that ends is noticed at once, by torchrun and by gloo.
# More than pipeline.check.HANG_S, after which a process gives a disk up by itself.
_PATIENCE = timedelta(minutes=30)
# How long to wait for torchrun, which ends the others when one has failed (it looks every 0.1 s):
# before all have joined, when they may be as far apart as their starts; after that; after a
# signal, when the first has only a line to print. (Assumed, for a busy machine.)
_STARTED_WITHIN_S, _ENDED_WITHIN_S, _STOPPED_WITHIN_S = 30.0, 5.0, 3.0


@dataclass(frozen=True)
class World:
    """Which of the processes this is.

    Attributes:
        rank: its number, from 0; the first one writes and speaks.
        local_rank: its number on this machine.
        size: processes in all.
        local_size: processes on this machine.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1

    @classmethod
    def from_environment(cls) -> "World":
        """Return what torchrun says; one process where it has not started this one."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:  # other launchers use the names below, too
            return cls()
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        return cls(*(int(os.environ[name]) for name in names))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def is_shared(self) -> bool:
        """Whether there are several processes."""
        return self.size > 1

    # Each of these is called by all processes, in the same order.

    def all_gather(self, *numbers: int) -> list[list[int]]:
        """Return the numbers of every process, by rank."""
        if not self.is_shared:
            return [list(numbers)]
        import torch
        import torch.distributed as dist

        own = torch.tensor(numbers, dtype=torch.int64)
        of_all = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(of_all, own)
        return [one.tolist() for one in of_all]

    def all_gather_object(self, thing: T) -> list[T]:
        """Return the thing of every process, by rank."""
        if not self.is_shared:
            return [thing]
        import torch.distributed as dist

        things: list[Any] = [None] * self.size
        dist.all_gather_object(things, thing)
        return things

    def gather_object(self, thing: T) -> list[T]:
        """Return the thing of every process, by rank, to the first; nothing to the others."""
        if not self.is_shared:
            return [thing]
        import torch.distributed as dist

        things: list[Any] | None = [None] * self.size if self.is_first else None
        dist.gather_object(thing, things)
        return things or []

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what the first process makes."""
        if not self.is_shared:
            return make()
        import torch.distributed as dist

        things = [make() if self.is_first else None]
        dist.broadcast_object_list(things)
        return things[0]

    def barrier(self) -> None:
        """Return when all have come here."""
        self.all_gather(0)

    def all_reduce(self, tensor: "torch.Tensor") -> None:
        """Replace a tensor on the device by the sum of those of all processes."""
        if self.is_shared:
            import torch.distributed as dist

            dist.all_reduce(tensor)


SINGLE_PROCESS = World()


def device_of_process(world: World, device: "torch.device") -> "torch.device":
    """Return the device of this process: of several GPUs the one with its number.

    Raises:
        GrigriError: if there are fewer GPUs than processes on this machine.
    """
    if not world.is_shared or device.type != "cuda":
        return device
    import torch

    num_gpus = torch.cuda.device_count()
    if world.local_size > num_gpus:
        raise GrigriError(
            f"{world.local_size} processes on a machine with {num_gpus} GPU(s): each wants its own;"
            f" torchrun --nproc-per-node {num_gpus}, or --device cpu"
        )
    torch.cuda.set_device(world.local_rank)
    return torch.device("cuda", world.local_rank)


@contextlib.contextmanager
def process_group(world: World, device: "torch.device") -> Iterator[None]:
    """Let the processes talk to each other."""
    if not world.is_shared:
        yield
        return
    import torch.distributed as dist

    on_gpu = device.type == "cuda"
    with ending_with_others():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            timeout=_PATIENCE,
            device_id=device if on_gpu else None,
        )
        yield
        # Not after an error: it could wait for a process that has ended.
        world.barrier()
        dist.destroy_process_group()


@contextlib.contextmanager
def ending_with_others(stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """End without a word when another process has ended: that one, or torchrun, says why.

    ``stop``: whether a signal to end has come already.

    Raises:
        GrigriError: if nobody ends this process, as on another machine.
    """
    try:
        yield
    except RuntimeError as e:
        if not _is_of_others(e):
            raise
        if not stop():
            signals.wait_for_end(1, 2 * _ENDED_WITHIN_S)
        reason = str(e).splitlines()[0][:150]
        raise GrigriError(f"another process of this training has ended ({reason})") from e


def let_first_process_report(world: World, code: int) -> None:
    """Before another process than the first ends with an error: wait, since the first may, too.

    What all find wrong is said once then, by the first: torchrun ends the others, here.
    """
    if world.is_first:
        return
    sys.stdout.flush()
    dist = sys.modules.get("torch.distributed")
    if code > 128:
        seconds = _STOPPED_WITHIN_S
    elif dist is None or not dist.is_initialized():
        seconds = _STARTED_WITHIN_S
    else:
        seconds = _ENDED_WITHIN_S
    signals.wait_for_end(code, seconds)


def _is_of_others(error: RuntimeError) -> bool:
    """Return whether an error comes from talking to other processes."""
    import torch.distributed as dist

    # gloo raises plain RuntimeErrors, whose text begins with a place in its source.
    return isinstance(error, dist.DistError) or any(
        word in str(error) for word in ("gloo/", "Connection closed by peer", "NCCL")
    )


def replicate(model: "nn.Module", world: World, device: "torch.device") -> "nn.Module":
    """Return the model as DistributedDataParallel: its gradients become those of all processes.

    Weights and buffers become those of the first process, here and now. Before a step, buffers are
    not sent again, which is DDP's habit: see ``TrainStep``.
    """
    if not world.is_shared:
        return model
    from torch.nn.parallel import DistributedDataParallel

    replica = DistributedDataParallel(
        model, device_ids=[device.index] if device.type == "cuda" else None
    )
    replica.broadcast_buffers = False  # not as an argument: then not even here and now
    return replica


def seed_step(world: World, seed: int, step: int) -> None:
    """Let each process draw other numbers (dropout), the same ones if a step is made again.

    With one process the state of the generator is stored and goes on instead.
    """
    if world.is_shared:
        import numpy as np
        import torch

        torch.manual_seed(
            int(np.random.SeedSequence([seed, step, world.rank]).generate_state(1)[0])
        )
