"""Decoded images kept on disk between runs: the cache of ``--cache disk``.

    ~/.cache/grigri-fast/pixels/<what made the pixels, and for which size>/
        <name>.pixels   uint8 RGB, one image after the other
        <name>.index    of each image: which file's content, where, its size, a checksum

Each run that adds images makes one such pair and writes into no other, so several may run at once.
A pair is mapped into memory, which reads at the rate of memory what the system has kept there. An
image of an earlier run is compared with its checksum when it is first used. Whatever is wrong with
a file means that images are decoded again; nothing here raises.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import shutil
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import GrigriError
from ..runtime import files

_FOLDER = "pixels"
_DIGEST_BYTES = 16
_ENTRY = np.dtype(
    [
        ("identity", "<i8"),  # of the encoded file (image_file.identities)
        ("height_px", "<i4"),
        ("width_px", "<i4"),
        ("first", "<i8"),  # pixel at which the image begins
        ("crc32", "<u4"),  # of its pixels
    ]
)
_SHARE_OF_DISK = 0.5  # of what is free and what the cache has, for the cache at most (assumed)


def folder() -> Path:
    """Return the folder of all that is kept; it need not exist."""
    return files.cache_folder() / _FOLDER


def room_bytes() -> int:
    """Return how many bytes the cache may take on the disk, with those that it has."""
    place = folder()
    while not place.is_dir():
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return 0
    return int(_SHARE_OF_DISK * (free + _taken_bytes()))


class DiskCache:
    """Pixels of decoded images on disk, to be used as :class:`cache.PixelCache` is.

    Args:
        made_by: what the pixels depend on beside file and size, as the name of a folder.
        identity_N: which content each image's file has, -1 where it is not known.
        sizes_HW: sizes of the decoded images (N, 2).
        capacity_bytes: how much may be on the disk of these images.
        on_note: called with a line if nothing can be added (any more).
    """

    is_cuda = False

    def __init__(
        self,
        made_by: str,
        identity_N: NDArray[np.int64],
        sizes_HW: NDArray[np.int64],
        capacity_bytes: int,
        on_note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._folder, self._on_note = folder() / made_by, on_note
        self._identity_N, self._sizes_HW = identity_N, sizes_HW
        n = len(identity_N)
        self._file_N = np.full(n, -1, dtype=np.int32)  # which of the files an image is in, or -1
        self._first_N = np.zeros(n, dtype=np.int64)
        self._crc32_N = np.zeros(n, dtype=np.uint32)
        self._is_verified_N = np.zeros(n, dtype=bool)
        self._files: list[_Pixels] = []
        self._names: set[str] = set()
        self._lock = threading.Lock()
        self._own: _Pixels | None = None
        self._own_number = -1
        self._num_used = self._capacity = 0  # pixels
        self._num_saved = 0  # images
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.refresh()
            missing = capacity_bytes - int(3 * sizes_HW[self._file_N >= 0].prod(1).sum())
            # Room for all, since what is there may be damaged.
            capacity_bytes = min(capacity_bytes, _make_room(missing)) // 3 * 3
            if capacity_bytes > 0:
                self._own = _Pixels.new(self._folder, capacity_bytes)
                self._capacity = capacity_bytes // 3
                self._names.add(self._own.path.name)
                self._own_number = len(self._files)
                self._files.append(self._own)
        except OSError as e:
            self._stop(e)

    def refresh(self) -> None:
        """Find what other runs, or other processes of this one, have added."""
        for index in sorted(self._folder.glob("*.index"), reverse=True):  # newest first
            name = index.with_suffix(".pixels").name
            if name not in self._names:
                self._names.add(name)
                opened = _Pixels.opened(index)
                if opened is not None:
                    self._enter_file(*opened)
        for left in self._folder.glob("*.pixels"):
            if left.name not in self._names:
                _remove_unless_used(left)  # of a run that was killed

    def get(
        self, rows: NDArray[np.intp], num_pixels_N: NDArray[np.int64]
    ) -> dict[int, torch.Tensor]:
        """Return by row the pixels (P, 3) of those images that are here."""
        pixels = {}
        for row, size in zip(rows.tolist(), num_pixels_N.tolist(), strict=True):
            number, first = int(self._file_N[row]), int(self._first_N[row])
            if number < 0:
                continue
            file = self._files[number]
            if not self._is_verified_N[row]:
                if file.checksum(first, size) != self._crc32_N[row]:
                    self._file_N[row] = -1  # damaged: it is decoded again
                    continue
                self._is_verified_N[row] = True
            pixels[row] = file.pixels_P3[first : first + size]
        return pixels

    def reserve(self, num_pixels: int) -> slice | None:
        """Return where so many pixels may be put, None if there is no room left."""
        with self._lock:
            if self._num_used + num_pixels > self._capacity:
                return None
            self._num_used += num_pixels
            return slice(self._num_used - num_pixels, self._num_used)

    def room(self, place: slice) -> torch.Tensor:
        """Return memory (P, 3) for the pixels of a place."""
        return torch.empty((place.stop - place.start, 3), dtype=torch.uint8)

    def enter(
        self,
        rows: list[int],
        num_pixels_N: NDArray[np.int64],
        place: slice,
        pixels_P3: torch.Tensor,
    ) -> None:
        """Write images to a reserved place, and make them available."""
        own = self._own
        try:
            if own is not None:
                own.write(pixels_P3.numpy(), place.start)
        except OSError as e:
            self._stop(e)
            return
        first = place.start
        sizes = num_pixels_N.tolist()
        for row, size, part in zip(rows, sizes, pixels_P3.split(sizes), strict=True):
            self._first_N[row], self._crc32_N[row] = first, zlib.crc32(part.numpy())
            self._is_verified_N[row] = True
            self._file_N[row] = self._own_number  # last: other threads look here first
            first += size

    def save(self) -> None:
        """Let later runs find what this one has added."""
        rows = np.flatnonzero((self._file_N == self._own_number) & (self._identity_N >= 0))
        if self._own is None or len(rows) == self._num_saved:
            return
        entries = np.empty(len(rows), dtype=_ENTRY)
        entries["identity"], entries["first"] = self._identity_N[rows], self._first_N[rows]
        entries["height_px"], entries["width_px"] = self._sizes_HW[rows].T
        entries["crc32"] = self._crc32_N[rows]
        content = entries.tobytes()
        try:
            files.write_atomic(self._own.index, _digest(content) + content)
            self._num_saved = len(rows)
        except GrigriError as e:
            self._stop(e)

    def close(self) -> None:
        """Save, and free all files."""
        self.save()
        self._on_note = lambda text: None
        if self._own is not None:
            self._own.cut(3 * self._num_used if self._num_saved else 0)
        for file in self._files:
            file.close()
        self._files, self._own = [], None
        self._file_N[:] = -1

    def _enter_file(self, file: "_Pixels", entries: NDArray) -> None:
        """Make the images of a file available, if they are wanted."""
        order = np.argsort(entries["identity"], kind="stable")
        identities = entries["identity"][order]
        place_N = np.searchsorted(identities, self._identity_N).clip(max=len(order) - 1)
        found_N = order[place_N]
        same_size = entries["height_px"][found_N] == self._sizes_HW[:, 0]
        same_size &= entries["width_px"][found_N] == self._sizes_HW[:, 1]
        is_here_N = (entries["identity"][found_N] == self._identity_N) & same_size
        is_here_N &= self._identity_N >= 0
        is_here_N &= self._file_N < 0
        if not is_here_N.any():
            file.close()
            return
        with contextlib.suppress(OSError):
            os.utime(file.index)  # it was used
        self._first_N[is_here_N] = entries["first"][found_N[is_here_N]]
        self._crc32_N[is_here_N] = entries["crc32"][found_N[is_here_N]]
        self._files.append(file)
        self._file_N[is_here_N] = len(self._files) - 1

    def _stop(self, error: Exception) -> None:
        """Add nothing more, and say why, once."""
        with self._lock:
            was_open, self._capacity = self._capacity > 0 or self._own is None, 0
        if was_open:
            reason = error.strerror if isinstance(error, OSError) else None
            self._on_note(
                f"{self._folder}: {reason or error}: other images are decoded in every epoch"
            )


class _Pixels:
    """A file of pixels, mapped into memory; while it is open no other process removes it."""

    def __init__(self, path: Path, descriptor: int, num_pixels: int, writable: bool) -> None:
        self.path, self._descriptor = path, descriptor
        self.index = path.with_suffix(".index")
        # PyTorch would warn of memory that cannot be written; nothing is written through it.
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_COPY
        mapped = mmap.mmap(descriptor, 3 * num_pixels, access=access)
        self.pixels_P3 = torch.frombuffer(mapped, dtype=torch.uint8).view(-1, 3)

    @classmethod
    def new(cls, folder: Path, num_bytes: int) -> "_Pixels":
        """Return a new file, of that size, without blocks on the disk."""
        while True:
            descriptor, name = tempfile.mkstemp(".pixels", f"{time.time_ns()}-", folder)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if os.fstat(descriptor).st_nlink:  # else it was taken for a killed run's
                    os.truncate(descriptor, num_bytes)
                    return cls(Path(name), descriptor, num_bytes // 3, writable=True)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    @classmethod
    def opened(cls, index: Path) -> tuple["_Pixels", NDArray] | None:
        """Return the file of an index and what is in it, None if they are damaged or gone."""
        path = index.with_suffix(".pixels")
        try:
            content = files.read_bytes(index)
            digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (GrigriError, OSError):
            content, digest, descriptor = b"", b"", -1
        if descriptor >= 0:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                entries = np.frombuffer(content, dtype=_ENTRY) if content else np.empty(0, _ENTRY)
                areas = entries["height_px"].astype(np.int64) * entries["width_px"]
                ends = entries["first"] + areas
                status = os.fstat(descriptor)
                is_whole = _digest(content) == digest and len(entries) and status.st_nlink
                if is_whole and 3 * int(ends.max()) <= status.st_size:
                    return cls(path, descriptor, status.st_size // 3, writable=False), entries
            except (OSError, ValueError):
                pass
            os.close(descriptor)
        _remove_unless_used(path)
        return None

    def write(self, pixels_P3: NDArray[np.uint8], first: int) -> None:
        """Write pixels; not by the mapping, through which a full disk would end the process."""
        files.write_at(self._descriptor, pixels_P3.reshape(-1).data, 3 * first)

    def checksum(self, first: int, num_pixels: int) -> int:
        """Return the checksum of an image, -1 if it cannot be read; not by the mapping either."""
        try:
            content = os.pread(self._descriptor, 3 * num_pixels, 3 * first)
        except OSError:
            return -1
        return zlib.crc32(content) if len(content) == 3 * num_pixels else -1

    def cut(self, num_bytes: int) -> None:
        """Shorten the file to what was written; remove it if that is nothing."""
        with contextlib.suppress(OSError):
            if num_bytes:
                os.truncate(self._descriptor, num_bytes)
            else:
                self.path.unlink()

    def close(self) -> None:
        """Close the file; what it is mapped to stays until the last tensor of it is gone."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _taken_bytes() -> int:
    """Return how many bytes of the disk the cache takes."""
    total = 0
    for path in folder().glob("*/*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_blocks * 512
    return total


def _make_room(wanted_bytes: int) -> int:
    """Remove what was not used for longest until that many bytes fit; return how many do."""
    indices = iter(sorted(folder().glob("*/*.index"), key=_modified_ns))
    while (left := room_bytes() - _taken_bytes()) < wanted_bytes:
        oldest = next(indices, None)
        if oldest is None:
            break
        _remove_unless_used(oldest.with_suffix(".pixels"))
    return max(0, left)


def _remove_unless_used(path: Path) -> None:
    """Remove a file of pixels and its index, unless a process has it open."""
    index, descriptor = path.with_suffix(".index"), -1
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if descriptor >= 0:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        index.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        files.remove_unfinished(path.parent, [index.name])
    except OSError:  # it is in use, or not ours to remove
        pass
    finally:
        if descriptor >= 0:
            os.close(descriptor)
