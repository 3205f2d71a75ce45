"""Batches made by DALI from the encoded bytes to the finished images, on a GPU.

DALI decodes, shrinks large originals, and warps each image once through its affine matrix: one
graph (``decode.batch_graph``), of which up to three iterations are under way at a time. An
iteration is a group of files; a batch is made of one group or of several. Images that are in the
cache go through the warp alone (``decode.look_graph``).

Threads only read files. One thread feeds the graphs, starts iterations and collects what they
return: the one that asks for batches, since DALI's queue of iterations has no lock. It waits for no
GPU: an iteration's output is bound to the stream that is current where the batch is asked for.

DALI's operators for a CPU run through the same code, which is how it is tested without a GPU.
"""

import contextlib
import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..runtime.threads import file_pool
from . import affine, decode, reading
from .batching import Batch
from .cache import Keeper, PixelCache
from .check import POLL_S, wait_for
from .decode import WARPED_FILES, Pipeline
from .disk_cache import DiskCache
from .reading import PROBE, PROBE_HW, CheckedFiles, Encoded

# Assumed: two groups of three photographs of 12 Mpx, one that is decoded and one that is warped, or
# three groups of smaller ones. What that takes: device_cost.py.
GROUP_PIXELS = 40 * 2**20  # of the originals of an iteration, at most, if it is not a single one
PIXELS_UNDER_WAY = 2 * GROUP_PIXELS
ITERATIONS_UNDER_WAY = 3
_GROUPS_READ = 4  # groups whose files are read, or wait to be decoded

Looks = tuple[list[int], torch.Tensor]  # rows, and their finished images (N, S, S, 3)


@dataclass
class _Group:
    """A part of a batch that goes through a graph at once.

    Attributes:
        rows: its rows.
        num_pixels: of the originals, or of the images that were kept.
        kept: whether it comes from the cache.
        reading: the files, where they are being read or have been.
        contents: those of the files that are good; only their rows are in what is made.
        dropped: why others are bad.
        looks: what has been made, None while it is not.
    """

    rows: list[int]
    num_pixels: int
    kept: bool
    reading: Future[tuple[Encoded, dict[int, str]]] | None = None
    contents: Encoded = field(default_factory=dict)
    dropped: dict[int, str] = field(default_factory=dict)
    looks: list[Looks] | None = None


@dataclass
class _Epoch:
    """What is under way of an epoch.

    Attributes:
        todo: position and rows of the batches that are not planned yet.
        matrices: of all rows of the data set.
        size_px: side of the output.
        planned: position, rows and groups of the batches to come, in order.
        waiting: groups that no graph has been given yet, in order.
        running: groups in a graph, in order.
    """

    todo: Iterator[tuple[int, NDArray[np.intp]]]
    matrices: NDArray[np.float32]
    size_px: int
    planned: deque[tuple[int, NDArray[np.intp], list[_Group]]] = field(default_factory=deque)
    waiting: deque[_Group] = field(default_factory=deque)
    running: deque[_Group] = field(default_factory=deque)


