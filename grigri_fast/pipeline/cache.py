"""The cache of decoded images: where it goes, how large it gets, and the pixels in it."""

import threading
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runtime import compute
from . import affine
from .check import ImageCheck

CacheName = Literal["off", "ram", "device"]

# How much of the free memory a cache takes at most: where it is chosen automatically, and where it
# was asked for. (Assumed.)
_AUTO_SHARE = {"ram": 0.5, "device": 0.25}
_ASKED_SHARE = 0.8


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
        where = "the GPU's memory" if self.place == "device" else "memory"
        return f"cache: {capacity}{share} MiB of decoded images in {where}"


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
        name: ``off``, ``ram``, ``device`` or ``auto``: on a GPU its memory, if the images take at
            most a quarter of what is free there; else host memory, for as many as half of what is
            free there can hold.
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

    def enter(self, rows: list[int], num_pixels_N: NDArray[np.int64], place: slice) -> None:
        """Make images available whose pixels have been written to a reserved place."""
        self._first_N[rows] = place.start + np.cumsum(num_pixels_N) - num_pixels_N
