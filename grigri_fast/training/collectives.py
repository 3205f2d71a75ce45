"""What several processes that train one model must agree on, so that all take the same steps.

With one process these functions do what the loop would do without them. Shapes: N images, C
classes.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import AUTO, OPTIONS, TrainConfig
from ..data import split
from ..data.dataset import Dataset
from ..errors import BetweenStepsError, GrigriError
from ..pipeline import batching
from ..pipeline.batching import Batch
from ..runs import manifest
from ..runs.training_state import Progress
from ..runtime.distributed import World
from ..runtime.signals import Stop


def require_shareable(config: TrainConfig, world: World, resumed: bool) -> None:
    """Raise GrigriError if an option is for one process alone, and there are several.

    That a run was compiled is no reason: when it is resumed by several processes, it is not.
    """
    if not world.is_shared:
        return
    one = f"is for one process, and torchrun has started {world.size}"
    advice = "go on with this run in one process" if resumed else "leave it out"
    if config.batch_size == AUTO:
        raise GrigriError(f"--batch-size auto {one}; say how many images a step has in all")
    if config.batch_size < 2 * world.size:
        raise GrigriError(
            f"--batch-size {config.batch_size} is too small for {world.size} processes, which share"
            f" each batch, at least 2 images each: start at most {config.batch_size // 2}"
        )
    for name, about in OPTIONS.items():
        if about.one_process and getattr(config, name):
            raise GrigriError(f"{about.flag} {one}: {about.one_process}; {advice}")
    if config.compile == "on" and not resumed:
        raise GrigriError(f"--compile on {one}; {advice}")


def describe(world: World, batch_size: int) -> str:
    """Return in words how a batch is shared."""
    low, high = batch_size // world.size, -(-batch_size // world.size)
    each = str(low) if low == high else f"{low} or {high}"
    return (
        f"{world.size} processes, each with {each} of a batch's {batch_size} images (BatchNorm sees"
        f" those alone)"
    )


def require_same(
    world: World,
    config: TrainConfig,
    data: Dataset,
    parts: split.Split,
    progress: Progress,
) -> None:
    """Raise GrigriError unless all processes, perhaps on several machines, have the same inputs."""
    if not world.is_shared:
        return
    what = {
        "options": dataclasses.replace(config, data=None, images=None, threads=None),
        "data": hashlib.sha256(manifest.to_json(data, np.full(len(data), -1)).encode()).digest(),
        "split": hashlib.sha256(split.to_json(parts, data).encode()).digest(),
        "state": (progress.epoch, progress.batches, progress.num_seen),
    }
    for rank, other in enumerate(world.all_gather_object(what)):
        for name in what:
            if other[name] != what[name]:
                raise GrigriError(
                    f"the {name} of rank {rank} and of rank {world.rank} are not the same: start"
                    f" the same command on every machine, where the same files can be seen"
                )


class SharedBatch(NamedTuple):
    """A batch, and what all processes know of it.

    Attributes:
        batch: the part of it that this process has; ``dropped`` is that of all.
        num_images: its images in all parts.
        alone: rows that were alone in a part, which are left out: BatchNorm needs two.
    """

    batch: Batch
    num_images: int
    alone: list[int]


def in_step(batches: Iterator[Batch], world: World, stop: Stop) -> Iterator[SharedBatch]:
    """Yield batches, the same in all processes, until one of them has been asked to stop.

    Raises:
        BetweenStepsError: in all processes, if it is raised in one.
    """
    with contextlib.closing(batches):
        while True:
            batch, error, alone = None, "", []
            try:
                batch = next(batches, None)
            except BetweenStepsError as e:
                if not world.is_shared:
                    raise
                error = str(e)
            num_own = -1 if batch is None else len(batch.rows_N)
            if num_own == 1:
                alone = batch.rows_N.tolist()
                batch, num_own = batching.emptied(batch), 0
            news = ({} if batch is None else batch.dropped, alone, error)
            of_all = world.all_gather(num_own, stop.signum, any(news))
            nums, signums, have_news = zip(*of_all, strict=True)
            # Only what all know counts; a signal that has come since is for the next batch.
            stop.signum = stop.signum or max(signums)
            if any(have_news):
                dropped, alone = {}, []
                for their_dropped, their_alone, their_error in world.all_gather_object(news):
                    if their_error:
                        raise BetweenStepsError(their_error)
                    dropped |= their_dropped
                    alone += their_alone
                batch = batch and dataclasses.replace(batch, dropped=dropped)
            if min(nums) < 0 or (world.is_shared and any(signums)):
                return
            yield SharedBatch(batch, sum(nums), alone)


def any_stop(stop: Stop, world: World) -> bool:
    """Return whether any process has been asked to stop; all ask at the same time."""
    signum = max(signum for (signum,) in world.all_gather(stop.signum))
    stop.signum = stop.signum or signum
    return signum != 0


def predict_shared(
    predict: Callable[[NDArray[np.intp]], tuple[NDArray[np.float32], dict[int, str]]],
    rows: NDArray[np.intp],
    world: World,
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Return the logits in the order of ``rows``, in the first process, and the bad files, in all.

    Each process calls ``predict`` with its part of the rows.

    Raises:
        BetweenStepsError: in all processes, if it is raised in one.
    """
    if not world.is_shared:
        return predict(rows)
    logits_NC, dropped, error = np.empty((0, 0), dtype=np.float32), {}, ""
    try:
        logits_NC, dropped = predict(np.array_split(rows, world.size)[world.rank])
    except BetweenStepsError as e:
        error = str(e)
    for their_dropped, their_error in world.all_gather_object((dropped, error)):
        if their_error:
            raise BetweenStepsError(their_error)
        dropped = dropped | their_dropped
    parts = [part for part in world.gather_object(logits_NC) if len(part)]
    return (np.concatenate(parts) if parts else logits_NC), dropped
