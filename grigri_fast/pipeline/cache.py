"""The cache of decoded images: where it goes, how large it gets, and the pixels in it."""

import ctypes
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runtime import compute
from . import affine, disk_cache
from .check import ImageCheck

CacheName = Literal["off", "ram", "device", "disk"]
_Place = tuple[list[int], NDArray[np.int64], slice]  # rows, their numbers of pixels, where they go

# How much of the free memory a cache takes at most: where it is chosen automatically, and where it
# was asked for. (Assumed.)
_AUTO_SHARE = {"ram": 0.5, "device": 0.25}
_ASKED_SHARE = 0.8
# The disk is chosen where images are shrunk by this in area or more, so that they take less of it
# than their files do, and are costly to decode. (Assumed: files have 3 bits per pixel, decoded
# images 24.)
_MIN_SHRINKING = 10


@dataclass(frozen=True)
class CachePlan:
    """Where decoded images are kept, how many bytes of them there are, and how many of those fit.

    ``capacity_bytes`` may be less than ``needed_bytes``: the images that do not fit are decoded in
    every epoch.
    """

    place: CacheName
    needed_bytes: int
    capacity_bytes: int

    def in_words(self) -> str:
        """Return the plan as a line for the user."""
        if self.place == "off":
            return "cache: off, images are decoded in every epoch"
        needed, capacity = (f"{n / 2**20:,.0f}" for n in (self.needed_bytes, self.capacity_bytes))
        share = "" if self.capacity_bytes == self.needed_bytes else f" of {needed}"
        where = {"device": "in the GPU's memory", "ram": "in memory", "disk": "on the disk"}
        return f"cache: {capacity}{share} MiB of decoded images {where[self.place]}"


