"""Several processes that train one model: the rank of this one, and messages between them.

torchrun starts the processes and sets their ranks in the environment. They use torch.distributed:
NCCL between GPUs; gloo between CPUs and for everything that is decided on the host. With a single
process, every function here returns at once.

PyTorch is imported inside functions: the command line asks for the rank before it loads anything.
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

# How long to wait for a process that hangs. (One that ends is noticed at once, by torchrun and by
# gloo.) Longer than pipeline.check.HANG_S, after which a process itself stops waiting for a disk.
_TIMEOUT = timedelta(minutes=30)
# How long to wait for torchrun, which ends the others when one has failed (it checks every 0.1 s):
# before all have joined the group, when they may be as far apart as their starts; after that; and
# after a signal, when the first has only a line to print. (Assumed, for a busy machine.)
_STARTED_WITHIN_S, _ENDED_WITHIN_S, _STOPPED_WITHIN_S = 30.0, 5.0, 3.0


@dataclass(frozen=True)
class World:
    """The rank of this process among those that train one model.

    Attributes:
        rank: its number, from 0; process 0 writes files and messages.
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
        """Return what torchrun has set; a single process where it has not started this one."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:  # other launchers use the names below, too
            return cls()
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        return cls(*(int(os.environ[name]) for name in names))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    @property
    def is_shared(self) -> bool:
        """Whether there are several processes."""
        return self.size > 1

    # All processes must call the following methods, in the same order.

    def all_gather(self, *numbers: int) -> list[list[int]]:
        """Return the numbers of all processes, by rank."""
        if not self.is_shared:
            return [list(numbers)]
        import torch
        import torch.distributed as dist

        own = torch.tensor(numbers, dtype=torch.int64)
        of_all = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(of_all, own)
        return [one.tolist() for one in of_all]

    def all_gather_object(self, thing: T) -> list[T]:
        """Return the objects of all processes, by rank."""
        if not self.is_shared:
            return [thing]
        import torch.distributed as dist

        things: list[Any] = [None] * self.size
        dist.all_gather_object(things, thing)
        return things

    def gather_object(self, thing: T) -> list[T]:
        """Return in the first process the objects of all, by rank; an empty list in the others."""
        if not self.is_shared:
            return [thing]
        import torch.distributed as dist

        things: list[Any] | None = [None] * self.size if self.is_first else None
        dist.gather_object(thing, things)
        return things or []

    def from_first(self, make: Callable[[], T]) -> T:
        """Return in all processes what ``make`` returns in the first, the only one to call it."""
        if not self.is_shared:
            return make()
        import torch.distributed as dist

        things = [make() if self.is_first else None]
        dist.broadcast_object_list(things)
        return things[0]

    def barrier(self) -> None:
        """Return when all processes have called this."""
        self.all_gather(0)

    def all_reduce(self, tensor: "torch.Tensor") -> None:
        """Add up a tensor on the device over all processes, in place."""
        if self.is_shared:
            import torch.distributed as dist

            dist.all_reduce(tensor)


SINGLE_PROCESS = World()


def device_of_process(world: World, device: "torch.device") -> "torch.device":
    """Return the device of this process: of several GPUs, the one of its local rank.

    Raises:
        GrigriError: if there are fewer GPUs than processes on this machine.
    """
    if not world.is_shared or device.type != "cuda":
        return device
    import torch

    num_gpus = torch.cuda.device_count()
    if world.local_size > num_gpus:
        raise GrigriError(
            f"{world.local_size} processes on a machine with {num_gpus} GPU(s): each needs its own;"
            f" torchrun --nproc-per-node {num_gpus}, or --device cpu"
        )
    torch.cuda.set_device(world.local_rank)
    return torch.device("cuda", world.local_rank)


@contextlib.contextmanager
def process_group(world: World, device: "torch.device") -> Iterator[None]:
    """Join the process group, which the methods of :class:`World` use, for a while."""
    if not world.is_shared:
        yield
        return
    import torch.distributed as dist

    on_gpu = device.type == "cuda"
    with ending_with_others():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            timeout=_TIMEOUT,
            device_id=device if on_gpu else None,
        )
        yield
        # Not after an error: it could wait for a process that has ended.
        world.barrier()
        dist.destroy_process_group()


@contextlib.contextmanager
def ending_with_others(stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Where talking fails because another process has ended, wait until torchrun ends this one.

    Nothing is printed: the other process, or torchrun, says why. There is no wait if ``stop`` says
    that a signal to end has come already.

    Raises:
        GrigriError: if torchrun does not end this process, as on another machine.
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
    """Wait before a process other than the first ends with an error: the first may have it, too.

    An error that all processes have is then printed once, by the first; torchrun ends the others
    while they wait here.
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
    """Return whether an error comes from communication with other processes."""
    import torch.distributed as dist

    # gloo raises plain RuntimeErrors, whose text begins with a place in its source.
    return isinstance(error, dist.DistError) or any(
        word in str(error) for word in ("gloo/", "Connection closed by peer", "NCCL")
    )


def replicate(model: "nn.Module", world: World, device: "torch.device") -> "nn.Module":
    """Return the model as DistributedDataParallel, which averages gradients over the processes.

    Weights and buffers are set to those of the first process now. Unlike in DDP by default, buffers
    are not sent again before each step: see ``TrainStep``.
    """
    if not world.is_shared:
        return model
    from torch.nn.parallel import DistributedDataParallel

    replica = DistributedDataParallel(
        model, device_ids=[device.index] if device.type == "cuda" else None
    )
    replica.broadcast_buffers = False  # as an argument it would not send them now, either
    return replica


def seed_step(world: World, seed: int, step: int) -> None:
    """Seed PyTorch for a step: each process draws different numbers, and the same after a resume.

    With a single process, checkpoints store the generator's state instead.
    """
    if world.is_shared:
        import numpy as np
        import torch

        torch.manual_seed(
            int(np.random.SeedSequence([seed, step, world.rank]).generate_state(1)[0])
        )
