"""What a run has before its first step: its options, the machine, and its state if it goes on."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import TrainConfig
from ..runs import run_folder
from ..runs.training_state import Progress
from ..runtime import compute, cpu_share, distributed
from ..runtime.compute import Compute
from ..runtime.distributed import World
from ..runtime.memory import Budget
from ..runtime.units import parse_bytes
from . import collectives
from .callbacks import Callback
from .resume import Resumed, load_state


@dataclass(frozen=True)
class Session:
    """A run on this machine.

    Attributes:
        asked: the options, resolved; what depends on the machine may still be ``auto``.
        world: the processes that train the model.
        compute: device, number format and threads of this process.
        budget: measures the memory of the device.
        callback: for what all processes know; it does nothing in all but the first.
        log_own: logs a line that only this process knows.
        resumed: the run that goes on; None for a new one.
        progress: how far the run is.
    """

    asked: TrainConfig
    world: World
    compute: Compute
    budget: Budget
    callback: Callback
    log_own: Callable[[str], None]
    resumed: Resumed | None
    progress: Progress


@contextlib.contextmanager
def open_session(asked: TrainConfig, callback: Callback, folder: Path | None) -> Iterator[Session]:
    """Seed and set up PyTorch, join the other processes, load the state, and yield the session.

    Args:
        asked: resolved.
        callback: called with the progress.
        folder: of the run that goes on; None for a new one.

    Raises:
        GrigriError: if this machine does not have the device, an option does not go with several
            processes, or the run has no whole state or is being trained.
    """
    world = World.from_environment()
    collectives.require_shareable(asked, world, resumed=folder is not None)
    device = distributed.device_of_process(world, compute.pick_device(asked.device))
    limit = None
    if asked.memory_limit is not None:
        limit = parse_bytes(asked.memory_limit, "--memory-limit")
    threads = asked.threads or max(1, cpu_share.usable_cpus() // world.local_size)
    adapts = asked.threads is None and not world.is_shared
    here = Compute(device, asked.amp, threads, limit, adapts)
    if asked.fast:
        here.keep_freed_memory()
    torch.manual_seed(asked.seed)
    log_own, shared = callback.log, callback
    if not world.is_first:
        log_own, shared = lambda text: callback.log(f"rank {world.rank}: {text}"), Callback()
    with contextlib.ExitStack() as stack:
        budget = stack.enter_context(here.open())
        if line := here.threads_in_words():
            callback.log(line)
        if device.type == "cuda":  # one for everything, and not the default one: see TrainStep
            stack.enter_context(torch.cuda.stream(torch.cuda.Stream(device)))
        stack.enter_context(distributed.process_group(world, device))
        amp = world.from_first(lambda: compute.pick_amp(asked.amp, device))
        here = dataclasses.replace(here, amp=amp)
        resumed = None
        if folder is not None:
            if world.is_first:
                stack.enter_context(run_folder.locked(folder))
            resumed = Resumed(folder, *load_state(folder, shared.log))
        progress = resumed.progress if resumed else Progress()
        yield Session(asked, world, here, budget, shared, log_own, resumed, progress)