class DaliBatches:
    """Makes batches on a device, by DALI alone.

    Args:
        files: the images.
        batch_size: images in a batch.
        device: a GPU, or in tests the CPU.
        threads: CPU threads for reading, and as many for decoding.
        cache: where decoded images are kept.
        give_up, on_slow: see :class:`ImageLoader`.
    """

    def __init__(
        self,
        files: CheckedFiles,
        *,
        batch_size: int,
        device: torch.device,
        threads: int,
        cache: PixelCache | DiskCache | None,
        give_up: Callable[[], bool],
        on_slow: Callable[[str], None],
    ) -> None:
        self._files, self._cache, self._device = files, cache, device
        self._give_up, self._on_slow = give_up, on_slow
        self.num_at_once = 2 * batch_size
        self._pool = file_pool(threads, "grigri-image")
        self._on: decode.Device = "cpu"
        device_id = None
        if device.type == "cuda":
            self._on = "gpu"
            device_id = torch.cuda.current_device() if device.index is None else device.index
        self._keeper = None if cache is None else Keeper(cache, device)
        setting = {
            "batch_size": WARPED_FILES,  # of decoded files GROUP_FILES at most
            "num_threads": threads,
            "device_id": device_id,
            "prefetch_queue_depth": 1,  # iterations are scheduled ahead here
        }
        self._graph: Pipeline | None = decode.batch_graph(
            device=self._on, shrink=files.shrink, keep=cache is not None, **setting
        )
        self._graph_of(kept=False).build()
        self._kept_on: decode.Device = "cpu"
        self._looker: Pipeline | None = None
        if cache is not None:
            self._kept_on = "gpu" if cache.is_cuda else "cpu"
            self._looker = decode.look_graph(device=self._on, kept_on=self._kept_on, **setting)
            self._graph_of(kept=True).build()

    def close(self) -> None:
        """Free the graphs, the threads and the cache."""
        self._pool.shutdown(wait=False, cancel_futures=True)  # a thread may hang
        if self._cache is not None:
            self._cache.close()
        self._graph = self._looker = self._cache = self._keeper = None
        if self._on == "gpu":
            decode.release_unused_memory()

    def make_ahead(
        self,
        numbered: Iterable[tuple[int, NDArray[np.intp]]],
        matrices: NDArray[np.float32],
        size_px: int,
    ) -> Generator[tuple[Batch, bool]]:
        """Yield the batches in order, and whether it is the last, while DALI makes the next ones.

        Args:
            numbered: position and rows of each batch.
            matrices: of all rows of the data set.
            size_px: side of the output.
        """
        epoch = _Epoch(iter(numbered), matrices, size_px)
        if self._cache is not None:
            self._cache.refresh()
        try:
            self._top_up(epoch)
            while epoch.planned and not self._give_up():
                position, rows, groups = epoch.planned[0]
                if not all(self._is_made(group, epoch) for group in groups):
                    return
                epoch.planned.popleft()
                self._top_up(epoch)
                yield self._batch(position, rows, groups, size_px), not epoch.planned
                self._top_up(epoch)
        finally:
            self._leave(epoch)

    def _top_up(self, epoch: _Epoch) -> None:
        """Plan batches, let files be read, and start iterations, as far as there is room."""
        while len(epoch.waiting) < _GROUPS_READ or not epoch.planned:
            batch = next(epoch.todo, None)
            if batch is None:
                break
            groups = list(self._groups_of(batch[1]))
            epoch.planned.append((*batch, groups))
            epoch.waiting.extend(groups)
        self._read_ahead(epoch)
        while epoch.waiting and self._is_read(epoch.waiting[0]) and self._has_room(epoch):
            self._start(epoch.waiting.popleft(), epoch)
            self._read_ahead(epoch)

    def _read_ahead(self, epoch: _Epoch) -> None:
        """Let the files of the next groups be read."""
        for group in itertools.islice(epoch.waiting, _GROUPS_READ):
            if group.reading is None and not group.kept:
                group.reading = self._pool.submit(self._files.read, group.rows)

    def _is_read(self, group: _Group) -> bool:
        """Return whether a group waits for no files."""
        return group.kept or (group.reading is not None and group.reading.done())

    def _groups_of(self, rows: NDArray[np.intp]) -> Iterator[_Group]:
        """Yield the groups of a batch: first what is in the cache, then files."""
        sizes = self._files.sizes_HW[rows].prod(1)
        kept = {} if self._cache is None else self._cache.get(rows, sizes)
        num_pixels = dict(zip(rows.tolist(), sizes.tolist(), strict=True))
        sizes_kept = [num_pixels[row] for row in kept]
        for some in decode.groups_of(list(kept), sizes_kept, GROUP_PIXELS, WARPED_FILES):
            yield _Group(some, sum(num_pixels[row] for row in some), kept=True)
        others = [row for row in dict.fromkeys(rows.tolist()) if row not in kept]
        sizes = self._files.num_pixels(others)
        num_pixels = dict(zip(others, sizes, strict=True))
        for some in decode.groups_of(others, sizes, GROUP_PIXELS):
            yield _Group(some, sum(num_pixels[row] for row in some), kept=False)

    def _has_room(self, epoch: _Epoch) -> bool:
        """Return whether the next group's iteration may be started."""
        under_way = sum(group.num_pixels for group in epoch.running)
        return not epoch.running or (
            len(epoch.running) < ITERATIONS_UNDER_WAY
            and under_way + epoch.waiting[0].num_pixels <= PIXELS_UNDER_WAY
        )

    def _is_made(self, group: _Group, epoch: _Epoch) -> bool:
        """Wait until a group is made; return False if the epoch is given up before."""
        while group.looks is None:
            self._top_up(epoch)
            if epoch.running:
                self._collect(epoch)
            elif epoch.waiting and not self._are_read(epoch.waiting[0]):
                return False
        return True

    def _are_read(self, group: _Group) -> bool:
        """Wait for a group's files; return False if the epoch is given up before."""
        assert group.reading is not None
        read = wait_for(
            functools.partial(group.reading.result, POLL_S),
            lambda: self._files.being_read,
            on_slow=self._on_slow,
            give_up=self._give_up,
        )
        return read is not None

    # -------------------------------------------------------------------------- the iterations

    def _start(self, group: _Group, epoch: _Epoch) -> None:
        """Start a group's iteration, unless none of its files is good."""
        if group.reading is not None:
            group.contents, group.dropped = group.reading.result()
            group.rows, group.reading = list(group.contents), None
        if not group.rows:
            group.looks = []
            return
        matrices = epoch.matrices[group.rows]
        if group.kept:
            self._feed_kept(group.rows, matrices, epoch.size_px)
        else:
            encoded = [group.contents[row] for row in group.rows]
            self._feed(encoded, self._files.sizes_HW[group.rows], matrices, epoch.size_px)
        epoch.running.append(group)

    def _feed(
        self,
        encoded: list[NDArray[np.uint8]],
        sizes_HW: NDArray[np.int64],
        matrices: NDArray[np.float32],
        size_px: int,
    ) -> None:
        """Start an iteration that decodes files, shrinks them to their sizes and warps them."""
        graph = self._graph_of(kept=False)
        graph.feed_input("encoded", encoded)
        if self._files.shrink:
            graph.feed_input("shrunk_HW", sizes_HW.astype(np.float32))
        decode.feed_maps(graph, matrices, size_px)
        graph.schedule_run()

    def _feed_kept(self, rows: list[int], matrices: NDArray[np.float32], size_px: int) -> None:
        """Start an iteration that warps images of the cache."""
        assert self._cache is not None and self._keeper is not None
        graph = self._graph_of(kept=True)
        sizes_HW = self._files.sizes_HW[rows]
        pixels = self._cache.get(np.array(rows), sizes_HW.prod(1))
        images = [
            pixels[row].view(*size, 3) for row, size in zip(rows, sizes_HW.tolist(), strict=True)
        ]
        self._keeper.wait_until_written()
        # On a GPU one kernel copies all of them.
        graph.feed_input(
            "images",
            decode.images_on(self._kept_on, images),
            cuda_stream=self._stream() if self._kept_on == "gpu" else None,
            use_copy_kernel=self._kept_on == "gpu",
        )
        decode.feed_maps(graph, matrices, size_px)
        graph.schedule_run()

    def _collect(self, epoch: _Epoch) -> None:
        """Take what the oldest iteration has made; if it has failed, do its group again."""
        failed: list[tuple[_Group, RuntimeError]] = []
        while epoch.running:
            group = epoch.running.popleft()
            try:
                group.looks = [self._outputs(group.rows, group.kept)]
                group.contents = {}
            except RuntimeError as e:
                failed.append((group, e))
            if not failed:
                return
        # All others have been collected, too: to do a group again, the graph must be idle.
        for group, error in failed:
            if group.kept:
                raise error

            def make(rows: list[int], contents: Encoded) -> Looks:
                encoded = [contents[row] for row in rows]
                sizes_HW = self._files.sizes_HW[rows]
                self._feed(encoded, sizes_HW, epoch.matrices[rows], epoch.size_px)
                return self._outputs(rows)

            rescue = self._files.rescue
            group.looks, bad = rescue(
                group.rows, group.contents, error, make, self._decodes, self._device.type
            )
            group.dropped |= bad
            group.contents = {}

    def _outputs(self, rows: list[int], kept: bool = False) -> Looks:
        """Return the images of the oldest iteration of a graph, and keep the decoded ones.

        Raises:
            RuntimeError: if it has failed.
        """
        with self._as_current_device():
            outputs = self._graph_of(kept).outputs(cuda_stream=self._stream())
            looks, more = decode.warped_of(outputs)
            if more:
                self._files.require_checked_sizes(rows, np.asarray(more[0].as_tensor())[:, :2])
            if len(more) == 2 and self._keeper is not None:
                self._keeper.keep(more[1], rows, self._files.sizes_HW[rows].prod(1))
            return rows, torch.from_dlpack(looks)

    def _graph_of(self, kept: bool) -> Pipeline:
        """Return the graph for images of the cache, or for files."""
        graph = self._looker if kept else self._graph
        assert graph is not None
        return graph

    def _decodes(self) -> bool:
        """Return whether an image that is surely good can be decoded, by a graph that is idle."""
        self._feed([PROBE], PROBE_HW, affine.whole_image_matrices(PROBE_HW, 8), 8)
        try:
            self._graph_of(kept=False).outputs()
        except RuntimeError:
            return False
        return True

    def _leave(self, epoch: _Epoch) -> None:
        """End an epoch, also one that is left early: nothing stays in the graphs."""
        for group in epoch.running:
            with contextlib.suppress(RuntimeError):
                self._graph_of(group.kept).outputs()
        unread = [group.reading for group in epoch.waiting if group.reading is not None]
        for future in unread:
            future.cancel()
        wait(unread, reading.LEAVE_S)  # one that hangs is left behind
        if self._keeper is not None:
            self._keeper.finish()
        if self._cache is not None:
            self._cache.save()

    # ------------------------------------------------------------------------------- the batch

    def _batch(
        self, position: int, rows: NDArray[np.intp], groups: list[_Group], size_px: int
    ) -> Batch:
        """Return the batch of what has been made, in the order of its rows."""
        looks = [look for group in groups for look in group.looks or []]
        dropped: dict[int, str] = {}
        for group in groups:
            dropped |= group.dropped
        made = [row for some, _ in looks for row in some]
        good = rows[np.isin(rows, made)]
        with self._as_current_device():
            if not looks:
                shape = (0, size_px, size_px, 3)
                images_NHWC = torch.empty(shape, dtype=torch.uint8, device=self._device)
            elif made == good.tolist():
                parts = [images for _, images in looks]
                images_NHWC = torch.cat(parts) if len(parts) > 1 else parts[0]
            else:  # some are from the cache, others not
                image_of: dict[int, torch.Tensor] = {}
                for some, images in looks:
                    image_of |= zip(some, images, strict=True)
                images_NHWC = torch.stack([image_of[row] for row in good.tolist()])
            rows_N = torch.from_numpy(good)
            if self._on == "gpu":  # from pinned memory, so that nothing waits
                rows_N = rows_N.pin_memory().to(self._device, non_blocking=True)
        return Batch(images_NHWC, rows_N, position, dropped)

    def _stream(self) -> Any:
        """Return the stream that the batch is asked for on; None on a CPU."""
        return torch.cuda.current_stream(self._device) if self._on == "gpu" else None

    def _as_current_device(self) -> contextlib.AbstractContextManager:
        return torch.cuda.device(self._device) if self._on == "gpu" else contextlib.nullcontext()
