"""The cache of decoded images: where it goes, how large it gets, and the pixels in it."""

import threading
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ..errors import GrigriError
from ..runtime import compute
from . import affine
from .check import ImageCheck

CacheName = Literal["off", "ram", "device"]

# The automatic cache takes at most these shares of the memory that is free, one that was asked for
# this much of it. (Assumed.)
_SHARE_OF_RAM = 0.5
_SHARE_OF_DEVICE = 0.25
_MOST_OF_IT = 0.8


@dataclass(frozen=True)
class CachePlan:
    """Where decoded images are kept, how many bytes of them there are, and how many of those fit.

    ``capacity`` may be less than ``needed``: the images beyond are decoded in every epoch.
    """

    place: CacheName
    needed: int
    capacity: int

    def in_words(self) -> str:
        """Return what to tell the user."""
        if self.place == "off":
            return "cache: off, images are decoded in every epoch"
        share = "" if self.capacity == self.needed else f" of {self.needed / 2**20:,.0f}"
        where = "the GPU's memory" if self.place == "device" else "memory"
        return f"cache: {self.capacity / 2**20:,.0f}{share} MiB of decoded images in {where}"


def plan_cache(
    name: str,
    found: ImageCheck,
    size_px: int,
    device: torch.device,
    most: int | None = None,
    num_processes: int = 1,
) -> CachePlan:
    """Return where to keep decoded images: what ``auto`` means here, or what was asked.

    ``auto``: on a GPU if they take at most a quarter of its free memory, else in host memory, as
    many as half of what is free there can hold. ``most`` bytes may be taken of the memory that
    ``--memory-limit`` is about: a GPU's, or on a CPU that of the process. ``num_processes`` share
    the host's memory.

    Raises:
        GrigriError: for ``device`` on a CPU.
    """
    on_gpu = device.type == "cuda"
    if name == "device" and not on_gpu:
        raise GrigriError("--cache device means a GPU's memory; on a CPU use --cache ram")
    good = found.crc32_N >= 0
    needed = int(affine.working_sizes(found.sizes_HW[good], size_px).prod(1).sum()) * 3
    if name == "off":
        return CachePlan("off", needed, 0)
    if name == "auto":
        name = "ram"
        if on_gpu and needed <= min(
            _SHARE_OF_DEVICE * compute.free_bytes(device), needed if most is None else most
        ):
            name = "device"
        share = _SHARE_OF_RAM if name == "ram" else _SHARE_OF_DEVICE
    else:
        share = _MOST_OF_IT
    free_bytes = compute.free_bytes(device if name == "device" else torch.device("cpu"))
    if name == "ram":
        share /= num_processes
    capacity = min(needed, int(share * free_bytes))
    if most is not None and (name == "device" or not on_gpu):
        capacity = min(capacity, max(0, most))
    return CachePlan(name, needed, capacity)


class PixelCache:
    """Pixels of decoded images, one image behind the other in the order in which they come."""

    def __init__(self, num_images: int, plan: CachePlan, device: torch.device) -> None:
        place = device if plan.place == "device" else torch.device("cpu")
        if place.type == "cpu":  # NumPy asks for huge pages, which are faster to fill
            self.pixels = torch.from_numpy(np.empty(plan.capacity, dtype=np.uint8))
        else:
            self.pixels = torch.empty(plan.capacity, dtype=torch.uint8, device=place)
        self.pixels = self.pixels[: plan.capacity // 3 * 3].view(-1, 3)
        self.first_N = np.full(num_images, -1, dtype=np.int64)  # where an image begins, -1: nowhere
        self._lock = threading.Lock()
        self._num_used = 0

    def reserve(self, num_pixels: int) -> int | None:
        """Return where so many pixels may be put, None if there is no room left."""
        with self._lock:
            if self._num_used + num_pixels > len(self.pixels):
                return None
            self._num_used += num_pixels
            return self._num_used - num_pixels