def plan_cache(
    name: CacheName | Literal["auto"],
    checked: ImageCheck,
    size_px: int,
    device: torch.device,
    max_bytes: int | None = None,
    num_processes: int = 1,
) -> CachePlan:
    """Return where to keep decoded images.

    Args:
        name: ``off``, ``ram``, ``device``, ``disk`` or ``auto``: on a GPU its memory, if the images
            take at most a quarter of what is free there; else host memory, for as many as half of
            what is free there can hold. On a CPU the disk, if they do not fit in memory, are much
            smaller than the originals, and fit on the disk.
        checked: what :func:`check.check_images` returned.
        size_px: side of the loader's output.
        device: what is trained on.
        max_bytes: how much may be taken of the memory that ``--memory-limit`` is about: a GPU's,
            or on a CPU that of the process.
        num_processes: how many share the host's memory.

    Raises:
        GrigriError: for ``device`` on a CPU.
    """
    on_gpu = device.type == "cuda"
    if name == "device" and not on_gpu:
        raise GrigriError("--cache device means a GPU's memory; on a CPU use --cache ram")
    good = checked.crc32_N >= 0
    needed = int(affine.working_sizes(checked.sizes_HW[good], size_px).prod(1).sum()) * 3
    if name == "off":
        return CachePlan("off", needed, 0)
    share = _ASKED_SHARE
    if name == "auto":
        name = "ram"
        if on_gpu:
            free_bytes = _AUTO_SHARE["device"] * compute.free_bytes(device)
            if needed <= min(free_bytes, needed if max_bytes is None else max_bytes):
                name = "device"
        share = _AUTO_SHARE[name]
        if not on_gpu and checked.sizes_HW[good].prod(1).sum() * 3 >= _MIN_SHRINKING * needed:
            most = _AUTO_SHARE["ram"] / num_processes * compute.free_bytes(device)
            fits = needed <= (most if max_bytes is None else min(most, max_bytes))
            if not fits and needed * num_processes <= disk_cache.room_bytes():
                name = "disk"
    if name == "disk":
        return CachePlan("disk", needed, min(needed, disk_cache.room_bytes() // num_processes))
    free_bytes = compute.free_bytes(device if name == "device" else torch.device("cpu"))
    if name == "ram":
        share /= num_processes
    capacity = min(needed, int(share * free_bytes))
    if max_bytes is not None and (name == "device" or not on_gpu):
        capacity = min(capacity, max(0, max_bytes))
    return CachePlan(name, needed, capacity)


class PixelCache:
    """Pixels of decoded images, uint8 RGB, one image after the other as they come.

    Threads may share it. An image that no longer fits is not kept.
    """

    def __init__(self, num_images: int, plan: CachePlan, device: torch.device) -> None:
        num_bytes = plan.capacity_bytes // 3 * 3
        if plan.place == "device":
            pixels = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        else:  # NumPy asks for huge pages, which are faster to fill
            pixels = torch.from_numpy(np.empty(num_bytes, dtype=np.uint8))
        self.pixels_P3 = pixels.view(-1, 3)
        self.is_cuda = pixels.is_cuda
        self._first_N = np.full(num_images, -1, dtype=np.int64)  # where an image begins, or -1
        self._lock = threading.Lock()
        self._num_used = 0

    def get(
        self, rows: NDArray[np.intp], num_pixels_N: NDArray[np.int64]
    ) -> dict[int, torch.Tensor]:
        """Return by row the pixels (P, 3) of those images that are here."""
        firsts, sizes = self._first_N[rows].tolist(), num_pixels_N.tolist()
        return {
            row: self.pixels_P3[first : first + size]
            for row, first, size in zip(rows.tolist(), firsts, sizes, strict=True)
            if first >= 0
        }

    def reserve(self, num_pixels: int) -> slice | None:
        """Return where so many pixels may be put, None if there is no room left."""
        with self._lock:
            if self._num_used + num_pixels > len(self.pixels_P3):
                return None
            self._num_used += num_pixels
            return slice(self._num_used - num_pixels, self._num_used)

    def room(self, place: slice) -> torch.Tensor:
        """Return the memory (P, 3) of a reserved place."""
        return self.pixels_P3[place]

    def enter(
        self,
        rows: list[int],
        num_pixels_N: NDArray[np.int64],
        place: slice,
        pixels_P3: torch.Tensor,
    ) -> None:
        """Make images available that have a reserved place; copy them there if they are not."""
        if pixels_P3.data_ptr() != self.pixels_P3[place].data_ptr():
            self.pixels_P3[place] = pixels_P3
        self._first_N[rows] = place.start + np.cumsum(num_pixels_N) - num_pixels_N

    def refresh(self) -> None:
        """Nobody else adds images (:meth:`DiskCache.refresh`)."""

    def save(self) -> None:
        """No later run uses them (:meth:`DiskCache.save`)."""

    def close(self) -> None:
        """The memory is freed with the last tensor of it."""


class Keeper:
    """Copies images that DALI has decoded into the cache, in the order of the current stream.

    Nothing waits for a GPU: what a cache in host memory gets goes there by way of pinned memory,
    and is entered when it has arrived.

    Args:
        cache: what keeps them.
        device: where they are decoded.
    """

    def __init__(self, cache: "PixelCache | disk_cache.DiskCache", device: torch.device) -> None:
        self._cache, self._device = cache, device
        self._on_gpu = device.type == "cuda"
        self._written: torch.cuda.Event | None = None
        self._coming: deque[tuple[torch.cuda.Event, torch.Tensor, _Place]] = deque()

    def keep(self, images: Any, rows: list[int], num_pixels_N: NDArray[np.int64]) -> None:
        """Keep a group of images, if it fits and none of them is there.

        Args:
            images: DALI's list of them (HWC), dense, ready on the current stream.
            rows: of which images.
            num_pixels_N: how many pixels each has.
        """
        self._enter_arrived()
        if self._cache.get(np.array(rows), num_pixels_N):
            return
        place = self._cache.reserve(int(num_pixels_N.sum()))
        if place is None:
            return
        entry = rows, num_pixels_N, place
        if not self._on_gpu:
            pixels_P3 = self._cache.room(place)
            images.copy_to_external(ctypes.c_void_p(pixels_P3.data_ptr()))
            self._cache.enter(*entry, pixels_P3)
            return
        stream = torch.cuda.current_stream(self._device)
        if self._cache.is_cuda:
            here_P3 = self._cache.room(place)
        else:
            shape = (place.stop - place.start, 3)
            here_P3 = torch.empty(shape, dtype=torch.uint8, device=self._device)
        to, on = (ctypes.c_void_p(p) for p in (here_P3.data_ptr(), stream.cuda_stream))
        images.copy_to_external(to, on, non_blocking=True)
        if self._cache.is_cuda:
            self._written = stream.record_event()
            self._cache.enter(*entry, here_P3)
        else:
            pinned_P3 = torch.empty(here_P3.shape, dtype=torch.uint8, pin_memory=True)
            pinned_P3.copy_(here_P3, non_blocking=True)
            self._coming.append((stream.record_event(), pinned_P3, entry))

    def wait_until_written(self) -> None:
        """Let what follows on the current stream see all that is in the cache."""
        if self._written is not None:  # perhaps on another stream
            torch.cuda.current_stream(self._device).wait_event(self._written)

    def finish(self) -> None:
        """Wait until all that is being kept has arrived."""
        for event, _, _ in self._coming:
            event.synchronize()
        self._enter_arrived()

    def _enter_arrived(self) -> None:
        while self._coming and self._coming[0][0].query():
            _, pinned_P3, entry = self._coming.popleft()
            self._cache.enter(*entry, pinned_P3)
